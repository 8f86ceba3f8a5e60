"""What gevent-websocket raises.   All of them are OSErrors, as there."""

from __future__ import annotations

__all__ = ["FrameTooLargeException", "ProtocolError", "WebSocketError"]


class WebSocketError(OSError):
    """The connection is over, or cannot do what was asked of it."""


class ProtocolError(WebSocketError):
    """The peer broke the protocol."""


class FrameTooLargeException(ProtocolError):
    """A frame is longer than it may be."""
