"""What `make bench-gpu` reads: its descriptions, and its inputs in parts."""

import json
from pathlib import Path

import pytest

from benchmarks.experiments import inputs
from benchmarks.experiments.spec import read_experiment


TASKS = {"mawps", "gsm8k", "openbookqa", "arc_easy", "boolq", "piqa"}


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Files of all tasks, with something different in each."""
    for name in (*TASKS, "svamp"):
        group = "arithmetic" if name in ("mawps", "gsm8k", "svamp") else "commonsense"
        folder = tmp_path / "data" / group / name
        folder.mkdir(parents=True)
        for split in ("train", "test"):
            (folder / f"{split}.jsonl").write_text(f"{name} {split}\n" * 50)
    return tmp_path / "data"


@pytest.fixture
def packed(tmp_path: Path, data_dir: Path) -> Path:
    """An archive in two parts of a weight file that does not compress."""
    gguf = tmp_path / "tiny.gguf"
    gguf.write_bytes(bytes((number * number * 7 + number // 3) % 251 for number in range(100_000)))
    files = inputs.files_to_carry(data_dir, gguf, ["filelock"])
    inputs.pack(files, tmp_path / "whole")
    size = (tmp_path / "whole" / "part-1" / inputs.PART).stat().st_size
    folders = inputs.pack(files, tmp_path / "parts", most_bytes=size // 2 + 1)
    assert [folder.name for folder in folders] == ["part-1", "part-2"]
    return tmp_path / "parts"


def test_the_descriptions_read_whole_training_sets_three_times_with_three_seeds() -> None:
    specs = [read_experiment(path) for path in inputs.DESCRIPTIONS.glob("*.yaml")]
    for kind in ("finish", "paper"):
        assert {spec.task for spec in specs if spec.experiment == f"gpu_{kind}_{spec.task}"} == TASKS
    for spec in specs:
        assert spec.training["num_train_epochs"] == 3 and spec.seeds == [0, 1, 2]
        assert spec.limits.get("read", 0) == 20_000 or "train" not in spec.limits  # all that are left, or all
        wanted = {"everything", "everything_longer", "further_in_time", "finished_temperature"}
        assert set(spec.controls) == (wanted if "finish" in spec.experiment else {"longer", "blocks", "temperature"})


def test_inputs_come_back_as_they_were(
    tmp_path: Path, data_dir: Path, packed: Path, capsys: pytest.CaptureFixture
) -> None:
    assert inputs.main(["join", str(packed), "--output_dir", str(tmp_path / "there")]) == 0
    assert f"--gguf {tmp_path / 'there' / 'smollm2' / 'tiny.gguf'} " in capsys.readouterr().out
    names = inputs.join(packed, tmp_path / "there")
    assert (tmp_path / "there" / "smollm2" / "tiny.gguf").read_bytes() == (tmp_path / "tiny.gguf").read_bytes()
    for path in data_dir.rglob("*.jsonl"):
        assert (tmp_path / "there" / "data" / path.relative_to(data_dir)).read_text() == path.read_text()
    assert "packages/filelock/__init__.py" in names and not any("__pycache__" in name for name in names)
    assert any(name.startswith("packages/filelock-") and name.endswith("METADATA") for name in names)
    # The same files, the same sums: a part that was carried once need not be carried again.
    before = [(packed / part / inputs.SUMS).read_text() for part in ("part-1", "part-2")]
    assert before[0] == before[1]


def test_a_part_that_is_missing_or_was_changed_is_named(tmp_path: Path, packed: Path) -> None:
    second = packed / "part-2" / inputs.PART
    kept = second.read_bytes()
    second.write_bytes(kept[:-1])
    with pytest.raises(ValueError, match=r"part-2/inputs\.part is not what was packed"):
        inputs.join(packed, tmp_path / "there")
    second.unlink()
    with pytest.raises(ValueError, match=r"part-2/inputs\.part is missing: there are 2 parts"):
        inputs.join(packed, tmp_path / "there")
    second.write_bytes(kept)
    sums = json.loads((packed / "part-1" / inputs.SUMS).read_text())
    (packed / "part-1" / inputs.SUMS).write_text(json.dumps({"parts": sums["parts"][::-1]}))
    with pytest.raises(ValueError, match="part-2 and part-1 are of different archives"):
        inputs.join(packed, tmp_path / "there")
    with pytest.raises(ValueError, match="there is no part-1/inputs.json"):
        inputs.join(tmp_path / "none", tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_what_is_not_there_to_pack_is_named(tmp_path: Path, data_dir: Path, capsys: pytest.CaptureFixture) -> None:
    gguf = tmp_path / "tiny.gguf"
    gguf.write_bytes(b"weights")
    with pytest.raises(ValueError, match="no_such_package is not installed here"):
        inputs.files_to_carry(data_dir, gguf, ["no_such_package"])
    (data_dir / "commonsense" / "piqa" / "train.jsonl").unlink()
    arguments = ["pack", "--data_dir", str(data_dir), "--gguf", str(gguf), "--output_dir", str(tmp_path / "out")]
    assert inputs.main(arguments) == 1
    assert "piqa/train.jsonl: give `--data_dir`" in capsys.readouterr().err
