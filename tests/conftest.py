"""What every test has: two ends on a socketpair, and a look at what it leaves behind."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import ssl
import threading
import time
from types import SimpleNamespace

import _socket
import gevent
import gevent.socket
import greenlet
import pytest
import trustme
from by_hand import Peer, Reading
from gevent import get_hub
from served import Served

from gws import outbox, turn
from gws.deflate import Compression, Deflate
from gws.stream import Plain, Stream
from gws.turn import Lanes
from gws.websocket import Limits, WebSocket
from gws.wsgi import WebSocketHandler

STREAMS = [Plain] if Stream is Plain else [Plain, Stream]


def pytest_collection_finish():
    """Leave what is there by now out of every later look at what is left behind: it takes most of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(params=STREAMS, ids=lambda kind: kind.__module__.removeprefix("gws."))
def stream_class(request):
    """Each of the streams that there are; what is said of one is said of all."""
    return request.param


@pytest.fixture
def pair(stream_class):
    """Return a function that makes (stream, peer's socket) on a socketpair; both are closed in the end.

    The peer is a gevent socket: what it waits for, it waits for in its greenlet alone.
    """
    made = []

    def make(*, masked=True, kind=socket.SOCK_STREAM):
        ours, theirs = _socket.socketpair(socket.AF_UNIX, kind)
        theirs = gevent.socket.socket(fileno=theirs.detach())
        theirs.settimeout(30)
        stream = stream_class(ours, masked=masked)
        made.append((stream, theirs))
        return stream, theirs

    yield make
    for stream, theirs in made:
        stream.close()
        theirs.close()


@pytest.fixture(scope="session")
def tls_contexts():
    """Return a TLS context for a server, which is localhost, and one for its clients."""
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    return server, client


class TlsPeer:
    """The other end of a TLS connection: what it says is sealed in memory, so that a test may cut it anywhere."""

    def __init__(self, sock, context):
        self.sock = sock
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname="localhost")

    def shake_hands(self, ours):
        self.sock.setblocking(False)
        for _ in range(4):
            for end in (self._tls, ours):
                with contextlib.suppress(ssl.SSLWantReadError):
                    end.do_handshake()
                self.sock.sendall(self._out.read())
            with contextlib.suppress(BlockingIOError):
                self._in.write(self.sock.recv(65536))
        self.sock.settimeout(30)
        assert self._tls.version() == ours.version() == "TLSv1.3"

    def seal(self, data):
        self._tls.write(data)
        return self._out.read()

    def sendall(self, data):
        self.sock.sendall(self.seal(data))

    def recv(self, size):
        while True:
            try:
                return self._tls.read(size)
            except ssl.SSLWantReadError:
                data = self.sock.recv(65536)
                self._in.write(data) if data else self._in.write_eof()
            except ssl.SSLZeroReturnError:  # it has said close_notify
                return b""

    def close(self):
        self.sock.close()


@pytest.fixture
def tls_pair(stream_class, tls_contexts):
    """Return a function that makes (stream, TlsPeer), the handshake done; both are closed in the end."""
    made = []
    server, client = tls_contexts

    def make():
        ours, theirs = _socket.socketpair()
        peer = TlsPeer(gevent.socket.socket(fileno=theirs.detach()), client)
        ours.setblocking(False)
        ours = server.wrap_socket(ours, server_side=True, do_handshake_on_connect=False)
        peer.shake_hands(ours)
        stream = stream_class(ours, masked=True)
        made.append((stream, peer))
        return stream, peer

    yield make
    for stream, peer in made:
        stream.close()
        peer.close()


_always_writable = os.pipe()[1]


_lanes = []


class NotedLanes(Lanes):
    """Lanes that `turns` knows."""

    __slots__ = ()

    def __init__(self, loop):
        super().__init__(loop)
        _lanes.append(self)


turn.Lanes = outbox.Lanes = NotedLanes


def turns(count=3):
    """Let the loop poll `count` times: who could go on at once has done so by then.   Blocks.

    Those who have to wait for their turn are waited for, since how many they are in one hangs on the processor.
    """
    for _ in range(count):
        poll()
    for _ in range(1000):
        if not any(any(lanes._waiting) for lanes in _lanes if lanes._loop is get_hub().loop):
            return
        poll()


def poll():
    """Let the loop poll once.   Blocks."""
    gevent.socket.wait_write(_always_writable)


