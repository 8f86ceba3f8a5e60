"""gws.message: fragments gathered into one, and messages as first bytes and payloads."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from gws.errors import InvalidPayload, MessageTooBig
from gws.frame import BINARY, FIN, RSV1, TEXT
from gws.message import Fragments, encode_message
from gws.utf8 import Utf8


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    """Leave the look out: here are bytes and values only."""


MIB = 1024 * 1024


# "The "Payload data" is text data encoded as UTF-8. ... The "Payload data" is arbitrary binary data whose
# interpretation is solely up to the application layer."  (5.6)
@pytest.mark.parametrize(
    ("message", "first", "payload"),
    [
        ("", FIN | TEXT, b""),
        ("hello", FIN | TEXT, b"hello"),
        ("Grüße \U0001f44b", FIN | TEXT, "Grüße \U0001f44b".encode()),
        (b"", FIN | BINARY, b""),
        (b"\x00\xff", FIN | BINARY, b"\x00\xff"),
        (bytearray(b"ab"), FIN | BINARY, b"ab"),
        (memoryview(b"abcd")[::2], FIN | BINARY, b"ac"),
    ],
)
def test_messages(message: Any, first: int, payload: bytes) -> None:
    assert encode_message(message) == (first, payload)
    assert type(encode_message(message)[1]) is bytes


@pytest.mark.parametrize("thing", [None, 1, 1.5, ["a"], {"a": 1}, object()])
def test_what_is_no_message(thing: Any) -> None:
    with pytest.raises(TypeError, match=f"not {type(thing).__name__}$"):
        encode_message(thing)


def test_text_that_has_no_utf_8() -> None:
    with pytest.raises(ValueError):
        encode_message("\ud800")


def test_a_later_change_does_not_reach_the_message() -> None:
    data = bytearray(b"ab")
    payload = encode_message(data)[1]
    data[0] = 0
    assert payload == b"ab"


def gather(first: int, *fragments: bytes) -> Any:
    message = Fragments(first, None, MIB, None)
    for fragment in fragments[:-1]:
        message.add(fragment, False)
    message.add(fragments[-1], True)
    return message.message()


@pytest.mark.parametrize(
    ("fragments", "whole"),
    [
        ([b""], b""),
        ([b"", b"", b""], b""),
        ([b"Hel", b"lo"], b"Hello"),
        ([b"", b"Hello", b""], b"Hello"),
        ([b"H", b"e", b"l", b"l", b"o"], b"Hello"),
    ],
)
def test_fragments(fragments: list[bytes], whole: bytes) -> None:
    # "the value of the concatenated application data is the message"  (after 5.4)
    assert gather(BINARY, *fragments) == whole
    assert type(gather(BINARY, *fragments)) is bytes
    assert gather(TEXT, *fragments) == whole.decode()


@pytest.mark.parametrize("text", ["κόσμε", "日本語", "\U0001f44b\U0010ffff"])
def test_a_character_may_be_cut_between_fragments(text: str) -> None:
    data = text.encode()
    for cut in range(len(data) + 1):
        assert gather(TEXT, data[:cut], data[cut:]) == text


def test_text_is_judged_fragment_by_fragment() -> None:
    message = Fragments(TEXT, None, MIB, None)
    message.add(b"ok\xed", False)
    with pytest.raises(InvalidPayload):
        message.add(b"\xa0", False)


def test_the_last_fragment_leaves_no_character_open() -> None:
    message = Fragments(TEXT, None, MIB, None)
    message.add("日".encode()[:2], False)
    with pytest.raises(InvalidPayload):
        message.add(b"", True)


def test_binary_is_not_judged() -> None:
    message = Fragments(BINARY, None, MIB, None)
    message.see(b"\xff")
    message.add(b"\xff\xfe", True)
    assert message.message() == b"\xff\xfe"


def test_a_fragment_is_judged_while_it_comes() -> None:
    message = Fragments(TEXT, None, MIB, None)
    message.add(b"ok", False)
    message.see("日".encode()[:1])
    message.see("日".encode()[1:2])
    with pytest.raises(InvalidPayload):
        message.see(b"\xff")


def test_what_was_seen_in_pieces_is_not_judged_again() -> None:
    message = Fragments(TEXT, None, MIB, None)
    message.see("日".encode()[:2])
    message.add("日".encode()[:2], False)
    message.add("日".encode()[2:], True)
    assert message.message() == "日"


def test_the_first_fragment_may_have_been_seen_in_pieces_before() -> None:
    judge = Utf8()
    judge.see("日".encode()[:2])
    message = Fragments(TEXT, judge, MIB, None)
    message.add("日".encode(), True)
    assert message.message() == "日"


class Doubling:
    """A compression that is easy to follow: what comes is doubled."""

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, int, bool]] = []

    def inflate(self, payload: bytes, limit: int, final: bool) -> bytes:
        self.asked.append((payload, limit, final))
        if 2 * len(payload) > limit:
            raise MessageTooBig("too big")
        return payload * 2


def test_compressed_fragments_share_one_limit() -> None:
    deflate = Doubling()
    message = Fragments(RSV1 | BINARY, None, 10, deflate)
    message.add(b"abc", False)
    message.add(b"de", True)
    assert message.message() == b"abcabcdede"
    assert deflate.asked == [(b"abc", 10, False), (b"de", 4, True)]
    late = Fragments(RSV1 | BINARY, None, 10, deflate)
    late.add(b"abc", False)
    with pytest.raises(MessageTooBig):
        late.add(b"def", False)


def test_compressed_text_is_judged_once_it_is_inflated() -> None:
    message = Fragments(RSV1 | TEXT, None, MIB, Doubling())
    message.see(b"\xff")  # these are no characters yet
    message.add(b"a", False)
    with pytest.raises(InvalidPayload):
        message.add(b"\xff", False)


def test_a_message_that_is_not_compressed_passes_by_the_compression() -> None:
    deflate = Doubling()
    message = Fragments(BINARY, None, MIB, deflate)
    message.add(b"abc", True)
    assert message.message() == b"abc"
    assert deflate.asked == []


@pytest.mark.parametrize("fragment", [b"", b"x"])
def test_many_tiny_fragments_cost_their_bytes(fragment: bytes) -> None:
    message = Fragments(BINARY, None, MIB, None)
    tracemalloc.start()
    try:
        for _ in range(20_000):
            message.add(fragment, False)
        assert tracemalloc.get_traced_memory()[0] < 2 * 20_000 * len(fragment) + 2000
    finally:
        tracemalloc.stop()
