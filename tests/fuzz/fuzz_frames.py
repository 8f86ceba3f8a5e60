"""Invariant: gws takes from any bytes the messages and pings that an independent implementation takes, and ends alike.

wsproto is asked where there is no compression, for it is strict to the letter; else, and where a message is limited,
the sans-I/O layer of websockets, whose text is decoded here.   The differences that there may be are in EXCUSES.
"""

from __future__ import annotations

import codecs
import re
import sys
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import fuzzing
import gevent
import wsproto.connection
import wsproto.events
from fuzz_twins import CUTS, KEY, KINDS, PAYLOAD, TEXT, wires
from hypothesis import strategies as st
from line import line
from websockets.exceptions import PayloadTooBig
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Opcode
from websockets.protocol import CLIENT, OPEN, SERVER, Protocol

from gws.deflate import Compression, Deflate, Parameters
from gws.errors import ConnectionClosed
from gws.frame import BINARY, CLOSE, FIN, PING, PONG, RSV1, decode_close, decode_header, encode_header, mask
from gws.frame import TEXT as TEXT_FRAME
from gws.websocket import Limits, WebSocket

__all__ = ["CASES", "EXCUSES", "check"]

MIB = 1 << 20
NO_CLOSE = 1006
CODES = [
    999,
    1000,
    1001,
    1002,
    1003,
    1004,
    1005,
    1006,
    1007,
    1011,
    1012,
    1013,
    1014,
    1015,
    1016,
    2999,
    3000,
    4999,
    5000,
]

# What gws says of an end, what the oracle says of it, and why both may stand.
EXCUSES = [
    (
        "1002 (a length is not in its short|a control frame is long)",
        "",
        "websockets takes lengths in any form (RFC 6455 section 5.2)",
    ),
    ("1002", "1009", "websockets looks at a length before it looks at what else is wrong with the frame"),
    ("1007 cannot inflate", "1002", "websockets has no code of its own for a broken DEFLATE stream"),
    ("1007 too many final DEFLATE blocks", "", "websockets knows no final blocks"),
    ("", r"1009 frame with \d{1,3} bytes", "websockets counts control frames too, and what stands before them"),
    ("1002 a Close holds the invalid code", "1007", "websockets decodes a reason before it looks at the code"),
    ("", "1002 incomplete fragmented message", "websockets wants no Close between fragments, which 5.4 allows"),
    ("1006", "1009", "websockets judges a length before the mask behind it is here"),
    ("1007 a text", "1002 expected a cont", "websockets looks at the sequence of frames before it looks at the text"),
    ("1009", "", "wsproto knows no limit"),
    ("1006", "1002 ! expected CONT", "wsproto does not wait until a text that comes where none may begin is whole"),
    ("1007 a text", "1002 ! expected CONT", "wsproto looks at the sequence of frames before it looks at the text"),
    ("1014|1007 a close", "1002 ! CLOSE with unknown reserved", "wsproto does not know what IANA has registered since"),
]

SOMETIMES = st.sampled_from([False] * 4 + [True])


class Talk(NamedTuple):
    """What comes to a `server` or a client, and where it is cut."""

    server: bool
    compressed: bool
    limit: int
    data: bytes
    cuts: list[int]


class Outcome(NamedTuple):
    """What was made of it: `end` is the code of the Close that is owed, and the reason if something was wrong."""

    messages: list[str | bytes]
    pings: list[bytes]
    end: str


# -------------------------------------------------------------------------------------------------------- the cases


def frame(first: int, payload: bytes, key: bytes | None) -> bytes:
    return encode_header(first, len(payload), key) + (mask(payload, key) if key else payload)


def pieces(payload: bytes, cuts: Iterable[int]) -> list[bytes]:
    borders = [0, *sorted(cut % (len(payload) + 1) for cut in cuts), len(payload)]
    return [payload[begin:end] for begin, end in zip(borders, borders[1:])]


@st.composite
def messages(draw: Any, server: bool, deflater: Any) -> Iterator[bytes]:
    """Return the frames of one message, with pings between them."""
    opcode, payload = draw(st.sampled_from([TEXT_FRAME, TEXT_FRAME, BINARY])), draw(PAYLOAD)
    if deflater is not None and draw(st.booleans()):
        opcode |= RSV1
        payload = (deflater.compress(payload) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]
    parts = pieces(payload, draw(st.lists(st.integers(0, 1 << 20), max_size=3)))
    data = b""
    for i, part in enumerate(parts):
        first = (FIN if i == len(parts) - 1 else 0) | (0 if i else opcode)
        data += frame(first, part, draw(KEY) if server else None)
        if draw(SOMETIMES):
            data += frame(
                FIN | draw(st.sampled_from([PING, PONG])), draw(st.binary(max_size=5)), draw(KEY) if server else None
            )
    return data


