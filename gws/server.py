"""A WebSocket server: listening, the opening handshake, the `on()` table, keepalive, stopping.

Knows nothing of frames.  Each accepted socket has one greenlet, which shakes hands, calls `connection`, and then reads
and dispatches until the end (skynet's `websocket.accept`).

    import gws.server as server

    @server.on("message")
    def message(fd, msg):
        fd.write(msg)

    server.listen(address="127.0.0.1", port=8888)

`on`, `listen`, `start` and `stop` are those of a default `Server`; for two servers in one process, make two.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import ssl as tls
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import gevent
from _socket import socket
from gevent import get_hub, getcurrent
from gevent.event import Event
from greenlet import greenlet

from gws import deflate, handshake, http, sockethelper
from gws.errors import HandshakeError
from gws.events import Events
from gws.frame import encode_close
from gws.keepalive import Keepalive, keepalive
from gws.listener import Listener
from gws.stream import Stream
from gws.websocket import Limits, WebSocket

__all__ = ["EVENTS", "Options", "Server", "listen", "off", "on", "start", "stop"]

log = logging.getLogger("gws")

EVENTS = ("handshake", "http", "connection", "message", "ping", "pong", "warning", "error", "disconnect")

_LINGER = 2.0  # seconds that a peer has for hanging up, once it was answered in plain HTTP
_REFUSALS = 256  # connections beyond `maxclient` that are told so at a time; others wait in the backlog
_FAILURES = (Exception, gevent.Timeout)  # a Timeout is no Exception, but a handler that lets one out has failed as well


@dataclass(frozen=True)
class Options(Limits):
    """The options of `listen()` and `start()`, besides where to listen."""

    max_header: int = 8192  #: bytes in the head of a request; beyond it: 431
    handshake_timeout: float = 10  #: seconds for TLS and the opening handshake together; beyond it: 408
    maxclient: int = 65535  #: connections at a time; beyond it: 503
    origins: Iterable[str] | None = (
        None  #: origins that a browser's page may have; None: the same as the Host; "*": any
    )
    protocols: Iterable[str] = ()  #: subprotocols that we speak
    ssl: tls.SSLContext | None = None  #: for wss
    certfile: str | None = None  #: instead of `ssl`: a PEM file with the certificate (and its chain)
    keyfile: str | None = None  #: the PEM file with its key, if that is not in `certfile`
    backlog: int = 4096  #: connections that the kernel keeps for us until we accept them
    nodelay: bool = True  #: send small frames at once (TCP_NODELAY)
    reuse_port: bool = False  #: let several processes listen on one port (SO_REUSEPORT)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_header", "handshake_timeout", "maxclient", "backlog"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not value > 0:
                raise ValueError(f"{name} must be a positive number, not {value!r}")
        if isinstance(self.protocols, str):
            raise TypeError("protocols must be a sequence of str, not str")
        if self.ssl is not None and not hasattr(self.ssl, "wrap_socket"):
            raise TypeError(f"ssl must be an ssl.SSLContext, not {self.ssl!r}; files are certfile and keyfile")
        if self.ssl is not None and self.certfile is not None:
            raise ValueError("either ssl or certfile, not both")
        if self.keyfile is not None and self.certfile is None:
            raise ValueError("a keyfile needs a certfile")
        # Each handshake goes through them: a generator would be empty at the second.
        object.__setattr__(self, "protocols", tuple(self.protocols))
        if self.origins is not None:
            origins = [self.origins] if isinstance(self.origins, str) else self.origins
            object.__setattr__(self, "origins", frozenset(origins))


class Server:
    """A server and its connections.   `on()` may be called at any time; `fds` holds the open connections."""

    def __init__(self) -> None:
        self._events = Events(EVENTS)
        self.on = self._events.on
        self.off = self._events.off
        self.options = Options()
        self.fds: set[WebSocket] = set()
        self.address: Any = None  #: where it listens: (host, port), or the path of a Unix socket
        self._greenlets: dict[greenlet, WebSocket | None] = {}  # of each accepted socket
        self._listener: Listener | None = None
        self._context: tls.SSLContext | None = None
        self._keepalive: Keepalive | None = None
        self._stopped = Event()
        self._leaving = Event()  # set whenever a socket's greenlet ends
        self._stoppers: set[greenlet] = set()  # handlers that are in stop(): they do not wait for each other

    def __repr__(self) -> str:
        state = f"on {self.address}" if self._listener else "stopped"
        return f"<Server {state}, {len(self.fds)} connections>"

    # ------------------------------------------------------------------------------------- starting, stopping

    def listen(self, address: str = "127.0.0.1", port: int = 8888, *, path: str | None = None, **options: Any) -> None:
        """Serve until stopped; SIGTERM and SIGINT stop gracefully, a second one at once.   Blocks.

        (In another thread than the main one there are no signals.)
        `options` are the fields of `Options`; `path` is a Unix socket's, instead of an address and a port.
        """
        with _hearing_signals(self._signalled):  # before anybody can connect, and find a server that a signal kills
            self.start(address, port, path=path, **options)
            try:
                self._stopped.wait()
            finally:
                self.stop(timeout=0)

    def start(self, address: str = "127.0.0.1", port: int = 8888, *, path: str | None = None, **options: Any) -> None:
        """Begin to serve, and return; raise OSError if that is not possible here.   Blocks while a name is resolved."""
        if self._listener is not None:
            raise RuntimeError(f"{self!r} is serving already")
        self._stopped.clear()  # here, since a signal may come while the name is resolved
        self.options = opts = _options(options)
        self._context = opts.ssl or (
            sockethelper.server_context(opts.certfile, opts.keyfile) if opts.certfile else None
        )
        where: Any = {"path": path} if path is not None else {"address": address, "port": port}
        sock = sockethelper.listen(**where, backlog=opts.backlog, reuse_port=opts.reuse_port, nodelay=opts.nodelay)
        self.address = sock.getsockname() if path is None else path
        self._keepalive = None if opts.ping_interval is None else keepalive(opts.ping_interval, opts.ping_timeout)
        self._listener = Listener(sock, self._accepted)
        self._listener.start()

    @property
    def port(self) -> int:
        """The port that it listens on: the one that the kernel chose, for port 0."""
        return int(self.address[1])

    def stop(self, code: int = 1001, reason: str = "", timeout: float | None = None) -> list[WebSocket]:
        """Take no more connections, close those that are open, and cut what is left after `timeout` seconds.   Blocks.

        Returns the connections that had to be cut.  `timeout` is `close_timeout` by default.  A handler may call it.
        """
        encode_close(code, reason)  # ValueError here, and not in a greenlet of each connection
        if self._listener is not None:
            self._unlisten()
        me = getcurrent()
        try:
            if me in self._greenlets:
                self._stoppers.add(me)
                self._leaving.set()
            self._dismiss(code, reason)
            self._wait_until_empty(self.options.close_timeout if timeout is None else timeout)
            cut = self._cut_all(code, reason or "the server stopped")
        finally:
            self._stoppers.discard(me)
        self._stopped.set()
        return cut

    def _unlisten(self) -> None:
        assert self._listener is not None
        log.info("stopping: %d connections are open", len(self.fds))
        self._listener.close()
        sockethelper.close(self._listener.sock)
        self._listener = None

    def _dismiss(self, code: int, reason: str) -> None:
        """Begin to close what is open; what has not shaken hands yet loses nothing by being cut."""
        for running, fd in list(self._greenlets.items()):
            if fd is not None:
                gevent.spawn(self._see_off, fd, code, reason)
            elif running not in self._stoppers:
                gevent.kill(running)

    def _see_off(self, fd: WebSocket, code: int, reason: str) -> None:
        fd.close(code, reason)
        self._leaving.set()

    def _wait_until_empty(self, timeout: float) -> None:
        if timeout <= 0:
            return
        with gevent.Timeout(timeout, False):  # type: ignore[arg-type]  # False: in silence
            while not self._is_empty():
                self._leaving.clear()
                self._leaving.wait()

    def _is_empty(self) -> bool:
        """Tell whether all have left, but for the handlers that wait for just that: their connections are closed."""
        return all(running in self._stoppers and (fd is None or fd.closed) for running, fd in self._greenlets.items())

    def _cut_all(self, code: int, reason: str) -> list[WebSocket]:
        cut = []
        for running, fd in list(self._greenlets.items()):
            if fd is not None and not fd.closed:
                cut.append(fd)
                fd.cut(code, reason)
            if running not in self._stoppers:
                gevent.kill(running)
        gevent.sleep(0)  # by now they are dead, and `disconnect` was told
        return cut

    def _signalled(self) -> None:
        if self._listener is None:
            log.info("stopping at once")
            self._stopped.set()
        else:
            self._unlisten()
            gevent.spawn(self.stop)

    # ------------------------------------------------------------------------------------- one socket's life

    def _accepted(self, sock: socket, addr: Any) -> None:
        """Give an accepted socket its greenlet; in the hub."""
        running = greenlet(self._serve, get_hub())
        self._greenlets[running] = None
        if len(self._greenlets) >= self.options.maxclient + _REFUSALS and self._listener is not None:
            self._listener.pause()
        running.switch(sock, addr)

    def _serve(self, sock: socket, addr: Any) -> None:
        me = getcurrent()
        try:
            fd = self._shake_hands(sock, addr or self.address)
            if fd is not None:
                self._greenlets[me] = fd
                self._converse(fd)
        except gevent.GreenletExit:
            pass
        except _FAILURES:
            log.exception("serving %s failed", addr)
        finally:
            self._left(me)

    def _left(self, running: greenlet) -> None:
        del self._greenlets[running]
        self._leaving.set()
        if self._listener is not None and len(self._greenlets) == self.options.maxclient + _REFUSALS - 1:
            self._listener.start()

    def _shake_hands(self, sock: socket, addr: Any) -> WebSocket | None:
        """Open the connection; or answer in plain HTTP, close the socket, and return None."""
        stream = fd = None
        try:
            try:
                with gevent.Timeout(self.options.handshake_timeout, _TooSlow):
                    stream = self._stream(sock)
                    fd, answer = self._upgrade(stream, addr)
            except _TooSlow:
                log.info("refused %s: the handshake took too long", addr)
                answer = _TOO_SLOW
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
            request = http.parse_request(stream.read_head(self.options.max_header))
        except HandshakeError as refusal:
            return None, _encode(_refuse(addr, refusal))
        fd, answer = self._answer(stream, addr, request)
        if fd is not None:
            stream.write(answer)
            fd.opened()
            request.headers.pack()
        return fd, answer

    def _answer(self, stream: Stream, addr: Any, request: http.Request) -> tuple[WebSocket | None, bytes]:
        """Decide what to say to a request; whatever goes wrong with that on our side is a 500."""
        head_only = request.method == "HEAD"
        try:
            try:
                answer = None if handshake.wants_websocket(request) else self._ask_http(request)
                if answer is None:  # a plain request that nobody wants is judged as an upgrade, too: 426
                    return self._accept(stream, addr, request)
            except HandshakeError as refusal:
                answer = _refuse(addr, refusal)
            return None, _encode(answer, head_only)
        except _FAILURES:
            log.exception("a handler of %s's request failed", addr)
            return None, _encode(_FAILED, head_only)

    def _accept(self, stream: Stream, addr: Any, request: http.Request) -> tuple[WebSocket, bytes]:
        key = handshake.check_upgrade(request)
        handshake.check_origin(request, self.options.origins)
        self._refuse_if_there_is_no_room()
        fd = WebSocket(stream, self, self.options, server=True, addr=addr)
        fd.request = request
        fd.protocol = handshake.choose_protocol(request, self.options.protocols)
        extensions = self._agree(fd, request)
        for callback in self._events.table["handshake"]:
            _judge(callback(fd, request))
        self._refuse_if_there_is_no_room()  # by now: the handlers may have taken their time
        return fd, handshake.accept_response(key, fd.protocol, extensions)

    def _refuse_if_there_is_no_room(self) -> None:
        if self._listener is None:
            raise HandshakeError(503, "the server is stopping")
        if len(self.fds) >= self.options.maxclient:
            raise HandshakeError(503, "the server is full")

    def _agree(self, fd: WebSocket, request: http.Request) -> str | None:
        """Choose among the extensions that the client offers: compression is the one we know."""
        compression = self.options.compression
        if compression is None or "Sec-WebSocket-Extensions" not in request.headers:
            return None
        agreed = deflate.accept(handshake.extensions(request.headers), compression)
        if agreed is None:
            return None
        answer, parameters = agreed
        fd.deflate = deflate.Deflate(parameters, compression, server=True)
        return answer

    def _ask_http(self, request: http.Request) -> http.Response | None:
        for callback in self._events.table["http"]:
            answer = callback(request)
            if answer is not None:
                return http.response(answer)
        return None

    def _converse(self, fd: WebSocket) -> None:
        """The connection's life, from the 101 to the end."""
        self.fds.add(fd)
        watch = self._keepalive
        if watch is not None:
            watch.add(fd)
        try:
            self._dispatch(fd)
        finally:
            if watch is not None:
                watch.discard(fd)
            self.fds.discard(fd)
            fd.cut(1001, "")
            self._tell("disconnect", fd, fd.code, fd.reason)

    def _dispatch(self, fd: WebSocket) -> None:
        try:
            for callback in self._events.table["connection"]:
                callback(fd, fd.addr)
            table = self._events.table
            while True:
                message = fd.read()
                for callback in table["message"]:
                    callback(fd, message)
        except _FAILURES as error:
            wrong = fd.verdict(error)
            if wrong is not None:
                self._tell("error", fd, wrong)
            fd.close(1011, "the server has failed")  # unless it is over

    def _tell(self, event: str, *args: Any) -> None:
        """Emit what comes after the last chance to act on a failure: that of a callback is logged."""
        try:
            self._events.emit(event, *args)
        except _FAILURES:
            log.exception("a handler of %r failed", event)

    def told(self, fd: WebSocket, event: str, value: Any) -> None:
        """Hear from a connection (see `websocket.Owner`)."""
        if not self._events.table[event]:
            return
        if event == "warning":
            gevent.spawn(self._tell, event, fd, value)
        else:
            self._events.emit(event, fd, value)


