"""A conversation from the terminal: lines that are typed go out, messages that come are shown, how it ended is told.

Does not know how the connection is made, nor what a command line is: it is given a client that is not connected yet,
and asked to `run` once it is.  Messages go to stdout and nothing else does.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

import gevent
from gevent import getcurrent

from gws import terminal
from gws.client import Client
from gws.errors import ConnectionClosed, GwsError
from gws.message import Message

__all__ = ["WAIT", "Talk", "signals_raise"]

#: Seconds that a server has, after the end of the input, for answers that its pong has overtaken.
WAIT = 0.5

_GOOD = (1000, 1001, 1005)  # the codes of a good end
_PARTING = 1.0  # seconds that the server has for its Close when we are interrupted


class Talk:
    """One conversation.

    `binary`: send each line as a binary message.   `ping`: tell the round trip of a ping, first.   `wait`: seconds to
    listen on after the end of the input; None: until the server closes.
    """

    def __init__(self, client: Client, *, binary: bool = False, ping: bool = False, wait: float | None = WAIT):
        self._client = client
        self._binary = binary
        self._ping = ping
        self._wait = wait
        self._prefix = "< " if os.isatty(1) else ""
        self._code = 1006
        self._failure: Exception | None = None  # ours: of the input or the output
        self._error: Exception | None = None  # the connection's
        for event in ("open", "message", "error", "close"):
            client.on(event, getattr(self, f"_on_{event}"))

    def run(self) -> int:
        """Talk until it is over, and return the exit status; raise what is wrong with the input.   Blocks."""
        sender = gevent.spawn(self._send)
        try:
            self._client.join()
        finally:
            sender.kill()
            with gevent.Timeout(_PARTING, False):  # type: ignore[arg-type]  # False: in silence
                self._client.close()
        if isinstance(self._failure, BrokenPipeError):  # nobody reads us any more, and that is nothing to talk about
            return 1
        if self._failure is not None:
            raise self._failure
        return int(self._code not in _GOOD)

    def _send(self) -> None:
        try:
            if self._ping:
                terminal.tell(f"ping: {self._client.ping() * 1000:.3f} ms")
            for number, line in enumerate(terminal.lines(), 1):
                self._client.write(line if self._binary else _text(line, number))
            self._await_answers()
        except ConnectionClosed:
            return
        except (GwsError, OSError) as error:
            self._failure = error
        self._client.close()

    def _await_answers(self) -> None:
        """Wait for what is in flight, since whatever comes after our Close is dropped.   Blocks.

        A server that answers in order, as an echo does, has answered everything before the pong, however long that
        takes it.  Only time can tell for one that answers pings ahead of its handlers: that is what `wait` is for.
        """
        self._client.ping()
        self._client.join(self._wait)

    def _on_open(self) -> None:
        protocol = f" ({self._client.protocol})" if self._client.protocol else ""
        terminal.tell(f"connected{protocol}{'; Ctrl-D ends it' if os.isatty(0) else ''}")

    def _on_message(self, message: Message) -> None:
        text = terminal.safe(message) if isinstance(message, str) else f"0x{message.hex()}"
        try:
            terminal.write(f"{self._prefix}{text}\n")
        except OSError as error:
            self._failure = error
            self._client.close()

    def _on_error(self, error: Exception) -> None:
        self._error = error

    def _on_close(self, code: int, reason: str) -> None:
        self._code = code
        if not reason and code == 1006:
            reason = getattr(self._error, "strerror", None) or "the connection was lost"
        terminal.tell(f"closed: {code} {reason}".rstrip())


@contextlib.contextmanager
def signals_raise() -> Iterator[None]:
    """Let SIGINT and SIGTERM raise SystemExit(128 + number) where this greenlet waits: all is left in order then."""
    me = getcurrent()
    numbers = (signal.SIGINT, signal.SIGTERM)
    watchers = [gevent.signal_handler(each, gevent.kill, me, SystemExit(128 + each)) for each in numbers]
    try:
        yield
    finally:
        for watcher in watchers:
            watcher.cancel()


def _text(line: bytes, number: int) -> str:
    try:
        return line.decode(terminal.ENCODING)
    except UnicodeDecodeError:
        raise GwsError(f"line {number} is not {terminal.ENCODING}; --binary sends lines as they are") from None
