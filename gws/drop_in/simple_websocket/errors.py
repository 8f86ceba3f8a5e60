"""What simple-websocket raises."""

from __future__ import annotations

__all__ = ["ConnectionClosed", "ConnectionError", "SimpleWebsocketError"]


class SimpleWebsocketError(RuntimeError):
    """Catch this to catch simple-websocket."""


class ConnectionError(SimpleWebsocketError):
    """No connection came to be; `status_code` is the HTTP status, if there was one."""

    def __init__(self, status_code: int | None = None):
        super().__init__(f"Connection error: {status_code}")
        self.status_code = status_code


class ConnectionClosed(SimpleWebsocketError):
    """The connection is over; `reason` is the close code, `message` the text that came with it."""

    def __init__(self, reason: int = 1005, message: str | None = None):
        super().__init__(f"Connection closed: {int(reason)} {message or ''}")
        self.reason = reason
        self.message = message
