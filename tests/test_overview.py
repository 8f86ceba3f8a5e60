"""What goes on in a thread: rows that are right, bounded, and taken at leisure."""

from __future__ import annotations

from types import SimpleNamespace

import gevent
import pytest
from conftest import turns, until

import gws.client
from gws import overview as room
from gws import skynet, stream
from gws.keepalive import keepalive
from gws.server import Server

pytestmark = pytest.mark.usefixtures("deadline")


class Clerk:
    """A service that can be kept waiting."""

    def nap(self):
        skynet.sleep(60)


@pytest.fixture
def clerks():
    """Return a function that makes so many Clerks, and returns their addresses."""

    def make(count):
        return [skynet.newservice(Clerk) for _ in range(count)]

    yield make
    for address in skynet.addresses():
        skynet.kill(address)
    turns()


@pytest.fixture
def server():
    """Return a server that echoes; its connections are cut in the end."""
    made = Server()
    made.on("message", lambda fd, message: fd.write(message))
    made.start(port=0)
    yield made
    made.stop(timeout=0)


@pytest.fixture
def client(server):
    """Return a client of the server, which has said hello and heard it."""
    client = gws.client.connect("127.0.0.1", server.port)
    client.write("hello")
    assert client.read() == "hello"
    yield client
    client.close()


# ------------------------------------------------------------------------------------------------------- services


def test_services_come_with_what_their_greenlets_wait_for(clerks):
    one, other = clerks(2)
    skynet.name(".clerk", other)
    skynet.send(other, "nap")
    turns()
    (first, second), total = room.services()
    assert total == 2
    assert (first.address, first.messages, first.greenlets) == (one, 0, [])
    assert (second.address, second.names, second.messages, second.parked) == (other, (".clerk",), 1, 1)
    assert second.greenlets[0][1].startswith("sleep at nap (test_overview.py:")


@pytest.mark.parametrize(("word", "found"), [("", 3), ("Clerk", 3), ("Clark", 0), (".third", 1), (":0000", 3)])
def test_services_are_found_by_a_word(clerks, word, found):
    skynet.name(".third", clerks(3)[2])
    rows, total = room.services(word)
    assert (len(rows), total) == (found, found)


def test_the_busiest_are_chosen_and_the_oldest_come_first(clerks):
    addresses = clerks(6)
    for at, letters in ((1, 2), (4, 3)):
        for _ in range(letters):
            skynet.send(addresses[at], "nap")  # they wait in the mailbox until the loop turns
    rows, total = room.services(most=2)
    assert ([row.address for row in rows], total) == ([addresses[1], addresses[4]], 6)


def test_of_many_greenlets_a_few_are_shown(clerks):
    (address,) = clerks(1)
    for _ in range(50):
        skynet.send(address, "nap")
    turns()
    ((row,), _) = room.services()
    assert (row.parked, len(row.greenlets)) == (50, room.GREENLETS)


def test_what_somebody_else_has_named_is_cut_and_made_safe(clerks):
    name = "\x1b[2J\u202e" + "x" * 1000
    address = skynet.newservice(type(name, (Clerk,), {}))
    ((row,), _) = room.services()
    assert row.address == address
    assert row.kind.startswith(r"\x1b[2J\u202ex")
    assert len(row.kind) < 320


def test_the_walk_along_many_services_rests(clerks, monkeypatch):
    clerks(50)
    monkeypatch.setattr(room, "_SPELL", 0)
    rests = []
    sleep = gevent.sleep
    monkeypatch.setattr(room.gevent, "sleep", lambda seconds: (rests.append(seconds), sleep(0)))
    before = room.spent()
    room.services()
    assert len(rests) >= 50
    assert 0 < room.spent() - before < 5


def test_a_service_that_ends_during_the_walk_is_left_out(clerks, monkeypatch):
    addresses = clerks(5)
    monkeypatch.setattr(room, "_SPELL", 0)
    monkeypatch.setattr(room.gevent, "sleep", lambda seconds: skynet.kill(addresses[4]))
    rows, total = room.services()
    assert ([row.address for row in rows], total) == (addresses[:4], 4)


