"""A look at a service: what it has done, and what each of its greenlets waits for.

Does not know how to change anything.
"""

from __future__ import annotations

import os.path
from typing import NamedTuple

from gws.mailbox import Service
from gws.queue import waiting
from gws.runner import trace
from gws.task import Task

__all__ = ["Stat", "stat"]

# Modules that nobody looks for.
_WING = ("skynet", "queue", "task", "runner", "reading")
_SOCKETS = ("client", "kept", "websocket", "goodbye", "stream", "intake", "outbox")
INNER = ("gevent.", *(f"gws.{room}" for room in _WING + _SOCKETS))


class Stat(NamedTuple):
    """A service, as it is now."""

    address: str
    kind: str  # the name of its class
    names: tuple[str, ...]
    mailbox: int  # messages that have not started
    messages: int  # messages that have
    time: float  # for which it had the loop, in seconds
    started: float  # as of time.time()
    greenlets: list[tuple[str, str]]  # the calls that led to each of its greenlets, and what that waits for
    parked: int  # greenlets, of which those may be only some


def stat(service: Service, most: int | None = None) -> Stat:
    """Look at a service, and at so many of its greenlets."""
    parked = tuple(service.parked)  # all at once: the service may be another thread's
    greenlets = sorted((trace(task, task.caller), waits_for(task)) for task in parked[:most])
    return Stat(
        service.address,
        service.kind,
        service.names,
        len(service.mailbox),
        service.handled,
        service.time,
        service.started,
        greenlets,
        len(parked),
    )


def waits_for(task: Task) -> str:
    """Return what a task waits for, and where: "call :00000003 Db.load at enter (rooms.py:12)"."""
    if task.greenlet is None:
        return "its time"
    told = task.awaits()
    if told is not None:
        return told
    verb, frame = "nothing", task.greenlet.gr_frame
    while frame is not None and frame.f_globals.get("__name__", "").startswith(INNER):
        verb, frame = frame.f_code.co_name, frame.f_back
    awaited = waiting.get(task.greenlet)
    what = verb if awaited is None else f"call {awaited}" if isinstance(awaited, Task) else repr(awaited)
    if frame is None:
        return what
    code = frame.f_code
    return f"{what} at {code.co_name} ({os.path.basename(code.co_filename)}:{frame.f_lineno})"
