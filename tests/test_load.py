"""gws.load: short loads on servers in this process, good ones and bad ones."""

from __future__ import annotations

import os
import socket
from time import monotonic

import pytest
from conftest import until

from gws import load
from gws import websocket as ws
from gws.door import Door
from gws.errors import GwsError, HandshakeError
from gws.load import LOADS, Echo, Fanout, Handshakes, Idle, Plan
from gws.server import Server
from gws.url import Target

pytestmark = pytest.mark.usefixtures("deadline")

PLAN = Plan(connections=3, size=200, seconds=0.05)


@pytest.fixture(autouse=True)
def steady(monkeypatch):
    """A clock for which no more than 5 ms pass at a time: a machine that stands still takes nothing from a load."""
    last, passed = monotonic(), 0.0

    def clock():
        nonlocal last, passed
        now = monotonic()
        passed, last = passed + min(now - last, 0.005), now
        return passed

    monkeypatch.setattr(load, "monotonic", clock)


def door(port):
    return Door(Target(False, "127.0.0.1", port))


@pytest.fixture
def serve():
    """Return a function that starts a server with some handlers."""
    servers = []

    def start(options=None, **handlers):
        server = Server()
        for event, handler in handlers.items():
            server.on(event, handler)
        server.start("127.0.0.1", 0, **(options or {}))
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop(timeout=0)


@pytest.fixture
def echo(serve):
    return serve(message=ws.write)


@pytest.fixture
def room(serve):
    server = serve()
    server.on("message", lambda fd, message: ws.broadcast(server.fds, message))
    return server


class TestPlan:
    @pytest.mark.parametrize(
        ("options", "told"),
        [
            ({"connections": 0}, "connections is 1 to 20000, not 0"),
            ({"connections": 20_001}, "connections is 1 to 20000, not 20001"),
            ({"size": -1}, "size is 0 to 1048576, not -1"),
            ({"size": 2**20 + 1}, "size is 0 to 1048576, not 1048577"),
            ({"depth": 0}, "depth is 1 to 1024, not 0"),
            ({"seconds": 0}, "seconds is 0.01 to 60, not 0"),
            ({"seconds": 61}, "seconds is 0.01 to 60, not 61"),
            ({"seconds": float("nan")}, "seconds is 0.01 to 60, not nan"),
            ({"size": 65536, "depth": 17}, "at most 1048576 bytes are in flight, not 17 times 65536"),
        ],
    )
    def test_bounds(self, options, told):
        with pytest.raises(ValueError, match=told):
            Plan(**options)

    @pytest.mark.parametrize("options", [{}, {"size": 2**20}, {"size": 65536, "depth": 16}, {"size": 0, "depth": 1024}])
    def test_within(self, options):
        Plan(**options)


