"""What the stand-ins' servers hold an opening request to: what a program says, over what `install()` was told."""

from __future__ import annotations

from typing import Any

from gws import drop_in
from gws.opening import Terms

__all__ = ["MOST", "terms"]

#: Bytes in a message, for the libraries that had no limit.
MOST = 16 * 1024 * 1024


def terms(most: int = MOST, **own: Any) -> Terms:
    """Return the terms of a connection whose program has said `own`; `most` is its library's `max_message`."""
    return Terms(**{"max_message": most} | drop_in.options | own)
