"""gws.events: who is told of what, and in which order."""

from __future__ import annotations

from typing import Any

import pytest

from gws.events import Events


@pytest.fixture
def events() -> Events:
    return Events(("open", "message"))


def test_callbacks_are_called_in_the_order_in_which_they_came(events: Events) -> None:
    told: list[Any] = []
    events.on("message", lambda *args: told.append(("first", args)))
    events.on("message", lambda *args: told.append(("second", args)))
    events.emit("message", 1, 2)
    assert told == [("first", (1, 2)), ("second", (1, 2))]


def test_one_may_be_put_before_those_that_are_there(events: Events) -> None:
    told: list[str] = []
    events.on("message", lambda: told.append("second"))
    events.on("message", lambda: told.append("first"), first=True)
    events.on("message", first=True)(lambda: told.append("before the first"))
    events.emit("message")
    assert told == ["before the first", "first", "second"]


def test_nobody_need_listen(events: Events) -> None:
    events.emit("open")


def test_on_is_a_decorator_that_changes_nothing(events: Events) -> None:
    told = []

    @events.on("open")
    def opened() -> None:
        told.append("open")

    events.emit("open")
    opened()
    assert told == ["open", "open"]


def test_on_returns_what_it_was_given(events: Events) -> None:
    assert events.on("open", print) is print


def test_off_takes_one_of_two_away(events: Events) -> None:
    told: list[Any] = []
    events.on("message", told.append)
    events.on("message", told.append)
    events.off("message", told.append)
    events.emit("message", 1)
    assert told == [1]


def test_a_callback_may_take_itself_off_and_hides_nobody(events: Events) -> None:
    told = []

    def once() -> None:
        told.append("once")
        events.off("open", once)

    events.on("open", once)
    events.on("open", lambda: told.append("always"))
    events.emit("open")
    events.emit("open")
    assert told == ["once", "always", "always"]


def test_what_a_callback_adds_is_called_from_the_next_time_on(events: Events) -> None:
    told = []
    events.on("open", lambda: events.on("open", lambda: told.append("added")))
    events.emit("open")
    assert told == []
    events.emit("open")
    assert told == ["added"]


def test_what_a_callback_raises_goes_to_the_caller(events: Events) -> None:
    events.on("open", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        events.emit("open")


@pytest.mark.parametrize("verb", ["on", "off"])
def test_an_unknown_event_is_told_with_those_there_are(events: Events, verb: str) -> None:
    with pytest.raises(ValueError, match="no event 'opne'; there are open, message"):
        getattr(events, verb)("opne", print)


def test_an_unknown_event_is_told_before_the_decorator_is_used(events: Events) -> None:
    with pytest.raises(ValueError, match="no event"):
        events.on("opne")


def test_off_what_was_never_on(events: Events) -> None:
    with pytest.raises(ValueError):
        events.off("open", print)


def test_a_callback_must_be_callable(events: Events) -> None:
    with pytest.raises(TypeError, match="callback for 'open' must be callable, not str"):
        events.on("open", "print")  # type: ignore[call-overload]


def test_repr_counts(events: Events) -> None:
    events.on("open", print)
    assert repr(events) == "<Events open: 1>"
