"""The other side of a WebSocket, by hand: a plain socket that is fed with frames; and who reads on this side.

The fixtures `raw` and `reading` in conftest make them.
"""

from __future__ import annotations

import zlib
from typing import Any

import gevent

from gws.errors import ConnectionClosed
from gws.frame import BINARY, FIN, RSV1, decode_header, encode_header, mask, new_mask
from gws.websocket import WebSocket

MIB = 1024 * 1024

Frame = tuple[int, bytes]


class Peer:
    """The other side of a WebSocket, in frames and bytes."""

    def __init__(self, sock: Any, *, server: bool):
        self.sock = sock
        self._server = server
        self._data = b""

    def wire(self, *frames: Frame) -> bytes:
        """Encode frames as this side has to: only a client masks."""
        return b"".join(self._frame(first, payload) for first, payload in frames)

    def _frame(self, first: int, payload: bytes) -> bytes:
        key = None if self._server else new_mask()
        return encode_header(first, len(payload), key) + (mask(payload, key) if key else payload)

    def say(self, *frames: Frame) -> None:
        self.sock.sendall(self.wire(*frames))

    def hear(self) -> Frame | None:
        """Return the next frame, or None at the end.   Blocks."""
        while (header := decode_header(self._data, masked=self._server, rsv=RSV1)) is None:
            if not self._receive():
                return None
        while len(self._data) < header.size + header.length:
            assert self._receive(), "the end came in the middle of a frame"
        payload, self._data = self._data[header.size :][: header.length], self._data[header.size + header.length :]
        return header.first, mask(payload, header.mask) if header.mask else payload

    def hear_all(self) -> list[Frame]:
        """Return what comes until the end.   Blocks."""
        return list(iter(self.hear, None))

    def _receive(self) -> bool:
        piece = self.sock.recv(MIB)
        self._data += piece
        return bool(piece)

    def close(self) -> None:
        self.sock.close()


class Reading:
    """A greenlet that reads for as long as it can; `interrupt()` throws a Timeout into it, and another one goes on."""

    def __init__(self, fd: WebSocket):
        self.fd = fd
        self.got: list[Any] = []
        self.end: Any = None
        self._start()

    def _start(self) -> None:
        self.greenlet = gevent.spawn(self._run)

    def _run(self) -> None:
        try:
            while True:
                self.got.append(self.fd.read())
        except gevent.Timeout:
            pass
        except (ConnectionClosed, RuntimeError) as end:
            self.end = end

    def interrupt(self) -> None:
        self.greenlet.kill(gevent.Timeout())
        self._start()

    def until_end(self) -> Any:
        """Return what has ended it.   Blocks."""
        self.greenlet.join(timeout=30)
        assert self.end is not None
        return self.end


def fill(fd: WebSocket) -> int:
    """Let the kernel take no more of what `fd` sends; return how many bytes of zeros, in messages, that took."""
    size = 0
    while not fd.pending:
        fd.stream.post(encode_header(FIN | BINARY, 50_000, None if fd.server else bytes(4)) + bytes(50_000))
        fd.stream.flush()
        size += 50_000
    return size


def outcome(verb: Any, *args: Any) -> Any:
    """Return what it returns, or what it raises; also what is thrown into it."""
    try:
        return verb(*args)
    except (Exception, gevent.Timeout, gevent.GreenletExit) as error:
        return error


def told(fd: WebSocket) -> list[Any]:
    heard: list[Any] = fd._owner.heard  # type: ignore[attr-defined]
    return heard


def deflated(data: bytes, context: Any = None) -> bytes:
    """Deflate as a peer might (RFC 7692 section 7.2.1)."""
    context = context or zlib.compressobj(wbits=-15)
    return bytes(context.compress(data) + context.flush(zlib.Z_SYNC_FLUSH))[:-4]
