"""Loads for a WebSocket server: echo, fan-out, handshakes, idle connections.   Each is bounded, and has an end.

Does not know the terminal, nor whose server it is: it is given a door to go through, and the server's process if that
is known.  Each connection is a greenlet that writes and reads in blocking style; what comes must be what was sent.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any, NamedTuple

import gevent
from gevent.event import Event
from gevent.lock import Semaphore
from gevent.pool import Group

from gws import sockethelper
from gws.door import LIMITS, Door
from gws.errors import GwsError
from gws.gauge import Latencies, cpu, memory
from gws.websocket import WebSocket

__all__ = ["LOADS", "Echo", "Fanout", "Handshakes", "Idle", "Load", "Plan", "Result"]

_TEXT = "".join(map(chr, range(32, 127)))
_AT_ONCE = 100  # handshakes at a time, while connections are opened
_OPENING = 30.0  # seconds for opening them all
_PATIENCE = 5.0  # seconds for the first message to reach everybody
_PARTING = 2.0  # seconds for goodbyes
_TURN = 0.1  # seconds between two reports
_KNOWN = (GwsError, OSError, EOFError)  # what may go wrong with a connection


@dataclass(frozen=True)
class Plan:
    """How much load, and for how long; ValueError beyond the bounds."""

    connections: int = 64
    size: int = 128  #: bytes in a message
    depth: int = 1  #: messages in flight: on each connection, or (fan-out) in all
    seconds: float = 2.0

    def __post_init__(self) -> None:
        for name, (least, most) in _BOUNDS.items():
            if not least <= (value := getattr(self, name)) <= most:
                raise ValueError(f"{name} is {least} to {most}, not {value}")
        # We write before we read.  With more in flight than the kernel keeps, either side would wait for the other.
        if self.depth > 1 and self.size * self.depth > LIMITS.max_message:
            raise ValueError(f"at most {LIMITS.max_message} bytes are in flight, not {self.depth} times {self.size}")


_BOUNDS = {
    "connections": (1, 20_000),
    "size": (0, LIMITS.max_message),
    "depth": (1, 1024),
    "seconds": (0.01, 60),
}


@dataclass(frozen=True)
class Result:
    """What came of a load; None is what does not apply, or is not known."""

    load: str
    counted: str  #: what `count` counts
    connections: int
    size: int | None
    depth: int | None
    seconds: float
    count: int
    per_second: float
    mb_per_second: float | None
    p50: float | None  #: seconds
    p99: float | None
    server_us: float | None  #: microseconds of the server's processor time for each
    server_busy: float | None  #: its processor time in a second
    own_busy: float  #: and ours
    kib_each: float | None  #: memory that the server takes for a connection
    failures: int  #: connections that failed
    failure: str | None  #: how the first of them did


class Load:
    """A load, to be run once; `pid` is the server's process, where its processor time and memory can be read."""

    name = counted = ""
    messages = True  # whether size and depth mean something

    def __init__(self, door: Door, plan: Plan, pid: int | None = None):
        self.plan = plan
        self.count = 0
        self._door = door
        self._pid = pid
        self._message = (_TEXT * (plan.size // len(_TEXT) + 1))[: plan.size]
        self._fds: list[WebSocket] = []
        self._group = Group()
        self._latencies = Latencies()
        self._failures = 0
        self._failure: BaseException | None = None

    def run(self, told: Callable[[float, float], None] = lambda share, rate: None) -> Result:
        """Put the load on, and return what came of it.   Blocks.   Raises what went wrong with all connections.

        A quarter of the time, and 0.5 s at most, goes by before it counts.  `told(share, rate)` hears now and then
        which share of the time is over, and how much there was in a second so far.
        """
        try:
            at_first = memory(self._pid)
            with sockethelper.deadline(_OPENING, str(self._door.target)):
                self._begin()
            self._pass(min(0.5, self.plan.seconds / 4))
            self._latencies = Latencies()
            before = self._look()
            self._pass(self.plan.seconds, told)
            return self._result(at_first, before, self._look())
        finally:
            self._end()

    def _begin(self) -> None:
        raise NotImplementedError

    def _spawn(self, function: Callable[..., None], *args: Any) -> None:
        self._group.spawn(self._guard, function, *args)

    def _guard(self, function: Callable[..., None], *args: Any) -> None:
        try:
            function(*args)
        except _KNOWN as error:
            self._failures += 1
            self._failure = self._failure or error

    def _open_all(self) -> None:
        numbers = iter(range(self.plan.connections))  # that they share

        def open_some() -> None:
            for _ in numbers:
                self._fds.append(self._door.open())

        for _ in range(min(_AT_ONCE, self.plan.connections)):
            self._spawn(open_some)
        self._group.join()
        if self._failure is not None:
            raise self._failure

    def _pass(self, seconds: float, told: Callable[[float, float], None] | None = None) -> None:
        began, first = monotonic(), self.count
        while (passed := monotonic() - began) < seconds:
            if self._failure is not None and self._failures >= self.plan.connections:
                raise self._failure
            gevent.sleep(max(0.001, min(_TURN, seconds - passed)))  # libuv knows no shorter time
            if told is not None:
                passed = monotonic() - began
                told(min(1.0, passed / seconds), (self.count - first) / passed)

    def _look(self) -> _Look:
        return _Look(monotonic(), self.count, time.process_time(), cpu(self._pid), memory(self._pid))

    def _result(self, at_first: float | None, before: _Look, after: _Look) -> Result:
        seconds, count = after.time - before.time, after.done - before.done
        busy = None if before.server is None or after.server is None else after.server - before.server
        return Result(
            load=self.name,
            counted=self.counted,
            connections=self.plan.connections,
            size=self.plan.size if self.messages else None,
            depth=self.plan.depth if self.messages else None,
            seconds=seconds,
            count=count,
            per_second=count / seconds,
            mb_per_second=count * self.plan.size / seconds / 1e6 if self.messages else None,
            p50=self._latencies.percentile(0.5),
            p99=self._latencies.percentile(0.99),
            server_us=None if busy is None or not count else busy * 1e6 / count,
            server_busy=None if busy is None else busy / seconds,
            own_busy=(after.own - before.own) / seconds,
            kib_each=self._kib_each(at_first, after.memory),
            failures=self._failures,
            failure=None if self._failure is None else str(self._failure) or type(self._failure).__name__,
        )

    def _kib_each(self, before: float | None, after: float | None) -> float | None:
        return None

    def _check(self, message: Any) -> None:
        if message != self._message:
            raise GwsError("another message came back than was sent")

    def _end(self) -> None:
        """Leave nothing behind: goodbyes for a while, and then the rest is cut.   Blocks."""
        self._group.kill()
        for fd in self._fds:
            self._group.spawn(_close, fd)
        self._group.join(timeout=_PARTING)
        for fd in self._fds:
            fd.cut(1001, "")
        self._group.kill()


class _Look(NamedTuple):
    """The state of things at a time."""

    time: float
    done: int  # messages, or whatever is counted
    own: float  # seconds of our processor time
    server: float | None  # and of the server's
    memory: float | None  # KiB of the server's


class Echo(Load):
    """Each connection has `depth` messages in flight, and sends another for each that comes back."""

    name, counted = "echo", "messages"

    def _begin(self) -> None:
        self._open_all()
        for fd in self._fds:
            self._spawn(self._converse, fd)

    def _converse(self, fd: WebSocket) -> None:
        message, sent = self._message, deque[float]()
        for _ in range(self.plan.depth):
            sent.append(monotonic())
            fd.write(message)
        while True:
            self._check(fd.read())
            now = monotonic()
            self.count += 1
            self._latencies.add(now - sent.popleft())
            sent.append(now)
            fd.write(message)


class Fanout(Load):
    """One connection sends, all receive; `depth` messages have not reached everybody yet."""

    name, counted = "fanout", "deliveries"

    def _begin(self) -> None:
        self._sent: deque[float] = deque()
        self._room = Semaphore(self.plan.depth)
        self._reached = Event()
        self._open_all()
        for fd in self._fds:
            self._spawn(self._receive, fd)
        self._spawn(self._send, self._fds[0])
        if not self._reached.wait(_PATIENCE):
            reached = f"a message did not reach all of {self.plan.connections} connections"
            raise self._failure or GwsError(f"{reached}: does this server send everything to everybody?")

    def _send(self, fd: WebSocket) -> None:
        while True:
            self._room.acquire()
            self._sent.append(monotonic())
            fd.write(self._message)

    def _receive(self, fd: WebSocket) -> None:
        while True:
            self._check(fd.read())
            self.count += 1
            if self.count % self.plan.connections == 0:
                self._latencies.add(monotonic() - self._sent.popleft())
                self._room.release()
                self._reached.set()


class Handshakes(Load):
    """Each greenlet connects, shakes hands, says goodbye, and begins again."""

    name, counted, messages = "handshakes", "connections", False

    def _begin(self) -> None:
        for _ in range(self.plan.connections):
            self._spawn(self._repeat)

    def _repeat(self) -> None:
        while True:
            began = monotonic()
            fd = self._door.open()
            self._latencies.add(monotonic() - began)
            self.count += 1
            fd.close()


class Idle(Load):
    """Connections that say nothing: what does the server keep for each?"""

    name, counted, messages = "idle", "messages", False

    def _begin(self) -> None:
        self._open_all()
        for fd in self._fds:
            self._spawn(self._hear, fd)

    def _hear(self, fd: WebSocket) -> None:
        for _ in fd:  # pings are answered meanwhile
            pass

    def _kib_each(self, before: float | None, after: float | None) -> float | None:
        return None if before is None or after is None else (after - before) / self.plan.connections


LOADS: dict[str, type[Load]] = {each.name: each for each in (Echo, Fanout, Handshakes, Idle)}


def _close(fd: WebSocket) -> None:
    with contextlib.suppress(*_KNOWN):
        fd.close()
