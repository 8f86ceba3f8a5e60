"""nginx and HAProxy in front of gws, with the configurations of examples/deploy: what gets through, and what lasts."""

from __future__ import annotations

import os
import re
import ssl
from contextlib import contextmanager
from urllib.request import HTTPSHandler, ProxyHandler, build_opener

import gevent
import pytest
from conftest import until
from deploy import FRONTS, found, write_certificate
from gevent import get_hub
from programs import PATIENCE, Program, free_port

import gws.client
from gws.errors import ConnectionClosed, HandshakeError
from gws.server import Server

SHORT = "3s"  # the proxy's patience with a silent connection, where a test is about that
OFTEN = {"ping_interval": 0.1, "ping_timeout": 20}

MESSAGES = {
    "hello": "hello",
    "nothing": "",
    "text": "žluťoučký kůň 🐎",
    "bytes": bytes(range(256)),
    "large": os.urandom(1024 * 1024),
    "large text": "long " * 200_000,
}


@pytest.fixture(autouse=True)
def _deadline():
    with gevent.Timeout(PATIENCE * 2):
        yield


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """Return a folder with a certificate and its key, and with who vouches for it."""
    folder = tmp_path_factory.mktemp("certificate")
    write_certificate(folder)
    return folder


@pytest.fixture(params=FRONTS)
def front(request, tmp_path, certificate):
    """Return each of the proxies, to be configured and started."""
    if found(request.param) is None:
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing(f"there is no {request.param} here (.ci/run installs it)")
    (tmp_path / "both.pem").symlink_to(certificate / "both.pem")
    return FRONTS[request.param].of(tmp_path, free_port())


def beside(front):
    """Return another proxy of the same kind."""
    folder = front.folder / "other"
    folder.mkdir()
    (folder / "both.pem").symlink_to(front.folder / "both.pem")
    return front.of(folder, free_port())


@pytest.fixture
def connect(front, certificate):
    """Return a function that connects through the proxy, over TLS; what it opened is closed in the end."""
    context = ssl.create_default_context(cafile=certificate / "ca.pem")
    opened = []

    def connect(through=front, **options):
        opened.append(gws.client.connect(through.url, ssl=context, proxy=None, **options))
        return opened[-1]

    yield connect
    for client in opened:
        client.close()


class Echo:
    """A server behind a proxy: it echoes, and keeps what it was told."""

    def __init__(self, *, where, **options):
        self.closed = []
        self.server = Server()
        self.server.on("message", lambda fd, msg: fd.write(msg))
        self.server.on("disconnect", lambda fd, code, reason: self.closed.append((code, reason)))
        self.server.start(**where, **options)
        self.where = self.server.address
        self.on = self.server.on

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.stop()

    @property
    def fd(self):
        """The one connection."""
        (fd,) = self.server.fds
        return fd


def echo(**options):
    return Echo(where={"port": 0}, **options)


@contextmanager
def running(front, server, **changes):
    """Run the proxy before a server."""
    front.configure(server.where, **changes)
    with Program(*front.command) as program:
        program.wait_until_it_listens(front.port)
        yield program


def ended(client):
    """Read to the end: (code, reason)."""
    with pytest.raises(ConnectionClosed) as end:
        client.read()
    return end.value.code, end.value.reason


def test_the_proxy_has_nothing_against_its_configuration(front):
    front.configure(("127.0.0.1", free_port()))
    with Program(*front.command, front.check) as program:
        assert program.wait() == 0, program.said
    assert not re.search(r"warn|error|alert", program.said, re.IGNORECASE), program.said


# ---------------------------------------------------------------------------------------------------- what gets through


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_messages_pings_and_codes_get_through(front, connect, kind, tmp_path):
    where = {"port": 0} if kind == "tcp" else {"path": str(tmp_path / "gws.sock")}
    with Echo(where=where) as server, running(front, server):
        client = connect()
        for message in MESSAGES.values():
            client.write(message)
            assert client.read() == message
        assert client.ping() > 0
        assert server.fd.measure() > 0
        server.fd.close(4000, "enough")
        assert ended(client) == (4000, "enough")
        connect().close(4001, "of you, too")
        until(lambda: len(server.closed) == 2, PATIENCE)
        assert server.closed == [(4000, ""), (4001, "of you, too")]  # the answer to a Close repeats its code alone


def test_what_is_compressed_gets_through(front, connect):
    with echo() as server, running(front, server):
        client = connect()
        assert client.fd.deflate is not None
        client.write("again and " * 50_000)
        assert client.read() == "again and " * 50_000


