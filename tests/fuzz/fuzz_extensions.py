"""Invariant: any Sec-WebSocket-Extensions is read as websockets reads it or refused; an answer fits the offer it answers.

Of offers the first sound one is answered, with nothing that it does not allow (RFC 7692 section 7.1); whatever two ends of
gws are set to, they agree, and each inflates what the other deflates.
"""

from __future__ import annotations

import sys
import zlib
from typing import Any, NamedTuple

import fuzzing
from heads import values
from hypothesis import strategies as st
from websockets.exceptions import InvalidHeaderFormat, NegotiationError
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.headers import parse_extension

from gws.deflate import Compression, Deflate
from gws.errors import HandshakeError
from gws.handshake import Headers, extensions
from gws.parameters import NAME, accept, accepted, offer

__all__ = ["CASES", "check"]

FIELD = "Sec-WebSocket-Extensions"
FLAGS = ("server_no_context_takeover", "client_no_context_takeover")
BITS = ("server_max_window_bits", "client_max_window_bits")
TAIL = b"\x00\x00\xff\xff"


class Case(NamedTuple):
    header: str  # what a peer may send, as an offer or as an answer
    server: Compression
    client: Compression
    messages: list[bytes]


NAMES = st.sampled_from([*FLAGS, *BITS, *BITS, "x", "a b", ""])
NUMBERS = st.sampled_from(
    ["", "7", "8", "9", "10", "15", "16", "08", '"10"', '"1\\0"', '"', '"a b"', "-8", "x", " 9", "9 "]
)
PARAMETERS = st.one_of(NAMES, st.builds("{}={}".format, NAMES, NUMBERS), values())
SPACED = st.sampled_from(["; ", ";", " ;\t", ";;"])
ELEMENTS = st.builds(
    lambda name, params, between: between.join([name, *params]),
    st.sampled_from([NAME, NAME, NAME, NAME.upper(), "x-webkit-deflate-frame", ""]),
    st.lists(PARAMETERS, max_size=4),
    SPACED,
)
HEADERS = st.one_of(
    st.lists(ELEMENTS, max_size=3).map(", ".join), st.lists(ELEMENTS, max_size=3).map(",".join), values()
)
COMPRESSIONS = st.builds(
    Compression,
    threshold=st.just(0),
    window_bits=st.integers(8, 15),
    peer_window_bits=st.one_of(st.none(), st.integers(8, 15)),
    mem_level=st.sampled_from([1, 5, 9]),
    level=st.sampled_from([-1, 0, 1, 9]),
    server_no_context_takeover=st.booleans(),
    client_no_context_takeover=st.booleans(),
)
TEXTS = st.one_of(
    st.binary(max_size=40),
    st.builds(lambda seed, n: (seed + b"abcdefgh") * n, st.binary(max_size=9), st.integers(0, 400)),
)
CASES = st.builds(
    Case, HEADERS.map(lambda header: header.strip(" \t")), COMPRESSIONS, COMPRESSIONS, st.lists(TEXTS, max_size=4)
)


def check(case: Case) -> None:
    """Hold one header, and two ends, against the invariant."""
    parsed = read(case.header)
    if parsed is not None:
        offered(parsed, case.server)
        answered(parsed, case.client)
    agrees(case)


def read(header: str) -> Any:
    """Return what gws reads in a header, None if it refuses it; what gws reads, websockets reads."""
    try:
        parsed = extensions(Headers([(FIELD, header)]))
    except HandshakeError as error:
        assert error.status == 400
        return None
    try:
        theirs = parse_extension(header)
    except InvalidHeaderFormat as error:
        raise AssertionError(f"websockets refuses it: {error}") from None
    assert parsed == theirs
    return parsed


def offered(offers: Any, compression: Compression) -> None:
    """Answer offers, and hold the answer against the offer that websockets would have chosen."""
    sound = [params for name, params in offers if name == NAME and is_sound(params)]
    answer = accept(offers, compression)
    assert (answer is None) == (not sound)
    if answer is None:
        return
    header, agreed = answer
    ((name, params),) = extensions(Headers([(FIELD, header)]))
    assert name == NAME
    asked, given = dict(sound[0]), dict(params)
    assert len(given) == len(params)
    for flag in FLAGS:
        assert flag in given or flag not in asked
        assert getattr(agreed, flag) == (flag in given)
    for bits in BITS:
        assert getattr(agreed, bits) == int(given.get(bits, 15))
        assert bits not in given or int(given[bits]) <= int(asked.get(bits) or 15)
    assert "server_max_window_bits" in given or "server_max_window_bits" not in asked
    assert "client_max_window_bits" in asked or "client_max_window_bits" not in given


def is_sound(params: Any) -> bool:
    """Ask websockets whether an offer is; its zlib's want of a window of 8 bits aside."""
    params = [(name, "9" if name in BITS and value == "8" else value) for name, value in params]
    try:
        ServerPerMessageDeflateFactory().process_request_params(params, [])
    except NegotiationError:
        return False
    return True


def answered(answer: Any, compression: Compression) -> None:
    """Judge an answer; what is accepted keeps to what was asked for."""
    try:
        agreed = accepted(answer, compression)
    except HandshakeError as error:
        assert error.status == 101
        return
    if agreed is None:
        assert answer == []
        return
    assert agreed.server_max_window_bits <= (compression.peer_window_bits or 15)
    assert agreed.server_no_context_takeover or not compression.server_no_context_takeover


def agrees(case: Case) -> None:
    """Let two ends of gws agree, and talk."""
    answer = accept(extensions(Headers([(FIELD, offer(case.client))])), case.server)
    assert answer is not None
    header, ours = answer
    theirs = accepted(extensions(Headers([(FIELD, header)])), case.client)
    assert theirs is not None
    assert ours[::2] == theirs[::2]
    assert theirs.client_no_context_takeover >= ours.client_no_context_takeover
    server, client = Deflate(ours, case.server, server=True), Deflate(theirs, case.client, server=False)
    talks(server, client, ours.server_max_window_bits, ours.server_no_context_takeover, case.messages)
    talks(client, server, ours.client_max_window_bits, ours.client_no_context_takeover, case.messages)


def talks(one: Deflate, other: Deflate, bits: int, fresh: bool, messages: list[bytes]) -> None:
    """Let one deflate, and the other inflate, as zlib does within the window that was agreed on."""
    inflater = zlib.decompressobj(-bits)
    for message in messages:
        payload = one.deflate(message)
        assert other.inflate(payload, len(message), True) == message
        assert inflater.decompress(payload + TAIL) == message
        if fresh:
            inflater = zlib.decompressobj(-bits)


if __name__ == "__main__":
    sys.exit(fuzzing.main(["extensions", *sys.argv[1:]]))
