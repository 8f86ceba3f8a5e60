"""gws inside a WSGI app: a handler for gevent.pywsgi whose apps find a connection in `environ["wsgi.websocket"]`.

    WSGIServer(("", 8000), app, handler_class=gws.wsgi.WebSocketHandler).serve_forever()

Knows pywsgi, which reads the heads and answers everything else as ever; `opening` judges the request, and from the 101
on the socket is a stream's (`appsocket` is what apps know of it).  Knows nothing of gunicorn, nor of other libraries'
names (see `worker` and `drop_in`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, cast

from gevent import getcurrent, pywsgi

from gws import byhand, handshake, http
from gws.appsocket import WebSocket
from gws.errors import ConnectionClosed, HandshakeError
from gws.goodbye import OPEN
from gws.keepalive import keepalive
from gws.opening import FAILURES, Agreement, Terms, agree
from gws.stream import Stream
from gws.websocket import WebSocket as AnyWebSocket

__all__ = ["Options", "WebSocket", "WebSocketHandler", "handlers", "upgrade"]

Options = Terms  #: the options of a handler class


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
        """Return a handler class with these options, and for the rest with this class's (see `Options`)."""
        return type(cls.__name__, (cls,), {"options": replace(cls.options, **options)})

    def websocket_options(self) -> Options:
        """Return the options for this request; a subclass may look at `self.environ`."""
        return self.options

    def told(self, fd: AnyWebSocket, event: str, value: Any) -> None:
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
        except BaseException as error:
            if self.websocket is not None:
                if self._failed(error):
                    raise
            elif isinstance(error, HandshakeError) and not self.headers_sent:
                self.refuse(error)
            else:
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
        self.close_connection = True
        return byhand.take_over(self.socket, self.rfile, self.stream_class)

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


def upgrade(environ: dict[str, Any], **options: Any) -> WebSocket:
    """Turn the request of `environ` into a connection, or return the one it is; HandshakeError if it is unsound.

    Under pywsgi's own handler, too, where `options` are those of `Options`; there the app has to close it.   Blocks
    while the peer is too slow.   RuntimeError under another server.
    """
    fd: WebSocket | None = environ.get("wsgi.websocket")
    if fd is not None:
        return fd
    handler: WebSocketHandler | None = environ.get("gws.handler")
    if handler is None:
        fd = byhand.upgrade(environ, Options(**options))
    elif handler.headers_sent:
        raise RuntimeError("the response has begun already")
    else:
        fd = handler.upgrade_websocket()
    environ["wsgi.websocket"] = fd  # also in a middleware's copy
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
