"""The mailbox of a service: messages start in the order of their arrival, each in a greenlet of its own.

Does not know who may send, nor which commands there are: `skynet` does.
Contract with `runner` below: a service at rest has no greenlet, and one that ends leaves nobody waiting.
"""

from __future__ import annotations

import logging
import time
from collections import deque

from gevent.hub import Hub

from gws.runner import OUTSIDE, charge, current, pool, run
from gws.task import Home, Task

__all__ = ["Service"]

log = logging.getLogger("gws")

OVERLOAD = 1024  # messages, as skynet has it
TURN = 64  # messages of one service that start before the hub looks at anybody else


class Service(Home):
    """A service, from outside: what came in, and what has become of it."""

    __slots__ = ("commands", "handled", "hub", "idle", "limit", "mailbox", "names", "started", "turn")

    def __init__(self, address: str, kind: str, commands: frozenset[str], hub: Hub):
        super().__init__(address, kind)
        self.commands = commands
        self.hub = hub
        self.names: tuple[str, ...] = ()
        self.mailbox: deque[Task] = deque()
        self.limit = OVERLOAD  # a longer mailbox is reported
        self.idle = False  # the next message must ask the hub for a turn; none does before there is an instance
        self.handled = 0  # messages that have started
        self.turn = 0  # messages that may start before the hub looks at anybody else
        self.started = time.time()
        pool(hub).join()

    def __repr__(self) -> str:
        state = "dead" if self.dead else f"{len(self.mailbox)} messages, {len(self.parked)} greenlets"
        return f"<Service {self}: {state}>"

    def open(self, instance: object) -> None:
        """Let messages start: `instance` is who handles them."""
        self.maker = None
        self.instance = instance
        self.hub.loop.run_callback(self._dispatch)

    def post(self, task: Task) -> None:
        """Put a message in."""
        self.mailbox.append(task)
        length = len(self.mailbox)
        if length > self.limit:
            self.limit *= 2
            log.warning("%s has %d messages in its mailbox", self, length)
        elif length == 1:
            self.limit = OVERLOAD
        if self.idle:
            self.idle = False
            self.hub.loop.run_callback(self._dispatch)

    def take(self) -> Task | None:
        """Return the next message, unless it is somebody else's turn."""
        if not self.turn or not self.mailbox:
            return None
        self.turn -= 1
        self.handled += 1
        return self.mailbox.popleft()

    def end(self) -> None:
        """Tell everybody who waits for this service, and end its greenlets but the current one."""
        self.dead = True
        self.instance = None
        pool(self.hub).leave()
        later = self.hub.loop.run_callback
        for heir in (*self.mailbox, *self.parked, *filter(None, [self.maker]), *(self.heirs or ())):
            later(heir.abandon)
        self.heirs = None
        self.mailbox.clear()
        for task in self.parked - {current()}:
            later(task.stop)

    def _dispatch(self) -> None:
        charge(self)
        self.turn = min(TURN, len(self.mailbox))
        try:
            while (task := self.take()) is not None:
                run(task)
        finally:
            charge(OUTSIDE)
            self.turn = 0
            if self.mailbox:
                self.hub.loop.run_callback(self._dispatch)
            else:
                self.idle = True
