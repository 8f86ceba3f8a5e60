"""Services, as skynet has them: a class whose public methods are its commands, with an address and a mailbox.

Does not know WebSocket.
Contract with the mailbox below: what is posted goes to a living service of this thread, which has such a command.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from gevent.event import Event
from gevent.hub import get_hub
from greenlet import GreenletExit, getcurrent

from gws.errors import CallFailed, ServiceError, ServiceExited
from gws.kind import class_of, commands_of
from gws.mailbox import Service
from gws.queue import Queue, refuse_ring
from gws.runner import OUTSIDE, chain, current, here, start, start_later, trace
from gws.stat import Stat, stat
from gws.task import Home, Task
from gws.tracing import follow as _follow

__all__ = [
    "Queue",
    "Stat",
    "addresses",
    "call",
    "error",
    "exit",
    "find",
    "follow",
    "fork",
    "kill",
    "look",
    "name",
    "newservice",
    "query",
    "queue",
    "self",
    "send",
    "services",
    "sleep",
    "source",
    "timeout",
    "wait",
    "wakeup",
]

log = logging.getLogger("gws")

DEPTH = 200  # calls that wait for one another: each time there are so many more, somebody looks whether it is for ever
PATIENCE = 10.0  # seconds of query() before it is said who waits for what

_services: dict[str, Service] = {}  # address or name -> service
_numbers = itertools.count(1)
_asleep: dict[tuple[Home, object], Event] = {}  # (service, token) -> what wakes the sleeper
_named = Event()  # set, and replaced, whenever a name is given


def newservice(service: type | str, /, *args: Any, **kwargs: Any) -> str:
    """Make a service, and return its address once its constructor has returned.   Blocks.

    `service` is a class; "module:Class" or "module.Class"; or "module" for the class that bears the module's name,
    whatever the case and the underscores ("gws.echoserver" is EchoServer).   Raises what the constructor raises;
    nothing is left of it then.
    """
    cls, maker = class_of(service), here()
    alive = not maker.dead
    address = f":{next(_numbers):08x}"
    made = _services[address] = Service(address, cls.__name__, commands_of(cls), get_hub())
    made.maker = task = Task(made, "__init__", (), maker, partial(cls, *args, **kwargs))
    made.hub.loop.run_callback(start, task)
    try:
        err = task.wait()
        if err is not None:
            raise _exited(task, err) or err
        if alive and maker.dead:  # it ended in the turn in which this was done: nobody would know of what it has made
            raise GreenletExit
    except BaseException:
        _end(made)
        raise
    made.open(task.answer)
    return address


def call(address: str, command: str, *args: Any) -> Any:
    """Return what the service's method `command` returns; nothing is copied on the way.   Blocks.

    CallFailed from what it raised, or if there is no such command; ServiceExited if there is no such service, or if it
    ends before it answers; ServiceError if everybody would wait for everybody.   After a `gevent.Timeout` the late
    answer is dropped.
    """
    service = find(address, command)
    task = Task(service, command, args, here())
    _refuse_endless(task, current())
    service.post(task)
    err = task.wait()
    if err is not None:
        raise _exited(task, err) or _failed(task, err)
    return task.answer


def send(address: str, command: str, *args: Any) -> None:
    """Let the service run its method `command`, and do not wait for it; if it raises, that is logged.

    ServiceExited if there is no such service, CallFailed if there is no such command.
    """
    service = find(address, command)
    service.post(Task(service, command, args, here()))


def exit() -> NoReturn:
    """End the service that says this; see kill()."""
    _end(_here())
    raise GreenletExit


def kill(address: str) -> bool:
    """End a service: its greenlets get GreenletExit, who waits for it ServiceExited.   Return False if it was gone."""
    service = _services.get(address)
    if service is None:
        return False
    if here() is service:
        exit()
    _end(_living(address))
    return True


def self() -> str:
    """Return the address of the service that asks.   ValueError outside of services."""
    return _here().address


def source() -> str | None:
    """Return the address of the service that sent the message at hand; None if no service did."""
    task = current()
    sender = OUTSIDE if task is None else task.source
    return sender.address if isinstance(sender, Service) else None


def fork(func: Callable[..., object], *args: Any) -> Task:
    """Run `func(*args)` in a greenlet that ends with the service; return a token for wakeup()."""
    task = Task(here(), f"fork({_called(func)})", args, None, func)
    get_hub().loop.run_callback(start, task)
    return task


def timeout(seconds: float, func: Callable[[], object]) -> None:
    """Run `func()` in so many seconds, in a greenlet of the service, if it still lives by then."""
    start_later(seconds, Task(here(), f"timeout({_called(func)})", (), None, func))


def sleep(seconds: float, token: object = None) -> bool:
    """Sleep; return True if it was wakeup() that ended it.   Blocks."""
    return _sleep(seconds, token)


def wait(token: object = None) -> None:
    """Wait until somebody in this service calls `wakeup(token)`; without a token, that of fork() is meant.   Blocks."""
    _sleep(None, token)


def wakeup(token: object) -> bool:
    """Wake who sleeps or waits under this token.   Return False if nobody does: it is not remembered."""
    event = _asleep.pop((here(), token), None)
    if event is None:
        return False
    event.set()
    return True


def name(name: str, address: str) -> None:
    """Give a service a name of the form ".gate", which can stand for its address until it ends.

    ValueError for another form, or if a living service has it.
    """
    global _named
    _check_name(name)
    if name in _services:
        raise ValueError(f"{name} is the name of {_services[name]}")
    service = _services[name] = _living(address)
    service.names += (name,)
    named, _named = _named, Event()
    named.set()


def query(name: str) -> str:
    """Return the address of the service of this name, once there is one; a long wait is logged.   Blocks."""
    _check_name(name)
    patience = PATIENCE
    while name not in _services:
        if not _named.wait(patience):
            log.warning("%s waits for somebody of the name %s", _chain_of_the_caller(), name)
            patience *= 2
    return _services[name].address


def queue() -> Queue:
    """Return a critical section, for what must not interleave: `cs(func, *args)`, or `with cs:`."""
    return Queue()


def error(*words: object) -> None:
    """Log the words, and who says them."""
    log.error("%s: %s", here(), " ".join(map(str, words)))


def services() -> list[Stat]:
    """Return a look at each service, the oldest first."""
    return [stat(service) for address, service in list(_services.items()) if address == service.address]


def addresses() -> list[str]:
    """Return the address of each service, the oldest first."""
    return [address for address in list(_services) if address.startswith(":")]


def look(address: str, most: int | None = None) -> Stat:
    """Return a look at one service, and at so many of its greenlets.   ServiceExited if there is none."""
    service = _services.get(address)
    if service is None:
        raise _unknown(address)
    return stat(service, most)


def follow(address: str, listener: Callable[[str], object]) -> Callable[[], None]:
    """Have `listener(line)` called for each message that begins, and once it is over; return what ends that.

    The service waits for the listener, so it must not block.   ServiceExited if there is no such service.
    """
    return _follow(_living(address), listener)


def find(address: str, command: str | None = None) -> Service:
    """Return a living service, which has the command if one is given."""
    service = _living(address)
    if command is not None and command not in service.commands:
        asked = trace(Task(service, command, ()), getcurrent())
        raise CallFailed(f"{asked}: no such command; there are: {', '.join(sorted(service.commands)) or 'none'}")
    return service


def _living(address: str) -> Service:
    service = _services.get(address)
    if service is None:
        raise _unknown(address)
    if service.hub is not get_hub():
        raise ValueError(f"{service} belongs to another thread")
    return service


def _unknown(address: str) -> ServiceExited:
    return ServiceExited(f"there is no service {address!r}")


def _refuse_endless(task: Task, caller: Task | None) -> None:
    """Raise ServiceError if a task would never be answered."""
    if task.home.maker is not None:
        refuse_ring(task)
    if caller is not None:
        task.depth = caller.depth + 1
        if task.depth % DEPTH == 0 and _repeats(task) > DEPTH // 4:
            raise ServiceError(f"everybody waits for everybody: {trace(task, getcurrent())}")


def _repeats(task: Task) -> int:
    """Count how often the services that wait for a task have asked one another for just that: a long way is no ring."""
    tasks = chain(task, getcurrent())
    return sum(other.home is task.home and other.command == task.command for other in tasks)


def _chain_of_the_caller() -> str:
    task = current()
    return str(OUTSIDE) if task is None else trace(task, task.caller)


def _check_name(name: str) -> None:
    if not str(name).startswith("."):
        raise ValueError(f"a service's name begins with a dot, {name!r} does not")


def _here() -> Service:
    home = here()
    if not isinstance(home, Service):
        raise ValueError("this greenlet belongs to no service: no message, fork() or timeout() of one started it")
    return home


def _exited(task: Task, err: BaseException) -> ServiceExited | None:
    if task.home.dead and isinstance(err, GreenletExit):
        return ServiceExited(f"{trace(task, getcurrent())}: the service exited before it answered")
    return None


def _failed(task: Task, err: BaseException) -> CallFailed:
    # what a call deeper down says tells the whole chain already
    failed = CallFailed(str(err) if isinstance(err, CallFailed) else f"{trace(task, getcurrent())}: {err!r}")
    failed.__cause__ = err
    return failed


def _end(service: Service) -> None:
    for key in (service.address, *service.names):
        _services.pop(key, None)
    if not service.dead:
        service.end()


def _sleep(seconds: float | None, token: object) -> bool:
    key = here(), (current() or getcurrent()) if token is None else token
    if key in _asleep:
        raise ValueError(f"somebody waits for {token!r} already")
    event = _asleep[key] = Event()
    try:
        return event.wait(seconds)
    finally:
        if _asleep.get(key) is event:
            del _asleep[key]


def _called(func: Callable[..., object]) -> str:
    return getattr(func, "__qualname__", repr(func))
