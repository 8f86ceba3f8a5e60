"""Time is shared among all: whoever is new or takes long waits in a lane, and nobody waits for them.

The last part is attacks, many connections each, on a server in a process of its own: see `hostile.attacked` for what
is asserted of its memory and of the neighbour's echoes.
"""

from __future__ import annotations

import contextlib
import random
from time import monotonic, thread_time

import gevent
import pytest
from by_hand import deflated
from conftest import poll, turns, until
from gevent import get_hub
from hostile import DEFLATE, MIB, attacked, wire

from gws.deflate import Parameters
from gws.frame import BINARY, CONTINUATION, FIN, PING, RSV1, TEXT
from gws.stream import Plain, Stream
from gws.turn import HEAVY, KNOWN, LONG, NEW, PROOF, PROOF_MOST, SPELL, Lanes, Standing

KINDS = ["plain"] if Stream is Plain else ["compiled", "plain"]
COMPRESSED = {name.replace("-", "_"): value for name, value in DEFLATE.items()}


def burn(seconds):
    """Take processor time, however much other processes take."""
    end = thread_time() + seconds
    while thread_time() < end:
        pass


# ------------------------------------------------------------------------------------------------------------ the lanes


@pytest.fixture
def lanes():
    return Lanes(get_hub().loop)


def test_whoever_waits_is_called_in_order(lanes):
    called = []
    for number in range(5):
        lanes.join(NEW, lambda number=number: called.append(number))
    assert not called
    until(lambda: called == [0, 1, 2, 3, 4])


def test_the_lanes_take_turns(lanes):
    called = []
    for lane in (HEAVY, HEAVY, NEW, NEW, NEW, KNOWN, KNOWN):
        lanes.join(lane, lambda lane=lane: called.append(lane))
    until(lambda: len(called) == 7)
    assert sorted(called[:2]) == sorted(called[2:4]) == [KNOWN, NEW]
    assert called[4:] == [NEW, HEAVY, HEAVY]


@pytest.mark.parametrize("crowded", [KNOWN, NEW, HEAVY])
def test_a_crowd_in_one_lane_does_not_starve_another(lanes, crowded):
    called = []
    for lane in [crowded] * 20 + [KNOWN, NEW, HEAVY]:
        lanes.join(lane, lambda lane=lane: (called.append(lane), burn(SPELL)))
    until(lambda: len(called) == 23)
    assert {*called[:4]} == {KNOWN, NEW, HEAVY}


def test_all_together_have_one_spell_in_a_turn_of_the_loop(lanes):
    polls, called = [0], []
    prepare = get_hub().loop.prepare()
    prepare.start(lambda: polls.append(polls[-1] + 1))
    try:
        for _ in range(4):
            lanes.join(HEAVY, lambda: (called.append(polls[-1]), burn(SPELL)))
        until(lambda: len(called) == 4)
    finally:
        prepare.stop()
        prepare.close()
    assert len(set(called)) == 4  # each in another turn


@pytest.fixture
def spell(monkeypatch):
    """Return a function that tells which spell this is, while others take eight spells' time in each turn."""
    begun, over = [0], Lanes._over
    monkeypatch.setattr(Lanes, "_over", lambda lanes: (begun.append(begun[-1] + 1), over(lanes)))
    others = get_hub().loop.timer(0, 0.001)  # it is due again by the next turn
    others.start(burn, 8 * SPELL)
    yield lambda: begun[-1]
    others.stop()
    others.close()


@pytest.mark.parametrize("lane", [NEW, KNOWN])
def test_a_crowd_of_the_trusted_does_not_starve_the_others(lanes, spell, lane):
    called = []
    for _ in range(40):
        lanes.join(lane, lambda: (called.append(spell()), burn(SPELL / 5)))
    until(lambda: len(called) == 40)
    assert len(set(called)) <= 5  # if each were as long as ever, it would be eight


def test_who_takes_long_gets_no_more_when_others_are_at_work(lanes, spell):
    called = []
    for lane in (NEW, HEAVY, HEAVY, HEAVY):
        lanes.join(lane, lambda lane=lane: (called.append((lane, spell())), burn(4 * SPELL)))
    until(lambda: len(called) == 4)
    assert len({number for lane, number in called if lane == HEAVY}) == 3


def test_nobody_waits_while_there_is_time(lanes):
    assert lanes.may_go()
    burn(SPELL)
    assert not lanes.may_go()
    turns()
    assert lanes.may_go()


