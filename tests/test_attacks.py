"""Attacks that nobody has been hurt by yet: as `test_cve`, each on a fresh server with default options.

`hostile.attacked` asserts for all of them that the server takes no more than 64 MiB, that nothing of the attackers'
stays, and that a well-behaved neighbour never waits longer than 0.5 s.  What a hostile server does to a client of ours
is in test_bad_servers.py.
"""

from __future__ import annotations

import socket as stdlib
import zlib

import gevent
import pytest
from by_hand import deflated
from hostile import DEFLATE, MIB, attacked, hello, wire

from gws.frame import BINARY, CLOSE, CONTINUATION, FIN, PING, RSV1, TEXT, encode_close
from gws.stream import Plain, Stream

KINDS = ["plain"] if Stream is Plain else ["compiled", "plain"]
COMPRESSED = {name.replace("-", "_"): value for name, value in DEFLATE.items()}


@pytest.fixture(params=KINDS)
def target(request):
    with gevent.Timeout(60), attacked(request.param) as target:
        yield target


# ------------------------------------------------------------------------------------------------ the opening handshake


def test_heads_that_come_byte_by_byte(target):
    """A crowd whose heads are never whole costs what it has sent, and holds nobody up."""
    crowd = [target.attack() for _ in range(500)]
    for byte in hello()[:60]:
        for attacker in crowd:
            attacker.send(bytes([byte]))
    target.enter().echo(b"let in, past all of them")


TWICE = {
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
    "Host": "localhost",
}
HEADS = {
    **{f"two of {name}": (hello(more=f"{name}: {value}\r\n"), 400) for name, value in TWICE.items()},
    "another key": (hello(more="Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==\r\n"), 400),
    "no key": (hello(Sec_WebSocket_Key=None), 400),
    "a key of 15 bytes": (hello(Sec_WebSocket_Key="AQIDBAUGBwgJCgsMDQ4P"), 400),
    "another version": (hello(Sec_WebSocket_Version="8"), 426),
    "many versions": (hello(Sec_WebSocket_Version="13, 8"), 400),
    "a POST": (hello("POST / HTTP/1.1"), 405),
    "HTTP/1.0": (hello("GET / HTTP/1.0"), 505),
    "a continuation line": (hello(more="X: a\r\n\tb\r\n"), 400),
    "a continuation line at once": (hello("GET / HTTP/1.1\r\n X: y"), 400),
    "no colon": (hello(more="Upgrade\r\n"), 400),
    "a control character": (hello("GET /\x1b[2J HTTP/1.1"), 400),
    "a fragment": (hello("GET /#top HTTP/1.1"), 400),
    "a body": (hello(more="Content-Length: 5\r\n") + b"hello", 413),
    "a long list of connections": (hello(Connection="Upgrade" + ", x" * 2500), 101),
}


def test_heads_that_are_wrong(target):
    """Each is told what is wrong, and hung up on; what stands behind them is nobody's."""
    for case, (head, status) in HEADS.items():
        attacker = target.attack(head + (b"" if status == 101 else hello() * 3))
        assert attacker.status() == status, case
        if status != 101:
            assert b" 101 " not in attacker.rest(), case


def test_a_crowd_that_pipelines(target):
    """A thousand requests in a packet are answered once."""
    plain = hello(Upgrade=None, Connection="keep-alive", Sec_WebSocket_Key=None)
    crowd = [target.attack(plain * 500) for _ in range(20)]
    for attacker in crowd:
        assert attacker.status() == 200
        assert b"HTTP/1.1" not in attacker.rest()


# ------------------------------------------------------------------------------------------------------------- messages

SEQUENCES = {
    "a message in a message": (wire(TEXT, b"a") + wire(FIN | TEXT, b"b"), 1002),
    "a message in one of another kind": (wire(TEXT, b"a") + wire(BINARY, b"b"), 1002),
    "nothing to continue": (wire(FIN | CONTINUATION, b"a"), 1002),
    "a ping in fragments": (wire(PING, b"a"), 1002),
    "a close in fragments": (wire(CLOSE, encode_close(1000)), 1002),
    "RSV1 without compression": (wire(FIN | RSV1 | TEXT, deflated(b"a")), 1002),
    "half a character at the end": (wire(FIN | TEXT, b"\xf0\x9f\x90"), 1007),
    "half a character over two messages": (wire(TEXT, b"\xf0\x9f") + wire(FIN | CONTINUATION), 1007),
    "a surrogate, byte by byte": (
        wire(TEXT, b"\xed") + wire(CONTINUATION, b"\xa0") + wire(FIN | CONTINUATION, b"\x80"),
        1007,
    ),
    "a ping of 126": (wire(FIN | PING, bytes(126)), 1002),
    "opcode 11": (wire(FIN | 11), 1002),
    "a close of one byte": (wire(FIN | CLOSE, b"\x03"), 1002),
    "a close with 1005": (wire(FIN | CLOSE, b"\x03\xed"), 1002),
    "a close with 65535": (wire(FIN | CLOSE, b"\xff\xff"), 1002),
    "a close with bad UTF-8": (wire(FIN | CLOSE, b"\x03\xe8\xff"), 1007),
    "a good close": (wire(FIN | CLOSE, encode_close(4321, "and now")), 4321),
}


