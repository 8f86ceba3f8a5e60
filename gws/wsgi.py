"""gws inside a WSGI app: a handler for gevent.pywsgi whose apps find a connection in `environ["wsgi.websocket"]`.

    WSGIServer(("", 8000), app, handler_class=gws.wsgi.WebSocketHandler).serve_forever()

Knows pywsgi, which reads the heads and answers everything else as ever; `opening` judges the request, and from the 101
on the socket is a stream's.  The connection has gws's own calls and those of gevent-websocket, whose place it takes.
Knows nothing of gunicorn, nor of other libraries' names (see `worker` and `drop_in`).
"""

from __future__ import annotations

import contextlib
import socket as sockets
from typing import Any, ClassVar, cast

import _socket
import gevent
from gevent import getcurrent, pywsgi

from gws import handshake, http
from gws.errors import ConnectionClosed, HandshakeError
from gws.goodbye import OPEN
from gws.keepalive import keepalive
from gws.message import Message
from gws.opening import FAILURES, Agreement, Terms, agree
from gws.stream import Stream
from gws.websocket import WebSocket as _WebSocket

__all__ = ["Options", "WebSocket", "WebSocketHandler", "handlers", "upgrade"]

Options = Terms  #: the options of a handler class

_read, _write = _WebSocket.read, _WebSocket.write


class WebSocket(_WebSocket):
    """A connection in a WSGI app: a gws.websocket.WebSocket, with what gevent-websocket's users call besides."""

    __slots__ = ("_dropped", "_farewell", "_patience", "environ", "handler")

    def __init__(self, stream: Stream, handler: WebSocketHandler, options: Options, request: http.Request):
        super().__init__(stream, handler, options, server=True, addr=handler.client_address or None)
        self.handler = handler
        self.environ: dict[str, Any] = handler.environ  #: of the request, as the server has made it
        self.request = request
        self._patience: float | None = None
        self._farewell: tuple[int, str] | None = None  # what it is going to be closed with
        self._dropped = 0  # messages that have come since

    def read(self) -> Message:
        """Return the next whole message, as ever; what comes when it is leaving is nobody's.   Blocks."""
        while True:
            if self._farewell is not None and self.state == OPEN and self._owes_nothing():
                self.close(*self._farewell)
            message = _read(self)
            if self._farewell is None:
                return message
            self._dropped += 1

    _recv = read

    def leave(self, code: int = 1001, reason: str = "") -> None:
        """Hand no message to anybody from now on, and close when its app reads again and has answered what it got."""
        self._farewell = (code, reason)

    @property
    def settled(self) -> bool:
        """Whether its app is reading, and has sent a message for each that it got."""
        return self.stream.reading and self._owes_nothing()

    def _owes_nothing(self) -> bool:
        return self.stream.unanswered <= self._dropped

    def receive(self) -> Message | None:
        """Return the next message, None once the connection is over.   Blocks.   TimeoutError: see `settimeout`."""
        hurried = self._patience is not None or self._farewell is not None
        try:
            if not hurried:  # `read`, without the cost of a call
                message = _read(self)
                if self._farewell is None:
                    return message
                self._dropped += 1
            with gevent.Timeout(self._patience, TimeoutError("the peer has sent nothing")):
                return self.read()
        except ConnectionClosed:
            return None

    def send(self, message: Message | bytearray | memoryview, binary: bool | None = None) -> None:
        """Send a message, as `write` does; `binary` says how, whatever its type is.   Blocks.   ConnectionClosed."""
        if binary is None:
            _write(self, message)
        elif binary:
            _write(self, message.encode() if isinstance(message, str) else message)
        else:
            _write(self, message if isinstance(message, str) else str(message, "utf-8"))

    def close(self, code: int = 1000, reason: str | bytes = "", message: str | bytes = "") -> None:
        """Close as a gws connection does; `message` is the reason's other name, and either may be bytes.   Blocks."""
        said = reason or message
        super().close(code, said if isinstance(said, str) else said.decode())

    def settimeout(self, seconds: float | None) -> None:
        """Let a `receive` raise TimeoutError after `seconds` without a message; None: wait for ever."""
        self._patience = seconds

    def gettimeout(self) -> float | None:
        """Return what `settimeout` was told."""
        return self._patience

    @property
    def _sock(self) -> WebSocket:
        """Whoever asks for the socket beneath (python-engineio does) wants its `settimeout`."""
        return self

    @property
    def path(self) -> str | None:
        """The request's path, decoded, as WSGI has it; `request.path` is as it was sent."""
        return self.environ.get("PATH_INFO")

    @property
    def origin(self) -> str | None:
        """The Origin that a browser has sent."""
        return self.environ.get("HTTP_ORIGIN")

    @property
    def version(self) -> str | None:
        """The version of the protocol: "13"."""
        return self.environ.get("HTTP_SEC_WEBSOCKET_VERSION")


