"""gws.handshake: RFC 6455 section 4, from both sides.

handshakes/valid and handshakes/invalid hold the heads of requests and what must come of each.  In the .http files the
newlines mean nothing, and what is escaped (\\r \\n \\t \\x00) is meant.  To add a case, add a pair of files.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gws.errors import HandshakeError
from gws.handshake import (
    Fields,
    Headers,
    Request,
    Response,
    accept_response,
    accept_upgrade,
    check_origin,
    check_response,
    check_upgrade,
    choose_protocol,
    encode_response,
    extensions,
    new_key,
    parse_request,
    parse_response,
    sec_websocket_accept,
    upgrade_request,
    wants_websocket,
)

fuzz = settings(max_examples=200, deadline=None, derandomize=True, database=None)

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

CASES = Path(__file__).parent / "handshakes"
VALID = sorted((CASES / "valid").glob("*.http"))
INVALID = sorted((CASES / "invalid").glob("*.http"))


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    """Leave the look out: here are bytes and values only, and five hundred looks would take half a minute."""


def read(path: Path) -> tuple[bytes, dict[str, Any]]:
    text = path.read_text("ascii").replace("\n", "")
    return text.encode().decode("unicode_escape").encode("latin-1"), json.loads(path.with_suffix(".json").read_text())


def shake_hands(head: bytes, expected: dict[str, Any]) -> tuple[Request, str, str | None]:
    """Do with a head what a server does."""
    request = parse_request(head)
    key = check_upgrade(request)
    check_origin(request, expected.get("origins"))
    protocol = choose_protocol(request, expected.get("protocols", []))
    offered = extensions(request.headers)
    assert "extensions" not in expected or offered == pairs(expected["extensions"])
    return request, key, protocol


def pairs(extensions: list[Any]) -> list[tuple[str, list[tuple[str, str | None]]]]:
    return [(name, [(parameter, value) for parameter, value in parameters]) for name, parameters in extensions]


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_valid(path: Path) -> None:
    head, expected = read(path)
    request, key, protocol = shake_hands(head, expected)
    assert wants_websocket(request)
    assert (request.method, request.target, protocol) == (expected["method"], expected["target"], expected["protocol"])
    if "path" in expected:
        assert (request.path, request.query) == (expected["path"], expected.get("query", request.query))
    assert sec_websocket_accept(key) == expected["accept"]
    assert accept_upgrade(head, expected.get("protocols", [])) == (accept_response(key, protocol), protocol)


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_invalid(path: Path) -> None:
    head, expected = read(path)
    with pytest.raises(HandshakeError) as caught:
        shake_hands(head, expected)
    err = caught.value
    answer = parse_response(encode_response(err.status, err.headers, err.body, head_only=True))
    assert answer.status == expected["status"]
    assert {name: answer.headers.get(name) for name in expected["headers"]} == expected["headers"]
    assert expected["body"] in err.body.decode()
    assert err.body.endswith(b"\n")
    assert err.body.count(b"\n") == 1


def test_every_case_is_a_pair() -> None:
    assert len(VALID) >= 50
    assert len(INVALID) >= 150
    assert {path.with_suffix(".json") for path in VALID + INVALID} == set(CASES.glob("*/*.json"))


# The server's side.


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        ({}, False),
        ({"Connection": "Upgrade"}, False),
        ({"Upgrade": "h2c"}, False),
        ({"Upgrade": "notwebsocket"}, False),
        ({"Upgrade": "WebSocket"}, True),
        ({"Upgrade": "h2c,websocket"}, True),
        ({"Sec-WebSocket-Key": ""}, True),
        ({"Sec-WebSocket-Key": KEY, "Upgrade": "h2c"}, True),
    ],
)
def test_wants_websocket(headers: dict[str, str], wanted: bool) -> None:
    assert wants_websocket(Request("POST", "/", Headers(headers))) is wanted


def test_a_request_that_somebody_else_parsed_is_judged_as_well() -> None:
    headers = Headers({"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"})
    with pytest.raises(HandshakeError, match="the version must be") as caught:
        check_upgrade(Request("GET", "/", headers, "HTTP/1.0"))
    assert caught.value.status == 505
    with pytest.raises(HandshakeError, match="403"):
        check_origin(Request("GET", "/", Headers({"Origin": "http://example.org"})), None)


def test_accept_response_is_the_rfc_s() -> None:
    assert accept_response(KEY) == (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    )


def test_accept_response_with_everything() -> None:
    answer = accept_response(KEY, "chat", "permessage-deflate", [("Set-Cookie", "a=1"), ("Set-Cookie", "b=\xfc")])
    assert answer.endswith(
        b"Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Extensions: permessage-deflate\r\n"
        b"Set-Cookie: a=1\r\nSet-Cookie: b=\xfc\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("protocol", "extensions", "headers"),
    [
        ("", None, {}),
        ("a, b", None, {}),
        ("a\r\nSet-Cookie: b", None, {}),
        (None, "a\r\nSet-Cookie: b", {}),
        (None, None, {"X": "a\r\nSet-Cookie: b"}),
        (None, None, {"X\r\n": "a"}),
        (None, None, {"Sec-WebSocket-Accept": ACCEPT}),
        (None, None, {"upgrade": "h2c"}),
        (None, None, {"Content-Length": "0"}),
    ],
)
def test_accept_response_refuses(protocol: str | None, extensions: str | None, headers: Fields) -> None:
    with pytest.raises(ValueError):
        accept_response(KEY, protocol, extensions, headers)


def test_no_extensions() -> None:
    assert extensions(Headers()) == []


# The client's side.


def test_new_key_is_16_random_bytes() -> None:
    assert len(base64.b64decode(new_key(), validate=True)) == 16
    assert new_key() != new_key()


def test_upgrade_request() -> None:
    assert upgrade_request("example.org", 80, key=KEY) == (
        b"GET / HTTP/1.1\r\nHost: example.org\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )


def test_upgrade_request_with_everything() -> None:
    head = upgrade_request(
        "example.org",
        8888,
        "/chat?x=1",
        key=KEY,
        secure=True,
        protocols=["superchat", "chat"],
        extensions="permessage-deflate",
        origin="http://example.org:8888",
        headers=[("Cookie", "a=1"), ("Cookie", "b=2")],
    )
    request = parse_request(head)
    assert request.target == "/chat?x=1"
    assert list(request.headers) == [
        ("Host", "example.org:8888"),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", KEY),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Protocol", "superchat, chat"),
        ("Sec-WebSocket-Extensions", "permessage-deflate"),
        ("Origin", "http://example.org:8888"),
        ("Cookie", "a=1"),
        ("Cookie", "b=2"),
    ]
    check_origin(request, None)


@pytest.mark.parametrize(
    ("host", "port", "secure", "headers", "expected"),
    [
        ("example.org", 80, False, {}, "example.org"),
        ("example.org", 443, True, {}, "example.org"),
        ("example.org", 443, False, {}, "example.org:443"),
        ("example.org", 80, True, {}, "example.org:80"),
        ("127.0.0.1", 8888, False, {}, "127.0.0.1:8888"),
        ("::1", 80, False, {}, "[::1]"),
        ("[::1]", 8888, False, {}, "[::1]:8888"),
        ("fe80::1%eth0", 8888, False, {}, "[fe80::1]:8888"),
        ("127.0.0.1", 8888, False, {"HOST": "example.org"}, "example.org"),
    ],
)
def test_host(host: str, port: int, secure: bool, headers: Fields, expected: str) -> None:
    request = parse_request(upgrade_request(host, port, key=KEY, secure=secure, headers=headers))
    assert request.headers.get_all("Host") == [expected]


@pytest.mark.parametrize(
    "arguments",
    [
        {"host": ""},
        {"host": "example.org\r\nX: y"},
        {"host": "example.org/x"},
        {"host": "user@example.org"},
        {"host": "bücher.example"},
        {"host": "example.org:80"},
        {"host": "::1]"[::-1]},
        {"port": 0},
        {"port": 65536},
        {"port": -1},
        {"target": ""},
        {"target": "chat"},
        {"target": "http://example.org/"},
        {"target": "/a b"},
        {"target": "/a#b"},
        {"target": "/ü"},
        {"target": "/\r\nX: y"},
        {"target": "/\n"},
        {"target": "/\0"},
        {"key": ""},
        {"key": "short"},
        {"key": KEY + "\r\n"},
        {"key": KEY + "\n"},
        {"protocols": [""]},
        {"protocols": ["chat", "chat"]},
        {"protocols": ["a b"]},
        {"protocols": ["a,b"]},
        {"protocols": ["a\r\nX: y"]},
        {"protocols": "a\n"},
        {"extensions": "a\r\nX: y"},
        {"extensions": "a\0"},
        {"origin": "http://example.org\r\nX: y"},
        {"origin": "http://€.example"},
        {"headers": {"X": "a\r\nY: b"}},
        {"headers": {"X": "a\n"}},
        {"headers": {"X": "\x7f"}},
        {"headers": {"X: y\r\nZ": "a"}},
        {"headers": {"X Y": "a"}},
        {"headers": {"": "a"}},
        {"headers": {"Host": ""}},
        {"headers": {"Host": "a b"}},
        {"headers": {"Host": "a\r\nX: y"}},
        {"headers": [("Host", "a"), ("host", "b")]},
        {"headers": {"Upgrade": "h2c"}},
        {"headers": {"connection": "close"}},
        {"headers": {"origin": "http://example.org"}},
        {"headers": {"Sec-WebSocket-Key": KEY}},
        {"headers": {"SEC-WEBSOCKET-VERSION": "8"}},
        {"headers": {"Sec-WebSocket-Protocol": "chat"}},
        {"headers": {"Sec-WebSocket-Extensions": "x"}},
        {"headers": {"Content-Length": "5"}},
        {"headers": {"Transfer-Encoding": "chunked"}},
    ],
    ids=repr,
)
def test_upgrade_request_refuses(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        upgrade_request(**{"host": "example.org", "port": 8888, "key": KEY, **arguments})


SOUND = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": ACCEPT}


@pytest.mark.parametrize(
    ("headers", "protocols", "expected"),
    [
        ({}, [], None),
        ({}, ["chat"], None),
        ({"Upgrade": "WebSocket", "Connection": "keep-alive, UPGRADE"}, [], None),
        ({"Sec-WebSocket-Protocol": "chat"}, ["superchat", "chat"], "chat"),
        ({"Sec-WebSocket-Protocol": "chat"}, "chat", "chat"),
        ({"Sec-WebSocket-Extensions": "whatever"}, [], None),
    ],
)
def test_check_response(headers: dict[str, str], protocols: list[str], expected: str | None) -> None:
    assert check_response(Response(101, {**SOUND, **headers}), KEY, protocols) == expected


@pytest.mark.parametrize(
    ("headers", "protocols", "rule"),
    [
        ({"Upgrade": "h2c"}, [], "Upgrade must be"),
        ({"Upgrade": "h2c, websocket"}, [], "Upgrade must be"),  # a server switches to one protocol
        ({"Upgrade": ""}, [], "Upgrade must be"),
        ({"Connection": "close"}, [], "Connection must"),
        ({"Connection": "notupgrade"}, [], "Connection must"),
        ({"Connection": ""}, [], "Connection must"),
        ({"Sec-WebSocket-Accept": ""}, [], "our key"),
        ({"Sec-WebSocket-Accept": KEY}, [], "our key"),
        ({"Sec-WebSocket-Accept": ACCEPT.lower()}, [], "our key"),
        ({"Sec-WebSocket-Accept": f"{ACCEPT}, {ACCEPT}"}, [], "our key"),
        ({"Sec-WebSocket-Protocol": "chat"}, [], "not one that we offered"),
        ({"Sec-WebSocket-Protocol": "Chat"}, ["chat"], "not one that we offered"),
        ({"Sec-WebSocket-Protocol": ""}, ["chat"], "not one that we offered"),
        ({"Sec-WebSocket-Protocol": "chat, superchat"}, ["chat", "superchat"], "not one that we offered"),
        ({"Sec-WebSocket-Protocol": "cha"}, "chat", "not one that we offered"),
    ],
)
def test_check_response_refuses(headers: dict[str, str], protocols: list[str], rule: str) -> None:
    with pytest.raises(HandshakeError, match=rule) as caught:
        check_response(Response(101, {**SOUND, **headers}), KEY, protocols)
    assert caught.value.status == 101


@pytest.mark.parametrize("name", SOUND)
def test_check_response_refuses_what_lacks_a_header(name: str) -> None:
    headers = [(other, value) for other, value in SOUND.items() if other != name]
    with pytest.raises(HandshakeError, match=f"101 {name}"):
        check_response(Response(101, headers), KEY)


def test_check_response_refuses_a_protocol_that_comes_twice() -> None:
    twice = [*SOUND.items(), ("Sec-WebSocket-Protocol", "chat"), ("Sec-WebSocket-Protocol", "chat")]
    with pytest.raises(HandshakeError, match="not one that we offered"):
        check_response(Response(101, twice), KEY, ["chat"])


@pytest.mark.parametrize(
    ("status", "text"), [(200, "200 OK"), (403, "403 Forbidden"), (302, "302 Found"), (299, "299 ")]
)
def test_check_response_hands_on_what_it_was_told(status: int, text: str) -> None:
    with pytest.raises(HandshakeError) as caught:
        check_response(Response(status, {**SOUND, "Location": "/"}, b"why"), KEY)
    err = caught.value
    assert (err.status, str(err), err.body) == (status, text, b"why")
    assert ("Location", "/") in err.headers


# Invariant: what our client asks, our server accepts, and our client takes the answer.

TOKENS = st.text("abcXYZ019-._~!#$%&'*+^`|", min_size=1, max_size=8)


@fuzz
@given(st.lists(TOKENS, unique=True, max_size=4), st.sets(TOKENS, max_size=4), st.binary(min_size=16, max_size=16))
def test_both_sides_agree(offered: list[str], known: set[str], nonce: bytes) -> None:
    key = base64.b64encode(nonce).decode()
    head = upgrade_request("::1", 8888, "/x", key=key, protocols=offered, origin="https://[::1]:8888")
    check_origin(parse_request(head), None)
    answer, protocol = accept_upgrade(head, known | set(offered[1:2]))
    assert check_response(parse_response(answer), key, offered) == protocol
    assert protocol is None or protocol in offered


# Invariant: the values of a stranger's headers lead to an answer or to a HandshakeError, never to anything else.


@fuzz
@given(st.text(st.characters(max_codepoint=255)) | st.text('abc,;="\\ \t:/[]@', max_size=20))
def test_any_value(value: str) -> None:
    names = ["Host", "Upgrade", "Connection", "Sec-WebSocket-Version", "Sec-WebSocket-Key", "Content-Length", "Origin"]
    names += ["Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions", "Transfer-Encoding"]
    sound = parse_request(upgrade_request("example.org", 80, key=KEY)).headers
    for name in names:
        request = Request("GET", "/", Headers({**dict(sound), name: value}))
        assert outcome(check_upgrade, request) in (KEY, value, 400, 413, 426)
        assert outcome(check_origin, request, None) in (None, 403)
        assert outcome(choose_protocol, request, ["a", "b"]) in ("a", "b", None, 400)
        assert outcome(wants_websocket, request) is True
        offered = outcome(extensions, request.headers)
        assert offered == 400 or all(name and "" not in dict(parameters).values() for name, parameters in offered)


def outcome(function: Callable[..., Any], *arguments: object) -> Any:
    try:
        return function(*arguments)
    except HandshakeError as err:
        return err.status
