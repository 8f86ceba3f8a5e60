"""Hears of peers that leave while nobody reads what they send: those of a gate, before anybody has their connection.

Does not know what becomes of them then.
Contract with `stream` below: nothing is taken from it; its descriptor is looked at, and is its own until `discard`.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any

from _socket import MSG_DONTWAIT, MSG_PEEK, socket
from gevent import get_hub
from gevent.monkey import get_original

from gws.errors import ProtocolError
from gws.frame import CLOSE, decode_header
from gws.websocket import WebSocket

__all__ = ["Lookout", "has_messages"]

_PEEK = 4096  # bytes that are looked at: what is longer holds a message
_READ = 1
_epoll: Callable[[], Any] | None = None  # where there is none, the keepalive finds who has left, some time later
if hasattr(select, "EPOLLRDHUP"):
    _epoll = get_original("select", "epoll")  # gevent's patched `select` has none
    _LEFT = select.EPOLLRDHUP | select.EPOLLONESHOT


class Lookout:
    """A set of connections; `left(fd)` is called, in the hub, for each whose peer has sent its last byte."""

    __slots__ = ("_left", "_numbers", "_set", "_there", "_watcher")

    def __init__(self, left: Callable[[WebSocket], object]):
        self._left = left
        self._there: dict[int, WebSocket] = {}
        self._numbers: dict[WebSocket, int] = {}
        self._set: Any = None
        self._watcher: Any = None

    def add(self, fd: WebSocket) -> None:
        """Watch a connection."""
        if _epoll is None:
            return
        if self._set is None:
            self._begin(_epoll())
        number = self._numbers[fd] = fd.stream.fileno()
        self._there[number] = fd
        self._set.register(number, _LEFT)

    def discard(self, fd: WebSocket) -> None:
        """Watch a connection no longer; it may be closed by now, and another be there under its number."""
        number = self._numbers.pop(fd, -1)
        if self._there.get(number) is fd:
            del self._there[number]
            if fd.stream.fileno() >= 0:
                self._set.unregister(number)

    def close(self) -> None:
        """Let go of what it takes, if there is any."""
        if self._set is not None:
            self._watcher.stop()
            self._watcher.close()
            self._set.close()
            self._set = None
            self._there.clear()
            self._numbers.clear()

    def _begin(self, made: Any) -> None:
        self._set = made
        self._watcher = get_hub().loop.io(made.fileno(), _READ)
        self._watcher.start(self._look)

    def _look(self) -> None:
        for number, _ in self._set.poll(0):
            fd = self._there.get(number)
            if fd is not None:
                self.discard(fd)
                self._left(fd)


def has_messages(fd: WebSocket) -> bool:
    """Tell whether a peer that has left has sent any message; of what is encrypted or compressed, that is not known."""
    if fd.stream.buffered:
        return True
    if fd.closed:
        return False
    sock = socket(fileno=fd.stream.fileno())
    try:
        data = sock.recv(_PEEK, MSG_PEEK | MSG_DONTWAIT)
    except OSError:
        return False
    finally:
        sock.detach()
    return len(data) == _PEEK or _is_message(data)


def _is_message(data: bytes) -> bool:
    pos = 0
    try:
        while (header := decode_header(data, masked=True, rsv=0, start=pos)) is not None:
            if header.first & 0x0F < CLOSE:
                return pos + header.size + header.length <= len(data)
            pos += header.size + header.length
    except ProtocolError:  # it may be encrypted, or compressed
        return True
    return False
