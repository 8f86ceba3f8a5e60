"""gws.websocket: goodbyes (RFC 6455 sections 5.5.1 and 7), and whatever else may happen in a bad moment.

Closing from both sides, at once, and with peers that do not answer; several greenlets on one connection; Timeouts
and kills at any moment; what `cut` and `verdict` promise.
"""

from __future__ import annotations

import gc
import logging
import os
import time
import weakref
from typing import Any

import gevent
import gevent.event
import pytest
from by_hand import Frame, Peer, deflated, fill, outcome, told
from conftest import Owner, turns, until
from gevent import get_hub

from gws import websocket as ws
from gws.deflate import Compression, Deflate, Parameters
from gws.errors import ConnectionClosed, ProtocolError
from gws.frame import (
    BINARY,
    CLOSE,
    CONTINUATION,
    FIN,
    PING,
    PONG,
    RSV1,
    TEXT,
    encode_close,
)
from gws.websocket import CLOSING, CONNECTING, OPEN, Limits, WebSocket

pytestmark = pytest.mark.usefixtures("deadline")

KIB, MIB = 1024, 1024 * 1024
MORE, LAST = CONTINUATION, FIN | CONTINUATION
SHORT = 0.02  # seconds: a close_timeout that is meant to pass
BYE = FIN | CLOSE, encode_close(1000)
PING_A, PONG_A = (FIN | PING, b"a"), (FIN | PONG, b"a")

# --------------------------------------------------------------------------------------------- 1. the closing handshake

CLOSES = [  # what a Close may hold, and what that means
    (b"", 1005, ""),
    *((encode_close(code), code, "") for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1014)),
    *((encode_close(code), code, "") for code in (3000, 3999, 4000, 4999)),
    (encode_close(1000, "Auf Wiederhören"), 1000, "Auf Wiederhören"),
    (encode_close(4000, "x" * 123), 4000, "x" * 123),
]


@pytest.mark.parametrize(("payload", "code", "reason"), CLOSES)
def test_a_server_answers_a_close_and_ends_the_connection(
    raw: Any, reading: Any, payload: bytes, code: int, reason: str
) -> None:
    # "If an endpoint receives a Close frame and did not previously send a Close frame, the endpoint MUST send a Close
    # frame in response. (When sending a Close frame in response, the endpoint typically echos the status code it
    # received.)"   "The server MUST close the underlying TCP connection immediately"  (5.5.1)
    fd, peer = raw()
    reader = reading(fd)
    peer.say((FIN | TEXT, b"last words"), (FIN | CLOSE, payload))
    assert peer.hear_all() == [(FIN | CLOSE, payload[:2])]
    end = reader.until_end()
    assert reader.got == ["last words"]
    assert (end.code, end.reason) == (fd.code, fd.reason) == (code, reason)
    assert end.__cause__ is None


def test_a_client_answers_a_close_and_waits_for_the_server(raw: Any, reading: Any) -> None:
    # "the client SHOULD wait for the server to close the connection but MAY close the connection at any time after
    # sending and receiving a Close message, e.g., if it has not received a TCP Close from the server in a reasonable
    # time period."  (5.5.1)
    fd, peer = raw(server=False)
    reader = reading(fd)
    peer.say((FIN | CLOSE, encode_close(1001, "away")))
    assert peer.hear() == (FIN | CLOSE, encode_close(1001))
    turns()
    assert fd.state == CLOSING
    assert str(outcome(fd.write, "x")) == "1001 away"  # it is known already how it ends
    peer.close()
    assert str(reader.until_end()) == "1001 away"


def test_a_server_that_does_not_end_the_connection_is_not_waited_for_long(raw: Any, reading: Any) -> None:
    fd, peer = raw(server=False, close_timeout=SHORT)
    reader = reading(fd)
    peer.say((FIN | CLOSE, encode_close(1001)))
    assert reader.until_end().code == 1001
    assert peer.hear_all() == [(FIN | CLOSE, encode_close(1001))]


@pytest.mark.parametrize("server", [True, False], ids=["server", "client"])
@pytest.mark.parametrize(
    ("args", "payload"),
    [
        ((), encode_close(1000)),
        ((1001,), encode_close(1001)),
        ((4999, "ü" * 61), encode_close(4999, "ü" * 61)),
        ((1005,), b""),
    ],
)
def test_close_says_so_and_waits_for_the_answer(
    raw: Any, greenlets: Any, args: Any, payload: bytes, server: bool
) -> None:
    fd, peer = raw(server=server)
    closing = greenlets(fd.close, *args)
    assert peer.hear() == (FIN | CLOSE, payload)
    turns()
    assert not closing.dead
    peer.say((FIN | TEXT, b"dropped"), (FIN | CLOSE, payload))
    if not server:
        turns()
        assert not closing.dead
        peer.close()
    closing.join(timeout=30)
    assert (fd.code, fd.reason) == (args[0] if args else 1000, args[1] if len(args) > 1 else "")
    if server:
        assert peer.hear_all() == []
    fd.close(4000)  # for ever after
    assert fd.code != 4000


