"""gws.utf8: text that is none is refused at the first byte that shows it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gws.errors import InvalidPayload
from gws.utf8 import Utf8, decode, not_utf8

fuzz = settings(max_examples=200, deadline=None, derandomize=True, database=None)


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    """Leave the look out: here are bytes and values only."""


TEXTS = [
    "",
    "a",
    "κόσμε",
    "Grüße",
    "日本語",
    "\U0001f44b\U0010ffff",
    "\x00\x7f\x80\u07ff\u0800\uffff\U00010000",
    "\ufeffx",
]


@pytest.mark.parametrize("text", TEXTS)
def test_text_cut_at_any_byte(text: str) -> None:
    data = text.encode()
    assert decode(data) == decode(bytearray(data)) == text
    for cut in range(len(data) + 1):
        judge = Utf8()
        seen = judge.see(data[:cut])
        assert seen + judge.see(data[cut:], final=True) == text
        assert judge.seen == len(data)
    bytewise = Utf8()
    for i in range(len(data)):
        bytewise.see(data[i : i + 1])
    bytewise.see(b"", final=True)


# (what is here, which byte is the first that no text has in this place), after RFC 3629 section 4:
#   UTF8-2 = %xC2-DF UTF8-tail
#   UTF8-3 = %xE0 %xA0-BF UTF8-tail / %xE1-EC 2( UTF8-tail ) / %xED %x80-9F UTF8-tail / %xEE-EF 2( UTF8-tail )
#   UTF8-4 = %xF0 %x90-BF 2( UTF8-tail ) / %xF1-F3 3( UTF8-tail ) / %xF4 %x80-8F 2( UTF8-tail )
BROKEN = [
    ("80", 0),  # a tail without a head
    ("bf", 0),
    ("c0 80", 0),  # longer than it need be: a hidden NUL
    ("c1 bf", 0),
    ("c2 41", 1),  # a tail is missing
    ("c3 c3", 1),
    ("e0 80 80", 1),
    ("e0 9f bf", 1),
    ("e1 80 41", 2),
    ("ed a0 80", 1),  # "prohibits encoding character numbers between U+D800 and U+DFFF"  (RFC 3629 section 3)
    ("ed bf bf", 1),
    ("f0 80 80 80", 1),
    ("f0 8f bf bf", 1),
    ("f1 80 80 41", 3),
    ("f4 90 80 80", 1),  # beyond U+10FFFF
    ("f5 80 80 80", 0),
    ("f8 88 80 80 80", 0),
    ("fe", 0),
    ("ff", 0),
    ("ce ba e1 bd b9 cf 83 ce bc ce b5 ed a0 80 65 64 69 74 65 64", 12),  # Autobahn 6.3.1
    ("ce ba e1 bd b9 cf 83 ce bc ce b5 f4 90 80 80 65 64 69 74 65 64", 12),  # Autobahn 6.4.1
]


@pytest.mark.parametrize(("wire", "bad"), BROKEN)
def test_what_is_no_text_is_refused_at_once(wire: str, bad: int) -> None:
    # "When an endpoint is to interpret a byte stream as UTF-8 but finds that the byte stream is not, in fact, a valid
    # UTF-8 stream, that endpoint MUST _Fail the WebSocket Connection_."  (section 8.1)
    data = bytes.fromhex(wire)
    judge = Utf8()
    for i in range(bad):
        judge.see(data[i : i + 1])
    with pytest.raises(InvalidPayload):
        judge.see(data[bad : bad + 1])
    with pytest.raises(InvalidPayload) as refused:
        decode(data)
    assert refused.value.code == 1007
    assert str(refused.value) == str(not_utf8()) == "a text message is not UTF-8 (RFC 6455 section 8.1)"


@pytest.mark.parametrize("wire", ["c2", "e1", "e1 80", "f1", "f1 80", "f1 80 80", "61 f4 8f"])
def test_a_character_may_be_open_between_pieces_but_not_at_the_end(wire: str) -> None:
    data = bytes.fromhex(wire)
    judge = Utf8()
    judge.see(data)
    judge.see(b"")
    with pytest.raises(InvalidPayload):
        judge.see(b"", final=True)
    with pytest.raises(InvalidPayload):
        decode(data)


@fuzz
@given(data=st.binary(max_size=20), cuts=st.lists(st.integers(0, 20), max_size=4))
def test_any_bytes_in_any_pieces(data: bytes, cuts: list[int]) -> None:
    """Invariant: however it is cut, what is judged sound is what Python decodes."""
    try:
        text: str | None = data.decode()
    except UnicodeDecodeError:
        text = None
    judge = Utf8()
    borders = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    try:
        got = "".join(judge.see(data[a:b]) for a, b in itertools.pairwise(borders)) + judge.see(b"", final=True)
    except InvalidPayload:
        assert text is None
    else:
        assert got == text


def test_the_rest_of_a_frame_that_was_seen_in_pieces() -> None:
    payload = "日本語".encode()
    judge = Utf8()
    judge.see(payload[:4])
    judge.see_rest(payload, final=False)  # judges no byte twice: the second byte of 本 would be no text
    assert judge.seen == 0
    judge.see_rest(b"\xe8", final=False)
    judge.see_rest(b"\xaa\x9e", final=True)


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_the_rest_may_show_that_it_is_none(cut: int) -> None:
    judge = Utf8()
    judge.see(b"ab"[:cut])
    with pytest.raises(InvalidPayload):
        judge.see_rest(b"ab\xff", final=False)
