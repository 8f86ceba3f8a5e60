"""A crowd at the gateway, whose agents die, hand over and kick: who survives has every message, in order, and once.

GWS_GATEWAY_CLIENTS and GWS_GATEWAY_SECONDS make it larger, and longer; 2,000 and 120 are the aim.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from time import monotonic

import gevent
from gevent import socket
from programs import PATIENCE, free_port, python

import gws.client
from gws.errors import ConnectionClosed

SECONDS = float(os.environ.get("GWS_GATEWAY_SECONDS", 2))
CLIENTS = int(os.environ.get("GWS_GATEWAY_CLIENTS", 60))
BATCH = 16

ENDS = {1011: "died", 4000: "was kicked"}


class Client:
    """One that is there all the time: whenever its connection ends, it comes back with another.

    Now and then it leaves without a word of farewell, or before anybody has had the time to look after it.
    """

    def __init__(self, port, until):
        self.port = port
        self.until = until
        self.ends = Counter()
        self.echoed = 0

    def run(self):
        while not self.done:
            fd = gws.client.connect("127.0.0.1", self.port, compression=None, timeout=60)
            try:
                self.talk(fd)
            except ConnectionClosed as end:
                assert end.code in ENDS, end
                self.ends[ENDS[end.code]] += 1
            except Leaves:
                fd.fd.cut(1001, "")
                self.ends["left"] += 1
            finally:
                fd.close()

    @property
    def done(self):
        return monotonic() > self.until and self.echoed > 2 * BATCH

    def talk(self, fd):
        number = 0
        while not self.done:
            if random.random() < 0.01:
                raise Leaves
            for ahead in range(BATCH):
                fd.write(str(number + ahead))
            if random.random() < 0.001:
                raise Leaves
            for _ in range(BATCH):
                echo = fd.read()
                assert echo == str(number)
                number += 1
                self.echoed += 1
        self.ends["survived"] += 1


class Leaves(Exception):
    """Who raises this has had enough."""


def ask(port):
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % port)
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    return json.loads(answer.partition(b"\r\n\r\n")[2])


def is_quiet(port):
    services = ask(port)["services"]
    return set(services) <= {"Crowd", "Gate", "Room"}


def test_a_crowd():
    port = free_port()
    with python("tests/peers/gateway.py", port) as program:
        program.wait_until_it_listens(port)
        clients = [Client(port, monotonic() + SECONDS) for _ in range(CLIENTS)]
        running = [gevent.spawn(client.run) for client in clients]
        gevent.joinall(running, timeout=SECONDS + 60, raise_error=True)
        assert all(each.dead for each in running)
        until = monotonic() + PATIENCE
        while not is_quiet(port) and monotonic() < until:
            gevent.sleep(0.05)
        left = ask(port)
        program.stop()
    ends = sum((client.ends for client in clients), Counter())
    print(ends, sum(client.echoed for client in clients), left)
    assert set(left["services"]) <= {"Crowd", "Gate", "Room"}  # no agent outlives its client
    assert ends["survived"] > 0
    assert sum(client.echoed for client in clients) > CLIENTS * BATCH
    assert left["done"]["hand-overs"] > 0
    assert left["fds"] < 20  # nor does a connection outlive either
    # A room that dies while its call waits at the gate leaves nobody to tell: that, and nothing else, is in the log.
    late = sum(program.said.count(f"{why}: ") for why in ("errors.ServiceExited", "errors.ConnectionClosed"))
    assert program.said.count("Traceback") == late, program.said[-3000:]
