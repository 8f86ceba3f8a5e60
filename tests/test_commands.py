"""The console's commands: what they answer, what they refuse, and what a trace leaves out."""

from __future__ import annotations

import re

import pytest
from conftest import turns
from gevent.lock import BoundedSemaphore

import gws.client
from gws import overview, skynet
from gws.commands import Session, amount, span
from gws.server import Server

pytestmark = pytest.mark.usefixtures("deadline")


class Clerk:
    """A service that asks another."""

    def __init__(self, other=None):
        self.other = other

    def ask(self):
        return skynet.call(self.other, "tell")

    def tell(self):
        return 7

    def nap(self):
        skynet.sleep(60)


@pytest.fixture
def clerk():
    """Return the address of a Clerk, .clerk."""
    address = skynet.newservice(Clerk)
    skynet.name(".clerk", address)
    yield address
    for each in skynet.addresses():
        skynet.kill(each)
    turns()


@pytest.fixture
def session():
    """Return a session."""
    made = Session(Server(), BoundedSemaphore(1))
    yield made
    made.leave()


def test_list(session, clerk):
    skynet.send(clerk, "nap")
    turns()
    head, row, greenlet, total = session.do("list")
    assert head.split() == ["address", "service", "mailbox", "messages", "time", "greenlets"]
    assert re.fullmatch(rf"{clerk}  Clerk \.clerk +0 +1 +[0-9.]+ ms +1", row)
    assert re.fullmatch(rf"    {clerk} Clerk.nap: sleep at nap \(test_commands.py:[0-9]+\)", greenlet)
    assert total == "1 services"


def test_list_of_more_than_are_shown(session, clerk, monkeypatch):
    monkeypatch.setattr(overview.services, "__defaults__", ("", 2))
    for _ in range(4):
        skynet.newservice(Clerk)
    lines = session.do("list")
    assert len(lines) == 4
    assert lines[-1] == "... 3 more of 5 services; 'list WORD' shows those that have the word"
    assert session.do("list .clerk")[-1] == "1 services"


def test_list_tells_of_greenlets_that_are_not_shown(session, clerk):
    for _ in range(9):
        skynet.send(clerk, "nap")
    turns()
    assert session.do("list")[-2] == "    ... 4 more"


def test_connections(session):
    server = Server()
    server.on("message", lambda fd, message: fd.write(message))
    server.start(port=0)
    client = gws.client.connect("127.0.0.1", server.port)
    client.write("hello")
    client.read()
    (fd,) = server.fds
    head, *rows, total = session.do("connections")
    assert head.split() == [
        "number",
        "peer",
        "state",
        "messages",
        "in",
        "out",
        "bytes",
        "in",
        "out",
        "pending",
        "latency",
    ]
    (row,) = [row for row in rows if row.startswith(f"#{fd.number} ")]
    assert re.fullmatch(r"#[0-9]+ +127\.0\.0\.1:[0-9]+ +open +1 +1 +[0-9]+ B +[0-9]+ B +0 B +-", row)
    assert total == f"{len(rows)} connections"
    client.close()
    server.stop(timeout=0)


@pytest.mark.parametrize(
    ("command", "names"),
    [
        (
            "stat",
            ["process", "services", "connections", "messages in", "bytes out", "memory", "processor time", "loop"],
        ),
        ("mem", ["resident", "peak", "collections", "uncollectable"]),
        ("help", ["list [word]", "connections [word]", "stat", "mem", "kill address", "trace address", "help"]),
        ("  HELP  ", ["list [word]", "help"]),
    ],
)
def test_what_tells_of_several_things(session, command, names):
    told = [re.split("  +", line)[0] for line in session.do(command)]
    assert set(names) <= set(told)


@pytest.mark.parametrize("name", [".clerk", None])
def test_kill(session, clerk, name):
    assert session.do(f"kill {name or clerk}") == [f"killed {name or clerk}"]
    assert skynet.addresses() == []


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("", []),
        ("   ", []),
        ("lisst", ["there is no command lisst; there are: list, connections, stat, mem, kill, trace, help"]),
        ("x\x1b[2J", [r"there is no command x\x1b[2J; there are: list, connections, stat, mem, kill, trace, help"]),
        ("kill", ["usage: kill address"]),
        ("trace", ["usage: trace address"]),
        ("stat me", ["usage: stat"]),
        ("kill :0000ffff", ["there is no service :0000ffff"]),
        ("trace \x1b]0;x\x07", [r"there is no service '\x1b]0;x\x07'"]),
    ],
)
def test_what_gets_a_short_answer(session, line, answer):
    assert session.do(line) == answer


def test_a_service_of_another_thread_is_not_killed(session, clerk, monkeypatch):
    monkeypatch.setattr(skynet.find(clerk, "tell"), "hub", None)
    assert session.do(f"kill {clerk}") == [f"{clerk} Clerk belongs to another thread"]
    assert session.do(f"trace {clerk}") == [f"{clerk} Clerk belongs to another thread"]
    monkeypatch.undo()


def test_a_trace_begins_with_what_there_is_and_ends_with_the_next_line(session, clerk):
    asks = skynet.newservice(Clerk, clerk)
    skynet.send(clerk, "nap")
    turns()
    greenlet, last = session.do("trace .clerk")
    assert greenlet.startswith(f"    {clerk} Clerk.nap: sleep at nap")
    assert last == f"tracing {clerk} Clerk: each message as it begins and ends, until the next line"
    skynet.call(asks, "ask")
    begins, done = session.take()
    assert re.fullmatch(rf"\d\d:\d\d:\d\d\.\d{{6}} #1 begins: {asks} Clerk.ask -> {clerk} Clerk.tell", begins)
    assert done.endswith(" ms")
    session.do("")
    skynet.call(asks, "ask")
    assert session.take() == []


def test_a_trace_that_nobody_takes_is_bounded(session, clerk):
    session.do("trace .clerk")
    for _ in range(300):
        skynet.call(clerk, "tell")
    lines = session.take()
    assert len(lines) == 201
    assert lines[-1] == "(400 lines are left out)"
    assert session.take() == []


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1 << 20, "1.0 MiB"),
        (1 << 60, "1048576.0 TiB"),
    ],
)
def test_amount(size, text):
    assert amount(size) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.0, "0.000 ms"), (0.0123, "12.300 ms"), (61.5, "61.50 s")])
def test_span(seconds, text):
    assert span(seconds) == text
