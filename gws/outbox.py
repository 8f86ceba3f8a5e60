"""The writing half of a stream: what is queued, what the kernel has taken of it, and who waits for that.

Knows bytes, neither frames nor reading.  Nothing is ever lost or torn: what was put in goes out whole and in order, or
the connection ends.
"""

from __future__ import annotations

import ssl
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

from _socket import SHUT_WR, socket
from gevent import get_hub
from gevent.hub import Waiter

from gws.turn import Lanes

__all__ = ["AGAIN", "Outbox", "Turn", "send_fin"]

AGAIN = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

_WRITE = 2  # libev's EV_WRITE; libuv's loop takes the same
_SCRATCH = 256 * 1024  # bytes that one connection may bring in per turn of the loop
_HIGH_WATER = 64 * 1024  # bytes that may wait for the kernel before write() blocks
_WARN_FROM = 1024 * 1024  # pending bytes that are worth a first warning (skynet's socket driver)
_CHUNKS = 64  # chunks in one sendmsg; far below IOV_MAX
_RECORD = 16 * 1024  # bytes in a TLS record
_SMALL = 1024  # bytes in a chunk that is joined with others, if many are waiting


class Outbox:
    """What is to be sent over one socket, which is not to be asked to wait."""

    __slots__ = (
        "_closed",
        "_corked",
        "_error",
        "_hub",
        "_late",
        "_queue",
        "_sock",
        "_tls",
        "_turn",
        "_warned",
        "_write_watcher",
        "_writers",
        "bound",
        "pending",
        "sent",
        "warn",
    )

    def __init__(self, sock: socket):
        sock.setblocking(False)
        self._sock = sock
        self._tls = hasattr(sock, "pending")
        self._hub = get_hub()
        self._turn = turn_of(self._hub)
        self._write_watcher: Any = None
        self._writers: list[tuple[int, Any]] = []  # (bytes sent at which it goes on, its waiter), in order
        self._corked = False  # replies collect: there are more to come, or somebody flushes before long
        self._late = False  # in the list of those that are flushed at the end of the turn
        self._queue: deque[Any] = deque()
        self.sent = 0
        self._warned = 0
        self._error: OSError | None = None
        self._closed = False
        self.pending = 0
        self.bound = sys.maxsize  # pending bytes beyond which no data frame is taken
        self.warn: Callable[[int], None] | None = None

    def write(self, data: bytes) -> None:
        """Write bytes as they are, atomic among greenlets.   Blocks while the peer is too slow.

        A Timeout that ends the wait leaves them queued: what has begun to go out goes out whole.
        """
        self._check()
        self._put(data)
        self._leave()

    def post(self, data: bytes) -> None:
        """Queue bytes; they leave at the end of this turn of the loop, in one send with what else is queued by then."""
        self._check()
        self._put(data)
        self._leave_later()

    def flush(self) -> None:
        """Hand the kernel what it takes of the queue; a watcher brings it the rest."""
        self._check()
        self._push()

    def drain(self, left: int = 0) -> None:
        """Wait until the kernel has taken everything that is there now, but for `left` bytes.   Blocks."""
        self.flush()
        if self.pending > left:
            self._wait_written(self.sent + self.pending - left)

    def _push(self) -> None:
        if self._write_watcher is None or not self._write_watcher.active:
            self._flush()
        else:
            self._warn_if_slow()

    def _put(self, data: bytes) -> None:
        if self._closed or self._error is not None:
            raise BrokenPipeError("the connection is closed") from self._error
        if not data:  # an empty chunk would never be taken
            return
        self.pending += len(data)
        if len(self._queue) < _CHUNKS or len(data) >= _SMALL:
            self._queue.append(data)
        else:
            self._join(data)

    def _join(self, data: bytes) -> None:
        """Queue a small chunk where many wait: what a slow peer does not read costs no more than its bytes."""
        last = self._queue[-1]  # far from the first one, which may be on its way
        if type(last) is not bytearray or len(last) >= _RECORD:
            last = bytearray()
            self._queue.append(last)
        last += data

    def _leave(self) -> None:
        if self._corked and self.pending < _HIGH_WATER:
            self._leave_later()
            return
        self._push()
        if self.pending > _HIGH_WATER:
            self._wait_written(self.sent + self.pending - _HIGH_WATER)
        if self._error is not None:
            raise BrokenPipeError("the connection is broken") from self._error

    def _leave_later(self) -> None:
        if not self._late:
            self._late = True
            self._turn.add(self)

    def _wait_written(self, target: int) -> None:
        """Wait until the kernel has taken `target` bytes in all."""
        waiter: Any = Waiter(self._hub)
        entry = (target, waiter)
        self._writers.append(entry)
        try:
            waiter.get()
        finally:
            if entry in self._writers:
                self._writers.remove(entry)

    def _flush(self) -> None:
        try:
            while self._queue:
                offered, taken = self._send_tls() if self._tls else self._send_plain()
                self._taken(taken)
                if taken < offered:  # the kernel is full: a short send says so
                    self._watch_for_room()
                    break
        except AGAIN:
            self._watch_for_room()
        except OSError as error:
            self._break(error)
        self._warn_if_slow()

    def _send_plain(self) -> tuple[int, int]:
        chunks = [self._queue[i] for i in range(min(_CHUNKS, len(self._queue)))]
        return sum(map(len, chunks)), self._sock.sendmsg(chunks)

    def _send_tls(self) -> tuple[int, int]:
        """Send the first chunk; small ones are joined, since each send is a record.

        OpenSSL wants a send that it put off to be repeated with the same bytes: what was joined stays joined.
        """
        if len(self._queue) > 1 and len(self._queue[0]) < _RECORD:
            small: list[Any] = []
            while self._queue and len(self._queue[0]) < _RECORD and len(small) < _CHUNKS:
                small.append(self._queue.popleft())
            self._queue.appendleft(b"".join(small))
        return len(self._queue[0]), self._sock.send(self._queue[0])

    def _taken(self, count: int) -> None:
        self.pending -= count
        self.sent += count
        self._turn.sent += count
        while count:
            size = len(self._queue[0])
            if count < size:
                self._queue[0] = memoryview(self._queue[0])[count:]
                break
            self._queue.popleft()
            count -= size
        while self._writers and self._writers[0][0] <= self.sent:
            self._hub.loop.run_callback(self._writers.pop(0)[1].switch, None)

    def _watch_for_room(self) -> None:
        if self._write_watcher is None:
            self._write_watcher = self._hub.loop.io(self._sock.fileno(), _WRITE)
        if not self._write_watcher.active:
            self._write_watcher.start(self._writable)

    def _writable(self) -> None:
        self._flush()
        if not self._queue and self._write_watcher is not None:
            self._write_watcher.stop()

    def _warn_if_slow(self) -> None:
        if self.pending >= max(_WARN_FROM, self._warned * 2):
            while self.pending >= max(_WARN_FROM, self._warned * 2):
                self._warned = max(_WARN_FROM, self._warned * 2)
        elif not self.pending and self._warned:
            self._warned = 0
        else:
            return
        if self.warn is not None:
            self.warn(self.pending)

    def _break(self, error: OSError) -> None:
        """Give up what is queued: nobody will take it."""
        error.__traceback__ = None  # its frames hold us, as we hold it
        self._error = error
        self._queue.clear()
        self.pending = 0
        if self._write_watcher is not None:
            self._write_watcher.stop()
        while self._writers:
            self._hub.loop.run_callback(self._writers.pop(0)[1].switch, None)

    def _check(self) -> None:
        if get_hub() is not self._hub:
            raise RuntimeError(f"{self!r} belongs to the thread that made it")


