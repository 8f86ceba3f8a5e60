"""How bytes come in: one recv a turn, for the one greenlet that waits for them, when its turn has come (see `turn`).

Knows bytes, and HTTP's blank line, but no frame.  It never asks the socket to wait: it parks its greenlet, and a
watcher on the descriptor wakes it.  What has come and was not taken yet is in `_data`, from `_pos` on.
"""

from __future__ import annotations

import fcntl
import struct
import termios
from time import monotonic, thread_time
from typing import Any

from _socket import socket
from gevent import getcurrent
from gevent.exceptions import BlockingSwitchOutError
from greenlet import greenlet

from gws.errors import HandshakeError
from gws.outbox import AGAIN, Outbox
from gws.turn import HEAVY, LONG, Standing

__all__ = ["Intake"]

_READ = 1  # libev's EV_READ; libuv's loop takes the same


class Intake(Outbox):
    """What comes in over one socket.   One greenlet may read at a time."""

    __slots__ = (
        "_data",
        "_mark",
        "_pos",
        "_queued",
        "_read_watcher",
        "_reader",
        "_resting",
        "_standing",
        "_until",
        "received",
    )

    def __init__(self, sock: socket):
        super().__init__(sock)
        self._read_watcher: Any = self._hub.loop.io(sock.fileno(), _READ)
        self._reader: greenlet | None = None
        self._resting = False
        self._queued = False  # in one of the lanes
        self._standing = Standing()
        self._until = 0.0  # when its batch has taken long; 0: it has not begun
        self._mark = 0.0  # the processor time at which that was first so; 0: it was not
        self._data = b""  # received, not yet parsed, from _pos on
        self._pos = 0
        self.received = 0

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

    # ------------------------------------------------------------------------------- waiting, and whose turn it is

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
