"""gevent-websocket's connection: its calls, and its hooks, on a gws.wsgi.WebSocket.

A message is str, or a bytearray as it was there; None once the peer has closed; whoever goes on gets a WebSocketError.
`receive` calls `read_message`, which calls `handle_ping`, `handle_pong` and `handle_close`; `send` calls `send_frame`:
a subclass may override each of them.
"""

from __future__ import annotations

from logging import Logger
from typing import Any

import gevent

from gws import stream as streams
from gws import wsgi
from gws.drop_in.geventwebsocket.exceptions import FrameTooLargeException, ProtocolError, WebSocketError
from gws.drop_in.geventwebsocket.header import Header
from gws.drop_in.geventwebsocket.utf8validator import Utf8Validator
from gws.errors import ConnectionClosed, InvalidPayload
from gws.errors import ProtocolError as Violation
from gws.frame import CLOSE, FIN, PING, PONG, TEXT, decode_close, encode_close
from gws.goodbye import CLOSED, CONNECTING, OPEN
from gws.message import Message
from gws.utf8 import decode
from gws.websocket import WebSocket as _WebSocket

__all__ = [
    "MSG_ALREADY_CLOSED",
    "MSG_CLOSED",
    "MSG_SOCKET_DEAD",
    "FrameTooLargeException",
    "Header",
    "OpenStream",
    "ProtocolError",
    "Stream",
    "Utf8Validator",
    "WebSocket",
    "WebSocketError",
]

MSG_SOCKET_DEAD = "Socket is dead"
MSG_ALREADY_CLOSED = "Connection is already closed"
MSG_CLOSED = "Connection closed"


