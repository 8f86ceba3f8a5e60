"""Faults of networks, kernels, clocks and handlers, through real sockets: what is noticed, when, and what stays.

Elsewhere: EMFILE on accept is in test_server.py and test_listener.py, close() from five greenlets in
test_websocket_end.py, crowds that drop in test_crowds.py, the ends of a program in test_server.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket as stdlib
import subprocess
import time
from time import monotonic

import gevent
import pytest
from hostile import MIB, attacked, connect, hello, serving, wire
from programs import PATIENCE, free_port, python

from gws import keepalive
from gws.frame import CLOSE, FIN, TEXT, encode_close
from gws.server import Server
from gws.stream import Plain, Stream

KINDS = ["plain"] if Stream is Plain else ["compiled", "plain"]
QUICK = {"ping_interval": 0.4, "ping_timeout": 0.4, "tell": True}


@pytest.fixture(autouse=True)
def _deadline():
    with gevent.Timeout(60):
        yield


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def told(target):
    """Read the next disconnect that the server tells: (code, reason)."""
    while not (line := target.program.read_line()).startswith("disconnect"):
        assert line, target.program.said
    _, code, reason = line.rstrip("\n").split(" ", 2)
    return int(code), reason


LATE = "keepalive ping timeout (0.4 s)"


# ------------------------------------------------------------------------------------------------ peers that are no more


def test_a_peer_that_is_stopped_though_its_kernel_is_well(kind):
    """SIGSTOP: the kernel still takes and acknowledges what we send, so that TCP's own keepalive would see nothing."""
    with serving(kind, **QUICK) as target, python("tests/peers/sender.py", "127.0.0.1", target.port, 1) as peer:
        assert [peer.read_line(), peer.read_line()] == ["open\n", "done\n"]
        gevent.sleep(1)  # it answers pings
        peer._process.send_signal(signal.SIGSTOP)
        try:
            assert told(target) == (1011, LATE)
        finally:
            peer._process.send_signal(signal.SIGCONT)


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Link:
    """Two network namespaces and a cable between them.   Nothing outside of them is touched."""

    SERVER, CLIENT = "198.18.0.1", "198.18.0.2"  # for benchmarks (RFC 2544): nobody's address

    def __init__(self):
        self.here, self.there = (f"gws-{os.getpid()}-{end}" for end in ("a", "b"))

    def __enter__(self):
        for space in (self.here, self.there):
            ip("netns", "add", space)
        ip("-n", self.here, "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", self.there)
        for space, address in ((self.here, self.SERVER), (self.there, self.CLIENT)):
            ip("-n", space, "addr", "add", f"{address}/30", "dev", "wire")
            ip("-n", space, "link", "set", "lo", "up")
            ip("-n", space, "link", "set", "wire", "up")
        return self

    def __exit__(self, *_):
        for space in (self.here, self.there):
            with contextlib.suppress(subprocess.CalledProcessError):
                ip("netns", "del", space)

    def cut(self):
        """Let nothing through any more, in either direction; nobody is told."""
        ip("-n", self.there, "route", "replace", "blackhole", self.SERVER)
        ip("-n", self.here, "route", "replace", "blackhole", self.CLIENT)

    def mend(self):
        ip("-n", self.there, "route", "del", "blackhole", self.SERVER)
        ip("-n", self.here, "route", "del", "blackhole", self.CLIENT)

    def disturb(self, *words):
        """Delay and lose packets, in both directions."""
        for space in (self.here, self.there):
            command = ["tc", "-n", space, "qdisc", "replace", "dev", "wire", "root", "netem", *words]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"NO NETEM HERE, delay and loss are not tested: {done.stderr.strip()}")

    def python(self, space, *command, **options):
        return python(*command, within=("ip", "netns", "exec", space), **options)


@pytest.fixture
def link():
    made = Link()
    if shutil.which("ip") is None or os.geteuid():
        pytest.skip("NO NETWORK NAMESPACES HERE (root and iproute2 are needed), links are not cut")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(made)
        except subprocess.CalledProcessError as error:
            made.__exit__()
            pytest.skip(f"NO NETWORK NAMESPACES HERE, links are not cut: {error.stderr.decode().strip()}")
        yield made


