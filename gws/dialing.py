"""Dialing: from a URL to an open connection, by proxies, TLS, redirects and the handshake (RFC 6455 section 4.1).

Knows nothing of what is said over the connection, nor of what comes after it (see `client`).
"""

from __future__ import annotations

import contextlib
import ssl as tls
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import gevent

from gws import deflate, handshake, http, parameters, proxy, sockethelper
from gws.errors import HandshakeError
from gws.limits import Limits
from gws.stream import Stream
from gws.url import Pairs, Target, redirected
from gws.websocket import Owner, WebSocket

__all__ = ["Options", "dial"]

_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 10
_MAX_INTERIM = 10  # responses before the final one: "103 Early Hints" and the like
_MAX_BODY = 4096  # bytes of a refusal's body that are read
_PATIENCE = 2.0  # seconds that we wait for them


@dataclass(frozen=True)
class Options(Limits):
    """The options of `connect()`, besides where to."""

    headers: Mapping[str, str] | Iterable[tuple[str, str]] = ()  #: more header fields for the request
    protocols: Iterable[str] = ()  #: subprotocols that we offer, the favourite first
    origin: str | None = None  #: the Origin to send
    timeout: float = 10  #: seconds for connecting, TLS, and the opening handshake, in all
    max_header: int = 8192  #: bytes in the head of the response
    ssl: tls.SSLContext | None = None  #: for wss; by default the system's roots and the host's name are checked
    server_hostname: str | None = None  #: the name to check instead of the URL's host
    proxy: str | bool | None = True  #: a proxy's URL; True: as the environment says; None: no proxy
    path: str | None = None  #: a Unix socket to connect to, whatever host the URL names
    reconnect: bool = False  #: connect anew whenever the connection is lost, with growing pauses

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("timeout", "max_header"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not value > 0:
                raise ValueError(f"{name} must be a positive number, not {value!r}")
        if isinstance(self.protocols, str):
            raise TypeError("protocols must be a sequence of str, not str")
        if self.ssl is not None and not hasattr(self.ssl, "wrap_socket"):
            raise TypeError(f"ssl must be an ssl.SSLContext, not {self.ssl!r}")
        # A redirect or a reconnection needs them once more: a generator would be empty by then.
        object.__setattr__(self, "protocols", tuple(self.protocols))
        object.__setattr__(self, "headers", tuple(http.Headers(self.headers)))


def dial(target: Target, options: Options, owner: Owner) -> WebSocket:
    """Open a connection within `options.timeout` seconds, following redirects.   Blocks."""
    with sockethelper.deadline(options.timeout, str(target)):
        return _follow(target, list(http.Headers(options.headers)), options, owner)


def _follow(target: Target, headers: Pairs, options: Options, owner: Owner) -> WebSocket:
    for followed in range(_MAX_REDIRECTS + 1):
        try:
            got = _open(target, headers, options, owner)
        except ValueError as error:
            if not followed or isinstance(error, OSError):  # (a certificate's fault is both)
                raise
            raise HandshakeError(0, f"a redirect leads nowhere: {error}") from None
        if isinstance(got, WebSocket):
            return got
        target, headers = redirected(target, got, headers)
    raise HandshakeError(0, f"more than {_MAX_REDIRECTS} redirects")


def _open(target: Target, headers: Pairs, options: Options, owner: Owner) -> WebSocket | str:
    """Return the open connection, or where the server redirects us to."""
    # A redirect by a proxy is none: whoever sits before the proxy could have sent it, TLS or not.
    stream = Stream(_socket(target, options), masked=False)
    fd = None
    try:
        fd = _shake_hands(stream, target, headers, options, owner)
        return fd
    except HandshakeError as refusal:
        location = http.Headers(refusal.headers).get("Location")
        if refusal.status not in _REDIRECTS or location is None:
            raise
        return location
    finally:
        if fd is None:
            stream.close()


def _socket(target: Target, options: Options) -> Any:
    context = (options.ssl or sockethelper.client_context()) if target.secure else None
    if options.path is not None:
        sock = sockethelper.connect_unix(options.path)
    elif (through := _proxy(target, options)) is not None:
        sock = proxy.open_tunnel(through, target.host, target.port)
    else:
        sock = sockethelper.connect(target.host, target.port)
    if context is None:
        return sock
    return sockethelper.start_tls(sock, context, server_hostname=options.server_hostname or target.host)


def _shake_hands(stream: Stream, target: Target, headers: Pairs, options: Options, owner: Owner) -> WebSocket:
    key = handshake.new_key()
    request = handshake.upgrade_request(
        target.host,
        target.port,
        target.path,
        key=key,
        secure=target.secure,
        protocols=options.protocols,
        extensions=parameters.offer(options.compression) if options.compression else None,
        origin=options.origin,
        headers=target.credentials + headers,
    )
    stream.write(request)
    response = _read_response(stream, options.max_header)
    fd = WebSocket(stream, owner, options, server=False, addr=(target.host, target.port))
    fd.protocol = handshake.check_response(response, key, options.protocols)
    agreed = parameters.accepted(_extensions(response), options.compression)
    if agreed is not None and options.compression is not None:
        fd.deflate = deflate.Deflate(agreed, options.compression, server=False)
    fd.opened()
    return fd


def _read_response(stream: Stream, max_header: int) -> http.Response:
    try:
        response = _read_final(stream, max_header)
        if response.status != 101:
            response.body = _body(stream, response)  # it tells why
        return response
    except EOFError:
        raise HandshakeError(0, "the server closed the connection instead of answering") from None
    except HandshakeError as error:  # whose status is what a server would answer
        raise HandshakeError(0, error.args[0]) from None


def _read_final(stream: Stream, max_header: int) -> http.Response:
    """Read responses up to the final one.

    "A client MUST be able to parse one or more 1xx responses received prior to a final response, even if the client
    does not expect one." (RFC 9110 section 15.2)   A 101 is final for us.
    """
    for _ in range(_MAX_INTERIM + 1):
        response = http.parse_response(stream.read_head(max_header))
        if response.status == 101 or response.status >= 200:
            return response
    raise HandshakeError(0, f"more than {_MAX_INTERIM} interim responses")


def _extensions(response: http.Response) -> list[parameters.Extension]:
    try:
        return list(handshake.extensions(response.headers))
    except HandshakeError as error:
        raise HandshakeError(response.status, error.args[0], response.headers) from None


def _body(stream: Stream, response: http.Response) -> bytes:
    """Read the beginning of a refusal's body, if its length is told, and all of it comes."""
    length = response.headers.get("Content-Length", "0")
    # The status says enough: it must not be lost to a body that does not come.
    with contextlib.suppress(EOFError, ConnectionError), gevent.Timeout(_PATIENCE, False):  # type: ignore[arg-type]
        return stream.read(min(int(length), _MAX_BODY)) if length.isdecimal() and len(length) < 10 else b""
    return b""


def _proxy(target: Target, options: Options) -> str | None:
    if isinstance(options.proxy, str):
        return options.proxy
    return proxy.proxy_for(str(target)) if options.proxy else None
