"""Invariant: inflate yields what zlib yields, never more than the limit, and otherwise says which of the two is wrong.

Whatever bytes come, cut into fragments in any way: the same message as zlib makes of them byte by byte; MessageTooBig if
that is longer than the limit, InvalidPayload if zlib fails.   A distance beyond the window that was agreed on may pass:
zlib sees to it only where its output has left the buffer.
"""

from __future__ import annotations

import sys
import zlib
from typing import Any, NamedTuple

import fuzzing
from hypothesis import strategies as st

from gws.deflate import Compression, Deflate, Parameters
from gws.errors import InvalidPayload, MessageTooBig

__all__ = ["CASES", "check"]

TAIL = b"\x00\x00\xff\xff"
MOST_PER_BYTE = 8 * 258  # what one byte of DEFLATE may inflate to: eight symbols of one bit
MOST_FINAL = 4096  # blocks with BFINAL in one fragment, beyond which gws refuses it


class Case(NamedTuple):
    bits: int
    takeover: bool
    limit: int
    messages: list[list[bytes]]  # each in fragments


SOME = st.one_of(
    st.binary(max_size=60),
    st.builds(
        lambda seed, n: (seed * n)[:200_000], st.binary(min_size=1, max_size=20), st.sampled_from([1, 30, 1000, 10_000])
    ),
)
FLUSHES = st.sampled_from([zlib.Z_SYNC_FLUSH, zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH, zlib.Z_FINISH, zlib.Z_NO_FLUSH])


@st.composite
def payloads(draw: Any) -> bytes:
    """Return DEFLATE blocks, whole or not, of one stream or of several; or anything else."""
    if draw(st.sampled_from([False] * 5 + [True])):
        return draw(st.binary(max_size=60))  # type: ignore[no-any-return]
    data = b""
    for _ in range(draw(st.integers(1, 3))):
        strategy = draw(st.sampled_from([zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED, zlib.Z_HUFFMAN_ONLY]))
        deflater = zlib.compressobj(
            draw(st.sampled_from([0, 1, 6])), zlib.DEFLATED, -draw(st.integers(9, 15)), 8, strategy
        )
        data += deflater.compress(draw(SOME)) + deflater.flush(draw(FLUSHES))
    if draw(st.booleans()) and data.endswith(TAIL):
        data = data[:-4]
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(max_size=2)) + data[at + draw(st.integers(0, 2)) :]
    return data


@st.composite
def fragmented(draw: Any) -> list[bytes]:
    data = draw(payloads())
    cuts = draw(st.lists(st.integers(0, 1 << 16), max_size=4))
    borders = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[begin:end] for begin, end in zip(borders, borders[1:])]


CASES = st.builds(
    Case,
    st.integers(8, 15),
    st.booleans(),
    st.sampled_from([0, 1, 60, 1000, 100_000, 1 << 20, sys.maxsize - 1]),
    st.lists(fragmented(), min_size=1, max_size=3),
)


def check(case: Case) -> None:
    """Hold the messages of one connection against the invariant."""
    peer_fresh = not case.takeover
    deflate = Deflate(Parameters(False, peer_fresh, 15, case.bits), Compression(), server=True)
    strict, lenient = Oracle(case.bits), Oracle(15)
    for fragments in case.messages:
        strict.hear(fragments)
        lenient.hear(fragments)
        try:
            message = inflated(deflate, fragments, case.limit)
        except MessageTooBig:
            assert len(lenient.message) + (MOST_PER_BYTE if lenient.failed else 0) > case.limit
            return
        except InvalidPayload:
            assert strict.failed or strict.finals > MOST_FINAL
            return
        assert not lenient.failed
        assert message == lenient.message
        if not case.takeover:
            strict, lenient = Oracle(case.bits), Oracle(15)


def inflated(deflate: Deflate, fragments: list[bytes], limit: int) -> bytes:
    message = b""
    for i, fragment in enumerate(fragments):
        message += deflate.inflate(fragment, limit - len(message), i == len(fragments) - 1)
        assert len(message) <= limit
    return message


class Oracle:
    """zlib, byte by byte.   A block with BFINAL ends its stream; what follows is another one."""

    def __init__(self, bits: int):
        self._bits = bits
        self._inflater = zlib.decompressobj(-bits)
        self.message = bytearray()
        self.failed = False
        self.finals = 0

    def hear(self, fragments: list[bytes]) -> None:
        """Inflate the next message, as far as it goes."""
        self.message = bytearray()
        try:
            self._take(b"".join(fragments))
            if self._inflater.eof:
                self._inflater = zlib.decompressobj(-self._bits)
            else:
                self._take_tail()
        except zlib.error:
            self.failed = True

    def _take(self, data: bytes) -> None:
        for i in range(len(data)):
            if self._inflater.eof:
                self.finals += 1
                self._inflater = zlib.decompressobj(-self._bits)
            self.message += self._inflater.decompress(data[i : i + 1])

    def _take_tail(self) -> None:
        for i in range(len(TAIL)):
            self.message += self._inflater.decompress(TAIL[i : i + 1])
            if self._inflater.eof:  # it was taken for the end of a block that was cut off
                self._inflater = zlib.decompressobj(-self._bits)
                return


if __name__ == "__main__":
    sys.exit(fuzzing.main(["inflate", *sys.argv[1:]]))
