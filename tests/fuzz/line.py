"""One stream on a socketpair, in steps: after each, the loop turns until nothing moves any more.

What comes out does then not depend on time, and two streams can be compared step by step.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import _socket
import gevent
from gevent import get_hub

__all__ = ["Line", "line", "turn"]

_WRITE = 2
_PATIENCE = 20_000  # turns of the loop in one step
_QUIET = 3  # turns in which nothing moves


class Line:
    """A stream and its peer.   What the peer is sent is in `taken`, of which nothing is lost before `close`."""

    def __init__(self, kind: Any, *, masked: bool):
        ours, self._peer = _socket.socketpair()
        self.stream = kind(ours, masked=masked)
        self._peer.setblocking(False)
        self.taken = bytearray()
        self.ended = False  # whether the stream's side has said its last word
        self._tasks: list[gevent.Greenlet] = []

    def spawn(self, verb: Callable[..., Any], *args: Any) -> gevent.Greenlet:
        """Begin `verb` in a greenlet of its own, at once."""
        self._tasks.append(gevent.spawn(verb, *args))
        turn()
        return self._tasks[-1]

    def interrupt(self, task: gevent.Greenlet) -> None:
        """Throw a Timeout into a greenlet, which has to end by it.   Blocks."""
        task.kill(gevent.Timeout(), block=False)
        for _ in range(_PATIENCE):
            turn()
            if task.dead:
                return
        raise self._hangs()

    def feed(self, data: bytes, settle: bool = True) -> None:
        """Send bytes as the peer; with `settle`, wait until all that follows from them has happened.   Blocks."""
        view = memoryview(data)
        while view:
            try:
                view = view[self._peer.send(view) :]
            except BlockingIOError:
                if not self.stream.reading and self.settled():
                    return  # nobody will read the rest
                turn()
                self.take()
            except OSError:
                return
        if settle:
            self.settle()

    def end(self) -> None:
        """End the peer's half.   Blocks."""
        with suppress(OSError):
            self._peer.shutdown(socket.SHUT_WR)
        self.settle()

    def take(self, most: int = 1 << 20) -> None:
        """Take what has come to the peer."""
        while most and not self.ended:
            try:
                data = self._peer.recv(most)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            self.ended = not data
            self.taken += data
            most -= len(data)

    def settle(self) -> None:
        """Turn the loop until all is read and taken, and everybody waits or is done.   Blocks."""
        quiet = 0
        for _ in range(_PATIENCE):
            turn()
            before = len(self.taken)
            self.take()
            # More than once, since a stream may rest (see outbox.Rest) while it looks as if it waited.
            quiet = quiet + 1 if self.settled() and not self.stream.pending and len(self.taken) == before else 0
            if quiet == _QUIET:
                return
        raise self._hangs()

    def settled(self) -> bool:
        """Tell whether whoever reads has read all that there is."""
        stream = self.stream
        return all(task.dead for task in self._tasks) or (stream.reading and not stream.unread)

    def close(self) -> None:
        gevent.killall(self._tasks)
        self.stream.close()
        self.take()
        self._peer.close()

    def _hangs(self) -> AssertionError:
        return AssertionError(f"{self.stream!r} hangs: {[task for task in self._tasks if not task.dead]}")


@contextmanager
def line(kind: Any, *, masked: bool) -> Iterator[Line]:
    """Return a Line, which is closed in the end."""
    it = Line(kind, masked=masked)
    try:
        yield it
    finally:
        it.close()


_always_writable = os.pipe()[1]
_watchers: dict[Any, Any] = {}


def turn() -> None:
    """Let the loop poll once, and call whom that concerns.   Blocks."""
    hub = get_hub()
    if hub not in _watchers:
        _watchers[hub] = hub.loop.io(_always_writable, _WRITE)
    hub.wait(_watchers[hub])
