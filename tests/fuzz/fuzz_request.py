"""Invariant: of any bytes, a request's head is accepted or refused by a HandshakeError, and accepted as others read it.

What gws accepts, h11 accepts, but for EXCUSES, and finds the same method, target and headers in it.  An opening handshake
that gws answers, websockets answers with the same key and subprotocol.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import fuzzing
import h11
from heads import KEY, heads
from hypothesis import strategies as st
from websockets.datastructures import Headers
from websockets.http11 import Request
from websockets.server import ServerProtocol

from gws.errors import HandshakeError
from gws.handshake import accept_upgrade, check_origin, parse_request, wants_websocket

__all__ = ["CASES", "EXCUSES", "check"]

SOUND = (
    "GET /chat?room=1 HTTP/1.1\r\nHost: example.org\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\nOrigin: http://example.org\r\n"
    "Sec-WebSocket-Protocol: chat, superchat\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
)
STATUSES = {400, 403, 405, 413, 426, 431, 505}

# What h11 says of a head that gws accepts, and why gws may.
EXCUSES = {
    "multiple Transfer-Encoding headers": "bodies are not gws's matter: an opening handshake with one is refused",
    "Only Transfer-Encoding: chunked is supported": "the same",
    "bad Content-Length": "the same; h11 reads at most 20 digits",
}
# What websockets says of an opening handshake that gws answers.
LENIENT = {
    "invalid Upgrade header": "RFC 6455 section 4.2.1 wants the value websocket in it; beside others, here, as in RFC 9110",
    "invalid Connection header": "empty elements of a list are overlooked, and what is no token is not looked at",
    "invalid Sec-WebSocket-Extensions header": "whose parsing is a step of its own: see fuzz_extensions",
    "invalid Sec-WebSocket-Key header": "the last bits of the base64 are looked at by nobody else",
    "invalid Origin header": "whose judging is a step of its own: check_origin refuses two of them",
}


class Case(NamedTuple):
    head: bytes
    protocols: list[str]


FIRSTS = st.one_of(
    st.sampled_from(
        ["GET / HTTP/1.1", "GET / HTTP/1.0", "POST / HTTP/1.1", "GET  / HTTP/1.1", "GET /", "", "GET / HTTP/2.0"]
    ),
    st.sampled_from(
        ["OPTIONS * HTTP/1.1", "GET http://example.org/x HTTP/1.1", "GET ws://EXAMPLE.org?q HTTP/1.1", "G@T / HTTP/1.1"]
    ),
    st.text("/?#%aé\x7f ", max_size=8).map(lambda target: f"GET /{target} HTTP/1.1"),
)
PROTOCOLS = st.sampled_from([[], ["chat"], ["superchat", "chat"], ["a", "chat"]])
CASES = st.builds(Case, st.one_of(heads(SOUND, FIRSTS), heads(SOUND, FIRSTS), st.binary(max_size=60)), PROTOCOLS)


def check(case: Case) -> None:
    """Hold one head against the invariant."""
    request = parsed(case.head)
    if request is None:
        return
    wants_websocket(request)
    agrees_with_h11(case.head, request)
    assert isinstance(request.path, str)
    assert isinstance(request.query, dict)
    for origins in (None, ["http://example.org"]):
        try:
            check_origin(request, origins)
        except HandshakeError as error:
            assert error.status == 403
    try:
        response, protocol = accept_upgrade(case.head, case.protocols)
    except HandshakeError as error:
        assert error.status in STATUSES
        return
    answered_alike(request, case.protocols, response, protocol)


def parsed(head: bytes) -> Any:
    """Return what gws makes of a head; None if it is refused."""
    try:
        return parse_request(head)
    except HandshakeError as error:
        assert error.status in (400, 431, 505)
        assert str(error)
        for protocols in ((), ("chat",)):
            try:
                accept_upgrade(head, protocols)
            except HandshakeError as again:
                assert (again.status, again.args) == (error.status, error.args)
            else:
                raise AssertionError("what is refused when it is parsed must be refused when it is answered") from None
        return None


def agrees_with_h11(head: bytes, request: Any) -> None:
    oracle = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    oracle.receive_data(head)
    try:
        event = oracle.next_event()
    except h11.RemoteProtocolError as error:
        assert str(error) in EXCUSES, f"h11 refuses it: {error}"
        return
    assert isinstance(event, h11.Request)
    assert request.method.encode() == event.method
    target = event.target.decode()
    assert request.target == target or (
        target.lower().startswith(("http", "ws")) and target.endswith(request.target[1:])
    )
    assert grouped(request.headers) == grouped((n.decode(), v.decode("latin-1")) for n, v in event.headers)


def grouped(fields: Any) -> dict[str, list[str]]:
    """Return the values by name; without those that h11 rewrites."""
    table: dict[str, list[str]] = {}
    for name, value in fields:
        table.setdefault(name.lower(), []).append(value)
    for name in ("content-length", "transfer-encoding"):
        table.pop(name, None)
    return table


def answered_alike(request: Any, protocols: list[str], response: bytes, protocol: str | None) -> None:
    """Compare gws's answer with that of websockets to the same headers."""
    oracle = ServerProtocol(subprotocols=protocols if protocols else None, extensions=None)
    oracle.select_subprotocol = lambda offered: protocol  # the client's order counts here, the server's there
    theirs = oracle.accept(Request(request.target, Headers(list(request.headers))))
    if theirs.status_code != 101:
        assert any(str(oracle.handshake_exc).startswith(each) for each in LENIENT), oracle.handshake_exc
        return
    head, _, rest = response.partition(b"\r\n\r\n")
    status, *fields = head.decode().split("\r\n")
    assert (status, rest) == ("HTTP/1.1 101 Switching Protocols", b"")
    ours = dict(field.split(": ", 1) for field in fields)
    assert protocol is None or protocol in protocols
    for name in ("Upgrade", "Connection", "Sec-WebSocket-Accept", "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions"):
        assert ours.get(name) == theirs.headers.get(name)


if __name__ == "__main__":
    sys.exit(fuzzing.main(["request", *sys.argv[1:]]))
