"""No task can tell that its greenlet has worked before, and each service pays for what it does."""

from __future__ import annotations

import contextvars
import itertools
from types import SimpleNamespace

import gevent
import pytest
from gevent.local import local

from gws import runner, skynet

NOTE = contextvars.ContextVar("NOTE", default="clean")


class Doer:
    """A service that does what it is told."""

    def do(self, func, *args):
        return func(*args)


@pytest.fixture
def doer():
    """Return the address of a Doer."""
    address = skynet.newservice(Doer)
    yield address
    for service in skynet.services():
        skynet.kill(service.address)
    assert spares() == []
    assert runner.OUTSIDE.parked == set()


def spares():
    """Return the greenlets that rest."""
    return runner.pool(gevent.get_hub()).spares


def turn():
    """Let the hub do what can be done at once."""
    for _ in range(5):
        gevent.sleep(0)


def pause():
    """Be parked, and go on."""
    gevent.sleep(0)


PARKED = pytest.mark.parametrize("rest", [lambda: None, pause], ids=["straight", "parked"])


@PARKED
def test_a_greenlet_that_nobody_has_kept_works_again(doer, rest):
    for _ in range(10):
        skynet.call(doer, "do", rest)
        assert len(spares()) == 1
    calls = [gevent.spawn(skynet.call, doer, "do", pause) for _ in range(runner.SPARES + 9)]
    gevent.joinall(calls)
    assert len(spares()) == runner.SPARES


@PARKED
def test_a_greenlet_that_somebody_has_kept_does_not(doer, rest):
    def keep():
        rest()
        kept.append(gevent.getcurrent())

    kept = []
    for _ in range(3):
        skynet.call(doer, "do", keep)
    assert len(set(map(id, kept))) == 3
    turn()
    assert all(greenlet.dead for greenlet in kept)


def test_where_references_are_not_counted_no_greenlet_works_again(doer, monkeypatch):
    """So it is with PyPy."""
    numbers = itertools.count()
    monkeypatch.setattr(runner, "getrefcount", lambda _: next(numbers))
    for _ in range(3):
        assert skynet.call(doer, "do", pause) is None
        skynet.send(doer, "do", pause)
    turn()
    assert spares() == []


@PARKED
def test_a_timeout_that_was_never_closed_hits_nobody(doer, rest, capsys):
    def forget():
        timeouts.append(gevent.Timeout.start_new(0.001))
        rest()

    timeouts = []
    skynet.call(doer, "do", forget)
    assert skynet.call(doer, "do", lambda: gevent.sleep(0.01)) is None
    assert not timeouts[0].pending
    assert capsys.readouterr() == ("", "")
    timeouts[0].close()


@PARKED
def test_locals_and_contexts_end_with_the_message(doer, rest):
    def write(text):
        rest()
        notes.text = text
        NOTE.set(text)

    notes = local()
    skynet.call(doer, "do", write, "dirty")
    turn()
    assert skynet.call(doer, "do", lambda: (vars(notes), NOTE.get())) == ({}, "clean")


def test_arguments_and_answers_are_let_go(doer):
    class Big:
        alive = 0

        def __init__(self):
            Big.alive += 1

        def __del__(self):
            Big.alive -= 1

    skynet.call(doer, "do", id, Big())
    skynet.call(doer, "do", Big)
    turn()
    assert Big.alive == 0


@pytest.fixture
def clock(monkeypatch):
    """Return a function that lets processor time pass; nothing else does."""

    def work(seconds):
        passed[0] += seconds

    passed = [1000.0]
    monkeypatch.setattr(runner, "time", SimpleNamespace(perf_counter=lambda: passed[0]))
    runner.charge(runner.OUTSIDE)
    yield work
    monkeypatch.undo()
    runner.charge(runner.OUTSIDE)


def times():
    """Return the processor time of each service; what it took before there was our clock is next to nothing."""
    return [int(service.time) for service in skynet.services()]


def test_processor_time(doer, clock):
    other = skynet.newservice(Doer)

    def first():
        clock(1)
        skynet.call(other, "do", second)
        clock(2)

    def second():
        clock(10)
        gevent.sleep(0)
        clock(20)
        with gevent.Timeout(0, False):
            gevent.sleep(9)
        clock(40)

    clock(100)
    skynet.call(doer, "do", first)
    clock(200)
    skynet.call(other, "do", clock, 300)
    clock(400)
    assert times() == [3, 370]


def test_processor_time_of_what_ends_in_between(doer, clock):
    def pass_on():
        with pytest.raises(skynet.ServiceExited):
            skynet.call(other, "do", skynet.exit)
        clock(1)

    other = skynet.newservice(Doer)
    skynet.send(doer, "do", clock, 2)
    skynet.call(doer, "do", pass_on)
    skynet.fork(clock, 4)
    skynet.call(doer, "do", skynet.fork, clock, 8)
    turn()
    assert times() == [11]
