"""A WebSocket server: listening, the `on()` table, a greenlet for each socket, keepalive, stopping.

Knows nothing of frames, nor of HTTP (see `opening`).  Each accepted socket has one greenlet, which shakes hands, calls
`connection`, and then reads and dispatches until the end (skynet's `websocket.accept`).

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
from collections.abc import Iterator
from dataclasses import fields
from functools import partial
from time import monotonic
from typing import Any
from weakref import WeakSet

import gevent
from _socket import socket
from gevent import get_hub, getcurrent
from gevent.event import Event
from greenlet import greenlet

from gws import sockethelper
from gws.events import Events
from gws.frame import encode_close
from gws.keepalive import Keepalive, keepalive
from gws.listener import Listener
from gws.message import Message
from gws.opening import FAILURES, Opening, Options
from gws.signals import hearing_signals
from gws.websocket import OPEN, WebSocket

__all__ = ["EVENTS", "Options", "Server", "listen", "off", "on", "servers", "start", "stop"]

log = logging.getLogger("gws")

EVENTS = ("handshake", "http", "refusal", "connection", "message", "ping", "pong", "warning", "error", "disconnect")

_PATIENCE = 1.0  # seconds that a handler has for the message at hand when the server stops
_POLL = 0.01  # seconds
_REFUSALS = 256  # connections beyond `maxclient` that are told so at a time; others wait in the backlog


class Server(Opening):
    """A server and its connections.   `on()` may be called at any time; `fds` holds the open connections."""

    def __init__(self) -> None:
        super().__init__(Events(EVENTS))
        self.on = self._events.on
        self.off = self._events.off
        self.address: Any = None  #: where it listens: (host, port), or the path of a Unix socket
        self._greenlets: dict[greenlet, WebSocket | None] = {}  # of each accepted socket
        self._keepalive: Keepalive | None = None
        self._starting: object = None  # whose start() it is that resolves a name
        self._stopped = Event()
        self._leaving = Event()  # set whenever a socket's greenlet ends
        self._stoppers: set[greenlet] = set()  # handlers that are in stop(): they do not wait for each other

    def __repr__(self) -> str:
        state = f"on {self.address}" if self._listener else "stopped"
        return f"<Server {state}, {len(self.fds)} connections>"

    # ------------------------------------------------------------------------------------- starting, stopping

    def listen(
        self,
        address: str = "127.0.0.1",
        port: int = 8888,
        *,
        path: str | None = None,
        sock: socket | None = None,
        **options: Any,
    ) -> None:
        """Serve until stopped; SIGTERM and SIGINT stop gracefully, a second one at once.   Blocks.

        (In another thread than the main one there are no signals.)
        `options` are the fields of `Options`.  Instead of an address and a port: `path`, a Unix socket's; or `sock`, a
        socket that listens already, perhaps in other processes, too.  It is the server's from then on.
        """
        if _noted is not None:
            _noted[self] = options
            return
        with hearing_signals(self._signalled):  # before anybody can connect, and find a server that a signal kills
            self.start(address, port, path=path, sock=sock, **options)
            try:
                self._stopped.wait()
            finally:
                self.stop(timeout=0)

    def start(
        self,
        address: str = "127.0.0.1",
        port: int = 8888,
        *,
        path: str | None = None,
        sock: socket | None = None,
        **options: Any,
    ) -> None:
        """Begin to serve, and return; raise OSError if that is not possible here.   Blocks while a name is resolved.

        RuntimeError if it is serving already, or if stop() is called meanwhile.
        """
        if self._listener is not None or self._starting is not None:
            raise RuntimeError(f"{self!r} is serving already")
        sock = getattr(sock, "_sock", sock)  # of gevent's, the one within
        if sock is not None and not isinstance(sock, socket):
            raise TypeError(f"sock must be a socket, not {sock!r}")
        self._stopped.clear()  # here, since a signal may come while the name is resolved
        self.options = opts = _options(options)
        self._context = opts.ssl or (
            sockethelper.server_context(opts.certfile, opts.keyfile) if opts.certfile else None
        )
        shared = sock is not None
        if sock is None:
            where: Any = {"path": path} if path is not None else {"address": address, "port": port}
            sock = self._bind(backlog=opts.backlog, reuse_port=opts.reuse_port, nodelay=opts.nodelay, **where)
        sock.setblocking(False)
        self.address = sock.getsockname() if path is None else path
        self._keepalive = None if opts.ping_interval is None else keepalive(opts.ping_interval, opts.ping_timeout)
        self._listener = Listener(sock, self._accepted, shared=shared)
        self._listener.start()
        _started().add(self)

    def _bind(self, **options: Any) -> socket:
        self._starting = token = object()
        try:
            sock = sockethelper.listen(**options)
            if self._starting is not token:
                sockethelper.close(sock)
                raise RuntimeError("the server was stopped while it started")
            return sock
        finally:
            if self._starting is token:
                self._starting = None

    @property
    def port(self) -> int:
        """The port that it listens on: the one that the kernel chose, for port 0."""
        return int(self.address[1])

    def stop(self, code: int = 1001, reason: str = "", timeout: float | None = None) -> list[WebSocket]:
        """Take no more connections, close those that are open, and cut what is left after `timeout` seconds.   Blocks.

        Returns the connections that had to be cut.  `timeout` is `close_timeout` by default.  A handler may call it.
        Handlers at work have a second of that for the message at hand; what comes later is handed to nobody.
        """
        encode_close(code, reason)  # ValueError here, and not in a greenlet of each connection
        timeout = self.options.close_timeout if timeout is None else timeout
        self._starting = None
        if self._listener is not None:
            self._unlisten()
        me = getcurrent()
        turn_down = partial(_turn_down, code, reason)
        self.on("message", turn_down, first=True)
        try:
            if me in self._greenlets:
                self._stoppers.add(me)
                self._leaving.set()
            self._dismiss(code, reason, min(_PATIENCE, timeout / 2))
            self._wait_until_empty(timeout)
            cut = self._cut_all(code, reason or "the server stopped")
        finally:
            self.off("message", turn_down)
            self._stoppers.discard(me)
        self._stopped.set()
        return cut

    def _unlisten(self) -> None:
        assert self._listener is not None
        log.info("stopping: %d connections are open", len(self.fds))
        self._listener.close()
        sockethelper.close(self._listener.sock)
        self._listener = None

    def _dismiss(self, code: int, reason: str, patience: float) -> None:
        """Begin to close what is open; what has not shaken hands yet loses nothing by being cut."""
        for running, fd in list(self._greenlets.items()):
            if fd is not None:
                gevent.spawn(self._see_off, fd, code, reason, 0 if running in self._stoppers else patience)
            elif running not in self._stoppers:
                gevent.kill(running)

    def _see_off(self, fd: WebSocket, code: int, reason: str, patience: float) -> None:
        """Close a connection once its handler is back from the message at hand: that was taken, and is answered."""
        until = monotonic() + patience
        while not fd.stream.reading and fd.state == OPEN and monotonic() < until:
            gevent.sleep(_POLL)
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
        except FAILURES:
            log.exception("serving %s failed", addr)
        finally:
            self._left(me)

    def _left(self, running: greenlet) -> None:
        del self._greenlets[running]
        self._leaving.set()
        if self._listener is not None and len(self._greenlets) == self.options.maxclient + _REFUSALS - 1:
            self._listener.start()

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
        message: Message | None = None
        try:
            for callback in self._events.table["connection"]:
                callback(fd, fd.addr)
            table = self._events.table
            while True:
                message = fd.read()
                for callback in table["message"]:
                    callback(fd, message)
                message = None  # it is not to live for as long as the next one takes to come
        except FAILURES as error:
            message = None  # nor for as long as the end takes
            self._failed(fd, error)

    def _failed(self, fd: WebSocket, error: BaseException) -> None:
        """Tell of what has ended the dispatching.   (Apart, as the frame that an error has passed must not keep it.)"""
        wrong = fd.verdict(error)
        if wrong is not None:
            self._tell("error", fd, wrong)
        fd.close(1011, "the server has failed")  # unless it is over

    def told(self, fd: WebSocket, event: str, value: Any) -> None:
        """Hear from a connection (see `websocket.Owner`)."""
        if not self._events.table[event]:
            return
        if event == "warning":
            gevent.spawn(self._tell, event, fd, value)
        else:
            self._events.emit(event, fd, value)


def _turn_down(code: int, reason: str, fd: WebSocket, message: Message) -> None:
    """Hand a message that comes while the server stops to nobody: the goodbye tells that it was not taken."""
    fd.close(code, reason)
    raise fd.over()


def _options(options: dict[str, Any]) -> Options:
    unknown = set(options) - {field.name for field in fields(Options)}
    if unknown:
        raise TypeError(f"there is no option {', '.join(sorted(unknown))}; see gws.server.Options")
    return Options(**options)


_noted: dict[Server, dict[str, Any]] | None = None


@contextlib.contextmanager
def noting() -> Iterator[dict[Server, dict[str, Any]]]:
    """Have `listen()` note its options, and return, for as long: who loads a program may serve it in its own way."""
    global _noted
    before, _noted = _noted, {}
    try:
        yield _noted
    finally:
        _noted = before


def servers() -> list[Server]:
    """Return the servers of this thread that were started, also those that have stopped and are still known."""
    return list(_started())


def _started() -> WeakSet[Server]:
    kept: WeakSet[Server] = vars(get_hub()).setdefault("gws_servers", WeakSet())
    return kept


default = Server()
on = default.on
off = default.off
listen = default.listen
start = default.start
stop = default.stop
