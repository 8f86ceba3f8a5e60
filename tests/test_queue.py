"""A queue lets one greenlet in at a time, in the order in which they came, and nobody who would wait for ever."""

from __future__ import annotations

import gevent
import pytest
from gevent.event import Event

from gws import queue as room
from gws.errors import ServiceError
from gws.queue import Queue


@pytest.fixture
def section():
    """Return a Queue; nobody must be left in it."""
    made = Queue()
    yield made
    assert repr(made) == "<Queue free>"
    assert room.waiting == {}


def test_a_queue_is_a_function(section):
    assert section(lambda *args: args, 1, 2) == (1, 2)


@pytest.mark.parametrize("err", [KeyError("bob"), gevent.GreenletExit(), gevent.Timeout(9)])
def test_what_is_raised_inside_leaves_the_section(section, err):
    def fail():
        raise err

    with pytest.raises(type(err)) as caught:
        section(fail)
    assert caught.value is err


def test_whoever_is_in_may_enter_again(section):
    with section:
        assert section(section, lambda: section.depth) == 3
        assert repr(section) == "<Queue held by main, 0 in line>"


def test_order(section):
    """Nobody gets in who has come later, even if the section is left and entered without a pause."""

    def visit(name):
        with section:
            log.append(name)
            gevent.sleep(0)
            log.append(name)

    log = []
    visitors = [gevent.spawn(visit, name) for name in "abc"]
    gevent.sleep(0)
    assert repr(section).endswith(", 2 in line>")
    visit("d")
    gevent.joinall(visitors)
    assert log == list("aabbccdd")


def test_who_comes_before_the_next_has_woken(section):
    """The section has changed hands, but who has it still sleeps: no ring."""

    def visit(name):
        with section:
            log.append(name)

    log = []
    with section:
        second, third = gevent.spawn(visit, "second"), gevent.Greenlet(visit, "third")
        gevent.sleep(0)
        gevent.get_hub().loop.run_callback(third.switch)
    gevent.joinall([second, third])
    assert log == ["second", "third"]


def test_one_does_not_wait_behind_oneself(section):
    def pester():
        for _ in range(3):
            with section:
                log.append("in")

    log = []
    pester()
    assert log == ["in"] * 3


@pytest.mark.parametrize("given", [False, True])
def test_who_gives_up_waiting_is_passed_over(section, given):
    """`given`: the section was his already, but he had not woken."""

    def hold():
        with section:
            go.wait()
            if given:
                gevent.get_hub().loop.run_callback(quitter.throw)

    def visit(name):
        with section:
            log.append(name)

    go, log = Event(), []
    gevent.spawn(hold)
    quitter, other = gevent.spawn(visit, "quitter"), gevent.spawn(visit, "other")
    gevent.sleep(0)
    if not given:
        quitter.kill()
    go.set()
    other.join()
    assert log == ["other"]
    assert quitter.dead


def test_a_timeout_belongs_to_the_caller(section):
    def hold():
        with section:
            go.wait()

    go = Event()
    holder = gevent.spawn(hold)
    gevent.sleep(0)
    with gevent.Timeout(0, False), section:
        pytest.fail("somebody is in there")
    go.set()
    holder.join()


def test_two_queues_entered_crosswise():
    def enter(mine, other):
        with mine:
            gevent.sleep(0)
            with other:
                return "both"

    one, two = Queue(), Queue()
    first, second = gevent.spawn(enter, one, two), gevent.spawn(enter, two, one)
    with pytest.raises(ServiceError) as caught:
        second.get()
    assert str(caught.value) == f"everybody waits for everybody: {second.name} -> {first.name} -> {second.name}"
    assert first.get() == "both"


def test_a_long_line_is_no_ring(section):
    def visit(other):
        with other, section:
            log.append("in")

    log = []
    with section:
        visitors = [gevent.spawn(visit, Queue()) for _ in range(3)]
        gevent.sleep(0)
    gevent.joinall(visitors)
    assert log == ["in"] * 3
