"""A port for the processes of a job that a benchmark or a test starts."""

from __future__ import annotations

import contextlib
import secrets
import socket


def free_port() -> int:
    """Return a port that nobody listens on, below those that a system hands out to whoever asks for any.

    Another program could be given one of those before the job listens on it.
    """
    while True:
        port = 20_000 + secrets.randbelow(10_000)
        with contextlib.suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
            return port
