"""What went on lately: a point for each second, with what has gone, how fast, and how late the loop was."""

from __future__ import annotations

import gevent
import pytest
from conftest import until
from gevent.monkey import get_original

import gws.client
from gws import history as room
from gws import stream
from gws.history import History
from gws.server import Server

pytestmark = pytest.mark.usefixtures("deadline")


@pytest.fixture
def watch(monkeypatch):
    """Return a function that begins a History, whose seconds are short; it is stopped in the end."""
    monkeypatch.setattr(room, "_TICK", 0.001)
    monkeypatch.setattr(room, "_LEAST", 0.01)
    made = []

    def begin(ticked=lambda: None, made_one=lambda point: None, own=lambda: (0, 0, 0, 0)):
        made.append(History(Server(), own))
        made[-1].start(ticked, made_one)
        return made[-1]

    yield begin
    for each in made:
        each.stop()


def test_points_are_made_and_told_and_only_so_many_are_kept(watch):
    ticks, told = [], []
    history = watch(lambda: ticks.append(1), told.append)
    assert history.points.maxlen == room.KEPT
    until(lambda: len(told) >= 3)
    assert list(history.points) == told
    assert len(ticks) > 3
    times = [point.time for point in told]
    assert times == sorted(times)


def test_a_point_tells_how_fast_messages_come_and_go(watch):
    server = Server()
    server.on("message", lambda fd, message: fd.write(message))
    server.start(port=0, ping_interval=0.005)
    client = gws.client.connect("127.0.0.1", server.port)
    history = watch()

    def seen():
        client.write("hello")
        client.read()
        return any(point.messages_in > 0 and point.messages_out > 0 and point.median for point in history.points)

    until(seen)
    assert all(point.slow >= point.median > 0 for point in history.points if point.median)
    assert history.points[-1].connections == 2
    client.close()
    server.stop(timeout=0)


def test_what_is_our_own_is_not_counted(watch):
    history = watch(own=stream.totals)
    server = Server()
    server.start(port=0)
    client = gws.client.connect("127.0.0.1", server.port)
    before = len(history.points)
    client.write("hello")
    until(lambda: len(history.points) > before + 1)
    assert {point[1:5] for point in history.points} == {(0, 0, 0, 0)}
    client.close()
    server.stop(timeout=0)


def test_a_loop_that_is_held_up_is_seen(watch):
    history = watch()
    until(lambda: history.points)
    get_original("time", "sleep")(0.1)  # nobody else runs meanwhile
    until(lambda: any(point.late > 0.05 for point in history.points))


def test_the_more_a_point_costs_the_later_the_next_one_comes(watch, monkeypatch):
    spent = iter(range(1000))
    monkeypatch.setattr(room.overview, "spent", lambda: next(spent))  # a second each
    pauses = []
    monkeypatch.setattr(
        History, "_wait", lambda self, seconds, ticked: (pauses.append(seconds), gevent.sleep(0), 0.0)[2]
    )
    watch()
    until(lambda: len(pauses) > 3)
    assert pauses[:2] == [0.01, 20]


def test_stop_from_within(watch):
    history = watch(made_one=lambda point: history.stop())
    until(lambda: history.points)
    history.stop()
    count = len(history.points)
    assert history._greenlet.dead
    assert len(history.points) == count
