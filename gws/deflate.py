"""permessage-deflate, the compression extension of RFC 7692: inflate and deflate, as both ends have agreed.

Knows neither frames nor how they came to agree (see `parameters`): fragments and messages are bytes.  RSV1 is the
caller's, and so is the order in which messages leave.

What a context costs at the default of 12 bits and memLevel 5 (CPython 3.11, zlib 1.2.13): 38 KiB to deflate, 12 KiB to
inflate; at zlib's own 15 bits and memLevel 8, 194 KiB and 40 KiB.  Each is made when it is first needed.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from gws.errors import InvalidPayload, MessageTooBig
from gws.parameters import Compression, Parameters

__all__ = ["STEP", "TOO_BIG", "Compression", "Deflate", "Parameters", "deflate_once"]

Half = tuple[bytearray, Iterator[bytes]]  # a message so far, and the steps to the rest of it
Key = tuple[Any, ...]  # what makes a deflater, and its arguments

_TAIL = b"\x00\x00\xff\xff"
_CHUNK = 4096
STEP = 16 * 1024  # bytes of output, after which it is known that a message takes long
APART = 32 * 1024  # bytes of a message that is deflated on its own (see `Deflate.share`)
TOO_BIG = "the message inflates to more than max_message"
_MAX_FINAL_BLOCKS = 4096
_RECALLED = 12  # bits of the largest window that an idle connection keeps packed

# gevent-gws[fast] installs isal, which deflates JSON of 1 KiB in 7 us where zlib takes 20, and 64 KiB in 0.12 ms where
# zlib takes 1.0.  The output is a fifth larger, as at zlib's level 1, and a context costs 77 KiB.  It does not inflate
# for us, for it would be slower at 1 KiB.  GWS_ZLIB=zlib keeps to the standard library.
try:
    _igzip: Any = None if os.environ.get("GWS_ZLIB") == "zlib" else importlib.import_module("isal.isal_zlib")
except ImportError:
    _igzip = None


def deflate_once(message: bytes, key: Key) -> bytes:
    """Deflate one whole message, for all connections whose share() returned this key."""
    deflater = _deflater(key)
    return (deflater.compress(message) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]


class Deflate:
    """One connection's compression, in both directions."""

    __slots__ = (
        "_anew",
        "_deflater",
        "_half",
        "_idle",
        "_inflater",
        "_key",
        "_large_key",
        "_peer_bits",
        "_peer_takeover",
        "_quiet",
        "_recalls",
        "_recent",
        "_takeover",
        "_threshold",
        "_window",
    )

    def __init__(self, parameters: Parameters, compression: Compression, *, server: bool) -> None:
        fresh, peer_fresh, bits, peer_bits = parameters
        if not server:
            fresh, peer_fresh, bits, peer_bits = peer_fresh, fresh, peer_bits, bits
        self._threshold = compression.threshold
        self._key = _key(compression, min(bits, compression.window_bits))
        self._large_key = _key(compression, bits)
        self._takeover, self._peer_takeover = not fresh, not peer_fresh
        self._peer_bits = peer_bits
        self._deflater: zlib._Compress | None = None
        self._inflater: zlib._Decompress | None = None
        self._half: Half | None = None  # of a message that pauses
        self._anew = False  # whether that message can be begun anew: nothing came before it
        self._idle = self._quiet = True  # nothing was deflated, nor inflated, since the last release_idle()
        # Bytes of the window that are kept beside the inflater.  A large one would double what a connection holds.
        self._recalls = 1 << peer_bits if self._peer_takeover and peer_bits <= _RECALLED else 0
        self._recent = bytearray()  # what was inflated last, as much or somewhat more
        self._window = b""  # the same, packed, while there is no inflater

    def __repr__(self) -> str:
        own = -self._key[3], self._takeover, self._deflater
        peer = self._peer_bits, self._peer_takeover, self._inflater
        ends = (f"{bits} bits{', takeover' * takeover}{', held' * bool(held)}" for bits, takeover, held in (own, peer))
        return f"<Deflate own: {next(ends)}; peer: {next(ends)}>"

    def wants(self, message: bytes) -> bool:
        """Tell whether a message is large enough to be worth deflating."""
        return len(message) >= self._threshold

    def deflate(self, message: bytes) -> bytes:
        """Deflate one whole message: the payload of a frame with RSV1 set.

        The peer's window follows ours, so results must be sent, in the order of the calls; if one cannot be, release().
        """
        if not self._takeover:
            return deflate_once(message, self._key)
        if len(message) >= APART:
            return deflate_once(message, self.share(len(message)))
        self._idle = False
        deflater = self._deflater
        if deflater is None:
            deflater = self._deflater = _deflater(self._key)
        # "Remove 4 octets (that are 0x00 0x00 0xff 0xff) from the tail end."  (7.2.1)
        return (deflater.compress(message) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]

    def inflate(
        self, data: bytes, limit: int, final: bool, pause: Callable[[], None] | None = None, step: int = STEP
    ) -> bytes:
        """Inflate the next fragment of a message, or any piece; `final`: the message ends with it.

        Raises MessageTooBig when it yields more than `limit` bytes (below sys.maxsize), and never holds more;
        InvalidPayload for what is no DEFLATE stream, or refers to something before the window that was agreed on.
        `pause` is called after `step` bytes, if there are more; what it raises ends the call, and the next one, for the
        same data, goes on from there.
        """
        while True:
            half = self._half or self._begin(data, min(limit, step), final)
            if isinstance(half, bytes):
                if self._recalls:
                    self._remember(half)
                return half
            if self._half is not None or pause is None or len(half[0]) <= step:
                break
            self._half = half
            del half  # or `shed` would free nothing
            pause()
            pause = None
        self._half = None
        whole, steps = half
        for piece in steps:
            whole += piece
            if len(whole) > limit:
                break
        if len(whole) > limit:
            raise MessageTooBig(TOO_BIG)
        message = bytes(whole)
        if self._recalls:
            self._remember(message)
        return message

    def shed(self) -> None:
        """Drop the message that pauses, if nothing came before it: it is then inflated anew, from its beginning.

        For who has to wait: an inflater is several times what a connection costs otherwise.
        """
        if self._anew:
            self._inflater = self._half = None

    def _remember(self, message: bytes) -> None:
        """Keep what the peer may refer to, for `release_idle`: zlib does not give it away."""
        self._quiet = False
        recent, window = self._recent, self._recalls
        recent += message[-window:]
        if len(recent) > window + window // 4:
            del recent[:-window]

    def _ready(self) -> None:
        """Make the inflater, with the window as it was."""
        if not self._window:
            self._inflater = zlib.decompressobj(-self._peer_bits)
            return
        window = zlib.decompress(self._window)
        self._inflater = zlib.decompressobj(-self._peer_bits, window)
        self._window, self._recent = b"", bytearray(window)

    def _begin(self, data: bytes, limit: int, final: bool) -> bytes | Half:
        """Return all, if it is no more than `limit` bytes, or else as many and the steps to the rest."""
        self._anew = self._inflater is None and not self._window
        if self._inflater is None:
            self._ready()
        inflater = self._inflater
        assert inflater is not None
        data = data + _TAIL if final else data
        try:
            # "Append 4 octets of 0x00 0x00 0xff 0xff to the tail end of the payload of the message."  (7.2.2)
            # zlib may yield one byte more than allowed: as long as it does not come, zlib has taken in all of the data.
            message = inflater.decompress(data, limit + 1)
        except zlib.error as err:
            raise _broken(err) from err
        if len(message) > limit or inflater.eof:
            return bytearray(message), self._steps(data, len(data) - _left(inflater), final)
        if final and not self._peer_takeover:
            self._inflater = None
        return message

    def look(self, data: bytes, final: bool) -> Iterator[bytes]:
        """Inflate the next fragment of a message step by step, to judge it: nothing of it is kept here."""
        if self._inflater is None:
            self._ready()
        return self._steps(data + _TAIL if final else data, 0, final)

    def _steps(self, data: bytes, at: int, final: bool) -> Iterator[bytes]:
        """Inflate data[at:] in pieces of STEP bytes at most.

        The data goes in by chunks, as zlib copies what it leaves: that would be the rest of all, over and over.
        """
        rest = memoryview(data)
        # Who ends a message with Z_FINISH may leave out the 0x00 that should follow; our tail, left alone, is no block.
        end = len(rest) - (len(_TAIL) if final else 0)
        blocks = 0
        inflater = self._inflater
        full = True  # there may be more to come of what went in before
        while True:
            if inflater is None or inflater.eof:
                if at >= end and inflater is not None:
                    self._inflater = None if final else inflater  # what comes next may be our tail alone
                    return
                # "The next DEFLATE block follows" one with BFINAL set (7.2.1): a stream of its own, and its inflater.
                blocks += inflater is not None
                if blocks > _MAX_FINAL_BLOCKS:
                    raise InvalidPayload("too many final DEFLATE blocks in a fragment")
                inflater = self._inflater = zlib.decompressobj(-self._peer_bits)
            elif at == len(rest) and not full:
                break
            chunk = rest[at : at + _CHUNK]
            try:
                piece = inflater.decompress(chunk, STEP)
            except zlib.error as err:
                raise _broken(err) from err
            at += len(chunk) - _left(inflater)
            full = len(piece) == STEP
            yield piece
        if final and not self._peer_takeover:
            self._inflater = None

    def mark(self) -> Any:
        """Return the state of the inflater, for `rewind()`."""
        if self._window:
            self._ready()
        return self._inflater and self._inflater.copy()

    def rewind(self, mark: Any) -> None:
        """Let the inflater be as it was: what was only looked at is to be inflated."""
        self._inflater = mark

    def share(self, size: int = 0) -> Key:
        """Return the key to what deflate_once() makes of a message of `size` bytes for this connection too.

        It is to be sent instead of what deflate() makes, which does the same with a large one: what came before would
        save that next to nothing, and a deflater that is soon free again may have all of the window that was agreed on,
        and memory that is in the processor's cache, as that of a hundred connections' own is not.

        Such a message refers to nothing before it, so any peer can inflate it.  But it is then in the peer's window and
        not in our deflater's, which would go on to refer to places where the peer holds something else.  So that one is
        dropped here: the next message from deflate() refers to nothing before it either.
        """
        self._deflater = None
        return self._key if size < APART else self._large_key

    def release(self) -> None:
        """Drop the deflater; legal between any two messages."""
        self._deflater = None

    def release_idle(self, between: bool = True) -> bool:
        """Drop what was not used since the last call, for a timer; tell whether that was anything.

        The peer may go on to refer to its window, so that is kept of the inflater, packed, if it is a small one (larger
        inflaters stay).  `between`: no message is half inflated.
        """
        held = self._deflater, self._inflater
        if self._idle:
            self._deflater = None
        if self._quiet and between and self._recalls and self._inflater is not None and self._half is None:
            self._pack(self._inflater)
        self._idle = self._quiet = True
        return held != (self._deflater, self._inflater)

    def _pack(self, inflater: zlib._Decompress) -> None:
        # What a peer sends may end in the middle of a block; then only this inflater can go on.  A last, empty block is
        # one to an inflater that waits for a block, and a few bytes more to any other.
        trial = inflater.copy()
        with contextlib.suppress(zlib.error):
            trial.decompress(b"\x03\x00")
        if trial.eof and not inflater.eof:
            self._window = zlib.compress(self._recent[-self._recalls :], 1)
            self._inflater, self._recent = None, bytearray()


def _left(inflater: zlib._Decompress) -> int:
    """Return how many bytes of what was given to it last it has not taken."""
    return len(inflater.unused_data if inflater.eof else inflater.unconsumed_tail)


def _broken(err: zlib.error) -> InvalidPayload:
    return InvalidPayload(f"cannot inflate the message: {err}")


@functools.cache
def _key(compression: Compression, bits: int) -> Key:
    if _igzip is not None and bits > 8 and compression.level in (zlib.Z_DEFAULT_COMPRESSION, zlib.Z_BEST_SPEED):
        return _igzip.compressobj, zlib.Z_BEST_SPEED, zlib.DEFLATED, -bits, compression.mem_level
    # zlib cannot deflate with 8 bits.  But with 9 it never refers farther back than 2 ** 9 - MIN_LOOKAHEAD = 250 bytes,
    # which a window of 2 ** 8 bytes holds.
    mem_level = max(compression.mem_level, zlib.DEF_MEM_LEVEL) if bits == 15 else compression.mem_level
    return zlib.compressobj, compression.level, zlib.DEFLATED, -max(bits, 9), mem_level


def _deflater(key: Key) -> zlib._Compress:
    make, *arguments = key
    return make(*arguments)  # type: ignore[no-any-return]
