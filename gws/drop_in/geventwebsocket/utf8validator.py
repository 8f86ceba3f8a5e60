"""UTF-8 judged octet by octet, with the place where it went wrong (RFC 3629 section 4).

gws judges its texts elsewhere (see `gws.utf8`); this is for programs that call gevent-websocket's validator themselves.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["UTF8_ACCEPT", "UTF8_REJECT", "Utf8Validator"]

UTF8_ACCEPT = 0  #: the octets so far end with a character
UTF8_REJECT = 1  #: they are not UTF-8, whatever may follow

_REST = (0x80, 0xBF)
#: By first octet, ascending: up to which one, how many follow, the bits that count, and what the second may be.
_FIRST = (
    (0x7F, 0, 0x7F, _REST),
    (0xC1, -1, 0, _REST),
    (0xDF, 1, 0x1F, _REST),
    (0xE0, 2, 0x0F, (0xA0, 0xBF)),
    (0xEC, 2, 0x0F, _REST),
    (0xED, 2, 0x0F, (0x80, 0x9F)),
    (0xEF, 2, 0x0F, _REST),
    (0xF0, 3, 0x07, (0x90, 0xBF)),
    (0xF3, 3, 0x07, _REST),
    (0xF4, 3, 0x07, (0x80, 0x8F)),
    (0xFF, -1, 0, _REST),
)


class Utf8Validator:
    """Judges octets as they come, in pieces of any length."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self.state = UTF8_ACCEPT
        self.codepoint = 0
        self.i = 0  #: octets that were judged
        self._left = 0
        self._bounds = _REST

    def decode(self, b: int) -> int:
        """Take one octet; return UTF8_ACCEPT (`codepoint` is a character), UTF8_REJECT, or another number."""
        if self.state == UTF8_REJECT:
            return UTF8_REJECT
        if self._left:
            low, high = self._bounds
            self._left = self._left - 1 if low <= b <= high else -1
            self.codepoint = self.codepoint << 6 | b & 0x3F
            self._bounds = _REST
        else:
            _, self._left, bits, self._bounds = next(row for row in _FIRST if b <= row[0])
            self.codepoint = b & bits
        self.state = UTF8_REJECT if self._left < 0 else self._left + 1 if self._left else UTF8_ACCEPT
        return self.state

    def validate(self, ba: Iterable[int]) -> tuple[bool, bool, int, int]:
        """Take a piece; return whether all is valid so far, whether it ends with a character, and two indices.

        They count the octets of this piece and of all pieces, up to the one that showed that this is not UTF-8.
        """
        count = 0
        for count, octet in enumerate(ba):
            if self.decode(octet) == UTF8_REJECT:
                self.i += count
                return False, False, count, self.i
        taken = len(ba)  # type: ignore[arg-type]
        self.i += taken
        return True, self.state == UTF8_ACCEPT, taken, self.i
