"""What lies behind an address: its size, its version, its bytes from any place on. One try each; see `download.py`."""

from __future__ import annotations

import contextlib
import email.utils
import functools
import http.client
import os
import re
import select
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from vlp.ground.types import RecipeError

Trouble = Literal[
    "missing", "forbidden", "busy", "connection", "stalled", "short", "changed", "no_tar", "wrong_checksum"
]
Option = str | bool | int | float

PIPE = "pipe:"
SECONDS = re.compile(r"[0-9]{1,9}")
CHUNK = 1 << 18
BLOCK = 1 << 23  # what is asked of an object store at a time; it must arrive within the time-out
# What back ends call a word that changes with the content.
VERSIONS = ("ETag", "etag", "md5Hash", "blob_id", "LastModified", "mtime", "created")


class TransferError(Exception):
    """A try that failed.

    Args:
        trouble: One word for what happened.
        detail: What exactly.
        wait_seconds: How long the server asks to be left alone.
    """

    def __init__(self, trouble: Trouble, detail: str, wait_seconds: float = 0.0):
        super().__init__(detail)
        self.trouble: Trouble = trouble
        self.wait_seconds = wait_seconds

    @property
    def is_final(self) -> bool:
        """Whether another try would end in the same way."""
        return self.trouble in ("missing", "forbidden")


@dataclass(frozen=True)
class Remote:
    """An address and how to reach it.

    Args:
        url: `https://`, `s3://`, `gs://`, `hf://`, any other that fsspec knows, or `pipe:` with a command.
        options: What the back end is told, such as `{anon: true}`; names and secrets it finds by itself.
        timeout_seconds: Longest time without a byte.
    """

    url: str
    options: Mapping[str, Option] = field(default_factory=dict)
    timeout_seconds: float = 60.0

    @property
    def name(self) -> str:
        """Last part of the address."""
        return self.url.split("?")[0].rstrip("/").split("/")[-1]


@dataclass(frozen=True)
class Version:
    """What a server says about a file: its size, -1 where unknown, and a word that changes with its content."""

    bytes: int
    tag: str


@dataclass(frozen=True)
class Body:
    """The bytes of a file from `offset` on, which is 0 where a server cannot go on in the middle."""

    version: Version
    offset: int
    chunks: Iterator[bytes]


def is_remote(pattern: str) -> bool:
    """Whether a pattern is an address and not a path."""
    return pattern.startswith(PIPE) or "://" in pattern


def read(remote: Remote, offset: int = 0, tag: str = "") -> contextlib.AbstractContextManager[Body]:
    """Open an address.

    Args:
        offset: First byte that is wanted.
        tag: Version that the bytes before came from.

    Raises:
        TransferError: Not now, or not at all; also while chunks are read.
        RecipeError: The back end is not installed.
    """
    if remote.url.startswith(PIPE):
        return _run(remote)
    if remote.url.startswith(("http://", "https://")):
        return _get(remote, {"Range": f"bytes={offset}-", **_if_range(tag)} if offset else {})
    return _read_blocks(remote, offset)


def version(remote: Remote) -> Version:
    """Return size and version of what lies at an address.

    Raises:
        TransferError: Not now, or not at all.
        RecipeError: The back end is not installed.
    """
    if remote.url.startswith(PIPE):
        return Version(-1, "")
    if remote.url.startswith(("http://", "https://")):
        # Addresses signed for GET refuse HEAD.
        with _get(remote, {"Range": "bytes=0-0"}) as body:
            refuse_page(remote, next(body.chunks, b""))
            return body.version
    # A listing, where there was one, tells it without asking for each file.
    return _version_in(*_file_system(remote), remote.url, refresh=False)


def listing(remote: Remote) -> list[str]:
    """Return the addresses that match one with `*`, `?` or `[`.

    Raises:
        TransferError: Not now, or not at all.
        RecipeError: The back end is not installed.
    """
    system, path = _file_system(remote)
    with _as_trouble(remote.url):
        return [system.unstrip_protocol(found) for found in system.glob(path)]


def refuse_page(remote: Remote, beginning: bytes) -> None:
    """Refuse what a portal or a proxy says instead of the file.

    Raises:
        TransferError: It is a page.
    """
    if beginning.lstrip()[:1] == b"<":
        raise TransferError("no_tar", f"{remote.url} answers with a page, not a tar")


@contextlib.contextmanager
def _get(remote: Remote, headers: Mapping[str, str]) -> Iterator[Body]:
    wanted = urllib.request.Request(remote.url, headers={"User-Agent": "vlp", "Accept-Encoding": "identity", **headers})
    with _as_trouble(remote.url):
        answer = urllib.request.urlopen(wanted, timeout=remote.timeout_seconds)
        body = _body(answer, remote.url)
    with answer:
        yield body


def _if_range(tag: str) -> dict[str, str]:
    # A weak tag may not stand here; the answer's tag is compared in any case.
    return {"If-Range": tag} if tag and not tag.startswith("W/") else {}


def _body(answer: http.client.HTTPResponse, url: str) -> Body:
    tag = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
    length = int(answer.headers.get("Content-Length") or -1)
    if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
        return Body(Version(length, tag), 0, _chunks(answer, url))
    span, _, total = answer.headers["Content-Range"].removeprefix("bytes ").partition("/")
    found = Version(int(total) if total.isdigit() else -1, tag)
    return Body(found, int(span.partition("-")[0]), _chunks(answer, url))


