"""gws.stream: the reading half of a stream, its end, and its contract; of every stream that there is.

What is said here of one stream is said of all: through its public face, over Unix sockets, TCP and TLS.   The writing
half is in test_outbox.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib.util
import itertools
import os
import socket
import ssl
import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import _socket
import gevent
import gevent.socket
import pytest
from conftest import TlsPeer, poll, turns, until
from gevent import get_hub
from gevent.exceptions import BlockingSwitchOutError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gws import stream as room
from gws.errors import HandshakeError, InvalidPayload, MessageTooBig, ProtocolError
from gws.frame import BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, RSV1, TEXT, encode, encode_header, mask, slack

pytestmark = pytest.mark.usefixtures("deadline")

KIB, MIB = 1024, 1024 * 1024
SCRATCH = 256 * KIB  # what one connection may bring in per turn of the loop
KEY = bytes.fromhex("37fa213d")
HELLO = FIN | TEXT, b"Hello"

fuzz = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def wire(first: int, payload: bytes, key: bytes | None = KEY) -> bytes:
    """Encode a frame as the peer would: masked, unless told otherwise."""
    return encode_header(first, len(payload), key) + (mask(payload, key) if key else payload)


# Of each size at which the header changes, of each opcode; and some fragments.
CONVERSATION = [
    (FIN | TEXT, b""),
    (FIN | TEXT, b"H"),
    (TEXT, b"Hel"),
    (FIN | PING, b"Hello"),
    (FIN | CONTINUATION, b"lo"),
    (FIN | BINARY, bytes(range(125))),
    (FIN | BINARY, bytes(range(126))),
    (FIN | PONG, bytes(125)),
    (FIN | BINARY, bytes(range(256)) + b"x"),
    (FIN | TEXT, "Grüße \U0001f44b".encode()),
    (FIN | CLOSE, b"\x03\xe8"),
]
LARGE = [(FIN | BINARY, os.urandom(size)) for size in (65535, 65536, 65537, 300_000)]


def name_of(stream_class: Any) -> str:
    """Return the name under which gws.stream has it."""
    return "Plain" if stream_class is room.Plain else "Stream"


class Reader:
    """A greenlet that reads frames for as long as it can; `interrupt()` throws into it, and another one goes on."""

    def __init__(self, stream: Any, limit: int = MIB, partial: Any = None, verb: Any = None):
        self._read = verb or functools.partial(stream.read_frame, limit, partial)
        self.got: list[Any] = []
        self.error: BaseException | None = None
        self.interrupted = 0
        self._start()

    def _start(self) -> None:
        self._greenlet = gevent.spawn(self._run)

    def _run(self) -> None:
        try:
            while True:
                self.got.append(self._read())
        except gevent.Timeout:
            self.interrupted += 1
        except Exception as error:
            self.error = error

    def interrupt(self) -> None:
        """Throw a Timeout into the read, in this turn of the loop; the next read follows."""
        gevent.kill(self._greenlet, gevent.Timeout())
        gevent.sleep(0)
        self._greenlet.join(timeout=30)
        assert self._greenlet.dead
        self._start()

    def stop(self) -> None:
        self._greenlet.kill()


@pytest.fixture
def reader() -> Iterator[Callable[..., Reader]]:
    """Return a function that makes a Reader; it is stopped in the end."""
    made: list[Reader] = []

    def make(*args: Any, **kwargs: Any) -> Reader:
        made.append(Reader(*args, **kwargs))
        return made[-1]

    yield make
    for each in made:
        each.stop()


@pytest.fixture
def tcp_pair(stream_class: Any) -> Iterator[Callable[[], Any]]:
    made = []
    listener = _socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()

    def make() -> Any:
        theirs = _socket.socket()
        theirs.connect(listener.getsockname())
        ours = _socket.socket(fileno=listener._accept()[0])  # type: ignore[attr-defined]
        theirs = gevent.socket.socket(fileno=theirs.detach())
        for sock in (ours, theirs):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.append((stream_class(ours, masked=True), theirs))
        return made[-1]

    yield make
    listener.close()
    for stream, theirs in made:
        stream.close()
        theirs.close()


@pytest.fixture(params=["unix", "tcp", "tls"])
def joined(request: Any, pair: Any, tcp_pair: Any, tls_pair: Any) -> Any:
    """Return a function that makes (stream, peer) over each kind of socket; the peer has sendall, recv and close."""
    return {"unix": pair, "tcp": tcp_pair, "tls": tls_pair}[request.param]


# ---------------------------------------------------------------------------------------------- frames, however cut


def test_one_frame(joined: Any) -> None:
    stream, peer = joined()
    peer.sendall(wire(*HELLO))
    assert stream.read_frame(MIB) == HELLO


def test_a_server_s_frames_come_without_masks(pair: Any) -> None:
    stream, peer = pair(masked=False)
    for first, payload in CONVERSATION + LARGE[:1]:
        peer.sendall(wire(first, payload, None))
        assert stream.read_frame(MIB) == (first, payload)


def test_frames_of_one_batch(joined: Any) -> None:
    stream, peer = joined()
    peer.sendall(b"".join(itertools.starmap(wire, CONVERSATION)))
    assert [stream.read_frame(MIB) for _ in CONVERSATION] == CONVERSATION
    assert not stream.unread


def test_frames_byte_by_byte(joined: Any, reader: Any) -> None:
    stream, peer = joined()
    reading = reader(stream)
    data = b"".join(itertools.starmap(wire, CONVERSATION))
    for i in range(len(data)):
        peer.sendall(data[i : i + 1])
        turns(2)
    until(lambda: len(reading.got) == len(CONVERSATION))
    assert reading.got == CONVERSATION


def test_frames_in_every_cut_in_two(pair: Any, reader: Any) -> None:
    stream, peer = pair()
    reading = reader(stream)
    data = b"".join(itertools.starmap(wire, CONVERSATION))
    for cut in range(len(data) + 1):
        peer.sendall(data[:cut])
        turns(2)
        peer.sendall(data[cut:])
        until(lambda: len(reading.got) == len(CONVERSATION))
        assert reading.got == CONVERSATION, f"cut at {cut}"
        reading.got.clear()


@pytest.mark.parametrize("masked", [True, False], ids=["server", "client"])
def test_large_frames_cut_in_three(pair: Any, reader: Any, masked: bool) -> None:
    stream, peer = pair(masked=masked)
    reading = reader(stream)
    for first, payload in LARGE:
        data = wire(first, payload, KEY if masked else None) + wire(*HELLO, KEY if masked else None)
        for begin, end in ((1, 2), (3, 14), (9, 15), (15, 16), (17, 65_543), (100, len(data) - 12), (50_001, 50_003)):
            for piece in (data[:begin], data[begin:end], data[end:]):
                peer.sendall(piece)
                turns(2)
            until(lambda: len(reading.got) == 2)
            assert reading.got == [(first, payload), HELLO]
            reading.got.clear()


def test_large_frames(joined: Any, reader: Any) -> None:
    stream, peer = joined()
    reading = reader(stream, 4 * MIB)
    frames = [*LARGE, (FIN | BINARY, os.urandom(3 * MIB)), HELLO]
    for first, payload in frames:
        peer.sendall(wire(first, payload))
    until(lambda: len(reading.got) == len(frames))
    assert reading.got == frames


def test_received_counts_the_bytes_that_came(pair: Any) -> None:
    stream, peer = pair()
    assert stream.received == 0
    peer.sendall(wire(*HELLO) * 3)
    stream.read_frame(MIB)
    assert stream.received == 3 * 11
    peer.sendall(b"\x81")
    stream.read_frame(MIB)
    stream.read_frame(MIB)
    with gevent.Timeout(0, False):
        stream.read_frame(MIB)
    until(lambda: stream.received == 34 or not stream.unread)


FRAMES_AND_MESSAGES = [
    ([(FIN | TEXT, b"a")], 1),
    ([(FIN | BINARY, b""), (FIN | TEXT, b"b" * 70000)], 2),
    ([(TEXT, b"a"), (CONTINUATION, b"b"), (FIN | CONTINUATION, b"c")], 1),
    ([(FIN | PING, b""), (FIN | PONG, b""), (FIN | CLOSE, b"")], 0),
]


@pytest.mark.parametrize(("frames", "messages"), FRAMES_AND_MESSAGES)
def test_frames_that_end_a_message_are_counted(pair: Any, frames: Any, messages: int) -> None:
    stream, peer = pair()
    before = room.totals()
    for first, payload in frames:
        peer.sendall(wire(first, payload))
        stream.read_frame(MIB)
        stream.write_frame(first, payload)
        stream.post(encode(payload, first & 0x0F, fin=bool(first & FIN)))
        stream.flush()
    assert (stream.messages_received, stream.messages_sent) == (messages, 2 * messages)
    gone = [now - then for now, then in zip(room.totals(), before)]
    assert gone == [messages, 2 * messages, stream.received, stream.sent]


def test_a_closed_stream_stays_in_the_totals(pair: Any) -> None:
    stream, _peer = pair()
    before = room.totals()
    stream.write_frame(FIN | TEXT, b"hello")
    stream.close()
    assert [now - then for now, then in zip(room.totals(), before)] == [0, 1, 0, 7]


@settings(fuzz, max_examples=60)
@given(
    frames=st.lists(
        st.tuples(
            st.sampled_from([FIN | TEXT, FIN | BINARY, TEXT, CONTINUATION, FIN | CONTINUATION, FIN | PING]),
            st.one_of(st.binary(max_size=125), st.sampled_from([b"x" * 126, b"y" * 70_000])),
            st.binary(min_size=4, max_size=4),
        ),
        max_size=6,
    ),
    cuts=st.lists(st.floats(0, 1), max_size=8),
)
def test_any_frames_cut_in_any_way(pair: Any, frames: list[tuple[int, bytes, bytes]], cuts: list[float]) -> None:
    """Invariant: whatever sequence of frames is sent, in whatever pieces, is what is read."""
    frames = [(first, payload[:125] if first & 8 else payload, key) for first, payload, key in frames]
    data = b"".join(wire(*frame) for frame in frames)
    stream, peer = pair()
    reading = Reader(stream)
    borders = [0, *sorted(int(cut * len(data)) for cut in cuts), len(data)]
    for begin, end in itertools.pairwise(borders):
        peer.sendall(data[begin:end])
        turns(2)
    peer.shutdown(socket.SHUT_WR)
    until(lambda: reading.error)
    assert reading.got == [(first, payload) for first, payload, _ in frames]
    assert isinstance(reading.error, EOFError)


@settings(fuzz, max_examples=200)
@given(data=st.binary(max_size=60), cut=st.integers(0, 60), rsv=st.sampled_from([0, RSV1]), text=st.booleans())
def test_any_bytes(pair: Any, data: bytes, cut: int, rsv: int, text: bool) -> None:
    """Invariant: arbitrary bytes yield frames, then a ProtocolError or the end; nothing else, and no hang."""
    stream, peer = pair(masked=bool(data) and data[-1] % 2 == 0)
    stream.rsv = rsv
    reading = Reader(stream, verb=lambda: stream.read_frame(1000, None, text))
    for piece in (data[:cut], data[cut:]):
        peer.sendall(piece)
        turns(2)
    peer.close()
    until(lambda: reading.error)
    assert isinstance(reading.error, ProtocolError | EOFError)
    assert sum(len(payload) + 2 for _, payload in reading.got) <= len(data)


@pytest.mark.parametrize("masked", [True, False], ids=["to a server", "to a client"])
@pytest.mark.parametrize("payload", ["", "Grüße", "x" * 70_000, b"\xff" * 100, b"y" * 70_000], ids=len)
def test_two_streams_understand_each_other(stream_class: Any, masked: bool, payload: str | bytes) -> None:
    ends = _socket.socketpair()
    one, other = stream_class(ends[0], masked=not masked), stream_class(ends[1], masked=masked)
    opcode = TEXT if isinstance(payload, str) else BINARY
    one.write_frame(FIN | opcode, payload)
    assert other.read_frame(MIB, None, True) == (FIN | opcode, payload)
    one.close()
    with pytest.raises(EOFError):
        other.read_frame(MIB)
    other.close()


# ------------------------------------------------------------------------------------------- 1. a read is resumable


@pytest.mark.parametrize("early", [False, True], ids=["after it was received", "in the turn in which it came"])
def test_an_interruption_after_every_byte_loses_nothing(joined: Any, reader: Any, early: bool) -> None:
    stream, peer = joined()
    reading = reader(stream)
    data = b"".join(itertools.starmap(wire, CONVERSATION))
    for i in range(len(data)):
        until(lambda: stream.reading)
        peer.sendall(data[i : i + 1])
        if not early:
            turns(2)
        reading.interrupt()
    until(lambda: len(reading.got) == len(CONVERSATION))
    assert reading.got == CONVERSATION
    assert reading.interrupted == len(data)


def test_an_interruption_in_a_large_frame_loses_nothing(joined: Any, reader: Any) -> None:
    stream, peer = joined()
    reading = reader(stream)
    for first, payload in LARGE:
        data = wire(first, payload)
        for piece in (data[:1], data[1:10], data[10:17], data[17:50_002], data[50_002:-1], data[-1:]):
            peer.sendall(piece)
            turns(2)
            reading.interrupt()
        until(lambda: reading.got)
        assert reading.got.pop() == (first, payload)


def test_an_interrupted_head_loses_nothing(joined: Any, reader: Any) -> None:
    stream, peer = joined()
    head = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
    reading = reader(stream, verb=functools.partial(stream.read_head, 100))
    for i in range(len(head)):
        peer.sendall(head[i : i + 1])
        turns(2)
        reading.interrupt()
    until(lambda: reading.got)
    assert reading.got == [head]


def test_a_timeout_ends_a_read_and_the_next_begins_where_it_was(pair: Any) -> None:
    stream, peer = pair()
    data = wire(*HELLO)
    peer.sendall(data[:5])
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.001):
        stream.read_frame(MIB)
    assert not stream.reading
    peer.sendall(data[5:])
    assert stream.read_frame(MIB) == HELLO


def test_text_that_was_judged_in_part_is_judged_on_after_an_interruption(pair: Any, reader: Any) -> None:
    stream, peer = pair()
    text = "日本語" * 3
    data = wire(FIN | TEXT, text.encode())
    reading = reader(stream, verb=functools.partial(stream.read_frame, MIB, None, True))
    for i in range(len(data)):
        peer.sendall(data[i : i + 1])
        turns(2)
        reading.interrupt()
    until(lambda: reading.got)
    assert reading.got == [(FIN | TEXT, text)]


# --------------------------------------------------------------------------------------------------- one reader


def test_two_readers_are_a_fault_told_at_once(pair: Any, reader: Any) -> None:
    stream, peer = pair()
    reading = reader(stream)
    until(lambda: stream.reading)
    for verb in (stream.read_frame, stream.read_head):
        with pytest.raises(RuntimeError, match=r"is being read by .* already"):
            verb(MIB)
    peer.sendall(wire(*HELLO)[:3])  # and the first one is none the worse for it
    turns()
    with pytest.raises(RuntimeError, match=r"is being read by .* already"):
        stream.read_frame(MIB)
    peer.sendall(wire(*HELLO)[3:])
    until(lambda: reading.got)
    assert reading.got == [HELLO]


def test_two_readers_of_a_large_frame(pair: Any, reader: Any) -> None:
    stream, peer = pair()
    reading = reader(stream)
    data = wire(*LARGE[1])
    for piece in (data[:30_000], data[30_000:30_001], data[30_001:]):
        peer.sendall(piece)
        turns(2)
        with pytest.raises(RuntimeError):
            stream.read_frame(MIB)
    until(lambda: reading.got)
    assert reading.got == [LARGE[1]]


def test_reading_tells_whether_somebody_waits(pair: Any, reader: Any) -> None:
    stream, _ = pair()
    assert not stream.reading
    reading = reader(stream)
    until(lambda: stream.reading)
    reading.stop()
    assert not stream.reading


def test_a_read_in_the_hub_is_refused(pair: Any) -> None:
    stream, peer = pair()
    raised: list[BaseException] = []

    def read() -> None:
        try:
            stream.read_frame(MIB)
        except BaseException as error:
            raised.append(error)

    get_hub().loop.run_callback(read)
    until(lambda: raised)
    assert isinstance(raised[0], BlockingSwitchOutError)
    peer.sendall(wire(*HELLO))
    assert stream.read_frame(MIB) == HELLO


@pytest.mark.parametrize("verb", ["read_frame", "read_head"])
def test_a_read_in_another_thread_is_refused(pair: Any, verb: str) -> None:
    stream, peer = pair()

    def read() -> BaseException | None:
        try:
            getattr(stream, verb)(MIB)
        except RuntimeError as error:
            return error
        finally:
            get_hub().destroy(destroy_loop=True)
        return None

    error = get_hub().threadpool.apply(read)
    assert str(error) == f"{stream!r} belongs to the thread that made it"
    peer.sendall(wire(*HELLO))
    assert stream.read_frame(MIB) == HELLO


# -------------------------------------------------------------------------------------- 3. memory, and its limit


@pytest.mark.parametrize("size", [0, 1, 125, 126, 5000, 65535, 65536, 70_000])
def test_a_frame_of_just_the_limit_passes_and_one_byte_more_does_not(pair: Any, size: int) -> None:
    stream, peer = pair()
    peer.sendall(wire(FIN | BINARY, bytes(size)))
    assert stream.read_frame(size) == (FIN | BINARY, bytes(size))
    peer.sendall(wire(FIN | BINARY, bytes(size + 1))[:14])  # its header is enough
    with pytest.raises(MessageTooBig) as refused:
        stream.read_frame(size)
    assert str(refused.value) == f"a message is longer than the {size} bytes that were left for it"
    assert refused.value.code == 1009


@pytest.mark.parametrize("limit", [0, 1000, 100_000])
def test_a_compressed_frame_may_be_longer_than_what_it_holds(pair: Any, limit: int) -> None:
    stream, peer = pair()
    stream.rsv = RSV1
    size = limit + slack(limit)
    peer.sendall(wire(FIN | RSV1 | BINARY, bytes(size)))
    assert stream.read_frame(limit) == (FIN | RSV1 | BINARY, bytes(size))
    peer.sendall(wire(FIN | RSV1 | BINARY, bytes(size + 1))[:14])
    with pytest.raises(MessageTooBig):
        stream.read_frame(limit)


def test_the_largest_limit_there_is(pair: Any) -> None:
    # The fuzzer of the twins: in C, what a compressed frame may have beyond it went round to a negative number.
    stream, peer = pair()
    stream.rsv = RSV1
    peer.sendall(wire(FIN | RSV1 | BINARY, b"x"))
    assert stream.read_frame(2**63 - 1) == (FIN | RSV1 | BINARY, b"x")


def test_the_limit_is_for_the_payload_in_a_batch_too(pair: Any) -> None:
    stream, peer = pair()
    peer.sendall(wire(FIN | TEXT, b"a" * 10) + wire(FIN | TEXT, b"b" * 11) + wire(*HELLO))
    assert stream.read_frame(10) == (FIN | TEXT, b"a" * 10)
    for _ in range(2):  # what comes behind it has no meaning any more
        with pytest.raises(MessageTooBig):
            stream.read_frame(10)


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
def test_control_frames_are_exempt_from_the_limit(pair: Any, opcode: int) -> None:
    # websockets closes with 1009 when a ping of 5 bytes comes within a message that is near its limit.
    stream, peer = pair()
    peer.sendall(wire(FIN | opcode, bytes(125)))
    assert stream.read_frame(0) == (FIN | opcode, bytes(125))


@pytest.mark.parametrize("length", [2**20 + 1, 2**40, 2**62, 2**63 - 1])
def test_a_header_may_claim_anything(pair: Any, reader: Any, length: int) -> None:
    stream, peer = pair()
    peer.sendall(encode_header(FIN | BINARY, length, KEY))
    with pytest.raises(MessageTooBig):
        stream.read_frame(MIB)


@pytest.mark.parametrize("length", [2**30, 2**40, 2**62, 2**63 - 1])
def test_a_header_that_claims_much_allocates_nothing(pair: Any, reader: Any, length: int) -> None:
    stream, peer = pair()
    reading = reader(stream, 2**63 - 1)
    until(lambda: stream.reading)
    peer.sendall(wire(*HELLO))
    until(lambda: reading.got)
    tracemalloc.start()
    try:
        peer.sendall(encode_header(FIN | BINARY, length, KEY))
        turns()
        peer.sendall(b"x" * 10_000)
        turns()
        assert tracemalloc.get_traced_memory()[1] < 300 * KIB
    finally:
        tracemalloc.stop()
    assert reading.error is None


@pytest.mark.parametrize("idle", ["a batch", "a large frame", "pieces"])
def test_an_idle_stream_holds_no_buffer(pair: Any, idle: str) -> None:
    batch, large = wire(FIN | BINARY, b"x" * 5000) * 20, wire(FIN | BINARY, b"x" * 100_000)
    talk = {
        "a batch": [batch],
        "a large frame": [large],
        "pieces": [large[i : i + 10_000] for i in range(0, len(large), 10_000)],
    }
    both = [pair() for _ in range(20)]
    dropped: list[int] = []
    readers = [gevent.spawn(drop, stream, dropped) for stream, _ in both]

    def held_after(pieces: list[bytes], frames: int) -> int:
        dropped.clear()
        for piece in pieces:
            for _, peer in both:
                peer.sendall(piece)
            turns()
        until(lambda: len(dropped) == frames * len(both) and all(stream.reading for stream, _ in both))
        dropped.clear()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = held_after([wire(*HELLO)], 1)
        assert held_after(talk[idle], 20 if idle == "a batch" else 1) - before < 200 * len(both)
    finally:
        tracemalloc.stop()
        gevent.killall(readers)


def drop(stream: Any, dropped: list[int]) -> None:
    while True:
        dropped.append(len(stream.read_frame(MIB)[1]))


def test_a_closed_stream_holds_no_buffer(pair: Any) -> None:
    stream, peer = pair()
    peer.sendall(wire(FIN | BINARY, b"x" * 5000) * 20)
    tracemalloc.start()
    try:
        stream.read_frame(MIB)
        stream.close()
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < 10_000
    finally:
        tracemalloc.stop()


HALF = {
    "a header": wire(*HELLO)[:3],
    "frames behind the first": wire(*HELLO) * 500,
    "half a payload": wire(FIN | BINARY, bytes(50_000))[:40_000],
    "half a text": wire(FIN | TEXT, b"x" * 50_000)[:40_000],
    "half a text, no longer ASCII": wire(FIN | TEXT, "é".encode() * 25_000)[:40_000],
    "what is no text": wire(FIN | TEXT, b"x" * 30_000 + b"\xff" * 20_000)[:40_000],
}


@pytest.mark.parametrize("data", HALF.values(), ids=HALF)
def test_whatever_it_is_in_the_middle_of_it_leaves_no_memory_behind(stream_class: Any, data: bytes) -> None:
    def lives() -> None:
        ours, theirs = _socket.socketpair()
        stream = stream_class(ours, masked=True)
        theirs.sendall(data[:-1])
        with contextlib.suppress(gevent.Timeout, InvalidPayload), gevent.Timeout(0.001):
            stream.read_frame(MIB, None, True)
            theirs.sendall(data[-1:])
            while True:
                stream.read_frame(MIB, lambda first, piece: None, True)
        stream.post(b"small")
        stream.post(b"x" * 500_000)
        turns(1)
        stream.close()
        theirs.close()

    lives()
    tracemalloc.start()
    try:
        lives()
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(10):
            lives()
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < 5000
    finally:
        tracemalloc.stop()


# ---------------------------------------------------------------------------------------------- told piece by piece


def test_partial_is_shown_every_piece_but_the_last(pair: Any, reader: Any) -> None:
    stream, peer = pair()
    seen: list[tuple[int, bytes]] = []
    payload = bytes(range(200))
    data = wire(FIN | BINARY, payload)
    reading = reader(stream, partial=lambda first, piece: seen.append((first, piece)))
    for i in range(len(data) - 1):
        peer.sendall(data[i : i + 1])
        turns(2)
        assert b"".join(piece for _, piece in seen) == payload[: max(0, i + 1 - 8)]
    assert {first for first, _ in seen} == {FIN | BINARY}
    peer.sendall(data[-1:])
    until(lambda: reading.got)
    assert reading.got == [(FIN | BINARY, payload)]
    assert all(piece for _, piece in seen)


def test_partial_is_not_called_for_what_comes_in_one_piece(pair: Any) -> None:
    stream, peer = pair()
    seen: list[Any] = []
    peer.sendall(wire(*HELLO) + wire(FIN | TEXT, b""))
    for _ in range(2):
        stream.read_frame(MIB, lambda *args: seen.append(args))
    assert seen == []


def test_partial_in_the_middle_of_a_batch(pair: Any, reader: Any) -> None:
    stream, peer = pair()
    seen: list[Any] = []
    reading = reader(stream, partial=lambda *args: seen.append(args))
    data = wire(*HELLO)
    peer.sendall(data + data[:-2])
    until(lambda: seen)
    assert seen == [(FIN | TEXT, b"Hel")]
    peer.sendall(data[-2:] + data)
    until(lambda: len(reading.got) == 3)
    assert reading.got == [HELLO] * 3


def test_partial_of_a_large_frame(joined: Any, reader: Any) -> None:
    stream, peer = joined()
    seen: list[bytes] = []
    reading = reader(stream, partial=lambda first, piece: seen.append(piece))
    first, payload = LARGE[3]
    data = wire(first, payload)
    peer.sendall(data[:-1])
    until(lambda: sum(map(len, seen)) == len(payload) - 1)
    assert b"".join(seen) == payload[:-1]
    peer.sendall(data[-1:])
    until(lambda: reading.got)
    assert reading.got == [(first, payload)]


@pytest.mark.parametrize("behind", [b"", wire(*HELLO)], ids=["alone", "in a batch"])
def test_what_partial_raises_ends_the_read(pair: Any, behind: bytes) -> None:
    stream, peer = pair()

    def refuse(first: int, piece: bytes) -> None:
        raise InvalidPayload("no")

    peer.sendall(behind + wire(FIN | TEXT, b"\xff" * 10)[:-1])
    if behind:
        assert stream.read_frame(MIB) == HELLO
    with pytest.raises(InvalidPayload):
        stream.read_frame(MIB, refuse)


@pytest.mark.parametrize("behind", [b"", wire(*HELLO)], ids=["alone", "in a batch"])
def test_what_partial_raises_loses_nothing(pair: Any, behind: bytes) -> None:
    stream, peer = pair()
    data = wire(FIN | BINARY, bytes(range(100)))
    peer.sendall(behind + data[:50])
    if behind:
        assert stream.read_frame(MIB) == HELLO
    with pytest.raises(ZeroDivisionError):
        stream.read_frame(MIB, lambda first, piece: 1 / 0)  # type: ignore[arg-type, return-value]
    peer.sendall(data[50:])
    assert stream.read_frame(MIB) == (FIN | BINARY, bytes(range(100)))


TEXTS = ["", "Hello", "Grüße", "日本語 \U0001f44b", "x" * 70_000, "é" * 40_000, "x" * 70_000 + "é" * 20_000]


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: f"{len(text.encode())} bytes")
@pytest.mark.parametrize("masked", [True, False], ids=["server", "client"])
def test_text_comes_as_str_if_wanted(pair: Any, reader: Any, text: str, masked: bool) -> None:
    stream, peer = pair(masked=masked)
    reading = reader(stream, verb=functools.partial(stream.read_frame, MIB, None, True))
    data = wire(FIN | TEXT, text.encode(), KEY if masked else None)
    for cut in {0, 3, 7, 8, 9, 10, len(data) // 2, len(data) - 1}:
        peer.sendall(data[:cut])
        turns(2)
        peer.sendall(data[cut:])
        until(lambda: reading.got)
        assert reading.got.pop() == (FIN | TEXT, text)


@pytest.mark.parametrize("first", [TEXT, FIN | BINARY, FIN | CONTINUATION, FIN | PING, FIN | RSV1 | TEXT])
def test_nothing_else_comes_as_str(pair: Any, first: int) -> None:
    stream, peer = pair()
    stream.rsv = RSV1
    payload = b"\xff" * 10
    for data in (wire(first, payload), wire(first, payload)[:9]):
        peer.sendall(data)
    reading = Reader(stream, verb=functools.partial(stream.read_frame, MIB, None, True))
    turns()
    peer.sendall(wire(first, payload)[9:])
    until(lambda: len(reading.got) == 2)
    assert reading.got == [(first, payload)] * 2
    reading.stop()


BROKEN = [b"ok\xff", b"\xc3\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80", b"x" * 70_000 + b"\x80"]


@pytest.mark.parametrize("text", BROKEN, ids=lambda text: text[-4:].hex())
@pytest.mark.parametrize("rest", [b"", b" and so on"], ids=["whole", "in part"])
def test_text_that_is_none_is_refused_as_soon_as_it_shows(pair: Any, text: bytes, rest: bytes) -> None:
    stream, peer = pair()
    data = wire(FIN | TEXT, text + rest)
    peer.sendall(data[: len(data) - len(rest)])
    for _ in range(2):
        with pytest.raises(InvalidPayload, match="a text message is not UTF-8") as refused:
            stream.read_frame(MIB, None, True)
        assert refused.value.code == 1007


@pytest.mark.parametrize("text", [b"ok\xe2", b"ok\xe2\x82", b"\xf0\x9f\x91"])
@pytest.mark.parametrize("cut", [0, 1, 7])
def test_text_that_ends_within_a_character(pair: Any, reader: Any, text: bytes, cut: int) -> None:
    stream, peer = pair()
    reading = reader(stream, verb=functools.partial(stream.read_frame, MIB, None, True))
    data = wire(FIN | TEXT, text)
    peer.sendall(data[:cut])
    turns(2)
    peer.sendall(data[cut:])
    until(lambda: reading.error)
    assert isinstance(reading.error, InvalidPayload)


# ------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("83", "opcode 3 is reserved"),
        ("c1", "a reserved bit is set"),
        ("a1", "a reserved bit is set"),
        ("09", "a control frame is fragmented"),
        ("8100", "a frame is not masked"),
        ("89fe", "a control frame is longer than 125 bytes"),
        ("82fe007d", "a length is not in its shortest form"),
        ("82ff000000000000ffff", "a length is not in its shortest form"),
        ("82ff8000000000000000", "a length has its most significant bit set"),
        ("82ffffffffffffffffff", "a length has its most significant bit set"),
    ],
)
@pytest.mark.parametrize("before", [b"", wire(*HELLO)], ids=["first", "in a batch"])
def test_a_header_that_breaks_a_rule(pair: Any, data: str, told: str, before: bytes) -> None:
    stream, peer = pair()
    peer.sendall(before + bytes.fromhex(data))
    if before:
        assert stream.read_frame(MIB) == HELLO
    for _ in range(2):
        with pytest.raises(ProtocolError, match=told) as refused:
            stream.read_frame(MIB)
        assert refused.value.code == 1002


def test_a_client_refuses_a_mask(pair: Any) -> None:
    stream, peer = pair(masked=False)
    peer.sendall(wire(*HELLO))
    with pytest.raises(ProtocolError, match="a frame is masked"):
        stream.read_frame(MIB)


def test_rsv_gives_reserved_bits_a_meaning(pair: Any) -> None:
    stream, peer = pair()
    assert stream.rsv == 0
    stream.rsv = RSV1
    for first in (FIN | RSV1 | TEXT, RSV1 | BINARY, FIN | TEXT):
        peer.sendall(wire(first, b"x"))
        assert stream.read_frame(MIB) == (first, b"x")
    peer.sendall(wire(FIN | RSV1 | PING, b""))
    with pytest.raises(ProtocolError, match="reserved bit"):
        stream.read_frame(MIB)


# ------------------------------------------------------------------------------------------------------------ heads

HEAD = b"GET /chat HTTP/1.1\r\nHost: example.org\r\n\r\n"


def test_a_head_and_the_frames_glued_to_it(joined: Any) -> None:
    # skynet #1836, and three Python libraries: the first frame behind the handshake is lost.
    stream, peer = joined()
    peer.sendall(HEAD + wire(*HELLO) * 2)
    assert stream.read_head(8192) == HEAD
    assert [stream.read_frame(MIB) for _ in range(2)] == [HELLO, HELLO]


def test_a_head_in_every_cut_in_two(pair: Any, reader: Any) -> None:
    stream, peer = pair()
    reading = reader(stream, verb=functools.partial(stream.read_head, len(HEAD)))
    for cut in range(len(HEAD) + 1):
        peer.sendall(HEAD[:cut])
        turns(2)
        peer.sendall(HEAD[cut:])
        until(lambda: reading.got)
        assert reading.got.pop() == HEAD


@pytest.mark.parametrize("cut", range(1, len(HEAD)))
def test_a_head_behind_a_head(pair: Any, cut: int) -> None:
    stream, peer = pair()
    peer.sendall(HEAD + HEAD[:cut])
    assert stream.read_head(8192) == HEAD
    reading = Reader(stream, verb=functools.partial(stream.read_head, 8192))
    turns(2)
    peer.sendall(HEAD[cut:])
    until(lambda: reading.got)
    reading.stop()
    assert reading.got == [HEAD]


def test_a_head_of_just_the_limit(pair: Any) -> None:
    stream, peer = pair()
    peer.sendall(HEAD + b"x" * 100)
    assert stream.read_head(len(HEAD)) == HEAD


@pytest.mark.parametrize("data", [HEAD, b"x" * len(HEAD), b"\r\n" + b"x" * len(HEAD)], ids=["whole", "endless", "odd"])
def test_a_head_beyond_the_limit(pair: Any, data: bytes) -> None:
    stream, peer = pair()
    peer.sendall(data)
    with pytest.raises(HandshakeError) as refused:
        stream.read_head(len(HEAD) - 1)
    assert refused.value.status == 431


def test_a_head_that_trickles_in_costs_no_more_than_its_bytes(pair: Any, reader: Any) -> None:
    # A search from the start at each byte would be quadratic; here it is merely made to be right at every border.
    stream, peer = pair()
    head = b"GET / HTTP/1.1\r\nX: " + b"\r\r\n\n\r\n\n\r" * 20 + b"\r\n\r\n"
    reading = reader(stream, verb=functools.partial(stream.read_head, 8192))
    for i in range(len(head)):
        assert reading.got == []
        peer.sendall(head[i : i + 1])
        turns(2)
    assert reading.got == [head[: head.index(b"\r\n\r\n") + 4]]


@pytest.mark.parametrize("verb", ["read_head", "read_frame"])
def test_the_peer_may_end_before_it_has_begun(joined: Any, verb: str) -> None:
    stream, peer = joined()
    peer.close()
    for _ in range(2):
        with pytest.raises(EOFError):
            getattr(stream, verb)(MIB)


# ------------------------------------------------------------------------------------- so many bytes, as they are


def test_a_body_behind_its_head_and_frames_behind_that(joined: Any) -> None:
    stream, peer = joined()
    peer.sendall(HEAD + b"a body" + wire(*HELLO))
    assert stream.read_head(8192) == HEAD
    assert stream.read(0) == b""
    assert stream.read(2) == b"a "
    assert stream.read(4) == b"body"
    assert stream.read_frame(MIB) == HELLO


@pytest.mark.parametrize("size", [1, 10, 1000, 300_000])
def test_a_body_in_pieces_and_with_interruptions(pair: Any, reader: Any, size: int) -> None:
    stream, peer = pair()
    body = os.urandom(size)
    reading = reader(stream, verb=functools.partial(stream.read, size))
    for i in range(0, size, max(1, size // 10)):
        turns(1)
        peer.sendall(body[i : i + max(1, size // 10)])
        turns(2)
        reading.interrupt()
    until(lambda: reading.got)
    assert reading.got == [body]


def test_a_body_that_ends_early(pair: Any) -> None:
    stream, peer = pair()
    peer.sendall(b"abc")
    peer.close()
    with pytest.raises(EOFError):
        stream.read(4)
    assert stream.read(3) == b"abc"


# ------------------------------------------------------------------------------------------------ 4. the end


@pytest.mark.parametrize("cut", range(11))
def test_an_end_in_the_middle_of_a_frame(pair: Any, cut: int) -> None:
    stream, peer = pair()
    peer.sendall(wire(*HELLO) + wire(*HELLO)[:cut])
    peer.close()
    assert stream.read_frame(MIB) == HELLO
    for _ in range(2):
        with pytest.raises(EOFError):
            stream.read_frame(MIB)


def test_a_reset_is_an_os_error(tcp_pair: Any, reader: Any) -> None:
    stream, peer = tcp_pair()
    reading = reader(stream)
    until(lambda: stream.reading)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    until(lambda: reading.error)
    assert isinstance(reading.error, ConnectionResetError)
    with pytest.raises((EOFError, OSError)):
        stream.read_frame(MIB)


RESET = """
import _socket, struct
import gevent
from gws.frame import encode
from gws.stream import {name} as Stream

