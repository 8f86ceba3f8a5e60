"""gws.listener: connections are handed on as they come, and accepting survives what goes wrong."""

from __future__ import annotations

import errno
import logging
import os
import resource
import socket
from collections.abc import Callable, Iterator
from typing import Any

import _socket
import gevent
import pytest
from conftest import turns, until

from gws import listener as room
from gws.listener import Listener

pytestmark = pytest.mark.usefixtures("deadline")


class Door:
    """A listening socket, whoever came through it, and whoever knocked."""

    def __init__(self, family: int, address: Any):
        self.sock = _socket.socket(family, _socket.SOCK_STREAM)
        self.sock.setblocking(False)
        self.sock.bind(address)
        self.sock.listen(512)
        self.address = self.sock.getsockname()
        self.came: list[tuple[_socket.socket, Any]] = []
        self.knocked: list[_socket.socket] = []

    def knock(self, count: int = 1) -> None:
        for _ in range(count):
            sock = _socket.socket(self.sock.family, _socket.SOCK_STREAM)
            sock.connect(self.address)  # the kernel's backlog takes it: nobody need accept meanwhile
            self.knocked.append(sock)

    def accepted(self, sock: _socket.socket, addr: Any) -> None:
        self.came.append((sock, addr))

    def close(self) -> None:
        for sock in [self.sock, *self.knocked, *(sock for sock, _ in self.came)]:
            sock.close()


@pytest.fixture
def door() -> Iterator[Door]:
    door = Door(_socket.AF_INET, ("127.0.0.1", 0))
    yield door
    door.close()


@pytest.fixture
def listening(door: Door) -> Iterator[Listener]:
    listening = Listener(door.sock, door.accepted)
    yield listening
    listening.close()


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_PAUSE", 0.001)


def test_a_connection_is_handed_on_raw_and_non_blocking(door: Door, listening: Listener) -> None:
    listening.start()
    door.knock()
    until(lambda: door.came)
    ((sock, addr),) = door.came
    assert type(sock) is _socket.socket
    assert not sock.getblocking()
    assert (sock.family, addr) == (socket.AF_INET, door.knocked[0].getsockname())
    door.knocked[0].send(b"hello")
    assert sock.recv(10) == b"hello"


def test_a_unix_socket(tmp_path: Any) -> None:
    door = Door(_socket.AF_UNIX, str(tmp_path / "sock"))
    listening = Listener(door.sock, door.accepted)
    listening.start()
    door.knock()
    until(lambda: door.came)
    listening.close()
    assert door.came[0][0].family == socket.AF_UNIX
    door.close()


def test_nothing_is_accepted_before_the_start(door: Door, listening: Listener) -> None:
    door.knock()
    turns()
    assert door.came == []
    listening.start()
    until(lambda: door.came)


def test_a_pause_leaves_them_to_the_backlog(door: Door, listening: Listener) -> None:
    listening.start()
    listening.pause()
    door.knock(3)
    turns()
    assert door.came == []
    listening.start()
    until(lambda: len(door.came) == 3)


def test_a_pause_in_the_middle_of_a_batch(door: Door) -> None:
    def accepted(sock: _socket.socket, addr: Any) -> None:
        door.accepted(sock, addr)
        listening.pause()

    listening = Listener(door.sock, accepted)
    door.knock(3)
    for count in (1, 2, 3):
        listening.start()
        turns()
        assert len(door.came) == count
    listening.close()


def test_who_accepts_may_close(door: Door) -> None:
    def accepted(sock: _socket.socket, addr: Any) -> None:
        door.accepted(sock, addr)
        listening.close()

    listening = Listener(door.sock, accepted)
    door.knock(3)
    listening.start()
    turns()
    assert len(door.came) == 1


def test_a_batch_leaves_the_others_their_turn(door: Door, listening: Listener) -> None:
    door.knock(250)
    seen = []
    listening.start()
    while len(door.came) < 250:
        turns(1)
        seen.append(len(door.came))
    steps = [b - a for a, b in zip([0, *seen], seen)]
    assert max(steps) <= 200  # a hundred at once; a turn of ours may fall between any two of theirs
    assert len(seen) >= 2


