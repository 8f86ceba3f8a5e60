"""Reading a connection in the name of a service: each message runs a command there, without a detour by the mailbox.

A reader is a task of the service, and ends with it.   It reads a message, runs the command, and reads on, until the
connection is somebody else's.   The next message is read when the one before has been handled, whoever handles it; if
that one's service ends in the middle of it, the message is seen through first, or else the connection ends as well.
Does not know whose a connection is to be: `gate` does.
Contract with `websocket` below: a read that is interrupted loses nothing, so a connection can change hands at any time.
"""

from __future__ import annotations

from typing import Any

from gevent import get_hub

from gws.errors import ConnectionClosed
from gws.mailbox import Service
from gws.message import Message
from gws.runner import Runner, away, back, start
from gws.stream import account
from gws.task import Home, Task
from gws.websocket import OPEN, WebSocket

__all__ = ["Client", "Keeper", "Reader"]


class Client:
    """A connection, and who has it: it ends with its reader's service, and with its keeper's."""

    __slots__ = ("doomed", "fd", "gate", "gone", "keeper", "reader", "running", "unread")

    def __init__(self, fd: WebSocket, gate: Home):
        self.fd = fd
        self.gate = gate  # in whose name messages are sent
        self.gone = False  # the peer has left, and nobody got it in time
        self.doomed = False  # a message was lost with its agent: it is about to end, whoever asks for it
        self.keeper: Keeper | None = None  # who is to ask for it
        self.reader: Reader | None = None  # who is to read
        self.running: Reader | None = None  # who still does
        self.unread: Message | None = None  # what was read by one that was to do so no longer

    @property
    def idle(self) -> bool:
        """Whether nobody reads, or is to."""
        return self.reader is None and self.running is None

    def give(self, home: Service, command: str) -> None:
        """Let a service have what comes from now on."""
        self.leave()
        self.reader = Reader(self, home, command)
        home.inherit(self.reader)
        if self.running is None:
            self.reader.begin()
        elif self.running.parked:
            get_hub().loop.run_callback(self.running.interrupt)

    def entrust(self, home: Service) -> None:
        """Let the connection end with a service, whoever reads it until then."""
        if self.keeper is not None:
            self.keeper.home.disinherit(self.keeper)
        self.keeper = Keeper(self, home)
        home.inherit(self.keeper)

    def leave(self) -> None:
        """Be nobody's."""
        for heir in (self.keeper, self.reader):
            if heir is not None:
                heir.home.disinherit(heir)
        self.keeper = self.reader = None

    def orphan(self, doomed: bool = False) -> None:
        """Close the connection, since its service has ended; if it is not `doomed`, somebody else may get it first."""
        self.leave()
        self.doomed = self.doomed or doomed
        get_hub().loop.run_callback(start, Task(self.gate, "kick", (), None, self._close))

    def _close(self) -> None:
        if self.doomed or (self.reader is None and self.keeper is None):
            self.fd.close(1011, "the agent has ended")


class Keeper:
    """The word that a connection is to end with a service."""

    __slots__ = ("client", "home")

    def __init__(self, client: Client, home: Service):
        self.client = client
        self.home = home

    def abandon(self) -> None:
        """Have the connection closed."""
        if self.client.keeper is self:
            self.client.orphan()


class Reader(Task):
    """A task of a service: handle what comes over a connection, one message after the other."""

    __slots__ = ("client", "parked")
    home: Service

    def __init__(self, client: Client, home: Service, command: str):
        super().__init__(home, command, (), client.gate)
        self.client = client
        self.parked = False  # in a read
        self.timer: Any = None  # of the time that is left for the message at hand

    def begin(self) -> None:
        """Queue up in the service's mailbox."""
        if self.home.dead:
            self.abandon()
        else:
            self.home.post(self)

    def awaits(self) -> str | None:
        """Tell whose message it waits for, if it does."""
        return f"a message of {self.client.fd!r}" if self.parked else None

    def interrupt(self) -> None:
        """Leave the read, if it is still in there; the hub calls this."""
        if self.parked and self.greenlet is not None:
            self.greenlet.throw(_Moved)

    def stop(self) -> None:
        """End with the service, at once; but see a message through if the connection is somebody else's by now.

        What is not seen through takes the connection along: the peer would miss one answer, and have all others.
        """
        if self.over or not self._is_at_work():
            super().stop()
        elif self.client.reader in (None, self):
            self._give_up()
        else:
            self.timer = get_hub().loop.timer(self.client.fd.close_timeout)
            self.timer.start(self._give_up)

    def run(self) -> None:
        """Read and handle, and then let the next one begin, if there is one.   Blocks."""
        client = self.client
        if client.reader is self:
            client.running = self
            try:
                self._read_on()
            except (ConnectionClosed, _Moved):
                pass
            except BaseException as err:
                self._fail(err)
                self.abandon()
            client.running = None
            if self.timer is not None:
                self.timer.close()
            if client.reader is not self and client.reader is not None:
                client.reader.begin()
        self.over = True

    def abandon(self) -> None:
        """Have the connection closed, since its service has ended."""
        if self.client.reader is self:
            self.client.orphan()

    def _is_at_work(self) -> bool:
        """Tell whether a message is being handled; a command that waits for the next one by itself is done with it."""
        return self.client.running is self and not self.parked and not self.client.fd.stream.reading

    def _give_up(self) -> None:
        if not self.over:
            self.client.orphan(doomed=True)
            super().stop()

    def _read_on(self) -> None:
        client, home, fd = self.client, self.home, self.client.fd
        handle = getattr(home.instance, self.command)
        while client.reader is self:
            message, client.unread = client.unread, None
            if message is None:
                message = self._read()
            home.handled += 1
            try:
                (handle if home.tracer is None else home.tracer(self, handle))(fd, message)
            except BaseException as err:
                self._failed(err)

    def _read(self) -> Message:
        """Read a message.   Blocks."""
        client = self.client
        self.parked = True
        try:
            message = client.fd.read()
        finally:
            self.parked = False
        if client.reader is not self or self.home.dead:  # it came in the turn in which we were to be interrupted
            client.unread = message
            raise _Moved
        return message

    def _failed(self, err: BaseException) -> None:
        """Log what a command has raised, unless that is the end of its service or of the connection."""
        if self.home.dead:
            raise err
        if not isinstance(err, ConnectionClosed) or self.client.fd.state == OPEN:
            self._fail(err)


class _Moved(BaseException):
    """The connection has changed hands."""


account(Runner, back, away)
