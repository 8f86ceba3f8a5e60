"""The greenlets that run tasks, one each, and the account of how long each home has had the loop.

Does not know when a task is to start: whoever does calls start() or run() in the hub.
Contract with gevent below: the hub is the parent of each greenlet, and resumes it by its switch() or throw().
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from typing import Any, cast
from weakref import getweakrefcount

from gevent.hub import get_hub
from greenlet import getcurrent, greenlet

from gws.task import Home, Task

__all__ = ["OUTSIDE", "chain", "charge", "current", "here", "pool", "run", "start", "start_later", "trace"]

LONG = 12  # services in a chain that is told in full
SPARES = 64  # greenlets at rest: to begin one costs more than to call a service

# PyPy counts no references: there each greenlet looks as if somebody had just come to know it
_ever = itertools.count()
getrefcount = cast(Callable[[object], int], getattr(sys, "getrefcount", lambda _: next(_ever)))
_switch = cast(Callable[..., Any], greenlet.switch)
_throw = cast(Callable[..., Any], greenlet.throw)
_me = cast(Callable[[], "Runner"], getcurrent)


class Runner(greenlet):
    """A greenlet that runs tasks; the time for which it has the loop is charged to the task's home."""

    __slots__ = ("known", "task")
    known: tuple[object, ...]  # the traces that it bears at rest, before its first task
    task: Task | None  # the last one; None once that is settled

    @property
    def name(self) -> str:
        """Its name in reports."""
        return str(self.task)

    def switch(self, *args: Any) -> Any:
        """Go on, on the account of the task's home."""
        return self._resume(_switch, args)

    def throw(self, *args: Any) -> Any:
        """Go on with an exception, on the same account."""
        return self._resume(_throw, args)

    def _resume(self, how: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        if self.task is None or self.task.over:  # a Timeout that nobody closed; gevent.Greenlet keeps silent then, too
            return None
        charge(self.task.home)
        try:
            return how(self, *args)
        finally:
            charge(OUTSIDE)


class Pool:
    """The greenlets of a hub that rest: there are some only while there are services."""

    __slots__ = ("services", "spares")

    def __init__(self) -> None:
        self.services = 0
        self.spares: list[Runner] = []

    def join(self) -> None:
        """Count one service more."""
        self.services += 1

    def leave(self) -> None:
        """Count one service less."""
        self.services -= 1
        if not self.services:
            self.spares.clear()


OUTSIDE = Home("main", "")  # whatever is no service: the main greenlet, those of gevent.spawn(), the hub
_running, _since = OUTSIDE, time.perf_counter()


def pool(hub: greenlet) -> Pool:
    """Return the pool of a hub."""
    try:
        made: Pool = hub.__dict__["gws_pool"]
    except KeyError:
        made = hub.__dict__["gws_pool"] = Pool()
    return made


def current() -> Task | None:
    """Return the task that the current greenlet runs, if any."""
    me = getcurrent()
    return me.task if isinstance(me, Runner) else None


def here() -> Home:
    """Return whom the current greenlet belongs to."""
    task = current()
    return OUTSIDE if task is None else task.home


def chain(task: Task | None, caller: greenlet | None) -> list[Task]:
    """Return the tasks that wait for one another, from the first to this one, which `caller` called."""
    tasks: list[Task] = []
    while task is not None:
        tasks.append(task)
        task = _task_of(caller)
        caller = task.caller if task is not None else None
    return tasks[::-1]


def trace(task: Task | None, caller: greenlet | None) -> str:
    """Return that chain in words."""
    words = [str(each) for each in chain(task, caller)]
    if len(words) > LONG:
        words[4:-4] = [f"... {len(words) - 8} more"]
    return " -> ".join(words)


def charge(home: Home) -> None:
    """Charge the time since the last charge to whoever ran since then; from now on `home` runs."""
    global _running, _since
    now = time.perf_counter()
    _running.time += now - _since
    _running, _since = home, now


def away() -> None:
    """Charge whoever ran, who waits now: for those who switch without a runner's own switch()."""
    if _running is not OUTSIDE:
        charge(OUTSIDE)


def back(runner: Runner) -> None:
    """Let the time be a runner's again, which was switched to in that way."""
    task = runner.task
    charge(OUTSIDE if task is None else task.home)


def start(task: Task) -> None:
    """Run a task, until it is over or has to wait; the hub calls this."""
    charge(task.home)
    try:
        run(task)
    finally:
        charge(OUTSIDE)


def start_later(seconds: float, task: Task) -> None:
    """Start a task in so many seconds."""
    if task.home.dead:
        return
    task.timer = get_hub().loop.timer(seconds)
    task.timer.start(_due, task)
    task.home.parked.add(task)


def run(task: Task) -> None:
    """The same as start(), for somebody who is charged already; what take() gives may follow."""
    home = task.home
    if home.dead:
        return
    last = _lend(_hire(getcurrent()), task)
    if last.over:
        _finish(last, home)
    else:
        home.parked.add(last)


def _task_of(who: greenlet | None) -> Task | None:
    return who.task if isinstance(who, Runner) else None


def _due(task: Task) -> None:
    task.timer.close()
    task.home.parked.discard(task)
    start(task)


def _hire(hub: greenlet) -> Runner:
    """Return a runner at rest: as skynet does with its coroutines, one that has worked before, if there is any."""
    spares = pool(hub).spares
    if spares:
        return spares.pop()
    runner = Runner(_work, hub)
    _switch(runner)
    runner.known = _traces(runner)
    return runner


def _lend(runner: Runner, task: Task) -> Task:
    """Let a runner work; return the task that it came to."""
    _switch(runner, task)
    return runner.task or task


def _traces(runner: greenlet | None) -> tuple[object, ...]:
    """Return what differs if somebody has kept the greenlet (a Timeout still to come), or left a local or a context."""
    return getrefcount(runner), getweakrefcount(runner), getattr(runner, "gr_context", None)


def _work() -> None:
    while True:
        _do(_switch(getcurrent().parent))  # at rest, a runner knows neither task nor itself, and can be dropped


def _do(task: Task) -> None:
    """Run a task, and those that come after it in the same turn, as long as none can tell."""
    while True:
        _me().task, task.greenlet = task, _me()  # in no local name: whoever kept a traceback would keep the greenlet
        known = _traces(task.greenlet)
        task.run()
        if task in task.home.parked:  # run() has gone on without us
            task.home.parked.remove(task)
            get_hub().loop.run_callback(_finish, task, OUTSIDE)
            return
        further = task.home.take() if task.caller is None and _traces(task.greenlet) == known else None
        if further is None:
            return
        task.greenlet = None
        task = further


def _finish(task: Task, home: Home) -> None:
    """Let the runner rest, and whoever waits for the task go on; then it is the turn of `home`."""
    runner: Any = task.greenlet
    runner.task = task.greenlet = None
    rest = pool(getcurrent())
    if rest.services and len(rest.spares) < SPARES and _traces(runner) == runner.known:
        rest.spares.append(runner)
    else:
        _throw(runner)
    caller = task.settle()
    if caller is not None:
        waiter = _task_of(caller)
        charge(OUTSIDE if waiter is None else waiter.home)
        try:
            _switch(caller)
        finally:
            charge(home)
