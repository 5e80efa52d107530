"""The code blocks of README and docs, run as a reader would: those of a page one after the other in one process.

It needs nothing but Python and the installed package, so it also runs where there is no pytest, in an environment that
the README's install lines made:

    python -m tests.helpers.page_blocks     # every page; exit status 1 if a block of one failed

A page's `<!-- needs a Hub … -->` before a block says that the block reads or writes a Hub. It runs too, against the one
of these tests; a second run of the page leaves such blocks out and has no Hub.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.helpers.hub_server import HubServer
from tests.helpers.hub_store import Rights
from tests.helpers.paths import ROOT


PAGES = ("README.md", *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md")))
_TOKEN = "hf_secretOfThePages"
_BLOCK = re.compile(
    r"^(?:<!-- (?P<needs>needs a Hub)[^\n]* -->\n)?```(?P<language>\w+)\n(?P<code>.*?)^```$", re.S | re.M
)


class Block(NamedTuple):
    """A block of a page: its code, and whether it needs a Hub."""

    code: str
    needs_hub: bool


def blocks(page: str, *languages: str) -> list[Block]:
    """A page's blocks of some languages, in order."""
    found = _BLOCK.finditer((ROOT / page).read_text(encoding="utf-8"))
    return [Block(match["code"], match["needs"] is not None) for match in found if match["language"] in languages]


def commands(page: str) -> list[str]:
    """The lines of a page's shell blocks, continued ones as one, without comments."""
    lines = "\n".join(block.code for block in blocks(page, "bash", "sh", "console"))
    return [line for each in lines.replace("\\\n", " ").splitlines() if (line := each.partition(" #")[0].strip())]


def run_blocks(
    page: str, folder: Path, hub: HubServer | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a page's Python blocks in a fresh process.

    Args:
        page: The page's path in the repository.
        folder: Where it runs.
        hub: The Hub that it may talk to; without one, blocks that need a Hub are left out.
        **environment: Further variables.

    Returns:
        The process; its output ends in "all N blocks ran".
    """
    codes = [block.code for block in blocks(page, "python") if hub is not None or not block.needs_hub]
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "page.py"
    script.write_text("\n".join([*codes, f"print('all {len(codes)} blocks ran')\n"]), encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    kept |= {"HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
    kept |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "NO_PROXY": "*", "HF_HUB_OFFLINE": "1"}
    if hub is not None:
        hub.store.tokens = {_TOKEN: Rights("user", True)}
        kept |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": _TOKEN, "HF_HUB_OFFLINE": "0"}
    return subprocess.run(
        [sys.executable, script.name],
        cwd=folder,
        env=kept | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )


def runs(page: str) -> list[bool]:
    """With a Hub or without: the ways in which a page has to run."""
    needs = [block.needs_hub for block in blocks(page, "python")]
    return [] if not needs else [False, True] if any(needs) else [False]


def main() -> int:
    """Run every page, and say how it went."""
    failed = 0
    for page in PAGES:
        for with_hub in runs(page):
            hub = HubServer() if with_hub else None
            with tempfile.TemporaryDirectory() as folder:
                if hub is not None:
                    hub.start()
                done = run_blocks(page, Path(folder), hub)
                if hub is not None:
                    hub.stop()
            failed += done.returncode != 0
            end = done.stdout.strip().rpartition("\n")[2] if done.returncode == 0 else done.stderr[-4000:]
            sys.stdout.write(f"{page}{', with a Hub' if with_hub else ''}: {end}\n")
            sys.stdout.flush()
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
