"""Heads of HTTP/1.1 requests and responses, and short answers: bytes to values and back (RFC 9110, RFC 9112).

Does not know WebSocket, sockets, or bodies of requests: after an answer of ours the connection is closed, so nobody's
next request can hide in what we did not read.  A head comes from below whole, through its blank line, within its limit
of bytes.  What a peer sends is judged here, strictly, so that no proxy before us reads the same head another way:
HandshakeError.  What a caller wants to send is judged as well: ValueError.  Text is Latin-1, a byte to a character.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import TypeAlias, overload
from urllib.parse import parse_qsl

from gws.errors import HandshakeError

__all__ = [
    "HOST",
    "MAX_LINES",
    "TARGET",
    "TOKEN",
    "Fields",
    "Headers",
    "Request",
    "Response",
    "encode_fields",
    "encode_response",
    "parse_request",
    "parse_response",
    "phrase",
    "response",
]

#: More header lines than this are refused with 431.
MAX_LINES = 100

Fields: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]

# Each pattern reads its text once: what follows a repetition is nothing that the repetition could have taken.
#: A method, a header's name, a subprotocol (RFC 9110 section 5.6.2).
TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
#: A name or an address, and perhaps a port (RFC 9110 section 7.2).
HOST = re.compile(r"(?:[!$%&'()*+,;=\-._~0-9A-Za-z]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
#: A target in origin-form.  Browsers send characters that RFC 3986 lacks ("|"), but neither a fragment nor non-ASCII.
TARGET = re.compile(r"/[!\"$-~]*")
_ABSOLUTE = re.compile(r"(?:https?|wss?)://([^/?]+)([/?][!\"$-~]*)?", re.IGNORECASE)
_VERSION = re.compile(r"HTTP/[0-9]\.[0-9]")
_STATUS = re.compile(r"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: .*)?")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

#: Every byte that may stand in a line.
_TEXT = bytes(byte for byte in range(256) if byte == 9 or (byte >= 32 and byte != 127))

_COMMON = """
    Host Connection Upgrade Origin User-Agent Cookie Authorization Pragma Cache-Control Accept Accept-Encoding
    Accept-Language Sec-WebSocket-Key Sec-WebSocket-Version Sec-WebSocket-Protocol Sec-WebSocket-Extensions
    Sec-WebSocket-Accept Sec-Fetch-Dest Sec-Fetch-Mode Sec-Fetch-Site X-Forwarded-For X-Forwarded-Host
    X-Forwarded-Proto X-Real-IP Via Content-Type Content-Length Date Server
"""
#: The names that handshakes are made of, as they are written: a name found here needs no judging.
_KNOWN = {spelling: name.lower() for name in _COMMON.split() for spelling in (name, name.lower())}


class Headers:
    """Header fields, read-only; names are case-insensitive, a name may have several values (RFC 9110 section 5).

    Iterates over (name, value) pairs; the values of one name stand together, under its first spelling.
    """

    __slots__ = ("_fields", "_packed")

    def __init__(self, fields: Fields = ()) -> None:
        self._fields: dict[str, list[str]] = {}  # lower-case name -> [name, value, value, ...]
        self._packed = ""
        self._gather(_pairs(fields))

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    @overload
    def get(self, name: str) -> str | None: ...
    @overload
    def get(self, name: str, default: str) -> str: ...
    def get(self, name: str, default: str | None = None) -> str | None:
        """Return the value; several are joined with a comma, as RFC 9110 section 5.3 allows."""
        field = self._table().get(name.lower())
        if field is None:
            return default
        return field[1] if len(field) == 2 else ", ".join(field[1:])

    def get_all(self, name: str) -> list[str]:
        """Return the values one by one (Set-Cookie, for one, must not be joined)."""
        return self._table().get(name.lower(), [])[1:]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._table()

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return ((name, value) for name, *values in self._table().values() for value in values)

    def __len__(self) -> int:
        return sum(len(field) - 1 for field in self._table().values())

    def __repr__(self) -> str:
        return f"Headers({list(self)!r})"

    def pack(self) -> None:
        """Hold the fields as one string until somebody asks again: a tenth of the table, while a connection idles."""
        self._packed = "\n".join(f"{name}:{value}" for name, value in self)
        self._fields = {}

    def _table(self) -> dict[str, list[str]]:
        if self._packed:
            lines, self._packed = self._packed.split("\n"), ""
            self._gather((name, value) for name, _, value in (line.partition(":") for line in lines))
        return self._fields

    def _gather(self, fields: Iterable[tuple[str, str]]) -> None:
        for name, value in fields:
            self._fields.setdefault(name.lower(), [name]).append(value)


class Request:
    """The head of a request; `target` is in origin-form ("/path?query"), or "*"."""

    __slots__ = ("headers", "method", "target", "version")

    def __init__(self, method: str, target: str, headers: Headers, version: str = "HTTP/1.1") -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.version = version

    @property
    def path(self) -> str:
        """The target without its query, as it was sent: percent-encoding is left alone."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> dict[str, str]:
        """The query's names and values, decoded, made anew each time; the first value of a name counts."""
        query: dict[str, str] = {}
        for name, value in parse_qsl(self.target.partition("?")[2], keep_blank_values=True):
            query.setdefault(name, value)
        return query

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.target} {self.version}, {len(self.headers)} headers>"


