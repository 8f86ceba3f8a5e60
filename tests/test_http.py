"""gws.http: heads to values and back; what a peer may not send, what a caller may not."""

from __future__ import annotations

import gc
import importlib
import re
import sys
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gws import handshake, http
from gws.errors import HandshakeError
from gws.http import Headers, Request, Response, encode_fields, encode_response, parse_request, parse_response, response

fuzz = settings(max_examples=200, deadline=None, derandomize=True, database=None)

HEAD = b"GET /chat HTTP/1.1\r\nHost: example.org\r\nX-One: 1\r\nCookie: a=1\r\nx-one: 2\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nServer: x\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\n"


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    """Leave the look out: here are bytes and values only, and five hundred looks would take half a minute."""


# Headers


def test_headers_are_case_insensitive_and_may_come_twice() -> None:
    headers = parse_request(HEAD).headers
    assert headers["HOST"] == headers.get("host") == "example.org"
    assert headers["X-ONE"] == "1, 2"
    assert headers.get_all("X-One") == ["1", "2"]
    assert headers.get_all("Nothing") == []
    assert headers.get("Nothing") is None
    assert headers.get("Nothing", "") == ""
    assert "cookie" in headers
    assert "Nothing" not in headers
    assert 1 not in headers
    with pytest.raises(KeyError, match="Nothing"):
        headers["Nothing"]


def test_headers_iterate_over_pairs() -> None:
    headers = parse_request(HEAD).headers
    pairs = [("Host", "example.org"), ("X-One", "1"), ("X-One", "2"), ("Cookie", "a=1")]
    assert list(headers) == pairs
    assert len(headers) == 4
    assert repr(headers) == f"Headers({pairs!r})"
    assert not Headers()


@pytest.mark.parametrize("fields", [{"A": "1", "B": "2"}, [("A", "1"), ("B", "2")], Headers({"A": "1", "B": "2"})])
def test_headers_are_made_of_a_dict_or_pairs(fields: http.Fields) -> None:
    assert list(Headers(fields)) == [("A", "1"), ("B", "2")]


def test_what_is_returned_is_a_copy() -> None:
    headers = Headers({"A": "1"})
    headers.get_all("A").append("2")
    assert headers.get_all("A") == ["1"]


# Requests.


@pytest.mark.parametrize(
    ("line", "method", "target", "path", "query"),
    [
        ("GET / HTTP/1.1", "GET", "/", "/", {}),
        ("POST /a/b?c=d HTTP/1.1", "POST", "/a/b?c=d", "/a/b", {"c": "d"}),
        (
            "GET /%2F?a=1&a=2&b=%C3%BC&c HTTP/1.1",
            "GET",
            "/%2F?a=1&a=2&b=%C3%BC&c",
            "/%2F",
            {"a": "1", "b": "ü", "c": ""},
        ),
        ("GET /?a=%ff%zz? HTTP/1.1", "GET", "/?a=%ff%zz?", "/", {"a": "\ufffd%zz?"}),
        ("OPTIONS * HTTP/1.1", "OPTIONS", "*", "*", {}),
        ("PURGE! http://EXAMPLE.org/x HTTP/1.1", "PURGE!", "/x", "/x", {}),
    ],
)
def test_request(line: str, method: str, target: str, path: str, query: dict[str, str]) -> None:
    request = parse_request(f"{line}\r\nHost: example.org\r\n\r\n".encode())
    assert (request.method, request.target, request.version) == (method, target, "HTTP/1.1")
    assert (request.path, request.query) == (path, query)
    assert repr(request) == f"<Request {method} {target} HTTP/1.1, 1 headers>"