def until(condition, seconds=20):
    """Let the loop turn until `condition()` holds, and return what it gave.   Blocks."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"it has not come to pass within {seconds} s"
        poll()
    return value


@pytest.fixture
def deadline():
    """A test that hangs fails."""
    with gevent.Timeout(60):
        yield


class Alarm(gevent.Timeout):
    """A Timeout that runs out when the test says so."""

    def start(self):
        self._waiting = greenlet.getcurrent()

    def ring(self):
        thrown = self if self.exception in (None, False) else self.exception
        get_hub().loop.run_callback(self._waiting.throw, thrown)


@pytest.fixture
def alarms(monkeypatch):
    """Return a function that takes the clock from a room's `gevent.Timeout`s: a list of them, as they come to be."""

    def take(room):
        made = []

        def timeout(*args):
            made.append(Alarm(*args))
            return made[-1]

        monkeypatch.setattr(room, "gevent", SimpleNamespace(**{**vars(gevent), "Timeout": timeout}))
        return made

    return take


class Owner:
    """Hears what a connection tells, and keeps it."""

    def __init__(self):
        self.heard = []

    def told(self, fd, event, value):
        self.heard.append((event, value))


@pytest.fixture
def ends(stream_class):
    """Return a function that makes two WebSockets, server and client, joined by a socketpair."""
    made = []

    def make(**limits):
        both = []
        for sock, server in zip(socket.socketpair(), (True, False)):
            stream = stream_class(sock, masked=server)
            fd = WebSocket(stream, Owner(), Limits(**limits), server=server, addr=("pair", int(server)))
            fd.opened()
            both.append(fd)
        made.extend(both)
        return SimpleNamespace(server=both[0], client=both[1])

    yield make
    for fd in made:
        fd.cut(1001, "the test is over")


@pytest.fixture
def greenlets():
    """Return `gevent.spawn`; what it spawned must have ended by the end of the test, and well."""
    spawned = []

    def spawn(*args, **kwargs):
        spawned.append(gevent.spawn(*args, **kwargs))
        return spawned[-1]

    yield spawn
    gevent.joinall(spawned, timeout=30, raise_error=True)
    assert not [g for g in spawned if not g.dead]


@pytest.fixture
def raw(pair, greenlets):
    """Return a function that makes (WebSocket, Peer); who still waits for something in the end is sent home."""
    made = []

    def make(*, server=True, deflate=None, owner=None, **limits):
        stream, sock = pair(masked=server)
        fd = WebSocket(stream, owner or Owner(), Limits(**limits), server=server)
        if deflate is not None:
            fd.deflate = Deflate(deflate, Compression(), server=server)
        fd.opened()
        made.append(fd)
        return fd, Peer(sock, server=not server)

    yield make
    for fd in made:
        fd.cut(1001, "the test is over")


@pytest.fixture
def reading(raw):
    """Return a function that lets a greenlet read a connection for as long as it can."""
    made = []

    def make(fd):
        made.append(Reading(fd))
        turns(1)
        return made[-1]

    yield make
    for each in made:
        each.greenlet.kill()


@pytest.fixture
def serve_wsgi():
    """Return a function that serves a WSGI app on pywsgi; it is stopped in the end."""
    made = []

    def make(app, handler_class=WebSocketHandler, ssl=None, **options):
        if options:
            handler_class = handler_class.with_options(**options)
        made.append(Served(app, handler_class, **({"ssl_context": ssl} if ssl else {})))
        return made[-1]

    yield make
    for each in made:
        each.close()


def census():
    """Return what may be left behind: greenlets, descriptors, threads."""
    gc.collect()
    hub = get_hub()
    live = {id(g): g for g in gc.get_objects() if isinstance(g, greenlet.greenlet) and g and not g.dead}
    live = {key: g for key, g in live.items() if g is not hub and g is not greenlet.getcurrent()}
    fds = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            fds[int(fd)] = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
    threads = [thread for thread in threading.enumerate() if not isinstance(thread, threading._DummyThread)]
    return live, fds, {thread.ident: thread for thread in threads}


@pytest.fixture(autouse=True)
def nothing_left():
    """No greenlet, descriptor or thread survives a test."""
    get_hub().threadpool.apply(int)  # the resolver's thread: it is there for good
    before = census()
    gc.freeze()  # what is here already is not looked at again: reports alone would make each look longer than the last
    yield
    until = time.monotonic() + 20
    while time.monotonic() < until:
        gevent.sleep(0)
        left = [{k: v for k, v in now.items() if k not in then} for now, then in zip(census(), before)]
        if not any(left):
            return
        gevent.sleep(0.01)
    pytest.fail(f"left behind: {left}")