class TestLoads:
    def test_echo(self, echo):
        reports = []
        result = Echo(door(echo.port), PLAN).run(lambda *report: reports.append(report))
        assert (result.load, result.connections, result.size, result.depth) == ("echo", 3, 200, 1)
        assert result.count > 0
        assert result.per_second == pytest.approx(result.count / result.seconds)
        assert result.mb_per_second == pytest.approx(result.per_second * 200 / 1e6)
        assert 0 < result.p50 <= result.p99
        assert (result.failures, result.failure, result.kib_each) == (0, None, None)
        assert [share for share, _ in reports][-1] == 1
        assert reports[-1][1] > 0

    @pytest.mark.parametrize(("size", "depth"), [(0, 1), (1, 7), (125, 2), (126, 2), (70_000, 3), (2**20, 1)])
    def test_messages(self, echo, size, depth):
        result = Echo(door(echo.port), Plan(connections=2, size=size, depth=depth, seconds=0.03)).run()
        assert result.count > 0

    def test_what_is_in_flight(self, serve):
        received = []
        server = serve(message=lambda fd, message: received.append(fd))
        Echo(door(server.port), Plan(connections=2, depth=5, seconds=0.02)).run()
        assert [received.count(fd) for fd in set(received)] == [5, 5]

    @pytest.mark.parametrize("depth", [1, 4])
    def test_fanout(self, room, depth):
        result = Fanout(door(room.port), Plan(connections=5, depth=depth, seconds=0.05)).run()
        assert result.count > 0
        assert 0 < result.p50 <= result.p99
        assert result.failures == 0

    def test_handshakes(self, serve):
        codes = []
        server = serve(disconnect=lambda fd, code, reason: codes.append(code))
        result = Handshakes(door(server.port), PLAN).run()
        assert (result.size, result.depth, result.mb_per_second) == (None, None, None)
        assert result.count > 0
        assert 0 < result.p50 <= result.p99
        until(lambda: not server.fds)
        assert len(codes) >= result.count
        assert codes.count(1000) >= len(codes) - 3  # those that were opened but not closed when the time was over

    def test_idle(self, echo):
        result = Idle(door(echo.port), PLAN, os.getpid()).run()
        assert (result.count, result.p50, result.server_us) == (0, None, None)
        assert result.kib_each >= 0

    def test_idle_answers_pings(self, serve):
        pongs = []
        server = serve(connection=lambda fd, addr: fd.ping(b"there?"), pong=lambda fd, payload: pongs.append(payload))
        Idle(door(server.port), PLAN).run()
        assert pongs == [b"there?"] * 3

    def test_a_process_to_look_at(self, echo):
        result = Echo(door(echo.port), PLAN, os.getpid()).run()
        assert result.server_busy >= 0
        assert result.server_us >= 0
        assert result.own_busy > 0

    def test_no_such_process(self, echo):
        with pytest.raises(FileNotFoundError):
            Echo(door(echo.port), PLAN, 2**30).run()

    @pytest.mark.parametrize("name", LOADS)
    def test_goodbye(self, room, name):
        """Nobody is left connected."""
        LOADS[name](door(room.port), PLAN).run()
        until(lambda: not room.fds)


class TestFailures:
    """What is wrong with all connections is raised; what is wrong with some is counted."""

    def test_another_message(self, serve):
        server = serve(message=lambda fd, message: fd.write(message[:-1] + "?"))
        with pytest.raises(GwsError, match="another message came back than was sent"):
            Echo(door(server.port), PLAN).run()

    def test_one_connection_of_three(self, serve):
        first = []

        def message(fd, message):
            first[:] = first or [fd]
            fd.close(4000, "not you") if fd in first else fd.write(message)

        result = Echo(door(serve(message=message).port), PLAN).run()
        assert result.failures == 1
        assert "not you" in result.failure
        assert result.count > 0

    def test_no_room(self, echo, monkeypatch):
        monkeypatch.setattr(load, "_PATIENCE", 0.05)
        with pytest.raises(GwsError, match="all of 3 connections: does this server send everything to everybody"):
            Fanout(door(echo.port), PLAN).run()

    def test_full(self, serve):
        with pytest.raises(HandshakeError) as refused:
            Echo(door(serve({"maxclient": 2}, message=ws.write).port), PLAN).run()
        assert refused.value.status == 503

    def test_too_slow(self, monkeypatch):
        monkeypatch.setattr(load, "_OPENING", 0.05)
        with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(TimeoutError):
            Echo(door(silent.getsockname()[1]), PLAN).run()

    def test_the_server_goes_meanwhile(self, serve):
        server = serve(message=ws.write)
        with pytest.raises(GwsError):
            Echo(door(server.port), Plan(connections=3, seconds=30)).run(lambda *report: server.stop(timeout=0))

    def test_a_server_that_says_no_goodbye(self, serve, monkeypatch):
        monkeypatch.setattr(load, "_PARTING", 0.02)
        server = serve(message=lambda fd, message: until(lambda: fd.closed or not server.fds, 10))
        Echo(door(server.port), PLAN).run()
