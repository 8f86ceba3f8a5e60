"""One socket's bytes in order: an HTTP head, frames in, frames out, and what the kernel has not taken yet.

Knows neither what a message is nor what HTTP means.  This is the plain twin of `_stream.pyx`: same contract, same
tests, no compiler.  It never asks the socket to wait: it parks its greenlet, and a watcher on the descriptor wakes it.

    Stream(sock, *, masked)                 masked: what the peer owes us (True to a server, False to a client)
      preload(data)                         bytes that somebody else has received before
      read_head(limit) -> bytes             an HTTP head, through its blank line; nothing beyond it is consumed
      read(size) -> bytes                   bytes as they are
      read_frame(limit, partial, text) -> (first, payload)     the next frame, unmasked
      write(data), write_frame(first, payload)           queue, send, and block while the peer is too slow
      post(data)                            queue, and send at the end of this turn of the loop; never blocks
      pending                               bytes that the kernel has not taken yet
      close()

The end of the peer's bytes is an EOFError, a failed socket an OSError.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import termios
from collections.abc import Callable
from importlib import import_module
from time import monotonic, thread_time
from typing import Any

from _socket import socket
from gevent import get_hub, getcurrent
from gevent.exceptions import BlockingSwitchOutError
from greenlet import greenlet

from gws.errors import HandshakeError, MessageTooBig, ProtocolError
from gws.frame import FIN, RSV1, TEXT, Header, decode_header, encode_header, mask, new_mask, slack
from gws.outbox import AGAIN, Outbox, send_fin
from gws.turn import HEAVY, LARGE, LONG, Standing
from gws.utf8 import Utf8, decode

__all__ = ["Plain", "Stream", "account", "totals"]

_READ = 1  # libev's EV_READ; libuv's loop takes the same
_GLUE = 16 * 1024  # payloads up to this are copied behind their header: cheaper than one more chunk

Partial = Callable[[int, bytes], None]


class Stream(Outbox):
    """The bytes of one connection.   One greenlet may read at a time; any number may write.

    `rsv` holds the reserved bits that an extension has given a meaning; `warn`, if set, is called with the pending
    bytes when they pass 1 MiB, at each doubling from there, and with 0 when the peer has caught up.  It may be called
    in the hub and must not block.  `received` and `sent` count bytes; `messages_received` and `messages_sent` count the
    frames that end a message, as they are read and as they are taken to be sent.  `unanswered` is how many were read
    that no message of ours has followed, one for each.
    """

    __slots__ = (
        "__weakref__",
        "_ahead",
        "_body",
        "_data",
        "_mark",
        "_masked",
        "_pos",
        "_queued",
        "_read_watcher",
        "_reader",
        "_resting",
        "_standing",
        "_until",
        "_utf8",
        "_wrong",
        "messages_received",
        "messages_sent",
        "received",
        "rsv",
        "unanswered",
    )

    def __init__(self, sock: socket, *, masked: bool):
        super().__init__(sock)
        self._masked = masked
        self._read_watcher: Any = self._hub.loop.io(sock.fileno(), _READ)
        self._reader: greenlet | None = None
        self._resting = False
        self._queued = False  # in one of the lanes
        self._standing = Standing()
        self._until = 0.0  # when its batch has taken long; 0: it has not begun
        self._mark = 0.0  # the processor time at which that was first so; 0: it was not
        self._data = b""  # received, not yet parsed, from _pos on
        self._pos = 0
        self._ahead: Header | None = None  # the header of the frame at hand, once it is whole; _pos is behind it
        self._body: bytearray | None = None  # its payload so far, unmasked, if it did not come in one piece
        self._utf8: Utf8 | None = None  # of a text that does not come in one piece
        # What the peer broke: every further read tells it again.  Or a frame that the next read is to return.
        self._wrong: ProtocolError | tuple[int, Any] | None = None
        self.received = self.messages_received = self.messages_sent = self.unanswered = 0
        self.rsv = 0

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"fd={self._sock.fileno()} pending={self.pending}"
        return f"<{type(self).__name__} {state}>"

    # --------------------------------------------------------------------------------------------------- reading

    @property
    def reading(self) -> bool:
        """Whether a greenlet waits in a read."""
        return self._reader is not None

    @property
    def trusted(self) -> bool:
        """Whether what came so far never took long (see `turn`)."""
        return self._standing.trusted

    @property
    def unread(self) -> bool:
        """Whether the kernel holds bytes that nobody has read yet."""
        if self._closed:
            return False
        (count,) = struct.unpack("i", fcntl.ioctl(self._sock.fileno(), termios.FIONREAD, bytes(4)))
        return bool(count)

    def preload(self, data: bytes) -> None:
        """Take `data` as what came first: the frames that a buffer before us got together with the request, say."""
        self._data += data
        self.received += len(data)
        self._turn.received += len(data)

    @property
    def buffered(self) -> bool:
        """Whether bytes were received that nobody has read yet."""
        return self._pos < len(self._data) or bool(self._tls and not self._closed and self._sock.pending())  # type: ignore[attr-defined]

    def fileno(self) -> int:
        """Return the descriptor, for who wants to watch it; -1 after the end."""
        return self._sock.fileno()

    def read_head(self, limit: int) -> bytes:
        """Read an HTTP head through its blank line, of at most `limit` bytes (else HandshakeError 431).   Blocks."""
        seen = 0  # bytes from _pos on that were searched already
        while True:
            end = self._data.find(b"\r\n\r\n", self._pos + max(0, seen - 3)) + 4
            seen = len(self._data) - self._pos
            if (end - self._pos if end > 3 else seen) > limit:
                raise HandshakeError(431, f"the head is longer than {limit} bytes")
            if end > 3:
                head = self._data[self._pos : end]
                self._pos = end
                return head
            self._receive()

    def read(self, size: int) -> bytes:
        """Read exactly `size` bytes as they are (a body, say, whose length its head has told).   Blocks."""
        while len(self._data) - self._pos < size:
            self._receive()
        data = self._data[self._pos : self._pos + size]
        self._pos += size
        return data

    def read_frame(self, limit: int, partial: Partial | None = None, text: bool = False) -> tuple[int, Any]:
        """Read the next frame: its first byte (FIN, RSV, opcode) and its payload.   Blocks.

        `limit` bounds a data frame's payload in bytes (else MessageTooBig, before any of it is taken).  A frame that
        does not come in one piece is shown to `partial(first, piece)` piece by piece before the wait for more, so
        that what is wrong with it can be told early; what that raises ends the read.  With `text`, the payload of an
        unfragmented text frame comes as str instead, its UTF-8 judged as it comes (else InvalidPayload).
        """
        if self._wrong is not None:
            return self._again()
        self._standing.begin()
        if self._pos < len(self._data) and (self._reader is not None or self._is_spent()):
            self._park(self._standing.lane)
        try:
            while not (self._ahead or self._next_header()) or not self._payload_is_whole(limit, partial, text):
                self._receive()
            first, payload = self._take()
            message = decode(payload) if text and first == FIN | TEXT else payload
            if len(payload) > (LARGE if not self._standing.trusted else 8 * LARGE):
                self.pause(first, message)
            return first, message
        except ProtocolError as error:
            self._wrong = error  # what comes behind it has no meaning any more
            raise

    def pause(self, first: int, payload: Any, shed: Callable[[], None] | None = None) -> None:
        """Rest before something that takes long, as the others may have waited for longer.   Blocks.

        What ends the wait leaves this frame to the next read: it is put back.   If there is a wait, `shed()` is called
        first: it drops what can be made anew.
        """
        lanes, standing = self._turn.lanes, self._standing
        if (lanes.running is self and standing.lane == HEAVY and thread_time() < lanes.until) or lanes.may_go():
            return
        if shed is not None:
            shed()
        self._wrong = first, payload
        self._park(HEAVY)
        self._wrong = None

    def _again(self) -> tuple[int, Any]:
        """Return the frame that was put back, or raise what was wrong."""
        if isinstance(self._wrong, ProtocolError):
            raise self._wrong
        if self._reader is not None:
            self._park()  # which tells the second reader off
        assert self._wrong is not None
        frame, self._wrong = self._wrong, None
        return frame

    def _next_header(self) -> bool:
        header = decode_header(self._data, masked=self._masked, rsv=self.rsv, start=self._pos)
        if header is None:
            return False
        self._ahead = header
        self._pos += header.size
        return True

    def _payload_is_whole(self, limit: int, partial: Partial | None, text: bool) -> bool:
        header = self._ahead
        assert header
        if header.length > limit + (slack(limit) if header.first & RSV1 else 0) and header.first & 0x0F < 8:
            raise MessageTooBig(f"a message is longer than the {limit} bytes that were left for it")
        if self._body is None:
            if len(self._data) - self._pos >= header.length:
                return True
            self._body = bytearray()
            self._utf8 = Utf8() if text and header.first == FIN | TEXT else None
        piece = self._data[self._pos : self._pos + header.length - len(self._body)]
        if piece:
            self._grow(header, piece, partial)
        return len(self._body) == header.length

    def _grow(self, header: Header, piece: bytes, partial: Partial | None) -> None:
        assert self._body is not None
        self._pos += len(piece)
        if header.mask is not None:
            turn = len(self._body) % 4
            piece = mask(piece, header.mask[turn:] + header.mask[:turn])
        self._body += piece
        if self._utf8 is not None:
            self._utf8.see(piece)
        elif partial is not None and len(self._body) < header.length:
            partial(header.first, piece)

    def _take(self) -> tuple[int, bytes]:
        header, body = self._ahead, self._body
        assert header
        self._ahead = self._body = None
        if body is not None:
            payload = bytes(body)
        else:
            payload = self._data[self._pos : self._pos + header.length]
            self._pos += header.length
            if header.mask is not None:
                payload = mask(payload, header.mask)
        self._corked = self._pos < len(self._data) and self._another_waits()
        self._count_received(header.first)
        return header.first, payload

    def _another_waits(self) -> bool:
        """Tell whether the next frame is here, whole.  Corking: while one is, its reply can share a send with ours."""
        try:
            header = decode_header(self._data, masked=self._masked, rsv=self.rsv, start=self._pos)
        except Exception:  # told by the read that comes to it
            return False
        if header is None or len(self._data) - self._pos - header.size < header.length:
            return False
        self._ahead = header
        self._pos += header.size
        return True

    def _receive(self) -> None:
        """Add to `_data` what one recv brings.   Blocks.

        Waits first and receives then, once a turn: no second recv is needed to learn that the socket is empty, and
        whoever sends without pause leaves the hub to the others in between.  An exception that lands here (a Timeout,
        a kill) lands in the wait, before a byte was taken.
        """
        self._check()
        self._corked = False
        self._push()
        self._data, self._pos = self._data[self._pos :], 0  # who is idle holds no buffer
        while True:
            self._park()
            try:
                count = self._sock.recv_into(self._turn.scratch)
                break
            except AGAIN:
                continue
        if not count:
            raise EOFError("the peer closed the connection")
        self.received += count
        self._turn.received += count
        self._data += self._turn.scratch[:count]

    def _is_spent(self) -> bool:
        """Tell whether the time is over that this connection has for one batch.

        Who is not trusted has no time but its turn, whoever has called its greenlet; who is known to take long has all
        of that, the others no more than would make them known for it.
        """
        lanes, standing = self._turn.lanes, self._standing
        if not standing.trusted:
            used = thread_time()
            if lanes.running is not self or used > lanes.until:
                return True
            if lanes.clock is thread_time:
                return standing.lane != HEAVY and used - lanes.began > LONG
        now = monotonic()
        self._until = self._until or now + LONG
        if now <= self._until:
            return False
        # By the clock on the wall it has taken long.  From here on it is timed in earnest.
        used, self._until = thread_time(), now + LONG
        self._mark = self._mark or used
        return used - self._mark > LONG

    def _park(self, lane: int | None = None) -> None:
        """Wait until the socket is readable, or just for the others: in that lane.

        The watcher persists from read to read, and stops if nobody reads.
        """
        if self._closed:
            raise EOFError("the connection was closed")
        if self._reader is not None:
            raise RuntimeError(f"{self!r} is being read by {self._reader!r} already")
        reader = getcurrent()
        if reader is self._hub:
            raise BlockingSwitchOutError("a read would block the hub")
        decrypted = self._tls and self._sock.pending()  # type: ignore[attr-defined]  # the kernel knows nothing of it
        if lane is not None or (decrypted and self._is_spent()):
            if self._turn.lanes.running is self:
                self._judge()
            self._line_up(max(lane or 0, self._standing.lane))  # by what it did, it may stand in another lane now
        elif decrypted:
            self._hub.loop.run_callback(self._readable)
        elif not self._read_watcher.active:
            self._read_watcher.start(self._readable, pass_events=True)
        if self._resting or not decrypted:
            self._until = self._mark = 0.0
        self._reader = reader
        try:
            self._hub.switch()
        finally:
            self._reader, self._resting = None, False
        if self._closed:
            raise EOFError("the connection was closed")

    def _readable(self, events: int = _READ) -> None:
        if events < 0:  # libuv watches a socket no longer that has failed; what came before is to be read all the same
            self._read_watcher.stop()
        if self._reader is None:
            if not self._closed:
                self._read_watcher.stop()  # TCP holds the peer back from here on
        elif not self._resting:
            if self._standing.trusted or self._turn.lanes.may_go():
                self._run()
            else:
                self._line_up(self._standing.lane)

    def _line_up(self, lane: int) -> None:
        """Rest until it is our turn.   The watcher stops: what it has to tell is known."""
        self._resting = True
        self._read_watcher.stop()
        if not self._queued:
            self._queued = True
            self._turn.lanes.join(lane, self._go_on)

    def _go_on(self) -> None:
        """End the rest, if there still is one."""
        self._resting = self._queued = False
        if self._reader is not None:
            self._run()

    def _run(self) -> None:
        """Let the reader go on, and time what it does until the hub is back."""
        lanes = self._turn.lanes
        lanes.running, lanes.clock = self, self._standing.clock()
        lanes.began = lanes.clock()
        assert self._reader is not None
        self._reader.switch()
        if lanes.running is self:
            self._judge()

    def _judge(self) -> None:
        lanes = self._turn.lanes
        lanes.running = None
        self._standing.judge(lanes.clock, lanes.clock() - lanes.began)

    # --------------------------------------------------------------------------------------------------- writing

    def write_frame(self, first: int, payload: bytes | str) -> None:
        """Write one frame, masked if we are the client.   Blocks while the peer is too slow.

        `payload` is bytes, or str: its UTF-8.  Where more than `bound` bytes wait already, a data frame is not taken:
        BufferError.
        """
        self._check()
        if self.pending > self.bound and not first & 0x08:
            raise BufferError(f"{self.pending} bytes are waiting already")
        if isinstance(payload, str):
            payload = payload.encode()
        if self._masked:
            header = encode_header(first, len(payload))
        else:
            key = new_mask()
            header = encode_header(first, len(payload), key)
            payload = mask(payload, key)
        if len(payload) <= _GLUE:
            self._put(header + payload)
        else:
            self._put(header)
            self._put(payload)
        self._count_sent(first)
        self._leave()

    def post(self, data: bytes) -> None:
        """Queue a frame; it leaves when this turn of the loop ends, in one send with what else is queued by then."""
        super().post(data)
        self._count_sent(data[0] if data else 0)

    def _count_sent(self, first: int) -> None:
        if _ends_message(first):
            self.messages_sent += 1
            self._turn.messages_sent += 1
            if self.unanswered:
                self.unanswered -= 1

    def _count_received(self, first: int) -> None:
        if _ends_message(first):
            self.messages_received += 1
            self.unanswered += 1
            self._turn.messages_received += 1

    # ------------------------------------------------------------------------------------------------- the end

    def shutdown(self) -> None:
        """Tell the peer that nothing more comes from us (a TCP FIN); reading goes on."""
        self.flush()
        with contextlib.suppress(OSError, ValueError):
            if self._tls:
                with contextlib.suppress(*AGAIN):
                    self._sock.unwrap()  # type: ignore[attr-defined]  # its close_notify; we do not wait for the peer's
            send_fin(self._sock)

    def linger(self) -> None:
        """Throw away what the peer still sends, until it closes.   Blocks.

        Closing a socket with bytes unread resets it, and takes our last words from the peer.
        """
        self._ahead = self._body = None
        with contextlib.suppress(EOFError, OSError):
            while True:
                self._data, self._pos = b"", 0
                self._receive()

    def close(self) -> None:
        """Close the socket; whoever waits in a read or a write is told.  Safe to repeat.

        Every watcher is stopped before its descriptor is closed: libev aborts the process otherwise.
        """
        self._check()
        if self._closed:
            return
        self._closed = True
        for watcher in (self._read_watcher, self._write_watcher):
            if watcher is not None:
                watcher.stop()
                watcher.close()
        self._write_watcher = None
        self._data, self._pos, self._ahead = b"", 0, None
        self._wrong = None
        self._sock.close()
        self._break(BrokenPipeError("the connection was closed"))
        if self._reader is not None:
            self._hub.loop.run_callback(self._go_on)


def totals() -> tuple[int, int, int, int]:
    """Return what has gone over all streams of this thread: messages in, messages out, bytes in, bytes out."""
    turns = [turn for name, turn in vars(get_hub()).items() if name in ("gws_turn", "gws_compiled_turn")]
    names = ("messages_received", "messages_sent", "received", "sent")
    counts = [sum(getattr(turn, name) for turn in turns) for name in names]
    return counts[0], counts[1], counts[2], counts[3]


def account(kind: type[greenlet], back: Callable[[Any], object], away: Callable[[], object]) -> None:
    """Have `back(reader)` called when a reader of this class goes on, `away()` when it parks, or the hub is back.

    For those whose own switch() sees who runs: the plain stream calls that, the compiled one is faster without.
    """
    if Stream is not Plain:
        import_module("gws._stream").account(kind, back, away)


def _ends_message(first: int) -> bool:
    return first & (FIN | 0x08) == FIN  # the last of its frames, and no control frame


Plain = Stream
if not os.environ.get("GWS_PURE"):
    with contextlib.suppress(ImportError):
        from gws._stream import Stream  # type: ignore[no-redef, import-not-found, unused-ignore]