@pytest.mark.parametrize("code", [0, 999, 1004, 1006, 1015, 1016, 2999, 5000, -1, 70_000])
def test_a_code_that_no_close_may_carry(raw: Any, code: int) -> None:
    fd, _ = raw()
    with pytest.raises(ValueError, match="a Close may not carry the code"):
        fd.close(code)
    assert fd.state == OPEN


@pytest.mark.parametrize(("code", "reason"), [(1000, "x" * 124), (1000, "ü" * 62), (1005, "but why"), (1000, "\ud800")])
def test_a_reason_that_no_close_may_carry(raw: Any, code: int, reason: str) -> None:
    fd, _ = raw()
    with pytest.raises(ValueError):
        fd.close(code, reason)
    assert fd.state == OPEN


def test_both_close_at_once(greenlets: Any, ends: Any) -> None:
    both = ends()
    gevent.joinall([greenlets(both.server.close, 1001, "s"), greenlets(both.client.close, 4000, "c")], timeout=30)
    assert (both.server.code, both.server.reason) == (4000, "c")
    assert (both.client.code, both.client.reason) == (1001, "s")


@pytest.mark.parametrize("who", ["server", "client"])
@pytest.mark.parametrize("reads", ["nobody", "we", "the peer", "both"])
def test_two_websockets_part(greenlets: Any, ends: Any, who: str, reads: str) -> None:
    both = ends()
    ours, theirs = (both.server, both.client) if who == "server" else (both.client, both.server)
    ends_of = {}
    for name, fd in (("we", ours), ("the peer", theirs)):
        if reads in (name, "both"):
            ends_of[name] = greenlets(outcome, fd.read)
    turns()
    closing = greenlets(ours.close, 3000, "enough")
    turns()
    if reads in ("nobody", "we"):
        assert str(outcome(theirs.read)) == "3000 enough"
    closing.join(timeout=30)
    assert (ours.code, theirs.code) == (3000, 3000)
    assert {name: str(end.get(timeout=30)) for name, end in ends_of.items()} == {
        name: "3000" if name == "we" else "3000 enough" for name in ends_of
    }


@pytest.mark.parametrize("reads", [True, False], ids=["while it is read", "while nobody reads"])
@pytest.mark.parametrize("server", [True, False], ids=["server", "client"])
def test_close_from_five_greenlets(raw: Any, reading: Any, greenlets: Any, reads: bool, server: bool) -> None:
    fd, peer = raw(server=server)
    if reads:
        reader = reading(fd)
    closing = [greenlets(fd.close, 4000 + i, str(i)) for i in range(5)]
    turns()
    assert not any(each.dead for each in closing)
    assert peer.hear() == (FIN | CLOSE, encode_close(4000, "0"))  # who came first
    peer.say((FIN | CLOSE, encode_close(4000)))
    if not server:
        peer.close()
    gevent.joinall(closing, timeout=30, raise_error=True)
    assert fd.code == 4000
    if server:
        assert peer.hear_all() == []
    if reads:
        assert reader.until_end().code == 4000


def test_close_in_the_middle_of_an_iteration(raw: Any, greenlets: Any) -> None:
    fd, peer = raw()
    got = []

    def handle() -> None:
        for message in fd:
            got.append(message)
            fd.close(1000, "enough")

    handling = greenlets(handle)
    peer.say((FIN | TEXT, b"one"), (FIN | TEXT, b"two"), (TEXT, b"thr"))
    assert peer.hear() == (FIN | CLOSE, encode_close(1000, "enough"))
    peer.say((LAST, b"ee"), BYE)
    handling.join(timeout=30)
    assert got == ["one"]


def test_close_in_a_handler_of_pings(raw: Any, reading: Any) -> None:
    class Closing(Owner):
        def told(self, fd: WebSocket, event: str, value: Any) -> None:
            super().told(fd, event, value)
            fd.close(4001, "no pings")

    fd, peer = raw(owner=Closing())
    reader = reading(fd)
    peer.say(PING_A, (FIN | TEXT, b"dropped"))
    assert [peer.hear(), peer.hear()] == [PONG_A, (FIN | CLOSE, encode_close(4001, "no pings"))]
    peer.say((FIN | CLOSE, encode_close(4001)))
    assert reader.until_end().code == 4001
    assert reader.got == []
    assert told(fd) == [("ping", b"a")]


