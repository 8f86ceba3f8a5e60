"""Invariant: of any bytes, a response's head is accepted or refused by a HandshakeError, and accepted as others read it.

What gws accepts h11 accepts, but for EXCUSES, and finds the same status and headers in it.  And whatever a caller wants to
send in a head is either a ValueError or read by h11 as just that: nobody can smuggle in a line.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import fuzzing
import h11
from fuzz_request import grouped
from heads import ACCEPT, KEY, heads, values
from hypothesis import strategies as st

from gws.errors import HandshakeError
from gws.handshake import (
    accept_response,
    check_response,
    encode_response,
    parse_request,
    parse_response,
    upgrade_request,
)

__all__ = ["CASES", "EXCUSES", "check"]

SOUND = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Accept: {ACCEPT}\r\nSec-WebSocket-Protocol: chat\r\nServer: x\r\n\r\n"
)

# What h11 says of a head that gws accepts, and why gws may.
EXCUSES = {
    "multiple Transfer-Encoding headers": "what frames a body is the client's matter",
    "Only Transfer-Encoding: chunked is supported": "the same",
    "bad Content-Length": "the same",
    "conflicting Content-Length headers": "the same",
}


class Incoming(NamedTuple):
    head: bytes
    protocols: list[str]


class Outgoing(NamedTuple):
    status: int
    target: str
    host: str
    fields: list[tuple[str, str]]
    protocol: str | None
    body: bytes


FIRSTS = st.one_of(
    st.sampled_from(
        [
            "HTTP/1.1 200 OK",
            "HTTP/1.1 101",
            "HTTP/1.0 101 X",
            "HTTP/1.0 404 ",
            "HTTP/2 200",
            "",
            "HTTP/1.1 099 X",
            "HTTP/1.1 600 X",
        ]
    ),
    st.builds("HTTP/1.{} {} {}".format, st.integers(0, 2), st.integers(0, 700), values()),
)
NAMES = st.one_of(
    st.sampled_from(["X-A", "Server", "Content-Type", "Set-Cookie", "Content-Length", "Connection", "Host"]), values()
)
LONE = st.sampled_from(["\u2028", "\u0100", "a\u010a b", "\ud800", "\u0130"])  # whose low bytes say something else
TEXTS = st.one_of(values(), values(), LONE)
OUT = st.builds(
    Outgoing,
    st.sampled_from([200, 204, 304, 401, 426, 503, 599, 101, 600]),
    st.one_of(st.just("/"), st.text("/?#% é\r\n", max_size=6).map("/".__add__), TEXTS),
    st.one_of(st.sampled_from(["example.org", "::1", "[::1]", "a b", "a/b"]), TEXTS),
    st.lists(st.tuples(NAMES, TEXTS), max_size=3),
    st.one_of(st.none(), st.just("chat"), TEXTS),
    st.binary(max_size=5),
)
CASES = st.one_of(
    st.builds(Incoming, st.one_of(heads(SOUND, FIRSTS), st.binary(max_size=40)), st.sampled_from([[], ["chat"]])), OUT
)


def check(case: Incoming | Outgoing) -> None:
    """Hold one head against the invariant."""
    if isinstance(case, Outgoing):
        sends(case)
        return
    try:
        response = parse_response(case.head)
    except HandshakeError as error:
        assert error.status == 0
        return
    agrees_with_h11(case.head, response)
    try:
        protocol = check_response(response, KEY, case.protocols)
    except HandshakeError as error:
        assert error.status == response.status
        return
    assert response.status == 101
    assert response.headers["Sec-WebSocket-Accept"] == ACCEPT
    assert protocol is None or protocol in case.protocols


def agrees_with_h11(head: bytes, response: Any) -> None:
    try:
        event = h11_reads(head)
    except h11.RemoteProtocolError as error:
        assert str(error) in EXCUSES, f"h11 refuses it: {error}"
        return
    assert event.status_code == response.status
    assert grouped(response.headers) == grouped((n.decode(), v.decode("latin-1")) for n, v in event.headers)


def h11_reads(data: bytes) -> Any:
    """Return the response that h11 finds in what a client gets."""
    oracle = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    oracle.send(
        h11.Request(
            method="GET", target="/", headers=[("Host", "x"), ("Upgrade", "websocket"), ("Connection", "Upgrade")]
        )
    )
    oracle.send(h11.EndOfMessage())
    oracle.receive_data(data)
    return oracle.next_event()


# ---------------------------------------------------------------------------------------------------------- sending


def sends(case: Outgoing) -> None:
    answer, upgrade, request = (encoded(verb, case) for verb in (an_answer, an_upgrade, a_request))
    if answer is not None:
        event = h11_reads(answer)
        assert event.status_code == case.status
        holds(case.fields, event.headers, {"content-length", "transfer-encoding", "connection"})
        assert answer.endswith(b"\r\n\r\n" + case.body)
    if upgrade is not None:
        event = h11_reads(upgrade)
        assert event.status_code == 101
        holds(case.fields, event.headers, set())
        response = parse_response(upgrade)
        assert check_response(response, KEY, [case.protocol or ""]) == case.protocol
    if request is not None:
        holds(case.fields, [(n.encode(), v.encode("latin-1")) for n, v in parse_request(request).headers], {"host"})
        oracle = h11.Connection(h11.SERVER)
        oracle.receive_data(request)
        event = oracle.next_event()
        assert event.target == case.target.encode()
        assert isinstance(oracle.next_event(), h11.EndOfMessage)


def encoded(verb: Any, case: Outgoing) -> bytes | None:
    try:
        return verb(case)  # type: ignore[no-any-return]
    except ValueError:
        return None


def an_answer(case: Outgoing) -> bytes:
    return encode_response(case.status, case.fields, case.body)


def an_upgrade(case: Outgoing) -> bytes:
    return accept_response(KEY, case.protocol, None, case.fields)


def a_request(case: Outgoing) -> bytes:
    protocols = () if case.protocol is None else (case.protocol,)
    return upgrade_request(case.host, 80, case.target, key=KEY, protocols=protocols, headers=case.fields)


def holds(fields: list[tuple[str, str]], found: Any, without: set[str]) -> None:
    """Look for each header that a caller gave, once for each time that it was given, and for nothing of its name besides."""
    names = {name.lower() for name, _ in fields} - without
    given = grouped((name, value.strip(" \t")) for name, value in fields if name.lower() in names)
    got = grouped((n.decode(), v.decode("latin-1")) for n, v in found if n.decode().lower() in names)
    assert given == got


if __name__ == "__main__":
    sys.exit(fuzzing.main(["response", *sys.argv[1:]]))
