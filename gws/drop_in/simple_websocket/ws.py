"""simple-websocket's connections, both sides.

`Server` finds the socket in the environ of pywsgi, of gunicorn's gevent worker, or of werkzeug's server under
monkey-patching, and shakes hands itself; or takes the connection that a handler of gws's has opened already.  A
greenlet reads, so that pings are answered and the end is noticed whatever the program does.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

from gws.dialing import Options, dial
from gws.drop_in.inbox import Inbox
from gws.drop_in.simple_websocket.errors import ConnectionClosed, ConnectionError
from gws.drop_in.simple_websocket.sockets import open_connection
from gws.drop_in.terms import terms
from gws.errors import ConnectionClosed as _Closed
from gws.errors import HandshakeError
from gws.goodbye import CLOSED, OPEN
from gws.keepalive import keepalive
from gws.message import Message
from gws.opening import Terms
from gws.url import Target
from gws.websocket import WebSocket

__all__ = ["Base", "Client", "Server"]

_NO_STATUS = 1005
_SCHEMES = re.compile(r"^http(s?)(?=://)")  # http:// and https:// are as good here


class Base:
    """A connection.   Any greenlet may send.   `fd` is gws's."""

    def __init__(
        self,
        fd: WebSocket,
        receive_bytes: int = 4096,
        ping_interval: float | None = None,
        max_message_size: int | None = None,
        own: bool = True,
    ):
        self.fd = fd
        self.subprotocol = fd.protocol  #: the one agreed on
        self.receive_bytes = receive_bytes  #: of no effect
        self.ping_interval = ping_interval
        self.max_message_size = max_message_size
        if max_message_size:
            fd.allow(max_message_size)
        limits = fd._limits
        if own and limits.ping_interval is not None:
            watch = keepalive(limits.ping_interval, limits.ping_timeout)
            watch.add(fd)
            self._inbox = Inbox(fd, ended=lambda: watch.discard(fd))
        else:
            self._inbox = Inbox(fd, type(fd).read)

    @property
    def connected(self) -> bool:
        """Whether it is open."""
        return self.fd.state == OPEN

    @property
    def close_reason(self) -> int:
        """The code with which it was closed; 1005 before that."""
        return self.fd._end_known[0] if self.fd._end_known else _NO_STATUS

    @property
    def close_message(self) -> str | None:
        """The text with which it was closed; None before that."""
        return self.fd._end_known[1] if self.fd._end_known else None

    def send(self, data: Any) -> None:
        """Send bytes as binary, anything else as the text that it prints as.   Blocks.   ConnectionClosed."""
        if not self.connected:
            raise self._closed()
        try:
            self.fd.write(data if isinstance(data, bytes) else str(data))
        except _Closed as end:
            raise self._closed() from end

    def receive(self, timeout: float | None = None) -> Message | None:
        """Return the next message, None after `timeout` seconds without one.   Blocks.   ConnectionClosed."""
        try:
            return self._inbox.take(timeout)
        except TimeoutError:
            return None
        except _Closed as end:
            raise self._closed() from end

    def close(self, reason: int | None = None, message: str | None = None) -> None:
        """Close with this code, or 1000, and this text.   Blocks.   ConnectionClosed if it is closed already."""
        if not self.connected:
            raise self._closed()
        self.fd.close(int(reason or 1000), message or "")

    def _closed(self) -> ConnectionClosed:
        return ConnectionClosed(self.close_reason, self.close_message)


class Server(Base):
    """The connection that a WSGI request asks for.   `thread_class` and the other classes have no use here."""

    def __init__(
        self,
        environ: dict[str, Any],
        subprotocols: str | Iterable[str] | None = None,
        receive_bytes: int = 4096,
        ping_interval: float | None = None,
        max_message_size: int | None = None,
        thread_class: Any = None,
        event_class: Any = None,
        selector_class: Any = None,
    ):
        self.environ = environ
        self.subprotocols = _names(subprotocols)
        opened = open_connection(environ, _terms(ping_interval, max_message_size), self._choose)
        if opened.refusal is not None:
            raise ConnectionError(opened.refusal.status) from opened.refusal
        self.mode = opened.mode  #: whose the server is: "gevent", "gunicorn" or "werkzeug"
        super().__init__(opened.fd, receive_bytes, ping_interval, max_message_size, own=opened.own)

    @classmethod
    def accept(cls, environ: dict[str, Any], *args: Any, **kwargs: Any) -> Server:
        """Return the connection that a WSGI request asks for; the arguments are those of the class.   Blocks."""
        return cls(environ, *args, **kwargs)

    def handshake(self) -> None:
        """Do nothing: the connection is open."""

    def choose_subprotocol(self, request: Any) -> str | None:
        """Return the first of `request.subprotocols` that is among ours; override it to choose in another way."""
        return next((name for name in request.subprotocols if name in self.subprotocols), None)

    def _choose(self, offered: list[str], host: str, target: str, headers: list[tuple[str, str]]) -> str | None:
        request = SimpleNamespace(subprotocols=offered, host=host, target=target, extra_headers=headers)
        return self.choose_subprotocol(request)


class Client(Base):
    """A connection to a server.   ConnectionError if it refuses, OSError if it cannot be reached.   Blocks."""

    def __init__(
        self,
        url: str,
        subprotocols: str | Iterable[str] | None = None,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
        receive_bytes: int = 4096,
        ping_interval: float | None = None,
        max_message_size: int | None = None,
        ssl_context: ssl.SSLContext | None = None,
        thread_class: Any = None,
        event_class: Any = None,
    ):
        target = Target.of(_SCHEMES.sub(r"ws\1", url))
        self.host, self.port, self.path = target.host, target.port, target.path
        self.subprotocols = _names(subprotocols)
        limits = _terms(ping_interval, max_message_size)
        options = Options(
            headers=headers or (),
            protocols=self.subprotocols,
            ssl=ssl_context,
            proxy=None,
            max_message=limits.max_message,
            ping_interval=limits.ping_interval,
            ping_timeout=limits.ping_timeout,
            compression=limits.compression,
        )
        try:
            fd = dial(target, options, _Deaf())
        except HandshakeError as refusal:
            raise ConnectionError(refusal.status or None) from refusal
        super().__init__(fd, receive_bytes, ping_interval, max_message_size)

    @classmethod
    def connect(cls, url: str, *args: Any, **kwargs: Any) -> Client:
        """Return a connection to a server; the arguments are those of the class.   Blocks."""
        return cls(url, *args, **kwargs)

    def close(self, reason: int | None = None, message: str | None = None) -> None:
        """Close with this code, or 1000, and this text.   Blocks.   ConnectionClosed if it is closed already."""
        if self.fd.state == CLOSED:
            raise self._closed()
        super().close(reason, message)


class _Deaf:
    def told(self, fd: WebSocket, event: str, value: Any) -> None:
        """Hear of pings, pongs and slow peers (see `websocket.Owner`)."""


def _terms(ping_interval: float | None, max_message_size: int | None) -> Terms:
    own: dict[str, Any] = {}
    if ping_interval:
        own |= {"ping_interval": ping_interval, "ping_timeout": ping_interval}
    if max_message_size:
        own["max_message"] = max_message_size
    return terms(**own)


def _names(names: str | Iterable[str] | None) -> list[str]:
    return [names] if isinstance(names, str) else list(names or ())
