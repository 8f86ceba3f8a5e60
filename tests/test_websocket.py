"""gws.websocket: messages, fragments, limits, control frames (RFC 6455 sections 5.4 and 5.5), compression.

Over every stream there is; the other side is a plain socket that is fed with frames, or another WebSocket.   How a
connection ends is in test_websocket_end, and what is for many of them in test_broadcast.
"""

from __future__ import annotations

import os
import sys
import tracemalloc
import zlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import gevent
import gevent.event
import pytest
from by_hand import Frame, Peer, Reading, deflated, fill, outcome, told
from conftest import Owner, turns, until

from gws import goodbye
from gws import websocket as ws
from gws.deflate import Compression, Deflate, Parameters
from gws.errors import ConnectionClosed, InvalidPayload, MessageTooBig, PolicyViolation, ProtocolError
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
    encode_header,
    slack,
)
from gws.keepalive import Keepalive
from gws.websocket import CLOSED, CLOSING, OPEN, Limits, WebSocket

pytestmark = pytest.mark.usefixtures("deadline")

KIB, MIB = 1024, 1024 * 1024
MORE, LAST = CONTINUATION, FIN | CONTINUATION
SHORT = 0.02  # seconds: a close_timeout that is meant to pass
BYE = FIN | CLOSE, encode_close(1000)
PING_A, PONG_A = (FIN | PING, b"a"), (FIN | PONG, b"a")

# ---------------------------------------------------------------------------------------------------------- 1. messages

