"""What the tests' Hub holds: repositories with branches and whole commits, files by their hash, tokens, moved ids."""

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from typing import Any


LFS_ENDINGS = (".safetensors", ".bin", ".pt", ".model", ".gguf", ".png", ".parquet")


class HubError(Exception):
    """An answer that is an error: its status, its code in `X-Error-Code`, and what it says."""

    def __init__(self, status: int, message: str, code: str | None = None, **body: Any) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.body = status, code, message, body
        self.commit: str | None = None


@dataclass
class Failure:
    """What goes wrong with requests of this method whose path holds this pattern, so many times (None: always)."""

    method: str
    pattern: str
    status: int | None = None  # answer with this status …
    code: str | None = None  # … and this `X-Error-Code`
    cut_after: int | None = None  # … or close the connection after so many bytes of the file,
    reset: bool = True  # with a reset (clients give a download up) or an early end (they resume it)
    times: int | None = None


@dataclass(frozen=True)
class Entry:
    """One file of a commit; `sha256` is set if it came by LFS."""

    content: bytes
    sha256: str | None = None

    @property
    def oid(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 or self.oid

    def described(self, path: str) -> dict[str, Any]:
        lfs = {"oid": self.sha256, "size": len(self.content), "pointerSize": 130}
        found = {"type": "file", "path": path, "size": len(self.content), "oid": self.oid}
        return {**found, "lfs": lfs} if self.sha256 else found


@dataclass
class Repo:
    """A repository: every commit is a whole tree, a branch is the id of one."""

    repo_id: str
    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, Entry]] = field(default_factory=dict)
    log: list[tuple[str, str]] = field(default_factory=list)  # commit id and message, in order

    def __post_init__(self) -> None:
        self.commit("main", {".gitattributes": Entry(b"*.safetensors filter=lfs\n")}, "initial commit")

    def commit(self, branch: str, files: dict[str, Entry], message: str) -> str:
        described = json.dumps([self.repo_id, branch, message, len(self.log), sorted(files)])
        oid = hashlib.sha1(described.encode()).hexdigest()
        self.commits[oid], self.branches[branch] = files, oid
        self.log.append((oid, message))
        return oid

    def resolve(self, revision: str) -> str:
        oid = self.branches.get(revision, revision)
        if oid not in self.commits:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return oid

    def tree(self, revision: str) -> dict[str, Entry]:
        return self.commits[self.resolve(revision)]


@dataclass(frozen=True)
class Rights:
    """What a token may do."""

    name: str
    write: bool


class HubStore:
    """All repositories, under one lock. Kinds are "models" and "datasets"."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.repos: dict[tuple[str, str], Repo] = {}
        self.moved: dict[tuple[str, str], str] = {}
        self.tokens: dict[str, Rights] = {}
        self.uploads: dict[str, bytes] = {}  # LFS objects by sha256, complete ones only

    def rights(self, token: str | None) -> Rights | None:
        if token is not None and token not in self.tokens:
            raise HubError(401, "Invalid credentials in Authorization header")
        return None if token is None else self.tokens[token]

    def repo(self, kind: str, repo_id: str, token: str | None, write: bool = False) -> Repo:
        """The repository, if this token may see it (or write to it)."""
        rights, repo = self.rights(token), self.repos.get((kind, repo_id))
        if repo is None or (repo.private and rights is None):
            raise HubError(401 if rights is None else 404, "Repository not found", "RepoNotFound")
        if write and rights is None:
            raise HubError(401, "Invalid username or password.")
        if write and not rights.write:
            raise HubError(403, f"Forbidden: {rights.name} has no write access to {repo_id}")
        return repo

    def create(self, kind: str, repo_id: str, token: str | None, private: bool, url: str) -> Repo:
        rights = self.rights(token)
        if rights is None:
            raise HubError(401, "Invalid username or password.")
        if not rights.write:
            raise HubError(403, f"Forbidden: {rights.name} may not create {repo_id}")
        if (kind, self.moved.get((kind, repo_id), repo_id)) in self.repos:
            raise HubError(409, "You already created this model repo", url=url)
        self.repos[kind, repo_id] = Repo(repo_id, private)
        return self.repos[kind, repo_id]

    def move(self, kind: str, old: str, new: str) -> None:
        """Give a repository another id; the old one is answered with a redirect."""
        with self.lock:
            repo = self.repos.pop((kind, old))
            repo.repo_id = new
            self.repos[kind, new], self.moved[kind, old] = repo, new

    def apply(self, repo: Repo, revision: str, lines: list[dict[str, Any]], create_pr: bool) -> tuple[str, str]:
        """One commit from the lines of the request's body: all of it, or an error and nothing. Its id and branch."""
        files, message = dict(repo.tree(revision)), ""
        for line in lines:
            value = line["value"]
            path = value.get("path", "")
            if line["key"] == "header":
                message = value["summary"]
                if value.get("parentCommit") not in (None, repo.resolve(revision)):
                    raise HubError(412, "A commit has happened since. Please refresh and try again.")
            elif line["key"] == "file":
                files[path] = Entry(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.uploads:
                    raise HubError(400, f"LFS object {value['oid']} of {path} was not uploaded")
                files[path] = Entry(self.uploads[value["oid"]], value["oid"])
            elif line["key"] == "deletedFile":
                files.pop(path, None)
            elif line["key"] == "deletedFolder":
                files = {name: entry for name, entry in files.items() if not name.startswith(path.rstrip("/") + "/")}
        branch = f"refs/pr/{len(repo.log)}" if create_pr else revision
        return repo.commit(branch, files, message), branch