def late(fd: WebSocket) -> None:
    """Close it, and see that this takes no longer than it may."""
    began = time.monotonic()
    fd.close(4000, "ours")
    assert time.monotonic() - began < 9  # the default would be 10
    assert (fd.code, fd.reason) == (4000, "ours")
    end = outcome(fd.read)
    assert isinstance(end.__cause__, TimeoutError)
    assert str(end.__cause__) == "the peer sent no Close"


@pytest.mark.parametrize("reads", [True, False], ids=["while it is read", "while nobody reads"])
def test_a_peer_that_never_answers(raw: Any, reading: Any, reads: bool) -> None:
    fd, peer = raw(close_timeout=SHORT)
    if reads:
        reader = reading(fd)
    late(fd)
    assert peer.hear_all() == [(FIN | CLOSE, encode_close(4000, "ours"))]
    if reads:
        assert reader.until_end().code == 4000


def test_a_peer_that_never_reads(raw: Any) -> None:
    fd, _ = raw(close_timeout=SHORT)
    fill(fd)
    late(fd)
    assert fd.pending == 0


def test_a_peer_that_goes_on_sending(raw: Any, greenlets: Any) -> None:
    fd, peer = raw(close_timeout=SHORT)

    def flood() -> None:
        while True:
            peer.say((FIN | BINARY, bytes(10_000)), PING_A)

    flooding = greenlets(outcome, flood)
    late(fd)
    assert isinstance(flooding.get(timeout=30), OSError)


def test_a_peer_that_breaks_the_rules_once_we_have_said_goodbye(raw: Any, greenlets: Any) -> None:
    fd, peer = raw()
    closing = greenlets(fd.close, 1000, "ours")
    assert peer.hear() == (FIN | CLOSE, encode_close(1000, "ours"))
    peer.say((LAST, b"x"))
    assert peer.hear_all() == []
    peer.close()
    closing.join(timeout=30)
    end = outcome(fd.read)
    assert (end.code, end.reason) == (1000, "ours")
    assert isinstance(end.__cause__, ProtocolError)


@pytest.mark.parametrize("cut", range(3))
def test_an_end_without_a_close(raw: Any, reading: Any, cut: int) -> None:
    # "If _The WebSocket Connection is Closed_ and no Close control frame was received by the endpoint (such as could
    # occur if the underlying transport connection is lost), _The WebSocket Connection Close Code_ is considered to be
    # 1006."  (7.1.5)
    fd, peer = raw()
    reader = reading(fd)
    peer.sock.sendall(peer.wire((FIN | TEXT, b"x"))[: cut * 3])
    peer.close()
    end = reader.until_end()
    assert (end.code, end.reason) == (1006, "")
    assert isinstance(end.__cause__, EOFError)


def test_a_reset(raw: Any, reading: Any) -> None:
    fd, peer = raw()
    reader = reading(fd)
    fd.write("never read")
    peer.close()  # with something unread, which resets a connection
    end = reader.until_end()
    assert end.code == 1006
    assert isinstance(end.__cause__, ConnectionResetError)


def test_an_end_without_a_close_once_we_have_said_goodbye(raw: Any, greenlets: Any) -> None:
    fd, peer = raw()
    closing = greenlets(fd.close, 1001, "ours")
    assert peer.hear() == (FIN | CLOSE, encode_close(1001, "ours"))
    peer.close()
    closing.join(timeout=30)
    assert (fd.code, fd.reason) == (1001, "ours")
    assert isinstance(outcome(fd.read).__cause__, EOFError)


@pytest.mark.parametrize("code", [1000, 1001, 1005, 1006, 1002, 1011, 3000, 4999])
def test_an_iteration_ends_quietly_after_an_ordinary_end(raw: Any, code: int) -> None:
    fd, peer = raw()
    peer.say((FIN | TEXT, b"one"), (FIN | BINARY, b"two"))
    if code == 1006:
        peer.sock.shutdown(1)
    else:
        peer.say((FIN | CLOSE, encode_close(code)))
    got = []

    def iterate() -> None:
        for message in fd:
            got.append(message)

    end = outcome(iterate)
    assert got == ["one", b"two"]
    assert end is None if code in (1000, 1001, 1005) else end.code == code
    assert (list(fd) if end is None else outcome(list, fd).code) == ([] if end is None else code)