class WebSocketHandler(pywsgi.WSGIHandler):  # type: ignore[misc, unused-ignore]
    """Handles the requests of one socket, for WSGIServer(handler_class=...).   May be subclassed.

    A request for WebSocket is answered before the app is called; what that returns, or starts to respond, goes
    nowhere then.  When it returns, the connection is closed with 1000; with 1011 if it raises.
    """

    websocket_class: ClassVar[type[WebSocket]] = WebSocket
    stream_class: ClassVar[type[Stream]] = Stream
    options: ClassVar[Options] = Options()
    automatic: ClassVar[bool] = True  #: False: an app that wants a connection calls `upgrade(environ)`
    websocket: WebSocket | None = None  #: the connection, while there is one
    environ: dict[str, Any]
    command: str
    path: str
    running: Any = None  #: the greenlet that handles the socket
    idle = False  #: whether it waits for a request
    served = 0  #: requests that have come so far
    _head: list[bytes]  # the lines of the request's head, as they came

    @classmethod
    def with_options(cls, **options: Any) -> type[WebSocketHandler]:
        """Return a handler class with these options (see `Options`)."""
        return type(cls.__name__, (cls,), {"options": Options(**options)})

    def websocket_options(self) -> Options:
        """Return the options for this request; a subclass may look at `self.environ`."""
        return self.options

    def told(self, fd: _WebSocket, event: str, value: Any) -> None:
        """Hear of pings, pongs and slow peers (see `websocket.Owner`)."""

    # ------------------------------------------------------------------------------------------- pywsgi's hooks

    def handle(self) -> None:
        """Handle the socket's requests, and be known to the server as long.   Blocks."""
        present = handlers(self.server)
        self.running = getcurrent()
        present.add(self)
        try:
            super().handle()
        finally:
            present.discard(self)
            self.running = None

    def read_requestline(self) -> str:
        """Wait for a request.   Blocks."""
        self.idle = True
        line = super().read_requestline()
        self.idle = False
        self.served += 1
        return line

    def read_request(self, raw_requestline: str) -> Any:
        """Keep the head as it comes: of what pywsgi makes of it, nobody can tell any more whether it was sound."""
        self._head = [raw_requestline.encode("latin-1")]
        return super().read_request(raw_requestline)

    def MessageClass(self, rfile: Any, *args: Any) -> Any:  # noqa: N802  # pywsgi's name
        """Parse the header lines."""
        return super().MessageClass(cast(Any, _Tape(rfile, self._head)), *args)

    def get_environ(self) -> dict[str, Any]:
        """Return the request's environ; `upgrade` finds us in it."""
        environ = super().get_environ()
        environ["gws.handler"] = self
        return environ

    def run_application(self) -> None:
        """Answer a request for WebSocket, and call the app.   Blocks."""
        try:
            if self.automatic and self.wants_websocket():
                self.upgrade_websocket()
            super().run_application()
        except HandshakeError as refusal:
            if self.headers_sent:
                raise
            self.refuse(refusal)
        except BaseException as error:
            if self.websocket is None or self._failed(error):
                raise
        finally:
            self.environ.pop("gws.handler", None)
            if self.websocket is not None:
                self._finish()

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        """Begin a response; after an upgrade nobody waits for one."""
        if self.websocket is None:
            return super().start_response(status, headers, exc_info)
        return self.write

    def write(self, data: bytes) -> None:
        """Write a piece of the response; after an upgrade it goes nowhere."""
        if self.websocket is None:
            super().write(data)

    # ------------------------------------------------------------------------------------------- the handshake

    def wants_websocket(self) -> bool:
        """Tell an attempt at WebSocket, sound or not, from any other request."""
        get = self.environ.get
        if "HTTP_UPGRADE" not in self.environ and "HTTP_SEC_WEBSOCKET_KEY" not in self.environ:
            return False
        fields = [("Upgrade", get("HTTP_UPGRADE", "")), ("Sec-WebSocket-Key", get("HTTP_SEC_WEBSOCKET_KEY"))]
        asked = handshake.Headers([(name, value) for name, value in fields if value is not None])
        return handshake.wants_websocket(http.Request(self.command, self.path, asked))

    def upgrade_websocket(self) -> WebSocket:
        """Turn the request into a connection, in `self.websocket` and the environ; HandshakeError if it is unsound.

        What the 101 says goes through `start_response`, as any response does.   Blocks while the peer is too slow.
        """
        request, agreed = self._judge()
        if handshake.expects_continue(request):
            self._sendall(handshake.CONTINUE)  # type: ignore[attr-defined]
        self.start_response("101 Switching Protocols", handshake.accept_headers(*agreed[:3]))
        self.write(b"")
        fd = self.websocket_class(self._take_socket(), self, self.websocket_options(), request)
        fd.protocol, fd.deflate = agreed.protocol, agreed.deflate
        self._opened(fd)
        return fd

    def _judge(self) -> tuple[http.Request, Agreement]:
        """Read the request as gws does, and agree with it; HandshakeError if it is unsound."""
        options = self.websocket_options()
        head = b"".join(self._head)
        if len(head) > options.max_header:
            raise HandshakeError(431, f"the head is longer than {options.max_header} bytes")
        request = http.parse_request(head)
        return request, agree(request, options)

    def refuse(self, refusal: HandshakeError) -> None:
        """Answer an unsound request, after which the connection is closed.   Blocks while the peer is too slow."""
        answer = http.response(refusal)
        upgrade = ", Upgrade" if "Upgrade" in answer.headers else ""
        headers = [*answer.headers, ("Connection", "close" + upgrade)]
        if "Content-Type" not in answer.headers:
            headers.append(("Content-Type", "text/plain; charset=utf-8"))
        # What a body might hold is nothing that we would wait for.
        self.wsgi_input = pywsgi.Input(self.rfile, 0)
        self.start_response(f"{answer.status} {http.phrase(answer.status)}", headers)
        self.close_connection = True
        self.result = [] if self.command == "HEAD" else [answer.body]
        self.process_result()
        self.result = None

    def _take_socket(self) -> Stream:
        """Make a stream of the socket, and of what came behind the request's head."""
        rest = _buffered(self.rfile, self.socket)
        self.rfile.close()
        self.close_connection = True
        sock = self.socket if hasattr(self.socket, "pending") else _plain(self.socket)
        stream = self.stream_class(sock, masked=True)
        stream.preload(rest)
        return stream

    def _opened(self, fd: WebSocket) -> None:
        self.websocket = fd
        self.environ["wsgi.websocket"] = fd
        self.environ["wsgi.websocket_version"] = fd.version
        fd.opened()
        fd.request.headers.pack()
        options = fd._limits
        if options.ping_interval is not None:
            keepalive(options.ping_interval, options.ping_timeout).add(fd)

    # ------------------------------------------------------------------------------------------- its end

    def _failed(self, error: BaseException) -> bool:
        """Close the connection whose app has raised; tell whether pywsgi is to log that.   Blocks."""
        fd = cast(WebSocket, self.websocket)
        if isinstance(error, ConnectionClosed) and fd.state != OPEN:
            return False
        if isinstance(error, FAILURES):
            fd.close(1011, "the server has failed")
        else:
            fd.cut(1001, "")
        return True

    def _finish(self) -> None:
        """See the connection to its end.   Blocks."""
        fd = cast(WebSocket, self.websocket)
        try:
            fd.close(1000)
        finally:
            fd.cut(1001, "")
            options = fd._limits
            if options.ping_interval is not None:
                keepalive(options.ping_interval, options.ping_timeout).discard(fd)
            self.response_length += fd.stream.sent
            self.environ["wsgi.websocket"] = self.websocket = None


