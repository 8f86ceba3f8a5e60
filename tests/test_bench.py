"""gws.bench and gws.benchserver: `python -m gws bench`, short, on servers in this process and on its own."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import sys

import pytest
from conftest import until
from gevent import socket
from gevent.monkey import get_original
from programs import python

import gws.client
from gws import bench, benchserver, terminal
from gws import websocket as ws
from gws.__main__ import main
from gws.door import Door
from gws.load import LOADS, Plan, Result
from gws.server import Server
from gws.url import Target

pytestmark = pytest.mark.usefixtures("deadline")

close = get_original("os", "close")  # gevent's own puts it off until the loop has turned, which may wait for it

SHORT = ["-c", "3", "-t", "0.05"]
ECHO = Result("echo", "messages", 64, 128, 1, 2, 100_000, 50_000, 6.4, 0.00034, 0.01234, 8.04, 0.4, 0.58, None, 0, None)
IDLE = Result("idle", "messages", 1000, None, None, 2, 0, 0, None, None, None, None, 0, 0.01, 5.04, 0, None)


@pytest.fixture(autouse=True)
def signals():
    """gevent's watchers leave these two at the system's default."""
    yield
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.getsignal(number))


@pytest.fixture
def serve():
    """Return a function that starts a server with some handlers and gives its URL."""
    servers = []

    def start(**handlers):
        server = Server()
        for event, handler in handlers.items():
            server.on(event, handler)
        server.start("127.0.0.1", 0)
        servers.append(server)
        return f"ws://127.0.0.1:{server.port}/"

    yield start
    for server in servers:
        server.stop(timeout=0)


@pytest.fixture
def echo(serve):
    return serve(message=ws.write)


@pytest.fixture
def run(capfd):
    """Return a function that runs `bench` here, shortly, and gives (status, stdout, the lines of stderr)."""

    def start(*args):
        status = main(["bench", *SHORT, *args])
        out, err = capfd.readouterr()
        return status, out, err.splitlines()

    return start


class TestOnAServer:
    def test_a_table(self, run, echo):
        status, out, err = run("echo", "--url", echo)
        assert status == 0
        assert err == [f"echo: 3 connections to {echo}, 1 message of 128 bytes in flight on each, for 0.05 s"]
        head, row = map(str.split, out.splitlines())
        assert head[:4] == ["load", "connections", "bytes", "depth"]
        assert row[:4] == ["echo", "3", "128", "1"]

    def test_json(self, run, echo):
        status, out, _ = run("echo", "--json", "--url", echo, "-s", "10", "-d", "2")
        found = json.loads(out)
        assert status == 0
        assert found["gws"] == gws.__version__
        assert found["url"] == echo
        (load,) = found["loads"]
        assert (load["load"], load["size"], load["depth"], load["failures"]) == ("echo", 10, 2, 0)
        assert load["count"] > 0

    def test_of_a_stranger_what_any_echo_can_do(self, run, echo):
        _, out, _ = run("--json", "--url", echo)
        assert [load["load"] for load in json.loads(out)["loads"]] == ["echo", "handshakes"]

    def test_a_process_to_look_at(self, run, echo):
        _, out, _ = run("idle", "--json", "--url", echo, "--pid", str(os.getpid()))
        assert json.loads(out)["loads"][0]["kib_each"] >= 0

    def test_some_connections_fail(self, run, serve):
        first = []

        def message(fd, message):
            first[:] = first or [fd]
            fd.close(4000, "not you") if fd in first else fd.write(message)

        status, _, err = run("echo", "--url", serve(message=message))
        assert status == 1
        assert err[-1].startswith("echo: 1 of 3 connections failed: ")
        assert "not you" in err[-1]

    def test_all_connections_fail(self, run, serve):
        status, out, err = run("echo", "--url", serve(message=lambda fd, message: fd.write("?")))
        assert (status, out, err[-1]) == (1, "", "gws: another message came back than was sent")

    def test_nobody_there(self, run):
        assert run("--url", "ws://127.0.0.1:1/") == (1, "", ["gws: Connection refused: 127.0.0.1:1"])


class TestElsewhere:
    """What is not on this machine is left alone, unless the user says that it is his."""

    @pytest.fixture
    def opened(self, monkeypatch, echo):
        """A door to this echo that leads elsewhere, as far as anybody can tell; and how often it was opened."""
        opened, open_it = [], Door.open
        monkeypatch.setattr(Door, "loopback", False)
        monkeypatch.setattr(Door, "open", lambda self: opened.append(self) or open_it(self))
        return opened

    def test_refused(self, run, opened, echo, capfd):
        with pytest.raises(SystemExit) as exit:
            run("--url", echo)
        assert exit.value.code == 2
        told = f"error: {echo} is not on this machine: if it is yours to load, say --remote"
        assert told in capfd.readouterr().err
        assert not opened

    def test_remote(self, run, opened, echo):
        status, _, _ = run("echo", "--remote", "--url", echo)
        assert status == 0
        assert len(opened) == 4  # one to see whether it is there

    def test_an_address(self, run, capfd):
        with pytest.raises(SystemExit):
            run("--url", "ws://192.0.2.1/")
        assert "ws://192.0.2.1/ is not on this machine" in capfd.readouterr().err


class TestWrongUse:
    @pytest.mark.parametrize(
        ("args", "told"),
        [
            (["dance"], "there is no load dance; there are echo, fanout, handshakes, idle"),
            (["-c", "0"], "connections is 1 to 20000, not 0"),
            (["-t", "61"], "seconds is 0.01 to 60, not 61.0"),
            (["-s", "65536", "-d", "17"], "at most 1048576 bytes are in flight, not 17 times 65536"),
            (["--pid", "1"], "--pid is of no use without --url"),
            (["--url", "http://127.0.0.1/"], "expected a ws:// or wss:// URL"),
        ],
    )
    def test_it(self, capfd, args, told):
        with pytest.raises(SystemExit) as exit:
            main(["bench", *args])
        assert exit.value.code == 2
        assert told in capfd.readouterr().err.splitlines()[-1]


class TestFiles:
    @pytest.mark.parametrize(
        ("limits", "wanted"),
        [
            ((50, 1000), [(resource.RLIMIT_NOFILE, (103, 1000))]),
            ((50, resource.RLIM_INFINITY), [(resource.RLIMIT_NOFILE, (103, resource.RLIM_INFINITY))]),
            ((1000, 1000), []),
            ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), []),
        ],
    )
    def test_as_many_as_it_takes(self, run, echo, monkeypatch, limits, wanted):
        asked = []
        monkeypatch.setattr(resource, "getrlimit", lambda which: limits)
        monkeypatch.setattr(resource, "setrlimit", lambda *args: asked.append(args))
        assert run("echo", "--url", echo)[0] == 0
        assert asked == wanted

    def test_a_system_without_limits(self, run, echo, monkeypatch):
        monkeypatch.setitem(sys.modules, "resource", None)
        assert run("echo", "--url", echo)[0] == 0

    def test_too_few(self, run, monkeypatch):
        monkeypatch.setattr(resource, "getrlimit", lambda which: (50, 102))
        told = "gws: 3 connections need 103 files, and a process may have 102 here (ulimit -Hn)"
        assert run() == (1, "", [told])


@pytest.mark.parametrize("name", LOADS)
def test_it_says_what_it_does(name):
    door = Door(Target(False, "127.0.0.1", 8888))
    told = bench.describe(name, Plan(connections=2000, size=1000, depth=3, seconds=1.5), door)
    assert told.startswith(f"{name}: 2,000 connections to ws://127.0.0.1:8888/")
    assert told.endswith(", for 1.5 s")
    assert ("3 messages of 1,000 bytes in flight" in told) is (name in ("echo", "fanout"))


def test_a_table():
    assert bench.table([ECHO, IDLE]) == (
        "load  connections  bytes  depth       per second  MB/s     p50      p99        server  its cpu  ours\n"
        "echo           64    128      1  50,000 messages   6.4  340 us  12.3 ms   8.0 us each      40%   58%\n"
        "idle        1,000      -      -                -     -       -        -  5.0 KiB each       0%    1%\n"
    )


class TestProgress:
    def test_at_a_terminal(self, monkeypatch):
        written = []
        monkeypatch.setattr(os, "isatty", lambda fd: fd == 2)
        monkeypatch.setattr(terminal, "write", lambda text, fd: written.append((fd, text)))
        monkeypatch.setattr(bench, "_BLOCKS", "#.")
        with bench.Progress("echo") as progress:
            progress.show(0.5, 12345.6)
        bar = "\r\x1b[Kecho       ###############...............  50%       12,346/s"
        assert written == [(2, bar), (2, "\r\x1b[K")]

    def test_elsewhere(self, capfd):
        with bench.Progress("echo") as progress:
            progress.show(0.5, 1)
        assert capfd.readouterr() == ("", "")


class TestItsOwnServer:
    def test_in_a_process_of_its_own(self):
        with benchserver.serving() as (port, pid):
            assert pid != os.getpid()
            client = gws.client.connect(f"ws://127.0.0.1:{port}/")
            client.write("hello")
            assert client.read() == "hello"
            client.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        assert not os.path.exists(f"/proc/{pid}")

    def test_one_that_does_not_start(self, monkeypatch, run):
        monkeypatch.setattr("sys.executable", "/bin/true")
        assert run() == (1, "", ["gws: the server to be loaded did not start"])

    def test_one_that_does_not_go(self, monkeypatch, tmp_path):
        stubborn = tmp_path / "stubborn"
        stubborn.write_text("#!/bin/sh\necho 1234\nexec sleep 60\n")
        stubborn.chmod(0o755)
        monkeypatch.setattr("sys.executable", str(stubborn))
        monkeypatch.setattr(benchserver, "_PATIENCE", 0.02)
        with benchserver.serving() as (port, pid):
            assert port == 1234
        assert not os.path.exists(f"/proc/{pid}")

    def test_main(self, monkeypatch, greenlets):
        """It serves until its input ends."""
        inbox, outbox = os.pipe()
        said = []
        lines = terminal.lines
        monkeypatch.setattr(terminal, "lines", lambda: lines(inbox))
        monkeypatch.setattr(terminal, "write", said.append)
        serving = greenlets(benchserver.main)
        until(lambda: said)
        url = f"ws://127.0.0.1:{said[0].strip()}"
        members = [gws.client.connect(url + benchserver.ROOM) for _ in range(3)]
        alone = gws.client.connect(url)
        members[0].write("to all")
        alone.write("to me")
        assert [member.read() for member in members] == ["to all"] * 3
        assert alone.read() == "to me"
        members[0].close()
        members[1].write("to both")
        assert [member.read() for member in members[1:]] == ["to both"] * 2
        close(outbox)
        serving.get(timeout=30)
        close(inbox)
        for client in (*members, alone):
            client.join()

    def test_here(self, run):
        status, out, err = run("fanout")
        assert status == 0
        assert out.splitlines()[1].startswith("fanout ")
        assert re.match(r"fanout: 3 connections to ws://127.0.0.1:\d+/room, one of which sends to all, ", err[0])

    def test_every_load(self):
        with python("-m", "gws", "bench", *SHORT, "--json", stderr=False) as program:
            assert program.wait() == 0
        loads = json.loads(program.said)["loads"]
        assert [load["load"] for load in loads] == list(LOADS)
        assert all(load["failures"] == 0 for load in loads)
        assert all(load["count"] for load in loads[:3])
        assert loads[3]["kib_each"] is not None

    @pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
    def test_it_goes_with_us(self, number, status):
        """Whatever becomes of us, the server ends."""
        with python("-m", "gws", "bench", "-t", "60", "echo") as program:
            port = int(program.read_line().partition("127.0.0.1:")[2].partition("/")[0])
            assert program.stop(number) == status
        until(lambda: not is_open(port))


def is_open(port):
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True
