"""A look at a service tells what it did, and what each of its greenlets waits for."""

from __future__ import annotations

import re
import time

import gevent
import pytest
from conftest import until
from gevent.event import Event

from gws import client, skynet
from gws.errors import ServiceExited
from gws.server import Server


class Shop:
    """A service that waits in every way."""

    def __init__(self):
        self.till = skynet.queue()
        self.go = Event()

    def call(self, address):
        skynet.call(address, "pay")

    def pay(self):
        with self.till:
            self.go.wait()

    def sleep(self):
        skynet.sleep(60)

    def rest(self):
        skynet.wait("bell")

    def look(self):
        gevent.sleep(0)
        return skynet.services()[0].greenlets

    def fork(self):
        skynet.fork(gevent.sleep, 60)

    def later(self):
        skynet.timeout(60, self.rest)

    def order(self, supplier):
        supplier.read()

    def deliver(self, supplier):
        while True:
            supplier.write(bytes(65536))


@pytest.fixture
def shop():
    """Return the address of a Shop."""
    yield skynet.newservice(Shop)
    for service in skynet.services():
        skynet.kill(service.address)


def waits(command, *args):
    """Return what there is to see while the command waits, with the line numbers gone."""
    skynet.send(*command)
    for _ in range(4):
        gevent.sleep(0)
    return [(chain, re.sub(r":\d+\)", ":0)", what)) for chain, what in skynet.services()[0].greenlets]


def test_a_service_at_rest(shop):
    before = time.time()
    skynet.name(".shop", shop)
    stat = skynet.services()[0]
    assert stat[:5] == (shop, "Shop", (".shop",), 0, 0)
    assert 0 <= stat.time < 1
    assert 0 <= before - stat.started < 5
    assert stat.greenlets == []


def test_what_was_done_and_what_is_to_be_done(shop):
    skynet.call(shop, "look")
    skynet.send(shop, "sleep")
    skynet.send(shop, "sleep")
    stat = skynet.services()[0]
    assert (stat.mailbox, stat.messages) == (2, 1)


@pytest.mark.parametrize(
    ("command", "task", "what"),
    [
        ("pay", "pay", "nothing at pay (test_stat.py:0)"),
        ("sleep", "sleep", "sleep at sleep (test_stat.py:0)"),
        ("rest", "rest", "wait at rest (test_stat.py:0)"),
        ("later", "timeout(Shop.rest)", "its time"),
    ],
)
def test_what_a_greenlet_waits_for(shop, command, task, what):
    assert waits((shop, command)) == [(f"{shop} Shop.{task}", what)]


@pytest.mark.parametrize(("command", "verb"), [("order", "read"), ("deliver", "write")])
def test_who_waits_for_a_connection_is_told_by_where_its_own_code_does(shop, command, verb):
    server = Server()
    server.on("connection", lambda fd, addr: fd.ended.wait())  # which neither says nor hears anything
    server.start(port=0, compression=None)
    supplier = client.connect("127.0.0.1", server.port, compression=None)
    try:
        skynet.send(shop, command, supplier)
        until(lambda: supplier.fd.pending > 65536 or command == "order")
        assert waits((shop, "look")) == [(f"{shop} Shop.{command}", f"{verb} at {command} (test_stat.py:0)")]
    finally:
        server.stop(timeout=0)
        supplier.join()


def test_a_call_and_a_queue(shop):
    skynet.send(shop, "pay")
    assert waits((shop, "call", shop)) == [
        (f"{shop} Shop.call", f"call {shop} Shop.pay at call (test_stat.py:0)"),
        (f"{shop} Shop.call -> {shop} Shop.pay", f"<Queue held by {shop} Shop.pay, 1 in line> at pay (test_stat.py:0)"),
        (f"{shop} Shop.pay", "nothing at pay (test_stat.py:0)"),
    ]


def test_who_looks_waits_for_nothing(shop):
    assert skynet.call(shop, "look") == [(f"{shop} Shop.look", "nothing")]


def test_a_look_at_one_service(shop):
    for _ in range(3):
        skynet.send(shop, "sleep")
    gevent.sleep(0)
    skynet.name(".shop", shop)
    assert skynet.addresses() == [shop]
    seen = skynet.look(".shop", 2)
    assert (seen.address, seen.parked, len(seen.greenlets)) == (shop, 3, 2)
    assert len(skynet.look(shop).greenlets) == 3
    skynet.kill(shop)
    with pytest.raises(ServiceExited, match=shop):
        skynet.look(shop)
