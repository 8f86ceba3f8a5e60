"""A WebSocket client: the `on()` table, reading in a greenlet of its own, keepalive, reconnecting.

Knows nothing of frames, nor how a connection is opened (see `dialing`).  `connect()` returns once it is open; a
greenlet reads from then on, calls the handlers, or keeps the messages for `read()` where there is no `message` handler.

    client = gws.client.new()
    client.on("message", print)
    client.connect("wss://example.org/chat")
    client.write("hello")
    client.join()
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from dataclasses import fields
from time import monotonic
from typing import Any
from weakref import WeakSet

import gevent
from gevent import get_hub, getcurrent
from gevent.event import Event
from greenlet import greenlet

from gws.dialing import Options, dial
from gws.errors import ConnectionClosed, HandshakeError
from gws.events import Events
from gws.frame import encode_close
from gws.keepalive import keepalive
from gws.kept import Kept
from gws.message import Message
from gws.url import Target
from gws.websocket import WebSocket

__all__ = ["EVENTS", "Client", "Options", "clients", "connect", "new"]

log = logging.getLogger("gws")

EVENTS = ("open", "message", "close", "ping", "pong", "error", "warning")

_KEPT = 16  # messages kept for read(); TCP holds the peer back beyond that
_BACKOFF = (0.5, 60.0)  # seconds: the first pause before a reconnection, and the longest
_LASTED = 60.0  # seconds after which a connection counts as a good one, and the pauses begin anew
_FAILURES = (Exception, gevent.Timeout)  # a Timeout is no Exception, but a handler that lets one out has failed as well


class _Ear:
    """Hears from the connection, and tells the handlers.

    It is not the client, which holds the connection: a ring of the two would stay until the garbage collector comes.
    """

    __slots__ = ("_events",)

    def __init__(self, events: Events):
        self._events = events

    def tell(self, event: str, *args: Any) -> None:
        """Emit what comes when nothing can be done any more: a handler's failure is logged."""
        try:
            self._events.emit(event, *args)
        except _FAILURES:
            log.exception("a handler of %r failed", event)

    def told(self, fd: WebSocket, event: str, value: Any) -> None:
        """Hear from the connection (see `websocket.Owner`)."""
        if event == "warning":
            gevent.spawn(self.tell, event, value)
        else:
            self._events.emit(event, value)