class Stream:
    """A connection's bytes before it is open: there is nothing to be read or written yet."""

    __slots__ = ("handler", "warn")

    pending = received = sent = messages_received = messages_sent = unanswered = 0
    reading = unread = buffered = False

    def __init__(self, handler: Any):
        self.handler = handler
        self.warn: Any = None

    def read(self, size: int) -> bytes:
        """Refuse: the 101 is not out."""
        raise WebSocketError("the connection is not open yet")

    def write(self, data: bytes) -> None:
        """Refuse: the 101 is not out."""
        raise WebSocketError("the connection is not open yet")

    def fileno(self) -> int:
        """Return -1: the socket is the handler's still."""
        return -1

    def flush(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing: the socket is the handler's still."""


class OpenStream(streams.Stream):
    """A connection's bytes: gws's stream, that has read(size) and write(data) as well."""

    __slots__ = ("handler",)

    handler: Any


class WebSocket(wsgi.WebSocket):
    """A connection, made of a request's environ and of its handler."""

    __slots__ = ()

    OPCODE_CONTINUATION = 0x00
    OPCODE_TEXT = 0x01
    OPCODE_BINARY = 0x02
    OPCODE_CLOSE = 0x08
    OPCODE_PING = 0x09
    OPCODE_PONG = 0x0A

    def __init__(self, environ: dict[str, Any], stream: Any, handler: Any):
        request, agreed = handler.judged()
        super().__init__(stream, handler, handler.websocket_options(), request)
        self.environ = environ
        self.deflate = agreed.deflate

    # ------------------------------------------------------------------------------------------- what it tells

    @property
    def closed(self) -> bool:
        """Whether it is closed, or about to be."""
        return self.state not in (CONNECTING, OPEN)

    @property
    def protocol(self) -> str | None:
        """What the client has offered to speak, as it wrote it (gws's own connections have what was agreed on)."""
        return self.environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL")

    @protocol.setter
    def protocol(self, agreed: str | None) -> None:
        """Take what was agreed on: the 101 says it, nobody asks us."""

    @property
    def current_app(self) -> Any:
        """The server's application's `current_app`, or something whose `on_close` does nothing."""
        return getattr(self.handler.server.application, "current_app", _NOBODY)

    @property
    def logger(self) -> Logger:
        """The server's log."""
        logger: Logger = self.handler.logger
        return logger

    # ------------------------------------------------------------------------------------------- reading

    def receive(self) -> Any:
        """Return the next message; None when the peer has closed, or left, or broke the protocol.   Blocks.

        WebSocketError if it was closed before.   TimeoutError: see `settimeout`.
        """
        if self.closed:
            self.current_app.on_close(MSG_ALREADY_CLOSED)
            raise WebSocketError(MSG_ALREADY_CLOSED)
        try:
            if self.gettimeout() is None:
                return self.read_message()
            with gevent.Timeout(self.gettimeout(), TimeoutError("the peer has sent nothing")):
                return self.read_message()
        except TimeoutError:
            raise
        except UnicodeError:
            self.close(1007)
        except ProtocolError:
            self.close(1002)
        except OSError:
            self.close()
            self.current_app.on_close(MSG_CLOSED)
        return None

    def read_message(self) -> Any:
        """Return the next message, None at the peer's Close.   Blocks.   Raises what was wrong: `receive` takes it."""
        try:
            message = self.read() if type(self).read_frame is WebSocket.read_frame else self._read_by_frames()
        except ConnectionClosed as end:
            cause = end.__cause__
            if isinstance(cause, InvalidPayload):
                raise UnicodeError(str(cause)) from cause
            if isinstance(cause, Violation):
                raise ProtocolError(str(cause)) from cause
            if cause is not None:
                raise WebSocketError(MSG_CLOSED) from cause
            return None
        return bytearray(message) if isinstance(message, bytes) else message

    def read_frame(self) -> tuple[Header, Any]:
        """Return the next frame's header and payload, unmasked.   Blocks.   Meant for `read_message`."""
        try:
            first, payload = self.stream.read_frame(self._room)
        except Violation as error:
            raise ProtocolError(str(error)) from error
        except EOFError as error:
            raise WebSocketError("the peer has left") from error
        return Header.of(first, len(payload)), payload

    def _read_by_frames(self) -> Message:
        """Read a message by a `read_frame` that is not ours."""
        while self.state == OPEN:
            header, payload = self.read_frame()
            payload = bytes(payload)
            first = header.opcode | header.flags | (FIN if header.fin else 0)
            try:
                if first == FIN | TEXT and self._fragments is None:
                    return decode(payload)
                if first not in self._frames:
                    raise Violation(f"there is no opcode {header.opcode} (RFC 6455 section 5.2)")
                message: Message | None = self._frames[first](self, first, payload)
            except Violation as error:
                self._fail(error)
                continue
            if message is not None:
                return message
        return self.read()  # which knows how it ended

    def handle_ping(self, header: Header, payload: bytes) -> None:
        """Answer a Ping; override it to hear of it.   Blocks while the peer is too slow."""
        _WebSocket._on_ping(self, FIN | PING, payload)

    def handle_pong(self, header: Header, payload: bytes) -> None:
        """Hear of a Pong; override it."""

    def handle_close(self, header: Header, payload: bytes) -> None:
        """Answer a Close; override it to hear of it, or to close in another way.   Blocks."""
        _WebSocket._on_close(self, FIN | CLOSE, payload)

    def _meet_ping(self, first: int, payload: bytes) -> None:
        self.handle_ping(Header.of(first, len(payload)), payload)

    def _meet_pong(self, first: int, payload: bytes) -> None:
        _WebSocket._on_pong(self, first, payload)
        self.handle_pong(Header.of(first, len(payload)), payload)

    def _meet_close(self, first: int, payload: bytes) -> None:
        code, reason = decode_close(payload)
        self._end_known = code, reason, None
        self.handle_close(Header.of(first, len(payload)), payload)
        if self.state != CLOSED:  # the hook has not answered it, or in its own words
            _WebSocket._on_close(self, first, payload)

    _frames = _WebSocket._frames | {FIN | PING: _meet_ping, FIN | PONG: _meet_pong, FIN | CLOSE: _meet_close}

    # ------------------------------------------------------------------------------------------- writing

    def send(self, message: Any, binary: bool | None = None) -> None:
        """Send a message: str as text, all else as binary, unless `binary` says how.   Blocks.   WebSocketError."""
        if binary is None:
            binary = not isinstance(message, str)
        try:
            self.send_frame(message, self.OPCODE_BINARY if binary else self.OPCODE_TEXT)
        except WebSocketError as error:
            self.current_app.on_close(MSG_SOCKET_DEAD)
            raise WebSocketError(MSG_SOCKET_DEAD) from error

    def send_frame(self, message: Any, opcode: int) -> None:
        """Send a message, or a control frame, with this opcode.   Blocks.   WebSocketError once it is closed."""
        if self.closed:
            self.current_app.on_close(MSG_ALREADY_CLOSED)
            raise WebSocketError(MSG_ALREADY_CLOSED)
        try:
            self._send(message, opcode)
        except ConnectionClosed as error:
            raise WebSocketError(MSG_SOCKET_DEAD) from error

    def _send(self, message: Any, opcode: int) -> None:
        if opcode == self.OPCODE_TEXT:
            self.write(_text(message))
        elif opcode == self.OPCODE_BINARY:
            self.write(message.encode() if isinstance(message, str) else bytes(message))
        elif opcode == self.OPCODE_PING:
            self.ping(_text(message))
        elif opcode == self.OPCODE_PONG:
            self.pong(message.encode() if isinstance(message, str) else bytes(message))
        elif opcode == self.OPCODE_CLOSE:
            code, reason = decode_close(bytes(message))
            self.close(1000 if code == 1005 else code, reason)
        else:
            raise ValueError(f"no frame of its own has the opcode {opcode!r}")

    def pong(self, payload: bytes = b"") -> None:
        """Send a Pong of at most 125 bytes that nobody has asked for (section 5.5.3).   Blocks."""
        if len(payload) > 125:
            raise ValueError(f"a pong holds at most 125 bytes, not {len(payload)} (RFC 6455 section 5.5)")
        if self.state != OPEN:
            self._refuse()
        try:
            self.stream.write_frame(FIN | PONG, payload)
        except BrokenPipeError as error:
            self._broken(error)

    def close(self, code: int = 1000, reason: str | bytes = "", message: str | bytes | None = "") -> None:
        """Close with this code; `message` and `reason` are one thing, and may be bytes or None.   Blocks.

        Safe to repeat; the application's `on_close` hears of that, as it did.
        """
        said = _text(reason or message or "")
        if self.state == CLOSED:
            self.current_app.on_close(MSG_ALREADY_CLOSED)
        elif self._end_known is not None:  # in `handle_close`: whoever called that goes on from here
            self._say_goodbye(code, said, encode_close(code, said))
        else:
            super().close(code, said)


class _Nobody:
    def on_close(self, *args: Any) -> None:
        """Hear it, and do nothing."""


_NOBODY = _Nobody()


def _text(value: Any) -> str:
    """Return what is sent as text: bytes are UTF-8, and anything else is as it prints, None as nothing."""
    if isinstance(value, bytes | bytearray | memoryview):
        return str(value, "utf-8")
    return value if isinstance(value, str) else str(value or "")
