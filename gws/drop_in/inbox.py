"""The messages of one connection, read by a greenlet of its own, as libraries with a thread for each have it.

So pings are answered, and the end is noticed, while the program does something else.  Knows nothing of the libraries.
It reads ahead within bounds: beyond them TCP holds the peer back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent

from gws.errors import ConnectionClosed
from gws.kept import Kept
from gws.message import Message
from gws.websocket import WebSocket

__all__ = ["Inbox"]

_MESSAGES = 64  # messages that are kept at most
_BYTES = 1024 * 1024  # bytes (or characters) with which no more is read


class Inbox:
    """Reads `fd` from now on, and keeps what comes until it is asked for.   `ended`, if given, is called in the end."""

    __slots__ = ("_end", "_kept", "over")

    def __init__(
        self,
        fd: WebSocket,
        read: Callable[[Any], Message] = WebSocket.read,
        ended: Callable[[], None] | None = None,
    ):
        self._kept = Kept(_MESSAGES, _BYTES)
        self.over = False  #: whether nothing comes any more
        self._end: tuple[int, str, BaseException | None] = (1006, "", None)
        fd.hold = self._kept.await_answers
        gevent.spawn(self._read, fd, read, ended)  # and nothing of the connection here, which may hold us

    def __len__(self) -> int:
        return len(self._kept)

    def take(self, timeout: float | None = None) -> Message:
        """Return the next message.   Blocks.   TimeoutError after `timeout` seconds; ConnectionClosed."""
        kept = self._kept
        kept.ask()
        while not kept:
            if self.over:
                code, reason, cause = self._end
                raise ConnectionClosed(code, reason) from cause
            if not kept.wait(timeout):
                raise TimeoutError
        return kept.take()

    def _read(self, fd: WebSocket, read: Callable[[Any], Message], ended: Callable[[], None] | None) -> None:
        try:
            while True:
                self._kept.put(read(fd), fd.ended)
        except ConnectionClosed:
            pass
        finally:
            self._end = fd._end_known or self._end
            self.over = True
            self._kept.wake()
            if ended is not None:
                ended()