def test_nobody_passes_those_who_wait(lanes):
    lanes.join(NEW, lambda: None)
    assert not lanes.may_go()
    turns()
    assert lanes.may_go()


def test_who_fails_does_not_hold_the_others_up(lanes):
    called, failed = [], []
    lanes.join(NEW, lambda: 1 / 0)
    lanes.join(NEW, lambda: called.append(1))
    get_hub().handle_error, usual = lambda *args: failed.append(args[1]), get_hub().handle_error
    try:
        until(lambda: called)
    finally:
        get_hub().handle_error = usual
    assert failed == [ZeroDivisionError]


# -------------------------------------------------------------------------------------------------------- the standing


def served(standing, *took):
    for seconds in took:
        standing.judge(standing.clock(), seconds)
    return standing


def test_who_shakes_hands_need_not_wait():
    standing = served(Standing(), *[10 * LONG] * 3)
    assert standing.trusted and standing.clock() is monotonic


def test_who_is_new_is_trusted_after_a_while():
    standing = Standing()
    standing.begin()
    assert (standing.trusted, standing.lane, standing.clock()) == (False, NEW, thread_time)
    served(standing, *[LONG / 2] * (PROOF - 1))
    assert not standing.trusted
    served(standing, LONG / 2)
    assert (standing.trusted, standing.lane, standing.clock()) == (True, KNOWN, monotonic)
    standing.begin()
    assert standing.trusted  # it is new once


def test_who_takes_long_has_to_show_more_each_time():
    standing = Standing()
    standing.begin()
    served(standing, 2 * LONG)
    assert standing.lane == HEAVY
    served(standing, *[0] * (2 * PROOF - 1))
    assert not standing.trusted
    assert served(standing, 0).trusted
    served(standing, 2 * LONG)  # by the clock on the wall
    assert not standing.trusted and standing.lane == KNOWN  # it may be the machine that is slow
    served(standing, *[2 * LONG] * 20)
    assert standing.lane == HEAVY
    served(standing, *[0] * (PROOF_MOST - 1))
    assert not standing.trusted
    assert served(standing, 0).trusted


# ------------------------------------------------------------------------------------------- streams that share a hub


@pytest.fixture
def crowd(raw):
    """Return a function that makes (a list of who was served, a connection's peer): its handler burns `seconds`."""
    served, greenlets = [], []

    def make(name, seconds):
        fd, peer = raw()

        def serve():
            with contextlib.suppress(Exception):
                for _ in fd:
                    served.append(name)
                    burn(seconds)

        greenlets.append(gevent.spawn(serve))
        return served, peer

    yield make
    gevent.killall(greenlets)


def prove(served, peer, times):
    for _ in range(times):
        before = len(served)
        peer.say((FIN | TEXT, b"short"))
        until(lambda before=before: len(served) > before)
    served.clear()


def test_a_crowd_of_newcomers_keeps_nobody_waiting(crowd, deadline):
    served, neighbour = crowd("neighbour", 0)
    prove(served, neighbour, PROOF)
    peers = [crowd("new", SPELL)[1] for _ in range(20)]
    turns()
    for peer in [*peers, neighbour]:
        peer.say((FIN | TEXT, b"!"), (FIN | TEXT, b"!"))
    until(lambda: len(served) == 42)
    assert served.index("neighbour") <= 2  # one may go at once, and one has the first turn of the lanes


def test_who_is_known_to_take_long_does_not_keep_newcomers_waiting(crowd, deadline):
    peers = [crowd("heavy", SPELL)[1] for _ in range(20)]
    turns()
    for peer in peers:
        peer.say(*[(FIN | TEXT, b"!")] * 4)
    served, newcomer = crowd("new", 0)
    until(lambda: len(served) >= 40)  # by now they are known
    served.clear()
    newcomer.say((FIN | TEXT, b"hello"))
    until(lambda: len(served) >= 20)
    assert served.index("new") <= 2


def test_whoever_waits_in_a_lane_gets_there(crowd, deadline):
    peers = [crowd(number, SPELL)[1] for number in range(5)]
    turns()
    for peer in peers:
        peer.say(*[(FIN | TEXT, b"!")] * 3)
    served = crowd("nobody", 0)[0]
    until(lambda: len(served) == 15)
    assert all(served.count(number) == 3 for number in range(5))


