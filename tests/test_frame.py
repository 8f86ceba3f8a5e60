"""gws.frame: RFC 6455 section 5, bytes to values and back."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gws import frame
from gws.errors import InvalidPayload, ProtocolError
from gws.frame import (
    BINARY,
    CLOSE,
    CONTINUATION,
    FIN,
    PING,
    PONG,
    RSV1,
    TEXT,
    Header,
    check_close_code,
    decode,
    decode_close,
    decode_header,
    encode,
    encode_close,
    encode_header,
    mask,
    new_mask,
    slack,
)

fuzz = settings(max_examples=200, deadline=None, derandomize=True, database=None)

MIB = 1024 * 1024
RSV2, RSV3 = 0x20, 0x10
KEY = bytes.fromhex("37fa213d")


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    """Leave the look out: here are bytes and values only, and hundreds of looks would take long."""


# ------------------------------------------------------------------------------------------- the RFC's own examples

# Section 5.7, word for word.
EXAMPLES = [
    ("a single-frame unmasked text message", "81 05 48 65 6c 6c 6f", (b"Hello", True, TEXT, b"", False)),
    (
        "a single-frame masked text message",
        "81 85 37 fa 21 3d 7f 9f 4d 51 58",
        (b"Hello", True, TEXT, b"", True),
    ),
    ("a fragmented unmasked text message (first)", "01 03 48 65 6c", (b"Hel", False, TEXT, b"", False)),
    ("a fragmented unmasked text message (last)", "80 02 6c 6f", (b"lo", True, CONTINUATION, b"", False)),
    ("unmasked Ping request", "89 05 48 65 6c 6c 6f", (b"Hello", True, PING, b"", False)),
    (
        "masked Ping response",
        "8a 85 37 fa 21 3d 7f 9f 4d 51 58",
        (b"Hello", True, PONG, b"", True),
    ),
    (
        "256 bytes binary message in a single unmasked frame",
        "82 7e 01 00" + "a5" * 256,
        (b"\xa5" * 256, True, BINARY, b"", False),
    ),
    (
        "64KiB binary message in a single unmasked frame",
        "82 7f 00 00 00 00 00 01 00 00" + "5a" * 65536,
        (b"\x5a" * 65536, True, BINARY, b"", False),
    ),
]


@pytest.mark.parametrize(("text", "wire", "values"), EXAMPLES, ids=[example[0] for example in EXAMPLES])
def test_examples_of_section_5_7(text: str, wire: str, values: tuple[bytes, bool, int, bytes, bool]) -> None:
    data = bytes.fromhex(wire)
    payload, fin, opcode, _, masked = values
    assert decode(data) == values
    if masked:
        first = opcode | (FIN if fin else 0)
        assert encode_header(first, len(payload), KEY) + mask(payload, KEY) == data
    else:
        assert encode(payload, opcode, fin=fin) == data


def test_a_frame_is_text_whole_and_unmasked_unless_told_otherwise() -> None:
    assert encode(b"") == b"\x81\x00"


# ------------------------------------------------------------------------------------------------------------ sizes

# "The length of the "Payload data", in bytes: if 0-125, that is the payload length.  If 126, the following 2 bytes
# interpreted as a 16-bit unsigned integer are the payload length.  If 127, the following 8 bytes interpreted as a
# 64-bit unsigned integer (the most significant bit MUST be 0) are the payload length. ...  Note that in all cases, the
# minimal number of bytes MUST be used to encode the length"  (5.2)
LENGTHS = [
    (0, "00"),
    (1, "01"),
    (125, "7d"),
    (126, "7e 007e"),
    (127, "7e 007f"),
    (65535, "7e ffff"),
    (65536, "7f 0000000000010000"),
    (2**32, "7f 0000000100000000"),
    (2**62, "7f 4000000000000000"),
    (2**63 - 1, "7f 7fffffffffffffff"),
]


@pytest.mark.parametrize(("length", "wire"), LENGTHS)
@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "masked"])
def test_headers(length: int, wire: str, key: bytes | None) -> None:
    data = bytearray(b"\x82" + bytes.fromhex(wire) + (key or b""))
    data[1] |= 0x80 if key else 0
    header = Header(FIN | BINARY, key, length, len(data))
    assert encode_header(FIN | BINARY, length, key) == data
    assert decode_header(data, masked=key is not None) == header
    assert decode_header(b"xyz" + data + b"rest", masked=key is not None, start=3) == header
    for size in range(len(data)):
        assert decode_header(bytes(data[:size]), masked=key is not None) is None


@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 125, 126, 127, 128, 65535, 65536, 65537])
def test_every_frame_comes_back(size: int, masked: bool) -> None:
    payload = os.urandom(size)
    data = encode(payload, BINARY, masked=masked)
    assert decode(data + b"rest") == (payload, True, BINARY, b"rest", masked)
    assert decode(data[:-1]) is None


def test_a_frame_that_is_not_whole_is_none_at_every_cut() -> None:
    data = encode(b"x" * 130, masked=True)
    assert [decode(data[:size]) for size in range(len(data))] == [None] * len(data)


@pytest.mark.parametrize("opcode", [CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG])
def test_opcodes(opcode: int) -> None:
    assert decode(encode(b"", opcode)) == (b"", True, opcode, b"", False)


@fuzz
@given(
    frames=st.lists(
        st.tuples(st.binary(max_size=300), st.sampled_from([0, 1, 2]), st.booleans(), st.booleans()), max_size=5
    )
)
def test_frames_behind_one_another(frames: list[tuple[bytes, int, bool, bool]]) -> None:
    """Invariant: what was encoded is decoded, in order, whatever follows."""
    rest = b"".join(encode(payload, opcode, masked, fin) for payload, opcode, masked, fin in frames)
    for payload, opcode, masked, fin in frames:
        decoded = decode(rest)
        assert decoded is not None
        rest = decoded[3]
        assert decoded == (payload, fin, opcode, rest, masked)
    assert rest == b""


@fuzz
@given(data=st.binary(max_size=40))
def test_any_bytes(data: bytes) -> None:
    """Invariant: any bytes are a frame, the beginning of one, or a ProtocolError."""
    with contextlib.suppress(ProtocolError):
        decoded = decode(data)
        assert decoded is None or len(decoded[0]) + len(decoded[3]) < len(data)


# ------------------------------------------------------------------------------------------------- what is refused

RESERVED = "a reserved bit is set that no extension has given a meaning (RFC 6455 section 5.2)"
FRAGMENTED = "a control frame is fragmented (RFC 6455 section 5.5)"
LONG = "a control frame is longer than 125 bytes (RFC 6455 section 5.5)"
UNMASKED = "a frame is not masked (RFC 6455 section 5.1)"
MASKED = "a frame is masked (RFC 6455 section 5.1)"
TOP_BIT = "a length has its most significant bit set (RFC 6455 section 5.2)"
NOT_SHORTEST = "a length is not in its shortest form (RFC 6455 section 5.2)"

# What is wrong shows in the last byte given here, and not before.
REFUSED = [
    # "MUST be 0 unless an extension is negotiated that defines meanings for non-zero values."  (5.2)
    *[(f"{FIN | rsv | opcode:02x}", False, RESERVED) for rsv in (RSV1, RSV2, RSV3) for opcode in (0, 1, 2, 8, 9, 10)],
    # "If an unknown opcode is received, the receiving endpoint MUST _Fail the WebSocket Connection_."  (5.2)
    *[
        (f"{fin | opcode:02x}", False, f"opcode {opcode} is reserved (RFC 6455 section 5.2)")
        for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
        for fin in (0, FIN)
    ],
    # "All control frames MUST have a payload length of 125 bytes or less and MUST NOT be fragmented."  (5.5)
    *[(f"{opcode:02x}", False, FRAGMENTED) for opcode in (CLOSE, PING, PONG)],
    *[(f"{FIN | opcode:02x} {n:02x}", False, LONG) for opcode in (CLOSE, PING, PONG) for n in (126, 127)],
    *[(f"{FIN | opcode:02x} {0x80 | n:02x}", True, LONG) for opcode in (CLOSE, PING, PONG) for n in (126, 127)],
    # "The server MUST close the connection upon receiving a frame that is not masked."  (5.1)
    *[(f"{FIN | opcode:02x} 00", True, UNMASKED) for opcode in (0, 1, 2, 8, 9, 10)],
    # "A client MUST close a connection if it detects a masked frame."  (5.1)
    *[(f"{FIN | opcode:02x} 80", False, MASKED) for opcode in (0, 1, 2, 8, 9, 10)],
    # "the minimal number of bytes MUST be used to encode the length, for example, the length of a 124-byte-long string
    # can't be encoded as the sequence 126, 0, 124"  (5.2)
    *[(f"82 7e {n:04x}", False, NOT_SHORTEST) for n in (0, 1, 124, 125)],
    *[(f"82 fe {n:04x}", True, NOT_SHORTEST) for n in (0, 1, 124, 125)],
    *[(f"82 7f {n:016x}", False, NOT_SHORTEST) for n in (0, 125, 126, 65535)],
    # "(the most significant bit MUST be 0)"  (5.2)
    *[(f"82 7f {n:016x}", False, TOP_BIT) for n in (2**63, 2**63 + 5, 2**64 - 1)],
    *[(f"82 ff {n:016x}", True, TOP_BIT) for n in (2**63, 2**63 + 5, 2**64 - 1)],
]


@pytest.mark.parametrize(("wire", "masked", "told"), REFUSED, ids=[f"{r[0]}-{'m' if r[1] else 'u'}" for r in REFUSED])
def test_headers_that_break_a_rule(wire: str, masked: bool, told: str) -> None:
    data = bytes.fromhex(wire)
    assert decode_header(data[:-1], masked=masked) is None
    for rest in (b"", b"\x00" * 20):
        with pytest.raises(ProtocolError) as refused:
            decode_header(data + rest, masked=masked)
        assert str(refused.value) == told
        assert refused.value.code == 1002
        assert len(told.encode()) <= 123  # it is the reason in our Close


def test_decode_judges_all_but_the_masking() -> None:
    with pytest.raises(ProtocolError, match="reserved"):
        decode(b"\x83\x00")


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("fin", [0, FIN])
def test_a_reserved_bit_that_an_extension_has_given_a_meaning(opcode: int, fin: int) -> None:
    first = fin | RSV1 | opcode
    assert decode_header(bytes((first, 0)), masked=False, rsv=RSV1) == Header(first, None, 0, 2)
    for other in (RSV2, RSV3):
        with pytest.raises(ProtocolError, match="reserved bit"):
            decode_header(bytes((first | other, 0)), masked=False, rsv=RSV1)


@pytest.mark.parametrize("opcode", [CONTINUATION, CLOSE, PING, PONG])
def test_it_has_one_on_the_first_frame_of_a_message_only(opcode: int) -> None:
    # "An endpoint MUST NOT set the "Per-Message Compressed" bit of control frames and non-first fragments of a data
    # message."  (RFC 7692 section 6.1)
    with pytest.raises(ProtocolError, match="reserved bit"):
        decode_header(bytes((FIN | RSV1 | opcode, 0)), masked=False, rsv=RSV1)


@pytest.mark.parametrize("limit", [0, 1, 1000, MIB])
def test_deflate_makes_nothing_longer_than_the_slack_allows(limit: int) -> None:
    for level, memory in ((0, 1), (1, 1), (9, 9)):
        deflate = zlib.compressobj(level, zlib.DEFLATED, -9, memory)
        assert len(deflate.compress(os.urandom(limit)) + deflate.flush(zlib.Z_SYNC_FLUSH)) <= limit + slack(limit)


# ---------------------------------------------------------------------------------------------------------- masking


def slow_mask(data: bytes, key: bytes) -> bytes:
    # "transformed-octet-i = original-octet-i XOR masking-key-octet-j", where "j = i MOD 4"  (5.3)
    return bytes(octet ^ key[i % 4] for i, octet in enumerate(data))


@pytest.mark.parametrize("size", [*range(71), *range(4090, 4103), 65535, 65536])
def test_masking_is_an_involution(size: int) -> None:
    data, key = os.urandom(size), os.urandom(4)
    assert mask(data, key) == slow_mask(data, key)
    assert mask(mask(data, key), key) == data


@pytest.mark.parametrize("size", [0, 5, 5000])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_masking_takes_any_bytes_and_changes_none(kind: type, size: int) -> None:
    data = kind(b"x" * size)
    assert mask(data, KEY) == slow_mask(b"x" * size, KEY)
    assert type(mask(data, KEY)) is bytes
    assert data == b"x" * size


@pytest.mark.parametrize("key", [b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"\x00\x00\x00\x01", b"\x80\x00\x00\x00"])
@pytest.mark.parametrize("size", [0, 1, 7, 4099])
def test_keys_with_zeros(key: bytes, size: int) -> None:
    data = b"\x00" * size
    assert mask(data, key) == slow_mask(data, key)


@fuzz
@given(data=st.binary(max_size=200), key=st.binary(min_size=4, max_size=4))
def test_any_mask(data: bytes, key: bytes) -> None:
    """Invariant: masking is the RFC's own formula."""
    assert mask(data, key) == slow_mask(data, key)


