"""A WebSocket connection: messages and control frames (RFC 6455 sections 5.4 and 5.5); its end is in `goodbye` (7).

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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import count
from time import monotonic
from typing import Any, ClassVar, NamedTuple, Protocol

import gevent
from gevent.event import AsyncResult

from gws.deflate import Deflate, deflate_once
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
    encode,
    encode_close,
    slack,
)
from gws.goodbye import CLOSED, CLOSING, CONNECTING, NOTHING, OPEN, Goodbye
from gws.heap import trim_soon
from gws.limits import Limits
from gws.message import Fragments, Message, Packed, encode_message
from gws.stream import Stream
from gws.turn import LARGE
from gws.utf8 import Utf8, decode

__all__ = [
    "CLOSED",
    "CLOSING",
    "CONNECTING",
    "OPEN",
    "Limits",
    "Owner",
    "Traffic",
    "WebSocket",
    "broadcast",
    "close",
    "ping",
    "read",
    "write",
]

log = logging.getLogger("gws")

_WHOLE_TEXT = FIN | TEXT
_LITTLE = 64 * 1024  # bytes
_QUIET = (1000, 1001, 1005)  # the codes after which an iteration just ends


class Owner(Protocol):
    """Who made the connection, and is told what happens on it besides messages."""

    def told(self, fd: WebSocket, event: str, value: Any) -> None:
        """`event` is "ping" or "pong" (value: its payload), or "warning" (value: KiB pending; must not block)."""


class Traffic(NamedTuple):
    """What has gone over a connection: whole messages, and bytes as the stream has them (its head too, but no TLS)."""

    messages_received: int
    messages_sent: int
    bytes_received: int
    bytes_sent: int


class WebSocket(Goodbye):
    """One connection.   One greenlet may read at a time; any number may write, ping and close.

    Hashable by identity, printable, and safe after the end: a read or a write then raises ConnectionClosed.
    """

    __slots__ = (
        "__weakref__",
        "_awaited",
        "_fragments",
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
    )

    _frames: ClassVar[dict[int, Callable[..., Any]]]  # below

    def __init__(self, stream: Stream, owner: Owner, limits: Limits, *, server: bool, addr: Any = None):
        super().__init__(stream, limits, server)
        self._owner = owner
        self.addr = addr  #: the peer's, as the socket has it: (host, port), or a path
        self.number = next(_numbers)  #: unlike a descriptor's, never used again
        self.request: Any = None  #: the opening request (of a server's connection)
        self.protocol: str | None = None  #: the subprotocol agreed on
        self.deflate: Deflate | None = None  #: the compression agreed on
        self.data: Any = None  #: yours
        self.latency: float | None = None  #: seconds that the last answered keepalive ping took
        self._room = limits.max_message  # bytes left for the next frame of the message at hand
        self._fragments: Fragments | None = None
        self._utf8: Utf8 | None = None  # of a first fragment that does not come in one piece
        self._see: Any = self._partial  # bound once, not for each frame
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

    @property
    def path(self) -> str | None:
        """The request's target without its query (of a server's connection)."""
        return None if self.request is None else self.request.path

    @property
    def pending(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return self.stream.pending

    @property
    def traffic(self) -> Traffic:
        """What has gone over it so far, also once it is over."""
        stream = self.stream
        return Traffic(stream.messages_received, stream.messages_sent, stream.received, stream.sent)

    def allow(self, max_message: int) -> None:
        """Take messages of at most so many bytes, from the next one on."""
        self._limits = replace(self._limits, max_message=max_message)
        if self._fragments is None:
            self._room = max_message

    def opened(self) -> None:
        """Say that the opening handshake is done (its owner says so)."""
        if self.deflate is not None:
            self.stream.rsv = RSV1
        self.state = OPEN
        self.stream.bound = self._limits.max_pending
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
                    message = self._frames[first](self, first, payload)
            except ProtocolError as error:
                payload = None
                self._fail(error)
                continue
            except BaseException as error:
                if isinstance(error, EOFError) and self.state == CLOSED:
                    continue  # closed while it paused for the others
                self._hand_over()
                raise
            # What still comes once we have sent Close is nobody's any more, as in a browser.
            if message is not None and (self.state == OPEN or self._given is NOTHING):
                return message
            payload = None  # it is not to live for as long as the next frame takes to come

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

    def _partial(self, first: int, piece: bytes) -> None:
        """Refuse what is wrong with a fragment as soon as it shows, its UTF-8 too (section 8.1), before it is whole."""
        opcode = first & 0x0F
        if opcode == CONTINUATION:
            if self._fragments is None:
                raise _uncalled_for()
            self._fragments.see(piece)
        elif opcode < CLOSE and self._fragments is not None:
            raise _interrupted()
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
        deflate = self.deflate
        assert deflate is not None  # or RSV1 would not have passed the stream
        limit, stream = self._limits.max_message, self.stream
        step = 4 * LARGE if stream.trusted else LARGE
        data = deflate.inflate(payload, limit, True, lambda: stream.pause(first, payload, deflate.shed), step)
        return decode(data) if first & 0x0F == TEXT else data

    def _on_start(self, first: int, payload: bytes) -> Message | None:
        """Take the first frame of a message in fragments."""
        if self._fragments is not None:
            raise _interrupted()
        limit = self._limits.max_message
        if first & RSV1:
            self._fragments = Packed(first, self._utf8, limit, self.deflate)
            self._room = min(self._room + slack(self._room), sys.maxsize)  # `Packed` sees to the limit
        else:
            self._fragments = Fragments(first, self._utf8, limit)
        self._utf8 = None
        return self._on_more(CONTINUATION, payload)

    def _on_more(self, first: int, payload: bytes) -> Message | None:
        fragments = self._fragments
        if fragments is None:
            raise _uncalled_for()
        if first & FIN and fragments.size >= LARGE and not fragments.paused:
            fragments.paused = True
            self.stream.pause(first, payload)
        fragments.add(payload, bool(first & FIN), lambda: self.stream.pause(first, payload, fragments.shed))
        if not first & FIN:
            self._room = max(0, self._room - len(payload))
            return None
        message = fragments.message()
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

    # -------------------------------------------------------------------------------------------- writing

    def write(self, message: Message | bytearray | memoryview) -> None:
        """Send one message: str as text, bytes-like as binary.   Blocks while the peer is too slow.

        Where more than `max_pending` bytes of others wait already it is not even queued: a Timeout then leaves nothing.
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
        except BufferError:
            self._write_later(message)
        except BaseException:
            if self.deflate is not None:
                self.deflate.release()  # if it was not sent (in another thread, say), nothing may refer to it
            raise

    def _write_later(self, message: Message | bytearray | memoryview) -> None:
        """Write when there is room: however many greenlets write, they queue little more than `max_pending` bytes."""
        # (In a loop: as often as others are faster, and calls of `write` within `write` would find the stack's end.)
        if self.deflate is not None:
            self.deflate.release()  # what it made of the message was not sent
        stream = self.stream
        while stream.pending > stream.bound:
            stream.drain(left=min(_LITTLE, stream.bound))
        WebSocket.write(self, message)  # what a subclass does with a message is done to this one already

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
        key = self.deflate.share(len(payload))
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

    def _warn(self, size: int) -> None:
        self._owner.told(self, "warning", size // 1024)

    def _forget_message(self) -> None:
        self.deflate = self._fragments = self._utf8 = None

    def _forget(self) -> None:
        self._forget_message()
        self._see = None
        self.stream.warn = None
        for _, answer in (self._awaited or {}).values():
            answer.set_exception(self.over())

    # -------------------------------------------------------------------------- for the keepalive (see there)

    def probe(self) -> None:
        """Send a keepalive Ping; never blocks."""
        if self.deflate is not None and self.deflate.release_idle(self._fragments is None):
            trim_soon()
        if self.state == OPEN:
            self._probed = os.urandom(4), monotonic()
            with contextlib.suppress(OSError):
                self.stream.post(self._encode(PING, self._probed[0]))
                self.stream.flush()  # so that what is pending from here on waits for the peer, not for us

    @property
    def heard(self) -> tuple[int, int]:
        """Something that differs after every sign of life: bytes that came; bytes that were taken while some waited."""
        return self.stream.received, self.stream.sent if self.stream.pending else 0

    @property
    def waiting(self) -> bool:
        """Whether the peer has sent what nobody has read yet, and not because it does not read itself."""
        return self.stream.unread and not self.stream.pending


_numbers = count(1)


def _uncalled_for() -> ProtocolError:
    return ProtocolError("there is no message to continue (RFC 6455 section 5.4)")


def _interrupted() -> ProtocolError:
    return ProtocolError("a message begins before the last one has ended (RFC 6455 section 5.4)")


#: What is done with a frame, by its first byte; a subclass may have others.
WebSocket._frames = {
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
    if isinstance(fds, WebSocket):  # type: ignore[unreachable]  # its iteration would take what the peer has sent
        raise TypeError("broadcast() sends to many: one connection has write()")
    first, payload = encode_message(message)
    plain = encode(payload, first & 0x0F)
    size = len(plain)
    shared: dict[Any, bytes] = {}
    for fd in fds:
        if fd.state != OPEN:
            continue
        stream = fd.stream
        if stream.pending + size > stream.bound:
            fd._overflow()
            continue
        frame = plain if fd.server and fd.deflate is None else fd._frame_of(first, payload, shared)
        try:
            stream.post(frame)
        except OSError:
            continue  # it is ending: its reader will hear
