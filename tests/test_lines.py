"""Lines of text: which first words are a request, what is a line, and what ends the talk."""

from __future__ import annotations

import pytest
from conftest import until

from gws import lines

pytestmark = pytest.mark.usefixtures("deadline")


@pytest.mark.parametrize(
    ("said", "first", "request_"),
    [
        (b"list\n", b"l", False),
        (b"\n", b"\n", False),
        (b"LIST\n", b"LIST\n", False),
        (b"LIST x\n", b"LIST x", False),
        (b"KILL :1\n", b"KILL :", False),
        (b"GET / HTTP/1.1\r\n", b"GET /", True),
        (b"OPTIONS * HTTP/1.1\r\n", b"OPTIONS *", True),
        (b"GET  / HTTP/1.1\r\n", b"GET  ", False),
        (b"A" * 30, b"A" * 21, False),
        (b"\x16\x03\x01", b"\x16", False),
    ],
)
def test_the_first_words(pair, said, first, request_):
    stream, peer = pair()
    peer.sendall(said)
    assert lines.first_words(stream) == first
    assert lines.begins_request(first) is request_


@pytest.mark.parametrize(
    ("said", "then", "read"),
    [
        (b"", b"list\nstat\r\n\n mem \n", ["list", "stat", "", "mem"]),
        (b"l", b"ist", ["list"]),
        (b"list\nst", b"at\n", ["list", "stat"]),
        (b"", b"", []),
        (b"", "kill .g\u00e4te\n".encode(), ["kill .g\u00e4te"]),
        (b"", b"\xff\n", ["\ufffd"]),
        (b"", b"x" * 1023 + b"\n", ["x" * 1023]),
    ],
)
def test_lines(pair, said, then, read):
    stream, peer = pair()
    peer.sendall(then)
    peer.close()
    assert list(lines.read(stream, said)) == read


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (b"x" * 1025, "longer than 1024 bytes"),
        (b"list\x00\n", "no text"),
        (b"\x1b[A\n", "no text"),
        (b"list\x7f\n", "no text"),
        (b"get / HTTP/1.1\r\n", "no request for us"),
    ],
)
def test_what_is_no_line(pair, said, text):
    stream, peer = pair()
    peer.sendall(said)
    with pytest.raises(ValueError, match=text):
        next(lines.read(stream, b""))


def test_what_is_posted_and_the_last_words(pair):
    stream, peer = pair()
    lines.post(stream, ["one", "tw\udc80o"])
    peer.shutdown(1)
    lines.part(stream, "bye")
    stream.close()
    heard = b""
    while more := peer.recv(100):
        heard += more
    assert heard == b"one\ntw\\udc80o\nbye\n"


def test_nothing_is_posted_to_whoever_is_gone(pair):
    stream, _ = pair()
    stream.close()
    lines.post(stream, ["one"])
    until(lambda: not stream.pending)