class Client:
    """A client and its connection, or one after the other with `reconnect`.

    Any greenlet may write.  With a `message` handler the messages go there; without one, to `read()` or iteration.
    """

    def __init__(self) -> None:
        self._events = Events(EVENTS)
        self._ear = _Ear(self._events)
        self.on = self._events.on
        self.off = self._events.off
        self.fd: WebSocket | None = None  #: the connection at hand
        self.options = Options()
        self._target: Target | None = None
        self._running: gevent.Greenlet[..., Any] | None = None
        self._kept = Kept(_KEPT)  # messages for read()
        self._dialing: greenlet | None = None  # who is connecting
        self._over = Event()  # set by close(), and once nobody reads any more

    def __repr__(self) -> str:
        return f"<Client {self._target or 'not connected'} {self.fd.describe() if self.fd else ''}>".replace(" >", ">")

    def __iter__(self) -> Iterator[Message]:
        """Read until the end; raise ConnectionClosed unless that was 1000, 1001 or 1005.   Blocks."""
        while True:
            try:
                yield self.read()
            except ConnectionClosed as end:
                if end.code not in (1000, 1001, 1005):
                    raise
                return

    # ------------------------------------------------------------------------------------- connecting

    def connect(self, address: str, port: int | None = None, **options: Any) -> Client:
        """Connect to a host and port, or to a ws:// or wss:// URL, and return once the connection is open.   Blocks.

        A host and port with the option `ssl` are wss; of a URL, that is for the scheme to say.
        `options` are the fields of `Options`.  Raises HandshakeError when the server refuses, OSError when it cannot
        be reached, TimeoutError when that takes too long, ConnectionClosed when somebody closes it meanwhile,
        ValueError for a URL that is none.
        """
        if self._dialing is not None or (self._running is not None and not self._running.dead):
            raise RuntimeError(f"{self!r} is connected already")
        self.options = _options(options)
        self._target = Target.of(address, port, secure=self.options.ssl is not None)
        self._over.clear()
        self._kept.clear()
        self.fd = self._dial()
        self._running = gevent.spawn(self._run)
        _connected().add(self)
        return self

    def _dial(self) -> WebSocket:
        assert self._target is not None
        self._dialing = getcurrent()
        try:
            fd = dial(self._target, self.options, self._ear)
            fd.hold = self._kept.await_answers
            return fd
        finally:
            self._dialing = None

    def _stop_dialing(self, dialer: greenlet, end: ConnectionClosed) -> None:
        """End somebody's connect(); in the hub.   Whoever has just connected is closed instead."""
        if self._dialing is dialer:
            dialer.throw(end)
        elif not self.closed:
            gevent.spawn(self.close, end.code, end.reason)

    # ------------------------------------------------------------------------------------- the reading greenlet

    def _run(self) -> None:
        """Converse; with `reconnect`, again and again."""
        pauses = _pauses()
        try:
            while True:
                began = monotonic()
                self._converse()
                if monotonic() - began > _LASTED:
                    pauses = _pauses()
                if not self.options.reconnect or not self._redial(pauses):
                    return
        finally:
            self._over.set()
            self._kept.wake()

    def _redial(self, pauses: Iterator[float]) -> bool:
        """Connect anew, however long that takes; or return False once close() was called."""
        while not self._over.wait(next(pauses)):
            try:
                self.fd = self._dial()
                return True
            except (HandshakeError, OSError) as error:
                log.info("cannot reconnect to %s: %s", self._target, error)
                self._ear.tell("error", error)
        return False

    def _converse(self) -> None:
        fd = self.fd
        assert fd is not None
        watch = None
        if self.options.ping_interval is not None:
            watch = keepalive(self.options.ping_interval, self.options.ping_timeout)
            watch.add(fd)
        try:
            self._dispatch(fd)
        finally:
            if watch is not None:
                watch.discard(fd)
            fd.cut(1001, "")
            self._ear.tell("close", fd.code, fd.reason)

    def _dispatch(self, fd: WebSocket) -> None:
        table = self._events.table
        message: Message | None = None
        try:
            self._events.emit("open")
            while True:
                message = fd.read()
                if not table["message"]:
                    self._kept.put(message, fd.ended)
                for callback in table["message"]:
                    callback(message)
                message = None  # it is not to live for as long as the next one takes to come
        except _FAILURES as error:
            message = None  # nor for as long as the end takes
            self._failed(fd, error)

    def _failed(self, fd: WebSocket, error: BaseException) -> None:
        """Tell of what has ended the dispatching.   (Apart, as the frame that an error has passed must not keep it.)"""
        wrong = fd.verdict(error)
        if wrong is not None:
            self._ear.tell("error", wrong)
        fd.close(1011, "the client has failed")  # unless it is over

    # ------------------------------------------------------------------------------------- talking

    def read(self) -> Message:
        """Return the next message.   Blocks.   Raises ConnectionClosed after the end."""
        if self._events.table["message"]:
            raise RuntimeError("the messages go to the 'message' handler; read() is for clients without one")
        fd, kept = self._connected(), self._kept
        kept.ask()
        while not kept:
            if getcurrent() is self._running:  # the `open` handler reads for itself, as a server's `connection` may
                return fd.read()
            if self._over.is_set() and fd.closed:
                raise fd.over()
            kept.wait()
            fd = self._connected()
        return kept.take()

    def write(self, message: Message | bytearray | memoryview) -> None:
        """Send one message.   Blocks while the server is too slow.   Raises ConnectionClosed after the end."""
        self._connected().write(message)

    def ping(self) -> float:
        """Send a Ping and return the seconds until its Pong.   Blocks."""
        if getcurrent() is self._running:
            raise RuntimeError("ping() in a handler would wait for itself: spawn a greenlet for it")
        return self._connected().measure()

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Send Close and wait for the server's, `close_timeout` seconds at most.   Blocks.

        Safe to repeat, and from any greenlet; ends `reconnect`, and a connect() that is under way.   ValueError for a
        code or a reason that no Close may carry.
        """
        encode_close(code, reason)
        if self._dialing is not None and self._dialing is not self._running:
            get_hub().loop.run_callback(self._stop_dialing, self._dialing, ConnectionClosed(code, reason))
            gevent.sleep(0)  # behind that callback
            return
        if self.fd is None or self._running is None:
            return
        self._over.set()
        self.fd.close(code, reason)
        if getcurrent() is not self._running:
            if self._dialing:
                self._running.kill(block=False)
            self.join(self.options.close_timeout)

    def join(self, timeout: float | None = None) -> None:
        """Wait until it is over, at most `timeout` seconds.   Blocks."""
        if getcurrent() is self._running:
            raise RuntimeError("join() in a handler would wait for itself")
        if self._running is not None:
            self._running.join(timeout)

    @property
    def closed(self) -> bool:
        """Whether there is no open connection."""
        return self.fd is None or self.fd.closed

    @property
    def protocol(self) -> str | None:
        """The subprotocol agreed on."""
        return None if self.fd is None else self.fd.protocol

    def _connected(self) -> WebSocket:
        if self.fd is None:
            raise RuntimeError("connect() first")
        return self.fd


def new() -> Client:
    """Return a client that is not connected yet."""
    return Client()


def connect(address: str, port: int | None = None, **options: Any) -> Client:
    """Return a client that is connected: `new().connect(...)`.   Blocks."""
    return Client().connect(address, port, **options)


def clients() -> list[Client]:
    """Return the clients of this thread that have been connected and are still known."""
    return list(_connected())


def _connected() -> WeakSet[Client]:
    kept: WeakSet[Client] = vars(get_hub()).setdefault("gws_clients", WeakSet())
    return kept


def _pauses() -> Iterator[float]:
    """Exponential back-off with jitter: a thousand clients of one server must not come back at once."""
    longest, limit = _BACKOFF
    while True:
        yield random.uniform(longest / 2, longest)
        longest = min(longest * 2, limit)


def _options(options: dict[str, Any]) -> Options:
    unknown = set(options) - {field.name for field in fields(Options)}
    if unknown:
        raise TypeError(f"there is no option {', '.join(sorted(unknown))}; see gws.client.Options")
    return Options(**options)
