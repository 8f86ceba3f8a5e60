"""gws.websocket: broadcasts, and peers that read too slowly."""

from __future__ import annotations

from typing import Any

import pytest
from by_hand import fill, outcome, told
from conftest import turns, until

from gws import websocket as ws
from gws.deflate import Compression, Deflate, Parameters
from gws.frame import (
    BINARY,
    CLOSE,
    CONTINUATION,
    FIN,
    PING,
    PONG,
    RSV1,
    TEXT,
    decode_header,
    encode_close,
    mask,
)
from gws.websocket import CLOSING, OPEN

pytestmark = pytest.mark.usefixtures("deadline")

KIB, MIB = 1024, 1024 * 1024
MORE, LAST = CONTINUATION, FIN | CONTINUATION
SHORT = 0.02  # seconds: a close_timeout that is meant to pass
BYE = FIN | CLOSE, encode_close(1000)
PING_A, PONG_A = (FIN | PING, b"a"), (FIN | PONG, b"a")

# -------------------------------------------------------------------------------------------- 1. slow peers, broadcasts


def test_a_slow_peer_is_warned_of_at_each_doubling_and_when_it_has_caught_up(raw: Any, greenlets: Any) -> None:
    fd, peer = raw()
    levels = [0]
    while levels[-1] < 5 * KIB:
        fd.stream.post(bytes(100 * KIB))
        turns(1)
        levels.append(fd.pending // KIB)
    marks = [next(level for level in levels if level >= mark) for mark in (1024, 2048, 4096)]
    assert told(fd) == [("warning", mark) for mark in marks]
    while fd.pending:
        peer.sock.recv(MIB)
        turns(1)
    assert told(fd) == [("warning", mark) for mark in (*marks, 0)]


def test_pending_is_what_the_kernel_has_not_taken(raw: Any) -> None:
    fd, _ = raw()
    assert fd.pending == 0
    fill(fd)
    assert fd.pending == fd.stream.pending > 0


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Return how often broadcasts encode a frame, and how often they compress."""
    counts = {"encode": 0, "deflate_once": 0}

    def counting(name: str) -> Any:
        verb = getattr(ws, name)

        def count(*args: Any, **kwargs: Any) -> Any:
            counts[name] += 1
            return verb(*args, **kwargs)

        return count

    for name in counts:
        monkeypatch.setattr(ws, name, counting(name))
    return counts


@pytest.mark.parametrize("message", ["hello", b"hello", bytearray(b"hello"), "", "ü" * 100_000])
def test_a_broadcast_is_encoded_once(raw: Any, counted: Any, message: Any) -> None:
    fds = [raw() for _ in range(5)]
    ws.broadcast((fd for fd, _ in fds), message)
    assert counted == {"encode": 1, "deflate_once": 0}
    first, payload = (TEXT, message.encode()) if isinstance(message, str) else (BINARY, bytes(message))
    for _, peer in fds:
        assert peer.hear() == (FIN | first, payload)


def test_a_broadcast_keeps_its_place_among_the_writes(raw: Any) -> None:
    fd, peer = raw()
    fd.write("1")
    ws.broadcast([fd], "2")
    fd.write("3")
    ws.broadcast([fd], "4")
    ws.broadcast([fd], "5")
    fd.ping("6")
    assert [peer.hear()[1] for _ in range(6)] == [b"1", b"2", b"3", b"4", b"5", b"6"]


def test_a_broadcast_is_compressed_once_for_each_way_that_was_agreed_on(raw: Any, counted: Any) -> None:
    ways = [None, Parameters(), Parameters(), Parameters(server_no_context_takeover=True), Parameters(True, True, 9, 9)]
    fds = [raw(deflate=way) for way in ways for _ in range(2)]
    inflaters = [Deflate(way or Parameters(), Compression(), server=False) for way in ways for _ in range(2)]
    for message in ("tiny", "x" * 127, "x" * 128, "y" * 1000):
        counted.update(encode=0, deflate_once=0)
        ws.broadcast([fd for fd, _ in fds], message)
        wanted = len(message) >= 128
        assert counted["deflate_once"] == (2 if wanted else 0)
        for (fd, peer), inflater in zip(fds, inflaters):
            first, payload = peer.hear()
            assert first == FIN | TEXT | (RSV1 if wanted and fd.deflate else 0)
            assert (inflater.inflate(payload, MIB, True) if first & RSV1 else payload) == message.encode()


def test_writes_and_broadcasts_share_a_window(raw: Any) -> None:
    fd, peer = raw(deflate=Parameters())
    inflater = Deflate(Parameters(), Compression(), server=False)
    for i, verb in enumerate([fd.write, fd.write, lambda it: ws.broadcast([fd], it), fd.write, fd.write] * 2):
        message = f"message {i} " * 30
        verb(message)
        assert inflater.inflate(peer.hear()[1], MIB, True).decode() == message


@pytest.mark.parametrize("deflate", [None, Parameters()], ids=["plain", "deflate"])
def test_each_client_side_connection_gets_a_mask_of_its_own(raw: Any, deflate: Any) -> None:
    # "When preparing a masked frame, the client MUST pick a fresh masking key from the set of allowed 32-bit values."
    # (5.3)
    fds = [raw(server=False, deflate=deflate) for _ in range(8)]
    ws.broadcast([fd for fd, _ in fds], "x" * 300)
    turns()
    masks = set()
    for _, peer in fds:
        data = peer.sock.recv(1000)
        header = decode_header(data, masked=True, rsv=RSV1)
        masks.add(header.mask)
        payload = mask(data[header.size :], header.mask)
        if deflate:
            payload = Deflate(deflate, Compression(), server=True).inflate(payload, MIB, True)
        assert payload == b"x" * 300
    assert len(masks) == 8


def test_those_that_are_closed_are_passed_over(raw: Any, greenlets: Any) -> None:
    (closed, _), (closing, quiet), (here, peer) = raw(), raw(), raw()
    closed.cut(1001, "")
    waiting = greenlets(closing.close)
    turns()
    ws.broadcast([closed, closing, here], "hello")
    assert peer.hear() == (FIN | TEXT, b"hello")
    quiet.say(BYE)
    waiting.join(timeout=30)
    assert quiet.hear_all() == [BYE]


@pytest.mark.parametrize("server", [True, False], ids=["server", "client"])
@pytest.mark.parametrize("reads", [True, False], ids=["while it is read", "while nobody reads"])
def test_a_peer_that_is_too_slow_is_closed_and_the_others_notice_nothing(
    raw: Any, reading: Any, reads: bool, server: bool
) -> None:
    slow, lazy = raw(server=server, max_pending=100_000)
    fast, peer = raw()
    if reads:
        reading(slow)
    message = bytes(30_000)
    sent = 0
    while slow.state == OPEN:
        ws.broadcast([slow, fast], message)
        assert peer.hear() == (FIN | BINARY, message)
        sent += 1
    assert slow.state == CLOSING
    assert slow.pending <= 100_000 + 200
    ws.broadcast([slow, fast], "more")
    assert peer.hear() == (FIN | TEXT, b"more")
    end = outcome(slow.write, "x")
    assert (end.code, end.reason) == (1013, "the connection is closing")
    # it gets what was accepted, whole and in order, and then a goodbye
    assert [lazy.hear() for _ in range(sent - 1)] == [(FIN | BINARY, message)] * (sent - 1)
    first, payload = lazy.hear()
    assert (first, payload[:2]) == (FIN | CLOSE, encode_close(1013))
    assert payload.endswith(b" KiB are waiting to be read")
    lazy.say((FIN | CLOSE, encode_close(1013)))
    if not server:
        lazy.close()
    until(lambda: slow.closed)
    assert slow.code == 1013
    assert fast.state == OPEN


def test_a_peer_that_is_too_slow_for_a_goodbye(raw: Any) -> None:
    fd, _ = raw(max_pending=100_000, close_timeout=SHORT)
    while fd.state == OPEN:
        ws.broadcast([fd], bytes(30_000))
        turns(1)
    until(lambda: fd.closed)
    assert fd.code == 1013
    assert "KiB are waiting" in fd.reason


def test_a_peer_that_is_too_slow_and_gone(raw: Any) -> None:
    fd, peer = raw(max_pending=10)
    peer.close()
    ws.broadcast([fd], bytes(5))
    turns()
    ws.broadcast([fd], bytes(30_000))
    until(lambda: fd.closed)
    assert fd.code == 1013


def test_one_connection_is_not_many(ends: Any) -> None:
    both = ends()
    both.client.write("this is not lost")
    with pytest.raises(TypeError, match="one connection has write"):
        ws.broadcast(both.server, "x")
    assert both.server.read() == "this is not lost"
