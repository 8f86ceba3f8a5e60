"""simple-websocket's names over gws: its two sides, under each server in whose environ it found a socket."""

from __future__ import annotations

import asyncio
import gc
import ssl
import struct
import weakref

import gevent
import gevent.event
import gevent.socket
import gevent.ssl
import pytest
import trustme
from by_hand import Peer
from conftest import turns, until
from gevent.pywsgi import WSGIHandler, WSGIServer

import gws.client
import gws.server
import gws.wsgi
from gws import drop_in
from gws.drop_in import simple_websocket
from gws.drop_in.geventwebsocket.handler import WebSocketHandler as Older
from gws.drop_in.simple_websocket import AioClient, AioServer, Client, ConnectionClosed, ConnectionError, Server
from gws.drop_in.simple_websocket.errors import SimpleWebsocketError
from gws.errors import HandshakeError
from gws.frame import BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, TEXT, encode_close

pytestmark = pytest.mark.usefixtures("deadline")

HANDLERS = {
    "pywsgi's own": WSGIHandler,
    "gws's": gws.wsgi.WebSocketHandler,
    "gws's, by hand": type("ByHand", (gws.wsgi.WebSocketHandler,), {"automatic": False}),
    "geventwebsocket's": Older,
}


@pytest.fixture
def serve():
    """Return a function that starts a server and returns it."""
    made = []

    def start(app, handler_class=WSGIHandler, **options):
        server = WSGIServer(("127.0.0.1", 0), app, handler_class=handler_class, log=None, error_log=None, **options)
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

    def connect(server, more="", status=101, behind=()):
        sock = gevent.socket.create_connection(("127.0.0.1", server.server_port), 5)
        sock.settimeout(10)
        made.append(sock)
        other = Peer(sock, server=False)
        sock.sendall(
            b"GET /chat?x=1 HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            + more.encode()
            + b"\r\n"
            + other.wire(*behind)
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += sock.recv(1)
        assert head.startswith(b"HTTP/1.1 %d " % status), head
        other.head = head.decode("latin-1")
        return other

    yield connect
    for sock in made:
        sock.close()


@pytest.fixture
def held(serve, peer):
    """Return a function that returns (their Server, its other end); `accept` is told the options."""
    gates = []

    def open(more="", behind=(), **options):
        got, gate = [], gevent.event.Event()
        gates.append(gate)

        def app(environ, start_response):
            got.append(Server.accept(environ, **options))
            gate.wait()
            return []

        other = peer(serve(app), more, behind=behind)
        return until(lambda: got)[0], other

    yield open
    for gate in gates:
        gate.set()


def close(other, code=1000, reason=""):
    other.say((FIN | CLOSE, encode_close(code, reason)))


def echo(environ, start_response):
    """An application in the manner of flask-sock."""
    ws = Server(environ)
    try:
        while True:
            ws.send(ws.receive())
    except ConnectionClosed:
        pass
    return []


@pytest.mark.parametrize("kind", HANDLERS)
def test_echo(serve, kind):
    client = gws.client.connect(f"ws://127.0.0.1:{serve(echo, HANDLERS[kind]).server_port}/")
    for message in ("text", b"bytes", "", "x" * 100_000):
        client.write(message)
        assert client.read() == message
    client.close()
    assert client.fd.code == 1000


@pytest.mark.parametrize("kind", HANDLERS)
def test_frames_in_the_requests_own_segment(serve, peer, kind):
    other = peer(serve(echo, HANDLERS[kind]), behind=[(FIN | TEXT, b"early")])
    assert other.hear() == (FIN | TEXT, b"early")


@pytest.mark.parametrize("kind", ["pywsgi's own", "gws's"])
def test_by_tls(serve, kind):
    authority = trustme.CA()
    ours, theirs = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert("localhost").configure_cert(ours)
    authority.configure_trust(theirs)
    server = serve(echo, HANDLERS[kind], ssl_context=ours)
    ws = Client(f"wss://localhost:{server.server_port}/", ssl_context=theirs)
    for message in ("sealed", bytes(200_000)):
        ws.send(message)
        assert ws.receive(timeout=5) == message
    ws.close()
    assert ws.close_reason == 1000


def test_what_is_known(held):
    ws, other = held()
    assert (ws.mode, ws.connected, ws.subprotocol) == ("gevent", True, None)
    assert (ws.close_reason, ws.close_message) == (1005, None)
    assert ws.environ["PATH_INFO"] == "/chat"
    assert ws.fd.request.target == "/chat?x=1"
    ws.handshake()
    assert other.head.startswith("HTTP/1.1 101")


@pytest.mark.parametrize(
    ("ours", "offered", "agreed"),
    [
        (["b", "a"], "a, b", "a"),
        ("b", "a, b", "b"),
        (["c"], "a, b", None),
        (None, "a", None),
        (["a"], None, None),
    ],
)
def test_subprotocols(held, ours, offered, agreed):
    ws, other = held(f"Sec-WebSocket-Protocol: {offered}\r\n" if offered else "", subprotocols=ours)
    assert ws.subprotocol == agreed
    said = [line.partition(": ")[2] for line in other.head.split("\r\n") if line.startswith("Sec-WebSocket-Protocol")]
    assert said == ([agreed] if agreed else [])


def test_choose_subprotocol_may_be_overridden(serve, peer):
    asked = []

    class Last(Server):
        def choose_subprotocol(self, request):
            asked.append((request.host, request.target, dict(request.extra_headers)["SEC-WEBSOCKET-VERSION"]))
            return request.subprotocols[-1]

    got = []
    other = peer(serve(lambda environ, _: got.append(Last(environ)) or []), "Sec-WebSocket-Protocol: a, b\r\n")
    assert "Sec-WebSocket-Protocol: b\r\n" in other.head
    assert asked == [("localhost", "/chat?x=1", "13")]
    other.close()
    until(lambda: not got[0].connected)


def test_receive(held):
    ws, other = held()
    other.say((FIN | TEXT, b"text"), (FIN | BINARY, b"bytes"), (TEXT, b"a"), (FIN | CONTINUATION, b"b"))
    assert [ws.receive(), ws.receive(timeout=5), ws.receive()] == ["text", b"bytes", "ab"]


def test_receive_with_a_timeout(held):
    ws, other = held()
    assert ws.receive(timeout=0) is None
    assert ws.receive(timeout=0.001) is None
    other.say((FIN | TEXT, b"late"))
    assert ws.receive(timeout=5) == "late"


def test_the_end_is_noticed_without_receive(held):
    ws, other = held()
    other.say((FIN | PING, b"p"), (FIN | TEXT, b"before"), (FIN | CLOSE, encode_close(4000, "bye")))
    assert other.hear() == (FIN | PONG, b"p")
    until(lambda: not ws.connected)
    assert ws.receive() == "before"
    for verb in (ws.receive, ws.close, lambda: ws.send("x")):
        with pytest.raises(ConnectionClosed, match="Connection closed: 4000 bye") as caught:
            verb()
        assert (caught.value.reason, caught.value.message) == (4000, "bye")
    assert other.hear() == (FIN | CLOSE, struct.pack("!H", 4000))
    assert other.hear() is None


def test_a_peer_that_leaves(held):
    ws, other = held()
    other.close()
    with pytest.raises(ConnectionClosed) as caught:
        ws.receive()
    assert caught.value.reason == 1006


def test_send(held):
    ws, other = held()
    for message in ("text", b"bytes", 7):
        ws.send(message)
    frames = [other.hear() for _ in range(3)]
    assert frames == [(FIN | TEXT, b"text"), (FIN | BINARY, b"bytes"), (FIN | TEXT, b"7")]


@pytest.mark.parametrize(
    ("args", "payload"),
    [
        ({}, encode_close(1000)),
        ({"reason": 1001}, encode_close(1001)),
        ({"reason": 4000, "message": "bye"}, encode_close(4000, "bye")),
    ],
)
def test_close(held, greenlets, args, payload):
    ws, other = held()
    closing = greenlets(ws.close, **args)
    assert other.hear() == (FIN | CLOSE, payload)
    assert not ws.connected
    other.say((FIN | CLOSE, payload))
    closing.join()
    assert other.hear() is None


@pytest.mark.parametrize("kind", HANDLERS)
def test_max_message_size(serve, peer, kind):
    ends = []

    def app(environ, start_response):
        ws = Server(environ, max_message_size=3)
        with pytest.raises(ConnectionClosed) as caught:
            while True:
                ws.send(ws.receive())
        ends.append(caught.value.reason)
        return []

    other = peer(serve(app, HANDLERS[kind]))
    other.say((FIN | TEXT, b"123"))
    assert other.hear() == (FIN | TEXT, b"123")
    other.say((FIN | TEXT, b"1234"))
    first, payload = other.hear()
    assert (first, payload[:2]) == (FIN | CLOSE, struct.pack("!H", 1009))
    other.close()
    assert until(lambda: ends) == [1009]


def test_ping_interval(held):
    ws, other = held(ping_interval=0.05)
    assert other.hear()[0] == FIN | PING
    while (frame := other.hear())[0] == FIN | PING:
        pass  # no answers
    assert frame[1][:2] == struct.pack("!H", 1011)
    with pytest.raises(ConnectionClosed):
        ws.receive()


def test_the_classes_of_threads_have_no_use(held):
    ws, other = held(thread_class=object, event_class=object, selector_class=object, receive_bytes=1)
    ws.send("x")
    assert other.hear() == (FIN | TEXT, b"x")


def test_nothing_but_the_websocket_goes_over_its_socket(serve, peer):
    """Neither what the application returns, nor what a peer sends behind its Close as if it were a next request."""
    requests = []

    def app(environ, start_response):
        requests.append(environ["PATH_INFO"])
        ws = Server(environ)
        ws.receive()
        ws.close()
        start_response("200 OK", [])
        return [b"HTTP"]

    other = peer(serve(app))
    other.say((FIN | TEXT, b"x"))
    assert other.hear() == (FIN | CLOSE, encode_close(1000))
    other.sock.sendall(other.wire((FIN | CLOSE, encode_close(1000))) + b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")
    assert other.hear() is None
    turns(10)
    assert requests == ["/chat"]


def test_the_connection_outlives_the_application(serve, peer):
    got = []
    other = peer(serve(lambda environ, _: got.append(Server(environ)) or []))
    until(lambda: got)
    turns()
    got[0].send("still here")
    assert other.hear() == (FIN | TEXT, b"still here")
    close(other)
    until(lambda: not got[0].connected)


@pytest.mark.parametrize("kind", HANDLERS)
def test_a_refused_handshake(serve, peer, kind):
    raised = []

    def app(environ, start_response):
        try:
            Server(environ)
        except ConnectionError as error:
            raised.append(error.status_code)
            raise HandshakeError(400, "refused") from error

    class Silent(HANDLERS[kind]):
        def _log_error(self, t, v, tb):
            pass

    server = serve(app, Silent)
    peer(server, "Sec-WebSocket-Protocol: ,\r\n", status=400)
    until(lambda: raised == [400] or kind in ("gws's", "geventwebsocket's"))


@pytest.mark.parametrize(
    "end", [(FIN | CLOSE, encode_close(1000)), (FIN | 3, b""), (FIN | TEXT, b"\xff"), None], ids=str
)
def test_it_is_freed_at_once(serve, peer, end):
    alive = []

    def app(environ, start_response):
        ws = Server(environ)
        alive.extend([weakref.ref(ws), weakref.ref(ws.fd)])
        with pytest.raises(ConnectionClosed):
            ws.receive()
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
    drop_in.install(origins=["http://here"])
    try:
        with pytest.raises(HandshakeError, match="403"):
            gws.client.connect(url, origin="http://elsewhere")
    finally:
        drop_in.uninstall()


def test_where_there_is_no_socket():
    for environ in ({}, {"SERVER_SOFTWARE": "gevent/1"}, {"SERVER_SOFTWARE": "other", "wsgi.input": object()}):
        with pytest.raises(RuntimeError, match="Cannot obtain socket"):
            Server(environ)


# ---------------------------------------------------------------------------------------------- the client


@pytest.fixture
def echo_server():
    """An echo server of gws's, that speaks `a`."""
    server = gws.server.Server()
    server.on("message", lambda fd, message: fd.close(4000, "bye") if message == "close" else fd.write(message))
    server.on("handshake", lambda fd, request: request.path != "/no")
    server.start("127.0.0.1", 0, protocols=["a"], origins="*")
    yield f"127.0.0.1:{server.address[1]}"
    server.stop(timeout=0.1)


@pytest.mark.parametrize("scheme", ["ws", "http"])
def test_client(echo_server, scheme):
    ws = Client.connect(f"{scheme}://{echo_server}/x?y=1", subprotocols=["b", "a"], headers={"X-More": "1"})
    assert (ws.connected, ws.subprotocol, ws.host, ws.path) == (True, "a", "127.0.0.1", "/x?y=1")
    ws.send("text")
    ws.send(b"bytes")
    assert [ws.receive(), ws.receive()] == ["text", b"bytes"]
    assert ws.receive(timeout=0.001) is None
    ws.close()
    assert not ws.connected
    with pytest.raises(ConnectionClosed):
        ws.send("x")
    with pytest.raises(ConnectionClosed):
        ws.close()


def test_client_when_the_server_closes(echo_server):
    ws = Client(f"ws://{echo_server}/", subprotocols="a", headers=[("X-More", "1")])
    ws.send("close")
    with pytest.raises(ConnectionClosed) as caught:
        ws.receive()
    assert (caught.value.reason, caught.value.message) == (4000, "bye")


def test_client_that_is_refused(echo_server):
    with pytest.raises(ConnectionError) as caught:
        Client(f"ws://{echo_server}/no")
    assert caught.value.status_code == 403


def test_client_that_reaches_nobody(echo_server):
    with gevent.socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        with pytest.raises(OSError):
            Client(f"ws://127.0.0.1:{sock.getsockname()[1]}/")


# ---------------------------------------------------------------------------------------------- the rest


def test_errors():
    assert issubclass(ConnectionClosed, SimpleWebsocketError)
    assert issubclass(ConnectionError, SimpleWebsocketError)
    assert issubclass(SimpleWebsocketError, RuntimeError)
    assert (ConnectionClosed().reason, ConnectionClosed().message) == (1005, None)
    assert str(ConnectionError(403)) == "Connection error: 403"


@pytest.mark.parametrize("cls", [AioServer, AioClient])
def test_asyncios_side_says_why_it_is_not_there(cls):
    assert getattr(simple_websocket, cls.__name__) is cls
    for verb in (cls, cls.accept, cls.connect):
        with pytest.raises(NotImplementedError, match=f"simple_websocket.{cls.__name__} runs on asyncio"):
            asyncio.run(verb("ws://x"))