def test_an_iteration_goes_on_after_an_interruption(raw: Any) -> None:
    fd, peer = raw()
    messages = iter(fd)
    with gevent.Timeout(SHORT, False):
        next(messages)
    peer.say((FIN | TEXT, b"late"))
    assert next(messages) == "late"


def test_over_is_over(raw: Any) -> None:
    fd, peer = raw()
    peer.say((FIN | CLOSE, encode_close(1011, "sorry")))
    for verb in (
        fd.read,
        fd.read,
        lambda: fd.write("x"),
        lambda: fd.write(b"x"),
        fd.ping,
        fd.measure,
        lambda: next(fd),
    ):
        end = outcome(verb)
        assert isinstance(end, ConnectionClosed)
        assert (end.code, end.reason) == (1011, "sorry")
    ws.broadcast([fd], "x")
    fd.close()
    fd.cut(1001, "")
    assert fd.closed
    assert (fd.code, fd.reason, fd.pending, fd.heard[0] > 0, fd.waiting) == (1011, "sorry", 0, True, False)
    assert fd.ended.is_set()
    with pytest.raises(TypeError):
        fd.write(123)


@pytest.mark.parametrize("verb", ["read", "write", "ping", "measure"])
def test_before_the_handshake_is_done(pair: Any, verb: str) -> None:
    stream, peer = pair()
    fd = WebSocket(stream, Owner(), Limits(), server=True)
    assert fd.state == CONNECTING
    end = outcome(getattr(fd, verb), *(["x"] if verb == "write" else []))
    assert (end.code, end.reason) == (1006, "the connection is connecting")
    assert fd.code is fd.reason is None
    fd.close(1001, "never mind")
    assert (fd.closed, fd.code) == (True, 1006)
    assert peer.recv(100) == b""


def test_a_connection_that_has_ended_is_nobody_s_garbage(pair: Any) -> None:
    # no cycle keeps it until the collector comes by
    stream, sock = pair()
    fd = WebSocket(stream, Owner(), Limits(), server=True)
    fd.opened()
    Peer(sock, server=False).say((FIN | TEXT, b"x"), BYE)
    assert list(fd) == ["x"]
    gone = weakref.ref(fd)
    gc.disable()
    try:
        del fd
        assert gone() is None
    finally:
        gc.enable()


# -------------------------------------------------------------------------------- 2. several greenlets, and bad moments


def test_a_second_reader_is_told_at_once(raw: Any, reading: Any) -> None:
    fd, peer = raw()
    first, second = reading(fd), reading(fd)
    assert isinstance(second.until_end(), RuntimeError)
    assert "is being read by" in str(second.end)
    peer.say((FIN | TEXT, b"hello"))
    until(lambda: first.got == ["hello"])


def test_who_reads_while_it_is_closing_waits_for_the_end(raw: Any, reading: Any, greenlets: Any) -> None:
    fd, peer = raw()
    closing = greenlets(fd.close)
    turns()
    reader = reading(fd)
    assert reader.end is None
    peer.say((FIN | CLOSE, encode_close(3000, "theirs")))
    closing.join(timeout=30)
    assert str(reader.until_end()) == "3000 theirs"


def test_who_reads_while_it_is_closing_does_not_wait_longer_than_close_timeout(raw: Any, reading: Any) -> None:
    fd, peer = raw(close_timeout=SHORT)
    peer.sock.shutdown(0)  # it reads no more: our writes fail, and it says nothing
    reader = reading(fd)
    assert outcome(fd.write, "x").code == 1006
    second = reading(fd)
    assert second.until_end().code == reader.until_end().code == 1006
    assert isinstance(second.end.__cause__, TimeoutError)


def test_a_reader_that_is_killed_leaves_everything_to_the_next(raw: Any, reading: Any) -> None:
    fd, peer = raw()
    first = reading(fd)
    data = peer.wire((FIN | TEXT, b"hello"))
    peer.sock.sendall(data[:5])
    turns()
    first.greenlet.kill()
    peer.sock.sendall(data[5:])
    assert fd.read() == "hello"


@pytest.mark.parametrize("how", ["a kill", "a timeout", "an OSError that is a timeout"])
def test_close_reads_on_when_the_reader_is_called_away(raw: Any, greenlets: Any, how: str) -> None:
    fd, peer = raw()
    error = {
        "a kill": gevent.GreenletExit(),
        "a timeout": gevent.Timeout(),
        "an OSError that is a timeout": TimeoutError(),
    }
    reader = greenlets(outcome, fd.read)
    turns()
    closing = [greenlets(fd.close, 1001) for _ in range(3)]
    turns()
    reader.kill(error[how])
    assert reader.value is error[how]
    turns()
    assert not fd.closed
    peer.say((FIN | CLOSE, encode_close(3000, "theirs")))
    gevent.joinall(closing, timeout=30)
    assert (fd.code, fd.reason) == (3000, "theirs")


