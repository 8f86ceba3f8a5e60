"""gws.keepalive: who is pinged when, who is cut, and how many timers that takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from conftest import until
from gevent import get_hub

from gws import keepalive as room
from gws.keepalive import Deadlines, Keepalive, keepalive, watched

pytestmark = pytest.mark.usefixtures("deadline")


class Clock:
    """Time that passes when it is told to; the loop's timers are fired by hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[Timer] = []
        self.loop = self

    def timer(self, seconds: float, ref: bool) -> Timer:
        assert not ref, "a timer of ours must not keep a program alive that has ended otherwise"
        assert seconds > 0
        return Timer(self, seconds)

    def monotonic(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass, and fire what falls due meanwhile, in order."""
        end = self.now + seconds
        while due := [timer for timer in self.timers if timer.due <= end]:
            timer = min(due, key=lambda timer: timer.due)
            self.timers.remove(timer)
            self.now = max(self.now, timer.due)
            try:
                timer.callback()
            except ZeroDivisionError:  # as the hub does: it goes on
                continue
        self.now = end


class Timer:
    """One of the loop's, as far as it is used."""

    def __init__(self, clock: Clock, seconds: float):
        self.clock, self.seconds, self.open = clock, seconds, True

    def start(self, callback: Any) -> None:
        assert self.open
        self.due, self.callback = self.clock.now + self.seconds, callback
        self.clock.timers.append(self)

    def stop(self) -> None:
        if self in self.clock.timers:
            self.clock.timers.remove(self)

    def close(self) -> None:
        self.stop()
        self.open = False


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(room, "get_hub", lambda: clock)
    monkeypatch.setattr(room, "monotonic", clock.monotonic)
    return clock


# ---------------------------------------------------------------------------------------------------------- Deadlines


@pytest.fixture
def due() -> list[Any]:
    return []


@pytest.fixture
def deadlines(clock: Clock, due: list[Any]) -> Deadlines:
    return Deadlines(10, lambda thing, value: due.append((thing, value, clock.now - 1000)))


def test_things_fall_due_in_the_order_in_which_they_came(clock: Clock, deadlines: Deadlines, due: list[Any]) -> None:
    deadlines.add("a")
    clock.advance(3)
    deadlines.add("b", 2)
    deadlines.add("c", 3)
    clock.advance(20)
    assert due == [("a", None, 10), ("b", 2, 13), ("c", 3, 13)]
    assert len(deadlines) == 0


def test_one_timer_serves_them_all_and_none_is_left(clock: Clock, deadlines: Deadlines) -> None:
    assert clock.timers == []
    for i in range(100):
        deadlines.add(i)
        clock.advance(0.01)
        assert len(clock.timers) == 1
    clock.advance(10)
    assert clock.timers == []


def test_what_is_discarded_does_not_fall_due(clock: Clock, deadlines: Deadlines, due: list[Any]) -> None:
    deadlines.add("a")
    deadlines.add("b")
    deadlines.discard("a")
    deadlines.discard("nothing")
    assert "a" not in deadlines
    assert "b" in deadlines
    clock.advance(10)
    assert [thing for thing, _, _ in due] == ["b"]


def test_the_timer_goes_with_the_last_of_them(clock: Clock, deadlines: Deadlines) -> None:
    deadlines.add("a")
    deadlines.discard("a")
    assert clock.timers == []
    deadlines.discard("a")


def test_what_is_added_again_begins_anew(clock: Clock, deadlines: Deadlines, due: list[Any]) -> None:
    deadlines.add("a", 1)
    deadlines.add("b", 1)
    clock.advance(6)
    deadlines.add("a", 2)
    clock.advance(20)
    assert due == [("b", 1, 10), ("a", 2, 16)]


def test_a_timer_that_fires_early_is_set_again(clock: Clock, deadlines: Deadlines, due: list[Any]) -> None:
    # The loop counts from the time at which it last looked, which may be a while ago.
    deadlines.add("a")
    clock.timers[0].due = clock.now + 9
    clock.advance(9)
    assert due == []
    clock.advance(1)
    assert due == [("a", None, 10)]


def test_a_thing_may_come_back_when_it_is_due(clock: Clock) -> None:
    fired = []

    def again(thing: str, value: Any) -> None:
        fired.append((thing, clock.now - 1000))
        deadlines.add(thing)
        assert len(clock.timers) == 0  # a timer is set once, when all that is due is done

    deadlines = Deadlines(10, again)
    deadlines.add("a")
    clock.advance(4)
    deadlines.add("b")
    for _ in range(3):
        clock.advance(10)
        assert len(clock.timers) == 1
    assert fired == [("a", 10), ("b", 14), ("a", 20), ("b", 24), ("a", 30), ("b", 34)]


def test_a_thing_may_discard_the_others(clock: Clock) -> None:
    fired = []

    def alone(thing: str, value: Any) -> None:
        fired.append(thing)
        for other in "abc":
            deadlines.discard(other)
        deadlines.add("d")

    deadlines = Deadlines(10, alone)
    for thing in "abc":
        deadlines.add(thing)
    clock.advance(10)
    assert fired == ["a"]
    assert len(clock.timers) == 1
    clock.advance(10)
    assert fired == ["a", "d"]


def test_the_last_one_may_discard_the_rest(clock: Clock) -> None:
    deadlines = Deadlines(10, lambda thing, value: deadlines.discard("b"))
    for thing in "ab":
        deadlines.add(thing)
    clock.advance(10)
    assert len(deadlines) == 0
    assert clock.timers == []


def test_what_one_raises_does_not_reach_the_others(clock: Clock) -> None:
    fired = []

    def fails(thing: str, value: Any) -> None:
        fired.append(thing)
        if thing == "a":
            raise ZeroDivisionError

    deadlines = Deadlines(10, fails)
    for thing in "ab":
        deadlines.add(thing)
    clock.advance(5)
    deadlines.add("c")
    clock.advance(15)
    assert fired == ["a", "b", "c"]


# ---------------------------------------------------------------------------------------------------------- Keepalive


class Connection:
    """What the keepalive sees of one."""

    def __init__(self, clock: Clock | None = None, *, answers: bool = True):
        self.clock, self.answers = clock, answers
        self.sent = 0  # by the peer, besides its answers
        self.waiting = False
        self.pings: list[float] = []
        self.cuts: list[tuple[float, int, str]] = []

    def _now(self) -> float:
        return self.clock.now - 1000 if self.clock else 0

    def probe(self) -> None:
        self.pings.append(self._now())

    @property
    def heard(self) -> int:
        return self.sent + self.answers * sum(when < self._now() for when in self.pings)

    def cut(self, code: int, reason: str) -> None:
        self.cuts.append((self._now(), code, reason))


def test_who_answers_is_pinged_at_every_interval(clock: Clock) -> None:
    watch, peer = Keepalive(20, 15), Connection(clock)
    watch.add(peer)
    clock.advance(90)
    assert peer.pings == [20, 40, 60, 80]
    assert peer.cuts == []


def test_who_is_silent_is_cut_once_the_timeout_is_over(clock: Clock) -> None:
    watch, peer = Keepalive(20, 15), Connection(clock, answers=False)
    watch.add(peer)
    clock.advance(34)
    assert peer.cuts == []
    clock.advance(1)
    assert peer.cuts == [(35, 1011, "keepalive ping timeout (15 s)")]


@pytest.mark.parametrize(("timeout", "text"), [(20, "20 s"), (0.5, "0.5 s"), (1.0, "1 s")])
def test_the_reason_tells_how_long_we_have_waited(clock: Clock, timeout: float, text: str) -> None:
    watch, peer = Keepalive(20, timeout), Connection(clock, answers=False)
    watch.add(peer)
    clock.advance(20 + timeout)
    assert peer.cuts[0][2] == f"keepalive ping timeout ({text})"


def test_a_timeout_longer_than_the_interval_runs_from_the_first_ping(clock: Clock) -> None:
    watch, peer = Keepalive(10, 35), Connection(clock, answers=False)
    watch.add(peer)
    clock.advance(45)
    assert peer.pings == [10, 20, 30, 40]
    assert [when for when, _, _ in peer.cuts] == [45]


def test_anything_heard_is_a_sign_of_life(clock: Clock) -> None:
    watch, peer = Keepalive(20, 15), Connection(clock, answers=False)
    watch.add(peer)
    clock.advance(21)
    peer.sent += 1  # no pong, but something
    clock.advance(15)
    assert peer.cuts == []
    clock.advance(30)
    assert [when for when, _, _ in peer.cuts] == [55]


def test_what_lies_unread_is_a_sign_of_life(clock: Clock) -> None:
    watch, peer = Keepalive(20, 15), Connection(clock, answers=False)
    peer.waiting = True
    watch.add(peer)
    clock.advance(100)
    assert peer.cuts == []
    peer.waiting = False
    clock.advance(40)
    assert len(peer.cuts) >= 1


def test_each_is_judged_for_itself(clock: Clock) -> None:
    watch = Keepalive(20, 15)
    peers = [Connection(clock, answers=i % 3 > 0) for i in range(9)]
    for peer in peers:
        watch.add(peer)
        clock.advance(1)
    clock.advance(40)
    assert [bool(peer.cuts) for peer in peers] == [i % 3 == 0 for i in range(9)]
    assert len(clock.timers) <= 2


def test_who_is_discarded_is_left_alone(clock: Clock) -> None:
    watch, early, late = Keepalive(20, 15), Connection(clock, answers=False), Connection(clock, answers=False)
    for peer in (early, late):
        watch.add(peer)
    watch.discard(early)
    clock.advance(25)
    watch.discard(late)
    clock.advance(100)
    assert (early.pings, late.pings) == ([], [20])
    assert early.cuts == late.cuts == []
    assert clock.timers == []


def test_a_cut_connection_may_discard_itself(clock: Clock) -> None:
    class Ending(Connection):
        def cut(self, code: int, reason: str) -> None:
            super().cut(code, reason)
            watch.discard(self)

    watch, peer = Keepalive(20, 15), Ending(clock, answers=False)
    watch.add(peer)
    clock.advance(200)
    assert len(peer.cuts) == 1
    assert clock.timers == []


# ------------------------------------------------------------------------------------------------- on the loop itself


@pytest.fixture
def kept() -> Iterator[None]:
    yield
    vars(get_hub()).pop("gws_keepalive", None)


@pytest.mark.usefixtures("kept")
def test_the_same_times_share_one_keepalive() -> None:
    assert keepalive(20, 20) is keepalive(20, 20)
    assert len({keepalive(20, 20), keepalive(20, 10), keepalive(10, 20)}) == 3


@pytest.mark.usefixtures("kept")
def test_each_hub_has_its_own() -> None:
    def other() -> Keepalive:
        made = keepalive(20, 20)
        get_hub().destroy(destroy_loop=True)
        return made

    assert get_hub().threadpool.apply(other) is not keepalive(20, 20)


def test_real_timers() -> None:
    watch, silent, lively = Keepalive(0.003, 0.004), Connection(answers=False), Connection()
    lively.waiting = True
    watch.add(silent)
    watch.add(lively)
    until(lambda: silent.cuts and len(lively.pings) > 3)
    for peer in (silent, lively):
        watch.discard(peer)
    assert lively.cuts == []


@pytest.mark.usefixtures("kept")
def test_who_is_watched() -> None:
    one, other = Connection(), Connection()
    keepalive(20, 20).add(one)
    keepalive(20, 10).add(other)
    try:
        assert {one, other} <= set(watched())
    finally:
        keepalive(20, 20).discard(one)
        keepalive(20, 10).discard(other)
    assert not {one, other} & set(watched())