def test_a_message_that_is_too_big_is_answered_with_its_code(front, connect):
    with echo(max_message=1000) as server, running(front, server):
        client = connect(compression=None)
        client.write(bytes(1001))
        assert ended(client)[0] == 1009


def test_a_refusal_gets_through(front, connect):
    with echo() as server, running(front, server):
        server.on("handshake", lambda fd, request: (401, {"WWW-Authenticate": "Bearer"}, "who are you?"))
        with pytest.raises(HandshakeError) as refusal:
            connect()
        assert refusal.value.status == 401
        assert "Bearer" in dict(refusal.value.headers).values()
        assert refusal.value.body == b"who are you?"


def test_plain_http_gets_through(front, certificate):
    context = ssl.create_default_context(cafile=certificate / "ca.pem")
    opener = build_opener(ProxyHandler({}), HTTPSHandler(context=context))

    def fetch():
        with opener.open(front.url.replace("wss", "https") + "/health", timeout=PATIENCE) as answer:
            return answer.status, answer.read()

    with echo() as server, running(front, server):
        server.on("http", lambda request: f"{request.path} is well")
        assert get_hub().threadpool.apply(fetch) == (200, b"/health is well")


# ------------------------------------------------------------------------------------------------------- who is who


def test_the_client_s_address_is_the_proxy_s_word_and_not_the_client_s(front, connect):
    with echo() as server, running(front, server):
        connect(headers={"X-Forwarded-For": "203.0.113.7"})
        headers = server.fd.request.headers
        assert headers.get_all("X-Forwarded-For") == ["127.0.0.1"]
        assert headers.get_all("X-Forwarded-Proto") == ["https"]


@pytest.mark.parametrize(("origin", "status"), [("https://localhost:{port}", 101), ("https://elsewhere.example", 403)])
def test_the_origin_is_compared_with_the_host_outside(front, connect, origin, status):
    with echo() as server, running(front, server):
        try:
            connect(origin=origin.format(port=front.port))
        except HandshakeError as refusal:
            assert refusal.status == status
        else:
            assert status == 101


@pytest.mark.parametrize(
    ("line", "instead", "status"),
    [
        ("proxy_http_version 1.1;", "", 505),
        ("proxy_set_header Upgrade $http_upgrade;", "", 426),
        ("proxy_set_header Connection $connection_upgrade;", "", 400),
        ("$http_host;", "$host;", 403),
    ],
    ids=["version", "Upgrade", "Connection", "Host"],
)
@pytest.mark.parametrize("front", ["nginx"], indirect=True)
def test_what_each_line_of_nginx_s_is_for(front, connect, line, instead, status):
    with echo() as server:
        front.configure(server.where)
        site = front.folder / "site.conf"
        site.write_text(site.read_text().replace(line, instead))
        with Program(*front.command) as program, pytest.raises(HandshakeError) as refusal:
            program.wait_until_it_listens(front.port)
            connect(origin=f"https://localhost:{front.port}")
    assert refusal.value.status == status


# ------------------------------------------------------------------------------------------------------- what lasts


def test_the_keepalive_outlasts_the_proxy_s_patience(front, connect):
    """One server pings and one does not: when the second's connection has been cut, the first's is well."""
    other = beside(front)
    with (
        echo(**OFTEN) as lively,
        echo(ping_interval=None) as silent,
        running(front, lively, timeout=SHORT),
        running(other, silent, timeout=SHORT),
    ):
        kept = connect(ping_interval=None)
        cut = connect(ping_interval=None, through=other)
        assert ended(cut)[0] == 1006
        until(lambda: silent.closed, PATIENCE)
        assert silent.closed[0][0] == 1006
        kept.write("still here")
        assert kept.read() == "still here"
        assert not lively.closed


def test_a_reload_brings_newcomers_to_another_server_and_leaves_the_others_alone(front, connect):
    with echo() as old, echo() as new, running(front, old) as program:
        early = connect()
        front.configure(new.where)
        front.reload(program.pid)
        until(lambda: connect().close() or new.closed, PATIENCE)
        early.write("still here")
        assert early.read() == "still here"
        old.server.stop()
        assert ended(early) == (1001, "")


def test_when_the_server_stops_everybody_is_told(front, connect):
    with echo() as server, running(front, server):
        clients = [connect() for _ in range(20)]
        assert server.server.stop() == []
        assert {ended(client) for client in clients} == {(1001, "")}


def test_behind_it_nobody_is_there(front, connect):
    with echo() as server, running(front, server):
        server.server.stop()
        with pytest.raises(HandshakeError) as refusal:
            connect()
        assert refusal.value.status in (502, 503)
