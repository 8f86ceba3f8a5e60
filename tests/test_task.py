"""A task knows what became of it, and who waits for it."""

from __future__ import annotations

import gevent
import pytest
from gevent.exceptions import BlockingSwitchOutError, InvalidSwitchError

from gws import runner, skynet
from gws.task import Task


class Doer:
    """A service that does what it is told."""

    def do(self, func, *args):
        return func(*args)


@pytest.fixture
def doer():
    """Return the address of a Doer."""
    address = skynet.newservice(Doer)
    yield address
    skynet.kill(address)


def test_who_is_resumed_by_a_stranger_is_told(doer):
    def ask():
        with pytest.raises(InvalidSwitchError, match=r"Doer\.do has not answered yet"):
            skynet.call(doer, "do", gevent.sleep, 0)

    caller = gevent.spawn(ask)
    gevent.get_hub().loop.run_callback(lambda: gevent.get_hub().loop.run_callback(caller.switch))
    caller.get()


def test_a_task_shows_its_state(doer):
    def look():
        states.append(repr(runner.current()))
        return gevent.getcurrent().name

    states = [repr(Task(runner.OUTSIDE, "look", ()))]
    assert skynet.call(doer, "do", look) == f"{doer} Doer.do"
    assert states == ["<Task main.look: not started>", f"<Task {doer} Doer.do: under way>"]


def test_the_hub_cannot_wait(doer):
    def ask():
        with pytest.raises(BlockingSwitchOutError):
            skynet.call(doer, "do", print)
        asked.append(True)

    asked = []
    gevent.get_hub().loop.run_callback(ask)
    gevent.sleep(0)
    assert asked == [True]