def test_the_handler_may_be_a_greenlet_s_birth(door: Door) -> None:
    greetings = []

    def greet(sock: _socket.socket, addr: Any) -> None:
        gevent.sleep(0)  # it may wait: it runs in its own greenlet
        greetings.append(sock.send(b"hi"))

    listening = Listener(door.sock, lambda sock, addr: (door.accepted(sock, addr), gevent.spawn(greet, sock, addr)))
    listening.start()
    door.knock(2)
    until(lambda: greetings == [2, 2])
    listening.close()


class Fails:
    """A listening socket on which accept fails in the given ways, and then does not."""

    def __init__(self, door: Door, *errors: OSError):
        self._sock, self._errors = door.sock, list(errors)
        self.family, self.type, self.proto = self._sock.family, self._sock.type, self._sock.proto

    def fileno(self) -> int:
        return self._sock.fileno()

    def _accept(self) -> tuple[int, Any]:
        if self._errors:
            raise self._errors.pop(0)
        return self._sock._accept()  # type: ignore[attr-defined]


@pytest.fixture
def failing(door: Door) -> Iterator[Callable[..., Listener]]:
    made = []

    def make(*errors: OSError) -> Listener:
        made.append(Listener(Fails(door, *errors), door.accepted))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for listening in made:
        listening.close()


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "gws"]


def test_a_connection_that_is_gone_already_is_passed_over(
    door: Door, failing: Callable[..., Listener], caplog: pytest.LogCaptureFixture
) -> None:
    listening = failing(ConnectionAbortedError(errno.ECONNABORTED, "gone"))
    door.knock(2)
    listening.start()
    until(lambda: len(door.came) == 2)
    assert errors(caplog) == []


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_exhaustion_is_told_once_and_waited_out(
    number: int, door: Door, failing: Callable[..., Listener], caplog: pytest.LogCaptureFixture
) -> None:
    listening = failing(*[OSError(number, os.strerror(number))] * 3)
    door.knock(2)
    listening.start()
    until(lambda: len(door.came) == 2)
    assert errors(caplog) == [f"cannot accept: [Errno {number}] {os.strerror(number)}; trying again every 0.001 s"]


@pytest.mark.usefixtures("fast")
def test_exhaustion_is_told_again_after_it_was_over(
    door: Door, failing: Callable[..., Listener], caplog: pytest.LogCaptureFixture
) -> None:
    full = OSError(errno.EMFILE, "full")
    listening = failing(full, full)
    door.knock()
    listening.start()
    until(lambda: door.came)
    listening.sock._errors[:] = [full, full]  # type: ignore[attr-defined]
    door.knock()
    until(lambda: len(door.came) == 2)
    assert len(errors(caplog)) == 2


@pytest.mark.usefixtures("fast")
def test_any_other_failure_is_told_each_time(
    door: Door, failing: Callable[..., Listener], caplog: pytest.LogCaptureFixture
) -> None:
    listening = failing(*[OSError(errno.EINVAL, "odd")] * 2)
    door.knock()
    listening.start()
    until(lambda: door.came)
    assert len(errors(caplog)) == 2
    assert caplog.records[0].levelno == logging.ERROR


def test_a_pause_ends_the_trying(door: Door, failing: Callable[..., Listener]) -> None:
    listening = failing(OSError(errno.EMFILE, "full"))
    door.knock()
    listening.start()
    turns()
    listening.pause()
    listening.start()  # at once, and not a while later again
    until(lambda: door.came)


def test_real_exhaustion(door: Door, listening: Listener, caplog: pytest.LogCaptureFixture) -> None:
    # skynet #2040 was EMFILE: who is out of descriptors must neither spin nor stay deaf.
    door.knock()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        listening.start()
        turns(5)
        assert door.came == []
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(errors(caplog)) == 1
    until(lambda: door.came)