@contextlib.contextmanager
def joined(link, kind, messages, pause=0, **options):
    """Run a server at one end and a sender at the other: both programs."""
    environment = {"GWS_PURE": "1"} if kind == "plain" else {}
    port = free_port()
    options = json.dumps({"address": link.SERVER, **options})
    with link.python(link.here, "tests/peers/counted.py", port, options, environment=environment) as server:
        until = monotonic() + PATIENCE
        listening = ["ip", "netns", "exec", link.here, "ss", "-ltn"]
        while f":{port} " not in subprocess.run(listening, capture_output=True, text=True, check=True).stdout:
            assert monotonic() < until
            gevent.sleep(0.02)
        with link.python(link.there, "tests/peers/sender.py", link.SERVER, port, messages, pause) as sender:
            assert sender.read_line() == "open\n", sender.said
            yield server, sender


def test_a_link_that_is_cut(link, kind):
    """No FIN, no RST: the peer has vanished."""
    with joined(link, kind, 10, **QUICK) as (server, sender):
        assert sender.read_line() == "done\n"
        link.cut()
        assert server.read_line() == f"disconnect 1011 {LATE}\n"
        assert server.stop() == 0


def test_a_link_that_is_cut_and_mended_loses_nothing(link, kind):
    with joined(link, kind, 300, 0.002) as (server, sender):
        link.cut()
        gevent.sleep(0.3)
        link.mend()
        assert sender.read_line() == "done\n"
        assert server.stop() == 0
        assert sender.wait() == 0


def test_a_link_that_delays_and_loses(link, kind):
    link.disturb("delay", "20ms", "10ms", "loss", "3%")
    with joined(link, kind, 300) as (server, sender):
        assert sender.read_line() == "done\n"
        assert server.stop() == 0
        assert sender.wait() == 0


def test_a_half_closed_socket(kind):
    """Who says nothing more still hears the answer to what it has said."""
    with serving(kind, tell=True) as target:
        attacker = target.enter()
        attacker.send(wire(FIN | TEXT, b"x" * 100_000))
        attacker.sock.shutdown(stdlib.SHUT_WR)
        assert attacker.frame() == (TEXT, b"x" * 100_000)
        assert attacker.frame() is None
        assert told(target) == (1006, "")
        asking = target.attack(hello())
        asking.sock.shutdown(stdlib.SHUT_WR)
        assert asking.status() == 101
        assert asking.rest() == b""


def test_a_peer_that_stops_reading_while_100_others_get_broadcasts(kind):
    with serving(kind, max_pending=2 * MIB, tell=True) as target:
        everybody = [target.enter() for _ in range(101)]
        for each in everybody:
            each.send(wire(FIN | TEXT, b"join"))
            assert each.frame() == (TEXT, b"joined")
        deaf, *others = everybody
        deaf.sock.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_RCVBUF, 65536)
        speaker = target.enter()
        for number in range(90):
            said = b"all:%d " % number + bytes(100_000)
            speaker.send(wire(FIN | TEXT, said))
            for each in others:  # whoever waited for the deaf one would wait for ever
                assert each.frame() == (TEXT, said)
        assert deaf.verdict() == 1013


# ------------------------------------------------------------------------------------------- the kernel, and the clock


def test_a_full_listen_queue(kind):
    """Whoever comes while the server is away waits, and is served: nobody is lost."""
    with serving(kind, backlog=2) as target:
        os.kill(target.pid, signal.SIGSTOP)
        crowd = [gevent.spawn(target.attack, hello()) for _ in range(12)]
        gevent.joinall(crowd, timeout=0.3)
        assert not all(each.ready() for each in crowd)  # more than the queue holds
        os.kill(target.pid, signal.SIGCONT)
        gevent.joinall(crowd, raise_error=True)
        for each in crowd:
            each.value.enter().echo(b"here at last")


A_DAY = 86400