def test_masks_are_drawn_from_the_strong_source_in_bulk(monkeypatch: pytest.MonkeyPatch) -> None:
    # "The masking key needs to be unpredictable; thus, the masking key MUST be derived from a strong source of
    # entropy"  (5.3)
    drawn: list[bytes] = []

    def urandom(size: int) -> bytes:
        drawn.append(os.getrandom(size))
        return drawn[-1]

    while not drawn:  # use up what is there
        monkeypatch.setattr(frame.os, "urandom", urandom)
        new_mask()
    drawn.clear()
    masks = [new_mask() for _ in range(3000)]
    assert 1 <= len(drawn) <= 10
    blocks = {block[i : i + 4] for block in drawn for i in range(0, len(block), 4)}
    assert len(blocks & set(masks)) > 1900  # all but those of the block that was open before
    assert len(set(masks)) > 2990


def test_no_mask_is_drawn_twice() -> None:
    assert len({new_mask() for _ in range(5000)}) > 4980  # 4 bytes may meet by chance; a block drawn again would show


def test_a_client_s_frames_have_a_mask_each() -> None:
    # "The masking key is a 32-bit value chosen at random by the client.  When preparing a masked frame, the client MUST
    # pick a fresh masking key"  (5.3)
    assert len({encode(b"", masked=True)[2:6] for _ in range(100)}) > 95


