"""A message in pieces: fragments gathered into one (RFC 6455 section 5.4); and a message as its first byte and payload.

Knows payloads, not frames: which piece may follow which is judged in `websocket`.  A message is str (text) or bytes
(binary).
"""

from __future__ import annotations

from typing import Any

from gws.frame import BINARY, FIN, RSV1, TEXT
from gws.utf8 import Utf8

__all__ = ["Fragments", "Message", "encode_message"]

Message = str | bytes


def encode_message(message: Message | bytearray | memoryview) -> tuple[int, bytes]:
    """Return a message's first byte (FIN and opcode) and payload; TypeError for what is no message."""
    if isinstance(message, str):
        return FIN | TEXT, message.encode()
    if isinstance(message, bytes | bytearray | memoryview):
        return FIN | BINARY, bytes(message)
    raise TypeError(f"a message is str (text) or bytes-like (binary), not {type(message).__name__}")


class Fragments:
    """The message at hand, in one growing buffer: a million tiny fragments cost no more than their bytes."""

    __slots__ = ("_data", "_inflate", "_limit", "_text", "_utf8")

    def __init__(self, first: int, utf8: Utf8 | None, limit: int, deflate: Any):
        self._data = bytearray()
        self._limit = limit
        self._text = first & 0x0F == TEXT
        self._utf8 = (utf8 or Utf8()) if self._text else None
        self._inflate = deflate.inflate if first & RSV1 else None

    def see(self, piece: bytes) -> None:
        """Judge a piece of a fragment that is not whole yet."""
        if self._utf8 is not None and self._inflate is None:
            self._utf8.see(piece)

    def add(self, payload: bytes, final: bool) -> None:
        """Add a whole fragment; raise MessageTooBig or InvalidPayload as soon as it shows."""
        if self._inflate is not None:
            payload = self._inflate(payload, self._limit - len(self._data), final)
        if self._utf8 is not None:
            self._utf8.see_rest(payload, final)
        self._data += payload

    def message(self) -> Message:
        """Return the message, once its last fragment was added."""
        return self._data.decode() if self._text else bytes(self._data)
