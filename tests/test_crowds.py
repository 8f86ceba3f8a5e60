"""Crowds that behave badly: the server survives, keeps nothing of theirs, and whoever behaves well notices nothing."""

from __future__ import annotations

import json
import os
from time import monotonic

import gevent
import pytest
from gevent import socket
from programs import PATIENCE, free_port, python

import gws.client
from gws.stream import Plain, Stream

SECONDS = float(os.environ.get("GWS_LOAD_SECONDS", 2))
CLIENTS = int(os.environ.get("GWS_LOAD_CLIENTS", 300))


@pytest.fixture(params=["compiled", "plain"])
def server(request):
    if request.param == "compiled" and Stream is Plain:
        pytest.skip("there is no compiled stream here")
    port = free_port()
    environment = {"GWS_PURE": "1"} if request.param == "plain" else {}
    with python("tests/peers/counted.py", port, environment=environment) as program:
        program.wait_until_it_listens(port)
        yield program
        assert program.stop() == 0
        assert "Traceback" not in program.said
        assert "Assertion" not in program.said


def held(port):
    """Ask the server what it holds."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % port)
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    return json.loads(answer.partition(b"\r\n\r\n")[2])


def held_when_quiet(port, quiet):
    """Ask until it holds no more than `quiet`, for as long as PATIENCE lasts."""
    until = monotonic() + PATIENCE
    while (now := held(port)) != quiet and monotonic() < until:
        gevent.sleep(0.05)
    return now


def test_clients_that_drop_without_a_close(server):
    """No abort, no descriptor or greenlet kept; a steady client beside them never waits longer than a second."""
    with gevent.Timeout(PATIENCE):
        steady = gws.client.connect("127.0.0.1", server.port)
        steady.write("warm")
        steady.read()
    quiet = held(server.port)
    waits = []
    with python("tests/peers/droppers.py", server.port, CLIENTS, SECONDS) as crowd:
        crowd_over = gevent.spawn(crowd.wait)
        while not crowd_over.ready():
            began = monotonic()
            with gevent.Timeout(PATIENCE):
                steady.write("still there?")
                assert steady.read() == "still there?"
            waits.append(monotonic() - began)
            gevent.sleep(0.01)
        assert crowd_over.get() == 0, crowd.said
        assert int(crowd.said.split()[-1]) >= CLIENTS
    assert max(waits) < 1
    assert held_when_quiet(server.port, quiet) == quiet
    steady.close()
