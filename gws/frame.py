"""One frame of RFC 6455 section 5, bytes to values and back; masking; the payload of a Close.

Knows nothing of sockets, of sequences of frames, or of extensions (it is told which reserved bits have a meaning).
What a frame shows by itself is judged here, as soon as its header is whole; what only a sequence of frames shows is
judged in `websocket`.

      0               1               2               3
     +-+-+-+-+-------+-+-------------+-------------------------------+
     |F|R|R|R| opcode|M| length 7    |  length 16, or 64, if the     |
     |I|S|S|S|  (4)  |A|             |  first was 126, or 127        |
     |N|V|V|V|       |S|             |                               |
     | |1|2|3|       |K|             |  then the mask, 4 bytes       |
     +-+-+-+-+-------+-+-------------+-------------------------------+
     |<- `first` --->|
"""

from __future__ import annotations

import os
from typing import NamedTuple

from gws.errors import InvalidPayload, ProtocolError

__all__ = [
    "BINARY",
    "CLOSE",
    "CONTINUATION",
    "FIN",
    "PING",
    "PONG",
    "RSV1",
    "TEXT",
    "Header",
    "check_close_code",
    "decode",
    "decode_close",
    "decode_header",
    "encode",
    "encode_close",
    "encode_header",
    "mask",
    "new_mask",
    "slack",
]

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
FIN, RSV1, RSV2, RSV3 = 0x80, 0x40, 0x20, 0x10

_OPCODES = frozenset({CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG})
_MASK_BIT = 0x80
_CONTROL_BIT = 0x08
_MAX_CONTROL = 125
_MAX_REASON = 123


class Header(NamedTuple):
    """What stands before a payload: `first` is the first byte (FIN, RSV, opcode), `size` the header's own length."""

    first: int
    mask: bytes | None
    length: int
    size: int


# ------------------------------------------------------------------------------------------------- whole frames


def encode(payload: bytes, opcode: int = TEXT, masked: bool = False, fin: bool = True) -> bytes:
    """Encode one frame; `masked` as a client must, with a fresh mask."""
    first = opcode | (FIN if fin else 0)
    if not masked:
        return encode_header(first, len(payload)) + payload
    key = new_mask()
    return encode_header(first, len(payload), key) + mask(payload, key)


def decode(data: bytes) -> tuple[bytes, bool, int, bytes, bool] | None:
    """Decode the first frame in `data`: (payload, fin, opcode, rest, masked), or None while it is not whole.

    Raises ProtocolError for a header that breaks section 5; says, but does not judge, whether it was masked.
    """
    masked = len(data) > 1 and bool(data[1] & _MASK_BIT)
    header = decode_header(data, masked=masked)
    if header is None or len(data) < header.size + header.length:
        return None
    payload, rest = data[header.size : header.size + header.length], data[header.size + header.length :]
    if header.mask is not None:
        payload = mask(payload, header.mask)
    return payload, bool(header.first & FIN), header.first & 0x0F, rest, masked


# ------------------------------------------------------------------------------------------------------ headers


def encode_header(first: int, length: int, key: bytes | None = None) -> bytes:
    """Encode a header; `key` is the mask, if the payload is masked with one."""
    bit = 0 if key is None else _MASK_BIT
    if length < 126:
        header = bytes((first, bit | length))
    elif length < 0x10000:
        header = bytes((first, bit | 126)) + length.to_bytes(2, "big")
    else:
        header = bytes((first, bit | 127)) + length.to_bytes(8, "big")
    return header if key is None else header + key


def decode_header(data: bytes | bytearray, *, masked: bool, rsv: int = 0, start: int = 0) -> Header | None:
    """Decode and judge the header at `start`, or return None while it is not whole.

    `masked` is what the peer owes us; `rsv` holds the reserved bits that an extension has given a meaning (on the
    first frame of a message).   Raises ProtocolError, as early as the bytes show it.
    """
    have = len(data) - start
    if have < 1:
        return None
    _check_first(data[start], rsv)
    if have < 2:
        return None
    first, second = data[start], data[start + 1]
    _check_second(first, second, masked)
    short = second & 0x7F
    size = 2 if short < 126 else 4 if short == 126 else 10
    if have < size:
        return None
    length = short if size == 2 else _long_length(int.from_bytes(data[start + 2 : start + size], "big"), size)
    if not masked:
        return Header(first, None, length, size)
    if have < size + 4:
        return None
    return Header(first, bytes(data[start + size : start + size + 4]), length, size + 4)


def _check_first(first: int, rsv: int) -> None:
    opcode = first & 0x0F
    # "MUST be 0 unless an extension is negotiated that defines meanings for non-zero values."  (5.2)
    if first & 0x70:
        allowed = rsv if opcode in (TEXT, BINARY) else 0
        if first & 0x70 & ~allowed:
            raise ProtocolError("a reserved bit is set that no extension has given a meaning (RFC 6455 section 5.2)")
    # "If an unknown opcode is received, the receiving endpoint MUST _Fail the WebSocket Connection_."  (5.2)
    if opcode not in _OPCODES:
        raise ProtocolError(f"opcode {opcode} is reserved (RFC 6455 section 5.2)")
    # "All control frames ... MUST NOT be fragmented."  (5.5)
    if opcode & _CONTROL_BIT and not first & FIN:
        raise ProtocolError("a control frame is fragmented (RFC 6455 section 5.5)")