def handlers(server: Any) -> set[WebSocketHandler]:
    """Return the handlers of the server's sockets, as they are at work."""
    present: set[WebSocketHandler] = vars(server).setdefault("gws_handlers", set())
    return present


def upgrade(environ: dict[str, Any]) -> WebSocket:
    """Turn the request of `environ` into a connection, or return the one it is; HandshakeError if it is unsound.

    RuntimeError where the server's handler is not ours.   Blocks while the peer is too slow.
    """
    fd: WebSocket | None = environ.get("wsgi.websocket")
    if fd is not None:
        return fd
    handler: WebSocketHandler | None = environ.get("gws.handler")
    if handler is None:
        raise RuntimeError("this needs WSGIServer(handler_class=gws.wsgi.WebSocketHandler), or gws.worker in gunicorn")
    if handler.headers_sent:
        raise RuntimeError("the response has begun already")
    fd = environ["wsgi.websocket"] = handler.upgrade_websocket()  # also in a middleware's copy
    return fd


class _Tape:
    """A file's lines, kept as they are read."""

    __slots__ = ("_lines", "_rfile")

    def __init__(self, rfile: Any, lines: list[bytes]):
        self._rfile = rfile
        self._lines = lines

    def readline(self, limit: int = -1) -> bytes:
        line: bytes = self._rfile.readline(limit)
        self._lines.append(line)
        return line


def _buffered(rfile: Any, sock: Any) -> bytes:
    """Return what a reader has received and nobody has read; never blocks."""
    sock.settimeout(0.0)
    with contextlib.suppress(OSError):
        return bytes(rfile.peek())
    return b""


def _plain(sock: Any) -> _socket.socket:
    """Take the descriptor from a gevent socket, which is one no longer."""
    raw = _socket.socket(sock.family, sock.type, sock.proto, fileno=sock.detach())
    if raw.family != getattr(sockets, "AF_UNIX", None):
        with contextlib.suppress(OSError):
            raw.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
    return raw