def test_close_reads_on_when_a_handler_of_the_reader_s_fails(raw: Any, greenlets: Any) -> None:
    held = gevent.event.Event()

    class Failing(Owner):
        def told(self, fd: WebSocket, event: str, value: Any) -> None:
            held.wait()
            raise LookupError(value)

    fd, peer = raw(owner=Failing())
    reader = greenlets(outcome, fd.read)
    peer.say(PING_A)
    turns()
    closing = greenlets(fd.close)  # it reads, as the reader is busy
    turns()
    waiting = greenlets(fd.close)
    turns()
    held.set()
    assert isinstance(reader.get(timeout=30), LookupError)
    peer.say((FIN | CLOSE, encode_close(3000)))
    gevent.joinall([closing, waiting], timeout=30)
    assert fd.code == 3000


def test_what_a_handler_raises_is_not_taken_for_the_connection_s_end(raw: Any) -> None:
    class Failing(Owner):
        def told(self, fd: WebSocket, event: str, value: Any) -> None:
            raise FileNotFoundError(2, "no such file")

    fd, peer = raw(owner=Failing())
    peer.say(PING_A, (FIN | TEXT, b"behind"))
    with pytest.raises(FileNotFoundError):
        fd.read()
    assert fd.read() == "behind"


def test_a_timeout_may_be_any_exception(raw: Any) -> None:
    fd, peer = raw()
    with pytest.raises(TimeoutError), gevent.Timeout(SHORT, TimeoutError):
        fd.read()
    fill(fd)
    with pytest.raises(TimeoutError), gevent.Timeout(SHORT, TimeoutError):
        fd.write(bytes(100 * KIB))
    peer.say(PING_A)
    with pytest.raises(TimeoutError), gevent.Timeout(SHORT, TimeoutError("in a Pong")):
        fd.read()
    assert fd.state == OPEN
    peer.say((FIN | TEXT, b"hello"))
    assert fd.read() == "hello"


