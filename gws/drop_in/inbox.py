"""The messages of one connection, read by a greenlet of its own, as libraries with a thread for each have it.

So pings are answered, and the end is noticed, while the program does something else.  Knows nothing of the libraries.
It reads ahead within bounds: beyond them TCP holds the peer back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import gevent
from gevent.event import Event

from gws.errors import ConnectionClosed
from gws.message import Message
from gws.websocket import WebSocket

__all__ = ["Inbox"]

_MESSAGES = 64  # messages that are kept at most
_BYTES = 1024 * 1024  # bytes (or characters) with which no more is read


class Inbox:
    """Reads `fd` from now on, and keeps what comes until it is asked for.   `ended`, if given, is called in the end."""

    __slots__ = ("_end", "_kept", "_news", "_room", "_size", "over")

    def __init__(
        self,
        fd: WebSocket,
        read: Callable[[Any], Message] = WebSocket.read,
        ended: Callable[[], None] | None = None,
    ):
        self._kept: deque[Message] = deque()
        self._size = 0
        self._news = Event()  # set when there is something to take, or nothing any more
        self._room = Event()  # set when there is room for more
        self.over = False  #: whether nothing comes any more
        self._end: tuple[int, str, BaseException | None] = (1006, "", None)
        gevent.spawn(self._read, fd, read, ended)  # and nothing of the connection here, which may hold us

    def __len__(self) -> int:
        return len(self._kept)

    def take(self, timeout: float | None = None) -> Message:
        """Return the next message.   Blocks.   TimeoutError after `timeout` seconds; ConnectionClosed."""
        while not self._kept:
            if self.over:
                code, reason, cause = self._end
                raise ConnectionClosed(code, reason) from cause
            self._news.clear()
            if not self._news.wait(timeout):
                raise TimeoutError
        message = self._kept.popleft()
        self._size -= len(message)
        self._room.set()
        return message

    def _read(self, fd: WebSocket, read: Callable[[Any], Message], ended: Callable[[], None] | None) -> None:
        try:
            while True:
                message = read(fd)
                self._kept.append(message)
                self._size += len(message)
                self._news.set()
                while (len(self._kept) >= _MESSAGES or self._size >= _BYTES) and not fd.closed:
                    self._room.clear()
                    gevent.wait([self._room, fd.ended], count=1)
        except ConnectionClosed:
            pass
        finally:
            self._end = fd._end_known or self._end
            self.over = True
            self._news.set()
            if ended is not None:
                ended()
