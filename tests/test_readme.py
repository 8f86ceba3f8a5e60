"""The README is true: every block of code in it runs as it reads, and its links lead somewhere."""

from __future__ import annotations

import dataclasses
import re
import shlex

import gevent
import pytest
from programs import PATIENCE, ROOT, free_port, python

import gws.client
import gws.server
from gws.websocket import Limits

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.M | re.S)
PROGRAMS = [code for language, code in BLOCKS if language == "python"]
SERVERS = [code for code in PROGRAMS if "server.listen" in code]
CLIENTS = [code for code in PROGRAMS if "gws.client" in code]
GATEWAYS = [code for code in PROGRAMS if "gws.watchdog" in code]
APPS = [code for code in PROGRAMS if "WSGIServer" in code]


def run(code, port):
    return python("-c", code.replace("8888", str(port)))


def test_there_is_nothing_in_it_that_is_not_run():
    assert len(SERVERS) + len(CLIENTS) + len(APPS) + len(GATEWAYS) == len(PROGRAMS) >= 6
    assert {language for language, _ in BLOCKS} == {"python", "console"}


@pytest.mark.parametrize("code", SERVERS, ids=range(len(SERVERS)))
def test_server(code):
    port = free_port()
    with run(code, port) as program, gevent.Timeout(PATIENCE):
        program.wait_until_it_listens(port)
        client = gws.client.connect("127.0.0.1", port)
        for message in ("hello", b"\x00\xff", ""):
            client.write(message)
            assert client.read() == message
        client.close()
        assert program.stop() == 0, program.said
    assert "Traceback" not in program.said


@pytest.mark.parametrize("code", APPS + GATEWAYS, ids=range(len(APPS + GATEWAYS)))
def test_app(code):
    port = free_port()
    with run(code, port) as program, gevent.Timeout(PATIENCE):
        program.wait_until_it_listens(port)
        client = gws.client.connect("127.0.0.1", port)
        client.write("hello")
        assert client.read() == "hello"
        client.close()
    assert "Traceback" not in program.said


@pytest.mark.parametrize("code", CLIENTS, ids=range(len(CLIENTS)))
def test_client(code):
    server = gws.server.Server()
    server.on("message", lambda fd, msg: fd.write(msg))
    server.start(port=0)
    try:
        with run(code, server.port) as program, gevent.Timeout(PATIENCE):
            while program.read_line():
                pass
            assert "hello" in program.said
            assert "Traceback" not in program.said
    finally:
        server.stop()


def test_the_two_commands_are_one_line_each():
    install, test = (code.strip() for language, code in BLOCKS if language == "console")
    assert shlex.split(install)[-1] == "examples/echoserver.py"
    assert shlex.split(test)[-2:] == ["-m", "pytest"]
    assert "\n" not in install + test


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_every_option_is_in_it():
    for options in (Limits, gws.server.Options, gws.client.Options):
        for field in dataclasses.fields(options):
            assert f"`{field.name}`" in README, field.name


@pytest.mark.parametrize("event", [*gws.server.EVENTS])
def test_every_event_is_in_it(event):
    assert f"`{event}`" in README
