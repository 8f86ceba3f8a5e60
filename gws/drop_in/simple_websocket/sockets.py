"""A WSGI request's socket, found in the environ of whichever server it is, and made a connection of.

Knows where pywsgi, gunicorn and werkzeug keep a socket and what they have received and not used; all that is agreed on
is `opening`'s.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import _socket

from gws import handshake, http, wsgi
from gws.byhand import buffered, head
from gws.errors import HandshakeError
from gws.opening import Terms, agree
from gws.stream import Stream
from gws.websocket import WebSocket

__all__ = ["Choose", "Opened", "open_connection"]

#: (what the client offers to speak, its Host, its target, its header fields) -> what is chosen, or None.
Choose = Callable[[list[str], str, str, list[tuple[str, str]]], "str | None"]


class Opened(NamedTuple):
    """A connection, whose the server is, and whether it is ours alone; or why there is none."""

    fd: Any
    mode: str
    own: bool
    refusal: HandshakeError | None = None


class _Found(NamedTuple):
    sock: Any
    mode: str
    rest: bytes  # what came behind the request's head, and lies in a buffer


def open_connection(environ: dict[str, Any], terms: Terms, choose: Choose) -> Opened:
    """Make the request's connection.   Blocks.   RuntimeError where there is no socket in the environ."""
    if isinstance(environ.get("wsgi.websocket"), WebSocket):
        return Opened(environ["wsgi.websocket"], "gevent", False)
    if "gws.handler" in environ:
        try:
            return Opened(wsgi.upgrade(environ), "gevent", False)
        except HandshakeError as refusal:
            return Opened(None, "gevent", False, refusal)
    found = _find(environ)
    stream = Stream(found.sock, masked=True)
    stream.preload(found.rest)
    fd = None
    try:
        fd = _shake_hands(stream, environ, terms, choose)
        return Opened(fd, found.mode, True)
    except HandshakeError as refusal:
        answer = http.response(refusal)
        with contextlib.suppress(OSError):
            stream.write(http.encode_response(answer.status, answer.headers, answer.body))
            stream.drain()
            stream.shutdown()
        return Opened(None, found.mode, True, refusal)
    finally:
        if fd is None:
            stream.close()


def _shake_hands(stream: Stream, environ: dict[str, Any], terms: Terms, choose: Choose) -> WebSocket:
    request = http.parse_request(head(environ))
    agreed = agree(request, terms)
    offered = [name.strip() for name in request.headers.get("Sec-WebSocket-Protocol", "").split(",") if name.strip()]
    protocol = choose(offered, request.headers.get("Host", ""), request.target, list(request.headers))
    if protocol is not None and protocol not in offered:
        raise ValueError(f"the client has not offered to speak {protocol!r} (RFC 6455 section 4.2.2)")
    addr = environ.get("REMOTE_ADDR"), int(environ.get("REMOTE_PORT") or 0)
    fd = WebSocket(stream, _Deaf(), terms, server=True, addr=addr)
    fd.request, fd.protocol, fd.deflate = request, protocol, agreed.deflate
    if handshake.expects_continue(request):
        stream.write(handshake.CONTINUE)
    stream.write(handshake.accept_response(agreed.key, protocol, agreed.extensions))
    fd.opened()
    request.headers.pack()
    return fd


# ------------------------------------------------------------------------------------------- whose the server is


def _find(environ: dict[str, Any]) -> _Found:
    """Find the socket, as simple-websocket did."""
    body = environ.get("wsgi.input")
    if "werkzeug.socket" in environ:
        sock = environ["werkzeug.socket"]
        return _Found(_shared(sock), "werkzeug", buffered(body, sock) if hasattr(body, "peek") else b"")
    if "gunicorn.socket" in environ:
        return _Found(_shared(environ["gunicorn.socket"]), "gunicorn", _unread(body))
    if environ.get("SERVER_SOFTWARE", "").startswith("gevent"):
        reader = body if hasattr(body, "raw") else getattr(body, "rfile", None)
        if hasattr(reader, "raw"):
            return _of_pywsgi(reader)
    raise RuntimeError("Cannot obtain socket from WSGI environment.")


def _of_pywsgi(reader: Any) -> _Found:
    sock = reader.raw._sock
    rest = buffered(reader, sock)
    found = _Found(_shared(sock), "gevent", rest)
    reader.close()  # so that pywsgi looks for no further request here
    return found


def _shared(sock: Any) -> Any:
    """Return a socket for the stream; the server keeps its own, and closes that when the request is done."""
    if hasattr(sock, "pending"):  # TLS: there cannot be two of them
        return sock
    shared = _Shared(sock.family, sock.type, sock.proto, fileno=os.dup(sock.fileno()))
    if shared.family != getattr(_socket, "AF_UNIX", None):
        with contextlib.suppress(OSError):
            shared.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
    return shared


class _Shared(_socket.socket):
    """A socket of which the server has a descriptor as well: once we are done, nothing goes over that any more."""

    def close(self) -> None:
        if self.fileno() >= 0:
            with contextlib.suppress(OSError):
                self.shutdown(_socket.SHUT_RDWR)
        super().close()


def _unread(body: Any) -> bytes:
    """Return what gunicorn's parser has received and not used."""
    unreader = getattr(getattr(body, "reader", None), "unreader", None)
    if unreader is None:
        return b""
    rest = bytes(unreader.buf.getvalue())
    unreader.buf = type(unreader.buf)()
    return rest


class _Deaf:
    def told(self, fd: WebSocket, event: str, value: Any) -> None:
        """Hear of pings, pongs and slow peers (see `websocket.Owner`)."""
