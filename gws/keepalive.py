"""Noticing peers that are gone: a Ping to each connection at every interval, and what comes of no answer.

One timer serves all connections, since a timer for each is costly at a hundred thousand of them.  Knows nothing of
frames: a connection has `probe()`, `heard` and `cut()`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import monotonic  # the loop's own now() is the wall clock, which jumps
from typing import Any, Protocol

from gevent import get_hub

__all__ = ["Deadlines", "Keepalive", "Probed", "keepalive", "watched"]


class Probed(Protocol):
    """A connection, as seen from here."""

    def probe(self) -> None:
        """Send a Ping; never blocks."""

    @property
    def heard(self) -> Any:
        """Something that differs after every sign of life."""

    @property
    def waiting(self) -> bool:
        """Whether the peer has sent something that nobody has read yet."""

    def cut(self, code: int, reason: str) -> None:
        """End the connection without waiting for the peer; never blocks."""


class Deadlines:
    """Things that fall due a fixed time after they were added, in the order in which they were; one timer for all.

    `due(thing, value)` is called in the hub and must not block.
    """

    __slots__ = ("_due", "_loop", "_seconds", "_things", "_timer")

    def __init__(self, seconds: float, due: Callable[[Any, Any], None]):
        self._seconds = seconds
        self._due = due
        self._loop = get_hub().loop
        self._things: dict[Any, tuple[float, Any]] = {}  # in the order in which they fall due
        self._timer: Any = None

    def __len__(self) -> int:
        return len(self._things)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._things)

    def __contains__(self, thing: Any) -> bool:
        return thing in self._things

    def add(self, thing: Any, value: Any = None) -> None:
        """Let `thing` fall due from now on; if it is there already, it begins anew."""
        self._things.pop(thing, None)
        self._things[thing] = (monotonic() + self._seconds, value)
        if self._timer is None:
            self._start(self._seconds)

    def discard(self, thing: Any) -> None:
        """Forget `thing`."""
        if self._things.pop(thing, None) is not None and not self._things:
            self._stop()

    def _start(self, seconds: float) -> None:
        self._timer = self._loop.timer(max(seconds, 0.001), ref=False)
        self._timer.start(self._fire)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None

    def _fire(self) -> None:
        now = monotonic()
        try:
            self._fall_due(now)
        finally:  # whatever a thing raised, the others are not forgotten
            self._stop()
            if self._things:
                due, _ = next(iter(self._things.values()))
                self._start(due - now)

    def _fall_due(self, now: float) -> None:
        while self._things:
            thing, (due, value) = next(iter(self._things.items()))
            if due > now:
                return
            del self._things[thing]
            self._due(thing, value)


class Keepalive:
    """Pings every connection each `interval` seconds, and cuts it (1011) if nothing is heard for `timeout` seconds.

    Whatever the peer sends is a sign of life, also while it lies unread because a handler is busy.
    """

    __slots__ = ("_pings", "_pongs", "_reason")

    def __init__(self, interval: float, timeout: float):
        self._reason = f"keepalive ping timeout ({timeout:g} s)"
        self._pings = Deadlines(interval, self._ping)
        self._pongs = Deadlines(timeout, self._judge)

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the connections; none may be added or discarded meanwhile."""
        return iter(self._pings)

    def add(self, connection: Probed) -> None:
        """Watch over `connection`."""
        self._pings.add(connection)

    def discard(self, connection: Probed) -> None:
        """Watch over `connection` no longer."""
        self._pings.discard(connection)
        self._pongs.discard(connection)

    def _ping(self, connection: Probed, _: Any) -> None:
        connection.probe()
        self._pings.add(connection)
        if connection not in self._pongs:
            self._pongs.add(connection, connection.heard)

    def _judge(self, connection: Probed, heard: Any) -> None:
        if connection.heard == heard and not connection.waiting:
            connection.cut(1011, self._reason)


def keepalive(interval: float, timeout: float) -> Keepalive:
    """Return the one Keepalive of this hub with these times."""
    kept = _of_this_hub()
    if (interval, timeout) not in kept:
        kept[interval, timeout] = Keepalive(interval, timeout)
    return kept[interval, timeout]


def watched() -> list[Any]:
    """Return the connections of this hub over which there is a watch."""
    return [connection for watch in _of_this_hub().values() for connection in watch]


def _of_this_hub() -> dict[tuple[float, float], Keepalive]:
    kept: dict[tuple[float, float], Keepalive] = vars(get_hub()).setdefault("gws_keepalive", {})
    return kept
