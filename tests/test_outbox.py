"""gws.outbox: the writing half of a stream, of every stream that there is.

Nothing is lost or torn, nobody waits who need not, and what leaves together leaves in one send: on a socket that keeps
packets apart (SOCK_SEQPACKET), a packet is a send.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tracemalloc
from typing import Any

import gevent
import pytest
from conftest import turns, until
from gevent import get_hub

from gws.frame import BINARY, FIN, PING, TEXT, decode_header, encode, mask
from gws.stream import Plain

pytestmark = pytest.mark.usefixtures("deadline")

KIB, MIB = 1024, 1024 * 1024
HELLO = FIN | TEXT, b"Hello"


def here(peer: Any) -> bytes | None:
    """Return what has reached the peer, without waiting: None for nothing."""
    peer.setblocking(False)
    try:
        return peer.recv(MIB)
    except BlockingIOError:
        return None
    finally:
        peer.settimeout(30)


def packets(peer: Any) -> list[bytes]:
    """Return the sends that have reached the peer, without waiting."""
    return list(iter(lambda: here(peer), None))


def take(peer: Any, size: int, piece: int = MIB) -> bytes:
    """Receive `size` bytes, at most `piece` at a time.   Blocks."""
    data = bytearray()
    while len(data) < size:
        some = peer.recv(min(piece, size - len(data)))
        assert some, f"the stream ended after {len(data)} bytes"
        data += some
    return bytes(data)


def frames(data: bytes, *, masked: bool = False) -> list[tuple[int, bytes]]:
    """Decode frames that lie one behind the other, all whole."""
    found, at = [], 0
    while at < len(data):
        header = decode_header(data, masked=masked, start=at)
        assert header is not None
        at += header.size
        payload = data[at : at + header.length]
        assert len(payload) == header.length
        at += header.length
        found.append((header.first, mask(payload, header.mask) if header.mask else payload))
    return found


def fill(stream: Any) -> int:
    """Post until the kernel takes no more; return how many bytes that was."""
    sent = 0
    while not stream.pending:
        stream.post(b"." * 64 * KIB)
        stream.flush()
        sent += 64 * KIB
    return sent


class Interrupt(BaseException):
    """Like a Timeout or a kill: it may land wherever a greenlet waits."""


# -------------------------------------------------------------------------------------------------- when bytes leave


def test_a_write_leaves_at_once(pair: Any) -> None:
    stream, peer = pair()
    stream.write(b"HTTP/1.1 101\r\n")
    assert here(peer) == b"HTTP/1.1 101\r\n"
    stream.write_frame(*HELLO)
    assert here(peer) == encode(b"Hello")
    assert stream.pending == 0


def test_a_post_leaves_at_the_end_of_the_turn(pair: Any) -> None:
    stream, peer = pair()
    stream.post(b"abc")
    assert here(peer) is None
    assert stream.pending == 3
    turns()
    assert here(peer) == b"abc"
    assert stream.pending == 0


def test_flush_does_not_wait_for_the_end_of_the_turn(pair: Any) -> None:
    stream, peer = pair()
    stream.post(b"abc")
    stream.flush()
    assert here(peer) == b"abc"


def test_all_that_is_posted_in_a_turn_leaves_in_one_send(pair: Any) -> None:
    both = [pair(kind=socket.SOCK_SEQPACKET) for _ in range(3)]
    for turn in range(2):
        for i in range(50):
            for stream, _ in both:
                stream.post(encode(b"%d %d" % (turn, i)))
        turns()
        for _, peer in both:
            (packet,) = packets(peer)
            assert frames(packet) == [(FIN | TEXT, b"%d %d" % (turn, i)) for i in range(50)]


def test_a_post_from_the_hub_leaves_too(pair: Any) -> None:
    stream, peer = pair()
    get_hub().loop.run_callback(stream.post, b"abc")
    until(lambda: here(peer) == b"abc")


def test_a_write_overtakes_no_post(pair: Any) -> None:
    stream, peer = pair()
    stream.post(b"a")
    stream.write(b"b")
    stream.post(b"c")
    stream.write_frame(*HELLO)
    assert here(peer) == b"abc" + encode(b"Hello")
    turns()
    assert here(peer) is None


def test_nothing_is_nothing(pair: Any) -> None:
    stream, peer = pair()
    stream.write(b"")
    stream.post(b"")
    assert stream.pending == 0
    turns()
    stream.post(b"a")
    stream.post(b"")
    stream.write(b"b")
    stream.drain()
    assert here(peer) == b"ab"


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 16 * KIB - 1, 16 * KIB, 16 * KIB + 1, 65535, 65536, 100_000])
@pytest.mark.parametrize("masked", [True, False], ids=["server", "client"])
def test_frames_of_all_sizes(pair: Any, size: int, masked: bool) -> None:
    stream, peer = pair(masked=masked)
    payload = os.urandom(size)
    stream.write_frame(FIN | BINARY, payload)
    stream.write_frame(FIN | PING, b"!")
    head = 2 if size < 126 else 4 if size < 65536 else 10
    wire = take(peer, head + size + 3 + (0 if masked else 8))
    assert frames(wire, masked=not masked) == [(FIN | BINARY, payload), (FIN | PING, b"!")]


def test_a_hub_s_first_masks_are_drawn_too(stream_class: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # What had been drawn was taken, before anything was: from beyond an object's end.  (A sanitized build found it.)
    drawn = iter(range(1, 200))
    monkeypatch.setattr(os, "urandom", lambda size: bytes([next(drawn)]) * size)
    monkeypatch.setattr("gws.frame._masks", [])

    def masks() -> set[bytes]:
        ours, theirs = socket.socketpair()
        stream = stream_class(ours, masked=False)
        seen = set()
        for _ in range(1030):
            stream.write_frame(FIN | BINARY, b"")
            seen.add(theirs.recv(6)[2:])
        stream.close()
        theirs.close()
        get_hub().destroy(destroy_loop=True)
        return seen

    assert get_hub().threadpool.apply(masks) == {bytes([i]) * 4 for i in (1, 2)}


@pytest.mark.parametrize("text", ["", "Hello", "Grüße", "日本語\U0001f44b", "x" * 200, "é" * 40_000])
@pytest.mark.parametrize("masked", [True, False], ids=["server", "client"])
def test_text_goes_out_as_utf_8(pair: Any, text: str, masked: bool) -> None:
    stream, peer = pair(masked=masked)
    stream.write_frame(FIN | TEXT, text)
    size = len(encode(text.encode(), masked=not masked))
    assert frames(take(peer, size), masked=not masked) == [(FIN | TEXT, text.encode())]


# --------------------------------------------------------------------------------------- corking: replies to a batch


def reply(stream: Any) -> None:
    first, payload = stream.read_frame(MIB)
    stream.write_frame(first, payload.upper())


def test_the_reply_to_a_lone_frame_leaves_at_once(pair: Any) -> None:
    stream, peer = pair()
    peer.sendall(encode(b"one", masked=True))
    reply(stream)
    assert here(peer) == encode(b"ONE")  # nobody has waited for anything since


def test_the_replies_to_a_batch_leave_in_one_send(pair: Any) -> None:
    stream, peer = pair(kind=socket.SOCK_SEQPACKET)
    peer.send(b"".join(encode(b"%d" % i, masked=True) for i in range(3)))
    reply(stream)
    reply(stream)
    assert packets(peer) == []
    reply(stream)
    assert packets(peer) == [encode(b"0") + encode(b"1") + encode(b"2")]


@pytest.mark.parametrize("cut", range(1, 8))
def test_a_frame_that_is_not_whole_yet_holds_no_reply_up(pair: Any, cut: int) -> None:
    stream, peer = pair()
    batch = encode(b"one", masked=True) + encode(b"2", masked=True)
    peer.sendall(batch[:-cut])
    reply(stream)
    assert here(peer) == encode(b"ONE")
    peer.sendall(batch[-cut:])
    reply(stream)
    assert here(peer) == encode(b"2")


def test_a_frame_that_is_wrong_holds_no_reply_up(pair: Any) -> None:
    stream, peer = pair()
    peer.sendall(encode(b"one", masked=True) + b"\xff\xff\xff\xff")
    reply(stream)
    assert here(peer) == encode(b"ONE")


def test_replies_leave_when_the_greenlet_waits_for_anything_else(pair: Any) -> None:
    stream, peer = pair(kind=socket.SOCK_SEQPACKET)
    peer.send(b"".join(encode(b"%d" % i, masked=True) for i in range(3)))
    reply(stream)
    reply(stream)
    turns()
    assert packets(peer) == [encode(b"0") + encode(b"1")]
    reply(stream)
    assert packets(peer) == [encode(b"2")]


def test_the_last_of_a_batch_may_go_without_a_reply(pair: Any, greenlets: Any) -> None:
    stream, peer = pair(kind=socket.SOCK_SEQPACKET)
    peer.send(b"".join(encode(b"%d" % i, masked=True) for i in range(3)))

    def reader() -> None:
        reply(stream)
        reply(stream)
        stream.read_frame(MIB)
        reply(stream)  # waits: there is no fourth

    greenlets(reader)
    assert until(lambda: packets(peer)) == [encode(b"0") + encode(b"1")]
    peer.send(encode(b"3", masked=True))


def test_large_replies_do_not_wait_for_the_batch(pair: Any) -> None:
    stream, peer = pair()
    peer.sendall(b"".join(encode(b"%d" % i, masked=True) for i in range(3)))
    stream.read_frame(MIB)
    stream.write(b"x" * 80 * KIB)
    assert here(peer) is not None


# ------------------------------------------------------------------------------------------------------- slow peers


def test_a_post_never_waits(pair: Any, greenlets: Any) -> None:
    stream, peer = pair()
    others = []
    greenlets(others.append, "had a turn")
    for _ in range(8):
        stream.post(b"x" * MIB)
    assert others == []
    assert stream.pending == 8 * MIB
    turns()
    assert 0 < stream.pending < 8 * MIB
    assert take(peer, 8 * MIB) == b"x" * 8 * MIB
    assert stream.pending == 0


def test_a_write_waits_for_a_slow_peer(pair: Any, greenlets: Any) -> None:
    stream, peer = pair()
    writer = greenlets(stream.write_frame, FIN | BINARY, b"x" * MIB)
    turns()
    assert not writer.dead
    before = stream.pending
    took = take(peer, 200_000)
    turns()
    assert stream.pending < before
    assert not writer.dead
    took += take(peer, 10 + MIB - len(took))
    until(lambda: writer.dead)
    assert frames(took) == [(FIN | BINARY, b"x" * MIB)]
    assert stream.pending == 0


def test_pending_is_what_the_kernel_has_not_taken(pair: Any) -> None:
    stream, peer = pair()
    stream.post(b"x" * MIB)
    stream.post(b"y" * 100)
    assert stream.pending == MIB + 100
    stream.flush()
    there = 0
    while piece := here(peer):
        there += len(piece)
    assert stream.pending == MIB + 100 - there
    rest = take(peer, MIB + 100 - there)
    assert rest.endswith(b"xy" + b"y" * 99)
    assert stream.pending == 0


@pytest.mark.parametrize("tls", [False, True])
def test_what_waits_for_a_slow_peer_costs_its_bytes_however_small_they_came(
    pair: Any, tls_pair: Any, tls: bool
) -> None:
    stream, peer = tls_pair() if tls else pair()
    filled = fill(stream)
    posts = [b"%06d" % number for number in range(20_000)]
    posts[10_000:10_000] = [b"-" * 5000]  # and a large one between them
    tracemalloc.start()
    try:
        for number, data in enumerate(posts):
            stream.post(bytes(bytearray(data)))  # one that nobody else has
            if not number % 1000:
                turns(1)
        assert tracemalloc.get_traced_memory()[0] < 2 * sum(map(len, posts)) + 100 * KIB
    finally:
        tracemalloc.stop()
    expected = b"." * filled + b"".join(posts)
    assert take(peer, len(expected)) == expected
    assert until(lambda: not stream.pending)


def test_drain_waits_until_the_kernel_has_all(pair: Any, greenlets: Any) -> None:
    stream, peer = pair()
    stream.drain()
    stream.post(b"x")
    stream.drain()
    assert here(peer) == b"x"
    size = fill(stream)
    drained = greenlets(stream.drain)
    turns()
    assert not drained.dead
    take(peer, size)
    until(lambda: drained.dead)
    assert stream.pending == 0


@pytest.mark.parametrize("how", [gevent.Timeout, gevent.GreenletExit, Interrupt])
@pytest.mark.parametrize("masked", [True, False], ids=["server", "client"])
def test_an_interrupted_write_leaves_its_frame_whole(pair: Any, how: type[BaseException], masked: bool) -> None:
    stream, peer = pair(masked=masked)
    outcome = []

    def write(byte: bytes) -> None:
        try:
            stream.write_frame(FIN | BINARY, byte * MIB)
        except how as error:
            outcome.append(error)

    for byte in (b"a", b"b", b"c"):
        writer = gevent.spawn(write, byte)
        turns()
        error = how()
        gevent.kill(writer, error)
        turns()
        assert outcome.pop() is error
    ends = gevent.spawn(stream.write_frame, FIN | TEXT, b"end")
    size = 10 + MIB + (0 if masked else 4)
    wire = take(peer, 3 * size + 5 + (0 if masked else 4))
    got = frames(wire, masked=not masked)
    assert got == [(FIN | BINARY, byte * MIB) for byte in (b"a", b"b", b"c")] + [(FIN | TEXT, b"end")]
    ends.get(timeout=30)


def test_a_timeout_ends_a_write(pair: Any) -> None:
    stream, _ = pair()
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.001):
        stream.write(b"x" * MIB)
    assert stream.pending > 0


def test_twenty_writers_and_one_slow_peer(pair: Any, greenlets: Any) -> None:
    stream, peer = pair()

    def write(me: int) -> None:
        stream.write_frame(FIN | BINARY, bytes([me]) * MIB)
        stream.write_frame(FIN | TEXT, b"%d" % me)
        stream.write_frame(FIN | BINARY, bytes([me, 255]) * 1000)

    for me in range(20):
        greenlets(write, me)
    each = 10 + MIB + 4 + 2000
    size = 20 * each + sum(2 + len(b"%d" % me) for me in range(20))
    got = frames(take(peer, size, piece=50_000))
    whose = {me: [frame for frame in got if frame[1] == b"%d" % me or frame[1][0] == me] for me in range(20)}
    for me in range(20):
        assert [len(payload) for _, payload in whose[me]] == [MIB, len(b"%d" % me), 2000]
        assert whose[me][0] == (FIN | BINARY, bytes([me]) * MIB)
        assert whose[me][2] == (FIN | BINARY, bytes([me, 255]) * 1000)
    assert len(got) == 60


def test_writers_go_on_in_the_order_in_which_they_came(pair: Any, greenlets: Any) -> None:
    stream, peer = pair()
    done: list[int] = []

    def write(me: int) -> None:
        stream.write(b"x" * MIB)
        done.append(me)

    for me in range(5):
        greenlets(write, me)
    take(peer, 5 * MIB)
    until(lambda: len(done) == 5)
    assert done == [0, 1, 2, 3, 4]


def test_a_write_and_a_drain_may_wait_side_by_side(pair: Any, greenlets: Any) -> None:
    stream, peer = pair()
    size = fill(stream)
    waiting = [greenlets(stream.drain), greenlets(stream.write, b"x" * MIB), greenlets(stream.drain)]
    turns()
    assert not any(greenlet.dead for greenlet in waiting)
    take(peer, size + MIB)
    until(lambda: all(greenlet.dead for greenlet in waiting))


# --------------------------------------------------------------------------------------------------------- warnings


def test_a_slow_peer_is_warned_of_at_1_mib_and_at_each_doubling(pair: Any) -> None:
    # skynet's socket driver: a warning at 1 MiB, at 2, at 4 ...
    stream, peer = pair()
    warned: list[int] = []
    stream.warn = warned.append
    fill(stream)
    levels = []
    while stream.pending < 5 * MIB:
        stream.post(b"x" * 100 * KIB)
        turns(1)
        levels.append(stream.pending)
    expected = [next(level for level in levels if level >= mark) for mark in (MIB, 2 * MIB, 4 * MIB)]
    assert warned == expected
    while stream.pending:
        take(peer, 100 * KIB)
        turns(1)
    assert warned == [*expected, 0]
    stream.write(b"x")
    assert warned == [*expected, 0]


def test_one_write_may_pass_several_marks(pair: Any, greenlets: Any) -> None:
    stream, peer = pair()
    warned: list[int] = []
    stream.warn = warned.append
    for _ in range(2):  # and it begins anew once the peer has caught up
        greenlets(stream.write, b"x" * 5 * MIB)
        turns()
        assert len(warned) == 1
        assert 4 * MIB < warned[0] <= 5 * MIB
        take(peer, 5 * MIB)
        until(lambda: not stream.pending)
        assert warned[1:] == [0]
        warned.clear()


def test_nobody_need_be_warned(pair: Any) -> None:
    stream, peer = pair()
    assert stream.warn is None
    stream.post(b"x" * 3 * MIB)
    take(peer, 3 * MIB)


# ---------------------------------------------------------------------------------------------------------- the end


def test_a_write_to_a_peer_that_is_gone(pair: Any) -> None:
    stream, peer = pair()
    peer.close()
    for verb in (stream.write, stream.write, stream.post):
        with pytest.raises(OSError):
            verb(b"x")
    with pytest.raises(OSError):
        stream.write_frame(*HELLO)
    assert stream.pending == 0
    stream.flush()
    stream.drain()


def test_a_post_to_a_peer_that_is_gone_is_told_by_the_next(pair: Any) -> None:
    stream, peer = pair()
    peer.close()
    stream.post(b"x")
    turns()
    assert stream.pending == 0
    with pytest.raises(BrokenPipeError) as broken:
        stream.post(b"x")
    assert isinstance(broken.value.__cause__, OSError)


@pytest.mark.parametrize("how", ["the peer closes", "we close"])
def test_whoever_waits_is_told_of_the_end(pair: Any, how: str) -> None:
    stream, peer = pair()
    outcome: list[Any] = []

    def wait(verb: Any, *args: Any) -> None:
        try:
            outcome.append(verb(*args))
        except OSError as error:
            outcome.append(error)

    writers = [gevent.spawn(wait, stream.write_frame, FIN | BINARY, b"x" * MIB) for _ in range(3)]
    drained = gevent.spawn(wait, stream.drain)
    turns()
    assert outcome == []
    assert not any(writer.dead for writer in writers)
    (peer if how == "the peer closes" else stream).close()
    gevent.joinall([*writers, drained], timeout=30)
    assert sorted(isinstance(each, OSError) for each in outcome) == [False, True, True, True]
    assert stream.pending == 0


def test_what_was_posted_goes_out_before_the_end(pair: Any) -> None:
    stream, peer = pair()
    stream.post(b"last words")
    stream.shutdown()
    stream.shutdown()
    assert peer.recv(100) == b"last words"
    assert peer.recv(100) == b""
    with pytest.raises(OSError):
        stream.write(b"more")


def test_after_closing(pair: Any) -> None:
    stream, peer = pair()
    stream.post(b"never sent")
    stream.close()
    stream.close()
    for verb in (stream.write, stream.post):
        with pytest.raises(OSError):
            verb(b"x")
    with pytest.raises(OSError):
        stream.write_frame(*HELLO)
    stream.flush()
    stream.drain()
    turns()
    assert stream.pending == 0
    assert take(peer, 0) == b""
    assert peer.recv(10) == b""


def test_closing_with_everything_in_the_air(pair: Any) -> None:
    # "every watcher is stopped before its descriptor is closed: libev aborts the process otherwise"
    for _ in range(5):
        stream, peer = pair()

        def reading(stream: Any = stream) -> None:
            with pytest.raises(EOFError):
                stream.read_frame(MIB)

        def writing(stream: Any = stream) -> None:
            with pytest.raises(OSError):
                stream.write(b"x" * MIB)

        both = [gevent.spawn(reading), gevent.spawn(writing)]
        turns()
        stream.post(b"x")
        stream.close()
        peer.close()
        again, other = pair()  # on the same descriptors
        again.write(b"x")
        assert here(other) == b"x"
        gevent.joinall(both, timeout=30, raise_error=True)


# ------------------------------------------------------------------------------------------------------------- masks


def test_a_client_s_masks_are_fresh(pair: Any) -> None:
    stream, peer = pair(masked=False)
    for _ in range(100):
        stream.write_frame(*HELLO)
    wire = take(peer, 1100)
    assert len({wire[i + 2 : i + 6] for i in range(0, 1100, 11)}) > 95


FORKED = """
import os, socket, sys
from gws.stream import {name} as Stream
ours, theirs = socket.socketpair()
stream = Stream(ours, masked=False)
stream.write_frame(0x81, b"")
theirs.recv(6)
child = os.fork()
if not child:
    for _ in range(100):
        stream.write_frame(0x81, b"")
    os._exit(0)
