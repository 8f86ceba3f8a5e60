"""gevent-websocket's view of a frame's header (RFC 6455 section 5.2), which its hooks are called with."""

from __future__ import annotations

from typing import Any

from gws.drop_in.geventwebsocket.exceptions import FrameTooLargeException, ProtocolError, WebSocketError
from gws.frame import encode_header, mask

__all__ = ["Header"]


class Header:
    """A header: whether it is final, its opcode, its reserved bits, the payload's length, and its mask."""

    __slots__ = ("fin", "flags", "length", "mask", "opcode")

    FIN_MASK = 0x80
    RSV0_MASK = 0x40
    RSV1_MASK = 0x20
    RSV2_MASK = 0x10
    HEADER_FLAG_MASK = RSV0_MASK | RSV1_MASK | RSV2_MASK
    OPCODE_MASK = 0x0F
    MASK_MASK = 0x80
    LENGTH_MASK = 0x7F

    def __init__(self, fin: int | bool = 0, opcode: int = 0, flags: int = 0, length: int = 0):
        self.fin = fin
        self.opcode = opcode
        self.flags = flags
        self.length = length
        self.mask: bytes | str = ""

    def __repr__(self) -> str:
        return (
            f"<Header fin={self.fin} opcode={self.opcode} length={self.length} flags={self.flags} mask={self.mask!r}>"
        )

    @classmethod
    def of(cls, first: int, length: int) -> Header:
        """Return the header of a frame whose payload is unmasked already."""
        return cls(bool(first & cls.FIN_MASK), first & cls.OPCODE_MASK, first & cls.HEADER_FLAG_MASK, length)

    def mask_payload(self, payload: bytes | bytearray) -> bytearray:
        """Mask a payload, or unmask it."""
        return bytearray(mask(payload, bytes(self.mask))) if isinstance(self.mask, bytes) else bytearray(payload)

    unmask_payload = mask_payload

    @classmethod
    def decode_header(cls, stream: Any) -> Header:
        """Read a header from what has `read(size)`.   Blocks as that does."""
        first, second = _exactly(stream, 2)
        header = cls.of(first, second & cls.LENGTH_MASK)
        if header.opcode > 7 and not header.fin:
            raise ProtocolError("a control frame is in fragments (RFC 6455 section 5.5)")
        if header.opcode > 7 and header.length > 125:
            raise FrameTooLargeException("a control frame has more than 125 bytes (RFC 6455 section 5.5)")
        if header.length > 125:
            header.length = int.from_bytes(_exactly(stream, 2 if header.length == 126 else 8), "big")
        if second & cls.MASK_MASK:
            header.mask = _exactly(stream, 4)
        return header

    @classmethod
    def encode_header(cls, fin: bool, opcode: int, mask: bytes, length: int, flags: int) -> bytearray:
        """Encode a header; `mask` is empty for none."""
        if length >= 1 << 63:
            raise FrameTooLargeException("a frame has at most 2**63 - 1 bytes (RFC 6455 section 5.2)")
        first = opcode | (cls.FIN_MASK if fin else 0) | flags & cls.HEADER_FLAG_MASK
        return bytearray(encode_header(first, length, mask or None))


def _exactly(stream: Any, size: int) -> bytes:
    data = bytes(stream.read(size))
    if len(data) != size:
        raise WebSocketError("the peer has left within a frame's header")
    return data
