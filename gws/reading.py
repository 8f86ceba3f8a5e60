"""Reading a connection in the name of a service: each message runs a command there, without a detour by the mailbox.

A reader is a task of the service, and ends with it.   It reads a message, runs the command, and reads on; if a command
waits for something, another reader takes over, so that messages start in order, and none waits for the one before.
Does not know whose a connection is to be: `gate` does.
Contract with `websocket` below: a read that is interrupted loses nothing, so a connection can change hands at any time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress

from gevent import get_hub

from gws import skynet
from gws.errors import ConnectionClosed, ServiceExited
from gws.mailbox import Service
from gws.message import Message
from gws.runner import OUTSIDE, charge
from gws.task import Home, Task
from gws.websocket import OPEN, WebSocket

__all__ = ["Client", "Reader", "Turn"]

AHEAD = 16  # messages of one connection that may wait for something at a time, before no more are read


class Client:
    """A connection, and who has it."""

    __slots__ = ("fd", "gate", "late", "parked", "reader", "turn", "unread")

    def __init__(self, fd: WebSocket, turn: Turn, gate: Home):
        self.fd = fd
        self.turn = turn
        self.gate = gate  # in whose name messages are sent
        self.reader: Reader | None = None  # who is to read
        self.parked: Reader | None = None  # who waits in a read
        self.late = 0  # messages that still wait for something, besides the reader's own
        self.unread: deque[Message] = deque()  # what a reader got that was to read no longer

    def give(self, home: Service, command: str) -> None:
        """Let a service have what comes from now on."""
        before, self.reader = self.reader, Reader(self, home, command)
        if before is not None and before.busy:
            before.late = True
            self.late += 1
        if self.parked is None:
            self.reader.begin()
        else:  # which lets the new one begin
            get_hub().loop.run_callback(self.parked.interrupt)

    def relieve(self) -> None:
        """Let another reader take over if the command of this one waits for something, unless too many do."""
        reader = self.reader
        if reader is not None and reader.busy and self.late < AHEAD - 1:
            self.give(reader.home, reader.command)


class Turn:
    """The readers of a gate that got something in this turn of the loop; at its end the busy ones are relieved."""

    __slots__ = ("readers",)

    def __init__(self) -> None:
        self.readers: list[Reader] = []

    def add(self, reader: Reader) -> None:
        """Note a reader, whose service has the processor now."""
        if not self.readers:
            get_hub().loop.run_callback(self._over)
        self.readers.append(reader)
        reader.noted = True
        charge(reader.home)

    def _over(self) -> None:
        charge(OUTSIDE)
        readers, self.readers = self.readers, []
        for reader in readers:
            reader.noted = False
        busy = [reader for reader in readers if reader.busy]
        if busy:  # once the calls that they wait for have begun: it may be a forward()
            get_hub().loop.run_callback(_relieve, busy)


class Reader(Task):
    """A task of a service: handle what comes over a connection, until another one is to do that."""

    __slots__ = ("busy", "client", "late", "noted")
    home: Service

    def __init__(self, client: Client, home: Service, command: str):
        super().__init__(home, command, (), client.gate)
        self.client = client
        self.busy = False  # a message is being handled
        self.late = False  # and another one reads meanwhile
        self.noted = False  # in this turn of the loop

    def begin(self) -> None:
        """Queue up in the service's mailbox."""
        if self.home.dead:
            self.abandon()
        else:
            self.home.post(self)

    def interrupt(self) -> None:
        """Leave the read, if still in there; the hub calls this."""
        if self.client.parked is self and self.greenlet is not None:
            self.greenlet.throw(_Moved)

    def run(self) -> None:
        """Read and handle.   Blocks."""
        try:
            handle = getattr(self.home.instance, self.command)
            while self.client.reader is self:
                self._handle(handle, self._next())
        except (ConnectionClosed, _Moved):
            pass
        except BaseException as err:
            self._fail(err)
            self.abandon()
        self.over = True
        if self.late:
            self.client.late -= 1
            self.client.relieve()

    def abandon(self) -> None:
        """Have the connection closed, since its service has ended."""
        if self.client.reader is self:
            self.client.reader = None
            with suppress(ServiceExited):
                skynet.send(self.client.gate.address, "kick", self.client.fd, 1011, "the agent has ended")

    def _next(self) -> Message:
        """Return the next message.   Blocks."""
        client = self.client
        if client.unread:
            return client.unread.popleft()
        client.parked = self
        try:
            message = client.fd.read()
            if client.reader is not self:  # it came in the turn in which we were to be interrupted
                client.unread.append(message)
                raise _Moved
            return message
        finally:
            client.parked = None
            if client.reader is not self and client.reader is not None:
                client.reader.begin()

    def _handle(self, handle: Callable[[WebSocket, Message], object], message: Message) -> None:
        """Run the command; what it raises is logged, unless it is the end of the connection or of the service."""
        if not self.noted:
            self.client.turn.add(self)
        self.home.handled += 1
        self.busy = True
        try:
            handle(self.client.fd, message)
        except BaseException as err:
            if self.home.dead:
                raise
            if not isinstance(err, ConnectionClosed) or self.client.fd.state == OPEN:
                self._fail(err)
        finally:
            self.busy = False


class _Moved(BaseException):
    """The connection has changed hands."""


def _relieve(busy: list[Reader]) -> None:
    for reader in busy:
        if reader.client.reader is reader:
            reader.client.relieve()
