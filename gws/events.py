"""Who is to be told of what: a table of event -> callbacks, filled by `on()`.

Knows no event by name but those it is made with, and nothing of connections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar, overload

__all__ = ["Events"]

Callback = TypeVar("Callback", bound=Callable[..., Any])


class Events:
    """A table of events.   Several callbacks to one event are called in the order in which they came."""

    __slots__ = ("table",)

    def __init__(self, names: Iterable[str]):
        #: event -> callbacks, in a new tuple after each change: a callback may take itself off while they are called
        self.table: dict[str, tuple[Callable[..., Any], ...]] = dict.fromkeys(names, ())

    def __repr__(self) -> str:
        return f"<Events {', '.join(f'{name}: {len(them)}' for name, them in self.table.items() if them)}>"

    @overload
    def on(self, event: str, callback: Callback, *, first: bool = False) -> Callback: ...

    @overload
    def on(self, event: str, *, first: bool = False) -> Callable[[Callback], Callback]: ...

    def on(self, event: str, callback: Any = None, *, first: bool = False) -> Any:
        """Call `callback` on `event`; without a callback, return a decorator.   ValueError for an unknown event.

        `first`: before those that are there, which may block, or raise.
        """
        callbacks = self._callbacks(event)
        if callback is None:
            return lambda function: self.on(event, function, first=first)
        if not callable(callback):
            raise TypeError(f"a callback for {event!r} must be callable, not {type(callback).__name__}")
        self.table[event] = (callback, *callbacks) if first else (*callbacks, callback)
        return callback

    def off(self, event: str, callback: Callable[..., Any]) -> None:
        """Call `callback` no longer.   ValueError if it was not there."""
        left = list(self._callbacks(event))
        left.remove(callback)
        self.table[event] = tuple(left)

    def emit(self, event: str, *args: Any) -> None:
        """Call whoever asked for `event`.   What a callback raises goes to the caller.   Blocks if a callback does."""
        for callback in self.table[event]:
            callback(*args)

    def _callbacks(self, event: str) -> tuple[Callable[..., Any], ...]:
        if event not in self.table:
            raise ValueError(f"there is no event {event!r}; there are {', '.join(self.table)}")
        return self.table[event]