# ---------------------------------------------------------------------------------------------------- connections


def test_both_ends_of_a_connection(server, client):
    (fd,) = server.fds
    rows, total = room.connections()
    mine = {row.number: row for row in rows}
    assert total == len(rows) >= 2
    ours, theirs = mine[fd.number], mine[client.fd.number]
    assert ours.peer == f"127.0.0.1:{fd.addr[1]}"
    assert theirs.peer == f"127.0.0.1:{server.port}"
    assert (ours.state, ours.messages_in, ours.messages_out, ours.pending) == ("open", 1, 1, 0)
    assert (ours.bytes_in, ours.bytes_out) == (theirs.bytes_out, theirs.bytes_in)
    assert ours.bytes_in > 11


def test_latency_is_what_the_keepalive_measured(server):
    server.stop()
    server.start(port=0, ping_interval=0.01)
    client = gws.client.connect("127.0.0.1", server.port)
    (fd,) = until(lambda: server.fds)
    until(lambda: fd.latency is not None)
    (row,) = [row for row in room.connections()[0] if row.number == fd.number]
    assert row.latency == fd.latency or fd.latency > 0
    assert len(room.latencies()) >= 1
    client.close()


@pytest.mark.parametrize("options", [{}, {"ping_interval": None}])
def test_a_client_is_seen_with_and_without_a_keepalive(server, options):
    client = gws.client.connect("127.0.0.1", server.port, **options)
    numbers = [row.number for row in room.connections()[0]]
    assert numbers.count(client.fd.number) == 1
    client.close()
    assert client.fd.number not in [row.number for row in room.connections()[0]]


def test_who_is_only_pinged_is_seen(ends):
    """As the connections of a WSGI server are."""
    pair = ends()
    watch = keepalive(20, 20)
    watch.add(pair.server)
    try:
        assert pair.server.number in [row.number for row in room.connections()[0]]
    finally:
        watch.discard(pair.server)


def test_the_connections_of_one_server_may_be_left_out(server, client):
    (fd,) = server.fds
    assert fd.number not in [row.number for row in room.connections(but=server)[0]]
    assert room.count()[1] == room.count(server)[1] + 1


def crowd(server, count):
    """Put stand-ins for connections into a server."""

    def stand_in(number):
        link = SimpleNamespace(received=number, sent=0)
        return SimpleNamespace(
            number=number, closed=False, addr=("10.0.0.1", number), pending=number == 7, stream=link,
            traffic=(0, 0, number, 0), latency=number / 1000, describe=lambda: "open",
        )  # fmt: skip

    people = Crowd(stand_in(number) for number in range(1, count + 1))
    server.fds = people
    return people


class Crowd(list):
    """What a server's `fds` is, of things that cannot be hashed."""

    add = list.append

    def discard(self, fd):
        pass


def test_of_many_connections_those_with_most_to_tell_are_shown(server):
    crowd(server, 500)
    rows, total = room.connections("10.0.0.1", most=3)
    assert ([row.number for row in rows], total) == ([7, 499, 500], 500)
    rows, total = room.connections("#49")
    assert ([row.number for row in rows], total) == ([49, *range(490, 500)], 11)
    server.fds = set()


def test_latencies_of_very_many_are_a_sample(server):
    crowd(server, 10_000)
    sample = room.latencies()
    assert 1000 <= len(sample) <= 2000
    assert sample == sorted(sample)
    assert sample[len(sample) // 2] == pytest.approx(5, rel=0.05)
    server.fds = set()


# -------------------------------------------------------------------------------------------------------- figures


def test_figures(server, client, clerks):
    clerks(3)
    figures = room.figures()
    assert figures["services"] == 3
    assert figures["connections"] >= 2
    assert (figures["messages in"], figures["messages out"]) == stream.totals()[:2]
    assert figures["memory"] > 1 << 20
    assert "gevent" in figures["versions"]


def test_memory_figures():
    figures = room.memory_figures()
    assert figures["peak"] >= figures["resident"] * 0.5 > 0
    assert figures["blocks of Python's"] > 1000
