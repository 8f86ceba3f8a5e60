"""The server that `bench` loads if it is given none: an echo, and a room at /room, in a process of its own.

Knows nothing of loads.  The process ends when whoever started it closes its standard input, or is gone itself.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gevent import subprocess

from gws import terminal
from gws import websocket as ws
from gws.errors import GwsError
from gws.server import Server

__all__ = ["ROOM", "main", "serving"]

#: The path at which everything goes to everybody there.
ROOM = "/room"

_PATIENCE = 5.0  # seconds for it to go


@contextlib.contextmanager
def serving() -> Iterator[tuple[int, int]]:
    """Start the server, and give (port, process number); it is gone in the end.   Blocks."""
    here = str(Path(__file__).parents[1])
    path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-m", "gws.benchserver"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,  # a Ctrl-C is for us
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line.strip().isdigit():
            raise GwsError("the server to be loaded did not start")
        yield int(line), process.pid
    finally:
        process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE)
        if process.returncode is None:
            process.kill()
            process.wait()
        process.stdout.close()


def main() -> None:
    """Serve until the input ends.   Blocks."""
    room: set[ws.WebSocket] = set()

    def connected(fd: ws.WebSocket, addr: Any) -> None:
        if fd.path != ROOM:
            return
        room.add(fd)
        try:
            for message in fd:
                ws.broadcast(room, message)
        finally:
            room.discard(fd)

    server = Server()
    server.on("connection", connected)
    server.on("message", ws.write)
    server.start("127.0.0.1", 0)
    terminal.write(f"{server.port}\n")
    for _ in terminal.lines():
        pass
    server.stop(timeout=0)


if __name__ == "__main__":
    main()
