"""Memory that was freed goes back to the kernel: glibc keeps what does not lie at the end of its heap.

Knows neither who has freed it nor why.  Where malloc is another one, nothing is done.
"""

from __future__ import annotations

import contextlib
import ctypes
from typing import Any

from gevent import get_hub

__all__ = ["trim_soon"]

_SOON = 1.0  # seconds: connections are idle in crowds, and a walk over the heap takes milliseconds

_trim: Any = None
with contextlib.suppress(AttributeError, OSError, TypeError):
    _trim = ctypes.CDLL(None).malloc_trim


def trim_soon() -> None:
    """Give back what is free by then, once for all who ask within a second.   Never blocks."""
    hub: Any = get_hub()
    if _trim is None or vars(hub).get("gws_trim") is not None:
        return
    hub.gws_trim = hub.loop.timer(_SOON, ref=False)
    hub.gws_trim.start(_over, hub)


def _over(hub: Any) -> None:
    hub.gws_trim.close()
    hub.gws_trim = None
    _trim(0)