def test_wrong_sequences_and_a_flood_behind_them(target):
    """The fault is named, though megabytes stand behind it that nobody reads."""
    flood = wire(FIN | TEXT, b"x" * 1000) * 3000

    def attack(data):
        attacker = target.enter()
        sending = gevent.spawn(attacker.send, data + flood)
        code = attacker.verdict()
        attacker.sock.close()
        sending.join()
        return code

    for case, (data, code) in SEQUENCES.items():
        assert attack(data) == code, case


def test_a_bomb_in_very_many_fragments(target):
    """Each of a few bytes, and each inflates to a little: the sum is bounded while it comes."""
    attackers = [target.enter(**COMPRESSED) for _ in range(5)]
    payload = deflated(bytes(20 * MIB))
    pieces = b"".join(wire(CONTINUATION, payload[at : at + 3]) for at in range(3, len(payload), 3))
    for attacker in attackers:
        attacker.send(wire(RSV1 | TEXT, payload[:3]) + pieces)
    assert [attacker.verdict() for attacker in attackers] == [1009] * 5


def test_pings_whose_pongs_are_not_read(target):
    """Who does not read is read from no more."""
    attackers = [target.enter() for _ in range(10)]
    pings = wire(FIN | PING, bytes(125)) * 8000

    def pour(attacker):
        with gevent.Timeout(0.5, False):
            while True:
                attacker.send(pings)
                attacker.rounds = getattr(attacker, "rounds", 0) + 1

    gevent.joinall([gevent.spawn(pour, attacker) for attacker in attackers], raise_error=True)
    target.enter().echo(b"still served")


def test_contexts_of_a_crowd(target):
    """Everybody has agreed on compression, and says a word in it: contexts are small, and made when needed."""
    crowd = [target.enter(**COMPRESSED) for _ in range(300)]
    for attacker in crowd:
        attacker.send(wire(FIN | RSV1 | TEXT, deflated(b"word " * 100)))
    for attacker in crowd:
        first, payload = attacker.frame()
        assert (first, zlib.decompressobj(-15).decompress(payload + b"\0\0\xff\xff")) == (TEXT, b"word " * 100)


def test_tiny_broadcasts_to_who_never_reads(target):
    """What waits for a slow reader costs its bytes, however small the messages are."""
    deaf = [target.attack() for _ in range(5)]
    for attacker in deaf:
        attacker.sock.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_RCVBUF, 4096)
        attacker.send(hello())
        attacker.enter()
        attacker.send(wire(FIN | TEXT, b"join"))
        assert attacker.frame() == (TEXT, b"joined")
    speaker = target.enter()
    said = wire(FIN | TEXT, b"all:") * 10_000
    for _ in range(20):
        speaker.send(said)
    speaker.echo(b"said")


def test_a_slow_reader_of_broadcasts(target):
    """It reads a byte now and then; everybody else has all of it at once."""
    slow, quick = target.enter(), target.enter()
    for attacker in (slow, quick):
        attacker.send(wire(FIN | TEXT, b"join"))
        assert attacker.frame() == (TEXT, b"joined")
    speaker = target.enter()
    for number in range(30):
        said = b"all:%d " % number + bytes(400_000)
        speaker.send(wire(FIN | TEXT, said))
        assert quick.frame() == (TEXT, said)
        slow.sock.recv(1)


def test_half_open_crowd(target):
    """Who says that it has no more to say, and never leaves, is let go of."""
    crowd = [target.enter() for _ in range(200)]
    for number, attacker in enumerate(crowd):
        if number % 2:
            attacker.send(wire(TEXT, b"half a message"))
        attacker.sock.shutdown(stdlib.SHUT_WR)
    for attacker in crowd:
        assert attacker.frame() is None


def test_closes_and_goes_on(target):
    """After its Close a peer is listened to no longer, however much it says."""
    attackers = [target.enter() for _ in range(10)]
    data = wire(FIN | CLOSE, encode_close(1000)) + wire(FIN | TEXT, b"x" * 100_000) * 50
    sending = [gevent.spawn(attacker.send, data) for attacker in attackers]
    assert [attacker.verdict() for attacker in attackers] == [1000] * 10
    assert {attacker.frame() for attacker in attackers} == {None}
    gevent.joinall(sending)


def test_a_storm_of_bombs_whose_senders_are_gone(target):
    """They come faster than their bombs are inflated: who waits for that costs what it has sent, and no inflater."""
    bomb = hello(**COMPRESSED) + wire(FIN | RSV1 | BINARY, deflated(bytes(MIB)))
    for _ in range(7):
        crowd = [target.attack(bomb) for _ in range(100)]
        for attacker in crowd:
            attacker.enter()
            attacker.vanish()
    target.enter().echo(b"still served")