class Response:
    """What a server answers instead of a 101, or what a client was answered; `body` is bytes."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: Fields = (), body: bytes = b"") -> None:
        self.status = status
        self.headers = headers if isinstance(headers, Headers) else Headers(headers)
        self.body = body

    def __repr__(self) -> str:
        return f"<Response {self.status} {phrase(self.status)}, {len(self.headers)} headers, {len(self.body)} bytes>"


def parse_request(head: bytes) -> Request:
    """Parse and judge the head of a request; HandshakeError 400, 431 or 505."""
    lines = _split(head)
    words = lines[0].split(" ")
    if len(words) != 3:
        raise HandshakeError(400, "the request line must be method, target and version (RFC 9112 section 3)")
    method, target, version = words
    if version != "HTTP/1.1":
        raise _refused_version(version)
    if method != "GET" and not TOKEN.fullmatch(method):
        raise HandshakeError(400, "the method must be a token (RFC 9112 section 3.1)")
    headers = _parse_fields(lines)
    host = _judge_host(headers)
    if not TARGET.fullmatch(target):
        target = _origin_form(method, target, host)
    _judge_length(headers)
    return Request(method, target, headers)


def parse_response(head: bytes) -> Response:
    """Parse and judge the head of a response (its body is not in it); HandshakeError with status 0."""
    try:
        lines = _split(head)
        found = _STATUS.fullmatch(lines[0])
        if not found or (found[1] == "0" and found[2] < "200"):
            raise HandshakeError(0, "the status line is malformed (RFC 9112 section 4)")
        return Response(int(found[2]), _parse_fields(lines))
    except HandshakeError as err:
        raise HandshakeError(0, err.args[0]) from None


def encode_response(status: int, headers: Fields = (), body: bytes = b"", *, head_only: bool = False) -> bytes:
    """Encode a final answer, after which the connection is closed; `head_only` answers a HEAD.

    What frames it is ours: Content-Length, Transfer-Encoding and Connection among `headers` are left out.
    """
    if not 200 <= status <= 599:
        raise ValueError(f"not the status of a final answer: {status}")
    if body and status in (204, 304):
        raise ValueError(f"{status} has no body (RFC 9110 section 6.4.1)")
    fields = [(name, value) for name, value in _pairs(headers) if name.lower() not in _FRAMING]
    names = {name.lower() for name, value in fields}
    if body and "content-type" not in names:
        fields.append(("Content-Type", "text/plain; charset=utf-8"))
    if status not in (204, 304):
        fields.append(("Content-Length", str(len(body))))
    # "A sender of Upgrade MUST also send an "Upgrade" connection option" (RFC 9110 section 7.8): think of 426.
    fields.append(("Connection", "close, Upgrade" if "upgrade" in names else "close"))
    text = f"HTTP/1.1 {status:d} {phrase(status)}\r\n{encode_fields(fields)}\r\n"
    return text.encode("latin-1") + (b"" if head_only else body)


_FRAMING = frozenset(("content-length", "transfer-encoding", "connection"))


def response(value: object) -> Response:
    """Make a Response of what an `http` handler returned.

    A Response, a HandshakeError, str, bytes, a status, or (status, headers, body); TypeError for anything else.
    """
    match value:
        case Response():
            return value
        case HandshakeError(status=status, headers=headers, body=body):
            # A client's error, passed on: 0 and 101 were about the connection behind us.
            return Response(status if status >= 200 else 502, headers, body)
        case str() | bytes():
            return _answer(200, (), value)
        case int() if not isinstance(value, bool):
            return _answer(value, (), "" if value in (204, 304) else f"{value:d} {phrase(value)}\n")
        case tuple((int() as status, headers, (str() | bytes()) as body)):
            return _answer(status, headers, body)
    raise TypeError(f"{_EXPECTED}, not {value!r:.80}")


_EXPECTED = "an http handler returns a Response, a HandshakeError, str, bytes, a status or (status, headers, body)"


def phrase(status: int) -> str:
    """Return the reason phrase, "" for a status that nobody has registered."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def encode_fields(headers: Fields) -> str:
    """Return the lines of a head, each with its CRLF; ValueError for what would be another line, or none."""
    return "".join([_encode_field(name, value) for name, value in _pairs(headers)])


def _encode_field(name: str, value: str) -> str:
    if not TOKEN.fullmatch(name):
        raise ValueError(f"not the name of a header: {name!r}")
    if _CONTROL.search(value):
        raise ValueError(f"a control character in the value of {name}")
    if not value.isascii():
        value.encode("latin-1")  # a UnicodeEncodeError is a ValueError
    return f"{name}: {value}\r\n"