@pytest.mark.parametrize("server", [True, False], ids=["server", "client"])
@pytest.mark.parametrize("code", [1001, 1007])
def test_close_while_the_reader_says_goodbye(raw: Any, reading: Any, greenlets: Any, server: bool, code: int) -> None:
    """The reader has heard how it ends, and waits until its answer is out: whoever comes now waits with it."""
    fd, peer = raw(server=server)
    size = fill(fd)
    reader = reading(fd)
    peer.say((FIN | CLOSE, encode_close(1001, "theirs")) if code == 1001 else (FIN | TEXT, b"\xff"))
    until(lambda: fd.state == CLOSING)
    closing, second = greenlets(fd.close, 4000), reading(fd)
    turns()
    assert not fd.closed
    assert outcome(fd.write, "x").code == outcome(fd.ping).code == code
    heard = [peer.hear() for _ in range(size // 50_000)]
    assert heard == [(FIN | BINARY, bytes(50_000))] * len(heard)
    assert (peer.hear() or (0, b""))[1][:2] == encode_close(code)
    peer.close()
    closing.join(timeout=30)
    assert reader.until_end().code == second.until_end().code == fd.code == code


@pytest.mark.parametrize("how", ["cut", "close", "the peer's Close"])
def test_who_waits_to_write_is_told_how_it_ended(raw: Any, reading: Any, greenlets: Any, how: str) -> None:
    fd, peer = raw(close_timeout=SHORT)
    fill(fd)
    reader = reading(fd)
    writing = [greenlets(outcome, verb, bytes(size)) for verb, size in ((fd.write, MIB), (fd.write, 10), (fd.ping, 0))]
    turns()
    assert not any(each.dead for each in writing)
    if how == "cut":
        fd.cut(1011, "by us")
    elif how == "close":
        fd.close(1011, "by us")
    else:
        peer.say((FIN | CLOSE, encode_close(1011, "by us")))
    for each in (*writing, reader.greenlet):
        each.join(timeout=30)
    ends = [each.get() for each in writing] + [reader.end]
    assert [(end.code, end.reason) for end in ends] == [(1011, "by us")] * 4


def test_a_write_that_fails_takes_nothing_from_what_has_come(raw: Any) -> None:
    fd, peer = raw()
    peer.say((FIN | TEXT, b"last"), (FIN | BINARY, b"words"), (FIN | CLOSE, encode_close(1001, "away")))
    peer.close()
    for _ in range(2):
        end = outcome(fd.write, "x")
        assert (end.code, fd.state) == (1006, CLOSING)
    assert outcome(fd.ping).code == 1006
    ws.broadcast([fd], "x")
    assert [fd.read(), fd.read()] == ["last", b"words"]
    assert str(outcome(fd.read)) == str(outcome(fd.write, "x")) == "1001 away"


@pytest.mark.parametrize("verb", ["write", "ping"])
def test_the_first_write_that_fails_says_why(raw: Any, verb: str) -> None:
    fd, peer = raw()
    peer.close()
    end = outcome(getattr(fd, verb), b"x")
    assert (end.code, end.reason) == (1006, "")
    assert isinstance(end.__cause__, BrokenPipeError)
    fd.close(1001)  # it has nobody to say it to
    assert fd.code == 1001


def test_a_broadcast_to_one_who_is_gone_and_not_known_to_be(raw: Any) -> None:
    (gone, peer), (here, other) = raw(), raw()
    peer.close()
    ws.broadcast([gone, here], "one")
    turns()
    ws.broadcast([gone, here], "two")
    assert [other.hear(), other.hear()] == [(FIN | TEXT, b"one"), (FIN | TEXT, b"two")]
    assert outcome(gone.read).code == 1006


# ---------------------------------------------------------------------------------------------------------- 3. timeouts

CONVERSATION: list[Frame] = [
    (FIN | TEXT, b"one"),
    (TEXT, "日".encode()[:1]),
    PING_A,
    (MORE, "日".encode()[1:2]),
    (LAST, "日".encode()[2:]),
    (FIN | BINARY, b"x" * 130),
    PONG_A,
    (FIN | TEXT | RSV1, deflated(b"two")),
    (BINARY | RSV1, deflated(b"three")[:3]),
    (LAST, deflated(b"three")[3:]),
    (FIN | CLOSE, encode_close(1001, "away")),
]


@pytest.mark.parametrize("server", [True, False], ids=["server", "client"])
def test_an_interruption_after_every_byte_loses_nothing(raw: Any, reading: Any, server: bool) -> None:
    fd, peer = raw(server=server, deflate=Parameters())
    reader = reading(fd)
    for byte in peer.wire(*CONVERSATION):
        peer.sock.sendall(bytes((byte,)))
        turns(2)
        if reader.end is None:
            reader.interrupt()
            turns(1)
    assert reader.got == ["one", "日", b"x" * 130, "two", b"three"]
    assert told(fd) == [("ping", b"a"), ("pong", b"a")]
    assert str(reader.until_end()) == "1001 away"
    assert peer.hear_all() == [PONG_A, (FIN | CLOSE, encode_close(1001))]


@pytest.mark.parametrize("deflate", [None, Parameters()], ids=["plain", "deflate"])
def test_an_interrupted_write_goes_out_whole(raw: Any, deflate: Any) -> None:
    fd, peer = raw(deflate=deflate)
    big = os.urandom(300 * KIB)
    with gevent.Timeout(SHORT, False):
        for _ in range(10):
            fd.write(big)
    assert fd.pending
    inflater = Deflate(Parameters(), Compression(), server=False)
    gevent.spawn(fd.write, "y" * 1000)

    def hear() -> bytes:
        first, payload = peer.hear()
        return inflater.inflate(payload, MIB, True) if first & RSV1 else payload

    got = hear()
    while got == big:
        got = hear()
    assert got == b"y" * 1000
    fd.write("y" * 1000)  # and what both ends remember of it is the same
    assert hear() == b"y" * 1000


# Each brings a connection to a wait, and returns the verb that it waits in.


def unanswered(raw: Any) -> Any:
    fd, peer = raw()
    return fd, peer, fd.close


def unread(raw: Any) -> Any:
    fd, peer = raw()
    fill(fd)
    return fd, peer, fd.close


def read_by_another(raw: Any) -> Any:
    fd, peer = raw()
    gevent.spawn(outcome, fd.read)
    turns()
    return fd, peer, fd.close


def answer_unread(raw: Any) -> Any:
    fd, peer = raw()
    fill(fd)
    peer.say(BYE)
    return fd, peer, fd.read


def server_stays(raw: Any) -> Any:
    fd, peer = raw(server=False)
    peer.say(BYE)
    return fd, peer, fd.read


def server_stays_after_our_close(raw: Any) -> Any:
    fd, peer = raw(server=False)
    peer.say(BYE)
    return fd, peer, fd.close


def failure_unread(raw: Any) -> Any:
    fd, peer = raw()
    fill(fd)
    peer.say((LAST, b""))
    return fd, peer, fd.read


def failure_stays(raw: Any) -> Any:
    fd, peer = raw()
    peer.say((LAST, b""))
    return fd, peer, fd.read


def second_reader(raw: Any) -> Any:
    fd, peer = raw()
    gevent.spawn(outcome, fd.close)
    turns()
    return fd, peer, fd.read


def late_verdict(raw: Any) -> Any:
    fd, peer = raw()
    peer.sock.shutdown(0)
    return fd, peer, lambda: fd.verdict(outcome(fd.write, "x"))


WAITS = [
    unanswered,
    unread,
    read_by_another,
    answer_unread,
    server_stays,
    server_stays_after_our_close,
    failure_unread,
    failure_stays,
    second_reader,
    late_verdict,
]


@pytest.mark.parametrize("error", [gevent.Timeout, gevent.GreenletExit, TimeoutError])
@pytest.mark.parametrize("make", WAITS, ids=lambda make: make.__name__)
def test_an_interruption_of_any_wait_leaves_it_sound(raw: Any, make: Any, error: Any) -> None:
    fd, peer, verb = make(raw)
    thrown = error()
    waiting = gevent.spawn(outcome, verb)
    turns()
    assert not waiting.dead
    assert not fd.closed
    waiting.kill(thrown)
    # what lands in the very last wait, which throws away what comes, may be taken for the end of that
    assert waiting.value is thrown or (error is TimeoutError and isinstance(waiting.value, ConnectionClosed | None))
    if make in (second_reader, late_verdict):
        assert fd.state == CLOSING  # another one closes, or the socket is left to its owner
        fd.cut(1001, "by its owner")
    turns()
    assert fd.closed
    assert fd.ended.is_set()
    assert isinstance(outcome(fd.read), ConnectionClosed)
    peer.sock.settimeout(30)
    while peer.sock.recv(MIB):
        pass


@pytest.mark.parametrize("server", [True, False], ids=["server", "client"])
@pytest.mark.parametrize("after", range(1, 15))
def test_a_timeout_at_any_turn_leaves_it_open_or_over(raw: Any, greenlets: Any, after: int, server: bool) -> None:
    """Invariant: what a Timeout leaves behind either works or is over, and says so in the same words for ever."""
    fd, peer = raw(server=server, close_timeout=30)

    def converse() -> None:
        fd.read()
        fd.write(bytes(600 * KIB))
        fd.close(1001)

    def answer() -> None:
        peer.say(PING_A)
        turns(1)
        peer.say((FIN | TEXT, b"hello"))
        turns(2)
        for first, _ in iter(peer.hear, (FIN | CLOSE, encode_close(1001))):
            assert first in (FIN | PONG, FIN | BINARY)
        turns(1)
        peer.say((FIN | CLOSE, encode_close(1001)))
        turns(1)
        peer.close()

    thrown = gevent.Timeout()
    conversing = greenlets(outcome, converse)
    answering = gevent.spawn(outcome, answer)
    turns(after)
    conversing.kill(thrown)
    assert conversing.value in (None, thrown)
    if fd.state == OPEN:
        answering.kill()
        peer.say((FIN | TEXT, b"again"))
        assert until(lambda: fd.read()) in ("hello", "again")
    else:
        until(lambda: fd.closed)
        assert {str(outcome(fd.read)) for _ in range(3)} == {str(outcome(fd.write, ""))}
    answering.kill()


# -------------------------------------------------------------------------------------------------- 4. cut, and verdict


@pytest.mark.parametrize("server", [True, False], ids=["server", "client"])
def test_cut_ends_it_at_once(raw: Any, reading: Any, server: bool) -> None:
    fd, peer = raw(server=server)
    reader = reading(fd)
    fd.write("before")
    fd.cut(1001, "going away")
    assert fd.closed
    assert peer.hear_all() == [(FIN | TEXT, b"before"), (FIN | CLOSE, encode_close(1001, "going away"))]
    end = reader.until_end()
    assert (end.code, end.reason) == (1001, "going away")
    assert isinstance(end.__cause__, TimeoutError)


def test_cut_in_the_hub(raw: Any, reading: Any, greenlets: Any) -> None:
    fd, _ = raw()
    fill(fd)
    reader = reading(fd)
    waiting = [greenlets(outcome, fd.write, bytes(MIB)), greenlets(outcome, fd.measure)]
    closing = greenlets(fd.close, 4000)
    turns()
    get_hub().loop.run_callback(fd.cut, 1011, "too late")
    gevent.joinall([reader.greenlet, *waiting, closing], timeout=30)
    # whoever closed it has given a code already
    assert {(end.code, end.reason) for end in (reader.end, *(each.get() for each in waiting))} == {(4000, "")}


@pytest.mark.parametrize("code", [1001, 1002])
def test_cut_while_the_reader_says_goodbye(raw: Any, reading: Any, code: int) -> None:
    fd, peer = raw()
    fill(fd)
    reader = reading(fd)
    peer.say((FIN | CLOSE, encode_close(1001, "theirs")) if code == 1001 else (LAST, b""))
    until(lambda: fd.state == CLOSING)
    fd.cut(1011, "too late")
    assert fd.code == reader.until_end().code == code


def test_cut_of_one_who_is_gone(raw: Any) -> None:
    fd, peer = raw()
    peer.close()
    assert outcome(fd.write, "x").code == 1006
    fd.cut(1001, "going away")
    assert (fd.code, fd.reason) == (1006, "")  # none was told otherwise
    fd, peer = raw()
    peer.close()
    ws.broadcast([fd], "x")
    turns()
    fd.cut(1001, "going away")
    assert fd.code == 1006


def test_the_verdict_on_what_a_handler_raised(raw: Any, caplog: Any) -> None:
    fd, _ = raw()
    for error in (KeyError("x"), ConnectionClosed(1000, "of somebody else")):
        with caplog.at_level(logging.ERROR, logger="gws"):
            assert fd.verdict(error) is error
        assert fd.state == OPEN
        assert caplog.records[-1].getMessage() == f"a handler of {fd!r} failed"
        assert caplog.records[-1].exc_info[1] is error
    caplog.clear()
    fd.cut(1001, "")
    assert fd.verdict(outcome(fd.write, "x")) is None
    assert caplog.records == []


VERDICTS = {  # what the peer does, and what of it is an error
    "says goodbye": ([(FIN | TEXT, b"x"), (FIN | CLOSE, encode_close(1001))], 1001, None),
    "leaves": ([], 1006, None),
    "breaks the rules": ([(LAST, b"x")], 1002, ProtocolError),
}


@pytest.mark.parametrize("case", VERDICTS)
def test_the_verdict_after_a_write_that_failed(raw: Any, caplog: Any, case: str) -> None:
    said, code, wrong = VERDICTS[case]
    fd, peer = raw()
    peer.say(*said)
    peer.close()
    verdict = fd.verdict(outcome(fd.write, "x"))
    assert fd.code == code
    assert verdict is None if wrong is None else isinstance(verdict, wrong)
    assert caplog.records == []


def test_the_verdict_on_a_reset(raw: Any) -> None:
    fd, peer = raw()
    fd.write("never read")
    peer.close()
    assert isinstance(fd.verdict(outcome(fd.read)), ConnectionResetError)


def test_the_verdict_does_not_wait_for_ever(raw: Any) -> None:
    fd, peer = raw(close_timeout=SHORT)
    peer.sock.shutdown(0)
    assert fd.verdict(outcome(fd.write, "x")) is None
    assert fd.code == 1006


def in_another_thread(verb: Any, *args: Any) -> Any:
    def run() -> Any:
        try:
            return outcome(verb, *args)
        finally:
            get_hub().destroy(destroy_loop=True)

    return get_hub().threadpool.apply(run)


@pytest.mark.parametrize("deflate", [None, Parameters()], ids=["plain", "deflate"])
def test_another_thread_is_told_off_and_nothing_happens(raw: Any, reading: Any, deflate: Any) -> None:
    fd, peer = raw(deflate=deflate)
    fd.write("first" * 50)
    for verb, *args in (
        (fd.write, "x" * 500),
        (fd.ping,),
        (fd.measure,),
        (fd.close,),
        (fd.cut, 1001, ""),
        (fd._end, 1001, ""),
        (fd.read,),
        (ws.broadcast, [fd], "x" * 500),
    ):
        assert str(in_another_thread(verb, *args)) == f"{fd.stream!r} belongs to the thread that made it"
        assert fd.state == OPEN
    fd.write("x" * 500 + "second" * 50)
    inflater = Deflate(Parameters(), Compression(), server=False)
    for expected in ("first" * 50, "x" * 500 + "second" * 50):
        payload = peer.hear()[1]
        assert (inflater.inflate(payload, MIB, True) if deflate else payload).decode() == expected
    peer.say((FIN | TEXT, b"hello"))
    assert fd.read() == "hello"
