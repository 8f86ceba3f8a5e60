"""gevent-websocket's handler for pywsgi: its hooks in its order, and gws beneath them.

    run_application   -> server.pre_start_hook(handler): true means that the request is served as plain HTTP
                      -> upgrade_websocket -> upgrade_connection -> start_response("101 ...") -> _prepare_response
                      -> run_websocket -> the application

A subclass that answers with another status anywhere on the way has refused the connection.  Knows of pywsgi what
`gws.wsgi` leaves to be known.
"""

from __future__ import annotations

from collections.abc import Iterable
from logging import Logger
from typing import Any, ClassVar

from gevent.pywsgi import Input, WSGIHandler

from gws import handshake, http, wsgi
from gws.drop_in.geventwebsocket.exceptions import WebSocketError
from gws.drop_in.geventwebsocket.logging import create_logger
from gws.drop_in.geventwebsocket.websocket import OpenStream, Stream, WebSocket
from gws.drop_in.terms import terms
from gws.errors import HandshakeError
from gws.goodbye import CONNECTING, OPEN
from gws.opening import Agreement

__all__ = ["Client", "WebSocketHandler"]


class Client:
    """One of the server's connections, by its peer's address; programs keep more in it."""

    def __init__(self, address: Any, ws: WebSocket):
        self.address = address
        self.ws = ws


