"""What went on lately, a point a second: messages and bytes per second, latency, how late the loop is.

Does not know who looks.  A second is looked at ten times: whoever holds the loop up for longer than a tenth is seen.
Contract with `overview` below: what it tells of all connections is bounded, and may take a while.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import NamedTuple

import gevent

from gws import overview, stream
from gws.server import Server

__all__ = ["KEPT", "History", "Point"]

KEPT = 300  # points
_TICK = 0.1  # seconds
_LEAST = 1.0  # seconds from point to point
_SHARE = 20  # a point may take one part in so many of the time until the next

Traffic = tuple[int, int, int, int]


class Point(NamedTuple):
    """A second, or what became of it."""

    time: float  # as of time.time()
    messages_in: float  # per second, as are the next three
    messages_out: float
    bytes_in: float
    bytes_out: float
    median: float | None  # of the connections' latencies, in seconds
    slow: float | None  # what 95 % of them are faster than
    late: float  # seconds that the loop was late, at worst
    busy: float  # share of a processor that the process took
    services: int
    connections: int


class History:
    """The points, and the greenlet that makes them; `ticked()` and `made(point)` are called there, and may block."""

    def __init__(self, but: Server, own: Callable[[], Traffic]):
        self.points: deque[Point] = deque(maxlen=KEPT)
        self._but = but
        self._own = own  # what is not to be counted
        self._greenlet: gevent.Greenlet[..., None] | None = None

    def start(self, ticked: Callable[[], None], made: Callable[[Point], None]) -> None:
        """Begin."""
        self._greenlet = gevent.spawn(self._run, ticked, made)

    def stop(self) -> None:
        """Make no more points.   Blocks."""
        if self._greenlet is not None and self._greenlet is not gevent.getcurrent():
            self._greenlet.kill()

    def _run(self, ticked: Callable[[], None], made: Callable[[Point], None]) -> None:
        pause, before = _LEAST, self._measure()
        while True:
            late = self._wait(pause, ticked)
            spent, after = overview.spent(), self._measure()
            self.points.append(self._point(before, after, late))
            before = after
            made(self.points[-1])
            pause = max(_LEAST, (overview.spent() - spent) * _SHARE)

    def _wait(self, seconds: float, ticked: Callable[[], None]) -> float:
        """Wait, and return how late we were woken at worst.   Blocks."""
        late, end = 0.0, monotonic() + seconds
        while monotonic() < end:
            due = monotonic() + _TICK
            gevent.sleep(_TICK)
            late = max(late, monotonic() - due)
            ticked()
        return late

    def _measure(self) -> tuple[float, ...]:
        traffic = [every - own for every, own in zip(stream.totals(), self._own())]
        return monotonic(), time.process_time(), *traffic

    def _point(self, before: tuple[float, ...], after: tuple[float, ...], late: float) -> Point:
        passed, *gone = (now - then for now, then in zip(after, before))
        busy, messages_in, messages_out, bytes_in, bytes_out = (each / passed for each in gone)
        latencies = overview.latencies(self._but)
        median = latencies[len(latencies) // 2] if latencies else None
        slow = latencies[len(latencies) * 95 // 100] if latencies else None
        counts = overview.count(self._but)
        return Point(time.time(), messages_in, messages_out, bytes_in, bytes_out, median, slow, late, busy, *counts)
