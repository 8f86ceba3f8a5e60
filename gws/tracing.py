"""Following a service's messages, as skynet's debug console does: a line when one begins, and one when it is over.

Does not know which service is whose, nor where the lines go.
Contract with `task` below: a home's `tracer`, if it has one, is given each task that begins, and what that would call.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from time import perf_counter
from typing import Any

from gws.runner import trace
from gws.task import Home, Task

__all__ = ["follow"]

log = logging.getLogger("gws")

Listener = Callable[[str], object]


def follow(home: Home, listener: Listener) -> Callable[[], None]:
    """Have `listener(line)` called for what a service does, and return what ends that; it must not block."""
    tracer = home.tracer
    if not isinstance(tracer, Tracer):
        tracer = home.tracer = Tracer()
    key = object()
    tracer.listeners[key] = listener

    def leave() -> None:
        tracer.listeners.pop(key, None)
        if not tracer.listeners and home.tracer is tracer:
            home.tracer = None

    return leave


class Tracer:
    """What stands between a service and its messages while somebody listens."""

    __slots__ = ("_numbers", "listeners")

    def __init__(self) -> None:
        self.listeners: dict[object, Listener] = {}
        self._numbers = itertools.count(1)

    def __call__(self, task: Task, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return what to call instead of `func`."""

        def followed(*args: Any) -> Any:
            number, began = next(self._numbers), perf_counter()
            self._tell(f"#{number} begins: {_origin(task)}")
            try:
                answer = func(*args)
            except BaseException as err:
                self._tell(f"#{number} failed after {_milliseconds(began)}: {err!r:.200}")
                raise
            self._tell(f"#{number} done after {_milliseconds(began)}")
            return answer

        return followed

    def _tell(self, line: str) -> None:
        for listener in list(self.listeners.values()):
            try:
                listener(line)
            except Exception:
                log.exception("a listener to a trace failed")


def _origin(task: Task) -> str:
    """Tell the chain of calls that led to a task, or who sent it."""
    chain = trace(task, task.caller)
    return f"{chain}, sent by {task.source}" if task.caller is None and task.source is not None else chain


def _milliseconds(began: float) -> str:
    return f"{(perf_counter() - began) * 1000:.3f} ms"