def _check_second(first: int, second: int, masked: bool) -> None:
    # "a client MUST mask all frames that it sends to the server ... A server MUST NOT mask any frames that it
    # sends to the client."  (5.1)
    if bool(second & _MASK_BIT) != masked:
        raise ProtocolError(f"a frame is {'not ' if masked else ''}masked (RFC 6455 section 5.1)")
    # "All control frames MUST have a payload length of 125 bytes or less"  (5.5)
    if first & _CONTROL_BIT and second & 0x7F > _MAX_CONTROL:
        raise ProtocolError("a control frame is longer than 125 bytes (RFC 6455 section 5.5)")


def _long_length(length: int, size: int) -> int:
    # "the most significant bit MUST be 0"  (5.2)
    if length >> 63:
        raise ProtocolError("a length has its most significant bit set (RFC 6455 section 5.2)")
    # "in all cases, the minimal number of bytes MUST be used to encode the length"  (5.2)
    if length < (126 if size == 4 else 0x10000):
        raise ProtocolError("a length is not in its shortest form (RFC 6455 section 5.2)")
    return length


def slack(limit: int) -> int:
    """Return by how many bytes a payload may exceed `limit` on the wire where RSV1 has given it another form.

    DEFLATE makes what it cannot compress longer; by zlib's own bound an eighth at the worst.
    """
    return limit // 8 + 1024


# ------------------------------------------------------------------------------------------------------ masking

_XOR = tuple(bytes(i ^ j for j in range(256)) for i in range(256))
_TRANSLATE_FROM = 4096  # bytes from which four translations are faster than one big integer (measured)


def mask(data: bytes | bytearray | memoryview, key: bytes) -> bytes:
    """Apply `key` to `data`; this is an involution: applied again, it unmasks (section 5.3)."""
    size = len(data)
    if size < _TRANSLATE_FROM:
        keys = (key * (size // 4 + 1))[:size]
        return (int.from_bytes(data, "little") ^ int.from_bytes(keys, "little")).to_bytes(size, "little")
    result = bytearray(data)
    for i in range(4):
        result[i::4] = result[i::4].translate(_XOR[key[i]])
    return bytes(result)


_masks: list[bytes] = []
if hasattr(os, "register_at_fork"):  # two processes must not draw the same masks
    os.register_at_fork(after_in_child=_masks.clear)


def new_mask() -> bytes:
    """Return four fresh bytes.

    "The masking key needs to be unpredictable; thus, the masking key MUST be derived from a strong source of
    entropy"  (5.3); drawn in bulk, since a system call for each frame would cost more than the frame.
    """
    try:
        return _masks.pop()
    except IndexError:  # asked for in this way, since another thread may take the last one
        block = os.urandom(4096)
        _masks.extend([block[i : i + 4] for i in range(4, len(block), 4)])
        return block[:4]


# ------------------------------------------------------------------------------------------ the payload of a Close

# Section 7.4.1, and those registered with IANA since (1012 to 1014); 1004 is reserved, and "1005 ... 1006 ... 1015
# MUST NOT be set as a status code in a Close control frame by an endpoint."
_CLOSE_CODES = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014})


def check_close_code(code: int) -> bool:
    """Tell whether a Close may carry this code: registered, or of the ranges 3000 to 4999 (section 7.4.2)."""
    return code in _CLOSE_CODES or 3000 <= code <= 4999


def encode_close(code: int, reason: str = "") -> bytes:
    """Encode the payload of a Close; 1005 stands for none at all.

    Raises ValueError for a code that must not be sent, and for a reason of more than 123 bytes of UTF-8.
    """
    if code == 1005 and not reason:
        return b""
    if not check_close_code(code):
        raise ValueError(f"a Close may not carry the code {code!r} (RFC 6455 section 7.4)")
    if not isinstance(reason, str):
        raise TypeError(f"a reason is str, not {type(reason).__name__}")
    text = reason.encode()
    if len(text) > _MAX_REASON:
        raise ValueError(f"a reason has at most {_MAX_REASON} bytes of UTF-8, not {len(text)}")
    return code.to_bytes(2, "big") + text


def decode_close(payload: bytes) -> tuple[int, str]:
    """Decode the payload of a Close: (code, reason); (1005, "") when it holds none."""
    if not payload:
        return 1005, ""
    # "If there is a body, the first two bytes of the body MUST be a 2-byte unsigned integer"  (5.5.1)
    if len(payload) == 1:
        raise ProtocolError("a Close holds a single byte (RFC 6455 section 5.5.1)")
    code = int.from_bytes(payload[:2], "big")
    if not check_close_code(code):
        raise ProtocolError(f"a Close holds the invalid code {code} (RFC 6455 section 7.4)")
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError:
        raise InvalidPayload("a close reason is not UTF-8 (RFC 6455 section 8.1)") from None
