"""What stands between a connection and its application: nothing, here; subclasses speak a protocol."""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = ["BaseProtocol"]


class BaseProtocol:
    """Hands everything on to the application."""

    PROTOCOL_NAME: ClassVar[str] = ""

    def __init__(self, app: Any):
        self._app = app

    def on_open(self) -> None:
        """Hear that the connection is open."""
        self.app.on_open()

    def on_message(self, message: Any) -> None:
        """Hear a message; None: the peer has closed."""
        self.app.on_message(message)

    def on_close(self, reason: Any = None) -> None:
        """Hear that it is over."""
        self.app.on_close(reason)

    @property
    def app(self) -> Any:
        """The application."""
        if not self._app:
            raise LookupError("there is no application")
        return self._app

    @property
    def server(self) -> Any:
        """The server; None before there is a connection."""
        return self.app.ws.handler.server if hasattr(self.app, "ws") else None

    @property
    def handler(self) -> Any:
        """The connection's handler; None before there is a connection."""
        return self.app.ws.handler if hasattr(self.app, "ws") else None
