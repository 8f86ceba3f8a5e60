"""A mailbox that grows is reported, and one that is empty costs nothing."""

from __future__ import annotations

import gevent
import pytest

from gws import mailbox, skynet
from gws.errors import ServiceExited


class Sink:
    """A service that takes everything."""

    def __init__(self):
        self.taken = 0

    def take(self):
        self.taken += 1
        return self.taken

    def exit(self):
        skynet.exit()


@pytest.fixture
def sink():
    """Return the address of a Sink."""
    yield skynet.newservice(Sink)
    for service in skynet.services():
        skynet.kill(service.address)


def fill(sink, number):
    for _ in range(number):
        skynet.send(sink, "take")


def reports(caplog):
    texts = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return texts


def test_a_long_mailbox_is_reported_once_per_doubling(sink, caplog):
    fill(sink, 1024)
    assert reports(caplog) == []
    fill(sink, 1)
    assert reports(caplog) == [f"{sink} Sink has 1025 messages in its mailbox"]
    fill(sink, 8000)
    assert reports(caplog) == [f"{sink} Sink has {number} messages in its mailbox" for number in (2049, 4097, 8193)]
    assert skynet.call(sink, "take") == 9026
    assert reports(caplog) == []


def test_a_mailbox_that_was_empty_is_reported_again(sink, caplog):
    for _ in range(2):
        fill(sink, 1025)
        skynet.call(sink, "take")
        assert len(reports(caplog)) == 1


def test_the_hub_gets_its_turn(sink):
    fill(sink, mailbox.TURN + 1)
    gevent.sleep(0)
    stat = skynet.services()[0]
    assert (stat.mailbox, stat.messages) == (1, mailbox.TURN)


def test_a_service_shows_its_state(sink):
    service = skynet._services[sink]
    fill(sink, 2)
    assert repr(service) == f"<Service {sink} Sink: 2 messages, 0 greenlets>"
    with pytest.raises(ServiceExited):
        skynet.call(sink, "exit")
    assert repr(service) == f"<Service {sink} Sink: dead>"
