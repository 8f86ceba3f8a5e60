"""A message in pieces: fragments gathered into one (RFC 6455 section 5.4); and a message as its first byte and payload.

Knows payloads, not frames: which piece may follow which is judged in `websocket`.  A message is str (text) or bytes
(binary).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from gws.deflate import STEP, TOO_BIG
from gws.errors import MessageTooBig
from gws.frame import BINARY, FIN, TEXT
from gws.utf8 import Utf8

__all__ = ["Fragments", "Message", "Packed", "encode_message"]

Message = str | bytes
Pause = Callable[[], None] | None


def encode_message(message: Message | bytearray | memoryview) -> tuple[int, bytes]:
    """Return a message's first byte (FIN and opcode) and payload; TypeError for what is no message."""
    if isinstance(message, str):
        return FIN | TEXT, message.encode()
    if isinstance(message, bytes | bytearray | memoryview):
        return FIN | BINARY, bytes(message)
    raise TypeError(f"a message is str (text) or bytes-like (binary), not {type(message).__name__}")


class Fragments:
    """The message at hand, in one growing buffer: a million tiny fragments cost no more than their bytes."""

    __slots__ = ("_data", "_limit", "_text", "_utf8", "paused", "size")

    def __init__(self, first: int, utf8: Utf8 | None, limit: int):
        self._data = bytearray()
        self._limit = limit
        self._text = first & 0x0F == TEXT
        self._utf8 = (utf8 or Utf8()) if self._text else None
        self.size = 0  #: bytes that the message has so far
        self.paused = False  #: whether its last fragment has paused for the others (its owner's affair)

    def see(self, piece: bytes) -> None:
        """Judge a piece of a fragment that is not whole yet."""
        if self._utf8 is not None:
            self._utf8.see(piece)

    def add(self, payload: bytes, final: bool, pause: Pause = None) -> None:
        """Add a whole fragment; raise InvalidPayload as soon as it shows."""
        if self._utf8 is not None:
            self._utf8.see_rest(payload, final)
        self._data += payload
        self.size = len(self._data)

    def shed(self) -> None:
        """Drop what `add` can make anew, as it has to wait in its `pause`."""

    def message(self) -> Message:
        """Return the message, once its last fragment was added."""
        return self._data.decode() if self._text else bytes(self._data)


class Packed(Fragments):
    """A compressed one, which is kept as it came: a peer that never ends it costs what it has sent.

    Each fragment is inflated step by step when it comes, to be judged, and once more when the message is whole.
    """

    __slots__ = ("_deflate", "_looking", "_mark")

    def __init__(self, first: int, utf8: Utf8 | None, limit: int, deflate: Any):
        super().__init__(first, utf8, limit)
        self._deflate = deflate
        self._mark = deflate.mark()
        self._looking: Iterator[bytes] | None = None  # at a fragment that pauses for the others

    def see(self, piece: bytes) -> None:
        """Judge a whole fragment alone: an inflater cannot take a step back."""

    def add(self, payload: bytes, final: bool, pause: Pause = None) -> None:
        """Add a whole fragment; raise MessageTooBig or InvalidPayload as soon as it shows.

        `pause` is called before what takes long; what it raises ends the call, and the next one, for the same payload,
        goes on from there.
        """
        if self._looking is None:
            self._looking = self._deflate.look(payload, final)
            self._judge(next(self._looking, b""))
            if self.size >= STEP and pause is not None:
                pause()
        for piece in self._looking or self._deflate.look(payload, final):
            self._judge(piece)
        self._looking = None
        if self._utf8 is not None and final:
            self._utf8.see_rest(b"", True)
        self._data += payload

    def shed(self) -> None:
        """Drop all that was seen of the first fragment, if nothing came before it: an inflater is what costs most."""
        if self._mark is None and not self._data:
            self._looking, self.size = None, 0
            self._utf8 = self._utf8 and Utf8()
            self._deflate.rewind(None)

    def _judge(self, piece: bytes) -> None:
        self.size += len(piece)
        if self.size > self._limit:
            raise MessageTooBig(TOO_BIG)
        if self._utf8 is not None:
            self._utf8.see_rest(piece, False)

    def message(self) -> Message:
        """Return the message, once its last fragment was added."""
        self._deflate.rewind(self._mark)
        data = self._deflate.inflate(bytes(self._data), self._limit, True)
        return data.decode() if self._text else data  # type: ignore[no-any-return]
