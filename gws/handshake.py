"""The opening handshake, RFC 6455 section 4: what a request and its response must hold, and how both are made.

Does not know sockets, nor what an extension means: it is told which one was chosen.  Heads come and go as bytes, and
gws.http reads them; whoever calls here needs nothing of that room, for its names are passed on.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import os
import re
from collections.abc import Iterable

from gws.errors import HandshakeError
from gws.http import (
    HOST,
    TARGET,
    TOKEN,
    Fields,
    Headers,
    Request,
    Response,
    encode_fields,
    encode_response,
    parse_request,
    parse_response,
    phrase,
    response,
)

__all__ = [
    "CONTINUE",
    "Fields",
    "Headers",
    "Request",
    "Response",
    "accept_headers",
    "accept_response",
    "accept_upgrade",
    "check_origin",
    "check_response",
    "check_upgrade",
    "choose_protocol",
    "encode_response",
    "expects_continue",
    "extensions",
    "new_key",
    "parse_request",
    "parse_response",
    "response",
    "sec_websocket_accept",
    "upgrade_request",
    "wants_websocket",
]

# "a base64-encoded ... value that, when decoded, is 16 bytes in length" (section 4.2.1): bits left over may be any.
_KEY = re.compile(r"[+/0-9A-Za-z]{22}==")
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_ORIGIN = re.compile(r"(https?|wss?)://([^:/?#@\[\]]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")
_DEFAULT_PORT = {"http": "80", "ws": "80", "https": "443", "wss": "443"}

#: Elements of a list, or parameters in it, that are looked at: parsing them is what a stranger can make us do most of.
_MOST = 100

#: What only this room writes: a caller who gives one of these among `headers` has misunderstood something.
_OURS = """
    upgrade connection origin content-length transfer-encoding sec-websocket-key sec-websocket-version
    sec-websocket-protocol sec-websocket-extensions sec-websocket-accept
