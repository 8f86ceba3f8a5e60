"""Taking a socket over from pywsgi; and a request, from a handler of its own that knows nothing of WebSocket.

Knows how gevent's sockets and their buffered readers hang together.  Such a handler goes on when the app returns: what
it finds where its socket was takes no response, and ends the connection when it is closed.
"""

from __future__ import annotations

import contextlib
import errno
import io
import socket as sockets
from typing import Any
from urllib.parse import quote

import _socket

from gws import handshake, http
from gws.appsocket import WebSocket
from gws.errors import HandshakeError
from gws.keepalive import keepalive
from gws.opening import Terms, agree
from gws.stream import Stream
from gws.websocket import WebSocket as AnyWebSocket

__all__ = ["buffered", "head", "take_over", "upgrade"]

_SAFE = "/!$&'()*+,;=:@~"  # what a path holds as it is (RFC 3986 section 3.3)


def take_over(sock: Any, rfile: Any, stream_class: type[Stream] = Stream) -> Stream:
    """Make a stream of a socket, and of what its reader has received beyond the request.   Both are of no use then."""
    rest = buffered(rfile, sock)
    rfile.close()
    stream = stream_class(sock if hasattr(sock, "pending") else _raw(sock), masked=True)
    stream.preload(rest)
    return stream


def upgrade(environ: dict[str, Any], terms: Terms) -> WebSocket:
    """Answer the request of `environ`: HandshakeError if it is unsound, RuntimeError if the socket is not to be had."""
    rfile = getattr(environ["wsgi.input"], "rfile", environ["wsgi.input"])
    sock: Any = getattr(getattr(rfile, "raw", None), "_sock", None)
    if not isinstance(rfile, io.BufferedReader) or not hasattr(sock, "_sock") or hasattr(sock, "pending"):
        raise RuntimeError("this needs handler_class=gws.wsgi.WebSocketHandler, or gws.worker in gunicorn")
    request = http.parse_request(head(environ))
    agreed = agree(request, terms)
    interim = handshake.CONTINUE if handshake.expects_continue(request) else b""
    sock.sendall(interim + handshake.accept_response(*agreed[:3]))
    fd = WebSocket(take_over(sock, rfile), _Stranger(environ), terms, request)
    fd.protocol, fd.deflate = agreed.protocol, agreed.deflate
    fd.opened()
    if terms.ping_interval is not None:
        keepalive(terms.ping_interval, terms.ping_timeout).add(fd)
    sock._sock = _Upgraded(fd, terms)
    return fd


def head(environ: dict[str, Any]) -> bytes:
    """Put the request's head together again, as far as it can be known."""
    path = environ.get("RAW_URI") or quote(environ["SCRIPT_NAME"] + environ["PATH_INFO"], _SAFE, "latin-1")
    if "RAW_URI" not in environ and environ["QUERY_STRING"]:
        path += "?" + environ["QUERY_STRING"]
    fields = [(name[5:].replace("_", "-"), value) for name, value in environ.items() if name.startswith("HTTP_")]
    if environ.get("CONTENT_LENGTH"):
        fields.append(("Content-Length", environ["CONTENT_LENGTH"]))
    try:
        lines = http.encode_fields(fields)
    except ValueError as error:
        raise HandshakeError(400, str(error)) from None
    return f"{environ['REQUEST_METHOD']} {path} {environ['SERVER_PROTOCOL']}\r\n{lines}\r\n".encode("latin-1")


class _Stranger:
    """The handler, as far as a connection has to know it."""

    def __init__(self, environ: dict[str, Any]):
        self.environ = environ
        self.client_address = (environ["REMOTE_ADDR"], int(environ["REMOTE_PORT"])) if "REMOTE_PORT" in environ else ""

    def told(self, fd: AnyWebSocket, event: str, value: Any) -> None:
        """Hear of pings, pongs and slow peers (see `websocket.Owner`)."""


class _Upgraded:
    """What a handler finds in the place of its socket."""

    def __init__(self, fd: WebSocket, terms: Terms):
        self._fd = fd
        self._terms = terms
        self._done = False

    def __bool__(self) -> bool:
        return not self._done  # a socket that is closed does not close again what is beneath it

    def fileno(self) -> int:
        return -1

    def recv(self, *_: Any) -> bytes:
        return b""

    def send(self, *_: Any) -> int:
        raise BrokenPipeError(errno.EPIPE, "the connection is a WebSocket's")

    getsockopt = send  # what gevent's sendall() begins with

    def close(self) -> None:
        """See the connection to its end, now that the app has returned.   Blocks."""
        self._done = True
        self._fd.close(1000)
        if self._terms.ping_interval is not None:
            keepalive(self._terms.ping_interval, self._terms.ping_timeout).discard(self._fd)


def buffered(rfile: Any, sock: Any) -> bytes:
    """Return what a reader has received and nobody has read; never blocks."""
    sock.settimeout(0.0)
    with contextlib.suppress(OSError):
        return bytes(rfile.peek())
    return b""


def _raw(sock: Any) -> _socket.socket:
    """Take the descriptor from a gevent socket, which is one no longer."""
    raw = _socket.socket(sock.family, sock.type, sock.proto, fileno=sock.detach())
    if raw.family != getattr(sockets, "AF_UNIX", None):
        with contextlib.suppress(OSError):
            raw.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
    return raw
