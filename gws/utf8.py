"""UTF-8 judged as it comes, wherever it is cut (RFC 6455 section 8.1).

Knows neither frames nor messages: pieces of bytes, and which of them is the last.
"""

from __future__ import annotations

import codecs

from gws.errors import InvalidPayload

__all__ = ["Utf8", "decode", "not_utf8"]

_decoder = codecs.getincrementaldecoder("utf-8")


def not_utf8() -> InvalidPayload:
    """Return the error for a text message that is none."""
    return InvalidPayload("a text message is not UTF-8 (RFC 6455 section 8.1)")


def decode(data: bytes | bytearray) -> str:
    """Decode what is whole; raise InvalidPayload."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise not_utf8() from None


class Utf8:
    """Judges text piece by piece."""

    __slots__ = ("_decoder", "seen")

    def __init__(self) -> None:
        self._decoder = _decoder()
        self.seen = 0  #: bytes of the frame at hand that were judged already

    def see(self, piece: bytes, final: bool = False) -> str:
        """Judge the next piece; `final`: no character may be left open behind it.   Raises InvalidPayload."""
        try:
            text = self._decoder.decode(piece, final)
        except UnicodeDecodeError:
            raise not_utf8() from None
        # Python puts off its verdict on half a surrogate until the third byte, which cannot mend it.
        if b"\xed\xa0" <= self._decoder.getstate()[0] <= b"\xed\xbf":
            raise not_utf8()
        self.seen += len(piece)
        return text

    def see_rest(self, payload: bytes, final: bool) -> None:
        """Judge what of a whole frame's payload was not seen in pieces."""
        self.see(payload[self.seen :] if self.seen else payload, final)
        self.seen = 0