@st.composite
def closes(draw: Any, server: bool) -> bytes:
    code = draw(st.one_of(st.sampled_from(CODES), st.integers(0, 65535)))
    payload = draw(st.sampled_from([b"", b"\x03", code.to_bytes(2, "big"), code.to_bytes(2, "big")]))
    payload += draw(st.one_of(st.just(b""), TEXT, st.binary(max_size=9))) if len(payload) == 2 else b""
    return frame(FIN | CLOSE, payload[:125], draw(KEY) if server else None)


@st.composite
def talks(draw: Any) -> Talk:
    server, compressed = draw(st.booleans()), draw(st.booleans())
    deflater = zlib.compressobj(wbits=-15) if compressed else None
    data = b""
    for _ in range(draw(st.integers(1, 5))):
        part = messages(server, deflater)
        data += draw(st.one_of(part, part, part, wires(server), closes(server)))
    if draw(SOMETIMES):
        data = data[: draw(st.integers(0, len(data)))]
    limit = draw(st.sampled_from([MIB, MIB, 1, 20, 126, 70_000]))
    return Talk(server, compressed, limit, data, draw(st.lists(CUTS, max_size=6)))


CASES = talks()


def check(talk: Talk) -> None:
    """Hold one conversation against the invariant."""
    judge = Websockets(talk) if talk.compressed or talk.limit < MIB else Wsproto(talk)
    judge.hear(talk.data)
    theirs = judge.outcome()
    for kind in KINDS:
        ours = heard(kind, talk)
        if ours != theirs and theirs.end == str(NO_CLOSE):  # gws may judge what has not come whole
            judge.hear_zeros()
            theirs = judge.outcome()
        if ours != theirs:
            excuse = excused(ours, theirs, judge)
            assert excuse, f"{ours} by {kind.__module__}, but {theirs} by {type(judge).__name__}"
            n = min(len(ours.messages), len(theirs.messages))
            assert ours.messages[:n] == theirs.messages[:n], excuse


def excused(ours: Outcome, theirs: Outcome, judge: Any) -> str:
    """Return why two outcomes may differ, or "" if nothing is known."""
    if same_code(ours.end, theirs.end) and ours[:2] == theirs[:2]:
        return "each has its own words"
    if ours.end.startswith("1007 a text") and is_half_a_surrogate(judge.decoder()):
        return "Python puts off its verdict on half a surrogate until the third byte, which cannot mend it"
    if judge.lost:
        return "websockets drops what follows a final DEFLATE block (RFC 7692 section 7.2.3.4)"
    if theirs.end.startswith("1009") and judge.deflated:
        return "a compressed message may be a little longer than what it holds"
    for mine, other, why in EXCUSES:
        if why.startswith(type(judge).__name__.lower()) and re.match(mine, ours.end) and re.match(other, theirs.end):
            return why
    return ""


def is_half_a_surrogate(decoder: Any) -> bool:
    return decoder is not None and b"\xed\xa0" <= decoder.getstate()[0] <= b"\xed\xbf"


def same_code(one: str, other: str) -> bool:
    return one.split()[:1] == other.split()[:1]


# -------------------------------------------------------------------------------------------------------------- gws


class Owner:
    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []

    def told(self, fd: WebSocket, event: str, value: Any) -> None:
        self.heard.append((event, value))


def heard(kind: Any, talk: Talk) -> Outcome:
    """Return what a WebSocket on this kind of stream makes of it."""
    owner, messages = Owner(), []
    with gevent.Timeout(30), line(kind, masked=talk.server) as it:
        fd = WebSocket(it.stream, owner, Limits(max_message=talk.limit), server=talk.server)
        if talk.compressed:
            fd.deflate = Deflate(Parameters(), Compression(), server=talk.server)
        fd.opened()
        ends: list[ConnectionClosed] = []
        it.spawn(_listen, fd, messages, ends)
        for piece in pieces(talk.data, talk.cuts):
            it.feed(piece)
        it.end()
        assert fd.closed
        assert not it.stream.pending
    answers = list(frames(bytes(it.taken), masked=not talk.server))
    pongs = [payload for first, payload in answers if first == FIN | PONG]
    assert pongs == [value for event, value in owner.heard if event == "ping"]
    return Outcome(messages, pongs, _end([payload for first, payload in answers if first == FIN | CLOSE], ends[0]))


def _listen(fd: WebSocket, messages: list[Any], ends: list[Any]) -> None:
    try:
        while True:
            messages.append(fd.read())
    except ConnectionClosed as end:
        ends.append(end)


def _end(closes: list[bytes], end: ConnectionClosed) -> str:
    """Return what the one Close said; what the reader was told has to fit it."""
    assert len(closes) < 2
    if not closes:
        assert end.code == NO_CLOSE
        return str(NO_CLOSE)
    code, reason = decode_close(closes[0])
    assert end.code == code
    return f"{code} {reason}".strip()


