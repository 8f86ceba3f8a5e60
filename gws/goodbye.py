"""How a connection ends: the closing handshake, failing a connection, and what is known of it (RFC 6455 section 7).

Knows nothing of messages: whoever closes goes on reading, by the `read` of the class above, until the end is there.

    state       CONNECTING -> OPEN -> CLOSING -> CLOSED
    _given      the code and reason of our own Close, once it is on its way; NOTHING before
    _end_known  the code, the reason and the cause that the end will have: known from the peer's Close or its violation
                on, while the goodbye may still take a while
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any, NoReturn

import gevent
from gevent.event import Event

from gws.errors import ConnectionClosed, ProtocolError
from gws.frame import CLOSE, FIN, decode_close, encode, encode_close
from gws.limits import Limits
from gws.stream import Stream

__all__ = ["CLOSED", "CLOSING", "CONNECTING", "NOTHING", "OPEN", "Goodbye"]

log = logging.getLogger("gws")

CONNECTING, OPEN, CLOSING, CLOSED = range(4)
_LINGER = 2.0  # seconds that a peer which broke the protocol has for reading why
_STATES = ("connecting", "open", "closing", "closed")
NOTHING = (1006, "")  # what we have given the peer before our Close


class Goodbye:
    """A connection, as far as its end goes.   Any greenlet may close it."""

    __slots__ = ("_end_known", "_ended", "_given", "_limits", "hold", "server", "state", "stream")

    def __init__(self, stream: Stream, limits: Limits, server: bool):
        self.stream = stream
        self.server = server
        self.state = CONNECTING
        self._limits = limits
        self._given = NOTHING
        #: called before the connection is failed: messages that were read ahead can be answered first.   Blocks.
        self.hold: Callable[[], None] | None = None
        self._end_known: tuple[int, str, BaseException | None] | None = None
        self._ended: Event | None = None

    def read(self) -> Any:
        """Return the next message, or raise ConnectionClosed; take a Close to `_on_close`.   Blocks."""
        raise NotImplementedError

    def _forget(self) -> None:
        """Let go of what only an open connection needs."""
        raise NotImplementedError

    def _forget_message(self) -> None:
        """Let go of the message at hand, which will never be whole."""
        raise NotImplementedError

    def describe(self) -> str:
        """Return the state in a few words."""
        if self.state != CLOSED:
            return _STATES[self.state]
        return f"closed {self.over()}"

    @property
    def closed(self) -> bool:
        """Whether it is over."""
        return self.state == CLOSED

    @property
    def code(self) -> int | None:
        """The close code once it is over: the peer's; if it gave none, ours; else 1006 (section 7.1.5)."""
        return self._end_known[0] if self._end_known and self.state == CLOSED else None

    @property
    def reason(self) -> str | None:
        """The close reason once it is over (section 7.1.6)."""
        return self._end_known[1] if self._end_known and self.state == CLOSED else None

    @property
    def close_timeout(self) -> float:
        """Seconds that a peer has for its last word."""
        return self._limits.close_timeout

    @property
    def ended(self) -> Event:
        """Set once it is over."""
        if self._ended is None:
            self._ended = Event()
            if self.state == CLOSED:
                self._ended.set()
        return self._ended

    # -------------------------------------------------------------------------------------- from our side

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Send Close and wait for the peer's, `close_timeout` seconds at most (section 7.1.2).   Blocks.

        Messages that still come are dropped.  Safe to repeat, and from any greenlet.   ValueError for a code or a
        reason that no Close may carry.
        """
        payload = encode_close(code, reason)
        self.stream.flush()  # tells another thread off before anything has changed
        try:
            with _at_most(self._limits.close_timeout):
                if self.state in (OPEN, CLOSING):
                    self._say_goodbye(code, reason, payload)
                    self._await_close()
        finally:
            self._end(*self._given, TimeoutError("the peer sent no Close"))

    def verdict(self, error: BaseException) -> BaseException | None:
        """Tell what was wrong when its reader or a handler met `error`: None for an ordinary end.   Blocks.

        After a failed or a late write the peer's last words may still be there: they are heard first.
        """
        if not isinstance(error, ConnectionClosed) or self.state == OPEN:  # (or another connection's end, uncaught)
            log.error("a handler of %r failed", self, exc_info=error)
            return error
        bare(error)  # the frames that it has passed hold the message at hand, and hearing the peer out may take long
        self.hear_out()
        cause = self.over().__cause__
        return cause if isinstance(cause, Exception) and not isinstance(cause, EOFError | TimeoutError) else None

    def hear_out(self) -> None:
        """Read to the end, for `close_timeout` seconds at most; messages are dropped.   Blocks."""
        with _at_most(self._limits.close_timeout):
            self._await_close()
        self._end(*self._given)

    def cut(self, code: int, reason: str) -> None:
        """End it now, with a Close if the kernel takes one; the peer is not waited for.   Never blocks."""
        if self.state in (OPEN, CLOSING):
            with contextlib.suppress(OSError):
                if self.state == OPEN:
                    self.stream.post(self._encode(CLOSE, encode_close(code, reason)))
                    self._given = (code, reason)
                self.stream.flush()
        self._end(*self._given, TimeoutError(reason))

    def _say_goodbye(self, code: int, reason: str, payload: bytes) -> None:
        """Send our Close, once; no message follows it (section 5.5.1).   Blocks."""
        if self._given is NOTHING:
            self._given, self.state = (code, reason), CLOSING
            with contextlib.suppress(BrokenPipeError):
                self.stream.write_frame(FIN | CLOSE, payload)

    def _await_close(self) -> None:
        """Read until the end, or wait for it if somebody else reads; messages are dropped."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                self.read()

    def _expect_end(self) -> None:
        """A read in any state but OPEN: over is over, and who comes second while it is closing waits for it."""
        if self.state == CLOSING and (self.stream.reading or self._end_known is not None):
            self.ended.wait(self._limits.close_timeout)
            self._end(*self._given, TimeoutError("the peer sent no Close"))
        if self.state == CONNECTING:
            self._refuse()
        if self.state == CLOSED:
            raise self.over()

    def _fail(self, error: ProtocolError) -> None:
        """_Fail the WebSocket Connection_ (section 7.1.7): tell the peer why, and listen to it no longer."""
        if self._end_known is not None:  # somebody else does that already
            self.ended.wait(self._limits.close_timeout)
            return
        code, reason = (error.code, str(error)) if self._given is NOTHING else self._given
        self._end_known = (code, reason, bare(error))
        self._forget_message()
        try:
            with _at_most(self._limits.close_timeout):
                if self.hold is not None and self.state == OPEN:
                    self.hold()
                if self.state == CLOSED:
                    return
                self._say_goodbye(code, reason, encode_close(error.code, str(error)[:120]))
                self.stream.drain()
                self.stream.shutdown()
                with _at_most(_LINGER):
                    self.stream.linger()
        finally:
            self._end(code, reason, error)

    def _end(self, code: int, reason: str, cause: BaseException | None = None) -> None:
        """End it as is known already, or else in this way."""
        if self.state == CLOSED:
            return
        self.stream.close()  # first, as it tells another thread off
        self.state = CLOSED
        self._end_known = self._end_known or (code, reason, cause and bare(cause))
        self._forget()
        if self._ended is not None:
            self._ended.set()

    def over(self) -> ConnectionClosed:
        """Return what a read raises after the end."""
        assert self._end_known is not None
        code, reason, cause = self._end_known
        error = ConnectionClosed(code, reason)
        error.__cause__ = cause
        return error

    def _on_close(self, first: int, payload: bytes) -> None:
        code, reason = decode_close(payload)
        self._end_known = (code, reason, None)
        try:
            with _at_most(self._limits.close_timeout):
                # "the endpoint MUST send a Close frame in response ... it typically echos the status code"  (5.5.1)
                self._say_goodbye(code, reason, payload[:2])
                self.stream.drain()
                # "The server MUST close the TCP connection immediately; the client SHOULD wait for the server"  (7.1.1)
                if self.server:
                    self.stream.shutdown()
                else:
                    self.stream.linger()
        finally:
            self._end(code, reason)

    def _hand_over(self) -> None:
        """Let somebody else read on, as this greenlet is called away: close() may wait for what it would have read."""
        if self.state == CLOSING and self._given is not NOTHING and self._ended is not None:
            gevent.spawn(self._await_close)

    def _broken(self, error: OSError) -> NoReturn:
        """Nothing reaches the peer any more; what it said last may still be there to be read."""
        if self.state == OPEN:
            self.state = CLOSING
        if self._end_known is not None:
            raise self.over()
        raise ConnectionClosed(*self._given) from error

    def _refuse(self) -> NoReturn:
        if self._end_known is not None:
            raise self.over()
        raise ConnectionClosed(self._given[0], f"the connection is {self.describe()}")

    def _encode(self, opcode: int, payload: bytes) -> bytes:
        return encode(payload, opcode & ~FIN, masked=not self.server)


def bare(error: BaseException) -> BaseException:
    """Return an error that is to be kept without the frames that it has passed.

    They hold the connection, which would hold them by its error until the garbage collector comes, with its last
    message.
    """
    inner: list[BaseException | None] = [error]
    while inner:
        one = inner.pop()
        if one is not None and one.__traceback__ is not None:
            one.__traceback__ = None
            inner += one.__cause__, one.__context__
    return error


def _at_most(seconds: float) -> gevent.Timeout:
    """Return a context that ends, in silence, after `seconds`."""
    return gevent.Timeout(seconds, False)  # type: ignore[arg-type]  # gevent's word for "in silence"