@pytest.mark.parametrize(
    ("head", "status", "rule"),
    [  # one for each rule; there are many more in handshakes/invalid
        (b"", 400, "empty line"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: \n\r\n\r\n", 400, "control character"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + 100 * b"X: y\r\n" + b"\r\n", 431, "more than 100"),
        (b"GET /\r\nHost: x\r\n\r\n", 400, "request line"),
        (b"GET / HTTP/1.0\r\n\r\n", 505, "version must be"),
        (b"GET / HTTP\r\n\r\n", 400, "end with a version"),
        (b"G:T / HTTP/1.1\r\nHost: x\r\n\r\n", 400, "method"),
        (b"GET / HTTP/1.1\r\n Host: x\r\n\r\n", 400, "folded"),
        (b"GET / HTTP/1.1\r\nHost\r\n\r\n", 400, "colon"),
        (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400, "whitespace"),
        (b"GET / HTTP/1.1\r\nHo st: x\r\n\r\n", 400, "name must be a token"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400, "one Host"),
        (b"GET / HTTP/1.1\r\nHost: x y\r\n\r\n", 400, "the Host must be"),
        (b"GET x HTTP/1.1\r\nHost: x\r\n\r\n", 400, "the target must be"),
        (b"GET http://y/ HTTP/1.1\r\nHost: x\r\n\r\n", 400, "the same server"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", 400, "one number"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nTransfer-Encoding: x\r\n\r\n", 400, "not both"),
    ],
)
def test_malformed_request(head: bytes, status: int, rule: str) -> None:
    with pytest.raises(HandshakeError, match=rule) as caught:
        parse_request(head)
    assert caught.value.status == status


def test_a_request_with_a_body_is_no_business_of_the_head() -> None:
    request = parse_request(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
    assert request.headers["Content-Length"] == "10"
    parse_request(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")


def test_request_is_made_by_hand() -> None:
    request = Request("GET", "/x?y=z", Headers(), "HTTP/1.0")
    assert (request.path, request.query, request.version) == ("/x", {"y": "z"}, "HTTP/1.0")


# Responses that a client is given.


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("HTTP/1.1 101 Switching Protocols", 101),
        ("HTTP/1.1 200 ", 200),
        ("HTTP/1.1 404", 404),
        ("HTTP/1.1 599 \tNo reason \xfc at all", 599),
        ("HTTP/1.0 200 Connection established", 200),
    ],
)
def test_response(line: str, status: int) -> None:
    answer = parse_response(line.encode("latin-1") + RESPONSE[15:])
    assert (answer.status, answer.body) == (status, b"")
    assert answer.headers.get_all("Set-Cookie") == ["a=1", "b=2"]


@pytest.mark.parametrize(
    ("head", "rule"),
    [
        (b"", "empty line"),
        (b"HTTP/1.1 200 OK\r\n", "empty line"),
        (b"HTTP/1.1 200 OK\r\n\r\n<html>", "empty line"),
        (b"HTTP/1.1 200 OK\n\n", "control character"),
        (b"HTTP/1.1 200 O\0K\r\n\r\n", "control character"),
        (b"HTTP/1.1 200 OK\r\nX: a\nY: b\r\n\r\n", "control character"),
        (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", "status line"),
        (b"HTTP/2.0 200 OK\r\n\r\n", "status line"),
        (b"HTTP/1.2 200 OK\r\n\r\n", "status line"),
        (b"http/1.1 200 OK\r\n\r\n", "status line"),
        (b"HTTP/1.1  200 OK\r\n\r\n", "status line"),
        (b"HTTP/1.1\t200 OK\r\n\r\n", "status line"),
        (b"HTTP/1.1 200OK\r\n\r\n", "status line"),
        (b"HTTP/1.1 20 OK\r\n\r\n", "status line"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "status line"),
        (b"HTTP/1.1 099 OK\r\n\r\n", "status line"),
        (b"HTTP/1.1 600 OK\r\n\r\n", "status line"),
        (b"HTTP/1.1 \xb2\xb2\xb2 OK\r\n\r\n", "status line"),
        (b"HTTP/1.0 101 Switching Protocols\r\n\r\n", "status line"),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "colon"),
        (b"HTTP/1.1 200 OK\r\nServer\r\n\r\n", "colon"),
        (b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n", "whitespace"),
        (b"HTTP/1.1 200 OK\r\nX: y\r\n z\r\n\r\n", "folded"),
        (b"HTTP/1.1 200 OK\r\n" + 101 * b"X: y\r\n" + b"\r\n", "more than 100"),
    ],
)
def test_malformed_response(head: bytes, rule: str) -> None:
    with pytest.raises(HandshakeError, match=rule) as caught:
        parse_response(head)
    assert caught.value.status == 0
    assert str(caught.value) == caught.value.args[0]


def test_response_with_as_many_lines_as_are_allowed() -> None:
    assert len(parse_response(b"HTTP/1.1 200 OK\r\n" + 100 * b"X: y\r\n" + b"\r\n").headers) == 100


# Answers that a server gives.


def test_encode_response() -> None:
    assert encode_response(404, [("X-A", "1"), ("X-A", "2")], b"gone\n") == (
        b"HTTP/1.1 404 Not Found\r\nX-A: 1\r\nX-A: 2\r\nContent-Type: text/plain; charset=utf-8\r\n"
        b"Content-Length: 5\r\nConnection: close\r\n\r\ngone\n"
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((200,), b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
        ((HTTPStatus.OK,), b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
        ((299,), b"HTTP/1.1 299 \r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
        ((204,), b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"),
        ((304, {"ETag": '"x"'}), b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\nConnection: close\r\n\r\n'),
        (
            (200, {"content-type": "image/png"}, b"\x89"),
            b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\nContent-Length: 1\r\nConnection: close\r\n\r\n\x89",
        ),
        (
            (426, [("Upgrade", "websocket")]),
            b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nContent-Length: 0\r\n"
            b"Connection: close, Upgrade\r\n\r\n",
        ),
        (  # what frames the answer is ours
            (200, {"Content-Length": "7", "TRANSFER-ENCODING": "chunked", "connection": "keep-alive"}),
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        ),
        ((200, {"X": "\xfc"}), b"HTTP/1.1 200 OK\r\nX: \xfc\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
    ],
)
def test_encode_response_table(arguments: tuple[Any, ...], expected: bytes) -> None:
    assert encode_response(*arguments) == expected


def test_the_answer_to_a_head_tells_the_length_and_has_no_body() -> None:
    assert encode_response(200, (), b"page", head_only=True).endswith(b"Content-Length: 4\r\nConnection: close\r\n\r\n")


@pytest.mark.parametrize("status", [-1, 0, 99, 100, 101, 199, 600, 1000, True])
def test_encode_response_refuses_what_is_no_final_status(status: int) -> None:
    with pytest.raises(ValueError, match="final answer"):
        encode_response(status)


@pytest.mark.parametrize("status", [204, 304])
def test_encode_response_refuses_a_body_where_there_is_none(status: int) -> None:
    with pytest.raises(ValueError, match="no body"):
        encode_response(status, (), b"x")


BAD_FIELDS = [
    ("", "x"),
    ("X ", "x"),
    (" X", "x"),
    ("X:", "x"),
    ("X\r\nY", "x"),
    ("X\n", "x"),
    ("Ü", "x"),
    ("X", "a\r\nSet-Cookie: b"),
    ("X", "a\rb"),
    ("X", "a\nb"),
    ("X", "a\n"),
    ("X", "\0"),
    ("X", "a\x7fb"),
    ("X", "a\x0bb"),
    ("X", "€"),
    ("X", "\u010d\u010a"),  # CR and LF to who keeps the low bytes only
]


@pytest.mark.parametrize(("name", "value"), BAD_FIELDS)
def test_outgoing_headers_are_judged(name: str, value: str) -> None:
    with pytest.raises(ValueError):
        encode_fields([(name, value)])
    with pytest.raises(ValueError):
        encode_response(200, [(name, value)])


def test_a_refused_value_is_not_told() -> None:
    with pytest.raises(ValueError) as caught:
        encode_fields({"Authorization": "secret\n"})
    assert "secret" not in str(caught.value)


def test_encode_fields() -> None:
    assert encode_fields({"A": "1\t2", "B": ""}) == "A: 1\t2\r\nB: \r\n"
    assert encode_fields(()) == ""


# What a handler of `http` may return.

TEXT, HTML, BYTES = "text/plain; charset=utf-8", "text/html; charset=utf-8", "application/octet-stream"


@pytest.mark.parametrize(
    ("value", "status", "headers", "body"),
    [
        ("ok", 200, [("Content-Type", TEXT)], b"ok"),
        ("<!DocType HTML>ü", 200, [("Content-Type", HTML)], "<!DocType HTML>ü".encode()),
        ("<!doctype htm", 200, [("Content-Type", TEXT)], b"<!doctype htm"),
        ("", 200, [], b""),
        (b"\0\1", 200, [("Content-Type", BYTES)], b"\0\1"),
        (b"<!doctype html>", 200, [("Content-Type", BYTES)], b"<!doctype html>"),
        (404, 404, [("Content-Type", TEXT)], b"404 Not Found\n"),
        (HTTPStatus.NOT_FOUND, 404, [("Content-Type", TEXT)], b"404 Not Found\n"),
        (299, 299, [("Content-Type", TEXT)], b"299 \n"),
        (204, 204, [], b""),
        (304, 304, [], b""),
        ((201, {}, "made"), 201, [("Content-Type", TEXT)], b"made"),
        ((200, {"content-type": "a/b"}, "x"), 200, [("content-type", "a/b")], b"x"),
        ((200, [("A", "1"), ("A", "2")], b""), 200, [("A", "1"), ("A", "2")], b""),
        ((302, Headers({"Location": "/"}), b""), 302, [("Location", "/")], b""),
        (HandshakeError(403, "no", [("A", "1")]), 403, [("A", "1")], b"no\n"),
        (HandshakeError(0, "malformed"), 502, [], b"malformed\n"),
        (HandshakeError(101, "not sound"), 502, [], b"not sound\n"),
    ],
)
def test_response_of_a_handler(value: object, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
    answer = response(value)
    assert (answer.status, list(answer.headers), answer.body) == (status, headers, body)
    assert encode_response(answer.status, answer.headers, answer.body).endswith(b"\r\n\r\n" + body)


def test_response_of_a_handler_is_passed_on() -> None:
    answer = Response(200, {"A": "1"}, b"x")
    assert response(answer) is answer
    assert repr(answer) == "<Response 200 OK, 1 headers, 1 bytes>"


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 1.0, [], {}, (), (200, "x"), [200, {}, "x"], ("200", {}, "x"), (200, {}, 5), (200, {}, None)),
        *((200, None, "x"), (200, "A: 1", "x"), (200, {1: "x"}, "x"), (200, {"A": 1}, "x"), (200, [("A",)], "x")),
    ],
)
def test_response_of_a_handler_says_what_was_expected(value: object) -> None:
    with pytest.raises(TypeError, match=r"a Response, a HandshakeError, str, bytes, a status or \(status"):
        response(value)


# Invariant: whatever comes in, parse_request returns a Request or raises a HandshakeError that can be sent.


def judge(head: bytes) -> None:
    request = outcome(parse_request, head)
    if isinstance(request, HandshakeError):
        assert request.status in (400, 431, 505)
        assert parse_response(encode_response(request.status, request.headers)).status == request.status
        assert request.body.count(b"\n") == 1
        return
    assert request.target.startswith("/") or request.target == "*"
    assert request.path.isascii()
    assert isinstance(request.query, dict)
    assert list(parse_request(reencoded(request)).headers) == list(request.headers)


def outcome(function: Callable[[bytes], Any], head: bytes) -> Any:
    try:
        return function(head)
    except HandshakeError as err:
        return err


def reencoded(request: Request) -> bytes:
    return f"{request.method} {request.target} HTTP/1.1\r\n{encode_fields(request.headers)}\r\n".encode("latin-1")


@fuzz
@given(st.binary())
def test_any_bytes(head: bytes) -> None:
    judge(head)


@fuzz
@given(st.integers(0, len(HEAD)), st.integers(0, 10), st.binary(max_size=10))
def test_a_head_with_a_piece_replaced(start: int, length: int, piece: bytes) -> None:
    judge(HEAD[:start] + piece + HEAD[start + length :])


PIECES = st.sampled_from([b"\r\n", b"\r", b"\n", b" ", b"\t", b":", b"GET", b"/", b"HTTP/1.1", b"HTTP/1.0", b"#", b"?"])
WORDS = st.sampled_from(
    [b"Host", b"a", b"Content-Length", b"Transfer-Encoding", b"0", b"\0", b"\xff", b"http://", b","]
)


@fuzz
@given(st.lists(PIECES | WORDS, max_size=30).map(b"".join))
def test_any_sequence_of_pieces(tail: bytes) -> None:
    judge(tail)
    judge(HEAD[:-2] + tail + b"\r\n\r\n")


@fuzz
@given(st.binary(), st.integers(0, len(RESPONSE)), st.integers(0, 10))
def test_any_response(piece: bytes, start: int, length: int) -> None:
    for head in (piece, RESPONSE[:start] + piece + RESPONSE[start + length :]):
        answer = outcome(parse_response, head)
        assert (answer.status == 0) == isinstance(answer, HandshakeError)


# The cost grows with the head, not faster.


def calls(function: Callable[[], object]) -> int:
    """Count the calls, of functions in Python or in C, that are made in it."""
    counted = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    before = sys.getprofile()
    gc.disable()  # it calls back
    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(before)
        gc.enable()
    return counted


@pytest.mark.parametrize("line", [b"X-%d: a\r\n", b"X: a\r\n", b"Cookie: a\r\n"])
def test_every_line_costs_the_same(line: bytes) -> None:
    def cost(lines: int) -> int:
        many = b"".join(line % n if b"%" in line else line for n in range(lines))
        return calls(lambda: parse_request(HEAD[:-2] + many + b"\r\n"))

    assert cost(90) - cost(50) == cost(50) - cost(10) > 0


@pytest.mark.parametrize("filler", [b"a", b" ", b"\t", b",", b";", b'"', b"\\", b"/", b"?", b":", b"\xff"])
def test_a_longer_line_costs_no_more_calls(filler: bytes) -> None:
    def cost(length: int) -> int:
        return calls(lambda: parse_request(HEAD[:-2] + b"X: b" + filler * length + b"b\r\n\r\n"))

    assert cost(8000) == cost(10)


PATTERNS = [
    pytest.param(value, id=f"{room.__name__}.{name}")
    for room in (http, handshake)
    for name, value in vars(room).items()
    if isinstance(value, re.Pattern)
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_no_pattern_backtracks(pattern: re.Pattern[str]) -> None:
    assert why_slow(pattern) is None


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        (r"(?:a+)+b", "repeats more than a set"),
        (r"(?:a|bc)*d", "repeats more than a set"),
        (r"a*a*b", "could go on"),
        (r"[a-f]+(?:-x)?[^a-e]", "could go on"),
        (r"//([^/?#]+)([!-~]*)", "could go on"),
        (r"\w+@", "not read by this test"),
    ],
)
def test_patterns_that_do(pattern: str, reason: str) -> None:
    assert reason in str(why_slow(re.compile(pattern)))


def why_slow(pattern: re.Pattern[str]) -> str | None:
    """Say why matching may take more than one pass: a repetition of repetitions, or of what may also come after it."""
    parser: Any = importlib.import_module("re._parser" if sys.version_info >= (3, 11) else "sre_parse")
    try:
        judge_sequence(list(parser.parse(pattern.pattern, pattern.flags)), set())
    except ValueError as err:
        return str(err)
    return None


def judge_sequence(items: list[Any], after: set[int]) -> set[int]:
    """Return what these may begin with, if `after` is what the next may begin with; empty: the end."""
    for operation, argument in reversed(items):
        after = judge_item(str(operation), argument, after)
    return after


def judge_item(operation: str, argument: Any, after: set[int]) -> set[int]:
    if operation == "SUBPATTERN":
        return judge_sequence(list(argument[-1]), after)
    if operation == "BRANCH":
        return set().union(*(judge_sequence(list(branch), after) for branch in argument[1]))
    if operation == "MAX_REPEAT":
        least, most, inner = argument
        if most > 1 and (len(inner) > 1 or str(inner[0][0]) not in ("IN", "LITERAL", "ANY")):
            raise ValueError("it repeats more than a set")
        first = judge_sequence(list(inner), after)
        if least != most > 1 and first & after:
            raise ValueError("the repetition could go on in what follows it")
        return first | after if least == 0 else first
    return members(operation, argument)


def members(operation: str, argument: Any) -> set[int]:
    """The characters of Latin-1 in a set."""
    if operation == "IN":
        found = set().union(*(members(str(part), value) for part, value in argument if str(part) != "NEGATE"))
        return members("ANY", None) - found if str(argument[0][0]) == "NEGATE" else found
    if operation == "RANGE":
        return set(range(argument[0], argument[1] + 1))
    if operation not in ("LITERAL", "ANY"):
        raise ValueError(f"{operation} is not read by this test")
    return {argument} if operation == "LITERAL" else set(range(256))
