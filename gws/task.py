"""What a service does, in a greenlet of its own for each thing, and the processor time that it takes.

Does not know mailboxes: the hub starts a Task when it is told to; who needs its outcome calls `wait()`.
Contract with gevent below: the hub is the parent of each greenlet, and resumes it by its switch() or throw().
"""

from __future__ import annotations

import itertools
import logging
import sys
import time
from collections.abc import Callable
from typing import Any, cast
from weakref import getweakrefcount

from gevent.exceptions import InvalidSwitchError
from gevent.hub import Hub, get_hub
from greenlet import GreenletExit, getcurrent, greenlet

from gws.queue import waiting

__all__ = ["OUTSIDE", "Owner", "Task", "charge", "current", "owner_of", "rest", "run", "start", "start_later", "trace"]

log = logging.getLogger("gws")

SPARES = 64  # greenlets at rest: to begin one costs more than to call a service

# PyPy counts no references: there each greenlet looks as if somebody had just come to know it
_ever = itertools.count()
getrefcount = cast(Callable[[object], int], getattr(sys, "getrefcount", lambda _: next(_ever)))
_switch = cast(Callable[..., Any], greenlet.switch)
_throw = cast(Callable[..., Any], greenlet.throw)


class Owner:
    """Whom tasks belong to: a service, or the rest of the program."""

    __slots__ = ("address", "dead", "instance", "kind", "maker", "parked", "time")

    def __init__(self, address: str, kind: str):
        self.address = address
        self.kind = kind
        self.instance: Any = None  # whose methods are the commands
        self.maker: Task | None = None  # the constructor, while it runs
        self.parked: set[Task] = set()  # tasks that wait for something
        self.dead = False
        self.time = 0.0  # processor time, in seconds

    def __str__(self) -> str:
        return f"{self.address} {self.kind}".strip()


class Task:
    """A message, a fork, a timeout or a constructor: `func(*args)`, or the owner's command."""

    __slots__ = ("answer", "args", "caller", "command", "error", "func", "greenlet", "over", "owner", "source", "timer")
    timer: Any  # of gevent's loop, for what starts later

    def __init__(
        self,
        owner: Owner,
        command: str,
        args: tuple[Any, ...],
        func: Callable[..., Any] | None = None,
        source: str | None = None,
    ):
        self.owner = owner
        self.command = command
        self.args = args
        self.func = func
        self.source = source  # the address of the service that sent it
        self.caller: greenlet | None = None  # who waits for it
        self.greenlet: Worker | None = None  # what runs it, from its start to its end
        self.answer: Any = None
        self.error: BaseException | None = None
        self.over = False

    def __str__(self) -> str:
        return f"{self.owner}.{self.command}"

    def __repr__(self) -> str:
        state = "over" if self.over else "not started" if self.greenlet is None else "under way"
        return f"<Task {self}: {state}>"

    def holder(self) -> greenlet | None:
        """Return the greenlet that an answer takes: a service in the making answers nothing before it is made."""
        maker = self.owner.maker
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

    def run(self) -> None:
        """Do it; a worker calls this.   Blocks if the task does."""
        try:
            func = getattr(self.owner.instance, self.command) if self.func is None else self.func
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


class Worker(greenlet):
    """A greenlet that runs tasks, and is charged to the task's owner while it runs."""

    __slots__ = ("known", "task")
    known: int  # references to it while it rests and nobody but us knows it
    task: Task | None  # None: it rests

    @property
    def name(self) -> str:
        """Its name in reports, and in gevent's."""
        return str(self.task)

    def switch(self, *args: Any) -> Any:
        return self._resume(_switch, args)

    def throw(self, *args: Any) -> Any:
        return self._resume(_throw, args)

    def _resume(self, how: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        if self.task is None:  # a Timeout that was not closed in time; gevent.Greenlet keeps silent then, too
            return None
        charge(self.task.owner)
        try:
            return how(self, *args)
        finally:
            charge(OUTSIDE)


OUTSIDE = Owner("main", "")  # whatever is no service: the main greenlet, those of gevent.spawn(), the hub
_running, _since = OUTSIDE, time.perf_counter()
_spares: list[Worker] = []


def current() -> Task | None:
    """Return the task that the current greenlet runs, if any."""
    me = getcurrent()
    return me.task if isinstance(me, Worker) else None


def owner_of(task: Task | None) -> Owner:
    """Return whom a task belongs to, or OUTSIDE."""
    return OUTSIDE if task is None else task.owner


def trace(task: Task | None, caller: greenlet | None) -> str:
    """Return the chain of the tasks that wait for one another, from the first to this one, which `caller` called."""
    chain = []
    while task is not None:
        chain.append(str(task))
        task = _task_of(caller)
        caller = task.caller if task is not None else None
    return " -> ".join(reversed(chain))


def charge(owner: Owner) -> None:
    """Charge the time since the last charge to whoever ran since then; from now on `owner` runs."""
    global _running, _since
    now = time.perf_counter()
    _running.time += now - _since
    _running, _since = owner, now


def start(task: Task) -> None:
    """Run a task, until it is over or has to wait; the hub calls this."""
    charge(task.owner)
    try:
        run(task)
    finally:
        charge(OUTSIDE)


def start_later(seconds: float, task: Task) -> None:
    """Start a task in so many seconds."""
    task.timer = get_hub().loop.timer(seconds)
    task.timer.start(_due, task)
    task.owner.parked.add(task)


def run(task: Task) -> None:
    """The same as start(), for somebody who is charged already."""
    owner = task.owner
    if owner.dead:
        return
    task.greenlet = _hire(getcurrent())
    _switch(task.greenlet, task)
    if task.over:
        _finish(task, owner)
    else:
        owner.parked.add(task)


def rest() -> None:
    """Keep no greenlet for later: there is no service left."""
    _spares.clear()


def _task_of(who: greenlet | None) -> Task | None:
    return who.task if isinstance(who, Worker) else None


def _due(task: Task) -> None:
    task.timer.close()
    task.owner.parked.discard(task)
    start(task)


def _hire(hub: greenlet) -> Worker:
    """Return a worker at rest: as skynet does with its coroutines, one that has worked before, if there is any."""
    if _spares:
        spare = _spares.pop()
        if spare.parent is hub:
            return spare
    worker = Worker(_work, hub)
    _switch(worker)
    worker.known = getrefcount(worker)
    return worker


def _work() -> None:
    while True:
        task = _switch(getcurrent().parent)
        me = cast(Worker, getcurrent())
        me.task = task
        task.run()
        if task in task.owner.parked:  # run() has gone on without us
            task.owner.parked.remove(task)
            get_hub().loop.run_callback(_finish, task, OUTSIDE)
        task = me.task = None
        del me  # who dropped a greenlet that knows itself would leave it behind


def _finish(task: Task, owner: Owner) -> None:
    """Let the worker rest, and whoever waits for the task go on; then it is the turn of `owner`."""
    worker, task.greenlet = task.greenlet, None
    assert worker is not None
    # whoever has kept the greenlet (a Timeout that is still to come), or left something in it, means this task by it
    known = getrefcount(worker) == worker.known and not getweakrefcount(worker) and worker.gr_context is None
    if known and task.owner is not OUTSIDE and not task.owner.dead and len(_spares) < SPARES:
        _spares.append(worker)
    else:
        _throw(worker)
    caller = task.settle()
    if caller is not None:
        charge(owner_of(_task_of(caller)))
        try:
            _switch(caller)
        finally:
            charge(owner)
