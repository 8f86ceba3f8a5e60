"""A WebSocket connection: messages, control frames, goodbyes (RFC 6455 sections 5.4, 5.5 and 7).

Knows nothing of HTTP, of listening or of connecting: it is given a stream on which the handshake is done, and an
owner whom it tells of pings, pongs and slow peers.  Of the stream it asks whole frames, in order, each of them sound
by itself; what only their sequence shows is judged here.

`fd.write(m)` and `ws.write(fd, m)` are one function.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from time import monotonic
from typing import Any, NoReturn, Protocol

import gevent
from gevent.event import AsyncResult, Event

from gws.deflate import Compression, Deflate, deflate_once
from gws.errors import ConnectionClosed, ProtocolError
from gws.frame import (
    BINARY,
    CLOSE,
    CONTINUATION,
    FIN,
    PING,
    PONG,
    RSV1,
    TEXT,
    decode_close,
    encode,
    encode_close,
    slack,
)
from gws.message import Fragments, Message, encode_message
from gws.stream import Stream
from gws.utf8 import Utf8, decode

__all__ = [
    "CLOSED",
    "CLOSING",
    "CONNECTING",
    "OPEN",
    "Limits",
    "Owner",
    "WebSocket",
    "broadcast",
    "close",
    "ping",
    "read",
    "write",
]

log = logging.getLogger("gws")

CONNECTING, OPEN, CLOSING, CLOSED = range(4)
_LINGER = 2.0  # seconds that a peer which broke the protocol has for reading why
_WHOLE_TEXT = FIN | TEXT
_STATES = ("connecting", "open", "closing", "closed")
_QUIET = (1000, 1001, 1005)  # the codes after which an iteration just ends
_NOTHING = (1006, "")  # what we have given the peer before our Close
_COMPRESSION = Compression()


@dataclass(frozen=True)
class Limits:
    """What one connection may cost, and for how long; each is an option of `listen()` and `connect()`."""

    max_message: int = 1024 * 1024  #: bytes in a message, after decompression; beyond it: close 1009
    max_pending: int = 16 * 1024 * 1024  #: bytes unsent to a slow peer; beyond it a broadcast closes it, 1013
    ping_interval: float | None = 20  #: seconds between our pings; None: no keepalive
    ping_timeout: float = 20  #: seconds without a sign of life after a ping; beyond it: close 1011
    close_timeout: float = 10  #: seconds to wait for the peer's Close; beyond it the socket is shut
    compression: Compression | None = _COMPRESSION  #: permessage-deflate (RFC 7692), if the peer can; None: never

    def __post_init__(self) -> None:
        if not isinstance(self.compression, Compression | None):
            raise TypeError(f"compression must be a gws.deflate.Compression or None, not {self.compression!r}")
        for name in ("max_message", "max_pending", "ping_interval", "ping_timeout", "close_timeout"):
            value = getattr(self, name)
            if value is None and name == "ping_interval":
                continue
            if not isinstance(value, int | float) or not value > 0:
                raise ValueError(f"{name} must be a positive number, not {value!r}")
            if name.startswith("max_") and not (isinstance(value, int) and value < sys.maxsize):
                raise ValueError(f"{name} must be a whole number below {sys.maxsize}, not {value!r}")


class Owner(Protocol):
    """Who made the connection, and is told what happens on it besides messages."""

    def told(self, fd: WebSocket, event: str, value: Any) -> None:
        """`event` is "ping" or "pong" (value: its payload), or "warning" (value: KiB pending; must not block)."""


class WebSocket:
    """One connection.   One greenlet may read at a time; any number may write, ping and close.

    Hashable by identity, printable, and safe after the end: a read or a write then raises ConnectionClosed.
    """

    __slots__ = (
        "__weakref__",
        "_awaited",
        "_end_known",
        "_ended",
        "_fragments",
        "_given",
        "_limits",
        "_owner",
        "_probed",
        "_room",
        "_see",
        "_utf8",
        "addr",
        "data",
        "deflate",
        "latency",
        "number",
        "protocol",
        "request",
        "server",
        "state",
        "stream",
    )

    def __init__(self, stream: Stream, owner: Owner, limits: Limits, *, server: bool, addr: Any = None):
        self.stream = stream
        self._owner = owner
        self._limits = limits
        self.server = server
        self.addr = addr  #: the peer's, as the socket has it: (host, port), or a path
        self.number = next(_numbers)  #: unlike a descriptor's, never used again
        self.request: Any = None  #: the opening request (of a server's connection)
        self.protocol: str | None = None  #: the subprotocol agreed on
        self.deflate: Deflate | None = None  #: the compression agreed on
        self.data: Any = None  #: yours
        self.latency: float | None = None  #: seconds that the last answered keepalive ping took
        self.state = CONNECTING
        self._room = limits.max_message  # bytes left for the next frame of the message at hand
        self._fragments: Fragments | None = None
        self._utf8: Utf8 | None = None  # of a first fragment that does not come in one piece
        self._see: Any = self._partial  # bound once, not for each frame
        self._given = _NOTHING  # the code and reason of our own Close
        self._end_known: tuple[int, str, BaseException | None] | None = None  # code, reason, cause
        self._ended: Event | None = None
        self._probed: tuple[bytes, float] | None = None
        self._awaited: dict[bytes, tuple[float, AsyncResult[float]]] | None = None

    def __repr__(self) -> str:
        peer = ":".join(map(str, self.addr[:2])) if isinstance(self.addr, tuple) else self.addr or "-"
        return f"<WebSocket {self.number} {peer} {self.describe()}>"

    def __iter__(self) -> Iterator[Message]:
        """Read until the end; raise ConnectionClosed unless that was 1000, 1001 or 1005."""
        return self

    def __next__(self) -> Message:
        """Read the next message of an iteration, which a Timeout only interrupts.   Blocks."""
        try:
            return self.read()
        except ConnectionClosed as end:
            if end.code in _QUIET:
                raise StopIteration from None
            raise

    def describe(self) -> str:
        """Return the state in a few words."""
        if self.state != CLOSED:
            return _STATES[self.state]
        return f"closed {self.code} {self.reason}".rstrip()

    @property
    def path(self) -> str | None:
        """The request's target without its query (of a server's connection)."""
        return None if self.request is None else self.request.path

    @property
    def closed(self) -> bool:
        """Whether it is over."""
        return self.state == CLOSED

    @property
    def code(self) -> int | None:
        """The close code once it is over: the peer's; if it gave none, ours; else 1006 (section 7.1.5)."""
        return self._end_known[0] if self._end_known and self.state == CLOSED else None

    @property
    def reason(self) -> str | None:
        """The close reason once it is over (section 7.1.6)."""
        return self._end_known[1] if self._end_known and self.state == CLOSED else None

    @property
    def pending(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return self.stream.pending

    @property
    def ended(self) -> Event:
        """Set once it is over."""
        if self._ended is None:
            self._ended = Event()
            if self.state == CLOSED:
                self._ended.set()
        return self._ended

    def opened(self) -> None:
        """Say that the opening handshake is done (its owner says so)."""
        if self.deflate is not None:
            self.stream.rsv = RSV1
        self.state = OPEN
        self.stream.warn = self._warn

    # -------------------------------------------------------------------------------------------- reading

    def read(self) -> Message:
        """Return the next whole message: text is str, binary is bytes.   Blocks.   Raises ConnectionClosed."""
        while True:
            if self.state != OPEN:
                self._expect_end()
            try:
                first, payload = self.stream.read_frame(self._room, self._see, True)
            except BaseException as error:
                self._stopped(error)
                continue
            try:
                if first == _WHOLE_TEXT and self._fragments is None:
                    message: Message | None = payload
                else:
                    message = _FRAMES[first](self, first, payload)
            except ProtocolError as error:
                self._fail(error)
                continue
            except BaseException:
                self._hand_over()
                raise
            # What still comes once we have sent Close is nobody's any more, as in a browser.
            if message is not None and (self.state == OPEN or self._given is _NOTHING):
                return message

    _recv = read  # the loop, under the name that it has in the Lua library

    def _stopped(self, error: BaseException) -> None:
        """Take what has ended the wait for a frame; raise it again if it has nothing to do with the connection."""
        if isinstance(error, ProtocolError):
            self._fail(error)
        # gevent.Timeout(5, TimeoutError) throws an OSError in here too; the kernel's have a number.
        elif isinstance(error, EOFError) or (isinstance(error, OSError) and error.errno is not None):
            self._end(*self._given, error)
        else:
            self._hand_over()
            raise error

    def _hand_over(self) -> None:
        """Let somebody else read on, as this greenlet is called away: close() may wait for what it would have read."""
        if self.state == CLOSING and self._given is not _NOTHING and self._ended is not None:
            gevent.spawn(self._await_close)

    def _partial(self, first: int, piece: bytes) -> None:
        """Refuse a fragment's invalid UTF-8 as soon as it is here, before the fragment is whole (section 8.1)."""
        if first == CONTINUATION or first == FIN | CONTINUATION:
            if self._fragments is not None:
                self._fragments.see(piece)
        elif first == TEXT:
            self._utf8 = self._utf8 or Utf8()
            self._utf8.see(piece)

    def _on_text(self, first: int, payload: str) -> Message:
        raise _interrupted()  # `read` takes it, if it interrupts nothing

    def _on_binary(self, first: int, payload: bytes) -> Message:
        if self._fragments is not None:
            raise _interrupted()
        return payload

    def _on_deflated(self, first: int, payload: bytes) -> Message:
        if self._fragments is not None:
            raise _interrupted()
        assert self.deflate is not None  # or RSV1 would not have passed the stream
        data = self.deflate.inflate(payload, self._limits.max_message, True)
        return decode(data) if first & 0x0F == TEXT else data

    def _on_start(self, first: int, payload: bytes) -> Message | None:
        """Take the first frame of a message in fragments."""
        if self._fragments is not None:
            raise _interrupted()
        self._fragments = Fragments(first, self._utf8, self._limits.max_message, self.deflate)
        self._utf8 = None
        if first & RSV1:
            self._room += slack(self._room)  # `inflate` sees to the limit
        return self._on_more(first, payload)

    def _on_more(self, first: int, payload: bytes) -> Message | None:
        if self._fragments is None:
            raise ProtocolError("there is no message to continue (RFC 6455 section 5.4)")
        self._fragments.add(payload, bool(first & FIN))
        if not first & FIN:
            self._room = max(0, self._room - len(payload))
            return None
        message = self._fragments.message()
        self._fragments = None
        self._room = self._limits.max_message
        return message

    def _on_ping(self, first: int, payload: bytes) -> None:
        # "Upon receipt of a Ping frame, an endpoint MUST send a Pong frame in response, unless it already received a
        # Close frame."  (5.5.2)
        if self.state == OPEN:
            with contextlib.suppress(BrokenPipeError):
                self.stream.write_frame(FIN | PONG, payload)
        self._owner.told(self, "ping", payload)

    def _on_pong(self, first: int, payload: bytes) -> None:
        if self._probed is not None and self._probed[0] == payload:  # the keepalive's affair, not the handlers'
            self.latency = monotonic() - self._probed[1]
            self._probed = None
        elif self._awaited and payload in self._awaited:
            began, answer = self._awaited.pop(payload)
            answer.set(monotonic() - began)
        else:
            self._owner.told(self, "pong", payload)

    def _on_close(self, first: int, payload: bytes) -> None:
        code, reason = decode_close(payload)
        self._end_known = (code, reason, None)
        try:
            with _at_most(self._limits.close_timeout):
                # "the endpoint MUST send a Close frame in response ... it typically echos the status code"  (5.5.1)
                self._say_goodbye(code, reason, payload[:2])
                self.stream.drain()
                # "The server MUST close the TCP connection immediately; the client SHOULD wait for the server"  (7.1.1)
                if self.server:
                    self.stream.shutdown()
                else:
                    self.stream.linger()
        finally:
            self._end(code, reason)

    # -------------------------------------------------------------------------------------------- writing

    def write(self, message: Message | bytearray | memoryview) -> None:
        """Send one message: str as text, bytes-like as binary.   Blocks while the peer is too slow.

        Raises TypeError for anything else than a message, ConnectionClosed after the end.
        """
        if type(message) is not str or self.deflate is not None:
            first, payload = encode_message(message)
        else:
            first, payload = _WHOLE_TEXT, message  # type: ignore[assignment]  # the stream takes its UTF-8 uncopied
        if self.state != OPEN:
            self._refuse()
        if self.deflate is not None and self.deflate.wants(payload):
            first, payload = first | RSV1, self.deflate.deflate(payload)
        try:
            self.stream.write_frame(first, payload)
        except BrokenPipeError as error:
            self._broken(error)
        except BaseException:
            if self.deflate is not None:
                self.deflate.release()  # if it was not sent (in another thread, say), nothing may refer to it
            raise

    def ping(self, payload: Message = b"") -> None:
        """Send a Ping of at most 125 bytes; its answer comes to `on("pong")`.   Blocks while the peer is too slow."""
        data = encode_message(payload)[1]
        if len(data) > 125:
            raise ValueError(f"a ping holds at most 125 bytes, not {len(data)} (RFC 6455 section 5.5)")
        if self.state != OPEN:
            self._refuse()
        try:
            self.stream.write_frame(FIN | PING, data)
        except BrokenPipeError as error:
            self._broken(error)

    def measure(self) -> float:
        """Send a Ping and return the seconds until its Pong; somebody else must be reading meanwhile.   Blocks."""
        token = os.urandom(8)
        answer: AsyncResult[float] = AsyncResult()
        self._awaited = {} if self._awaited is None else self._awaited
        self._awaited[token] = (monotonic(), answer)
        try:
            self.ping(token)
            return answer.get()  # type: ignore[return-value]  # without a timeout it is never None
        finally:
            self._awaited.pop(token, None)

    def _frame_of(self, first: int, payload: bytes, shared: dict[Any, bytes]) -> bytes:
        """Encode a broadcast message for a connection that cannot have the plain frame; `shared` is by compression."""
        if self.deflate is None or not self.deflate.wants(payload):
            return self._encode(first, payload)
        key = self.deflate.share()
        if key not in shared:
            shared[key] = deflate_once(payload, key)
        return self._encode(first | RSV1, shared[key])

    def _overflow(self) -> None:
        """Close a peer for which more than `max_pending` bytes would wait: 1013 goes behind what was accepted."""
        reason = f"{self.stream.pending // 1024} KiB are waiting to be read"
        with contextlib.suppress(OSError):
            self.stream.post(self._encode(CLOSE, encode_close(1013, reason)))
        self._given, self.state = (1013, reason), CLOSING
        gevent.spawn(self.close, 1013)

    def _encode(self, opcode: int, payload: bytes) -> bytes:
        return encode(payload, opcode & ~FIN, masked=not self.server)

    def _warn(self, size: int) -> None:
        self._owner.told(self, "warning", size // 1024)

    def _broken(self, error: OSError) -> NoReturn:
        """Nothing reaches the peer any more; what it said last may still be there to be read."""
        if self.state == OPEN:
            self.state = CLOSING
        if self._end_known is not None:
            raise self.over()
        raise ConnectionClosed(*self._given) from error

    def _refuse(self) -> NoReturn:
        if self._end_known is not None:
            raise self.over()
        raise ConnectionClosed(self._given[0], f"the connection is {self.describe()}")

    # -------------------------------------------------------------------------------------------- the end

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Send Close and wait for the peer's, `close_timeout` seconds at most (section 7.1.2).   Blocks.

        Messages that still come are dropped.  Safe to repeat, and from any greenlet.   ValueError for a code or a
        reason that no Close may carry.
        """
        payload = encode_close(code, reason)
        self.stream.flush()  # tells another thread off before anything has changed
        try:
            with _at_most(self._limits.close_timeout):
                if self.state in (OPEN, CLOSING):
                    self._say_goodbye(code, reason, payload)
                    self._await_close()
        finally:
            self._end(*self._given, TimeoutError("the peer sent no Close"))

    def verdict(self, error: BaseException) -> BaseException | None:
        """Tell what was wrong when its reader or a handler met `error`: None for an ordinary end.   Blocks.

        After a failed or a late write the peer's last words may still be there: they are heard first.
        """
        if not isinstance(error, ConnectionClosed) or self.state == OPEN:  # (or another connection's end, uncaught)
            log.error("a handler of %r failed", self, exc_info=error)
            return error
        with _at_most(self._limits.close_timeout):
            self._await_close()
        self._end(*self._given)
        cause = self.over().__cause__
        return cause if isinstance(cause, Exception) and not isinstance(cause, EOFError | TimeoutError) else None

    def cut(self, code: int, reason: str) -> None:
        """End it now, with a Close if the kernel takes one; the peer is not waited for.   Never blocks."""
        if self.state in (OPEN, CLOSING):
            with contextlib.suppress(OSError):
                if self.state == OPEN:
                    self.stream.post(self._encode(CLOSE, encode_close(code, reason)))
                    self._given = (code, reason)
                self.stream.flush()
        self._end(*self._given, TimeoutError(reason))

    def _say_goodbye(self, code: int, reason: str, payload: bytes) -> None:
        """Send our Close, once; no message follows it (section 5.5.1).   Blocks."""
        if self._given is _NOTHING:
            self._given, self.state = (code, reason), CLOSING
            with contextlib.suppress(BrokenPipeError):
                self.stream.write_frame(FIN | CLOSE, payload)

    def _await_close(self) -> None:
        """Read until the end, or wait for it if somebody else reads; messages are dropped."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                self._recv()

    def _expect_end(self) -> None:
        """A read in any state but OPEN: over is over, and who comes second while it is closing waits for it."""
        if self.state == CLOSING and (self.stream.reading or self._end_known is not None):
            self.ended.wait(self._limits.close_timeout)
            self._end(*self._given, TimeoutError("the peer sent no Close"))
        if self.state == CONNECTING:
            self._refuse()
        if self.state == CLOSED:
            raise self.over()

    def _fail(self, error: ProtocolError) -> None:
        """_Fail the WebSocket Connection_ (section 7.1.7): tell the peer why, and listen to it no longer."""
        code, reason = (error.code, str(error)) if self._given is _NOTHING else self._given
        self._end_known = (code, reason, error)
        try:
            with _at_most(self._limits.close_timeout):
                self._say_goodbye(code, reason, encode_close(error.code, str(error)[:120]))
                self.stream.drain()
                self.stream.shutdown()
                with _at_most(_LINGER):
                    self.stream.linger()
        finally:
            self._end(code, reason, error)

    def _end(self, code: int, reason: str, cause: BaseException | None = None) -> None:
        """End it as is known already, or else in this way."""
        if self.state == CLOSED:
            return
        self.stream.close()  # first, as it tells another thread off
        self.state = CLOSED
        self._end_known = self._end_known or (code, reason, cause)
        self.deflate = self._fragments = self._utf8 = self._see = None
        self.stream.warn = None
        if self._ended is not None:
            self._ended.set()
        for _, answer in (self._awaited or {}).values():
            answer.set_exception(self.over())

    def over(self) -> ConnectionClosed:
        """Return what a read raises after the end."""
        assert self._end_known is not None
        code, reason, cause = self._end_known
        error = ConnectionClosed(code, reason)
        error.__cause__ = cause
        return error

    # -------------------------------------------------------------------------- for the keepalive (see there)

    def probe(self) -> None:
        """Send a keepalive Ping; never blocks."""
        if self.deflate is not None:
            self.deflate.release_idle()
        if self.state == OPEN:
            self._probed = os.urandom(4), monotonic()
            with contextlib.suppress(OSError):
                self.stream.post(self._encode(PING, self._probed[0]))

    @property
    def heard(self) -> int:
        """Something that differs after every sign of life."""
        return self.stream.received

    @property
    def waiting(self) -> bool:
        """Whether the peer has sent something that nobody has read yet."""
        return self.stream.unread


_numbers = count(1)


def _at_most(seconds: float) -> gevent.Timeout:
    """Return a context that ends, in silence, after `seconds`."""
    return gevent.Timeout(seconds, False)  # type: ignore[arg-type]  # gevent's word for "in silence"


def _interrupted() -> ProtocolError:
    return ProtocolError("a message begins before the last one has ended (RFC 6455 section 5.4)")


_FRAMES: dict[int, Any] = {
    FIN | TEXT: WebSocket._on_text,
    FIN | BINARY: WebSocket._on_binary,
    FIN | CONTINUATION: WebSocket._on_more,
    FIN | CLOSE: WebSocket._on_close,
    FIN | PING: WebSocket._on_ping,
    FIN | PONG: WebSocket._on_pong,
    CONTINUATION: WebSocket._on_more,
    TEXT: WebSocket._on_start,
    BINARY: WebSocket._on_start,
    FIN | RSV1 | TEXT: WebSocket._on_deflated,
    FIN | RSV1 | BINARY: WebSocket._on_deflated,
    RSV1 | TEXT: WebSocket._on_start,
    RSV1 | BINARY: WebSocket._on_start,
}

read = WebSocket.read
write = WebSocket.write
ping = WebSocket.ping
close = WebSocket.close


def broadcast(fds: Iterable[WebSocket], message: Message | bytearray | memoryview) -> None:
    """Send one message to many, encoded once, and compressed once for each way that was agreed on.   Never blocks.

    Who is closed is passed over; a peer for which more than `max_pending` bytes would wait is closed, 1013.
    """
    first, payload = encode_message(message)
    plain = encode(payload, first & 0x0F)
    shared: dict[Any, bytes] = {}
    for fd in fds:
        if fd.state != OPEN:
            continue
        if fd.stream.pending + len(plain) > fd._limits.max_pending:
            fd._overflow()
            continue
        frame = plain if fd.server and fd.deflate is None else fd._frame_of(first, payload, shared)
        try:
            fd.stream.post(frame)
        except OSError:
            continue  # it is ending: its reader will hear