class WebSocketHandler(wsgi.WebSocketHandler):
    """Handles the requests of one socket.   Subclassed by those who check who may come in.

    `prevent_wsgi_call`: once the connection is open, `run_application` returns and the subclass goes on with it.
    """

    SUPPORTED_VERSIONS: ClassVar[tuple[str, ...]] = ("13",)
    GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

    websocket_class: ClassVar[type[Any]] = WebSocket
    stream_class = OpenStream
    prevent_wsgi_call = False
    server: Any
    websocket: Any
    provided_content_length: Any
    provided_date: Any
    _open = False  # whether the 101 is out, and the socket a stream's
    _judged: tuple[http.Request, Agreement] | None = None

    def handle(self) -> None:
        """Handle the requests of the socket.   Blocks."""
        try:
            super().handle()
        finally:
            if self.websocket is not None:  # of one that `prevent_wsgi_call`
                self._finish()

    def run_application(self) -> None:
        """Open a connection and let the application have it, or serve a plain request.   Blocks."""
        self._judged, self._open = None, False
        self.environ.pop("gws.handler", None)  # whoever is here need not upgrade by hand
        if getattr(self.server, "pre_start_hook", None):
            self.logger.debug("calling the pre-start hook")
            if self.server.pre_start_hook(self):
                return WSGIHandler.run_application(self)
        try:
            self.result = self.upgrade_websocket()
            if self.websocket is None:
                return self._run_plain()
            self._begin()
            if self._open:
                self.run_websocket()
        except BaseException as error:
            if not self._open or self._has_failed(error):
                raise
        finally:
            self._end()

    def run_websocket(self) -> None:
        """Let the application have the connection; what it responds goes nowhere.   Blocks."""
        if self.prevent_wsgi_call:
            return
        if not hasattr(self.server, "clients"):
            self.server.clients = {}
        clients = self.server.clients
        client = clients[self.client_address] = Client(self.client_address, self.websocket)
        try:
            list(self.application(self.environ, _respond) or ())  # type: ignore[misc]
        finally:
            if clients.get(self.client_address) is client:
                del clients[self.client_address]

    # ------------------------------------------------------------------------------------------- the handshake

    def upgrade_websocket(self) -> Any:
        """Begin to make a connection of a request that asks for one; return the body of a refusal, or None.

        None, and no status: the request is a plain one.   Overridden by those who check who may come in.
        """
        get = self.environ.get
        if get("REQUEST_METHOD") != "GET" or "websocket" not in _tokens(get("HTTP_UPGRADE", "")):
            return None
        if "upgrade" not in _tokens(get("HTTP_CONNECTION", "")):
            self.logger.warning("a client has asked for no upgrade, but for a WebSocket: served as plain HTTP")
            return None
        if self.request_version != "HTTP/1.1":
            return self._turn_down(HandshakeError(505, "the version must be HTTP/1.1 (RFC 6455 section 4.2.1)"))
        if not get("HTTP_SEC_WEBSOCKET_VERSION"):
            return self._turn_down(self._other_version())
        return self.upgrade_connection()

    def upgrade_connection(self) -> Any:
        """Judge the request, make the connection (in `websocket` and in the environ), and start the 101.

        Return the body of a refusal, or None.   Overridden by those who check who may come in.
        """
        if self.environ["HTTP_SEC_WEBSOCKET_VERSION"] not in self.SUPPORTED_VERSIONS:
            return self._turn_down(self._other_version())
        try:
            request, agreed = self.judged()
        except HandshakeError as refusal:
            return self._turn_down(refusal)
        if handshake.expects_continue(request):
            self._sendall(handshake.CONTINUE)  # type: ignore[attr-defined]
        fd = self.websocket = self.websocket_class(self.environ, Stream(self), self)
        self.environ["wsgi.websocket"] = fd
        self.environ["wsgi.websocket_version"] = self.environ["HTTP_SEC_WEBSOCKET_VERSION"]
        self.start_response("101 Switching Protocols", handshake.accept_headers(*agreed[:3]))
        return None

    def judged(self) -> tuple[http.Request, Agreement]:
        """Return the request as gws reads it, and what was agreed on; HandshakeError if it is unsound."""
        if self._judged is None:
            self._judged = self._judge()
        return self._judged

    def websocket_options(self) -> wsgi.Options:
        """Return the options: those of `install`, unless a subclass has its own; and the application's subprotocol."""
        own = type(self).options
        if own is not wsgi.WebSocketHandler.options:
            return own
        spoken = self._spoken()
        return terms(protocols=(spoken,)) if spoken else terms()

    def _spoken(self) -> str:
        """Return the subprotocol that the application speaks at this path."""
        ask = getattr(self.application, "app_protocol", None)
        return ask(self.environ["PATH_INFO"]) if ask else ""

    def _other_version(self) -> HandshakeError:
        version, spoken = self.environ.get("HTTP_SEC_WEBSOCKET_VERSION"), ", ".join(self.SUPPORTED_VERSIONS)
        reason = f"Sec-WebSocket-Version must be {spoken}, not {version or 'nothing'} (RFC 6455 section 4.4)"
        return HandshakeError(426, reason, [("Upgrade", "websocket"), ("Sec-WebSocket-Version", spoken)])

    def _turn_down(self, refusal: HandshakeError) -> list[bytes]:
        """Start a response that says why, and return its body."""
        self.logger.warning("refused %s: %s", self.client_address, refusal)
        upgrade = ", Upgrade" if any(name == "Upgrade" for name, _ in refusal.headers) else ""
        headers = [*refusal.headers, ("Connection", "close" + upgrade), ("Content-Type", "text/plain; charset=utf-8")]
        self.start_response(f"{refusal.status} {http.phrase(refusal.status)}", headers)
        self.close_connection = True
        self.wsgi_input = Input(self.rfile, 0)  # what a body might hold is nothing that we would wait for
        return [refusal.body]

    # ------------------------------------------------------------------------------------------- responding

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        """Begin a response: a 101, a refusal, or the application's to a plain request."""
        write: Any = WSGIHandler.start_response(self, status, headers, exc_info)
        self._prepare_response()
        return write

    def _prepare_response(self) -> None:
        """Keep pywsgi from framing a body, and from reading a next request, where a connection begins."""
        if self.headers_sent or not self.environ.get("wsgi.websocket"):
            return
        self.provided_content_length = False
        self.response_use_chunked = False
        self.close_connection = True
        self.provided_date = True

    def write(self, data: bytes) -> None:
        """Write a piece of a response; to an open connection none goes out."""
        if not self._open:
            WSGIHandler.write(self, data)

    @property
    def logger(self) -> Logger:
        """The server's log."""
        if not hasattr(self.server, "logger"):
            self.server.logger = create_logger("geventwebsocket.handler")
        logger: Logger = self.server.logger
        return logger

    @property
    def active_client(self) -> Any:
        """The connection's entry among the server's clients."""
        return self.server.clients[self.client_address]

    # ------------------------------------------------------------------------------------------- in between

    def _run_plain(self) -> None:
        """Send the refusal that was started, or let the application serve a plain request.   Blocks."""
        if not self.status:
            WSGIHandler.run_application(self)
        else:
            self._send_refusal()

    def _send_refusal(self) -> None:
        self.close_connection = True  # what follows may be frames, and no request
        parts: Iterable[Any] = self.result or ()
        self.result = [part.encode() if isinstance(part, str) else part for part in parts]
        try:
            self.process_result()
        finally:
            self.result = None

    def _begin(self) -> None:
        """Send the 101, and make the connection of the socket; or what somebody has answered instead.   Blocks."""
        fd = self.websocket
        if fd.state != CONNECTING and not self.headers_sent:  # the server stops, and a hook took its time
            self.start_response("503 Service Unavailable", [("Connection", "close")])
        if self.status and not self.headers_sent:
            if self.code == 101:
                self.write(b"")
            else:
                self.environ["wsgi.websocket"] = None
                self._send_refusal()
        if self.code != 101:
            return
        stream: Any = self._take_socket()
        stream.handler = self
        fd.stream = stream
        self._open = True
        self._opened(fd)

    def _has_failed(self, error: BaseException) -> bool:
        """Close the connection whose application has raised; tell whether that is to be logged.   Blocks."""
        late = isinstance(error, WebSocketError) and self.websocket is not None and self.websocket.state != OPEN
        return not late and self.websocket is not None and self._failed(error)

    def _end(self) -> None:
        """See the connection to its end, unless the subclass wants to go on with it.   Blocks."""
        if self.websocket is None or (self._open and self.prevent_wsgi_call):
            return
        if self._open:
            self._finish()
        self.environ["wsgi.websocket"] = self.websocket = None
        self.close_connection = True


def _tokens(value: str) -> list[str]:
    return [token.strip() for token in value.lower().split(",")]


def _respond(status: str, headers: Iterable[tuple[str, str]], exc_info: Any = None) -> Any:
    return lambda data: None