os.waitpid(child, 0)
other = theirs.recv(10000)
for _ in range(100):
    stream.write_frame(0x81, b"")
mine = theirs.recv(10000)
both = [{{each[i + 2 : i + 6] for i in range(0, 600, 6)}} for each in (mine, other)]
assert len(both[0]) > 95 and len(both[1]) > 95
sys.exit(len(both[0] & both[1]) > 5)
"""


def test_two_processes_draw_different_masks(stream_class: type) -> None:
    name = "Plain" if stream_class is Plain else "Stream"
    subprocess.run([sys.executable, "-c", FORKED.format(name=name)], check=True, timeout=30)


# ----------------------------------------------------------------------------------------------------- other threads


def elsewhere(verb: Any, *args: Any) -> BaseException | None:
    """Call it in another thread; return what it raised."""

    def call() -> BaseException | None:
        try:
            verb(*args)
        except Exception as error:
            return error
        else:
            return None
        finally:
            get_hub().destroy(destroy_loop=True)

    return get_hub().threadpool.apply(call)


@pytest.mark.parametrize(
    ("verb", "args"),
    [
        ("write", (b"x",)),
        ("write_frame", HELLO),
        ("post", (b"x",)),
        ("flush", ()),
        ("drain", ()),
        ("shutdown", ()),
        ("close", ()),
    ],
)
def test_another_thread_is_told(pair: Any, verb: str, args: Any) -> None:
    stream, peer = pair()
    error = elsewhere(getattr(stream, verb), *args)
    assert isinstance(error, RuntimeError)
    assert str(error) == f"{stream!r} belongs to the thread that made it"
    stream.write(b"x")
    assert here(peer) == b"x"


# --------------------------------------------------------------------------------------------------------------- TLS


def records(data: bytes) -> list[int]:
    """Return the sizes of the TLS records (RFC 8446 section 5.1) in `data`."""
    sizes = []
    while data:
        sizes.append(int.from_bytes(data[3:5], "big"))
        data = data[5 + sizes[-1] :]
    return sizes


def test_tls_write(tls_pair: Any) -> None:
    stream, peer = tls_pair()
    stream.write(b"abc")
    stream.write_frame(*HELLO)
    assert take(peer, 10) == b"abc" + encode(b"Hello")


def test_tls_what_is_posted_in_a_turn_leaves_in_one_record(tls_pair: Any) -> None:
    stream, peer = tls_pair()
    stream.write(b"x")
    assert take(peer, 1) == b"x"  # the tickets that follow the handshake are out of the way
    for i in range(50):
        stream.post(encode(b"%d" % i))
    turns()
    assert len(records(peer.sock.recv(MIB, socket.MSG_PEEK))) == 1
    assert frames(take(peer, 50 * 2 + 10 + 80)) == [(FIN | TEXT, b"%d" % i) for i in range(50)]


def test_tls_large_frames_and_small_ones_to_a_slow_peer(tls_pair: Any, greenlets: Any) -> None:
    stream, peer = tls_pair()

    def write(me: int) -> None:
        for size in (10, MIB, 20_000, 3):
            stream.write_frame(FIN | BINARY, bytes([me]) * size)
            stream.post(encode(b"%d" % me))

    for me in range(1, 4):
        greenlets(write, me)
    turns()
    assert stream.pending > 0
    got = frames(take(peer, 3 * (2 + 10 + 10 + MIB + 4 + 20_000 + 2 + 3 + 4 * 3), piece=30_000))
    for me in range(1, 4):
        large = [payload for first, payload in got if first == FIN | BINARY and payload[0] == me]
        assert large == [bytes([me]) * size for size in (10, MIB, 20_000, 3)]
        assert got.count((FIN | TEXT, b"%d" % me)) == 4
    assert stream.pending == 0


def test_tls_a_write_to_a_peer_that_is_gone(tls_pair: Any) -> None:
    stream, peer = tls_pair()
    peer.close()
    for _ in range(2):
        with pytest.raises(OSError):
            stream.write(b"x")
    assert stream.pending == 0