listener, peer = _socket.socket(), _socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen()
peer.connect(listener.getsockname())
stream = Stream(_socket.socket(fileno=listener._accept()[0]), masked=False)
frame = encode(bytes(10_000))
peer.setblocking(False)
sent = 0
try:
    while True:
        sent += peer.send(frame)
except BlockingIOError:
    assert sent > 300_000
peer.setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, struct.pack("ii", 1, 0))
peer.close()
with gevent.Timeout(30):
    try:
        while True:
            assert stream.read_frame(10_000) == (0x81, bytes(10_000))
    except ConnectionResetError:
        stream.close()
"""


@pytest.mark.parametrize("loop", ["libev-cext", "libev-cffi", "libuv-cffi"])
def test_a_reset_behind_frames(stream_class: Any, loop: str) -> None:
    # libuv lets go of a socket that has failed, though there are bytes to be read yet.
    program = RESET.format(name=name_of(stream_class))
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, "GEVENT_LOOP": loop}, timeout=30)


def test_closing_wakes_the_reader(joined: Any, reader: Any) -> None:
    stream, _ = joined()
    reading = reader(stream)
    until(lambda: stream.reading)
    stream.close()
    until(lambda: reading.error)
    assert isinstance(reading.error, EOFError)
    assert not stream.reading


def test_closing_wakes_the_reader_of_a_large_frame(pair: Any, reader: Any) -> None:
    stream, peer = pair()
    reading = reader(stream)
    peer.sendall(wire(*LARGE[0])[:50_000])
    turns()
    stream.close()
    until(lambda: reading.error)
    assert isinstance(reading.error, EOFError)


def test_closing_and_data_in_one_turn(pair: Any, reader: Any) -> None:
    stream, peer = pair()
    reading = reader(stream)
    until(lambda: stream.reading)
    peer.sendall(wire(*HELLO))
    stream.close()
    until(lambda: reading.error)
    assert isinstance(reading.error, EOFError)


def test_closing_and_an_interruption_in_one_turn(pair: Any, reader: Any) -> None:
    stream, _ = pair()
    reading = reader(stream)
    until(lambda: stream.reading)
    stream.close()
    reading.interrupt()
    until(lambda: reading.error)


def test_an_interruption_and_closing_in_one_turn(pair: Any) -> None:
    stream, _ = pair()
    reading = gevent.spawn(drop, stream, [])
    until(lambda: stream.reading)
    gevent.kill(reading)
    stream.close()
    until(lambda: reading.dead)


def test_after_closing(joined: Any) -> None:
    stream, peer = joined()
    peer.sendall(wire(*HELLO) * 2)
    assert stream.read_frame(MIB) == HELLO
    stream.close()
    stream.close()
    for verb in (stream.read_frame, stream.read_head):
        with pytest.raises(EOFError):
            verb(MIB)
    stream.linger()
    stream.shutdown()
    assert not stream.unread
    assert not stream.reading
    assert repr(stream) == "<Stream closed>"
    with contextlib.suppress(ConnectionResetError, ssl.SSLEOFError):  # there was a frame unread; we said no goodbye
        assert peer.recv(100) == b""


def test_the_descriptor_is_closed_with_the_stream(stream_class: Any) -> None:
    ours, theirs = _socket.socketpair()
    stream = stream_class(ours, masked=True)
    descriptor = ours.fileno()
    assert repr(stream) == f"<Stream fd={descriptor} pending=0>"
    stream.close()
    with pytest.raises(OSError):
        os.fstat(descriptor)
    theirs.close()


def test_a_partial_that_closes(pair: Any) -> None:
    stream, peer = pair()
    peer.sendall(wire(*HELLO)[:-1])
    with pytest.raises(EOFError):
        stream.read_frame(MIB, lambda first, piece: stream.close())


def test_shutdown_ends_what_we_say_and_not_what_we_hear(joined: Any) -> None:
    stream, peer = joined()
    stream.post(b"last words")
    stream.shutdown()
    assert peer.recv(100) == b"last words"
    assert peer.recv(100) == b""
    peer.sendall(wire(*HELLO))
    assert stream.read_frame(MIB) == HELLO
    stream.shutdown()


def test_shutdown_of_a_connection_that_is_gone(joined: Any) -> None:
    stream, peer = joined()
    peer.close()
    stream.shutdown()


def test_linger_waits_for_the_peer_s_end(joined: Any, greenlets: Any) -> None:
    stream, peer = joined()
    peer.sendall(wire(*HELLO) * 2 + wire(*HELLO)[:3])
    stream.read_frame(MIB)
    lingering = greenlets(stream.linger)
    for _ in range(3):
        peer.sendall(b"whatever" * 10_000)
        turns()
        assert not lingering.dead
    until(lambda: not stream.unread)
    peer.close()
    until(lambda: lingering.dead)


def test_linger_lets_the_peer_read_our_last_words(tcp_pair: Any, greenlets: Any) -> None:
    # Closing a socket with bytes unread resets it, and takes our last words from the peer.
    stream, peer = tcp_pair()
    peer.sendall(b"x" * 1000)
    stream.write(b"goodbye")
    stream.shutdown()
    lingering = greenlets(stream.linger)
    peer.sendall(b"x" * 1000)
    turns()
    assert peer.recv(100) == b"goodbye"
    assert peer.recv(100) == b""
    peer.close()
    until(lambda: lingering.dead)


def test_linger_in_the_middle_of_a_large_frame(pair: Any, greenlets: Any, reader: Any) -> None:
    stream, peer = pair()
    reading = reader(stream)
    peer.sendall(wire(*LARGE[1])[:40_000])
    turns()
    reading.stop()
    lingering = greenlets(stream.linger)
    peer.sendall(wire(*LARGE[1])[40_000:] + wire(*LARGE[1])[:1000])
    turns()
    assert not stream.unread
    peer.close()
    until(lambda: lingering.dead)


def test_linger_meets_a_reset(tcp_pair: Any, greenlets: Any) -> None:
    stream, peer = tcp_pair()
    lingering = greenlets(stream.linger)
    until(lambda: stream.reading)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    until(lambda: lingering.dead)


FORKED = """
import os, socket, sys
import gevent
from gws.stream import {name} as Stream
from gws.frame import encode