FORKED = """
import os, sys
from gws.frame import new_mask
new_mask()
read, write = os.pipe()
child = os.fork()
masks = b"".join(new_mask() for _ in range(500))
if not child:
    os.write(write, masks)
    os._exit(0)
os.waitpid(child, 0)
other = os.read(read, 10000)
both = [{each[i : i + 4] for i in range(0, 2000, 4)} for each in (masks, other)]
sys.exit(len(both[0] & both[1]) > 5)
"""


def test_two_processes_draw_different_masks() -> None:
    subprocess.run([sys.executable, "-c", FORKED], check=True, timeout=30)


def test_a_platform_that_does_not_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "register_at_fork")
    spec = importlib.util.spec_from_file_location("gws.frame_again", frame.__file__)
    assert spec is not None
    assert spec.loader is not None
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    assert len(again.new_mask()) == 4


def test_the_last_mask_may_go_to_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    class Contested(list):  # type: ignore[type-arg]
        """A pool that looks full, and is empty once one takes from it."""

        def __bool__(self) -> bool:
            return True

    monkeypatch.setattr(frame, "_masks", Contested())
    assert len(new_mask()) == 4


# ------------------------------------------------------------------------------------------ the payload of a Close

# Section 7.4.1; 7.4.2 for the ranges; IANA's registry for 1012 to 1014.
MAY_BE_SENT = [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3001, 3999, 4000, 4999]
MAY_NOT = [-1, 0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 1999, 2000, 2999, 5000, 9999, 65535, 65536, 2**40]


