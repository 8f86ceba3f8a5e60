"""What one connection may cost, and for how long: the options that `listen()` and `connect()` have in common.

Knows no more of the house than what compression has to be told.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from gws.deflate import Compression

__all__ = ["Limits"]

_COMPRESSION = Compression()


@dataclass(frozen=True)
class Limits:
    """Every limit is on by default."""

    max_message: int = 1024 * 1024  #: bytes in a message, after decompression; beyond it: close 1009
    max_pending: int = 16 * 1024 * 1024  #: bytes unsent to a slow peer; beyond it a broadcast closes it, 1013
    ping_interval: float | None = 20  #: seconds between our pings; None: no keepalive
    ping_timeout: float = 20  #: seconds without a sign of life after a ping; beyond it: close 1011
    close_timeout: float = 10  #: seconds to wait for the peer's Close; beyond it the socket is shut
    compression: Compression | None = _COMPRESSION  #: permessage-deflate (RFC 7692), if the peer can; None: never

    def __post_init__(self) -> None:
        if not isinstance(self.compression, Compression | None):
            raise TypeError(f"compression must be a gws.deflate.Compression or None, not {self.compression!r}")
        for name in ("max_message", "max_pending", "ping_interval", "ping_timeout", "close_timeout"):
            value = getattr(self, name)
            if value is None and name == "ping_interval":
                continue
            if not isinstance(value, int | float) or not value > 0:
                raise ValueError(f"{name} must be a positive number, not {value!r}")
            if name.startswith("max_") and not (isinstance(value, int) and value < sys.maxsize):
                raise ValueError(f"{name} must be a whole number below {sys.maxsize}, not {value!r}")
