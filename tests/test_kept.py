"""What is read ahead: kept in order and within bounds, and how long answers are waited for."""

from __future__ import annotations

import pytest
from conftest import turns
from gevent.event import Event

from gws.kept import Kept

pytestmark = pytest.mark.usefixtures("deadline")


@pytest.fixture
def ended():
    return Event()


def test_first_in_first_out(ended):
    kept = Kept(16)
    for message in ("1", b"2", ""):
        kept.put(message, ended)
    assert list(kept) == ["1", b"2", ""]
    assert [kept.take() for _ in range(3)] == ["1", b"2", ""]
    with pytest.raises(IndexError):
        kept.take()


@pytest.mark.parametrize(
    ("most", "size", "messages", "enough"),
    [
        (2, None, ["x" * 1000] * 4, 2),
        (16, 1000, ["x" * 400] * 4, 3),
        (16, 1000, [b"x" * 5000] * 4, 1),
        (16, 1000, [""] * 17, 16),
    ],
)
def test_whoever_puts_waits_when_there_are_enough(greenlets, ended, most, size, messages, enough):
    kept = Kept(most, size)
    putting = greenlets(lambda: [kept.put(message, ended) for message in messages])
    turns()
    assert len(kept) == enough
    taken = []
    while len(taken) < len(messages):
        assert kept or kept.wait()
        taken.append(kept.take())
        turns(1)
    assert taken == messages
    putting.get()


def test_the_end_ends_the_wait(greenlets, ended):
    kept = Kept(1)
    putting = greenlets(kept.put, "1", ended)
    turns()
    assert not putting.ready()
    ended.set()
    putting.get()
    assert list(kept) == ["1"]


def test_whoever_waits_is_woken_by_a_message_and_by_the_end(greenlets, ended):
    kept = Kept(16)
    waiting = greenlets(kept.wait)
    turns()
    kept.put("1", ended)
    assert waiting.get() is True
    waiting = greenlets(kept.wait)
    turns()
    kept.wake()
    assert waiting.get() is True
    assert kept.wait(0.001) is False


def test_answers_are_waited_for_until_those_who_took_messages_ask_again(greenlets, ended):
    kept = Kept(16)
    kept.await_answers()  # there is nothing to answer
    kept.put("1", ended)
    kept.put("2", ended)
    waiting = greenlets(kept.await_answers)
    for answer in (kept.take, kept.ask, kept.take):
        turns()
        assert not waiting.ready()
        answer()
    turns()
    assert not waiting.ready()
    kept.ask()
    waiting.get()


@pytest.mark.parametrize("taken", [0, 1])
def test_answers_are_not_waited_for_for_ever(ended, monkeypatch, taken):
    monkeypatch.setattr("gws.kept._PATIENCE", 0.01)
    kept = Kept(16)
    kept.put("1", ended)
    for _ in range(taken):
        kept.take()
    kept.await_answers()
    assert len(kept) == 1 - taken


def test_cleared(ended):
    kept = Kept(1, 10)
    ended.set()
    kept.put("1234567890", ended)
    kept.clear()
    assert not kept
    kept.await_answers()
