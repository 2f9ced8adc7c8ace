"""A stand-in for the hub's HTTP interface on this machine, with failures on demand."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Repositories in memory.

    Args:
        failures: Answer 503 to the first requests whose path contains the key, so many times.
    """

    daemon_threads = True

    def __init__(self, failures: dict[str, int]):
        super().__init__(("127.0.0.1", 0), Answers)
        self.failures = dict(failures)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.large: dict[str, bytes] = {}
        self.calls: list[str] = []
        self.lock = threading.Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fails(self, path: str) -> bool:
        """Whether this request is to fail; counts it."""
        with self.lock:
            for part, left in self.failures.items():
                if part in path and left:
                    self.failures[part] -= 1
                    return True
        return False


class Answers(BaseHTTPRequestHandler):
    """What the hub answers to an upload and to downloads."""

    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_):
        """Say nothing."""

    def do_POST(self):
        path, body = self.start()
        if self.server.fails(path):
            self.answer(503, {"error": "busy"})
        elif path == "/api/repos/create":
            self.create(json.loads(body))
        elif path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif "/preupload/" in path:
            self.choose_mode(json.loads(body))
        elif path.endswith("/info/lfs/objects/batch"):
            self.name_places(json.loads(body))
        elif path.startswith("/verify/") or "/branch/" in path:
            self.answer(200, {})
        elif "/commit/" in path:
            self.commit(path, body)
        else:
            self.answer(404, {"error": "no such call"})

    def do_PUT(self):
        path, body = self.start()
        if self.server.fails(path):
            self.answer(503, {"error": "busy"})
            return
        oid = path.removeprefix("/large/")
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.large[oid] = body
        self.answer(200, {})

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path, _ = self.start()
        if path.startswith("/api/models/"):
            self.describe(path)
            return
        repository, _, rest = path.lstrip("/").partition("/resolve/")
        name = rest.partition("/")[2]
        files = self.server.repositories.get(repository)
        if files is None:
            self.answer(401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif name not in files:
            self.answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        else:
            content = files[name]
            etag = hashlib.sha256(content).hexdigest()
            self.answer(200, content, {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'})

    def start(self) -> tuple[str, bytes]:
        path = unquote(urlsplit(self.path).path)
        body = self.body()
        self.server.calls.append(f"{self.command} {path}")
        return path, body

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def answer(self, status: int, content: dict | list | bytes, headers: dict[str, str] | None = None) -> None:
        payload = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream" if payload is content else "application/json")
        self.send_header("Content-Length", str(len(payload)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(payload)

    def create(self, wanted: dict) -> None:
        repository = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        exists = repository in self.server.repositories
        self.server.repositories.setdefault(repository, {})
        self.answer(409 if exists else 200, {"url": f"{self.server.address}/{repository}"})

    def choose_mode(self, wanted: dict) -> None:
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
                "oid": None,
            }
            for file in wanted["files"]
        ]
        self.answer(200, {"files": files})

    def name_places(self, wanted: dict) -> None:
        objects = [
            {
                **item,
                "actions": {
                    "upload": {"href": f"{self.server.address}/large/{item['oid']}"},
                    "verify": {"href": f"{self.server.address}/verify/{item['oid']}"},
                },
            }
            for item in wanted["objects"]
        ]
        self.answer(200, {"transfer": "basic", "objects": objects})

    def commit(self, path: str, body: bytes) -> None:
        repository = path.removeprefix("/api/models/").partition("/commit/")[0]
        files = self.server.repositories[repository]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
        self.answer(200, {"commitUrl": f"{self.server.address}/{repository}/commit/{COMMIT}", "commitOid": COMMIT})

    def describe(self, path: str) -> None:
        parts = path.removeprefix("/api/models/").split("/")
        repository, rest = "/".join(parts[:2]), parts[2:]
        files = self.server.repositories.get(repository)
        if files is None:
            self.answer(401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif rest[:1] == ["tree"]:
            self.answer(200, [{"type": "file", "path": n, "size": len(c), "oid": COMMIT} for n, c in files.items()])
        else:
            siblings = [{"rfilename": name} for name in files]
            self.answer(200, {"id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings, "tags": []})


@contextlib.contextmanager
def hub_double(**failures: int) -> Iterator[Hub]:
    """Run a hub while the context lasts; `failures` counts 503s per part of a path."""
    hub = Hub(failures)
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
