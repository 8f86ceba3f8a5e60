"""An echo server, as a service.

    s = skynet.newservice("gws.echoserver")
    skynet.call(s, "start", {"address": "127.0.0.1", "port": 8888})

Does not know what it echoes.
"""

from __future__ import annotations

from typing import Any

from gws import skynet
from gws import websocket as ws
from gws.server import Server

__all__ = ["EchoServer"]


class EchoServer:
    """A service that sends every message back to who sent it."""

    def __init__(self) -> None:
        self._server = Server()
        self._server.on("message", ws.write)
        skynet.fork(self._hold)

    def start(self, conf: dict[str, Any]) -> Any:
        """Listen, and return the address; `conf` holds "address", "port" and the other options of `listen()`."""
        self._server.start(**conf)
        return self._server.address

    def stop(self) -> None:
        """Take no more connections, and close those that are open, 1001.   Blocks."""
        self._server.stop()

    def _hold(self) -> None:
        """Stop when the service ends.   Blocks."""
        try:
            skynet.wait()
        finally:
            self._server.stop(timeout=0)
