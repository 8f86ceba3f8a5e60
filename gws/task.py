"""One thing that a service does, and who waits for it: a message, a fork, a timeout, a constructor.

Does not know what runs it: `runner` does that, in a greenlet for each.
Contract with `queue` below: whoever waits for a task says so, and can be told who holds things up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from gevent.exceptions import InvalidSwitchError
from gevent.hub import Hub, get_hub
from greenlet import GreenletExit, getcurrent, greenlet

from gws.queue import waiting

__all__ = ["Heir", "Home", "Task"]

log = logging.getLogger("gws")


class Heir(Protocol):
    """Somebody to whom the end of a service matters."""

    def abandon(self) -> None:
        """Hear of it; the hub calls this."""


class Home:
    """Whom tasks belong to: a service, or the rest of the program."""

    __slots__ = ("address", "dead", "heirs", "instance", "kind", "maker", "parked", "time", "tracer")

    def __init__(self, address: str, kind: str):
        self.address = address
        self.kind = kind
        self.instance: Any = None  # whose methods are the commands
        self.maker: Task | None = None  # the constructor, while it runs
        self.parked: set[Task] = set()  # tasks that wait for something
        self.heirs: set[Heir] | None = None  # who else is to be told of the end; few services have any
        self.dead = False
        self.time = 0.0  # for which it had the loop, in seconds
        self.tracer: Callable[[Task, Callable[..., Any]], Callable[..., Any]] | None = None  # see `tracing`

    def __str__(self) -> str:
        return f"{self.address} {self.kind}".strip()

    def inherit(self, heir: Heir) -> None:
        """Tell `heir` of the end."""
        if self.heirs is None:
            self.heirs = set()
        self.heirs.add(heir)

    def disinherit(self, heir: Heir) -> None:
        """Do not tell `heir`."""
        if self.heirs is not None:
            self.heirs.discard(heir)

    def take(self) -> Task | None:
        """Return the next task to start in the same turn, if there is one."""
        return None


class Task:
    """A message, a fork, a timeout or a constructor: `func(*args)`, or the service's command."""

    __slots__ = (
        "answer",
        "args",
        "caller",
        "command",
        "depth",
        "error",
        "func",
        "greenlet",
        "home",
        "over",
        "source",
        "timer",
    )
    timer: Any  # of gevent's loop, for what starts later

    def __init__(
        self,
        home: Home,
        command: str,
        args: tuple[Any, ...],
        source: Home | None = None,
        func: Callable[..., Any] | None = None,
    ):
        self.home = home
        self.command = command
        self.args = args
        self.source = source  # who sent it
        self.func = func
        self.caller: greenlet | None = None  # who waits for it
        self.depth = 0  # calls that wait for it, and for one another
        self.greenlet: greenlet | None = None  # what runs it, until it is settled
        self.answer: Any = None
        self.error: BaseException | None = None
        self.over = False

    def __str__(self) -> str:
        return f"{self.home}.{self.command}"

    def __repr__(self) -> str:
        state = "over" if self.over else "not started" if self.greenlet is None else "under way"
        return f"<Task {self}: {state}>"

    def holder(self) -> greenlet | None:
        """Return the greenlet that an answer takes: a service in the making answers nothing before it is made."""
        maker = self.home.maker
        return self.greenlet if maker is None or self.greenlet is not None else maker.greenlet

    def wait(self) -> BaseException | None:
        """Wait until the task is over or its service ended; return what it raised, if it did.   Blocks."""
        me = self.caller = getcurrent()
        waiting[me] = self
        try:
            get_hub().switch()
        finally:
            del waiting[me]
            forgotten = self.settle()
        if forgotten is not None:
            raise InvalidSwitchError(f"{self} has not answered yet")
        err, self.error = self.error, None  # or error, traceback and task would be a ring
        return err

    def settle(self) -> greenlet | None:
        """Return who waits for the task; from now on nobody does, and a late answer is dropped."""
        caller, self.caller = self.caller, None
        return caller

    def awaits(self) -> str | None:
        """Tell what it waits for, if there is none but our own code to tell by."""
        return None

    def run(self) -> None:
        """Do it; a runner calls this.   Blocks if the task does."""
        try:
            func = getattr(self.home.instance, self.command) if self.func is None else self.func
            if self.home.tracer is not None:
                func = self.home.tracer(self, func)
            self.answer = func(*self.args)
        except BaseException as err:  # gevent.Timeout is no Exception
            self._fail(err)
        self.over = True

    def _fail(self, err: BaseException) -> None:
        if self.caller is not None:
            self.error = err
        elif not isinstance(err, GreenletExit):
            log.error("%s%s failed", self, f", sent by {self.source}," if self.source else "", exc_info=err)
        if isinstance(err, Hub.SYSTEM_ERROR):
            get_hub().handle_error(self, type(err), err, err.__traceback__)

    def abandon(self) -> None:
        """Wake whoever waits for the task, since its service ended; the hub calls this."""
        caller = self.settle()
        if caller is not None:
            self.error = GreenletExit()
            caller.switch()

    def stop(self) -> None:
        """End what runs the task; the hub calls this."""
        if self.over:
            return
        if self.greenlet is None:
            self.timer.close()
        else:
            self.greenlet.throw()
