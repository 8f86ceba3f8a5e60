"""skynet's queue: a section with one greenlet in it at a time, and the watch over who waits for whom.

Does not know services: who waits says so in `waiting`, and for what, by anything that can name its `holder()`.
Contract: nobody begins to wait who would close a ring, so every walk along `waiting` ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from gevent.event import Event
from greenlet import getcurrent, greenlet

from gws.errors import ServiceError

__all__ = ["Awaited", "Queue", "label", "refuse_ring", "waiting"]

T = TypeVar("T")


class Awaited(Protocol):
    """Something that is over when one greenlet, its holder, gets that far."""

    def holder(self) -> greenlet | None:
        """Return the greenlet that it takes; None if nobody needs to do anything first."""


waiting: dict[greenlet, Awaited] = {}  # who waits -> for what; sleepers and readers of sockets are not in here


def refuse_ring(awaited: Awaited) -> None:
    """Raise ServiceError if the holder of `awaited` waits, through whatever others, for the current greenlet."""
    me = getcurrent()
    ring, holder = [me], awaited.holder()
    while holder is not None and holder is not me:
        ring.append(holder)
        further = waiting.get(holder)
        holder = further.holder() if further is not None else None
    if holder is me:
        raise ServiceError("everybody waits for everybody: " + " -> ".join(map(label, [*ring, me])))


def label(who: greenlet) -> str:
    """Return a greenlet's name in reports: no repr(), which would tell of arguments."""
    return "main" if who.parent is None else getattr(who, "name", f"greenlet {id(who):x}")


class Queue:
    """A critical section: one greenlet at a time, in the order in which they came; whoever is in may enter again.

    Used as skynet's function, `queue(func, *args)`, or as `with queue:`.
    """

    __slots__ = ("depth", "inside", "line")

    def __init__(self) -> None:
        self.inside: greenlet | None = None  # who has entered
        self.depth = 0  # how often it has entered
        self.line: deque[tuple[greenlet, Event]] = deque()

    def __repr__(self) -> str:
        held = "free" if self.inside is None else f"held by {label(self.inside)}, {len(self.line)} in line"
        return f"<Queue {held}>"

    def __call__(self, func: Callable[..., T], *args: Any) -> T:
        """Return `func(*args)`, called with nobody else in the section (skynet/queue.lua).   Blocks."""
        with self:
            return func(*args)

    def __enter__(self) -> Queue:
        """Enter, once those have left who came before.   ServiceError if they wait for us.   Blocks."""
        me = getcurrent()
        if self.inside is None:
            self.inside = me
        elif self.inside is not me:
            self._stand(me)
        self.depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        self.depth -= 1
        if not self.depth:
            self._admit()

    def holder(self) -> greenlet | None:
        """Return who is inside."""
        return self.inside

    def _stand(self, me: greenlet) -> None:
        """Stand in line.   Blocks."""
        refuse_ring(self)
        place = me, Event()
        self.line.append(place)
        waiting[me] = self
        try:
            place[1].wait()
        except BaseException:
            self._forgo(place)
            raise
        finally:
            waiting.pop(me, None)

    def _forgo(self, place: tuple[greenlet, Event]) -> None:
        """Leave the line; the section too, if it was given to us while we were being interrupted."""
        if place in self.line:
            self.line.remove(place)
        else:
            self._admit()

    def _admit(self) -> None:
        """Give the section to whoever is next: nobody who comes in between can be faster."""
        self.inside = None
        if self.line:
            self.inside, turn = self.line.popleft()
            del waiting[self.inside]  # before it wakes: or it would seem to wait for itself
            turn.set()