"""
_OWN_NAMES = frozenset(_OURS.split())


# The server's side.


def accept_upgrade(head: bytes, protocols: Iterable[str] = ()) -> tuple[bytes, str | None]:
    """Answer a client's opening handshake: (the response, the subprotocol); HandshakeError if it is unsound.

    The Origin is not looked at: who serves browsers does the steps one by one, with check_origin among them.
    """
    request = parse_request(head)
    key = check_upgrade(request)
    protocol = choose_protocol(request, protocols)
    return accept_response(key, protocol), protocol


def wants_websocket(request: Request) -> bool:
    """Tell an attempt at WebSocket, sound or not, from plain HTTP (and from `Upgrade: h2c`)."""
    headers = request.headers
    return _has_token(headers.get("upgrade", ""), "websocket") or "sec-websocket-key" in headers


def check_upgrade(request: Request) -> str:
    """Return the key of a sound opening handshake (section 4.2.1); HandshakeError 400, 405, 413, 426 or 505."""
    get = request.headers.get
    if request.method != "GET":
        raise HandshakeError(405, "the method must be GET (RFC 6455 section 4.2.1)", [("Allow", "GET")])
    if request.version != "HTTP/1.1":
        raise HandshakeError(505, "the version must be HTTP/1.1 (RFC 6455 section 4.2.1)")
    if not _has_token(get("upgrade", ""), "websocket"):
        raise _upgrade_required("Upgrade must be websocket (RFC 6455 section 4.2.1)")
    if not _has_token(get("connection", ""), "upgrade"):
        raise HandshakeError(400, "Connection must include Upgrade (RFC 6455 section 4.2.1)")
    if get("sec-websocket-version") != "13":
        raise _refused_version(request.headers.get_all("sec-websocket-version"))
    key = get("sec-websocket-key", "")
    if not _KEY.fullmatch(key):
        raise HandshakeError(400, "Sec-WebSocket-Key must be 16 bytes in base64 (RFC 6455 section 4.2.1)")
    _refuse_body(request.headers)
    return key


def check_origin(request: Request, origins: Iterable[str] | None) -> None:
    """Refuse a browser that runs somebody else's page; HandshakeError 403 (sections 4.2.2 and 10.2).

    `origins` is None for our own pages only, or what to let in: "https://example.org" as browsers write it, or "*".
    Who sends no Origin is no browser, and could have sent any.
    """
    origin = request.headers.get("origin")
    if origin is None:
        return
    if origins is None:
        allowed = _is_same_origin(origin, request.headers.get("host", ""))
    else:
        allowed = not {"*", origin}.isdisjoint(_names(origins))
    if not allowed:
        raise HandshakeError(403, "this Origin is not allowed here (RFC 6455 section 10.2)")


def choose_protocol(request: Request, protocols: Iterable[str]) -> str | None:
    """Return the first of the client's subprotocols that is among ours; HandshakeError 400.

    "The elements that comprise this value MUST be non-empty strings with characters in the range U+0021 to U+007E not
    including separator characters as defined in [RFC2616] and MUST all be unique strings" (section 4.1).
    """
    header = request.headers.get("sec-websocket-protocol")
    if header is None:
        return None
    offered = _elements(header)
    if not all(map(TOKEN.fullmatch, offered)) or len(set(offered)) != len(offered):
        raise HandshakeError(400, "Sec-WebSocket-Protocol must be different tokens (RFC 6455 section 4.1)")
    known = set(_names(protocols))
    return next((name for name in offered if name in known), None)


def extensions(headers: Headers) -> list[tuple[str, list[tuple[str, str | None]]]]:
    """Parse Sec-WebSocket-Extensions (section 9.1): [(name, [(parameter, value or None), ...]), ...]; 400."""
    header = headers.get("sec-websocket-extensions")
    if header is None:
        return []
    if header.count(";") > _MOST:
        raise _malformed_extensions()
    return [_parse_extension(element) for element in _elements(header)]


def accept_response(
    key: str, protocol: str | None = None, extensions: str | None = None, headers: Fields = ()
) -> bytes:
    """Encode the 101 (section 4.2.2); ValueError for what does not belong into it."""
    fields = _chosen(() if protocol is None else (protocol,), extensions)
    if headers:
        fields += _callers(headers)
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {sec_websocket_accept(key)}\r\n{encode_fields(fields)}\r\n"
    ).encode("latin-1")


def accept_headers(key: str, protocol: str | None = None, extensions: str | None = None) -> list[tuple[str, str]]:
    """Return the header fields of the 101, for whoever encodes it himself."""
    fields = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", sec_websocket_accept(key))]
    return fields + _chosen(() if protocol is None else (protocol,), extensions)


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def expects_continue(request: Request) -> bool:
    """Tell whether CONTINUE has to come before the 101.

    "If a server receives both an Upgrade and an Expect header field with the "100-continue" expectation (Section
    10.1.1), the server MUST send a 100 (Continue) response before sending a 101" (RFC 9110 section 7.8).
    """
    return request.headers.get("expect", "").lower() == "100-continue"


# The client's side.


def new_key() -> str:
    """Return "a randomly selected 16-byte value that has been base64-encoded" (section 4.1)."""
    return base64.b64encode(os.urandom(16)).decode()


def upgrade_request(
    host: str,
    port: int,
    target: str = "/",
    *,
    key: str,
    secure: bool = False,
    protocols: Iterable[str] = (),
    extensions: str | None = None,
    origin: str | None = None,
    headers: Fields = (),
) -> bytes:
    """Encode a client's opening handshake (section 4.1); ValueError for what does not belong into it.

    Among `headers` may be another Host, for a server that is not reached by its own name.
    """
    if not TARGET.fullmatch(target):
        raise ValueError(f"the target must be a path, percent-encoded and without a fragment: {target!r}")
    if not _KEY.fullmatch(key):
        raise ValueError("the key must be 16 bytes in base64")
    given = _callers(headers)
    host = given.get("host", _host(host, port, secure))
    if not HOST.fullmatch(host):
        raise ValueError(f"the Host must be a name or an address, and perhaps a port: {host!r}")
    fields = [("Host", host), ("Upgrade", "websocket"), ("Connection", "Upgrade")]
    fields += [("Sec-WebSocket-Key", key), ("Sec-WebSocket-Version", "13"), *_chosen(protocols, extensions)]
    if origin is not None:
        fields.append(("Origin", origin))
    fields += [(name, value) for name, value in given if name.lower() != "host"]
    return f"GET {target} HTTP/1.1\r\n{encode_fields(fields)}\r\n".encode("latin-1")


def check_response(response: Response, key: str, protocols: Iterable[str] = ()) -> str | None:
    """Return the subprotocol of a sound 101 (section 4.1); HandshakeError, with the response in it, for another.

    The extensions are not judged here.
    """
    headers = response.headers
    if response.status != 101:
        raise _unsound(response, phrase(response.status))
    if headers.get("upgrade", "").lower() != "websocket":
        raise _unsound(response, "Upgrade must be websocket (RFC 6455 section 4.1)")
    if not _has_token(headers.get("connection", ""), "upgrade"):
        raise _unsound(response, "Connection must include Upgrade (RFC 6455 section 4.1)")
    if headers.get("sec-websocket-accept") != sec_websocket_accept(key):
        raise _unsound(response, "Sec-WebSocket-Accept does not answer our key (RFC 6455 section 4.1)")
    protocol = headers.get("sec-websocket-protocol")
    if protocol is not None and protocol not in _names(protocols):
        raise _unsound(response, "Sec-WebSocket-Protocol is not one that we offered (RFC 6455 section 4.1)")
    return protocol


def sec_websocket_accept(key: str) -> str:
    """Return what proves to the client that its key was read, and by somebody who means it (section 4.2.2)."""
    digest = hashlib.sha1(key.encode("latin-1") + _GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode()


def _has_token(value: str, token: str) -> bool:
    """Tell whether a list such as "keep-alive, Upgrade" holds the token, in any case."""
    value = value.lower()
    return value == token or token in _elements(value)


def _elements(value: str) -> list[str]:
    """Split a list; beyond _MOST commas the last element is all the rest, which is no token, for it holds a comma."""
    return [element.strip(" \t") for element in value.split(",", _MOST)]


def _names(names: Iterable[str]) -> list[str]:
    """Return a list, also of a str: it is one name and not its letters."""
    return [names] if isinstance(names, str) else list(names)


def _upgrade_required(reason: str) -> HandshakeError:
    """Say what is spoken here (section 4.4)."""
    return HandshakeError(426, reason, [("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")])


def _refused_version(versions: list[str]) -> HandshakeError:
    if len(versions) > 1 or "," in "".join(versions):
        return HandshakeError(400, "there must be one Sec-WebSocket-Version only (RFC 6455 section 11.3.5)")
    return _upgrade_required("Sec-WebSocket-Version must be 13 (RFC 6455 section 4.2.1)")


def _refuse_body(headers: Headers) -> None:
    """Refuse a body: what follows the head here are frames, and a proxy before us would think otherwise."""
    if headers.get("content-length", "0").strip("0"):
        raise HandshakeError(413, "an opening handshake has no body (RFC 9110 section 9.3.1)")
    if "transfer-encoding" in headers:
        raise HandshakeError(400, "an opening handshake has no Transfer-Encoding (RFC 9110 section 9.3.1)")


def _is_same_origin(origin: str, host: str) -> bool:
    """Compare, but for the scheme: a proxy before us may have taken the TLS away."""
    found = _ORIGIN.fullmatch(origin.lower())
    if not found:
        return False
    name, colon, port = host.lower().rpartition(":")
    if not colon or port.endswith("]"):
        name, port = host.lower(), ""
    default = _DEFAULT_PORT[found[1]]
    return name == found[2] and (port or default) == (found[3] or default)


def _parse_extension(element: str) -> tuple[str, list[tuple[str, str | None]]]:
    # Splitting at commas and semicolons comes first, for no quoted string may hold one: "the value after
    # quoted-string unescaping MUST conform to the 'token' ABNF" (section 9.1).
    name, *parameters = [part.strip(" \t") for part in element.split(";")]
    if not TOKEN.fullmatch(name):
        raise _malformed_extensions()
    return name, [_parse_parameter(parameter) for parameter in parameters]


def _parse_parameter(parameter: str) -> tuple[str, str | None]:
    # "Using ABNF syntax/rules from [RFC2616], including the 'implied *LWS rule'" (section 9.1): blanks may surround it.
    name, equals, value = (part.strip(" \t") for part in parameter.partition("="))
    if value.startswith('"'):
        value = _unquote(value)
    if not TOKEN.fullmatch(name) or (equals and not TOKEN.fullmatch(value)):
        raise _malformed_extensions()
    return name, value if equals else None


def _unquote(value: str) -> str:
    """Return what a quoted string means, "" if it is none."""
    first, *escaped = value[1:-1].split("\\")
    return first + "".join(escaped) if len(value) > 1 and value.endswith('"') and all(escaped) else ""


def _malformed_extensions() -> HandshakeError:
    return HandshakeError(400, "Sec-WebSocket-Extensions is malformed (RFC 6455 section 9.1)")


def _chosen(protocols: Iterable[str], extensions: str | None) -> list[tuple[str, str]]:
    """Return the headers that offer, or accept, subprotocols and extensions."""
    fields = []
    if names := _names(protocols):
        if not all(map(TOKEN.fullmatch, names)) or len(set(names)) != len(names):
            raise ValueError(f"subprotocols must be different tokens: {names}")
        fields.append(("Sec-WebSocket-Protocol", ", ".join(names)))
    if extensions is not None:
        fields.append(("Sec-WebSocket-Extensions", extensions))
    return fields


def _callers(headers: Fields) -> Headers:
    given = Headers(headers)
    for name, _ in given:
        if name.lower() in _OWN_NAMES:
            raise ValueError(f"{name} is the handshake's own")
    return given


def _host(host: str, port: int, secure: bool) -> str:
    """Return what Host shall say: no default port, and an IPv6 address in brackets, without its zone."""
    if ":" in host:
        address = host[1:-1] if host.startswith("[") else host
        host = f"[{ipaddress.IPv6Address(address.partition('%')[0])}]"
    if not 0 < port < 65536:
        raise ValueError(f"not a port: {port}")
    return host if port == (443 if secure else 80) else f"{host}:{port}"


def _unsound(response: Response, reason: str) -> HandshakeError:
    return HandshakeError(response.status, reason, response.headers, response.body)
