"""gevent_ws, over gws: `WebSocketHandler` for pywsgi, and its WebSocket.

As there, the connection is open before `run_application` is called, and a greenlet reads it: pings are answered, and
the end is noticed, whatever the program does.  A message is str or bytes, None once it is over; who sends then gets an
EOFError.
"""

from __future__ import annotations

import errno
import os
import socket as sockets
from typing import Any, ClassVar

from gevent.queue import Empty

from gws import wsgi
from gws.drop_in.inbox import Inbox
from gws.drop_in.terms import terms
from gws.errors import ConnectionClosed, HandshakeError
from gws.goodbye import CONNECTING, OPEN
from gws.message import Message

__all__ = [
    "OPCODE_BINARY",
    "OPCODE_CLOSE",
    "OPCODE_PING",
    "OPCODE_PONG",
    "OPCODE_TEXT",
    "STATUS_DATA_ERROR",
    "STATUS_OK",
    "STATUS_POLICY_VIOLATION",
    "STATUS_PROTOCOL_ERROR",
    "STATUS_TOO_LONG",
    "WebSocket",
    "WebSocketHandler",
]

OPCODE_TEXT, OPCODE_BINARY, OPCODE_CLOSE, OPCODE_PING, OPCODE_PONG = 1, 2, 8, 9, 10
STATUS_OK, STATUS_PROTOCOL_ERROR, STATUS_DATA_ERROR, STATUS_POLICY_VIOLATION, STATUS_TOO_LONG = (
    1000,
    1002,
    1007,
    1008,
    1009,
)

_MOST = 10 * 1024 * 1024  # bytes in a message, as it was there


class Socket:
    """A connection's socket: it can be asked, set and closed; what goes over it is the connection's affair."""

    __slots__ = ("_fd",)

    def __init__(self, fd: WebSocket):
        self._fd = fd

    def fileno(self) -> int:
        """Return the descriptor, -1 once it is closed."""
        return self._fd.stream.fileno()

    def getpeername(self) -> Any:
        """Return the peer's address."""
        with self._duplicate() as sock:
            return sock.getpeername()

    def getsockname(self) -> Any:
        """Return our address."""
        with self._duplicate() as sock:
            return sock.getsockname()

    def getsockopt(self, *args: Any) -> Any:
        """Return an option."""
        with self._duplicate() as sock:
            return sock.getsockopt(*args)

    def setsockopt(self, *args: Any) -> None:
        """Set an option."""
        with self._duplicate() as sock:
            sock.setsockopt(*args)

    def settimeout(self, seconds: float | None) -> None:
        """Let a `receive` raise TimeoutError after `seconds` without a message; None: wait for ever."""
        self._fd.settimeout(seconds)

    def close(self) -> None:
        """End the connection, and do not wait for the peer."""
        self._fd.cut(1001, "")

    def _duplicate(self) -> sockets.socket:
        if self.fileno() < 0:
            raise OSError(errno.EBADF, "the connection is closed")
        return sockets.socket(fileno=os.dup(self.fileno()))


class WebSocket(wsgi.WebSocket):
    """A connection; its handler has made it."""

    __slots__ = ("_inbox",)

    def opened(self) -> None:
        """Begin to read."""
        super().opened()
        self._inbox = Inbox(self, wsgi.WebSocket.read)

    @property
    def closed(self) -> bool:
        """Whether it is closed, or about to be."""
        return self.state not in (CONNECTING, OPEN)

    @property
    def status(self) -> int | None:
        """The code of the peer's Close; None before that, and without one."""
        code = self._end_known[0] if self._end_known else None
        return None if code in (1005, 1006) else code

    @property
    def protocol(self) -> str | None:
        """What the client has offered to speak, as it wrote it."""
        return self.environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL")

    @protocol.setter
    def protocol(self, agreed: str | None) -> None:
        """Take what was agreed on: the 101 says it, nobody asks us."""

    @property
    def socket(self) -> Socket:
        """The socket, as far as it is not the connection's own."""
        return Socket(self)

    def set_max_message_length(self, length: int) -> None:
        """Refuse longer messages, from the next one on."""
        self.allow(length)

    def read(self) -> Message:
        """Return the next message.   Blocks.   Raises ConnectionClosed after the end."""
        return self._inbox.take()

    def receive(self) -> Message | None:
        """Return the next message, None once it is over.   Blocks.   TimeoutError: see `settimeout`."""
        try:
            return self._inbox.take(self.gettimeout())
        except ConnectionClosed:
            return None

    def receive_nowait(self) -> Message | None:
        """Return a message that is there, None once it is over; gevent.queue.Empty if there is none yet."""
        if not self._inbox and not self._inbox.over:
            raise Empty
        return self.receive()

    def send(self, data: Any, binary: bool | None = None) -> None:
        """Send str as text, bytes as binary.   Blocks.   EOFError once it is closed; TypeError for anything else."""
        if self.closed:
            raise EOFError
        try:
            super().send(data, binary)
        except ConnectionClosed as end:
            raise EOFError from end

    def close(self, status: int = STATUS_OK, reason: str | bytes = "", message: str | bytes = "") -> None:
        """Close with this code.   Blocks."""
        super().close(status, reason, message)


class WebSocketHandler(wsgi.WebSocketHandler):
    """Handles the requests of one socket; a request for WebSocket is answered before `run_application`."""

    websocket_class: ClassVar[type[wsgi.WebSocket]] = WebSocket

    def websocket_options(self) -> wsgi.Options:
        """Return the options: those of `install`, unless a subclass has its own."""
        own = type(self).options
        return own if own is not wsgi.WebSocketHandler.options else terms(_MOST)

    def wants_websocket(self) -> bool:
        """Tell an attempt at WebSocket that nobody has answered yet."""
        return self.websocket is None and super().wants_websocket()

    def handle_one_response(self) -> None:
        """Answer a request.   Blocks."""
        if self.wants_websocket():
            vars(self)["run_application"] = self._open_first  # pywsgi finds it before the class's
        try:
            super().handle_one_response()
        finally:
            if self.websocket is not None:  # a subclass's run_application was not ours
                self._finish()

    def _failed(self, error: BaseException) -> bool:
        """Close the connection whose app has raised; who sends after its end is no failure.   Blocks."""
        late = isinstance(error, EOFError) and self.websocket is not None and self.websocket.closed
        return not late and super()._failed(error)

    def _open_first(self) -> None:
        del vars(self)["run_application"]
        try:
            self.upgrade_websocket()
        except HandshakeError as refusal:
            self.refuse(refusal)
        else:
            self.run_application()
