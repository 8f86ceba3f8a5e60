"""gws.message: fragments gathered into one, and messages as first bytes and payloads."""

from __future__ import annotations

import contextlib
import tracemalloc
from typing import Any

import pytest
from by_hand import deflated

from gws.deflate import Compression, Deflate, Parameters
from gws.errors import InvalidPayload, MessageTooBig
from gws.frame import BINARY, FIN, TEXT
from gws.message import Fragments, Packed, encode_message
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
    message = Fragments(first, None, MIB)
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
    message = Fragments(TEXT, None, MIB)
    message.add(b"ok\xed", False)
    with pytest.raises(InvalidPayload):
        message.add(b"\xa0", False)


def test_the_last_fragment_leaves_no_character_open() -> None:
    message = Fragments(TEXT, None, MIB)
    message.add("日".encode()[:2], False)
    with pytest.raises(InvalidPayload):
        message.add(b"", True)


def test_binary_is_not_judged() -> None:
    message = Fragments(BINARY, None, MIB)
    message.see(b"\xff")
    message.add(b"\xff\xfe", True)
    assert message.message() == b"\xff\xfe"


def test_a_fragment_is_judged_while_it_comes() -> None:
    message = Fragments(TEXT, None, MIB)
    message.add(b"ok", False)
    message.see("日".encode()[:1])
    message.see("日".encode()[1:2])
    with pytest.raises(InvalidPayload):
        message.see(b"\xff")


def test_what_was_seen_in_pieces_is_not_judged_again() -> None:
    message = Fragments(TEXT, None, MIB)
    message.see("日".encode()[:2])
    message.add("日".encode()[:2], False)
    message.add("日".encode()[2:], True)
    assert message.message() == "日"


def test_the_first_fragment_may_have_been_seen_in_pieces_before() -> None:
    judge = Utf8()
    judge.see("日".encode()[:2])
    message = Fragments(TEXT, judge, MIB)
    message.add("日".encode(), True)
    assert message.message() == "日"


DEFLATE = Parameters()


def packed(first: int, limit: int = MIB, deflate: Deflate | None = None) -> Packed:
    return Packed(first, None, limit, deflate or Deflate(DEFLATE, Compression(), server=True))


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("parameters", [DEFLATE, Parameters(client_no_context_takeover=True)])
def test_compressed_fragments(size: int, parameters: Parameters) -> None:
    deflate = Deflate(parameters, Compression(), server=True)
    peer = Deflate(parameters, Compression(), server=False)
    for text in ("so it goes. " * 5000, "so it goes, and " * 9000):  # the second may refer to the first
        message = packed(TEXT, deflate=deflate)
        *first, last = pieces(peer.deflate(text.encode()), size)
        for piece in first:
            message.add(piece, False)
        message.add(last, True)
        assert message.message() == text
        data = peer.deflate(text.encode())
        assert deflate.inflate(data, MIB, True) == text.encode()  # the window is where it has to be


def test_compressed_fragments_share_one_limit() -> None:
    data = deflated(b"a" * 100)
    for limit in (99, 100):
        message = packed(BINARY, limit)
        message.add(data[:2], False)
        with contextlib.nullcontext() if limit == 100 else pytest.raises(MessageTooBig):
            message.add(data[2:], True)
    assert message.message() == b"a" * 100


def test_too_much_shows_at_the_fragment_that_brings_it() -> None:
    message = packed(BINARY)
    with pytest.raises(MessageTooBig):
        message.add(deflated(bytes(2 * MIB)), False)
    assert message.size <= MIB + 16 * 1024  # it went no farther


def test_compressed_text_is_judged_at_the_fragment_that_shows_it() -> None:
    message = packed(TEXT)
    message.see(b"\xff")  # these are no characters yet
    message.add(deflated("日".encode()[:2]) + b"\0\0\xff\xff", False)
    with pytest.raises(InvalidPayload):
        message.add(deflated(b"\xff") + b"\0\0\xff\xff", False)


def test_compressed_text_leaves_no_character_open() -> None:
    message = packed(TEXT)
    message.add(deflated("日".encode()[:2]), False)
    with pytest.raises(InvalidPayload):
        message.add(b"", True)


def test_what_is_no_deflate_stream_shows_at_once() -> None:
    message = packed(BINARY)
    with pytest.raises(InvalidPayload):
        message.add(b"\xff" * 100, False)


def test_an_unfinished_message_costs_what_was_sent() -> None:
    payload = deflated(bytes(MIB - 1))
    messages = [packed(BINARY) for _ in range(50)]
    tracemalloc.start()
    try:
        for message in messages:
            message.add(payload, False)
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held / len(messages) < 64 * 1024  # most of that is the window, which the peer may refer to


class Interrupted(BaseException):
    pass


def test_a_pause_that_is_interrupted_loses_nothing() -> None:
    text = "so it goes. " * 9000
    payload = deflated(text.encode())
    paused = []

    def pause() -> None:
        paused.append(True)
        if len(paused) == 1:
            raise Interrupted

    message = packed(TEXT)
    with pytest.raises(Interrupted):
        message.add(payload, True, pause)
    message.add(payload, True, pause)
    assert message.message() == text
    assert len(paused) == 1


def test_what_is_small_does_not_pause() -> None:
    message = packed(TEXT)
    message.add(deflated(b"hello"), True, lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    assert message.message() == "hello"


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_who_has_to_wait_with_a_first_fragment_holds_no_inflater(opcode) -> None:
    text = "so it goes. ½ " * 9000
    payload = deflated(text.encode())
    message = packed(opcode)
    held = []

    def pause() -> None:
        message.shed()
        held.append((message._deflate._inflater, message._looking, message.size))

    message.add(payload[:2000], False, pause)
    assert held == [(None, None, 0)]
    message.add(payload[2000:], True, message.shed)  # what came before is not to be had anew: nothing is dropped
    assert message.message() == (text if opcode == TEXT else text.encode())
