"""A connection as WSGI apps know it: gws's own calls, and those of gevent-websocket, whose place it takes.

Knows nothing of pywsgi: it is given a stream, and a handler which has the request's environ.   It can be asked to leave
(see `leaving`): its app hears nothing more then but what had arrived, and it is closed once that is answered.
"""

from __future__ import annotations

from time import monotonic
from typing import Any, Protocol

import gevent

from gws import sockethelper
from gws.errors import ConnectionClosed
from gws.goodbye import OPEN
from gws.http import Request
from gws.limits import Limits
from gws.message import Message
from gws.stream import Stream
from gws.websocket import Owner
from gws.websocket import WebSocket as _WebSocket

__all__ = ["Handler", "WebSocket"]

_read, _write = _WebSocket.read, _WebSocket.write


class Handler(Owner, Protocol):
    """Who has upgraded the request."""

    client_address: Any
    environ: dict[str, Any]


class WebSocket(_WebSocket):
    """A connection in a WSGI app: a gws.websocket.WebSocket, with what gevent-websocket's users call besides."""

    __slots__ = ("_backlog", "_dropped", "_farewell", "_patience", "environ", "handler")

    def __init__(self, stream: Stream, handler: Handler, options: Limits, request: Request):
        super().__init__(stream, handler, options, server=True, addr=handler.client_address or None)
        self.handler: Any = handler  #: who has made it: a WebSocketHandler
        self.environ: dict[str, Any] = handler.environ  #: of the request, as the server has made it
        self.request = request
        self._patience: float | None = None
        self._farewell: tuple[int, str] | None = None  # what it is going to be closed with
        self._backlog: _Backlog | None = None  # what had arrived by then
        self._dropped = 0  # messages that have come since

    def read(self) -> Message:
        """Return the next whole message, as ever; what comes when it is leaving is nobody's.   Blocks."""
        while True:
            if self._farewell is not None:
                self._take_leave()
            message = _read(self)
            if self._backlog is None or self._backlog.yields():
                return message
            self._dropped += 1

    _recv = read

    def leave(self, code: int = 1001, reason: str = "", patience: float = 0.0) -> None:
        """Hand over what has arrived, no message that comes from now on, and close when its app has answered that.

        What has arrived is left, too, when its answer could take longer than until `patience` seconds from now.
        """
        self._backlog = self._backlog or _Backlog(self.stream, patience)
        self._farewell = (code, reason)

    def _take_leave(self) -> None:
        """Close, as the app reads again, unless it still has something to answer.   Blocks."""
        backlog, farewell = self._backlog, self._farewell
        assert backlog is not None
        assert farewell is not None
        backlog.answered()
        if self.state == OPEN and self._owes_nothing() and not backlog.lasts():
            self.close(*farewell)

    @property
    def settled(self) -> bool:
        """Whether its app is reading, has sent a message for each that it got, and has none to come."""
        waits = self._backlog is not None and self._backlog.lasts()
        return self.stream.reading and self._owes_nothing() and not waits

    def _owes_nothing(self) -> bool:
        return self.stream.unanswered <= self._dropped

    def receive(self) -> Message | None:
        """Return the next message, None once the connection is over.   Blocks.   TimeoutError: see `settimeout`."""
        hurried = self._patience is not None or self._farewell is not None
        try:
            if not hurried:  # `read`, without the cost of a call
                message = _read(self)
                if self._backlog is None or self._backlog.yields():
                    return message
                self._dropped += 1
            with gevent.Timeout(self._patience, TimeoutError("the peer has sent nothing")):
                return self.read()
        except ConnectionClosed:
            return None

    def send(self, message: Message | bytearray | memoryview, binary: bool | None = None) -> None:
        """Send a message, as `write` does; `binary` says how, whatever its type is.   Blocks.   ConnectionClosed."""
        if binary is None:
            _write(self, message)
        elif binary:
            _write(self, message.encode() if isinstance(message, str) else message)
        else:
            _write(self, message if isinstance(message, str) else str(message, "utf-8"))

    def close(self, code: int = 1000, reason: str | bytes = "", message: str | bytes = "") -> None:
        """Close as a gws connection does; `message` is the reason's other name, and either may be bytes.   Blocks."""
        said = reason or message
        super().close(code, said if isinstance(said, str) else said.decode())

    def settimeout(self, seconds: float | None) -> None:
        """Let a `receive` raise TimeoutError after `seconds` without a message; None: wait for ever."""
        self._patience = seconds

    def gettimeout(self) -> float | None:
        """Return what `settimeout` was told."""
        return self._patience

    @property
    def _sock(self) -> WebSocket:
        """Whoever asks for the socket beneath (python-engineio does) wants its `settimeout`."""
        return self

    @property
    def path(self) -> str | None:
        """The request's path, decoded, as WSGI has it; `request.path` is as it was sent."""
        return self.environ.get("PATH_INFO")

    @property
    def origin(self) -> str | None:
        """The Origin that a browser has sent."""
        return self.environ.get("HTTP_ORIGIN")

    @property
    def version(self) -> str | None:
        """The version of the protocol: "13"."""
        return self.environ.get("HTTP_SEC_WEBSOCKET_VERSION")


class _Backlog:
    """What had arrived when its connection was asked to leave, as far as there is time for it.

    The app's next answer may take twice as long as the slowest one since; while none is known, three times as long as
    there was one at hand.  What one recv brings is taken as one: part of it may be new.
    """

    __slots__ = ("_begun", "_end", "_handed", "_old", "_patience", "_received", "_slowest", "_stream")

    def __init__(self, stream: Stream, patience: float):
        self._stream = stream
        self._patience = patience
        self._begun = monotonic()
        self._received = stream.received
        self._end = stream.received + sockethelper.unread(stream)
        self._old = True  # whether what was received last had arrived
        self._handed: float | None = None  # when
        self._slowest: float | None = None  # seconds

    def yields(self) -> bool:
        """Tell whether the message that was just read is to be handed over."""
        self._look()
        if not (self._old and self._is_time()):
            return False
        self._handed = monotonic()
        return True

    def answered(self) -> None:
        """Hear that the app reads again."""
        if self._handed is not None:
            self._slowest = max(self._slowest or 0.0, monotonic() - self._handed)
            self._handed = None

    def lasts(self) -> bool:
        """Tell whether there is more of it, and time."""
        self._look()
        unread = self._received < self._end and self._stream.unread  # (what TLS opens is fewer bytes)
        return (unread or (self._old and self._stream.buffered)) and self._is_time()

    def _look(self) -> None:
        if self._stream.received != self._received:
            self._old = self._received < self._end
            self._received = self._stream.received

    def _is_time(self) -> bool:
        passed = monotonic() - self._begun
        return passed + (3 * passed if self._slowest is None else 2 * self._slowest) <= self._patience