class Turn:
    """What all streams of one hub share: the scratch buffer, the lanes, and who has bytes to send when this turn ends.

    However many messages a broadcast posts in a turn, each connection's queue leaves in one send.
    """

    __slots__ = ("_late", "_loop", "lanes", "messages_received", "messages_sent", "received", "scratch", "sent")

    def __init__(self, hub: Any):
        self._loop = hub.loop
        self.lanes = Lanes(hub.loop)
        self._late: list[Outbox] = []
        self.scratch = memoryview(bytearray(_SCRATCH))
        self.received = self.sent = self.messages_received = self.messages_sent = 0  # also of those that are closed

    def add(self, outbox: Outbox) -> None:
        """Have its queue sent when this turn ends."""
        if not self._late:
            self._loop.run_callback(self._end)
        self._late.append(outbox)

    def _end(self) -> None:
        late, self._late = self._late, []
        for outbox in late:
            outbox._late = False
            outbox._push()


def turn_of(hub: Any) -> Turn:
    """Return what the streams of this hub share."""
    turn: Turn = vars(hub).setdefault("gws_turn", None) or Turn(hub)  # lives and dies with its hub
    hub.gws_turn = turn
    return turn


def send_fin(sock: Any) -> None:
    """Close the writing direction alone.   OSError if it is closed already.

    An SSLSocket's own shutdown() would forget how to decrypt what still comes.
    """
    raw = socket(fileno=sock.fileno())
    try:
        raw.shutdown(SHUT_WR)
    finally:
        raw.detach()