@contextlib.contextmanager
def _hearing_signals(callback: Callable[[], Any]) -> Iterator[None]:
    """Have `callback` called on SIGTERM and SIGINT, which are the main thread's, as they are in Python."""
    # "libev: a signal must not be attached to two different loops": it aborts the process.
    watchers = [gevent.signal_handler(number, callback) for number in _SIGNALS if get_hub().loop.default]
    _heard.append(watchers)
    try:
        yield
    finally:
        _heard.remove(watchers)
        for watcher in watchers:
            watcher.cancel()
        if watchers and not any(_heard):
            for number in _SIGNALS:  # the loop leaves the system's default behind, and a Ctrl-C would kill outright
                signal.signal(number, signal.getsignal(number) or signal.SIG_DFL)


_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_heard: list[list[Any]] = []  # the watchers of each listen()


class _TooSlow(BaseException):
    """The handshake's time is over; not an Exception, so that no handler swallows it."""


_TOO_SLOW = http.encode_response(408, (), b"the handshake took too long\n")
_FAILED = http.Response(500, (), b"the server has failed\n")


def _refuse(addr: Any, refusal: HandshakeError) -> http.Response:
    log.info("refused %s: %s", addr, refusal)
    return http.response(refusal)


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


def _options(options: dict[str, Any]) -> Options:
    unknown = set(options) - {field.name for field in fields(Options)}
    if unknown:
        raise TypeError(f"there is no option {', '.join(sorted(unknown))}; see gws.server.Options")
    return Options(**options)


default = Server()
on = default.on
off = default.off
listen = default.listen
start = default.start
stop = default.stop
