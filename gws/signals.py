"""Hearing signals: SIGTERM and SIGINT, for as long as somebody listens.

Knows nothing of what they are to end.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

import gevent
from gevent import get_hub

__all__ = ["hearing_signals"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_heard: list[list[Any]] = []  # the watchers of each listen()


@contextlib.contextmanager
def hearing_signals(callback: Callable[[], Any]) -> Iterator[None]:
    """Have `callback` called on SIGTERM and SIGINT, which are the main thread's, as they are in Python."""
    # "libev: a signal must not be attached to two different loops": it aborts the process.
    watchers = [gevent.signal_handler(number, callback) for number in _SIGNALS if get_hub().loop.default]
    _heard.append(watchers)
    try:
        yield
    finally:
        _heard.remove(watchers)
        for watcher in watchers:
            watcher.cancel()
        if watchers and not any(_heard):
            for number in _SIGNALS:  # the loop leaves the system's default behind, and a Ctrl-C would kill outright
                signal.signal(number, signal.getsignal(number) or signal.SIG_DFL)