@pytest.mark.parametrize("code", MAY_BE_SENT)
def test_codes_that_may_be_sent(code: int) -> None:
    assert check_close_code(code)
    assert encode_close(code, "why") == code.to_bytes(2, "big") + b"why"
    assert encode_close(code) == code.to_bytes(2, "big")
    assert decode_close(encode_close(code, "why")) == (code, "why")
    assert decode_close(encode_close(code)) == (code, "")


@pytest.mark.parametrize("code", MAY_NOT)
def test_codes_that_may_not(code: int) -> None:
    # "1005 is a reserved value and MUST NOT be set as a status code in a Close control frame by an endpoint."  (7.4.1)
    assert not check_close_code(code)
    with pytest.raises(ValueError, match="a Close may not carry the code"):
        encode_close(code, "why")
    if 0 <= code < 65536:
        with pytest.raises(ProtocolError, match=f"a Close holds the invalid code {code} ") as refused:
            decode_close(code.to_bytes(2, "big") + b"why")
        assert refused.value.code == 1002


def test_1005_stands_for_no_code_at_all() -> None:
    # "1005 ... is designated for use in applications expecting a status code to indicate that no status code was
    # actually present."  (7.4.1)
    assert encode_close(1005) == b""
    assert decode_close(b"") == (1005, "")


def test_a_single_byte_is_no_code() -> None:
    # "If there is a body, the first two bytes of the body MUST be a 2-byte unsigned integer"  (5.5.1)
    with pytest.raises(ProtocolError, match="single byte"):
        decode_close(b"\x03")


@pytest.mark.parametrize("reason", ["", "Grüße", "日本", "\U0001f44b", "x" * 123, "é" * 61 + "x"])
def test_reasons(reason: str) -> None:
    assert decode_close(encode_close(1000, reason)) == (1000, reason)
    assert len(encode_close(1000, reason)) <= 125


@pytest.mark.parametrize("reason", ["x" * 124, "é" * 62, "\U0001f44b" * 31])
def test_reasons_that_are_too_long(reason: str) -> None:
    with pytest.raises(ValueError, match=f"at most 123 bytes of UTF-8, not {len(reason.encode())}"):
        encode_close(1000, reason)


def test_a_reason_that_is_no_text() -> None:
    with pytest.raises(ValueError):
        encode_close(1000, "\ud800")


@pytest.mark.parametrize("text", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\x80", b"ok\xe2\x82"])
def test_a_reason_that_is_not_utf_8(text: bytes) -> None:
    # "Following the 2-byte integer, the body MAY contain UTF-8-encoded data with value /reason/"  (5.5.1)
    with pytest.raises(InvalidPayload) as refused:
        decode_close(b"\x03\xe8" + text)
    assert refused.value.code == 1007
