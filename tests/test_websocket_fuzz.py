"""gws.websocket: two of them, many greenlets on each, and everything at once.

Invariant: whoever reads, writes, pings or closes gets what was said, in order, or ConnectionClosed with the words in
which it ended for all; or what was thrown at it.  Nobody waits for ever, and nothing is left.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from by_hand import outcome
from conftest import Owner, turns
from gevent import get_hub

from gws import websocket as ws
from gws.deflate import Compression, Deflate, Parameters
from gws.errors import ConnectionClosed
from gws.websocket import Limits, WebSocket

pytestmark = pytest.mark.usefixtures("deadline")

SIZES = (0, 10, 300, 5000, 60_000)


class Meddler(Owner):
    """An owner whose handlers take their time, close, read, write and fail."""

    def __init__(self, dice: random.Random):
        super().__init__()
        self._dice = dice

    def told(self, fd: WebSocket, event: str, value: Any) -> None:
        what = (
            "nothing"
            if event == "warning"
            else self._dice.choice(["nothing"] * 20 + ["wait", "close", "write", "fail"])
        )
        if what == "wait":
            turns(2)
        elif what == "close":
            fd.close(4005, "in a handler")
        elif what == "write":
            fd.write("from a handler")
        elif what == "fail":
            raise LookupError("in a handler")


class Crowd:
    """Two connected WebSockets, and the greenlets that use them."""

    def __init__(self, stream_class: Any, seed: int):
        self.dice = dice = random.Random(seed)
        self.fds: list[WebSocket] = []
        deflate = dice.random() < 0.4
        for sock, server in zip(socket.socketpair(), (True, False)):
            if dice.random() < 0.5:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            limits = Limits(close_timeout=dice.choice([0.005, 0.05, 2]), max_message=100_000, max_pending=300_000)
            fd = WebSocket(stream_class(sock, masked=server), Meddler(dice), limits, server=server)
            fd.deflate = Deflate(Parameters(), Compression(), server=server) if deflate else None
            fd.opened()
            self.fds.append(fd)
        self.sent: dict[str, list[str]] = {}
        self.got: list[list[str]] = [[], []]
        self.ends: list[tuple[WebSocket, Any]] = []
        self.greenlets = [gevent.spawn(self.use, i, verb) for i in (0, 1) for verb in self._verbs()]

    def _verbs(self) -> Iterator[Any]:
        for verb, most in ((self.read, 1), (self.write, 2), (self.close, 2), (self.ping, 1), (self.broadcast, 1)):
            for _ in range(self.dice.randint(verb == self.read, most)):
                yield verb

    def use(self, i: int, verb: Any) -> None:
        fd = self.fds[i]
        end = outcome(verb, i, fd)
        while verb == self.read and not fd.closed and isinstance(end, gevent.Timeout | LookupError):
            end = outcome(verb, i, fd)
        self.ends.append((fd, end))

    def read(self, i: int, fd: WebSocket) -> None:
        for message in fd:
            assert isinstance(message, str)
            self.got[i].append(message)
            turns(self.dice.randrange(3))

    def write(self, i: int, fd: WebSocket) -> None:
        said = self.sent.setdefault(f"{i}-{len(self.sent)}", [])
        name = list(self.sent)[-1]
        for n in range(self.dice.randrange(1, 6)):
            said.append(f"{name} {n} " + "x" * self.dice.choice(SIZES))
            fd.write(said[-1])
            turns(self.dice.randrange(2))

    def close(self, i: int, fd: WebSocket) -> None:
        turns(self.dice.randrange(15))
        fd.close(4000 + i, "in good order")

    def ping(self, i: int, fd: WebSocket) -> None:
        for _ in range(self.dice.randrange(4)):
            fd.ping("?")
        fd.measure()

    def broadcast(self, i: int, fd: WebSocket) -> None:
        for _ in range(self.dice.randrange(5)):
            ws.broadcast(self.fds, "broadcast " + "x" * self.dice.choice(SIZES))
            turns(self.dice.randrange(3))

    def meddle(self) -> None:
        """Throw something at somebody; or cut a connection, from the hub."""
        turns(self.dice.randrange(4))
        what = self.dice.choice(["timeout", "timeout", "kill", "cut", "probe"])
        if what == "cut":
            get_hub().loop.run_callback(self.dice.choice(self.fds).cut, 1011, "cut")
        elif what == "probe":
            self.dice.choice(self.fds).probe()
        else:
            somebody = self.dice.choice(self.greenlets)
            if somebody.started:
                somebody.kill(gevent.Timeout() if what == "timeout" else gevent.GreenletExit(), block=False)

    def finish(self) -> None:
        self.greenlets += [gevent.spawn(self.use, i, self.close) for i in (0, 1)]
        gevent.joinall(self.greenlets, timeout=30)
        assert not [each for each in self.greenlets if not each.dead]


@pytest.mark.parametrize("seed", range(0, 200, 20))
def test_anything_at_any_moment(stream_class: Any, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(get_hub(), "handle_error", lambda *args: None)  # of handlers that fail where nobody hears it
    for n in range(seed, seed + 20):
        crowd = Crowd(stream_class, n)
        for _ in range(crowd.dice.randrange(6)):
            crowd.meddle()
        crowd.finish()
        for fd, end in crowd.ends:
            assert end is None or isinstance(end, ConnectionClosed | gevent.Timeout | gevent.GreenletExit | LookupError)
            if isinstance(end, ConnectionClosed) and not isinstance(end.__cause__, BrokenPipeError):
                assert end.code == fd.code or end.reason == "the connection is closing"
        for i, fd in enumerate(crowd.fds):
            assert fd.closed
            assert (fd.pending, fd._awaited or {}, str(outcome(fd.read))) == (0, {}, str(outcome(fd.write, "")))
            for name, said in crowd.sent.items():
                if name[0] != str(i):
                    heard = [message for message in crowd.got[i] if message.startswith(f"{name} ")]
                    assert heard == said[: len(heard)]
