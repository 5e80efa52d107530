"""A Hub on 127.0.0.1, standard library only: enough of huggingface.co for huggingface_hub and transformers.

Repositories, branches, private ones, tokens, files by LFS and in commits, moved ids; and failures on demand, an error's
status or a connection that is cut in the middle of a file. State is in `hub_store`, pytest's fixture in `hub_fixtures`.
"""

import hashlib
import json
import re
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.helpers.hub_store import LFS_ENDINGS, Failure, HubError, HubStore, Repo


REVISION = r"(?P<rev>refs%2Fpr%2F\d+|[^/]+)"
NAME = r"(?P<id>[^/]+/[^/]+)"
API = rf"/api/(?P<kind>models|datasets)/{NAME}"
FILE_PREFIX = rf"/(?:(?P<kind>datasets)/)?{NAME}"


class HubServer(ThreadingHTTPServer):
    """The server; `start()` returns once it listens, `stop()` ends it.

    `failures` is a list of [`Failure`]; `requests` lists method, path and token of every request so far.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.store = HubStore()
        self.failures: list[Failure] = []
        self.requests: list[tuple[str, str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that was cut on purpose is no news."""

    def next_failure(self, method: str, path: str) -> Failure | None:
        with self.store.lock:
            for failure in self.failures:
                if failure.times != 0 and failure.method == method and re.search(failure.pattern, path):
                    failure.times = None if failure.times is None else failure.times - 1
                    return failure
        return None