@pytest.mark.parametrize("jump", [-A_DAY, A_DAY])
def test_a_clock_that_jumps(jump, monkeypatch):
    """The time of day is nobody's measure of time."""
    served = Server()
    served.on("message", lambda fd, message: fd.write(message))
    ended = []
    served.on("disconnect", lambda fd, code, reason: ended.append((monotonic(), code, reason)))
    served.start(port=0, ping_interval=0.2, ping_timeout=0.2, handshake_timeout=0.5)
    try:
        began = monotonic()
        with connect(served.port) as silent, contextlib.ExitStack() as stack:
            silent.sendall(hello())
            assert b" 101 " in silent.recv(4096)
            slow = stack.enter_context(connect(served.port))
            now = time.time
            monkeypatch.setattr(time, "time", lambda: now() + jump)
            assert slow.recv(4096).startswith(b"HTTP/1.1 408")
            assert 0.4 < monotonic() - began < A_DAY / 1000
            silent.sendall(wire(FIN | TEXT, b"x"))
            until = monotonic() + PATIENCE
            while not ended and monotonic() < until:
                gevent.sleep(0.01)
        assert ended[0][1:] == (1011, "keepalive ping timeout (0.2 s)")
        assert 0.3 < ended[0][0] - began < A_DAY / 1000
    finally:
        served.stop(timeout=0)
    assert keepalive.monotonic is time.monotonic


# ----------------------------------------------------------------------------------------------------------- handlers


def test_handlers_that_do_whatever_they_like(kind):
    """Each has its own connection, and those of others, for a plaything; everybody else is served on."""
    with serving(kind, close_timeout=1, tell=True) as target:
        quiet, other = target.enter(), target.enter()

        def command(text):
            attacker = target.enter()
            attacker.send(wire(FIN | TEXT, text))
            return attacker

        blocked = command(b"block")
        assert command(b"spawn").frame() == (TEXT, b"spawned")
        failed = command(b"raise")
        assert failed.verdict() == 1011
        failed.sock.close()
        assert told(target)[0] == 1011
        closed = command(b"close")
        assert closed.frame() == (CLOSE, encode_close(1000, "as you wish"))
        closed.send(wire(FIN | CLOSE, encode_close(1000)))
        assert closed.frame() is None
        assert told(target)[0] == 1000
        for each in (quiet, other):
            each.echo(b"still served")
        blocked.sock.close()
        stops = command(b"stop")
        assert [each.verdict() for each in (quiet, other, stops)] == [1001] * 3
        target.program.lines.clear()  # "raise" was logged, with its traceback


def test_handlers_that_close_each_other(kind):
    with serving(kind, close_timeout=1, tell=True) as target:
        one, another = target.enter(), target.enter()
        began = monotonic()
        for each in (one, another):
            each.send(wire(FIN | TEXT, b"close others"))
        assert {one.verdict(), another.verdict()} <= {1000, None}
        for each in (one, another):
            each.send(wire(FIN | CLOSE, encode_close(1000)))
            each.rest()
        assert {told(target)[0], told(target)[0]} <= {1000, 1006}
        assert monotonic() - began < 9  # the default would be 10: they did not wait for each other
        target.enter().echo(b"served")


def test_sigterm_in_the_middle_of_everything(kind):
    with serving(kind, close_timeout=1) as target:
        quiet, unread, blocked, closing, fragment = (target.enter() for _ in range(5))
        asking, half = target.attack(), target.attack(hello()[:-2])
        blocked.send(wire(FIN | TEXT, b"block"))
        closing.send(wire(FIN | TEXT, b"close"))
        fragment.send(wire(TEXT, b"be") + wire(FIN | TEXT, b"x" * 1000)[:500])
        with gevent.Timeout(0.5, False):
            unread.sock.sendall(wire(FIN | TEXT, bytes(500_000)) * 100)
        began = monotonic()
        os.kill(target.pid, signal.SIGTERM)
        assert [each.verdict() for each in (quiet, blocked, closing, fragment)] == [1001, 1001, 1000, 1001]
        assert asking.rest() == b""
        assert half.rest() == b""
        assert target.program.wait() == 0
        assert monotonic() - began < 9  # the default would be 10


def test_10_000_connections_opened_and_dropped(kind):
    with attacked(kind) as target, python("tests/peers/openers.py", target.port, 10_000) as crowd:
        assert crowd.wait() == 0, crowd.said
        assert int(crowd.lines[-2]) == 10_000
