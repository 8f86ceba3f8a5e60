"""A connection that is over is freed at once, with all that it held, however it has ended: by counting alone."""

from __future__ import annotations

import contextlib
import gc
import logging
import weakref

import _socket
import gevent
import pytest
from by_hand import Peer, deflated
from conftest import Owner, until
from gevent import socket

import gws.client
from gws.deflate import Compression, Deflate, Parameters
from gws.errors import ConnectionClosed, ProtocolError
from gws.frame import BINARY, CLOSE, CONTINUATION, FIN, RSV1, TEXT
from gws.server import Server
from gws.websocket import Limits, WebSocket

MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def no_collector():
    """Leave it all to the counting."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def close(fd, peer):
    peer.say((FIN | CLOSE, b"\x03\xe8bye"))


def send(*frames):
    return lambda fd, peer: peer.say(*frames)


def shut(fd, peer):
    peer.sock.close()


def write_to_nobody(fd, peer):
    peer.sock.close()
    with contextlib.suppress(ConnectionClosed):
        while True:
            fd.write(bytes(10_000))


ENDS = {
    "the peer's Close": close,
    "no Close": shut,
    "a write to nobody": write_to_nobody,
    "no message to continue": send((FIN | CONTINUATION, b"x" * 1000)),
    "a message that begins before the last has ended": send((TEXT, b"x" * 1000), (FIN | TEXT, b"")),
    "a reserved opcode": send((FIN | 5, b"")),
    "no UTF-8": send((FIN | TEXT, b"\xff" * 1000)),
    "no UTF-8, in fragments": send((TEXT, b"\xff")),
    "too big": send((FIN | BINARY, bytes(MIB + 1))),
    "no DEFLATE stream": send((FIN | RSV1 | BINARY, b"\xff" * 1000)),
    "too big once it is inflated": send((FIN | RSV1 | BINARY, deflated(bytes(2 * MIB)))),
    "the same, in fragments": send((RSV1 | BINARY, deflated(bytes(2 * MIB)))),
    "a bad close code": send((FIN | CLOSE, b"\x03\xed")),
    "a reason that is no UTF-8": send((FIN | CLOSE, b"\x03\xe8\xff")),
    "a cut in the middle of a message": lambda fd, peer: (peer.say((TEXT, b"x" * 1000)), fd.cut(1001, "")),
}


def read_to_the_end(fd):
    with contextlib.suppress(ConnectionClosed):
        while True:
            fd.read()


@pytest.mark.parametrize("server", [True, False], ids=["server", "client"])
@pytest.mark.parametrize("end", ENDS)
def test_a_connection(raw_once, end, server, deadline):
    fd, peer = raw_once(server)
    gone = weakref.ref(fd)
    reader = gevent.spawn(read_to_the_end, fd)
    ENDS[end](fd, peer)
    if end != "no Close":
        with contextlib.suppress(OSError):
            peer.sock.shutdown(socket.SHUT_WR)
    reader.join()
    assert fd.closed
    stream = weakref.ref(fd.stream)
    del fd, reader
    assert gone() is None
    assert stream() is None


@pytest.fixture
def raw_once(stream_class):
    """Return a function that makes (WebSocket, Peer), of which nobody else knows."""
    peers = []

    def make(server):
        ours, theirs = _socket.socketpair()
        theirs = socket.socket(fileno=theirs.detach())
        theirs.settimeout(5)
        fd = WebSocket(stream_class(ours, masked=server), Owner(), Limits(), server=server)
        fd.deflate = Deflate(Parameters(), Compression(), server=server)
        fd.opened()
        peers.append(Peer(theirs, server=not server))
        return fd, peers[-1]

    yield make
    for peer in peers:
        peer.close()


# ------------------------------------------------------------------------------------------- with a server and a client


def fail(fd, message):
    raise LookupError("a handler's own fault")


def violate(fd, message):
    fd.stream.write(b"\x83\x00")


HANDLERS = {
    "echo": lambda fd, message: fd.write(message),
    "close": lambda fd, message: fd.close(4000, "as you wish"),
    "cut": lambda fd, message: fd.cut(1001, ""),
    "raise": fail,
    "violate": violate,
}


@pytest.fixture
def server():
    server = Server()
    server.start(port=0)
    yield server
    server.stop(timeout=5)


@pytest.mark.parametrize("style", ["handler", "reading"])
@pytest.mark.parametrize("end", HANDLERS)
def test_both_ends(server, end, style, deadline, caplog):
    caplog.set_level(logging.CRITICAL, "gws")  # it would keep the handler's error
    gone = []

    @server.on("message")
    def message(fd, message):
        gone.append(weakref.ref(fd))
        HANDLERS[end](fd, message)

    client = gws.client.new()
    errors, answers = [], []
    client.on("error", lambda error: errors.append(type(error)))
    if style == "handler":
        client.on("message", answers.append)
    client.connect("127.0.0.1", server.port)
    client.write("x" * 1000)
    with contextlib.suppress(ConnectionClosed):
        if end == "echo" and style == "reading":
            answers.append(client.read())
    if end == "echo":
        until(lambda: answers)
        client.close()
    client.join()
    assert client.closed
    until(lambda: not server.fds)
    assert (errors == [ProtocolError]) == (end == "violate")
    gone += [weakref.ref(client), weakref.ref(client.fd)]
    del client
    until(lambda: not any(ref() for ref in gone))


def test_what_was_refused_is_not_kept(server, deadline):
    kept = []
    server.on("error", lambda fd, error: kept.append(error))
    for _ in range(3):
        client = gws.client.connect("127.0.0.1", server.port)
        client.fd.stream.write_frame(FIN | TEXT, bytes(100_000) + b"\xff")
        client.join()
        assert client.fd.code == 1007
    until(lambda: len(kept) == 3)
    assert not any(error.__traceback__ for error in kept)


@pytest.mark.parametrize("side", ["server", "client"])
def test_a_message_is_not_kept_while_the_peer_is_heard_out(server, side, deadline, monkeypatch):
    read, hear_out = WebSocket.read, WebSocket.hear_out
    live, kept = [], []

    class Text(str):
        """A message that can be referred to weakly."""

    def hear(fd):
        kept.append(live[-1]())
        hear_out(fd)

    def answer(fd, message, peer):
        live.append(weakref.ref(message))
        peer.cut(1001, "")
        while True:
            fd.write(bytes(10_000))

    client = gws.client.new()
    monkeypatch.setattr(WebSocket, "read", lambda fd: Text(read(fd)))
    monkeypatch.setattr(WebSocket, "hear_out", hear)
    if side == "server":
        server.on("message", lambda fd, message: answer(fd, message, client.fd))
    else:
        server.on("connection", lambda fd, addr: fd.write("x" * 1000))
        client.on("message", lambda message: answer(client.fd, message, next(iter(server.fds))))
    client.connect("127.0.0.1", server.port)
    client.write("x" * 1000)
    until(lambda: kept)
    assert set(kept) == {None}
    client.join()
    until(lambda: not server.fds)