MESSAGES = [
    "",
    "hello",
    "Grüße \U0001f44b",
    b"",
    b"\x00\xff",
    *(size * "x" for size in (125, 126, 65535, 65536)),
    *(bytes(size) for size in (125, 126, 65535, 65536, MIB)),
    "ü" * (MIB // 2),
]


COUNTED = [  # frames, the messages in them
    ([(FIN | TEXT, b"a")], 1),
    ([(FIN | BINARY, b"a" * 70000)], 1),
    ([(TEXT, b"a"), PING_A, (MORE, b""), (LAST, b"b")], 1),
    ([(FIN | TEXT, b"a"), (FIN | TEXT, b"b"), (BINARY, b""), (LAST, b"")], 3),
    ([PING_A, PONG_A], 0),
]


@pytest.mark.parametrize(("frames", "count"), COUNTED)
def test_traffic_counts_whole_messages_and_every_byte(raw: Any, reading: Any, frames: list[Frame], count: int) -> None:
    fd, peer = raw()
    data = peer.wire(*frames, BYE)
    reader = reading(fd)
    peer.sock.sendall(data)
    answers = peer.hear_all()
    assert answers[-1][0] == FIN | CLOSE
    until(lambda: reader.end)
    assert (fd.traffic.messages_received, fd.traffic.bytes_received) == (count, len(data))
    assert (fd.traffic.messages_sent, fd.traffic.bytes_sent) == (0, len(Peer(None, server=True).wire(*answers)))


def test_traffic_counts_what_is_sent_in_either_way(ends: Any) -> None:
    both = ends()
    both.server.write("hello")
    both.server.write(bytes(100_000 // 2))
    ws.broadcast([both.server, both.client], "to all")
    both.server.ping()
    both.server.probe()
    assert both.server.traffic.messages_sent == 3
    assert both.client.traffic.messages_sent == 1
    assert [both.client.read() for _ in range(3)] == ["hello", bytes(50_000), "to all"]
    assert both.client.traffic.messages_received == 3


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: f"{type(message).__name__} {len(message)}")
def test_messages_of_each_kind_and_size_both_ways(greenlets: Any, ends: Any, message: Any) -> None:
    both = ends()
    for one, other in ((both.server, both.client), (both.client, both.server)):
        greenlets(one.write, message)
        got = other.read()
        assert got == message
        assert type(got) is type(message)


@pytest.mark.parametrize("server", [True, False])
def test_a_message_is_one_frame(raw: Any, server: bool) -> None:
    # "%x1 denotes a text frame", "%x2 denotes a binary frame"  (5.2)
    fd, peer = raw(server=server)
    for message, frame in [("hü", (FIN | TEXT, b"h\xc3\xbc")), (b"hi", (FIN | BINARY, b"hi")), ("", (FIN | TEXT, b""))]:
        fd.write(message)
        assert peer.hear() == frame


@pytest.mark.parametrize("message", [bytearray(b"abc"), memoryview(b"abc"), memoryview(b"a-b-c")[::2]])
def test_bytes_of_other_kinds_are_written_as_binary(raw: Any, message: Any) -> None:
    fd, peer = raw()
    fd.write(message)
    assert peer.hear() == (FIN | BINARY, b"abc")


def test_a_buffer_may_change_while_its_message_waits(raw: Any, greenlets: Any) -> None:
    fd, peer = raw()
    message = bytearray(b"a" * MIB)
    greenlets(fd.write, message)
    turns()
    assert fd.pending
    message[:] = b"b" * MIB
    assert peer.hear() == (FIN | BINARY, b"a" * MIB)


@pytest.mark.parametrize("deflate", [None, Parameters()], ids=["plain", "deflate"])
@pytest.mark.parametrize(
    ("message", "wrong"),
    [(123, TypeError), (None, TypeError), (["a"], TypeError), ("\ud800" * 500, ValueError)],
    ids=["int", "None", "list", "lone surrogates"],
)
def test_what_is_no_message_is_refused_and_nothing_sent(raw: Any, message: Any, wrong: Any, deflate: Any) -> None:
    fd, peer = raw(deflate=deflate)
    for verb in (fd.write, fd.ping, lambda it: ws.broadcast([fd], it)):
        with pytest.raises(wrong):
            verb(message)
    assert fd.state == OPEN
    fd.write("sound")
    assert peer.hear() == (FIN | TEXT, b"sound")


def test_the_verbs_are_functions_too(raw: Any) -> None:
    fd, peer = raw()
    peer.say((FIN | TEXT, b"hello"), BYE)
    assert ws.read(fd) == "hello"
    ws.write(fd, "hi")
    ws.ping(fd, "there")
    ws.broadcast([fd], b"all")
    assert WebSocket._recv is WebSocket.read
    with pytest.raises(ConnectionClosed):
        fd._recv()
    ws.close(fd)
    assert peer.hear_all() == [(FIN | TEXT, b"hi"), (FIN | PING, b"there"), (FIN | BINARY, b"all"), BYE]


def test_many_greenlets_write_whole_messages(greenlets: Any, ends: Any) -> None:
    both = ends()
    for letter in "abcde":
        greenlets(lambda letter=letter: [both.server.write(letter * size) for size in (10, 300_000, 1000)])
    got = [both.client.read() for _ in range(15)]
    assert all(len(set(message)) == 1 for message in got)
    for letter in "abcde":
        assert [len(message) for message in got if message[0] == letter] == [10, 300_000, 1000]


# --------------------------------------------------------------------------------------------------------- 2. fragments

# what comes, what is read of it, what goes back and what is told
ARRANGEMENTS = [
    # "An unfragmented message consists of a single frame with the FIN bit set ... and an opcode other than 0."  (5.4)
    ([(FIN | TEXT, b"one"), (FIN | BINARY, b"two")], ["one", b"two"], []),
    # "A fragmented message consists of a single frame with the FIN bit clear and an opcode other than 0, followed by
    # zero or more frames with the FIN bit clear and the opcode set to 0, and terminated by a single frame with the FIN
    # bit set and an opcode of 0."
    ([(TEXT, b"Hel"), (LAST, b"lo")], ["Hello"], []),
    ([(BINARY, b"Hel"), (LAST, b"lo")], [b"Hello"], []),
    ([(TEXT, b"H"), (MORE, b"e"), (MORE, b"l"), (MORE, b"l"), (LAST, b"o")], ["Hello"], []),
    # frames of no bytes are frames, too
    ([(TEXT, b""), (LAST, b"")], [""], []),
    ([(BINARY, b""), (MORE, b""), (MORE, b"x"), (MORE, b""), (LAST, b"")], [b"x"], []),
    ([(TEXT, b"x"), (LAST, b"")], ["x"], []),
    # "a particular text frame might include a partial UTF-8 sequence; however, the whole message MUST contain valid
    # UTF-8"  (5.6)
    ([(TEXT, b"\xf0"), (MORE, b"\x9f\x91"), (LAST, b"\x8b")], ["\U0001f44b"], []),
    # "Control frames (see Section 5.5) MAY be injected in the middle of a fragmented message."
    ([(TEXT, b"Hel"), PING_A, (LAST, b"lo")], ["Hello"], [PONG_A]),
    ([(TEXT, b"Hel"), PONG_A, (LAST, b"lo")], ["Hello"], []),
    (
        [PING_A, (BINARY, b"1"), PING_A, PONG_A, (MORE, b"2"), (FIN | PING, b""), (LAST, b"3"), PING_A],
        [b"123"],
        [PONG_A, PONG_A, (FIN | PONG, b""), PONG_A],
    ),
    # "the endpoint MAY elect to send a Pong frame for only the most recently processed Ping frame"  (5.5.3): we do not
    (
        [PING_A, (FIN | PING, b"b"), (FIN | PING, bytes(125))],
        [],
        [PONG_A, (FIN | PONG, b"b"), (FIN | PONG, bytes(125))],
    ),
    # one message after the other
    ([(TEXT, b"1"), (LAST, b"2"), (BINARY, b"3"), (LAST, b"4"), (FIN | TEXT, b"56")], ["12", b"34", "56"], []),
    ([(TEXT, b"a" * 70_000), PING_A, (LAST, b"b" * 300)], ["a" * 70_000 + "b" * 300], [PONG_A]),
]


@pytest.mark.parametrize("server", [True, False], ids=["server", "client"])
@pytest.mark.parametrize("piece", [MIB, 1, 2, 7])
@pytest.mark.parametrize("case", ARRANGEMENTS, ids=lambda case: " ".join(f"{first:x}" for first, _ in case[0]))
def test_every_arrangement_of_frames(raw: Any, reading: Any, case: Any, piece: int, server: bool) -> None:
    said, messages, answers = case
    fd, peer = raw(server=server)
    reader = reading(fd)
    data = peer.wire(*said)
    piece = max(piece, len(data) // 400)
    for i in range(0, len(data), piece):
        peer.sock.sendall(data[i : i + piece])
        turns(1)
    until(lambda: len(reader.got) == len(messages))
    turns()
    assert reader.got == messages
    control = {FIN | PING: "ping", FIN | PONG: "pong"}
    assert told(fd) == [(control[first], payload) for first, payload in said if first in control]
    assert [peer.hear() for _ in answers] == answers
    assert fd.state == OPEN


SOUND = "a message begins before the last one has ended (RFC 6455 section 5.4)"

VIOLATIONS = [
    # what continues a message needs one that has begun
    ([(LAST, b"xyz")], 1002, "there is no message to continue (RFC 6455 section 5.4)"),
    ([(MORE, b"xyz")], 1002, "there is no message to continue (RFC 6455 section 5.4)"),
    ([(FIN | TEXT, b"x"), (LAST, b"")], 1002, "there is no message to continue (RFC 6455 section 5.4)"),
    ([(TEXT, b"x"), (LAST, b"y"), (LAST, b"z")], 1002, "there is no message to continue (RFC 6455 section 5.4)"),
    # "The fragments of one message MUST NOT be interleaved between the fragments of another message unless an
    # extension has been negotiated that can interpret the interleaving."
    ([(TEXT, b"x"), (FIN | TEXT, b"y")], 1002, SOUND),
    ([(TEXT, b"x"), (FIN | BINARY, b"y")], 1002, SOUND),
    ([(TEXT, b"x"), (TEXT, b"y")], 1002, SOUND),
    ([(BINARY, b"x"), PING_A, (BINARY, b"y")], 1002, SOUND),
    ([(BINARY, b"x"), (MORE, b"y"), (FIN | TEXT, b"z")], 1002, SOUND),
    # what one frame shows by itself is the stream's to judge, and ours to tell
    ([(FIN | 3, b"")], 1002, "opcode 3 is reserved (RFC 6455 section 5.2)"),
    ([(PING, b"")], 1002, "a control frame is fragmented (RFC 6455 section 5.5)"),
    ([(FIN | PING, bytes(126))], 1002, "a control frame is longer than 125 bytes (RFC 6455 section 5.5)"),
    (
        [(FIN | RSV1 | TEXT, b"")],
        1002,
        "a reserved bit is set that no extension has given a meaning (RFC 6455 section 5.2)",
    ),
    # "When an endpoint is to interpret a byte stream as UTF-8 but finds that the byte stream is not, in fact, a valid
    # UTF-8 stream, that endpoint MUST _Fail the WebSocket Connection_."  (8.1)
    ([(FIN | TEXT, b"\xff")], 1007, "a text message is not UTF-8 (RFC 6455 section 8.1)"),
    ([(TEXT, b"a"), (LAST, b"\xff")], 1007, "a text message is not UTF-8 (RFC 6455 section 8.1)"),
    # "If there is a body, the first two bytes of the body MUST be a 2-byte unsigned integer"  (5.5.1)
    ([(FIN | CLOSE, b"\x03")], 1002, "a Close holds a single byte (RFC 6455 section 5.5.1)"),
    ([(FIN | CLOSE, b"\x03\xe8\xff")], 1007, "a close reason is not UTF-8 (RFC 6455 section 8.1)"),
    # "1005 is a reserved value and MUST NOT be set as a status code in a Close control frame by an endpoint"  (7.4.1)
    *(
        (
            [(FIN | CLOSE, code.to_bytes(2, "big"))],
            1002,
            f"a Close holds the invalid code {code} (RFC 6455 section 7.4)",
        )
        for code in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65535)
    ),
]


@pytest.mark.parametrize("server", [True, False], ids=["server", "client"])
@pytest.mark.parametrize("piece", [MIB, 1])
@pytest.mark.parametrize(("said", "code", "reason"), VIOLATIONS)
def test_a_peer_that_breaks_the_rules_is_told_which(
    raw: Any, reading: Any, said: list[Frame], code: int, reason: str, piece: int, server: bool
) -> None:
    fd, peer = raw(server=server)
    reader = reading(fd)
    data = peer.wire(*said, (FIN | TEXT, b"nobody reads this"))
    for i in range(0, len(data), piece):
        peer.sock.sendall(data[i : i + piece])
        turns(1)
    # "An endpoint MUST NOT continue to attempt to process data (including a responding Close frame) from the remote
    # endpoint after being instructed to _Fail the WebSocket Connection_."  (7.1.7)
    heard = peer.hear_all()
    assert [frame for frame in heard if frame != PONG_A] == [(FIN | CLOSE, encode_close(code, reason))]
    assert fd.state == CLOSING  # it only waits until that is read: a reset would take it from the peer
    peer.close()
    end = reader.until_end()
    assert (end.code, end.reason) == (fd.code, fd.reason) == (code, reason)
    assert isinstance(end.__cause__, ProtocolError)
    assert end.__cause__.code == code
    assert "nobody reads this" not in reader.got


@pytest.mark.parametrize(
    ("before", "first"),
    [([], LAST), ([], MORE), ([(TEXT, b"x")], TEXT), ([(BINARY, b"x")], FIN | BINARY), ([(BINARY, b"x")], BINARY)],
)
def test_a_frame_out_of_order_need_not_be_whole(raw: Any, reading: Any, before: list[Frame], first: int) -> None:
    fd, peer = raw()
    reader = reading(fd)
    peer.say(*before)
    peer.sock.sendall(encode_header(first, 1000, bytes(4)) + bytes(10))
    assert [payload[:2] for _, payload in peer.hear_all()] == [encode_close(1002)]
    peer.close()
    assert reader.until_end().code == 1002


def test_a_peer_that_breaks_the_rules_and_stays_is_not_waited_for_long(
    raw: Any, reading: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(goodbye, "_LINGER", SHORT)
    fd, peer = raw()
    reader = reading(fd)
    peer.say((LAST, b""))
    assert reader.until_end().code == 1002
    assert [payload[:2] for _, payload in peer.hear_all()] == [encode_close(1002)]


def test_a_reason_that_is_too_long_for_a_close_is_cut(raw: Any, reading: Any) -> None:
    class Strict(Owner):
        def told(self, fd: WebSocket, event: str, value: Any) -> None:
            raise PolicyViolation("no pings " * 20)

    fd, peer = raw(owner=Strict())
    reader = reading(fd)
    peer.say(PING_A)
    assert peer.hear() == PONG_A
    assert peer.hear() == (FIN | CLOSE, encode_close(1008, ("no pings " * 20)[:120]))
    peer.close()
    assert reader.until_end().reason == "no pings " * 20


def test_a_million_empty_fragments_cost_nothing(raw: Any, reading: Any) -> None:
    fd, peer = raw()
    reader = reading(fd)
    peer.say((BINARY, b""))
    batch = peer.wire((MORE, b"")) * 1000
    tracemalloc.start()
    try:
        for _ in range(20):
            peer.sock.sendall(batch)
            until(lambda: not fd.waiting)
        turns()
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert taken < 100 * KIB
    peer.say((LAST, b""))
    until(lambda: reader.got == [b""])


def test_tiny_fragments_cost_their_bytes(raw: Any, reading: Any) -> None:
    fd, peer = raw()
    reader = reading(fd)
    peer.say((BINARY, b"x"))
    batch = peer.wire((MORE, b"x")) * 1000
    tracemalloc.start()
    try:
        for _ in range(20):
            peer.sock.sendall(batch)
            until(lambda: not fd.waiting)
        turns()
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert taken < 20_000 + 100 * KIB
    peer.say((LAST, b"x"))
    until(lambda: reader.got == [b"x" * 20_002])


# ------------------------------------------------------------------------------------------------------------- 3. UTF-8

HALF = "日".encode()[:2]

# What has come when the peer can know it: not a byte of this is to spare, and what it has begun goes unfinished.
NO_TEXT = {
    "a whole frame": [(FIN | TEXT, b"ok\xff")],
    "a whole frame that leaves a character open": [(FIN | TEXT, b"ok" + HALF)],
    "a first fragment": [(TEXT, b"ok\xff")],
    "a later fragment": [(TEXT, b"ok"), (MORE, b"\xc0")],
    "a last fragment": [(TEXT, b"ok"), (LAST, b"\xed\xa0")],
    "a last fragment that leaves a character open": [(TEXT, HALF), (LAST, b"")],
    "a character cut between fragments": [(TEXT, HALF), (MORE, b"\xff")],
    "behind a control frame": [(TEXT, b"ok"), PING_A, (MORE, b"\xff")],
}

UNFINISHED = {  # frames that have come whole, the first byte of the one that has not, and what has come of its payload
    "of a whole frame": ([], FIN | TEXT, [b"ok\xff"]),
    "of a whole frame, in pieces": ([], FIN | TEXT, [b"ok", HALF, b"\xff"]),
    "of a whole frame, half a surrogate": ([], FIN | TEXT, [b"ok\xed", b"\xa0"]),
    "of a first fragment": ([], TEXT, [b"ok\xff"]),
    "of a first fragment, in pieces": ([], TEXT, [b"ok", HALF, b"\xff"]),
    "of a later fragment": ([(TEXT, b"ok")], MORE, [b"\xff"]),
    "of a later fragment, in pieces": ([(TEXT, HALF)], MORE, ["日".encode()[2:] + b"ok", HALF, b"\xff"]),
    "of a last fragment": ([(TEXT, b"ok")], LAST, [b"ok", b"\xf5"]),
}


def not_text(fd: WebSocket, peer: Peer, reader: Reading) -> None:
    heard = [frame for frame in peer.hear_all() if frame != PONG_A]
    assert heard == [(FIN | CLOSE, encode_close(1007, "a text message is not UTF-8 (RFC 6455 section 8.1)"))]
    peer.close()
    assert isinstance(reader.until_end().__cause__, InvalidPayload)
    assert fd.code == 1007
    assert reader.got == []


@pytest.mark.parametrize("case", NO_TEXT)
def test_what_is_no_text_is_refused_with_the_frame_that_shows_it(raw: Any, reading: Any, case: str) -> None:
    fd, peer = raw()
    reader = reading(fd)
    peer.say(*NO_TEXT[case])
    not_text(fd, peer, reader)


@pytest.mark.parametrize("length", [20, 300, 70_000, 500_000])
@pytest.mark.parametrize("case", UNFINISHED)
def test_what_is_no_text_is_refused_at_the_byte_that_shows_it(raw: Any, reading: Any, case: str, length: int) -> None:
    fd, peer = raw()
    reader = reading(fd)
    whole, first, pieces = UNFINISHED[case]
    pad = b"." * (length // 2)  # so that what shows it lies in the middle of a long frame, too
    peer.say(*whole)
    peer.sock.sendall(encode_header(first, length, bytes(4)))
    for piece in (*([] if whole and whole[0][1] == HALF else [pad]), *pieces):
        assert fd.state == OPEN
        peer.sock.sendall(piece)
        until(lambda: not fd.waiting)
        turns(2)
    not_text(fd, peer, reader)


@pytest.mark.parametrize("length", [4, 300, 70_000])
@pytest.mark.parametrize("first", [FIN | TEXT, TEXT])
def test_text_in_pieces_may_be_cut_anywhere(raw: Any, reading: Any, first: int, length: int) -> None:
    text = ("\U0001f44b日ü" + "x" * length) * 2
    data = text.encode()
    fd, peer = raw()
    reader = reading(fd)
    for cut in (1, 2, 3, 5, 6, 8, len(data) // 2 + 2, len(data) - length - 1):
        behind = b"" if first & FIN else peer.wire((LAST, b""))
        wire = peer.wire((first, data)) + behind
        at = len(wire) - len(behind) - len(data) + cut
        peer.sock.sendall(wire[:at])
        until(lambda: not fd.waiting)
        turns(2)
        peer.sock.sendall(wire[at:])
        until(lambda: reader.got)
        assert reader.got.pop() == text


def test_binary_is_nobody_s_text(raw: Any, reading: Any) -> None:
    fd, peer = raw()
    reader = reading(fd)
    data = peer.wire((BINARY, b"\xff" * 200), (MORE, b"\xfe" * 200), (LAST, b"\x80"), (FIN | BINARY, b"\xc0" * 200))
    for i in range(0, len(data), 50):
        peer.sock.sendall(data[i : i + 50])
        turns(1)
    until(lambda: reader.got == [b"\xff" * 200 + b"\xfe" * 200 + b"\x80", b"\xc0" * 200])


# ------------------------------------------------------------------------------------------------------------ 4. limits

LIMIT = 1000
TOO_BIG = [  # each is one byte too much
    [(FIN | BINARY, bytes(LIMIT + 1))],
    [(FIN | TEXT, b"x" * (LIMIT + 1))],
    [(BINARY, bytes(LIMIT + 1))],
    [(BINARY, bytes(LIMIT)), (LAST, b"x")],
    [(TEXT, b"x" * 600), (MORE, b"y" * 400), (MORE, b""), (LAST, b"z")],
    [(BINARY, bytes(1)), (MORE, bytes(500)), (LAST, bytes(500))],
]


@pytest.mark.parametrize("said", TOO_BIG)
def test_a_message_may_have_max_message_bytes_and_no_more(raw: Any, reading: Any, said: list[Frame]) -> None:
    fd, peer = raw(max_message=LIMIT)
    reader = reading(fd)
    first, payload = said[0]
    exactly = [(first, payload[1:]), *said[1:]]
    if not exactly[-1][0] & FIN:
        exactly.append((LAST, b""))
    for _ in range(3):  # the limit is each message's own
        peer.say(*exactly)
    until(lambda: len(reader.got) == 3)
    assert {len(message) for message in reader.got} == {LIMIT}
    peer.say(*said)
    heard = peer.hear_all()
    assert [(first, payload[:2]) for first, payload in heard] == [(FIN | CLOSE, b"\x03\xf1")]
    peer.close()
    end = reader.until_end()
    assert end.code == 1009
    assert isinstance(end.__cause__, MessageTooBig)
    assert len(reader.got) == 3


@pytest.mark.parametrize("first", [FIN | TEXT, BINARY])
def test_a_header_that_claims_too_much_is_refused_before_the_rest_comes(raw: Any, reading: Any, first: int) -> None:
    fd, peer = raw()
    reader = reading(fd)
    peer.sock.sendall(encode_header(first, 1 << 40, bytes(4)))
    assert (peer.hear() or (0, b""))[1][:2] == b"\x03\xf1"
    peer.close()
    assert reader.until_end().code == 1009


@pytest.mark.parametrize("name", ["max_message", "max_pending", "ping_interval", "ping_timeout", "close_timeout"])
def test_limits_are_positive_numbers(name: str) -> None:
    for value in (0, -1, "1", float("nan"), *([] if name == "ping_interval" else [None])):
        with pytest.raises(ValueError, match=f"{name} must be a positive number, not "):
            Limits(**{name: value})
    for value in (1.5, float("inf"), 1 << 63):
        if name.startswith("max_"):
            with pytest.raises(ValueError, match=f"{name} must be a whole number below "):
                Limits(**{name: value})
        else:
            Limits(**{name: value})
    assert Limits(ping_interval=None).ping_interval is None


def test_compression_is_a_compression() -> None:
    with pytest.raises(TypeError, match=r"compression must be a gws\.deflate\.Compression or None, not True"):
        Limits(compression=True)  # type: ignore[arg-type]
    assert Limits(compression=None).compression is None


# ----------------------------------------------------------------------------------------------------- 5. Ping and Pong


@pytest.mark.parametrize("payload", ["", "hi", b"", b"\x00", b"x" * 125, "ü" * 62])
def test_a_ping_is_answered_and_both_are_told(greenlets: Any, ends: Any, payload: Any) -> None:
    # "A Pong frame sent in response to a Ping frame must have identical "Application data" as found in the message body
    # of the Ping frame being replied to."  (5.5.3)
    both = ends()
    data = payload.encode() if isinstance(payload, str) else payload
    for fd in (both.server, both.client):
        greenlets(outcome, fd.read)
    both.client.ping(payload)
    until(lambda: told(both.client))
    both.server.ping(payload)
    until(lambda: len(told(both.server)) == 2)
    assert told(both.server) == [("ping", data), ("pong", data)]
    assert told(both.client) == [("pong", data), ("ping", data)]


@pytest.mark.parametrize("payload", ["x" * 126, b"x" * 126, "ü" * 63])
def test_a_ping_holds_125_bytes(raw: Any, payload: Any) -> None:
    fd, peer = raw()
    with pytest.raises(ValueError, match="a ping holds at most 125 bytes, not 126"):
        fd.ping(payload)
    fd.write("sound")
    assert peer.hear() == (FIN | TEXT, b"sound")


def test_a_pong_that_nobody_asked_for_is_told_and_no_more(raw: Any, reading: Any) -> None:
    # "A Pong frame MAY be sent unsolicited. ... A response to an unsolicited Pong frame is not expected."  (5.5.3)
    fd, peer = raw()
    reader = reading(fd)
    fd.probe()
    peer.say((FIN | PONG, b"what?"))
    until(lambda: told(fd) == [("pong", b"what?")])
    assert fd.latency is None
    assert reader.got == []


def test_the_keepalive_s_probe_measures_the_latency(raw: Any, reading: Any) -> None:
    fd, peer = raw()
    reading(fd)
    fd.probe()
    first, payload = peer.hear()
    assert (first, len(payload)) == (FIN | PING, 4)
    peer.say((FIN | PONG, payload))
    assert 0 <= until(lambda: fd.latency) < 5
    fd.probe()
    later = peer.hear()[1]
    assert later != payload
    fd.latency = None
    peer.say((FIN | PONG, payload), (FIN | PONG, b"and"))  # late: it is the last one's answer that counts
    until(lambda: ("pong", b"and") in told(fd))
    assert fd.latency is None
    assert ("pong", later) not in told(fd)  # the answer to the keepalive is not the handlers' affair


def test_a_probe_of_what_is_no_longer_open_says_nothing(raw: Any, greenlets: Any) -> None:
    fd, peer = raw()
    greenlets(fd.close)
    turns()
    fd.probe()
    peer.close()
    until(lambda: fd.closed)
    fd.probe()
    gone, peer = raw()
    peer.close()
    gone.probe()
    turns()
    gone.probe()


def test_measure(raw: Any, reading: Any, greenlets: Any) -> None:
    fd, peer = raw()
    reading(fd)
    measuring = [greenlets(fd.measure) for _ in range(2)]
    turns()
    one, other = peer.hear(), peer.hear()
    peer.say((FIN | PONG, other[1]))
    until(lambda: measuring[1].ready())
    assert not measuring[0].ready()
    peer.say((FIN | PONG, one[1]))
    assert 0 <= measuring[0].get(timeout=30) < 5
    assert fd._awaited == {}
    assert told(fd) == []


def test_measure_ends_with_the_connection(raw: Any, reading: Any, greenlets: Any) -> None:
    fd, peer = raw()
    reading(fd)
    measuring = greenlets(outcome, fd.measure)
    turns()
    peer.say((FIN | CLOSE, encode_close(1001, "away")))
    assert str(measuring.get(timeout=30)) == "1001 away"
    assert str(outcome(fd.measure)) == "1001 away"
    assert fd._awaited == {}


def test_measure_may_be_interrupted(raw: Any) -> None:
    fd, _ = raw()
    with pytest.raises(gevent.Timeout), gevent.Timeout(SHORT):
        fd.measure()
    assert fd._awaited == {}
    assert fd.state == OPEN


def test_pings_of_a_peer_that_does_not_read_are_not_answered_without_end(raw: Any, reading: Any) -> None:
    fd, peer = raw(close_timeout=SHORT)
    reading(fd)
    fill(fd)
    peer.sock.setblocking(False)
    batch = peer.wire((FIN | PING, bytes(125))) * 100
    while not isinstance(outcome(peer.sock.send, batch), BlockingIOError):
        turns(1)
    assert fd.pending < 250 * KIB


def test_a_ping_that_comes_behind_our_close_is_told_and_not_answered(raw: Any, greenlets: Any) -> None:
    fd, peer = raw()
    closing = greenlets(fd.close, 1001)
    turns()
    peer.say(PING_A, PONG_A, (FIN | CLOSE, encode_close(1001)))
    closing.join()
    assert told(fd) == [("ping", b"a"), ("pong", b"a")]
    assert peer.hear_all() == [(FIN | CLOSE, encode_close(1001))]


# --------------------------------------------------------------------------------------------------------- 6. keepalive


@pytest.fixture
def kept() -> Iterator[Any]:
    """Return a function that lets a Keepalive watch over a connection."""
    watches: list[Any] = []

    def keep(fd: WebSocket, interval: float = 0.005, timeout: float = 0.02) -> None:
        watch = Keepalive(interval, timeout)
        watch.add(fd)
        watches.append((watch, fd))

    yield keep
    for watch, fd in watches:
        watch.discard(fd)


def test_a_peer_that_says_nothing_is_cut(raw: Any, reading: Any, kept: Any) -> None:
    fd, peer = raw()
    reader = reading(fd)
    kept(fd)
    end = reader.until_end()
    assert (end.code, end.reason) == (1011, "keepalive ping timeout (0.02 s)")
    heard = peer.hear_all()
    assert {first for first, _ in heard[:-1]} == {FIN | PING}
    assert heard[-1] == (FIN | CLOSE, encode_close(1011, "keepalive ping timeout (0.02 s)"))


@pytest.mark.parametrize("who", ["server", "client"])
def test_a_peer_that_answers_is_kept(greenlets: Any, ends: Any, who: str) -> None:
    both = ends()
    for fd in (both.server, both.client):
        greenlets(outcome, fd.read)
    fd = getattr(both, who)
    watch = Keepalive(3600, 3600)  # its timers are late: we are the clock
    for _ in range(5):
        heard, fd.latency = fd.heard, None
        watch._ping(fd, None)
        until(lambda: fd.latency is not None)
        watch._judge(fd, heard)
        assert fd.state == OPEN
    watch._judge(fd, fd.heard)
    assert fd.code == 1011
    watch.discard(fd)


def test_a_busy_handler_s_peer_is_not_cut_while_its_bytes_wait(raw: Any, kept: Any) -> None:
    fd, peer = raw()
    peer.say((FIN | TEXT, b"patience"))
    kept(fd)  # and nobody reads
    pings = [peer.hear() for _ in range(15)]
    assert {first for first, _ in pings} == {FIN | PING}
    assert fd.state == OPEN
    assert fd.waiting
    assert fd.read() == "patience"
    assert outcome(fd.read).code == 1011


def test_a_slow_peer_that_cannot_be_pinged_is_cut(raw: Any, kept: Any, greenlets: Any) -> None:
    fd, _ = raw()
    fill(fd)
    writing = greenlets(outcome, fd.write, bytes(MIB))
    kept(fd)
    assert writing.get(timeout=30).code == 1011


def test_a_keepalive_lets_idle_compression_go(raw: Any) -> None:
    fd, peer = raw(deflate=Parameters())
    fd.write("x" * 1000)
    assert "held" in repr(fd.deflate)
    fd.probe()
    fd.probe()
    assert "held" not in repr(fd.deflate).split(";")[0]
    fd.write("x" * 1000)
    inflater = Deflate(Parameters(), Compression(), server=False)
    heard = [peer.hear() for _ in range(4)]
    assert [inflater.inflate(heard[i][1], MIB, True) for i in (0, 3)] == [b"x" * 1000] * 2


# ------------------------------------------------------------------------------------------------------- 7. compression

WAYS = [
    Parameters(),
    Parameters(server_no_context_takeover=True, client_no_context_takeover=True),
    Parameters(server_max_window_bits=9, client_max_window_bits=9),
]


@pytest.mark.parametrize("way", WAYS)
def test_messages_of_each_kind_and_size_compressed(greenlets: Any, ends: Any, way: Parameters) -> None:
    both = ends()
    for fd, server in ((both.server, True), (both.client, False)):
        fd.deflate = Deflate(way, Compression(), server=server)
        fd.opened()
    messages = [*MESSAGES, os.urandom(100_000), "hello " * 1000, "hello " * 1000]
    for one, other in ((both.server, both.client), (both.client, both.server)):
        greenlets(lambda one=one: [one.write(message) for message in messages])
        for message in messages:
            got = other.read()
            assert got == message
            assert type(got) is type(message)


def test_only_what_is_worth_it_is_compressed(raw: Any) -> None:
    fd, peer = raw(deflate=Parameters())
    for size, rsv in ((0, 0), (127, 0), (128, RSV1), (100_000, RSV1)):
        for message, first in (("x" * size, TEXT), (bytes(size), BINARY)):
            fd.write(message)
            assert peer.hear()[0] == FIN | first | rsv
    fd.ping("x" * 125)
    assert peer.hear()[0] == FIN | PING


COMPRESSED = deflated(b"Hello" * 3)
PLAIN = deflated("日".encode())


@pytest.mark.parametrize("piece", [MIB, 1, 3])
@pytest.mark.parametrize(
    ("said", "messages"),
    [
        ([(FIN | RSV1 | TEXT, COMPRESSED), (FIN | RSV1 | BINARY, COMPRESSED)], ["Hello" * 3, b"Hello" * 3]),
        *(([(RSV1 | TEXT, COMPRESSED[:i]), (LAST, COMPRESSED[i:])], ["Hello" * 3]) for i in range(len(COMPRESSED) + 1)),
        ([(RSV1 | TEXT, b""), PING_A, (MORE, COMPRESSED), (MORE, b""), (LAST, b"")], ["Hello" * 3]),
        # a character may be cut by the fragments of its compressed form
        *(([(RSV1 | TEXT, PLAIN[:i]), (MORE, PLAIN[i:]), (LAST, b"")], ["日"]) for i in range(len(PLAIN))),
        # any message may be sent as it is
        ([(FIN | TEXT, b"a"), (FIN | RSV1 | TEXT, COMPRESSED), (TEXT, b"b"), (LAST, b"c")], ["a", "Hello" * 3, "bc"]),
        # an empty message is one byte  (RFC 7692 section 7.2.3.6)
        ([(FIN | RSV1 | TEXT, b"\x00"), (FIN | RSV1 | BINARY, b"\x00")], ["", b""]),
        # "Using a DEFLATE Block with "BFINAL" Set to 1"  (7.2.3.4)
        ([(FIN | RSV1 | TEXT, bytes.fromhex("f348cdc9c90700") + b"\x00")] * 2, ["Hello"] * 2),
    ],
)
def test_compressed_messages_in_every_arrangement(raw: Any, reading: Any, said: Any, messages: Any, piece: int) -> None:
    fd, peer = raw(deflate=Parameters())
    reader = reading(fd)
    data = peer.wire(*said)
    for i in range(0, len(data), piece):
        peer.sock.sendall(data[i : i + piece])
        turns(1)
    until(lambda: len(reader.got) == len(messages))
    assert reader.got == messages
    assert fd.state == OPEN


@pytest.mark.parametrize(
    ("said", "code"),
    [
        # "An endpoint MUST NOT set the "Per-Message Compressed" bit of control frames and non-first fragments of a data
        # message."  (RFC 7692 section 6)
        ([(RSV1 | TEXT, COMPRESSED[:3]), (LAST | RSV1, COMPRESSED[3:])], 1002),
        ([(RSV1 | TEXT, COMPRESSED[:3]), (MORE | RSV1, COMPRESSED[3:])], 1002),
        ([(FIN | PING | RSV1, b"")], 1002),
        ([(FIN | CLOSE | RSV1, b"")], 1002),
        ([(FIN | TEXT | 0x20, b"")], 1002),
        ([(RSV1 | TEXT, COMPRESSED), (FIN | RSV1 | TEXT, COMPRESSED)], 1002),
        ([(RSV1 | TEXT, COMPRESSED), (RSV1 | TEXT, COMPRESSED)], 1002),
        ([(TEXT, b"a"), (FIN | RSV1 | BINARY, COMPRESSED)], 1002),
        ([(FIN | RSV1 | BINARY, b"\xff\xff")], 1007),
        ([(RSV1 | BINARY, b"\xff\xff")], 1007),
        ([(RSV1 | BINARY, b""), (MORE, b"\xff\xff")], 1007),
        ([(FIN | RSV1 | TEXT, deflated(b"\xff"))], 1007),
        ([(FIN | RSV1 | TEXT, deflated(HALF))], 1007),
        ([(RSV1 | TEXT, deflated(b"\xff") + b"\0\0\xff\xff")], 1007),
        ([(RSV1 | TEXT, deflated(HALF)), (LAST, b"")], 1007),
        ([(RSV1 | TEXT, deflated(HALF) + b"\0\0\xff\xff"), (MORE, deflated(b"\xff") + b"\0\0\xff\xff")], 1007),
    ],
)
def test_compressed_messages_that_break_the_rules(raw: Any, reading: Any, said: Any, code: int) -> None:
    fd, peer = raw(deflate=Parameters())
    reader = reading(fd)
    peer.say(*said)
    heard = peer.hear_all()
    assert [(first, payload[:2]) for first, payload in heard] == [(FIN | CLOSE, encode_close(code))]
    peer.close()
    assert reader.until_end().code == code
    assert reader.got == []


@pytest.mark.parametrize("parts", [1, 2, 5])
@pytest.mark.parametrize("kind", ["zeros", "noise"])
def test_the_limit_is_what_a_message_inflates_to(raw: Any, reading: Any, kind: str, parts: int) -> None:
    limit = 20_000
    fd, peer = raw(deflate=Parameters(), max_message=limit)
    reader = reading(fd)
    data = bytes(limit + 1) if kind == "zeros" else os.urandom(limit + 1)  # noise grows when it is deflated
    for size in (limit, limit, limit + 1):
        payload = deflated(data[:size])
        assert kind == "zeros" or len(payload) > size
        step = -(-len(payload) // parts)
        pieces = [payload[i : i + step] for i in range(0, len(payload), step)]
        firsts = [RSV1 | BINARY] + [MORE] * (parts - 1)
        peer.say(*((first | (FIN if piece is pieces[-1] else 0), piece) for first, piece in zip(firsts, pieces)))
    assert (peer.hear() or (0, b""))[1][:2] == encode_close(1009)
    peer.close()
    assert isinstance(reader.until_end().__cause__, MessageTooBig)
    assert reader.got == [data[:limit]] * 2


def test_compressed_fragments_within_the_largest_limit(raw: Any) -> None:
    # The fuzzer of the twins: what may be added to such a limit goes beyond what the compiled stream can count.
    fd, peer = raw(deflate=Parameters(), max_message=sys.maxsize - 1)
    data = deflated(b"Hello" * 10)
    peer.say((RSV1 | TEXT, data[:3]), (LAST, data[3:]), (FIN | RSV1 | TEXT, data), (FIN | RSV1 | BINARY, data))
    assert [fd.read() for _ in range(3)] == ["Hello" * 10, "Hello" * 10, b"Hello" * 10]


def test_compressed_fragments_without_end_are_refused(raw: Any, reading: Any) -> None:
    """Empty blocks inflate to nothing; but what they weigh on the wire is bounded."""
    fd, peer = raw(deflate=Parameters(), max_message=1000)
    reader = reading(fd)
    empty = b"\x00\x00\x00\xff\xff" * 20
    peer.say((RSV1 | BINARY, empty), *[(MORE, empty)] * ((1000 + slack(1000)) // 100 + 1))
    assert (peer.hear() or (0, b""))[1][:2] == encode_close(1009)
    peer.close()
    assert reader.until_end().code == 1009


@pytest.mark.parametrize("first", [FIN | RSV1 | BINARY, RSV1 | TEXT])
def test_a_bomb_takes_no_more_than_the_limit(raw: Any, reading: Any, first: int) -> None:
    fd, peer = raw(deflate=Parameters(), max_message=100_000)
    reader = reading(fd)
    bomb = deflated(bytes(50 * MIB))
    assert len(bomb) < 100_000
    tracemalloc.start()
    try:
        peer.say((first, bomb))
        assert (peer.hear() or (0, b""))[1][:2] == encode_close(1009)
        assert tracemalloc.get_traced_memory()[1] < 2 * MIB
    finally:
        tracemalloc.stop()
    peer.close()
    assert reader.until_end().code == 1009


# ---------------------------------------------------------------------------------------------------------- 8. the face


@pytest.mark.parametrize(
    ("addr", "shown"),
    [(("127.0.0.1", 80), "127.0.0.1:80"), (("::1", 80, 0, 0), "::1:80"), ("/run/s", "/run/s"), (None, "-")],
)
def test_repr_in_every_state(pair: Any, greenlets: Any, addr: Any, shown: str) -> None:
    stream, sock = pair()
    fd = WebSocket(stream, Owner(), Limits(), server=True, addr=addr)
    assert repr(fd) == f"<WebSocket {fd.number} {shown} connecting>"
    fd.opened()
    assert repr(fd) == f"<WebSocket {fd.number} {shown} open>"
    closing = greenlets(fd.close)
    turns()
    assert repr(fd) == f"<WebSocket {fd.number} {shown} closing>"
    Peer(sock, server=False).say((FIN | CLOSE, encode_close(1001, "away")))
    closing.join(timeout=30)
    assert repr(fd) == f"<WebSocket {fd.number} {shown} closed 1001 away>"
    other = WebSocket(pair()[0], Owner(), Limits(), server=True)
    other.cut(1001, "")
    assert repr(other) == f"<WebSocket {other.number} - closed 1006>"


def test_a_connection_is_a_key(raw: Any) -> None:
    (one, _), (other, _) = raw(), raw()
    assert {one: 1, other: 2}[one] == 1
    assert one != other
    assert one.number < other.number
    assert one.data is one.protocol is one.request is one.path is one.latency is None
    one.data = "mine"
    one.request = SimpleNamespace(path="/chat")
    assert (one.data, one.path) == ("mine", "/chat")


def test_states_follow_one_another(raw: Any, greenlets: Any) -> None:
    fd, peer = raw()
    seen = [fd.state, fd.closed, fd.code]
    ended = fd.ended
    closing = greenlets(fd.close)
    turns()
    seen += [fd.state, fd.closed, fd.code, ended.is_set()]
    peer.say(BYE)
    closing.join(timeout=30)
    seen += [fd.state, fd.closed, fd.code, ended.is_set()]
    assert seen == [OPEN, False, None, CLOSING, False, None, False, CLOSED, True, 1000, True]


def test_a_peer_that_sends_but_does_not_read_is_cut(raw: Any, kept: Any, greenlets: Any) -> None:
    fd, peer = raw()
    peer.say((FIN | TEXT, b"unread"))
    writing = greenlets(outcome, lambda: fd.write(bytes(16 * 1024 * 1024)))  # a handler that writes, and does not read
    kept(fd)
    assert isinstance(writing.get(), ConnectionClosed)
    assert fd.code == 1011


@pytest.mark.parametrize("deflate", [None, Parameters()], ids=["plain", "deflate"])
def test_however_many_write_to_a_slow_peer_little_more_than_max_pending_waits(
    raw: Any, greenlets: Any, deflate: Any
) -> None:
    fd, peer = raw(deflate=deflate, max_pending=1_000_000)
    messages = [bytes([number]) + os.urandom(100_000) for number in range(40)]
    writers = [greenlets(fd.write, message) for message in messages]
    turns()
    assert 1_000_000 < fd.pending < 1_000_000 + 110_000
    assert sum(writer.ready() for writer in writers) < 5  # those whose messages the kernel has taken
    inflate = zlib.decompressobj(-15)
    for message in messages:  # and it all comes, in order
        first, payload = peer.hear()
        assert first == FIN | BINARY | (RSV1 if deflate else 0)
        assert (inflate.decompress(payload + b"\0\0\xff\xff") if deflate else payload) == message
    gevent.joinall(writers, raise_error=True)


@pytest.mark.parametrize("max_pending", [1, 1000, 64 * 1024])
def test_a_thousand_writers_take_turns_however_little_may_wait(raw: Any, greenlets: Any, max_pending: int) -> None:
    fd, peer = raw(max_pending=max_pending)
    messages = [b"%06d" % number + bytes(3000) for number in range(1000)]  # more rounds than frames fit on a stack
    writers = [greenlets(fd.write, message) for message in messages]
    turns()
    assert max_pending < fd.pending <= max_pending + 3010
    assert sorted(peer.hear() for _ in messages) == [(FIN | BINARY, message) for message in messages]
    gevent.joinall(writers, raise_error=True)


def test_what_a_subclass_does_to_a_message_is_done_once_also_if_it_has_to_wait(pair: Any, greenlets: Any) -> None:
    class Quoting(WebSocket):
        def write(self, message: Any) -> None:
            super().write(f"<{message}>")

    stream, sock = pair(masked=True)
    fd, peer = Quoting(stream, Owner(), Limits(max_pending=1000), server=True), Peer(sock, server=False)
    fd.opened()
    large = "x" * 500_000
    writers = [greenlets(fd.write, message) for message in (large, "waits")]
    turns()
    assert [peer.hear()[1] for _ in writers] == [f"<{large}>".encode(), b"<waits>"]
    fd.cut(1001, "the test is over")


def test_a_timeout_before_a_message_was_queued_leaves_nothing(raw: Any, greenlets: Any) -> None:
    fd, peer = raw(max_pending=1_000_000)
    large = bytes(2_000_000)
    writer = greenlets(fd.write, large)
    turns()
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.01):
        fd.write("nobody hears this")
    assert peer.hear() == (FIN | BINARY, large)
    writer.get()
    fd.write("this is heard")
    assert peer.hear() == (FIN | TEXT, b"this is heard")


def test_who_waits_to_write_hears_of_the_end(raw: Any, greenlets: Any) -> None:
    fd, _ = raw(max_pending=1_000_000)
    greenlets(outcome, fd.write, bytes(2_000_000))
    turns()
    waiting = greenlets(outcome, fd.write, "x")
    turns()
    assert not waiting.ready()
    fd.cut(1001, "enough")
    assert isinstance(waiting.get(), ConnectionClosed)
