"""A terminal, or the pipe or file in its place: lines in, text out, and the hub is never held up.

Does not know WebSocket, nor what a command line is.  Standard input and output are shared with whoever started us, a
shell at the same tty among them, so they are not put into non-blocking mode: poll() tells when a descriptor can be
used without blocking (of a file or /dev/null: always), and the loop is asked only when it cannot.  libuv's loop changes
the mode behind our back; `as_found` changes it back.
"""

from __future__ import annotations

import contextlib
import errno
import locale
import os
import re
import select
from collections.abc import Iterator

import gevent
from gevent.monkey import get_original
from gevent.socket import wait_read, wait_write

__all__ = ["ENCODING", "as_found", "fill_gaps", "lines", "safe", "tell", "write"]

#: What text is encoded in here.
ENCODING = locale.getpreferredencoding(False)

_CHUNK = 64 * 1024
_poll = get_original("select", "poll")  # gevent's own would ask the loop, which may refuse a file

# C0 but the tab, DEL and C1: they move the cursor and more.  What breaks a line, or turns its direction.
_UNSAFE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def lines(fd: int = 0) -> Iterator[bytes]:
    """Read lines as they come, without their newline; the last one may lack it.   Blocks."""
    pieces: list[bytes] = []  # of the line at hand, which may be long
    while data := _read(fd):
        first, *others = data.split(b"\n")
        pieces.append(first)
        for line in others:
            yield b"".join(pieces)
            pieces = [line]
    if any(pieces):
        yield b"".join(pieces)


def write(text: str, fd: int = 1) -> None:
    """Write text as it is.   Blocks while whoever reads it is too slow.   BrokenPipeError when nobody does any more."""
    rest = memoryview(text.encode(ENCODING, "backslashreplace"))
    while rest:
        _wait(fd, select.POLLOUT)
        with contextlib.suppress(BlockingIOError):
            rest = rest[os.write(fd, rest[: select.PIPE_BUF]) :]  # for so much there is room, says poll()


def tell(text: str) -> None:
    """Write a line to stderr, made safe.   Blocks."""
    with contextlib.suppress(OSError):  # there is nobody left to complain to
        write(f"{safe(text)}\n", 2)


def safe(text: str) -> str:
    r"""Return text as one line that leaves the terminal alone: a newline as \n, an escape as \x1b.

    A backslash stays as it is, and so does JSON; the price is that a \n may have been there before.
    """
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


@contextlib.contextmanager
def as_found(*fds: int) -> Iterator[None]:
    """Leave the descriptors in the mode, blocking or not, in which they are found."""
    modes = {}
    for fd in fds:
        with contextlib.suppress(OSError):
            modes[fd] = os.get_blocking(fd)
    try:
        yield
    finally:
        for fd, mode in modes.items():
            with contextlib.suppress(OSError):
                os.set_blocking(fd, mode)


def fill_gaps() -> None:
    """Put /dev/null where standard input, output or error is closed: else a socket will get its number."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one


def _read(fd: int) -> bytes:
    """Read what there is; nothing at the end.   Blocks."""
    while True:
        _wait(fd, select.POLLIN)
        try:
            return os.read(fd, _CHUNK)
        except BlockingIOError:
            continue
        except OSError as error:
            if error.errno == errno.EIO:  # the terminal is gone
                return b""
            raise


def _wait(fd: int, event: int) -> None:
    """Wait until `fd` is ready; even if it is already, let the others have their turn.   Blocks."""
    gevent.sleep(0)
    poll = _poll()
    poll.register(fd, event)
    while not poll.poll(0):
        (wait_read if event == select.POLLIN else wait_write)(fd)
