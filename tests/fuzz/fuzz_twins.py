"""Invariant: whatever bytes come, in whatever pieces, and whatever is written, the two streams cannot be told apart.

Both yield the same frames, errors (class and text) and ends, after the same pieces; both show `partial` the same bytes;
and both send what was asked for, whole and in order, however often they are interrupted.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import fuzzing
import gevent
from hypothesis import strategies as st
from line import Line, line, turn

from gws.errors import GwsError, InvalidPayload
from gws.frame import FIN, RSV1, decode_header, encode_header, mask
from gws.stream import Plain, Stream

__all__ = ["CASES", "Reading", "Writing", "check", "reads", "sends"]

KINDS = [Plain] if Stream is Plain else [Plain, Stream]
REFUSED = 0xFE  # never in UTF-8
SMALL = 16 * 1024  # bytes that both streams take up to the same border; of larger frames, one may show more

RARELY = st.sampled_from([False] * 15 + [True])
SOUND = st.sampled_from([FIN | 1, FIN | 1, FIN | 1, FIN | 2, 1, 2, 0, FIN | 0, FIN | 8, FIN | 9, FIN | 10])
SIZES = st.sampled_from([0, 1, 7, 8, 125, 126, 127, 255, 16_384, 16_385, 65_535, 65_536, 70_000, 300_000])
TEXT = st.text(max_size=40).map(str.encode)
BROKEN = "e080 eda0 f490 c080 c341 e282 e28241 f09f91 80 f080 efbfbf ed9fbf f48fbfbf fe"
ODD = [bytes.fromhex(text) for text in BROKEN.split()]
PAYLOAD = st.one_of(
    st.binary(max_size=40),
    TEXT,
    st.tuples(TEXT, st.one_of(st.sampled_from(ODD), st.binary(max_size=3)), TEXT).map(b"".join),
    st.builds(lambda size, end: b"x" * (size - len(end)) + end, SIZES, TEXT),
)
KEY = st.one_of(st.binary(min_size=4, max_size=4), st.just(bytes(4)))
# Lengths at all borders, in every form; a function of the mask's bit.
LENGTHS = st.builds(
    lambda form, length: (
        lambda bit: bytes([bit | form]) + (length % (1 << 8 * form_size(form))).to_bytes(form_size(form), "big")
    ),
    st.sampled_from([126, 127]),
    st.sampled_from([0, 1, 125, 126, 127, 65535, 65536, 65537, 1 << 20, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]),
)
CUTS = st.one_of(st.integers(0, 30), st.integers(0, 1 << 20))


def form_size(form: int) -> int:
    return 2 if form == 126 else 8


class Reading(NamedTuple):
    """What comes: `data`, cut at `cuts`, and what is done behind each piece."""

    masked: bool
    rsv: int
    limit: int
    text: bool
    refuses: bool  # whether `partial` refuses a byte that is not UTF-8
    echo: bool
    head: int  # the limit of a head that is read first; 0: there is none
    data: bytes
    cuts: list[tuple[int, str]]


class Writing(NamedTuple):
    """What is written, and when the peer takes how much of it."""

    masked: bool
    steps: list[tuple[str, Any]]


@st.composite
def wires(draw: Any, masked: bool, rsv: int = 0) -> bytes:
    """Return a frame, nearly one, or anything else."""
    if draw(RARELY):
        return draw(st.binary(max_size=20))  # type: ignore[no-any-return]
    first, payload, key = draw(SOUND), draw(PAYLOAD), draw(KEY)
    if first & 8:
        payload = payload[:125]
    elif first & 3:
        first |= draw(st.sampled_from([0, rsv]))
    if draw(RARELY):
        first = draw(st.integers(0, 255))
    masked ^= draw(RARELY)
    header = encode_header(first, len(payload), key if masked else None)
    if draw(RARELY):
        header = header[:1] + draw(LENGTHS)(0x80 * masked) + (key if masked else b"")
    return header + (mask(payload, key) if masked else payload)


HEADS = st.one_of(st.just(b"GET / HTTP/1.1\r\n\r\n"), st.text("\r\nx", max_size=40).map(str.encode))
BEHIND = st.sampled_from(["settle", "settle", "early", "late", "go on"])


@st.composite
def readings(draw: Any) -> Reading:
    masked, rsv = draw(st.booleans()), draw(st.sampled_from([0, 0, RSV1, 0x70]))
    head = draw(st.sampled_from([0, 0, 0, 0, 20, 1000]))
    data = draw(HEADS) if head else b""
    data += b"".join(draw(st.lists(wires(masked, rsv), min_size=1, max_size=6)))
    return Reading(
        masked,
        rsv,
        draw(st.sampled_from([2**20, 2**20, 2**20, 2**63 - 1, 0, 10, 126, 1000, 70_000])),
        draw(st.booleans()),
        draw(st.booleans()),
        draw(st.booleans()),
        head,
        data,
        draw(st.lists(st.tuples(CUTS, BEHIND), max_size=8)),
    )


DATA = st.one_of(st.binary(max_size=40), st.builds(bytes, SIZES), st.just(b"y" * 1_000_000))
STEPS = st.one_of(
    st.tuples(st.sampled_from(["write", "post"]), DATA),
    st.tuples(st.just("frame"), st.tuples(st.sampled_from([FIN | 1, FIN | 2, 0, FIN | 9]), DATA)),
    st.tuples(st.just("frame"), st.tuples(st.just(FIN | 1), st.one_of(st.text(max_size=40), st.just("ü" * 9000)))),
    st.tuples(st.sampled_from(["flush", "drain", "turn"]), st.none()),
    st.tuples(st.just("interrupt"), st.integers(0, 5)),
    st.tuples(st.just("take"), st.sampled_from([1, 100, 70_000, 400_000])),
)
CASES = st.one_of(readings(), readings(), st.builds(Writing, st.booleans(), st.lists(STEPS, max_size=12)))


def check(case: Reading | Writing) -> None:
    """Hold one case against the invariant."""
    if isinstance(case, Writing):
        for kind in KINDS:
            sends(kind, case)
        return
    plain, *others = [reads(kind, case) for kind in KINDS]
    for other in others:
        for i, (one, two) in enumerate(zip(plain, other)):
            assert one == two, (
                f"after piece {i}: {one!r:.300} by {KINDS[0].__module__}, {two!r:.300} by {KINDS[-1].__module__}"
            )


# ---------------------------------------------------------------------------------------------------------- reading


class Reader:
    """Reads frames on a line for as long as it can, and keeps what it gets."""

    def __init__(self, line: Line, case: Reading):
        self._line, self._case = line, case
        self.got: list[Any] = []
        self.shown = bytearray()  # of the frame at hand
        self.over = 0  # reads that have failed
        self._head = case.head
        self.begin()

    def begin(self) -> None:
        self._greenlet = self._line.spawn(self._run)

    def interrupt(self) -> None:
        if not self._greenlet.dead:
            self._line.interrupt(self._greenlet)
        if self.over < 2:
            self.begin()

    def seen(self) -> tuple[Any, ...]:
        return tuple(self.got), bytes(self.shown), bytes(self._line.taken), self._line.stream.pending

    def _run(self) -> None:
        while self.over < 2:  # what has failed once fails in the same way again
            try:
                self._read()
            except gevent.Timeout:
                return
            except (GwsError, EOFError, OSError) as error:
                self.over += 1
                self.got.append((type(error), str(error), bytes(self.shown)))

    def _read(self) -> None:
        if self._head:
            self.got.append(self._line.stream.read_head(self._head))
            self._head = 0
            return
        first, payload = self._line.stream.read_frame(self._case.limit, self._partial, self._case.text)
        if isinstance(payload, bytes):
            assert payload.startswith(bytes(self.shown))
        self.shown.clear()
        self.got.append((first, payload))
        if self._case.echo:
            self._line.stream.write_frame(first, payload)

    def _partial(self, first: int, piece: bytes) -> None:
        assert piece
        self.shown += piece
        if self._case.refuses and REFUSED in piece and len(self._case.data) <= SMALL:
            raise InvalidPayload("refused")


def reads(kind: Any, case: Reading) -> list[Any]:
    """Return what a stream has yielded after each piece."""
    seen = []
    with gevent.Timeout(30), line(kind, masked=case.masked) as it:
        it.stream.rsv = case.rsv
        reader = Reader(it, case)
        borders = sorted((cut % (len(case.data) + 1), behind) for cut, behind in case.cuts)
        begin = 0
        for end, behind in [*borders, (len(case.data), "settle")]:
            it.feed(case.data[begin:end], settle=behind in ("settle", "late"))
            begin = end
            if behind in ("early", "late"):
                reader.interrupt()
            if behind in ("settle", "late"):
                it.settle()
                seen.append(reader.seen() if case.masked else reader.seen()[:2])
        it.end()
        seen.append(reader.seen()[:2])
        if case.echo:
            frames = [each for each in reader.got if isinstance(each, tuple) and isinstance(each[0], int)]
            sent_is([("frame", each) for each in frames], it.taken, case.masked)
    return seen


# ---------------------------------------------------------------------------------------------------------- writing


def sends(kind: Any, case: Writing) -> None:
    """Write on a stream, and look at what comes out."""
    warned: list[int] = []
    asked = [step for step in case.steps if step[0] in ("write", "post", "frame")]
    with gevent.Timeout(30), line(kind, masked=case.masked) as it:
        it.stream.warn = warned.append
        tasks: list[Any] = []
        for verb, value in case.steps:
            if verb == "turn":
                turn()
            elif verb == "take":
                it.take(value)
            elif verb == "interrupt":
                if tasks and not tasks[value % len(tasks)].dead:
                    it.interrupt(tasks[value % len(tasks)])
            else:
                tasks.append(it.spawn(_quietly, begun(it, verb, value)))
        it.settle()
        assert all(task.dead for task in tasks), "somebody waits for ever"
        sent_is(asked, it.taken, case.masked)
    assert not warned or warned[-1] == 0


def begun(it: Line, verb: str, value: Any) -> Any:
    """Return a function of no arguments that does what a step asks for."""
    stream = it.stream
    if verb == "frame":
        return lambda: stream.write_frame(*value)
    return getattr(stream, verb) if value is None else lambda: getattr(stream, verb)(value)


def _quietly(verb: Any) -> None:
    try:
        verb()
    except gevent.Timeout:
        pass


def sent_is(asked: list[tuple[str, Any]], sent: bytearray, masked: bool) -> None:
    """Compare what was sent with what was asked for; a client's frames are unmasked."""
    at, data = 0, bytes(sent)
    for verb, value in asked:
        first, payload = value if verb == "frame" else (0, value)
        payload = payload.encode() if isinstance(payload, str) else payload
        if verb == "frame":
            header = decode_header(bytes((data[at] & FIN | 2,)) + data[at + 1 : at + 14], masked=not masked)
            assert header and data[at] == first and header.length == len(payload)
            at += header.size
            payload = mask(payload, header.mask) if header.mask else payload
        assert data[at : at + len(payload)] == payload
        at += len(payload)
    assert at == len(data)


if __name__ == "__main__":
    sys.exit(fuzzing.main(["twins", *sys.argv[1:]]))
