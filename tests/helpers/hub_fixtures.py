"""The fixture `hub`, a Hub on 127.0.0.1 with a fresh namespace a test, and fresh Python processes that talk to it."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.hub_server import HubServer
from tests.helpers.hub_store import Entry, Failure, Rights
from tests.helpers.paths import ROOT


WRITE_TOKEN, READ_TOKEN = "hf_secretOfTheWriter", "hf_secretOfTheReader"
# No server listens here: port 9 (discard) is closed on any machine that tests run on.
NO_NETWORK = "http://127.0.0.1:9"

_PROLOGUE = '''
import json, pathlib, sys

class _Blocked:
    """Makes the package unfindable, installed or not."""
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "transformers_copilot":
            raise ModuleNotFoundError(f"No module named {name!r} (blocked by the test)", name=name)

if not WITH_PACKAGE:
    sys.meta_path.insert(0, _Blocked())

def report(**values):
    """Hand values that JSON can say to the test: it finds them in `Ran.values`."""
    file = pathlib.Path(REPORT)
    found = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**found, **values}))

def error_of(call, *args, **kwargs):
    """Type, text and notes of what a call raises, or None."""
    try:
        call(*args, **kwargs)
    except Exception as error:
        return "\\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])])
    return None

def no_waiting():
    """Skip the pauses (23 s in all) that huggingface_hub makes between attempts at a broken upload."""
    import time
    time.sleep = lambda seconds: None
'''


@dataclass
class Ran:
    """What a process left: its exit status, everything that it printed, and what it reported."""

    returncode: int
    output: str
    values: dict[str, Any]


class Hub:
    """The tests' Hub as one test sees it: a namespace of its own (`user`), no failures and no requests yet."""

    def __init__(self, server: HubServer, user: str) -> None:
        self.server, self.store, self.user = server, server.store, user
        self.url, self.token, self.read_token = server.url, WRITE_TOKEN, READ_TOKEN

    def repo(self, name: str) -> str:
        """`user/name`."""
        return f"{self.user}/{name}"

    def put(
        self, repo_id: str, files: dict[str, bytes] | Path, private: bool = False, branch: str = "main", kind="models"
    ) -> str:
        """Put files, or a folder's, into a repository as one more commit, without HTTP; the commit's id."""
        if isinstance(files, Path):
            files = {str(f.relative_to(files)): f.read_bytes() for f in files.rglob("*") if f.is_file()}
        with self.store.lock:
            if (kind, repo_id) not in self.store.repos:
                self.store.create(kind, repo_id, WRITE_TOKEN, private, "")
            repo = self.store.repos[kind, repo_id]
            before = repo.commits[repo.branches.get(branch, repo.branches["main"])]
            return repo.commit(branch, {**before, **{name: Entry(data) for name, data in files.items()}}, "put")

    def exists(self, repo_id: str, kind: str = "models") -> bool:
        """Whether there is such a repository."""
        return (kind, repo_id) in self.store.repos

    def files(self, repo_id: str, revision: str = "main", kind: str = "models") -> dict[str, bytes]:
        """Every file of a repository at a branch or commit."""
        return {name: entry.content for name, entry in self.store.repos[kind, repo_id].tree(revision).items()}

    def lfs_files(self, repo_id: str, revision: str = "main", kind: str = "models") -> set[str]:
        """Names of the files that came by LFS."""
        return {name for name, entry in self.store.repos[kind, repo_id].tree(revision).items() if entry.sha256}

    def commits(self, repo_id: str, kind: str = "models") -> list[tuple[str, str]]:
        """Id and message of every commit, the repository's own first one too, in order."""
        return list(self.store.repos[kind, repo_id].log)

    def move(self, old: str, new: str, kind: str = "models") -> None:
        """Give a repository another id; the old one redirects."""
        self.store.move(kind, old, new)

    def fail(self, method: str, pattern: str, status: int, code: str | None = None, times: int | None = None) -> None:
        """Answer matching requests with this status, so many times (`None`: from now on)."""
        self.server.failures.append(Failure(method, pattern, status=status, code=code, times=times))

    def cut(self, method: str, pattern: str, after: int, times: int | None = None, reset: bool = True) -> None:
        """Cut the connection of matching requests after so many bytes of what is sent."""
        self.server.failures.append(Failure(method, pattern, cut_after=after, times=times, reset=reset))

    def heal(self) -> None:
        """No failures any more."""
        self.server.failures.clear()

    def requests(self, pattern: str = "") -> list[tuple[str, str, str | None]]:
        """Method, path and token of the requests of this test whose "METHOD /path" holds the pattern."""
        return [entry for entry in self.server.requests if re.search(pattern, f"{entry[0]} {entry[1]}")]