class HubHandler(BaseHTTPRequestHandler):
    """Answers one connection. Each `ROUTES` entry is method, pattern of the path, and the method that answers."""

    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *args: Any) -> None:
        """Quiet."""

    # ---- one request ----

    def answer(self) -> None:
        method, split = self.command, urlsplit(self.path)
        path, self.query = split.path, parse_qs(split.query)
        given = self.headers.get("Authorization", "")
        self.token = given.removeprefix("Bearer ") or None
        self.server.requests.append((method, path, self.token))
        self.failure = self.server.next_failure(method, path)
        if self.failure is not None and self.failure.cut_after is not None and method in ("PUT", "POST"):
            self.cut_upload()
            return
        self.body = self.read_body()
        try:
            if self.failure is not None and self.failure.status is not None:
                raise HubError(self.failure.status, "made to fail by the test", self.failure.code)
            with self.server.store.lock:
                self.route(method, path)
        except HubError as error:
            headers = {"X-Error-Message": error.message}
            headers |= {"X-Error-Code": error.code} if error.code else {}
            headers |= {"X-Repo-Commit": error.commit} if error.commit else {}
            self.send_json({"error": error.message, **error.body}, error.status, headers)

    do_HEAD = do_GET = do_POST = do_PUT = do_DELETE = answer  # the names that BaseHTTPRequestHandler calls

    def route(self, method: str, path: str) -> None:
        for verb, pattern, name in ROUTES:
            match = re.fullmatch(pattern, path)
            if match is None or verb != (method if method != "HEAD" else "GET"):
                continue
            found = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
            if "id" in found:
                kind, repo_id = found.get("kind", "models"), found["id"]
                moved = self.server.store.moved.get((kind, repo_id))
                if moved is not None:
                    self.send_empty(307, {"Location": self.path.replace(repo_id, moved, 1)})
                    return
                found["kind"] = kind
            getattr(self, name)(**found)
            return
        raise HubError(404, f"no such page: {path}")

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def cut_upload(self) -> None:
        self.rfile.read(self.failure.cut_after)
        self.reset()

    def reset(self) -> None:
        """Close the connection as a broken line does."""
        self.wfile.flush()
        self.close_connection = True
        if self.failure.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            self.connection.shutdown(socket.SHUT_WR)
        self.connection.close()

    def send_json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_bytes(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def send_empty(self, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_bytes(b"", status, headers or {})

    def send_bytes(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.failure is not None and self.failure.cut_after is not None:
            self.wfile.write(content[: self.failure.cut_after])
            self.reset()
        else:
            self.wfile.write(content)

    def repo(self, kind: str, repo_id: str, write: bool = False) -> Repo:
        return self.server.store.repo(kind, repo_id, self.token, write)

    # ---- repositories ----

    def create_repo(self) -> None:
        asked = json.loads(self.body)
        rights = self.server.store.rights(self.token)
        repo_id = f"{asked.get('organization') or (rights.name if rights else '?')}/{asked['name']}"
        kind = f"{asked.get('type') or 'model'}s"
        url = f"{self.server.url}/{'' if kind == 'models' else kind + '/'}{repo_id}"
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.server.store.create(kind, repo_id, self.token, private, url)
        self.send_json({"url": url, "name": repo_id})

    def delete_repo(self) -> None:
        asked = json.loads(self.body)
        kind, repo_id = f"{asked.get('type') or 'model'}s", f"{asked['organization']}/{asked['name']}"
        self.repo(kind, repo_id, write=True)
        del self.server.store.repos[kind, repo_id]
        self.send_json({})

    def repo_info(self, kind: str, id: str, rev: str = "main") -> None:
        repo = self.repo(kind, id)
        siblings = [{"rfilename": path, "size": len(entry.content)} for path, entry in repo.tree(rev).items()]
        found = {"id": repo.repo_id, "modelId": repo.repo_id, "sha": repo.resolve(rev), "private": repo.private}
        dates = dict.fromkeys(("createdAt", "lastModified"), "2026-01-01T00:00:00.000Z")
        self.send_json({**found, **dates, "siblings": siblings, "tags": [], "downloads": 0, "likes": 0})

    def list_tree(self, kind: str, id: str, rev: str, path: str = "") -> None:
        tree = self.repo(kind, id).tree(rev)
        inside = {name: entry for name, entry in tree.items() if not path or name.startswith(f"{path}/")}
        if path and not inside:
            raise HubError(404, f"{path} does not exist", "EntryNotFound")
        start = len(path) + 1 if path else 0
        recursive = self.query.get("recursive", ["false"])[0].lower() == "true"
        folders = {name[: start + name[start:].index("/")] for name in inside if "/" in name[start:]}
        listed = [{"type": "directory", "path": folder, "oid": "0" * 40} for folder in sorted(folders)]
        listed += [e.described(name) for name, e in inside.items() if recursive or "/" not in name[start:]]
        self.send_json(listed)

    def list_refs(self, kind: str, id: str) -> None:
        branches = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": oid}
            for name, oid in self.repo(kind, id).branches.items()
        ]
        self.send_json({"branches": branches, "tags": [], "converts": []})

    def create_branch(self, kind: str, id: str, rev: str) -> None:
        repo = self.repo(kind, id, write=True)
        if rev in repo.branches:
            raise HubError(409, f"Reference already exists: {rev}")
        repo.branches[rev] = repo.resolve(json.loads(self.body or b"{}").get("startingPoint") or "main")
        self.send_json({})

    def whoami(self) -> None:
        rights = self.server.store.rights(self.token)
        if rights is None:
            raise HubError(401, "Invalid username or password.")
        self.send_json({"type": "user", "name": rights.name, "orgs": [], "auth": {}})

    # ---- files in ----

    def validate_yaml(self) -> None:
        self.send_json({"errors": [], "warnings": []})

    def preupload(self, kind: str, id: str, rev: str) -> None:
        tree = self.repo(kind, id, write=True).tree(rev)
        answers = []
        for file in json.loads(self.body)["files"]:
            mode = "lfs" if file["path"].endswith(LFS_ENDINGS) else "regular"
            answer = {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
            present = tree.get(file["path"])
            answers.append(answer if present is None else {**answer, "oid": present.etag})
        self.send_json({"files": answers})

    def lfs_batch(self, kind: str, id: str) -> None:
        self.repo(kind, id, write=True)
        objects = []
        for asked in json.loads(self.body)["objects"]:
            oid = asked["oid"]
            upload = {"href": f"{self.server.url}/{id}/lfs/{oid}"}
            actions = {} if oid in self.server.store.uploads else {"actions": {"upload": upload}}
            objects.append({"oid": oid, "size": asked["size"], **actions})
        self.send_json({"transfer": "basic", "objects": objects})

    def lfs_upload(self, kind: str, id: str, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise HubError(400, "the content is not what was announced")
        self.server.store.uploads[oid] = self.body
        self.send_empty()

    def commit(self, kind: str, id: str, rev: str) -> None:
        repo = self.repo(kind, id, write=True)
        lines = [json.loads(line) for line in self.body.splitlines() if line.strip()]
        create_pr = self.query.get("create_pr", ["0"])[0] == "1"
        oid, branch = self.server.store.apply(repo, rev, lines, create_pr)
        url = f"{self.server.url}/{repo.repo_id}"
        pull = {"pullRequestUrl": f"{url}/discussions/{branch.rsplit('/', 1)[-1]}"} if create_pr else {}
        self.send_json({"success": True, "commitUrl": f"{url}/commit/{oid}", "commitOid": oid, **pull})

    # ---- files out ----

    def resolve_file(self, kind: str, id: str, rev: str, path: str) -> None:
        repo = self.repo(kind, id)
        commit = repo.resolve(rev)
        entry = repo.commits[commit].get(path)
        if entry is None:
            error = HubError(404, f"{path} does not exist on {rev}", "EntryNotFound")
            error.commit = commit
            raise error
        headers = {"X-Repo-Commit": commit, "ETag": f'"{entry.etag}"', "Accept-Ranges": "bytes"}
        if entry.sha256:
            headers |= {"X-Linked-Etag": f'"{entry.sha256}"', "X-Linked-Size": str(len(entry.content))}
        content, status = entry.content, 200
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted:
            start, end = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            content, status = content[start : end + 1], 206
        if self.command == "HEAD":
            headers["Content-Length"] = str(len(content))
        self.send_bytes(content, status, headers)


ROUTES = [
    ("POST", "/api/repos/create", "create_repo"),
    ("DELETE", "/api/repos/delete", "delete_repo"),
    ("GET", "/api/whoami-v2", "whoami"),
    ("POST", "/api/validate-yaml", "validate_yaml"),
    ("GET", API, "repo_info"),
    ("GET", rf"{API}/revision/{REVISION}", "repo_info"),
    ("GET", rf"{API}/tree/{REVISION}(?:/(?P<path>.+))?", "list_tree"),
    ("GET", rf"{API}/refs", "list_refs"),
    ("POST", rf"{API}/branch/{REVISION}", "create_branch"),
    ("POST", rf"{API}/preupload/{REVISION}", "preupload"),
    ("POST", rf"{API}/commit/{REVISION}", "commit"),
    ("POST", rf"{FILE_PREFIX}\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", rf"/{NAME}/lfs/(?P<oid>[0-9a-f]{{64}})", "lfs_upload"),
    ("GET", rf"{FILE_PREFIX}/resolve/{REVISION}/(?P<path>.+)", "resolve_file"),
]

__all__ = ["HubServer"]
