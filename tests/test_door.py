"""gws.door: it opens connections, and leads nowhere else."""

from __future__ import annotations

import socket

import pytest

from gws import door as room
from gws import sockethelper
from gws.door import Door
from gws.errors import HandshakeError
from gws.server import Server
from gws.url import Target
from gws.websocket import WebSocket

pytestmark = pytest.mark.usefixtures("deadline")


def door(port, host="127.0.0.1", user="", secure=False):
    return Door(Target(secure, host, port, "/", user))


@pytest.fixture
def serve():
    """Return a function that starts a server with some handlers."""
    servers = []

    def start(options=None, **handlers):
        server = Server()
        for event, handler in handlers.items():
            server.on(event, handler)
        server.start("127.0.0.1", 0, **(options or {}))
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop(timeout=0)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.3.2.1", True), ("::1", True), ("192.0.2.1", False), ("0.0.0.0", False)],
)
def test_what_is_on_this_machine(host, loopback):
    assert door(80, host).loopback is loopback


def test_one_address_elsewhere_is_too_many(monkeypatch):
    found = [(socket.AF_INET, (each, 80)) for each in ("127.0.0.1", "192.0.2.1")]
    monkeypatch.setattr(sockethelper, "resolve", lambda *args: found)
    assert not door(80, "both.example").loopback


def test_the_address_that_answers_is_kept(monkeypatch, serve):
    port = serve().port
    found = [(socket.AF_INET, (each, port)) for each in ("127.0.0.2", "127.0.0.1")]
    ask, connect, asked = sockethelper.resolve, sockethelper.connect, []
    monkeypatch.setattr(
        sockethelper, "resolve", lambda host, *args: found if host == "two.example" else ask(host, *args)
    )
    monkeypatch.setattr(sockethelper, "connect", lambda host, port: asked.append(host) or connect(host, port))
    two = door(port, "two.example")
    for _ in range(2):
        two.open().close()
    assert asked == ["127.0.0.2", "127.0.0.1", "127.0.0.1"]


def test_nobody_there():
    with pytest.raises(ConnectionRefusedError):
        door(1).open()


def test_a_redirect_is_not_followed(serve):
    def elsewhere(fd, request):
        raise HandshakeError(302, "Found", [("Location", "ws://192.0.2.1/")])

    with pytest.raises(HandshakeError) as refused:
        door(serve(handshake=elsewhere).port).open()
    assert refused.value.status == 302


def test_a_server_that_says_nothing(monkeypatch):
    monkeypatch.setattr(room, "_PATIENCE", 0.02)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(TimeoutError):
        door(silent.getsockname()[1]).open()


def test_credentials(serve):
    seen = []
    server = serve(handshake=lambda fd, request: seen.append(request.headers["Authorization"]))
    door(server.port, user="name:word").open().close()
    assert seen == ["Basic bmFtZTp3b3Jk"]


def test_tls(serve, tls_contexts, monkeypatch):
    server, client = tls_contexts
    monkeypatch.setattr(sockethelper, "client_context", lambda: client)
    server = serve({"ssl": server}, message=WebSocket.write)
    fd = door(server.port, "localhost", secure=True).open()
    fd.write("hello")
    assert fd.read() == "hello"
    fd.close()
