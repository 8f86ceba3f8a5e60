"""Following a service: a line when a message begins, one when it is over, and nothing once nobody listens."""

from __future__ import annotations

import re

import gevent
import pytest

from gws import skynet
from gws.errors import CallFailed, ServiceExited


class Clerk:
    """A service that asks another."""

    def __init__(self, other=None):
        self.other = other

    def ask(self):
        return skynet.call(self.other, "tell")

    def tell(self):
        return 7

    def fail(self):
        raise ValueError("no such paper")


@pytest.fixture
def clerks():
    """Return the addresses of two Clerks; the first asks the second."""
    second = skynet.newservice(Clerk)
    yield skynet.newservice(Clerk, second), second
    for address in skynet.addresses():
        skynet.kill(address)


def follow(address):
    """Follow a service; return the lines, without their times, and what ends it."""
    lines = []
    return lines, skynet.follow(address, lambda line: lines.append(re.sub(r"[0-9.]+ ms", "? ms", line)))


def test_a_call_is_told_with_its_chain(clerks):
    first, second = clerks
    lines, leave = follow(second)
    assert skynet.call(first, "ask") == 7
    assert lines == [f"#1 begins: {first} Clerk.ask -> {second} Clerk.tell", "#1 done after ? ms"]
    leave()
    skynet.call(first, "ask")
    assert len(lines) == 2


def test_a_sent_message_is_told_with_its_sender(clerks):
    first, _ = clerks
    lines, _leave = follow(first)
    skynet.send(first, "tell")
    gevent.sleep(0)
    assert lines == [f"#1 begins: {first} Clerk.tell, sent by main", "#1 done after ? ms"]


def test_a_failure_is_told_and_still_raised(clerks):
    first, _ = clerks
    lines, _leave = follow(first)
    with pytest.raises(CallFailed, match="no such paper"):
        skynet.call(first, "fail")
    assert lines[1] == "#1 failed after ? ms: ValueError('no such paper')"


def test_several_may_listen_and_one_that_fails_disturbs_nobody(clerks, caplog):
    first, _ = clerks
    one, leave_one = follow(first)
    skynet.follow(first, lambda line: 1 / 0)
    two, leave_two = follow(first)
    assert skynet.call(first, "tell") == 7
    assert one == two
    assert len(one) == 2
    assert "ZeroDivisionError" in caplog.text
    leave_one()
    leave_one()
    skynet.call(first, "tell")
    assert (len(one), len(two)) == (2, 4)
    leave_two()


def test_a_listener_may_leave_from_within(clerks):
    first, _ = clerks
    lines = []

    def listen(line):
        lines.append(line)
        leave()

    leave = skynet.follow(first, listen)
    assert skynet.call(first, "tell") == 7
    assert len(lines) == 1


def test_the_dead_are_not_followed(clerks):
    first, _ = clerks
    _, leave = follow(first)
    skynet.kill(first)
    leave()
    with pytest.raises(ServiceExited):
        skynet.follow(first, print)