@pytest.fixture(scope="session")
def hub_server() -> Iterator[HubServer]:
    server = HubServer()
    server.store.tokens = {WRITE_TOKEN: Rights("writer", True), READ_TOKEN: Rights("reader", False)}
    server.start()
    yield server
    server.stop()


@pytest.fixture
def hub(hub_server: HubServer, request: pytest.FixtureRequest) -> Iterator[Hub]:
    """A [`Hub`] whose namespace is the test's alone."""
    hub_server.requests.clear()
    taken = {repo_id.split("/")[0] for _, repo_id in hub_server.store.repos}
    yield Hub(hub_server, f"user{len(taken)}")
    hub_server.failures.clear()


def run_in_process(
    code: str,
    hub: Hub,
    home: Path,
    token: str | None = WRITE_TOKEN,
    with_package: bool = True,
    endpoint: str | None = None,
    check: bool = True,
    arguments: list[str] | None = None,
    **environment: str,
) -> Ran:
    """Run Python in a fresh process, as a user of this Hub.

    Args:
        code (`str` or `Path`): Python, or a script's path. `report(name=value)` and `error_of(call, ...)` are there.
        hub ([`Hub`]): what `HF_ENDPOINT` points at.
        home (`Path`): holds the process's cache, so another folder is a fresh cache. It is also its folder.
        token (`str`, *optional*): `HF_TOKEN`, or none.
        with_package (`bool`, *optional*, defaults to `True`): `False` makes `import transformers_copilot` fail; then
            most modules of `tests` can't be imported either, as they import it.
        endpoint (`str`, *optional*): another address than the Hub's, such as `NO_NETWORK`.
        check (`bool`, *optional*, defaults to `True`): fail the test, showing the output, if the process failed.
        arguments (`list`, *optional*): of a script's command line.
        **environment: further variables.

    Returns:
        [`Ran`]
    """
    home.mkdir(parents=True, exist_ok=True)
    answers = home / "report.json"
    answers.unlink(missing_ok=True)
    head = f"WITH_PACKAGE, REPORT = {with_package}, {str(answers)!r}\n{_PROLOGUE}"
    if isinstance(code, Path):
        code = f"import runpy\nsys.argv = {[str(code), *(arguments or [])]}\nsys.path.insert(0, {str(code.parent)!r})\n"
        code += "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    script = home / "process.py"
    script.write_text(head + code, encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON"))}
    kept |= {
        "HF_ENDPOINT": endpoint or hub.url,
        "HF_HOME": str(home / "hf"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "NO_PROXY": "*",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        **({} if token is None else {"HF_TOKEN": token}),
        **environment,
    }
    done = subprocess.run(
        [sys.executable, "-P", str(script)],
        cwd=home,
        env=kept,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    output = done.stdout + done.stderr
    if check and done.returncode != 0:
        pytest.fail(f"the process ended with {done.returncode}:\n{output[-6000:]}")
    values = json.loads(answers.read_text()) if answers.exists() else {}
    return Ran(done.returncode, output, values)


__all__ = ["NO_NETWORK", "READ_TOKEN", "WRITE_TOKEN", "Hub", "Ran", "hub", "hub_server", "run_in_process"]
