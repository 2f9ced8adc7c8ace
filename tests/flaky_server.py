"""A web server on this machine that misbehaves on demand."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import struct
import threading
from collections import defaultdict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAGE = b"<!DOCTYPE html><html>Please sign in</html>"


class FlakyServer(ThreadingHTTPServer):
    """Files in memory, and for each what goes wrong with its next requests, in order.

    `503`, `429`, `403`: that status; further words are its Retry-After. `sick`: an error with status 200. `reset`: half
    of the body, then the connection is torn down. `short`: half of the body, then it is closed. `stall`: half of the
    body, then nothing. `slow`: the body in ten pieces. `drip`: a byte at a time. `whole`: the whole file, whatever
    range was asked for. `page`: a page with status 200. `replaced`: the file has a new version. `reckless`: a part of
    the new version, although the condition was the old one. `untagged`: no version is told. `rangeless`: it is not told
    which part comes. `lengthless`: it is not told how much comes. Two words together go wrong together.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.files: dict[str, bytes] = {}
        self.troubles: dict[str, list[str]] = defaultdict(list)
        self.requests: list[tuple[str, str]] = []
        self.released = threading.Event()
        self.pause = 0.02  # between the pieces of a slow body
        self.lock = threading.Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def ranges(self, path: str) -> list[str]:
        """Return the range of each request for a file."""
        return [asked for name, asked in self.requests if name == path]

    def handle_error(self, *_) -> None:
        """Say nothing of clients that left."""


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FlakyServer

    def log_message(self, *_) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        asked = self.headers.get("Range", "")
        with self.server.lock:
            self.server.requests.append((path, asked))
            troubles = self.server.troubles[path]
            trouble = troubles.pop(0) if troubles else ""
            if "replaced" in trouble:
                self.server.files[path] = self.server.files[path][::-1]
        content = self.server.files.get(path)
        if content is None:
            self.answer(404, b"")
        elif trouble[:3].isdigit():
            self.answer(int(trouble[:3]), b"", {"Retry-After": trouble[4:] or "0"})
        elif trouble == "sick":
            self.answer(200, b'{"error": "busy"}', {"ETag": '"sick"'})
        elif trouble == "page":
            self.answer(200, PAGE)
        else:
            self.send_file(content, asked, trouble)

    def send_file(self, content: bytes, asked: str, trouble: str) -> None:
        tag = '"' + hashlib.sha256(content).hexdigest()[:16] + '"'
        headers = {} if "untagged" in trouble else {"ETag": tag}
        same = self.headers.get("If-Range", tag) == tag or "reckless" in trouble
        wanted = same and "whole" not in trouble and asked
        if not wanted:
            self.answer(200, content, headers, trouble)
            return
        first, _, last = asked.removeprefix("bytes=").partition("-")
        if int(first) >= len(content):
            self.answer(416, b"")
            return
        part = content[int(first) : int(last or len(content)) + 1]
        if "rangeless" not in trouble:
            headers["Content-Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
        self.answer(206, part, headers, trouble)

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, trouble: str = "") -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if "lengthless" not in trouble:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        kind = trouble.split(" ")[0]
        if kind == "drip":
            for byte in body:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                if self.server.released.wait(0.01):
                    return
        if kind not in ("reset", "short", "stall"):
            pieces = 10 if kind == "slow" else 1
            size = -(-len(body) // pieces) or 1
            for start in range(0, len(body), size):
                self.wfile.write(body[start : start + size])
                self.wfile.flush()
                self.server.released.wait(self.server.pause if kind == "slow" else 0)
            return
        self.wfile.write(body[: len(body) // 2])
        self.wfile.flush()
        if kind == "stall":
            self.server.released.wait(10)
        if kind == "reset":
            self.server.released.wait(0.05)  # the half must arrive before the tearing down
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        self.close_connection = True


@contextlib.contextmanager
def serving() -> Iterator[FlakyServer]:
    """Run a server while the block lasts."""
    with FlakyServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()
