"""Hostile servers, and what they do to a client with default options: next to nothing.

The client is a process of its own, on each of the streams: it takes no more than 64 MiB, is told what was wrong, and goes
on.  Answers to the opening handshake that are merely wrong are in test_client.py.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket as stdlib

import gevent
import pytest
from by_hand import deflated
from gevent.server import StreamServer
from hostile import MIB
from programs import PATIENCE, python

from gws.frame import BINARY, CLOSE, CONTINUATION, FIN, PING, RSV1, TEXT, encode, encode_close, encode_header
from gws.handshake import accept_response
from gws.stream import Plain, Stream

KINDS = ["plain"] if Stream is Plain else ["compiled", "plain"]
EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"
DEFLATE = "permessage-deflate"


def say(first, payload=b""):
    return encode_header(first, len(payload), None) + payload


def fragments(first, payload, size):
    pieces = [payload[at : at + size] for at in range(0, len(payload), size)]
    return b"".join(
        [say(first, pieces[0]), *(say(CONTINUATION, piece) for piece in pieces[1:]), say(FIN | CONTINUATION)]
    )


def answer(extensions, data=b""):
    """Return what a server says that agrees on these extensions."""
    return lambda key: accept_response(key, None, extensions) + data


def plainly(data, times=1):
    """Return what a server says instead of a 101, so many times; None: for ever."""
    return lambda key: data if times == 1 else (data for _ in iter(int, 1))


BOMB = deflated(bytes(200 * MIB))
GOOD = say(FIN | TEXT, b"good")

# What the server says; what the client was told in the end; and how many messages, of how many bytes, it got before.
ATTACKS = {
    "masked": (answer(None, GOOD + encode(b"hello", masked=True)), "1002 .*mask", (1, 4)),
    "RSV1": (answer(None, say(FIN | RSV1 | TEXT, deflated(b"a"))), "1002 a reserved bit", (0, 0)),
    "text": (answer(None, say(FIN | TEXT, b"\xff")), "1007", (0, 0)),
    "interleaved": (answer(None, say(TEXT, b"a") + GOOD), "1002", (0, 0)),
    "close": (answer(None, GOOD + say(FIN | CLOSE, b"\x03\xed") + GOOD * 100_000), "1002 .*1005", (1, 4)),
    "claim": (answer(None, b"\x82\x7f" + (1 << 40).to_bytes(8, "big") + bytes(1000)), "1009", (0, 0)),
    "overflow": (answer(None, b"\x82\x7f" + b"\xff" * 8), "1002", (0, 0)),
    "bomb": (answer(DEFLATE, say(FIN | RSV1 | BINARY, BOMB)), "1009", (0, 0)),
    "bomb-in-fragments": (answer(DEFLATE, fragments(RSV1 | TEXT, BOMB, 100)), "1009", (0, 0)),
    "bombs": (
        answer(DEFLATE, say(FIN | RSV1 | BINARY, deflated(bytes(MIB))) * 20 + say(FIN | CLOSE)),
        "1005",
        (20, 20 * MIB),
    ),
    "tiny-fragments": (answer(None, fragments(BINARY, bytes(100_000), 1) + say(FIN | CLOSE)), "1005", (1, 100_000)),
    "empty-fragments": (
        answer(
            None,
            say(TEXT) + say(CONTINUATION) * 300_000 + say(FIN | CONTINUATION) + say(FIN | CLOSE, encode_close(1001)),
        ),
        "1001",
        (1, 0),
    ),
    "pings": (
        answer(None, say(FIN | PING, bytes(125)) * 50_000 + say(FIN | CLOSE, encode_close(4000, "\x1b[2J"))),
        r"4000 '\\x1b\[2J'",
        (0, 0),
    ),
    "window-16": (
        answer(f"{DEFLATE}; server_max_window_bits=16"),
        "HandshakeError: 101 .*server_max_window_bits",
        None,
    ),
    "window-7": (answer(f"{DEFLATE}; client_max_window_bits=7"), "HandshakeError: 101 .*client_max_window_bits", None),
    "twice": (answer(f"{DEFLATE}, {DEFLATE}"), "HandshakeError: 101", None),
    "parameter-twice": (
        answer(f"{DEFLATE}; server_no_context_takeover; server_no_context_takeover"),
        "HandshakeError: 101",
        None,
    ),
    "another-extension": (answer("x-webkit-deflate-frame"), "HandshakeError: 101 .*did not ask", None),
    "early-hints-without-end": (plainly(EARLY, None), "HandshakeError: more than 10 interim", None),
    "a-head-without-end": (
        plainly(b"HTTP/1.1 101 Switching Protocols\r\n" + b"X: y\r\n" * 50, None),
        "HandshakeError: .*longer than 8192",
        None,
    ),
    "redirects-without-end": (
        plainly(b"HTTP/1.1 302 Found\r\nLocation: redirects-without-end\r\n\r\n"),
        "HandshakeError: more than 10 redirects",
        None,
    ),
    "a-body-without-end": (
        plainly(b"HTTP/1.1 403 No\r\nContent-Length: 999999999\r\n\r\n" + bytes(100_000), None),
        "HandshakeError: 403",
        None,
    ),
    "another-key": (lambda key: accept_response("AQIDBAUGBwgJCgsMDQ4PEA=="), "HandshakeError: 101 .*our key", None),
    "not-http": (plainly(b"220 mail.example ESMTP\r\n" * 1000, None), "HandshakeError: .*longer than 8192", None),
}


@pytest.fixture(scope="module")
def hostile():
    """The port of a server that attacks as the path of the request says."""

    def serve(sock, addr):
        with contextlib.suppress(ConnectionError), contextlib.closing(sock):
            head = sock.recv(65536)  # a client's request is a packet
            path, key = re.search(rb"^GET /(\S+).*Sec-WebSocket-Key: (\S+)", head, re.S).groups()
            said = ATTACKS[path.decode()][0](key.decode())
            for data in [said] if isinstance(said, bytes) else said:
                sock.sendall(data)
            sock.shutdown(stdlib.SHUT_WR)  # else a client waits for that, as it should: for close_timeout
            while sock.recv(65536):
                pass

    server = StreamServer(("127.0.0.1", 0), serve)
    server.start()
    yield server.server_port
    server.stop()


@pytest.fixture(scope="module", params=KINDS)
def victim(request):
    with python("tests/peers/victim.py", environment={"GWS_PURE": "1"} if request.param == "plain" else {}) as program:
        yield program


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_it_does_to_a_client(attack, hostile, victim):
    _, end, got = ATTACKS[attack]
    with gevent.Timeout(PATIENCE):
        victim.write_line(f"ws://127.0.0.1:{hostile}/{attack}")
        told = json.loads(victim.read_line())
    assert re.match(end, told["end"]), told["end"]
    assert got is None or (told["messages"], told["bytes"]) == got
    assert told["memory"] < 64 * MIB