def _pairs(fields: Fields) -> Iterable[tuple[str, str]]:
    return fields.items() if isinstance(fields, Mapping) else fields


def _split(head: bytes) -> list[str]:
    """Return the lines of a head: the first one, the header lines, and two empty ones."""
    lines = head.decode("latin-1").split("\r\n")
    # Whatever is not text must be one of the CRLFs that we have just split at.
    if len(head.translate(None, _TEXT)) != 2 * len(lines) - 2:
        raise HandshakeError(400, "a control character, or a CR or LF on its own (RFC 9112 section 2.2)")
    if len(lines) < 3 or lines[-1] or lines[-2]:
        raise HandshakeError(400, "the head must end with an empty line (RFC 9112 section 2.1)")
    if len(lines) > MAX_LINES + 3:
        raise HandshakeError(431, f"more than {MAX_LINES} header lines")
    return lines


def _parse_fields(lines: list[str]) -> Headers:
    headers = Headers()
    fields = headers._fields
    for line in lines[1:-2]:
        name, colon, value = line.partition(":")
        lower = _KNOWN.get(name)
        if lower is None or not colon:
            lower = _judge_name(name, colon)
        if lower in fields:
            fields[lower].append(value.strip(" \t"))
        else:
            fields[lower] = [name, value.strip(" \t")]
    return headers


def _judge_name(name: str, colon: str) -> str:
    """Return the name in lower case."""
    if colon and TOKEN.fullmatch(name):
        return name.lower()
    if name.startswith((" ", "\t")):
        raise HandshakeError(400, "a header must not be folded over lines (RFC 9112 section 5.2)")
    if not colon:
        raise HandshakeError(400, "a header line must have a colon (RFC 9112 section 5)")
    if name.endswith((" ", "\t")):
        raise HandshakeError(400, "no whitespace between a header's name and its colon (RFC 9112 section 5.1)")
    raise HandshakeError(400, "a header's name must be a token (RFC 9110 section 5.1)")


def _refused_version(version: str) -> HandshakeError:
    if _VERSION.fullmatch(version):
        return HandshakeError(505, "the version must be HTTP/1.1 (RFC 6455 section 4.2.1)")
    return HandshakeError(400, "the request line must end with a version (RFC 9112 section 2.3)")


def _judge_host(headers: Headers) -> str:
    """Return the Host.

    "A server MUST respond with a 400 (Bad Request) status code to any HTTP/1.1 request message that lacks a Host header
    field and to any request message that contains more than one Host header field line or a Host header field with an
    invalid field value" (RFC 9112 section 3.2).
    """
    hosts = headers.get_all("Host")
    if len(hosts) != 1:
        raise HandshakeError(400, "there must be one Host, and one only (RFC 9112 section 3.2)")
    if not HOST.fullmatch(hosts[0]):
        raise HandshakeError(400, "the Host must be a name or an address, and perhaps a port (RFC 9110 section 7.2)")
    return hosts[0]


def _origin_form(method: str, target: str, host: str) -> str:
    """Return the origin-form of a target in another form.

    A server must accept the absolute-form, and believe it rather than the Host (RFC 9112 section 3.2.2).  A client that
    sends both must send the same (section 3.2), so here they have to agree.
    """
    if target == "*" and method == "OPTIONS":
        return target
    found = _ABSOLUTE.fullmatch(target)
    if not found:
        raise HandshakeError(400, "the target must be a path, ASCII and without a fragment (RFC 9112 section 3.2)")
    if found[1].lower() != host.lower():
        raise HandshakeError(400, "the target and the Host must name the same server (RFC 9112 section 3.2)")
    rest = found[2] or ""
    return rest if rest.startswith("/") else "/" + rest


def _judge_length(headers: Headers) -> None:
    """Refuse what two readers may take for bodies of two lengths (request smuggling, RFC 9112 section 11.2)."""
    length = headers.get("Content-Length")
    if length is None:
        return
    if "Transfer-Encoding" in headers:
        raise HandshakeError(400, "either Content-Length or Transfer-Encoding, not both (RFC 9112 section 6.1)")
    if not (length.isascii() and length.isdigit()):
        raise HandshakeError(400, "Content-Length must be one number (RFC 9110 section 8.6)")


def _answer(status: int, headers: Fields, body: str | bytes) -> Response:
    try:
        fields = Headers(headers)
        sound = all(isinstance(value, str) for _, value in fields)
    except (AttributeError, TypeError, ValueError):
        sound = False
    if not sound:
        raise TypeError(f"{_EXPECTED}; its headers are a dict, or pairs, of str")
    if body and "Content-Type" not in fields:
        fields = Headers([*fields, ("Content-Type", _content_type(body))])
    return Response(status, fields, body.encode() if isinstance(body, str) else body)


def _content_type(body: str | bytes) -> str:
    if isinstance(body, bytes):
        return "application/octet-stream"
    return f"text/{'html' if body[:14].lower() == '<!doctype html' else 'plain'}; charset=utf-8"