def pair():
    ours, theirs = socket.socketpair()
    return Stream(ours, masked=False), theirs

def serves(stream, theirs):
    theirs.send(encode(b"Hello"))
    with gevent.Timeout(30):
        return stream.read_frame(1000) == (0x81, b"Hello")

stream, theirs = pair()
idle, other = pair()
reading = gevent.spawn(stream.read_frame, 1000)
assert serves(idle, other)
child = os.fork()
if not child:
    gevent.reinit()
    if "{child}" == "closes":
        idle.close()
        stream.close()
    os._exit(not serves(*pair()))
_, status = os.waitpid(child, 0)
theirs.send(encode(b"still here"))
got = reading.get(timeout=30)
sys.exit(status or got != (0x81, b"still here") or not serves(idle, other))
"""


@pytest.mark.parametrize("child", ["closes", "keeps"])
def test_a_child_process_takes_nothing_from_its_parent(stream_class: Any, child: str) -> None:
    program = FORKED.format(name=name_of(stream_class), child=child)
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)


# ----------------------------------------------------------------------------- unread, back-pressure, 5. fairness


def test_unread_tells_of_bytes_that_nobody_has_read(pair: Any) -> None:
    stream, peer = pair()
    assert stream.unread is False
    peer.sendall(wire(*HELLO) * 2)
    assert stream.unread is True
    stream.read_frame(MIB)
    assert stream.unread is False  # the second one is with us


def test_buffered_tells_of_bytes_that_are_with_us(joined: Any) -> None:
    stream, peer = joined()
    peer.sendall(wire(*HELLO) * 2)
    assert stream.buffered is False
    stream.read_frame(MIB)
    assert stream.buffered is True
    stream.read_frame(MIB)
    assert stream.buffered is False
    stream.close()
    assert stream.buffered is False


def test_the_descriptor_is_told_until_the_end(joined: Any) -> None:
    stream, _ = joined()
    assert os.fstat(stream.fileno())
    stream.close()
    assert stream.fileno() == -1


def test_who_does_not_read_holds_the_peer_back(pair: Any) -> None:
    stream, peer = pair()
    peer.sendall(wire(*HELLO))
    stream.read_frame(MIB)
    before = stream.received
    peer.sendall(wire(*HELLO))
    turns(5)
    assert stream.unread
    assert stream.received == before
    assert stream.read_frame(MIB) == HELLO


def test_a_loop_with_an_unread_stream_comes_to_rest(pair: Any) -> None:
    stream, peer = pair()
    peer.sendall(wire(*HELLO))
    stream.read_frame(MIB)
    peer.sendall(wire(*HELLO))
    turns()
    polls = []
    check = get_hub().loop.check()
    check.start(lambda: polls.append(1))
    try:
        gevent.sleep(0.005)
    finally:
        check.stop()
        check.close()
    assert len(polls) < 20  # a watcher that is left running would make it spin


def flood(sock: Any, data: bytes) -> int:
    """Send `data` again and again until the kernel takes no more; return how often that was."""
    rest, count = b"", 0
    sock.setblocking(False)
    try:
        while True:
            if not rest:
                rest, count = data, count + 1
            rest = rest[sock.send(rest) :]
    except BlockingIOError:
        sock.settimeout(30)
    return count - bool(rest)


def test_two_floods_share_the_turns(tcp_pair: Any, greenlets: Any) -> None:
    log: list[str] = []
    frame = wire(FIN | BINARY, bytes(1000))

    def read(name: str, stream: Any, count: int) -> None:
        for _ in range(count):
            stream.read_frame(MIB)
            log.append(name)

    both = {name: tcp_pair() for name in "ab"}
    counts = {name: flood(peer, frame) for name, (_, peer) in both.items()}
    assert min(counts.values()) * len(frame) > 3 * SCRATCH
    for name, (stream, _) in both.items():
        greenlets(read, name, stream, counts[name])
    until(lambda: len(log) == sum(counts.values()))
    runs = [(name, len(list(run))) for name, run in itertools.groupby(log)]
    contested = list(itertools.takewhile(lambda run: run[1], runs))[:-1]  # the last one has the loop for itself
    # On a slow machine a batch may rest, and its end come together with the next one.
    assert max(length for _, length in contested) <= 2 * (SCRATCH // len(frame) + 1)
    assert len(runs) >= 6


def test_a_flood_leaves_the_hub_to_the_others(tcp_pair: Any, greenlets: Any) -> None:
    frame = wire(FIN | BINARY, bytes(1000))
    stream, peer = tcp_pair()
    count = flood(peer, frame)
    seen: list[int] = []  # how many frames there were whenever the others had a turn
    read = 0

    def reader() -> None:
        nonlocal read
        while read < count:
            stream.read_frame(MIB)
            read += 1

    def others() -> None:
        while read < count:
            seen.append(read)
            gevent.sleep(0)

    greenlets(others)
    greenlets(reader)
    until(lambda: read == count)
    steps = [after - before for before, after in itertools.pairwise([*seen, read])]
    assert max(steps) <= 2 * (SCRATCH // len(frame) + 1)


@pytest.fixture
def toiling(pair: Any, greenlets: Any) -> Any:
    """A stream with 100 frames in one batch, each of which costs a millisecond; and what was done, in order."""
    stream, peer = pair()
    log: list[Any] = []

    def read() -> None:
        try:
            for number in range(100):
                with gevent.Timeout(30):
                    stream.read_frame(MIB)
                log.append(number)
                end = time.thread_time() + 0.001
                while time.thread_time() < end:
                    pass
        except (EOFError, gevent.Timeout) as error:
            log.append(type(error))

    toiler = greenlets(read)
    turns(1)
    peer.sendall(wire(FIN | BINARY, b"x") * 100)
    until(lambda: log)  # it rests for the first time
    return SimpleNamespace(stream=stream, log=log, greenlet=toiler)


def test_a_batch_that_takes_long_leaves_the_others_their_turn(toiling: Any, pair: Any, reader: Any) -> None:
    quiet, peer = pair()
    reading = reader(quiet)
    poll()
    peer.sendall(wire(*HELLO))
    until(lambda: reading.got)
    assert len(toiling.log) < 60
    until(lambda: len(toiling.log) == 100)
    assert toiling.log == list(range(100))


def test_who_rests_is_still_the_reader(toiling: Any) -> None:
    assert toiling.stream.reading
    with pytest.raises(RuntimeError):
        toiling.stream.read_frame(MIB)
    until(lambda: len(toiling.log) == 100)


def test_closing_ends_a_rest(toiling: Any) -> None:
    toiling.stream.close()
    until(lambda: toiling.log[-1] is EOFError)


def test_an_interrupted_rest_loses_nothing(toiling: Any) -> None:
    toiling.greenlet.kill(gevent.Timeout())
    assert toiling.log.pop() is gevent.Timeout
    done = len(toiling.log)
    for _ in range(100 - done):
        assert toiling.stream.read_frame(MIB) == (FIN | BINARY, b"x")


# ---------------------------------------------------------------------------------------------------------- 7. TLS


def test_tls_records_cut_at_every_byte(tls_pair: Any, reader: Any) -> None:
    stream, peer = tls_pair()
    reading = reader(stream)
    for first, payload in CONVERSATION[:4]:
        sealed = peer.seal(wire(first, payload))
        for i in range(len(sealed)):
            peer.sock.sendall(sealed[i : i + 1])
            turns(2)
            reading.interrupt()
    until(lambda: len(reading.got) == 4)
    assert reading.got == CONVERSATION[:4]


@pytest.fixture
def decrypted(stream_class: Any, tls_contexts: Any) -> Iterator[Callable[[bytes], Any]]:
    """Return a function that makes (stream, peer) where bytes are decrypted before the stream has asked for any."""
    made = []
    server, client = tls_contexts

    def make(data: bytes) -> Any:
        ours, theirs = _socket.socketpair()
        peer = TlsPeer(gevent.socket.socket(fileno=theirs.detach()), client)
        ours.setblocking(False)
        sock = server.wrap_socket(ours, server_side=True, do_handshake_on_connect=False)
        peer.shake_hands(sock)
        peer.sendall(b"x" + data)
        assert sock.recv(1) == b"x"
        assert sock.pending() == len(data)
        made.append((stream_class(sock, masked=True), peer))
        return made[-1]

    yield make
    for stream, peer in made:
        stream.close()
        peer.close()


def test_tls_bytes_that_are_decrypted_already(decrypted: Any) -> None:
    # The kernel knows nothing of them: no watcher would ever fire.
    stream, peer = decrypted(HEAD + wire(*HELLO))
    assert stream.read_head(1000) == HEAD
    assert stream.read_frame(MIB) == HELLO
    peer.close()
    with pytest.raises(EOFError):
        stream.read_frame(MIB)


def test_tls_an_interruption_before_decrypted_bytes_are_taken(decrypted: Any, reader: Any) -> None:
    stream, _ = decrypted(wire(*HELLO))
    reading = reader(stream)
    gevent.sleep(0)
    reading.interrupt()
    until(lambda: reading.got)
    assert reading.got == [HELLO]


def test_tls_a_peer_that_vanishes_without_a_word(tls_pair: Any, reader: Any) -> None:
    stream, peer = tls_pair()
    reading = reader(stream)
    peer.sendall(wire(*HELLO))
    peer.sock.sendall(peer.seal(wire(*HELLO))[:-1])
    peer.sock.close()
    until(lambda: reading.error)
    assert reading.got == [HELLO]
    assert isinstance(reading.error, EOFError | OSError)


def test_tls_garbage_is_an_os_error(tls_pair: Any, reader: Any) -> None:
    stream, peer = tls_pair()
    reading = reader(stream)
    peer.sock.sendall(b"GET / HTTP/1.1\r\n\r\n" * 3)
    until(lambda: reading.error)
    assert isinstance(reading.error, OSError)


def test_tls_a_conversation_both_ways(tls_pair: Any, greenlets: Any) -> None:
    stream, peer = tls_pair()

    def echo() -> None:
        for _ in range(20):
            stream.write_frame(*stream.read_frame(MIB))

    greenlets(echo)
    for i in range(20):
        payload = os.urandom(i * 5000)
        peer.sendall(wire(FIN | BINARY, payload))
        expected, got = encode(payload, BINARY), b""
        while len(got) < len(expected):
            got += peer.recv(MIB)
        assert got == expected


# ------------------------------------------------------------------------------------------- which one is in use


def load(monkeypatch: pytest.MonkeyPatch, pure: str, compiled: Any) -> Any:
    monkeypatch.setenv("GWS_PURE", pure)
    monkeypatch.setitem(sys.modules, "gws._stream", compiled)
    spec = importlib.util.spec_from_file_location("gws.stream_again", room.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_compiled_stream_serves_where_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = SimpleNamespace(Stream=object())
    module = load(monkeypatch, "", compiled)
    assert module.Stream is compiled.Stream
    assert module.Plain is not compiled.Stream


@pytest.mark.parametrize(("pure", "compiled"), [("1", SimpleNamespace(Stream=object())), ("", None), ("1", None)])
def test_the_plain_one_serves_elsewhere(monkeypatch: pytest.MonkeyPatch, pure: str, compiled: Any) -> None:
    module = load(monkeypatch, pure, compiled)
    assert module.Stream is module.Plain


def test_both_show_the_same_face() -> None:
    public = {name for name in dir(room.Plain) if not name.startswith("_")}
    assert public == {name for name in dir(room.Stream) if not name.startswith("_")}
    reads = {"preload", "read_head", "read", "read_frame", "pause"}
    writes = {"write", "write_frame", "post", "flush", "drain"}
    ends, tells = (
        {"shutdown", "linger", "close"},
        {"pending", "received", "sent", "reading", "unread", "trusted", "warn", "rsv", "bound"},
    )
    counts = {"messages_received", "messages_sent", "unanswered", "buffered", "fileno"}
    assert public == reads | writes | ends | tells | counts


def test_what_somebody_else_has_received_comes_first(pair: Any) -> None:
    stream, peer = pair()
    frame = b"\x82\x81\0\0\0\0a"
    stream.preload(b"")
    stream.preload(frame + frame[:3])
    peer.sendall(frame[3:] + frame)
    assert [stream.read_frame(100) for _ in range(3)] == [(0x82, b"a")] * 3
    assert stream.received == 3 * len(frame)
