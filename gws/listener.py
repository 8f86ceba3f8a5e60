"""Accepting: a watcher on a listening socket, and each connection handed on as it comes.

Knows nothing of what is said over a connection.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from typing import Any

import _socket
from _socket import socket
from gevent import get_hub

__all__ = ["Listener"]

log = logging.getLogger("gws")

_READ = 1
_AT_ONCE = 100  # connections accepted per turn of the loop, before those that are open have theirs
_PAUSE = 0.1  # seconds until accepting is tried again when there are no descriptors or buffers left
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Listener:
    """Calls `accepted(sock, addr)` in the hub for each connection that comes: raw and non-blocking, as `sock` is."""

    __slots__ = ("_accepted", "_at_once", "_exhausted", "_loop", "_timer", "_watcher", "sock")

    def __init__(self, sock: socket, accepted: Callable[[socket, Any], None], *, shared: bool = False):
        self.sock = sock
        self._accepted = accepted
        self._at_once = 1 if shared else _AT_ONCE  # one, so that other processes get their share of a crowd
        self._loop = get_hub().loop
        self._watcher: Any = self._loop.io(sock.fileno(), _READ)
        self._timer: Any = None
        self._exhausted = False

    def start(self) -> None:
        """Begin to accept."""
        self._drop_timer()
        self._watcher.start(self._ready)

    def pause(self) -> None:
        """Stop accepting until `start()`: what comes now waits in the kernel's backlog."""
        self._drop_timer()
        self._watcher.stop()

    def close(self) -> None:
        """Stop for good; the socket is its owner's to close."""
        self.pause()
        self._watcher.close()

    def _ready(self) -> None:
        for _ in range(self._at_once):
            try:
                fd, addr = self.sock._accept()  # type: ignore[attr-defined]  # what socket.accept() is made of
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                self._failed(error)
                return
            self._exhausted = False
            sock = _socket.socket(self.sock.family, self.sock.type, self.sock.proto, fd)
            sock.setblocking(False)
            self._accepted(sock, addr)
            if not self._watcher.active:
                return

    def _failed(self, error: OSError) -> None:
        """Try again in a while: trying at once would spin, giving up would leave the server deaf."""
        if not self._exhausted or error.errno not in _EXHAUSTED:
            log.error("cannot accept: %s; trying again every %g s", error, _PAUSE)
        self._exhausted = True
        self._watcher.stop()
        self._timer = self._loop.timer(_PAUSE)
        self._timer.start(self.start)

    def _drop_timer(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None