def frames(data: bytes, *, masked: bool) -> Iterator[tuple[int, bytes]]:
    """Decode what gws has sent: whole frames, one behind the other."""
    at = 0
    while at < len(data):
        header = decode_header(data, masked=masked, start=at)
        assert header
        at += header.size
        payload = data[at : at + header.length]
        assert len(payload) == header.length
        at += header.length
        yield header.first, mask(payload, header.mask) if header.mask else payload


# ------------------------------------------------------------------------------------------------------ the oracles


class Wsproto:
    """wsproto: strict, and judges text as it comes."""

    lost = deflated = False

    def __init__(self, talk: Talk):
        side = wsproto.connection.SERVER if talk.server else wsproto.connection.CLIENT
        self._connection = wsproto.connection.Connection(side)
        self._message: list[Any] = []
        self._messages: list[Any] = []
        self._pings: list[bytes] = []
        self._end = str(NO_CLOSE)
        self._frames = 0

    def hear(self, data: bytes) -> None:
        if self._end != str(NO_CLOSE):
            return
        self._connection.receive_data(data)
        for event in self._connection.events():
            self._take(event)

    def hear_zeros(self) -> None:
        """Hear zeros, until the header at hand is whole and judged, or the frame is over."""
        frames = self._frames
        for _ in range(140):
            if self._end == str(NO_CLOSE) and self._frames == frames:
                self.hear(b"\0")

    def outcome(self) -> Outcome:
        return Outcome(self._messages, self._pings, self._end)

    def decoder(self) -> Any:
        return self._connection._proto._message_decoder.decoder

    def _take(self, event: Any) -> None:
        self._frames += getattr(event, "frame_finished", True)
        match event:
            case wsproto.events.Message():
                self._message.append(event.data)
                if event.message_finished:
                    self._messages.append(type(event.data)().join(self._message))
                    self._message = []
            case wsproto.events.Ping():
                self._pings.append(bytes(event.payload))
            case wsproto.events.CloseConnection():
                wrong = self._connection.state is wsproto.connection.ConnectionState.OPEN
                self._end = f"{int(event.code)} {'! ' * wrong}{event.reason or ''}".strip()


class Websockets:
    """The sans-I/O layer of websockets: knows compression and a limit; judges whole frames."""

    def __init__(self, talk: Talk):
        self._protocol = Protocol(SERVER if talk.server else CLIENT, state=OPEN, max_size=talk.limit)
        self._deflate = PerMessageDeflate(False, False, 15, 15)
        if talk.compressed:
            self._protocol.extensions = [self._deflate]
        self._limit = talk.limit
        self._decoder: Any = None
        self._message: list[Any] = []
        self._messages: list[Any] = []
        self._pings: list[bytes] = []
        self._end = str(NO_CLOSE)
        self._frames = 0
        self.lost = False
        self.deflated = talk.compressed

    def hear(self, data: bytes) -> None:
        if self._end != str(NO_CLOSE):
            return
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if self._end == str(NO_CLOSE):
                self._take(event)
        self.lost |= bool(self._deflate.decoder.eof)
        error = self._protocol.parser_exc
        if error is not None and self._end == str(NO_CLOSE):
            self._end = f"{1009 if isinstance(error, PayloadTooBig) else 1007 if isinstance(error, UnicodeDecodeError) else 1002} {error}"

    def hear_zeros(self) -> None:
        frames = self._frames
        for step in [1] * 2000 + [1000] * (MIB // 1000):
            if self._end == str(NO_CLOSE) and self._frames == frames:
                self.hear(bytes(step))

    def outcome(self) -> Outcome:
        return Outcome(self._messages, self._pings, self._end)

    def decoder(self) -> Any:
        return self._decoder

    def _take(self, event: Any) -> None:
        self._frames += 1
        if event.opcode is Opcode.PING:
            self._pings.append(bytes(event.data))
        elif event.opcode is Opcode.CLOSE:
            close = self._protocol.close_rcvd
            assert close
            self._end = f"{int(close.code)} {close.reason}".strip()
        elif event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            self._add(event)

    def _add(self, event: Any) -> None:
        if event.opcode is Opcode.TEXT:
            self._decoder = codecs.getincrementaldecoder("utf-8")()
        elif event.opcode is Opcode.BINARY:
            self._decoder = None
        data = bytes(event.data)
        try:
            self._message.append(self._decoder.decode(data, event.fin) if self._decoder else data)
        except UnicodeDecodeError as error:
            self._end = f"1007 {error}"
            return
        if event.fin:
            self._messages.append(("" if self._decoder else b"").join(self._message))
            self._message = []


if __name__ == "__main__":
    sys.exit(fuzzing.main(["frames", *sys.argv[1:]]))
