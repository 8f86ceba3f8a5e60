"""gevent_ws's names over gws: what its handler and its connection did, as far as RFC 6455 has nothing against it."""

from __future__ import annotations

import gc
import socket
import struct
import weakref

import gevent
import gevent.event
import gevent.socket
import pytest
from by_hand import Peer
from conftest import turns, until
from gevent.pywsgi import WSGIServer
from gevent.queue import Empty

import gws.client
from gws import drop_in
from gws.drop_in.gevent_ws import WebSocket, WebSocketHandler
from gws.errors import ConnectionClosed, HandshakeError
from gws.frame import BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, TEXT, encode_close

pytestmark = pytest.mark.usefixtures("deadline")


@pytest.fixture
def serve():
    """Return a function that starts a server with a handler of theirs, and returns it."""
    made = []

    def start(app, handler_class=WebSocketHandler):
        server = WSGIServer(("127.0.0.1", 0), app, handler_class=handler_class, log=None, error_log=None)
        server.start()
        made.append(server)
        return server

    yield start
    for server in made:
        server.stop(timeout=2)


@pytest.fixture
def peer():
    """Return a function that opens a connection to a server, and returns its other end; the 101 is in `head`."""
    made = []

    def connect(server, more="", status=101):
        sock = gevent.socket.create_connection(("127.0.0.1", server.server_port), 5)
        sock.settimeout(10)
        made.append(sock)
        sock.sendall(
            b"GET /chat HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n" + more.encode() + b"\r\n"
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += sock.recv(1)
        assert head.startswith(b"HTTP/1.1 %d " % status)
        other = Peer(sock, server=False)
        other.head = head
        return other

    yield connect
    for sock in made:
        sock.close()


@pytest.fixture
def held(serve, peer):
    """Return a function that returns (their WebSocket, its other end)."""
    gates = []

    def open(**headers):
        got, gate = [], gevent.event.Event()
        gates.append(gate)

        def app(environ, start_response):
            got.append(environ["wsgi.websocket"])
            gate.wait()
            return []

        other = peer(serve(app), "".join(f"{name}: {value}\r\n" for name, value in headers.items()))
        return until(lambda: got)[0], other

    yield open
    for gate in gates:
        gate.set()


def close(other, code=1000):
    other.say((FIN | CLOSE, encode_close(code)))


def echo(environ, start_response):
    ws = environ["wsgi.websocket"]
    while (message := ws.receive()) is not None:
        ws.send(message)
    return []


def test_echo(serve):
    client = gws.client.connect(f"ws://127.0.0.1:{serve(echo).server_port}/")
    for message in ("text", b"bytes", "", "x" * 100_000):
        client.write(message)
        assert client.read() == message
    client.close()


def test_what_is_known(held):
    ws, _ = held(Origin="http://elsewhere")
    assert type(ws) is WebSocket
    assert (ws.path, ws.origin, ws.version, ws.protocol) == ("/chat", "http://elsewhere", "13", None)
    assert (ws.closed, ws.status) == (False, None)


def test_socket(held):
    ws, other = held()
    assert ws.socket.getpeername() == other.sock.getsockname()
    assert ws.socket.getsockname() == other.sock.getpeername()
    assert ws.socket.fileno() >= 0
    ws.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    assert ws.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    ws.socket.settimeout(0.001)
    with pytest.raises(TimeoutError):
        ws.receive()
    ws.socket.close()
    assert ws.receive() is None
    assert other.hear() == (FIN | CLOSE, encode_close(1001))
    assert other.hear() is None
    assert ws.socket.fileno() == -1
    with pytest.raises(OSError, match="closed"):
        ws.socket.getpeername()


def test_the_protocol_is_what_was_offered(serve, peer):
    seen = []

    def app(environ, start_response):
        seen.append(environ["wsgi.websocket"].protocol)
        return []

    assert peer(serve(app), "Sec-WebSocket-Protocol: a, b\r\n").hear()[0] == FIN | CLOSE
    assert seen == ["a, b"]


def test_receive(held):
    ws, other = held()
    other.say((FIN | TEXT, b"text"), (FIN | BINARY, b"bytes"), (TEXT, b"a"), (FIN | CONTINUATION, b"b"))
    assert [ws.receive(), ws.receive(), ws.receive()] == ["text", b"bytes", "ab"]


def test_receive_nowait(held):
    ws, other = held()
    with pytest.raises(Empty):
        ws.receive_nowait()
    other.say((FIN | TEXT, b"x"), (FIN | CLOSE, encode_close(1000)))
    until(lambda: ws.closed)
    assert ws.receive_nowait() == "x"
    assert ws.receive_nowait() is None


def test_the_end_is_noticed_without_receive(held):
    ws, other = held()
    other.say((FIN | PING, b"p"))
    assert other.hear() == (FIN | PONG, b"p")
    close(other, 4000)
    until(lambda: ws.closed)
    assert ws.status == 4000
    assert other.hear() == (FIN | CLOSE, struct.pack("!H", 4000))
    for _ in range(2):
        assert ws.receive() is None
    with pytest.raises(EOFError):
        ws.send("x")


def test_a_peer_that_leaves(held):
    ws, other = held()
    other.close()
    assert ws.receive() is None
    assert (ws.closed, ws.status) == (True, None)


def test_messages_before_the_end_are_received(held):
    ws, other = held()
    other.say((FIN | TEXT, b"1"), (FIN | TEXT, b"2"), (FIN | CLOSE, b""))
    until(lambda: ws.closed)
    assert [ws.receive(), ws.receive(), ws.receive()] == ["1", "2", None]
    assert ws.status is None


@pytest.mark.parametrize(
    ("frame", "code"), [((FIN | 3, b""), 1002), ((FIN | TEXT, b"\xff"), 1007), ((FIN | CONTINUATION, b""), 1002)]
)
def test_violations(held, frame, code):
    ws, other = held()
    other.say(frame)
    first, payload = other.hear()
    assert (first, payload[:2]) == (FIN | CLOSE, struct.pack("!H", code))
    other.close()
    assert ws.receive() is None


def test_send(held):
    ws, other = held()
    ws.send("text")
    ws.send(b"bytes")
    assert [other.hear(), other.hear()] == [(FIN | TEXT, b"text"), (FIN | BINARY, b"bytes")]
    with pytest.raises(TypeError):
        ws.send(7)


def test_close(held, greenlets):
    ws, other = held()
    closing = greenlets(ws.close, 4001)
    assert other.hear() == (FIN | CLOSE, encode_close(4001))
    assert ws.closed
    with pytest.raises(EOFError):
        ws.send("x")
    close(other, 4001)
    closing.join()
    assert other.hear() is None
    ws.close()


def test_close_by_its_keyword(held, greenlets):
    ws, other = held()
    greenlets(ws.close, status=1001)
    assert other.hear() == (FIN | CLOSE, encode_close(1001))
    close(other, 1001)


def test_set_max_message_length(held):
    ws, other = held()
    ws.set_max_message_length(3)
    other.say((FIN | TEXT, b"123"), (FIN | TEXT, b"1234"))
    assert ws.receive() == "123"
    first, payload = other.hear()
    assert (first, payload[:2]) == (FIN | CLOSE, struct.pack("!H", 1009))
    other.close()


def test_settimeout(held):
    ws, other = held()
    ws.settimeout(0.001)
    with pytest.raises(TimeoutError):
        ws.receive()
    other.say((FIN | TEXT, b"late"))
    ws.settimeout(5)
    assert ws.receive() == "late"


def test_gwss_own_calls_are_there(held):
    ws, other = held()
    ws.write("y")
    other.say((FIN | TEXT, b"x"), (FIN | TEXT, b"z"), (FIN | CLOSE, b""))
    assert ws.read() == "x"
    assert list(ws) == ["z"]
    assert other.hear() == (FIN | TEXT, b"y")
    with pytest.raises(ConnectionClosed):
        ws.read()


def test_it_reads_ahead_within_bounds(held, greenlets):
    ws, other = held()
    sending = greenlets(other.say, *[(FIN | BINARY, bytes(1 << 16))] * 200)
    until(lambda: ws.stream.received > 1 << 20)
    turns(20)
    assert ws.stream.received < 8 << 20, "TCP holds the peer back"
    assert not sending.dead
    for _ in range(200):
        assert ws.receive() == bytes(1 << 16)


def test_a_subclass_finds_the_connection_in_run_application(serve, peer):
    seen = []

    class Handler(WebSocketHandler):
        def run_application(self):
            seen.append(type(self.environ["wsgi.websocket"]))
            self.environ["wsgi.websocket"].send("before the app")
            super().run_application()

        def start_response(self, status, headers, exc_info=None):
            seen.append((status, sorted(name.lower() for name, _ in headers)))
            return super().start_response(status, headers, exc_info)

    def app(environ, start_response):
        environ["wsgi.websocket"].send("in the app")
        start_response("200 OK", [])
        return [b"goes nowhere"]

    other = peer(serve(app, Handler))
    assert [other.hear(), other.hear()] == [(FIN | TEXT, b"before the app"), (FIN | TEXT, b"in the app")]
    assert other.hear() == (FIN | CLOSE, encode_close(1000))
    close(other)
    assert other.hear() is None
    assert seen[:2] == [
        ("101 Switching Protocols", ["connection", "sec-websocket-accept", "upgrade"]),
        WebSocket,
    ]


def test_a_subclass_need_not_call_ours(serve, peer):
    class Handler(WebSocketHandler):
        def run_application(self):
            self.environ["wsgi.websocket"].send("instead of the app")

    other = peer(serve(lambda *args: 1 / 0, Handler))
    assert other.hear() == (FIN | TEXT, b"instead of the app")
    assert other.hear() == (FIN | CLOSE, encode_close(1000))


def test_generators_run(serve, peer):
    def app(environ, start_response):
        yield b"nobody reads this"
        environ["wsgi.websocket"].send("from a generator")

    assert peer(serve(app)).hear() == (FIN | TEXT, b"from a generator")


def test_plain_requests(serve, peer):
    def app(environ, start_response):
        start_response("200 OK", [])
        return [b"plain"]

    server = serve(app)
    sock = gevent.socket.create_connection(("127.0.0.1", server.server_port), 5)
    sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    answer = b"".join(iter(lambda: sock.recv(65536), b""))
    sock.close()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"plain")


