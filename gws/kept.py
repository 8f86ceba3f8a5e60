"""Messages that one greenlet has read ahead, and others have not asked for yet.

Knows nothing of connections, but for the event that one has ended.  One greenlet puts, any number take.  Bounded: who
puts waits beyond that, and TCP holds the peer back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import gevent
from gevent.event import Event

from gws.message import Message

__all__ = ["Kept"]

_PATIENCE = 1.0  # seconds for answering what was sound, before a connection is failed


class Kept:
    """At most `most` messages; no more are put once they have `size` bytes (or characters), if that is given."""

    __slots__ = ("_away", "_most", "_news", "_queue", "_room", "_size", "_total")

    def __init__(self, most: int, size: int | None = None):
        self._most = most
        self._size = size
        self._queue: deque[Message] = deque()
        self._total = 0  # bytes (or characters) in the queue
        self._away = 0  # messages that were taken by who has not asked again
        self._news = Event()  # set when there is something to take, or nothing any more
        self._room = Event()  # set when one was taken, or somebody asks

    def __len__(self) -> int:
        return len(self._queue)

    def __iter__(self) -> Iterator[Message]:
        return iter(self._queue)

    def clear(self) -> None:
        """Forget them all."""
        self._queue.clear()
        self._total = self._away = 0

    # -------------------------------------------------------------------------------------------- who reads ahead

    def put(self, message: Message, ended: Event) -> None:
        """Keep a message.   Blocks while there are enough, until the connection has `ended`."""
        self._queue.append(message)
        self._total += len(message)
        del message
        self._news.set()
        while self._is_full() and not ended.is_set():
            self._room.clear()
            gevent.wait([self._room, ended], count=1)

    def wake(self) -> None:
        """Let those who wait look again: nothing comes any more."""
        self._news.set()

    def await_answers(self) -> None:
        """Wait until all were taken, and those who took them ask for more; a second at most.   Blocks."""
        with gevent.Timeout(_PATIENCE, False):  # type: ignore[arg-type]  # False: in silence
            while self._queue or self._away:
                self._room.clear()
                self._room.wait()

    def _is_full(self) -> bool:
        return len(self._queue) >= self._most or (self._size is not None and self._total >= self._size)

    # -------------------------------------------------------------------------------------------- who takes

    def ask(self) -> None:
        """Say that the message taken before was dealt with: another one is wanted, now or in a while."""
        self._away = max(0, self._away - 1)
        self._room.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until there is something to take, or `wake()`; tell whether that came within `timeout`.   Blocks."""
        self._news.clear()
        return self._news.wait(timeout)

    def take(self) -> Message:
        """Return the oldest message; IndexError if there is none."""
        message = self._queue.popleft()
        self._total -= len(message)
        self._away += 1
        self._room.set()
        return message