def test_closing_ends_the_wait(raw, reading, crowd, deadline):
    served, peer = crowd("heavy", SPELL)
    fd, other = raw()
    reader = reading(fd)
    peer.say(*[(FIN | TEXT, b"!")] * 3)
    until(lambda: served)
    other.say((FIN | TEXT, b"hello"))
    fd.cut(1001, "")
    assert reader.until_end().code == 1001


TEXT_OF_100_KIB = b"so it goes. " * 8533
IN_TWO = deflated(TEXT_OF_100_KIB)
LARGE_ONES = {
    "a large frame": [(FIN | TEXT, TEXT_OF_100_KIB)],
    "a frame that inflates to a large message": [(FIN | RSV1 | TEXT, IN_TWO)],
    "a fragment that does": [(RSV1 | TEXT, IN_TWO), (FIN | CONTINUATION, b"")],
    "the last of large fragments": [(TEXT, TEXT_OF_100_KIB[:50_000]), (FIN | CONTINUATION, TEXT_OF_100_KIB[50_000:])],
}


@pytest.mark.parametrize("frames", LARGE_ONES.values(), ids=LARGE_ONES)
def test_a_large_message_waits_for_the_others_and_is_not_lost(raw, crowd, frames, deadline):
    served, heavy = crowd("heavy", SPELL)
    fd, peer = raw(deflate=Parameters())
    got, interrupted = [], []

    def read():
        while not got:
            try:
                got.append(fd.read())
            except Interrupted:
                interrupted.append(len(served))

    reader = gevent.spawn(read)
    turns()
    heavy.say(*[(FIN | TEXT, b"!")] * 30)
    until(lambda: served)
    feeder = gevent.spawn(peer.say, *frames)
    while not got:  # in each turn of the loop, whatever it waits for
        poll()
        if fd.stream.reading and not reader.dead:
            reader.kill(Interrupted, block=False)
    assert got == [TEXT_OF_100_KIB.decode()]
    assert interrupted
    feeder.join()
    peer.say((FIN | TEXT, b"and so on"))
    assert fd.read() == "and so on"


class Interrupted(BaseException):
    pass


# ------------------------------------------------------------------------------------------------------------- attacks


@pytest.fixture(params=KINDS)
def target(request):
    with gevent.Timeout(60), attacked(request.param) as target:
        yield target


def words(size):
    """Return a text of `size` bytes that deflates to about a hundredth."""
    chance = random.Random(7)
    parts = [bytes(chance.choices(b"abcdefghij ", k=300)) for _ in range(12)]
    return b"".join(chance.choice(parts) for _ in range(size // 300))


def everybody_is_told(target, attackers, count):
    """Wait until each attacker has its `count` echoes: all of them were served, and time was not saved on them."""
    for attacker in attackers:
        for _ in range(count):
            assert attacker.frame() is not None


def test_many_with_messages_that_inflate(target):
    payload = deflated(words(MIB))
    attackers = [target.enter(**COMPRESSED) for _ in range(40)]
    for attacker in attackers:
        attacker.send(wire(FIN | RSV1 | TEXT, payload) * 2)
    everybody_is_told(target, attackers, 2)


def test_a_crowd_with_one_small_bomb_each(target):
    bomb = wire(FIN | RSV1 | BINARY, deflated(bytes(MIB)))
    attackers = [target.enter(**COMPRESSED) for _ in range(300)]
    for attacker in attackers:
        attacker.send(bomb)
    everybody_is_told(target, attackers, 1)


FLOODS = {
    "pings": wire(FIN | PING, b"p" * 125) * 2000,
    "fragments": wire(TEXT, b"x") + wire(CONTINUATION, b"y") * 50_000,
    "texts": wire(FIN | TEXT, "é€𝄞".encode() * 100) * 300,
    "compressed": wire(FIN | RSV1 | TEXT, deflated(b"a" * 128)) * 15_000,
}


def test_floods_from_many(target):
    attackers = [(target.enter(**COMPRESSED), data) for data in FLOODS.values() for _ in range(12)]

    def flow(attacker, data):
        with gevent.Timeout(1, False):
            while True:
                attacker.send(data)

    def drink(attacker):
        with contextlib.suppress(OSError):
            while attacker.sock.recv(MIB):
                pass

    drinkers = [gevent.spawn(drink, attacker) for attacker, _ in attackers]
    floods = [gevent.spawn(flow, *each) for each in attackers]
    target.enter().echo(b"a newcomer is served, too")
    gevent.joinall(floods, raise_error=True)
    for attacker, _ in attackers:
        attacker.vanish()
    gevent.joinall(drinkers)
