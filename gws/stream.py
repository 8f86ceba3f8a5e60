"""One socket's bytes in order: an HTTP head, frames in, frames out, and what the kernel has not taken yet.

Knows neither what a message is nor what HTTP means.  This is the plain twin of `_stream.pyx`: same contract, same
tests, no compiler.  Here are the frames; how bytes come in is in `intake`, how they go out in `outbox`.

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
import os
from collections.abc import Callable
from importlib import import_module
from time import thread_time
from typing import Any

from _socket import socket
from gevent import get_hub
from greenlet import greenlet

from gws.errors import MessageTooBig, ProtocolError
from gws.frame import FIN, RSV1, TEXT, Header, decode_header, encode_header, mask, new_mask, slack
from gws.intake import Intake
from gws.outbox import AGAIN, send_fin
from gws.turn import HEAVY, LARGE
from gws.utf8 import Utf8, decode

__all__ = ["Plain", "Stream", "account", "totals"]

_GLUE = 16 * 1024  # payloads up to this are copied behind their header: cheaper than one more chunk

Partial = Callable[[int, bytes], None]


class Stream(Intake):
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
        "_masked",
        "_utf8",
        "_wrong",
        "messages_received",
        "messages_sent",
        "rsv",
        "unanswered",
    )

    def __init__(self, sock: socket, *, masked: bool):
        super().__init__(sock)
        self._masked = masked
        self._ahead: Header | None = None  # the header of the frame at hand, once it is whole; _pos is behind it
        self._body: bytearray | None = None  # its payload so far, unmasked, if it did not come in one piece
        self._utf8: Utf8 | None = None  # of a text that does not come in one piece
        # What the peer broke: every further read tells it again.  Or a frame that the next read is to return.
        self._wrong: ProtocolError | tuple[int, Any] | None = None
        self.messages_received = self.messages_sent = self.unanswered = 0
        self.rsv = 0

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"fd={self._sock.fileno()} pending={self.pending}"
        return f"<{type(self).__name__} {state}>"

    # --------------------------------------------------------------------------------------------------- reading

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