def _chunks(answer: http.client.HTTPResponse, url: str) -> Iterator[bytes]:
    while True:
        with _as_trouble(url):
            # `read` would wait for a whole chunk, and forget what came of it before a fault.
            chunk = answer.read1(CHUNK)
        if not chunk:
            return
        yield chunk


@contextlib.contextmanager
def _read_blocks(remote: Remote, offset: int) -> Iterator[Body]:
    found = _version_in(*_file_system(remote), remote.url)
    yield Body(found, offset, _blocks(remote, offset, found))


def _blocks(remote: Remote, offset: int, found: Version) -> Iterator[bytes]:
    system, path = _file_system(remote)
    while offset < found.bytes:
        end = min(offset + BLOCK, found.bytes)
        with _as_trouble(remote.url):
            block = _block(system, path, offset, end, remote.timeout_seconds)
        yield block
        if len(block) != end - offset:
            return
        offset = end
    if _version_in(system, path, remote.url) != found:
        raise TransferError("changed", f"{remote.url} changed while it was read")


def _block(system: Any, path: str, start: int, end: int, timeout_seconds: float) -> bytes:
    from fsspec.asyn import sync

    if not system.async_impl:
        return system.cat_file(path, start=start, end=end)
    return sync(system.loop, system._cat_file, path, start=start, end=end, timeout=timeout_seconds)


def _version_in(system: Any, path: str, url: str, *, refresh: bool = True) -> Version:
    with _as_trouble(url):
        told = system.info(path, **({"refresh": True} if refresh else {}))
    return Version(int(told["size"]), next((str(told[name]) for name in VERSIONS if told.get(name)), ""))


def _file_system(remote: Remote) -> tuple[Any, str]:
    """Return fsspec's file system and the path in it."""
    try:
        system = _system(os.getpid(), remote.url.split("://")[0], tuple(remote.options.items()))
    except ImportError as error:
        raise RecipeError(f"{remote.url}: {error} (pip install 'vlp[remote]' does for s3 and gs)") from error
    except (ValueError, TypeError) as error:
        raise RecipeError(f"{remote.url}: {error}; correct the card's `shards` or `options`") from error
    return system, system._strip_protocol(remote.url)


@functools.cache
def _system(_process: int, protocol: str, options: tuple[tuple[str, Option], ...]) -> Any:
    # fsspec would keep one per thread, each with connections of its own. Connections do not survive a fork.
    import fsspec

    return fsspec.filesystem(protocol, **dict(options))


@contextlib.contextmanager
def _run(remote: Remote) -> Iterator[Body]:
    command = remote.url.removeprefix(PIPE)
    with subprocess.Popen(command, shell=True, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            yield Body(Version(-1, ""), 0, _output(process, remote))
        finally:
            # The shell alone would leave what it started behind.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _output(process: subprocess.Popen[bytes], remote: Remote) -> Iterator[bytes]:
    assert process.stdout is not None
    while select.select([process.stdout], [], [], remote.timeout_seconds)[0]:
        chunk = process.stdout.read1(CHUNK)  # type: ignore[attr-defined]
        if not chunk:
            if process.wait():
                raise TransferError("connection", f"{remote.url} ended with status {process.returncode}")
            return
        yield chunk
    raise TransferError("stalled", f"{remote.url}: no byte for {remote.timeout_seconds:g} s")


@contextlib.contextmanager
def _as_trouble(where: str) -> Iterator[None]:
    """Turn what a back end raises into a TransferError."""
    try:
        yield
    except (TransferError, RecipeError):
        raise
    except urllib.error.HTTPError as error:
        raise _status_trouble(error, where) from error
    except FileNotFoundError as error:
        raise TransferError("missing", f"{where}: not found") from error
    except PermissionError as error:
        raise TransferError("forbidden", f"{where}: {error}") from error
    except TimeoutError as error:
        raise TransferError("stalled", f"{where}: no answer in time") from error
    except http.client.IncompleteRead as error:
        raise TransferError("short", f"{where}: {error}") from error
    # Each back end has errors of its own, and none tells apart what another try could mend.
    except Exception as error:
        stalled = isinstance(getattr(error, "reason", None), TimeoutError)
        raise TransferError("stalled" if stalled else "connection", f"{where}: {error}") from error


def _status_trouble(error: urllib.error.HTTPError, where: str) -> TransferError:
    detail = f"{where}: HTTP {error.code} {error.reason}"
    if error.code in (404, 410):
        return TransferError("missing", detail)
    if error.code in (400, 401, 403):
        return TransferError("forbidden", detail)
    if error.code == 416:  # more was here already than the server has now
        return TransferError("changed", detail)
    return TransferError("busy", detail, seconds_told(error.headers.get("Retry-After") or ""))


def seconds_told(told: str) -> float:
    """Return how long a server asks to be left alone: a number of seconds, or a date; 0 for anything else."""
    if SECONDS.fullmatch(told):
        return float(told)
    try:
        then = email.utils.parsedate_to_datetime(told)
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return max(0.0, (then - datetime.now(then.tzinfo)).total_seconds())