def test_a_refused_handshake(serve, peer):
    called = []
    peer(serve(lambda *args: called.append(1)), "Sec-WebSocket-Protocol: ,\r\n", status=400)
    assert not called


def test_an_application_that_sends_after_the_end_is_no_failure(serve, peer):
    errors, ended = [], []

    class Handler(WebSocketHandler):
        def _log_error(self, t, v, tb):
            errors.append(t)

        def log_request(self):
            ended.append(1)

    def app(environ, start_response):
        assert environ["wsgi.websocket"].receive() is None
        environ["wsgi.websocket"].send("x")

    other = peer(serve(app, Handler))
    close(other)
    assert other.hear_all() == [(FIN | CLOSE, struct.pack("!H", 1000))]
    until(lambda: ended)
    assert not errors


def test_an_application_that_raises_is_a_1011(serve, peer):
    errors = []

    class Handler(WebSocketHandler):
        def _log_error(self, t, v, tb):
            errors.append(t)

    other = peer(serve(lambda *args: 1 / 0, Handler))
    assert other.hear() == (FIN | CLOSE, encode_close(1011, "the server has failed"))
    close(other, 1011)
    assert other.hear() is None
    assert until(lambda: errors) == [ZeroDivisionError]


@pytest.mark.parametrize(
    "end", [(FIN | CLOSE, encode_close(1000)), (FIN | 3, b""), (FIN | TEXT, b"\xff"), None], ids=str
)
def test_it_is_freed_at_once(serve, peer, end):
    alive = []

    def app(environ, start_response):
        ws = environ["wsgi.websocket"]
        alive.append(weakref.ref(ws))
        assert ws.receive() is None
        return []

    other = peer(serve(app))
    gc.disable()
    try:
        until(lambda: alive)
        if end is not None:
            other.say(end)
            assert other.hear()[0] == FIN | CLOSE
        other.close()
        until(lambda: not any(ref() for ref in alive))
    finally:
        gc.enable()


def test_origins(serve):
    url = f"ws://127.0.0.1:{serve(echo).server_port}/"
    gws.client.connect(url, origin="http://elsewhere").close()
    drop_in.install(origins=None)
    try:
        with pytest.raises(HandshakeError, match="403"):
            gws.client.connect(url, origin="http://elsewhere")
    finally:
        drop_in.uninstall()


def test_options_of_a_subclass(serve):
    handler_class = WebSocketHandler.with_options(origins="http://here")
    with pytest.raises(HandshakeError, match="403"):
        gws.client.connect(f"ws://127.0.0.1:{serve(echo, handler_class).server_port}/", origin="http://elsewhere")
