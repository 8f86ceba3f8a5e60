"""A graceful stop of WSGI servers: each connection is told 1001, once the message that its app has at hand is answered.

Knows nothing of gunicorn or of signals: `leave` is called when the servers take no more connections.  What is left of
the app's business is judged from outside: it is done when it reads again, when as many messages have gone out as it was
handed (another greenlet may answer), and when nothing went out lately.  What had arrived is handed to it while there is
time; what comes in meanwhile, to nobody.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic
from typing import Any

import gevent
from gevent import get_hub

from gws import sockethelper
from gws.wsgi import WebSocket, WebSocketHandler, handlers

__all__ = ["PATIENCE", "cut", "leave"]

PATIENCE = 1.5  #: seconds that an app has for answering what it was handed

_POLL = 0.02  # seconds


def leave(servers: Iterable[Any], code: int = 1001, reason: str = "", patience: float = PATIENCE) -> None:
    """Close the servers' connections, each as soon as it can be and after `patience` seconds at the latest.   Blocks.

    Returns when no connection is left, which is its peer's affair as well; requests of plain HTTP are let finish.
    """
    _Leaving(list(servers), code, reason, monotonic() + patience).run()


def cut(servers: Iterable[Any], code: int = 1001, reason: str = "") -> None:
    """End the servers' WebSocket connections now, with a Close but without waiting for the peer's."""
    for server in servers:
        for handler in list(handlers(server)):
            if handler.websocket is not None:
                handler.websocket.cut(code, reason)


class _Leaving:
    def __init__(self, servers: list[Any], code: int, reason: str, until: float):
        self._servers = servers
        self._code = code
        self._reason = reason
        self._until = until
        self._sent: dict[WebSocket, int] = {}  # messages that had gone out when it was looked at last
        self._told: set[WebSocket] = set()

    def run(self) -> None:
        while True:
            late = monotonic() > self._until
            present = [handler for server in self._servers for handler in handlers(server)]
            for handler in present:
                if handler.websocket is None:
                    self._dismiss(handler, late)
                elif handler.websocket not in self._told:
                    self._consider(handler.websocket, late)
            if late:
                self._end_handshakes(present)
            if not present and not any(server.pool for server in self._servers):
                return
            gevent.sleep(_POLL)

    def _consider(self, fd: WebSocket, late: bool) -> None:
        """Close a connection that is done; it has to have been so for a while, lest another part of an answer comes."""
        fd.leave(self._code, self._reason, self._until - monotonic())
        before, now = self._sent.get(fd), fd.stream.messages_sent
        self._sent[fd] = now
        if late or (fd.settled and now == before):
            self._told.add(fd)
            del self._sent[fd]
            gevent.spawn(fd.close, self._code, self._reason)

    def _dismiss(self, handler: WebSocketHandler, late: bool) -> None:
        """Let plain HTTP end: who waits for another request goes at once, who waits for a first one may still come."""
        handler.close_connection = True
        if handler.idle and (late or handler.served):
            get_hub().loop.run_callback(_send_home, handler)

    def _end_handshakes(self, present: list[WebSocketHandler]) -> None:
        """End those that have not even begun with HTTP: TLS handshakes that come to nothing."""
        known = {handler.running for handler in present}
        for server in self._servers:
            for running in list(server.pool or ()):
                if running not in known:
                    gevent.kill(running)


def _send_home(handler: WebSocketHandler) -> None:
    """End a handler that is still waiting; in the hub, where nothing can come in between."""
    if handler.idle and handler.running is not None and not sockethelper.unread(handler.socket):
        handler.running.throw(gevent.GreenletExit)
