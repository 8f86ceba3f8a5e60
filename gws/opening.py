"""The opening of an accepted socket, from its first byte to the 101 or to a refusal (RFC 6455 section 4.2).

Knows nothing of listening, nor of what comes after the 101.   `agree` is for every server, whoever reads its heads.
"""

from __future__ import annotations

import logging
import ssl as tls
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import gevent

from gws import deflate, handshake, http, parameters, sockethelper
from gws.errors import HandshakeError
from gws.events import Events
from gws.limits import Limits
from gws.listener import Listener
from gws.stream import Stream
from gws.websocket import WebSocket

__all__ = ["FAILURES", "Agreement", "Opening", "Options", "Terms", "agree"]

log = logging.getLogger("gws")

FAILURES = (Exception, gevent.Timeout)  # a Timeout is no Exception, but a handler that lets one out has failed as well

_LINGER = 2.0  # seconds that a peer has for hanging up, once it was answered in plain HTTP


@dataclass(frozen=True)
class Terms(Limits):
    """What an opening request is held to: the options of every kind of server."""

    max_header: int = 8192  #: bytes in the head of a request; beyond it: 431
    origins: Iterable[str] | None = None  #: those that a browser's page may have; None: the Host's own; "*": any
    protocols: Iterable[str] = ()  #: subprotocols that we speak

    def __post_init__(self) -> None:
        super().__post_init__()
        self._must_be_positive("max_header")
        if isinstance(self.protocols, str):
            raise TypeError("protocols must be a sequence of str, not str")
        # Each handshake goes through them: a generator would be empty at the second.
        object.__setattr__(self, "protocols", tuple(self.protocols))
        if self.origins is not None:
            origins = [self.origins] if isinstance(self.origins, str) else self.origins
            object.__setattr__(self, "origins", frozenset(origins))

    def _must_be_positive(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if not isinstance(value, int | float) or not value > 0:
                raise ValueError(f"{name} must be a positive number, not {value!r}")


@dataclass(frozen=True)
class Options(Terms):
    """The options of `listen()` and `start()`, besides where to listen."""

    handshake_timeout: float = 10  #: seconds for TLS and the opening handshake together; beyond it: 408
    maxclient: int = 65535  #: connections at a time; beyond it: 503
    ssl: tls.SSLContext | None = None  #: for wss
    certfile: str | None = None  #: instead of `ssl`: a PEM file with the certificate (and its chain)
    keyfile: str | None = None  #: the PEM file with its key, if that is not in `certfile`
    backlog: int = 4096  #: connections that the kernel keeps for us until we accept them
    nodelay: bool = True  #: send small frames at once (TCP_NODELAY)
    reuse_port: bool = False  #: let several processes listen on one port (SO_REUSEPORT)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._must_be_positive("handshake_timeout", "maxclient", "backlog")
        if self.ssl is not None and not hasattr(self.ssl, "wrap_socket"):
            raise TypeError(f"ssl must be an ssl.SSLContext, not {self.ssl!r}; files are certfile and keyfile")
        if self.ssl is not None and self.certfile is not None:
            raise ValueError("either ssl or certfile, not both")
        if self.keyfile is not None and self.certfile is None:
            raise ValueError("a keyfile needs a certfile")


class Agreement(NamedTuple):
    """What was agreed on with a client; `extensions` is the answer's header."""

    key: str
    protocol: str | None
    extensions: str | None
    deflate: deflate.Deflate | None


def agree(request: http.Request, terms: Terms) -> Agreement:
    """Judge an opening request, and choose among what it offers (section 4.2.2); HandshakeError for a refusal."""
    key = handshake.check_upgrade(request)
    handshake.check_origin(request, terms.origins)
    protocol = handshake.choose_protocol(request, terms.protocols)
    return Agreement(key, protocol, *_agree_on_compression(request, terms.compression))


def _agree_on_compression(
    request: http.Request, compression: deflate.Compression | None
) -> tuple[str | None, deflate.Deflate | None]:
    """Choose among the extensions that the client offers: compression is the one we know."""
    if compression is None or "Sec-WebSocket-Extensions" not in request.headers:
        return None, None
    agreed = parameters.accept(handshake.extensions(request.headers), compression)
    if agreed is None:
        return None, None
    answer, terms = agreed
    return answer, deflate.Deflate(terms, compression, server=True)


class Opening:
    """What a server is while its connections open."""

    def __init__(self, events: Events):
        self.options = Options()
        self.fds: set[WebSocket] = set()  #: the open connections
        self._events = events
        self._listener: Listener | None = None
        self._context: tls.SSLContext | None = None

    def told(self, fd: WebSocket, event: str, value: Any) -> None:
        """Hear from a connection (see `websocket.Owner`)."""
        raise NotImplementedError

    def _shake_hands(self, sock: Any, addr: Any) -> WebSocket | None:
        """Open the connection; or answer in plain HTTP, close the socket, and return None."""
        stream = fd = None
        try:
            try:
                with gevent.Timeout(self.options.handshake_timeout, _TooSlow):
                    stream = self._stream(sock)
                    fd, answer = self._upgrade(stream, addr)
            except _TooSlow:
                answer = _encode(self._refuse(addr, HandshakeError(408, "the handshake took too long")))
            if fd is None and stream is not None:
                _respond(stream, answer, self.options.handshake_timeout)
        except (EOFError, OSError) as error:
            log.debug("%s left during the handshake: %s", addr, error)
        finally:
            if fd is None and stream is not None:
                stream.close()
        return fd

    def _stream(self, sock: Any) -> Stream:
        if self._context is not None:
            sock = sockethelper.start_tls(sock, self._context, server_side=True)
        return Stream(sock, masked=True)

    def _upgrade(self, stream: Stream, addr: Any) -> tuple[WebSocket | None, bytes]:
        """Read the request, and accept it; or return the answer to send instead (section 4.2)."""
        try:
            request = http.parse_request(self._head(stream))
        except HandshakeError as refusal:
            return None, _encode(self._refuse(addr, refusal))
        fd, answer = self._answer(stream, addr, request)
        if fd is not None:
            stream.write(answer)
            fd.opened()
            request.headers.pack()
        return fd, answer

    def _head(self, stream: Stream) -> bytes:
        return stream.read_head(self.options.max_header)

    def _answer(self, stream: Stream, addr: Any, request: http.Request) -> tuple[WebSocket | None, bytes]:
        """Decide what to say to a request; whatever goes wrong with that on our side is a 500."""
        head_only = request.method == "HEAD"
        try:
            try:
                answer = None if handshake.wants_websocket(request) else self._ask_http(request)
                if answer is None:  # a plain request that nobody wants is judged as an upgrade, too: 426
                    return self._accept(stream, addr, request)
            except HandshakeError as refusal:
                answer = self._refuse(addr, refusal)
            return None, _encode(answer, head_only)
        except FAILURES:
            log.exception("a handler of %s's request failed", addr)
            return None, _encode(self._refuse(addr, HandshakeError(500, "the server has failed")), head_only)

    def _accept(self, stream: Stream, addr: Any, request: http.Request) -> tuple[WebSocket, bytes]:
        agreed = agree(request, self.options)
        self._refuse_if_there_is_no_room()
        fd = WebSocket(stream, self, self.options, server=True, addr=addr)
        fd.request, fd.protocol, fd.deflate = request, agreed.protocol, agreed.deflate
        for callback in self._events.table["handshake"]:
            _judge(callback(fd, request))
        self._refuse_if_there_is_no_room()  # by now: the handlers may have taken their time
        answer = handshake.accept_response(agreed.key, fd.protocol, agreed.extensions)
        return fd, handshake.CONTINUE + answer if handshake.expects_continue(request) else answer

    def _refuse_if_there_is_no_room(self) -> None:
        if self._listener is None:
            raise HandshakeError(503, "the server is stopping")
        if len(self.fds) >= self.options.maxclient:
            raise HandshakeError(503, "the server is full")

    def _ask_http(self, request: http.Request) -> http.Response | None:
        for callback in self._events.table["http"]:
            answer = callback(request)
            if answer is not None:
                return http.response(answer)
        return None

    def _refuse(self, addr: Any, refusal: HandshakeError) -> http.Response:
        log.info("refused %s: %s", addr, refusal)
        self._tell("refusal", addr, refusal)
        return http.response(refusal)

    def _tell(self, event: str, *args: Any) -> None:
        """Emit what comes after the last chance to act on a failure: that of a callback is logged."""
        try:
            self._events.emit(event, *args)
        except FAILURES:
            log.exception("a handler of %r failed", event)


class _TooSlow(BaseException):
    """The handshake's time is over; not an Exception, so that no handler swallows it."""


def _encode(answer: http.Response, head_only: bool = False) -> bytes:
    return http.encode_response(answer.status, answer.headers, answer.body, head_only=head_only)


def _respond(stream: Stream, answer: bytes, timeout: float) -> None:
    """Answer in plain HTTP, and see to it that the peer can read the answer to its end."""
    with gevent.Timeout(timeout, False):  # type: ignore[arg-type]  # False: in silence
        stream.write(answer)
        stream.drain()
    with gevent.Timeout(_LINGER, False):  # type: ignore[arg-type]
        stream.shutdown()
        stream.linger()


def _judge(verdict: Any) -> None:
    """Raise what a handshake handler has returned, if that is a refusal."""
    if verdict is None or verdict is True:
        return
    if verdict is False:
        raise HandshakeError(403, "the server turns this connection down")
    if isinstance(verdict, HandshakeError):
        raise verdict
    answer = http.response(verdict)
    raise HandshakeError(answer.status, f"refused with {answer.status}", answer.headers, answer.body)
