"""gevent-websocket's applications by path: classes for WebSockets, and WSGI applications for the rest."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from gws.drop_in.geventwebsocket.exceptions import WebSocketError
from gws.drop_in.geventwebsocket.protocols.base import BaseProtocol

__all__ = ["Resource", "WebSocketApplication"]


class WebSocketApplication:
    """What is done with one connection: subclass it, and say what it does when a message comes."""

    protocol_class: ClassVar[type[BaseProtocol]] = BaseProtocol

    def __init__(self, ws: Any):
        self.protocol = self.protocol_class(self)
        self.ws = ws

    def handle(self) -> None:
        """Open, read until the end, close: all by way of the protocol.   Blocks."""
        self.protocol.on_open()
        while True:
            try:
                message = self.ws.receive()
            except WebSocketError:
                self.protocol.on_close()
                return
            self.protocol.on_message(message)  # None once the peer has closed: programs look for it

    def on_open(self, *args: Any, **kwargs: Any) -> None:
        """Hear that the connection is open."""

    def on_close(self, *args: Any, **kwargs: Any) -> None:
        """Hear that it is over; there is one argument, a reason or None."""

    def on_message(self, message: Any, *args: Any, **kwargs: Any) -> None:
        """Send a message back; override it.   None: the peer has closed, and `on_close` comes next."""
        if message is not None:
            self.ws.send(message, **kwargs)

    @classmethod
    def protocol_name(cls) -> str:
        """Return the subprotocol that is spoken here."""
        return cls.protocol_class.PROTOCOL_NAME


class Resource:
    """A WSGI application made of others: pairs of a pattern for the path, and who serves it; the first match does.

    A WebSocket is for the subclasses of WebSocketApplication, all else for the others.
    """

    def __init__(self, apps: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = None):
        self.apps = list(apps.items() if isinstance(apps, Mapping) else apps or ())

    def _is_websocket_app(self, app: Any) -> bool:
        """Tell a WebSocket's application from another (programs override this)."""
        return isinstance(app, type) and issubclass(app, WebSocketApplication)

    def _app_by_path(self, environ_path: str, is_websocket_request: bool) -> Any:
        for pattern, app in self.apps:
            if re.match(pattern, environ_path) and self._is_websocket_app(app) == is_websocket_request:
                return app
        return None

    def app_protocol(self, path: str) -> str:
        """Return the subprotocol that is spoken at this path, or ""."""
        app = self._app_by_path(path, True)
        return app.protocol_name() if hasattr(app, "protocol_name") else ""

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        """Serve a request, as WSGI has it.   Blocks."""
        is_websocket = "wsgi.websocket" in environ
        app = self._app_by_path(environ["PATH_INFO"], is_websocket)
        if app is None:
            raise LookupError(f"no application serves {environ['PATH_INFO']!r}")
        if not is_websocket:
            return app(environ, start_response)
        serving = app(environ["wsgi.websocket"])
        serving.ws = environ["wsgi.websocket"]  # in case that its __init__ has not called ours
        serving.handle()
        return []
