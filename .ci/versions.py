"""Versions to install, read off the ranges of setup.py and the README's own install lines, so that each is said once.

python .ci/versions.py oldest dev          # name==floor, a line each: of what the package needs, and of an extra
python .ci/versions.py newest dev report   # names alone, for pip to take the newest of each
python .ci/versions.py extra docs          # names of what an extra adds, without what the package needs
python .ci/versions.py install             # the lines that the README tells users to run
"""

import re
import sys
from pathlib import Path
from runpy import run_path


ROOT = Path(__file__).resolve().parents[1]
_RANGE = re.compile(r"(?P<name>[\w.-]+)>=(?P<floor>[\d.]+)(,<(?P<cap>[\d.]+))?")


def ranges(*extras: str) -> dict[str, re.Match[str]]:
    """The ranges of setup.py.

    Args:
        *extras: Extras whose dependencies are wanted, too.

    Returns:
        Name to match, with the groups `name`, `floor` and `cap`.

    Raises:
        ValueError: A dependency has no floor, or there is no such extra.
    """
    packaging = run_path(str(ROOT / "setup.py"))
    unknown = sorted(set(extras) - set(packaging["EXTRAS"]))
    if unknown:
        raise ValueError(f"setup.py has no extra {', '.join(unknown)}; it has {', '.join(packaging['EXTRAS'])}.")
    found = {}
    for requirement in [*packaging["REQUIREMENTS"], *(each for extra in extras for each in packaging["EXTRAS"][extra])]:
        match = _RANGE.fullmatch(requirement)
        if match is None:
            raise ValueError(f"setup.py: {requirement!r} is not of the form name>=floor,<cap.")
        found[match["name"]] = match
    return found


def install_lines() -> list[str]:
    """The lines of the first shell block of the README's section "Install", without comments.

    Returns:
        The lines.

    Raises:
        ValueError: There is no such block.
    """
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.partition("\n## Install\n")[2].partition("\n## ")[0]
    block = re.search(r"```bash\n(.*?)```", section, re.DOTALL)
    if block is None:
        raise ValueError("README.md has no shell block in its section Install.")
    lines = [line.partition(" #")[0].strip() for line in block[1].splitlines()]
    return [line for line in lines if line]


def main(command: str, *extras: str) -> None:
    """Print what was asked for.

    Args:
        command: `oldest`, `newest`, `extra` or `install`.
        *extras: Extras of setup.py.

    Raises:
        ValueError: There is no such command or extra.
    """
    if command == "oldest":
        lines = [f"{name}=={found['floor']}" for name, found in ranges(*extras).items()]
    elif command == "newest":
        lines = list(ranges(*extras))
    elif command == "extra":
        lines = [name for name in ranges(*extras) if name not in ranges()]
    elif command == "install":
        lines = install_lines()
    else:
        raise ValueError(f"{command!r} is no command: oldest, newest, extra or install.")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
