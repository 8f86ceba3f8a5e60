"""The seed's echo service."""

from __future__ import annotations

import pytest
from conftest import turns

import gws.client
from gws import skynet
from gws.errors import CallFailed, ConnectionClosed

pytestmark = pytest.mark.usefixtures("deadline")


@pytest.fixture
def echo():
    """Return (the service's address, a client, where both are)."""
    s = skynet.newservice("gws.echoserver")
    address = skynet.call(s, "start", {"address": "127.0.0.1", "port": 0})
    client = gws.client.connect(*address)
    yield s, client, address
    client.close()
    skynet.kill(s)
    turns()


@pytest.mark.parametrize("message", ["hello", "", "žluťoučký kůň 🐎", b"", bytes(range(256)), "x" * 100_000])
def test_echo(echo, message):
    _, client, _ = echo
    client.write(message)
    assert client.read() == message


@pytest.mark.parametrize("end", [lambda s: skynet.call(s, "stop"), skynet.kill], ids=["stop", "kill"])
def test_it_takes_its_connections_with_it(echo, greenlets, end):
    s, client, address = echo
    greenlets(end, s)
    with pytest.raises(ConnectionClosed) as closed:
        client.read()
    assert closed.value.code == 1001
    with pytest.raises(ConnectionRefusedError):
        gws.client.connect(*address)


def test_an_option_that_there_is_not(echo):
    s, _, _ = echo
    other = skynet.newservice("gws.echoserver")
    with pytest.raises(CallFailed, match="there is no option agent"):
        skynet.call(other, "start", {"port": 0, "agent": "x"})
    skynet.kill(other)
    with pytest.raises(CallFailed, match="serving already"):
        skynet.call(s, "start", {"port": 0})
