"""gevent-websocket's names over gws: its hooks and their order, its calls, and what its own tests meant.

Its repository has had two suites.  `tests/test__websocket.py` (until 2012) spoke drafts 75 and 76, which RFC 6455 has
replaced; `tests/run_autobahn_tests.py` runs Autobahn's fuzzing client against `examples/echoserver.py`.  Case by case:

    theirs                               here
    TestWebSocket.test_basic             test_echo, test_the_101
    TestWebSocket.test_10000_messages    test_10000_messages
    TestWebSocket.test_badrequest        test_a_plain_request_is_the_applications
    TestWebSocket.test_oldprotocol_version  test_refusals, "a draft of before"
    TestWebSocket.test_protocol_version75   test_refusals, "draft 75"
    run_autobahn_tests: /version         test_version
    run_autobahn_tests: cases 1 to 10    test_autobahns_intent; all of them by tests/autobahn/run.py, on the same reader
"""

from __future__ import annotations

import gc
import json
import re
import ssl
import struct
import weakref

import gevent
import gevent.socket
import gevent.ssl
import pytest
import trustme
from by_hand import Peer
from conftest import turns, until
from gevent.pywsgi import WSGIServer

import gws.client
from gws import drop_in, leaving
from gws.drop_in import geventwebsocket
from gws.drop_in.geventwebsocket import (
    Resource,
    WebSocketApplication,
    WebSocketError,
    WebSocketServer,
    exceptions,
    get_version,
    handler,
    utils,
    websocket,
)
from gws.drop_in.geventwebsocket import logging as logs
from gws.drop_in.geventwebsocket.handler import WebSocketHandler
from gws.drop_in.geventwebsocket.protocols.base import BaseProtocol
from gws.drop_in.geventwebsocket.protocols.wamp import Channels, Prefixes, RemoteProcedures, WampProtocol, export_rpc
from gws.drop_in.geventwebsocket.utf8validator import UTF8_ACCEPT, UTF8_REJECT, Utf8Validator
from gws.drop_in.geventwebsocket.websocket import Header, Stream, WebSocket
from gws.errors import ConnectionClosed, HandshakeError
from gws.frame import BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, TEXT, encode_close
from gws.wsgi import handlers

pytestmark = pytest.mark.usefixtures("deadline")

HEAD = (
    "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
)


def echo(environ, start_response):
    """Their example's application."""
    ws = environ.get("wsgi.websocket")
    if ws is None:
        start_response("400 Bad Request", [("Content-Type", "text/plain")])
        return [b"WebSocket connection is expected here."]
    while True:
        message = ws.receive()
        if message is None:
            return []
        ws.send(message)


@pytest.fixture
def serve():
    """Return a function that starts a server of theirs and returns it; `app` is told to by `handler_class` and so on."""
    made = []

    def start(app=echo, server_class=WebSocketServer, **options):
        options = {"log": None, "error_log": None} | options
        server = server_class(("127.0.0.1", 0), app, **options)
        server.start()
        made.append(server)
        return server

    yield start
    for server in made:
        server.stop(timeout=2)


@pytest.fixture
def dial():
    """Return a function that connects to a server with a plain socket, and says what it is given."""
    made = []

    def connect(server, head=None, path="/", more=""):
        sock = gevent.socket.create_connection(("127.0.0.1", server.server_port), 5)
        sock.settimeout(10)
        made.append(sock)
        sock.sendall((HEAD.format(path=path, more=more) if head is None else head).encode("latin-1"))
        return sock

    yield connect
    for sock in made:
        sock.close()


def read_head(sock):
    """Return the status and the header fields of a response, and leave what follows."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        piece = sock.recv(1)
        assert piece, f"the end came after {data!r}"
        data += piece
    lines = data.decode("latin-1").split("\r\n")[:-2]
    return int(lines[0].split(" ")[1]), {
        name.lower(): value for name, _, value in (x.partition(": ") for x in lines[1:])
    }


def read_all(sock):
    return b"".join(iter(lambda: sock.recv(65536), b""))


@pytest.fixture
def peer(dial):
    """Return a function that opens a connection and returns its other end, frame by frame."""

    def connect(server, path="/", more=""):
        sock = dial(server, path=path, more=more)
        assert read_head(sock)[0] == 101
        return Peer(sock, server=False)

    return connect


def url(server, path="/"):
    return f"ws://127.0.0.1:{server.server_port}{path}"


# ---------------------------------------------------------------------------------------------- their suites' intent


@pytest.mark.parametrize("message", ["", "Hello world", "ärgerlich €", b"", b"\x00\xff", "x" * 70_000, bytes(200_000)])
def test_echo(serve, message):
    server = serve()
    client = gws.client.connect(url(server))
    client.write(message)
    assert client.read() == message
    client.close()


def test_the_101(serve, dial):
    server = serve()
    status, fields = read_head(dial(server, more="Origin: http://localhost\r\nSec-WebSocket-Protocol: test\r\n"))
    assert status == 101
    assert fields == {
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",  # RFC 6455 section 1.3
    }


def test_10000_messages(serve):
    server = serve()
    client = gws.client.connect(url(server))
    for number in range(10_000):
        client.write("Hello world")
        assert client.read() == "Hello world", number
    client.close()


def test_a_plain_request_is_the_applications(serve, dial):
    sock = dial(serve(), "GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert read_head(sock)[0] == 400
    assert read_all(sock) == b"WebSocket connection is expected here."


REFUSED = {
    "a draft of before": ("Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key", "Sec-WebSocket-Key1", 426),
    "draft 75": ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n", "", 426),
    "draft 8": ("Version: 13", "Version: 8", 426),
    "draft 7": ("Version: 13", "Version: 7", 426),
    "no version": ("Sec-WebSocket-Version: 13\r\n", "", 426),
    "no key": ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "", 400),
    "an empty key": ("dGhlIHNhbXBsZSBub25jZQ==", "", 400),
    "no base64": ("dGhlIHNhbXBsZSBub25jZQ==", "?", 400),
    "a short key": ("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ=", 400),
    "HTTP/1.0": ("HTTP/1.1", "HTTP/1.0", 505),
    "a body": ("Host", "Content-Length: 5\r\nHost", 413),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(serve, dial, case):
    called = []
    old, new, status = REFUSED[case]
    head = HEAD.format(path="/", more="")
    if case == "a draft of before":
        head = head.replace("Sec-WebSocket-Version: 13\r\n", "").replace("Sec-WebSocket-Key", "Sec-WebSocket-Key1")
    else:
        assert old in head
        head = head.replace(old, new)
    sock = dial(serve(lambda environ, start_response: called.append(environ) or []), head)
    got, fields = read_head(sock)
    assert got == status
    assert not called
    assert read_all(sock), "it says why"  # and the connection is closed
    if status == 426:
        assert fields["sec-websocket-version"] == "13"


PLAIN = {
    "POST": ("GET", "POST"),
    "another upgrade": ("Upgrade: websocket", "Upgrade: h2c"),
    "no upgrade": ("Upgrade: websocket\r\n", ""),
    "no connection": ("Connection: Upgrade\r\n", ""),
}


@pytest.mark.parametrize("case", PLAIN)
def test_what_asks_for_no_websocket_is_served_as_plain_http(serve, dial, case):
    def app(environ, start_response):
        assert "wsgi.websocket" not in environ
        start_response("200 OK", [])
        return [b"plain"]

    head = HEAD.format(path="/", more="").replace(*PLAIN[case])
    assert read_head(dial(serve(app), head))[0] == 200


def test_version(serve, dial):
    def app(environ, start_response):
        start_response("200 OK", [])
        return [f"gevent-websocket/{geventwebsocket.get_version()}".encode()]

    sock = dial(serve(app), "GET /version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert read_head(sock)[0] == 200
    assert read_all(sock) == b"gevent-websocket/0.10.1"


AUTOBAHN = {
    "1 framing": (
        [(FIN | TEXT, b"x" * 65536), (FIN | BINARY, b"\xfe" * 126)],
        [(0x81, b"x" * 65536), (0x82, b"\xfe" * 126)],
    ),
    "2 pings": ([(FIN | PING, b"p" * 125), (FIN | PONG, b"nobody asked")], [(0x8A, b"p" * 125)]),
    "2.5 a ping too long": ([(FIN | PING, b"p" * 126)], 1002),
    "3 reserved bits": ([(FIN | 0x20 | TEXT, b"x")], 1002),
    "4 opcodes": ([(FIN | 3, b"x")], 1002),
    "4.2 control opcodes": ([(FIN | 11, b"")], 1002),
    "5.1 a ping in fragments": ([(PING, b"x"), (FIN | CONTINUATION, b"y")], 1002),
    "5.3 a message in fragments": ([(TEXT, b"frag"), (FIN | CONTINUATION, b"ments")], [(0x81, b"fragments")]),
    "5.6 a ping between": (
        [(TEXT, b"a"), (FIN | PING, b"p"), (FIN | CONTINUATION, b"b")],
        [(0x8A, b"p"), (0x81, b"ab")],
    ),
    "5.9 a lone continuation": ([(FIN | CONTINUATION, b"x")], 1002),
    "5.18 a message within another": ([(TEXT, b"a"), (FIN | TEXT, b"b")], 1002),
    "6 valid UTF-8": ([(FIN | TEXT, "κόσμε".encode())], [(0x81, "κόσμε".encode())]),
    "6 invalid UTF-8": ([(FIN | TEXT, b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80")], 1007),
    "6 invalid UTF-8 in fragments": ([(TEXT, b"\xce"), (FIN | CONTINUATION, b"\xce")], 1007),
    "7.1 closing": ([(FIN | CLOSE, encode_close(1000, "bye")), (FIN | TEXT, b"x")], 1000),
    "7.3 an empty close": ([(FIN | CLOSE, b"")], None),
    "7.3.2 a close of one byte": ([(FIN | CLOSE, b"x")], 1002),
    "7.5 a reason that is no UTF-8": ([(FIN | CLOSE, b"\x03\xe8\xff")], 1007),
    "7.7 codes": ([(FIN | CLOSE, struct.pack("!H", 3999))], 3999),
    "7.9 codes that there are not": ([(FIN | CLOSE, struct.pack("!H", 1005))], 1002),
    "9 large": ([(FIN | BINARY, bytes(1 << 20))], [(0x82, bytes(1 << 20))]),
    "10 pieces": ([(FIN | TEXT, b"*" * 65536)], [(0x81, b"*" * 65536)]),
}


@pytest.mark.parametrize("case", AUTOBAHN)
def test_autobahns_intent(serve, peer, greenlets, case):
    frames, expected = AUTOBAHN[case]
    other = peer(serve())
    sending = greenlets(other.say, *frames)
    if isinstance(expected, list):
        assert [other.hear() for _ in expected] == expected
        sending.join()
    else:
        first, payload = other.hear()
        assert first == FIN | CLOSE
        assert (struct.unpack("!H", payload[:2])[0] if payload else None) == expected
        assert other.hear() is None


# ---------------------------------------------------------------------------------------------- the handler's hooks


def test_hooks_are_called_in_their_order(serve, peer):
    called = []

    def told(name, result=None):
        def hook(self, *args, **kwargs):
            called.append((name, *args[:1]) if name == "start_response" else (name,))
            return getattr(super(Handler, self), name)(*args, **kwargs)

        return hook

    class Handler(WebSocketHandler):
        run_application = told("run_application")
        upgrade_websocket = told("upgrade_websocket")
        upgrade_connection = told("upgrade_connection")
        start_response = told("start_response")
        _prepare_response = told("_prepare_response")
        run_websocket = told("run_websocket")
        get_environ = told("get_environ")
        _sendall = told("_sendall")

    def app(environ, start_response):
        called.append(("app",))
        return []

    def hook(handler):
        called.append(("pre_start_hook",))

    other = peer(serve(app, handler_class=Handler, pre_start_hook=hook))
    assert other.hear() == (FIN | CLOSE, encode_close(1000))
    assert called == [
        ("get_environ",),
        ("run_application",),
        ("pre_start_hook",),
        ("upgrade_websocket",),
        ("upgrade_connection",),
        ("start_response", "101 Switching Protocols"),
        ("_prepare_response",),
        ("_sendall",),
        ("run_websocket",),
        ("app",),
    ]


def _deny(self, *args, **kwargs):
    self.start_response("403 Forbidden", [("Content-Type", "text/plain")])
    return [b"not you"]


class _Late(WebSocketHandler):
    def upgrade_connection(self):
        super().upgrade_connection()
        self.start_response("403 Forbidden", [])
        return ["not you"]


class _AtTheResponse(WebSocketHandler):
    def start_response(self, status, headers, exc_info=None):
        if status.startswith("101"):
            status, headers = "403 Forbidden", []
        return super().start_response(status, headers, exc_info)


class _ByRaising(WebSocketHandler):
    def _prepare_response(self):
        if self.environ.get("wsgi.websocket"):
            self.environ["wsgi.websocket"] = None
            raise PermissionError("not you")
        super()._prepare_response()


class _AtTheEnd(WebSocketHandler):
    def run_websocket(self):
        self.websocket.close(4003, "not you")


REFUSING = {
    "upgrade_websocket": (type("Handler", (WebSocketHandler,), {"upgrade_websocket": _deny}), 403),
    "upgrade_connection": (type("Handler", (WebSocketHandler,), {"upgrade_connection": _deny}), 403),
    "upgrade_connection, late": (_Late, 403),
    "start_response": (_AtTheResponse, 403),
    "_prepare_response": (_ByRaising, 500),
    "run_websocket": (_AtTheEnd, 101),
}


@pytest.mark.parametrize("where", REFUSING)
def test_who_refuses_in_a_hook_is_obeyed(serve, dial, where):
    called = []
    handler_class, status = REFUSING[where]
    sock = dial(serve(lambda environ, start_response: called.append(1) or [], handler_class=handler_class))
    assert read_head(sock)[0] == status
    if status == 101:
        assert Peer(sock, server=False).hear() == (FIN | CLOSE, encode_close(4003, "not you"))
    else:
        assert (b"not you" in read_all(sock)) == (where.startswith("upgrade"))
    assert not called


def test_a_refused_connection_is_no_clients(serve, dial):
    server = serve(handler_class=_Late)
    read_all(dial(server))
    assert server.clients == {}


def test_pre_start_hook_may_have_a_request_served_as_plain_http(serve, dial):
    asked = []

    def app(environ, start_response):
        asked.append("wsgi.websocket" in environ)
        start_response("200 OK", [])
        return [b"plain"]

    server = serve(app, pre_start_hook=lambda handler: handler.environ["PATH_INFO"] == "/plain")
    assert read_head(dial(server, path="/plain"))[0] == 200
    assert read_head(dial(server, path="/other"))[0] == 101
    assert asked == [False, True]


def test_prevent_wsgi_call(serve, peer):
    called = []

    class Handler(WebSocketHandler):
        prevent_wsgi_call = True

        def run_application(self):
            super().run_application()
            called.append(self.environ["wsgi.websocket"] is self.websocket)
            self.websocket.send(self.websocket.receive())

    other = peer(serve(lambda *args: called.append("app"), handler_class=Handler))
    other.say((FIN | TEXT, b"for the subclass"))
    assert other.hear() == (FIN | TEXT, b"for the subclass")
    assert other.hear()[0] == FIN | CLOSE  # when its socket's greenlet ends
    assert called == [True]


@pytest.mark.parametrize("end", ["leave", "cut"])
def test_a_server_that_stops_while_a_hook_takes_its_time(serve, dial, greenlets, end):
    called, reached, go_on = [], gevent.event.Event(), gevent.event.Event()

    class Handler(WebSocketHandler):
        def start_response(self, status, headers, exc_info=None):
            if status.startswith("101"):
                reached.set()
                go_on.wait()
            return super().start_response(status, headers, exc_info)

    server = serve(lambda *args: called.append(1) or [], handler_class=Handler)
    sock = dial(server)
    reached.wait()
    (busy,) = handlers(server)
    if end == "cut":
        leaving.cut([server])
        stopping = greenlets(int)
    else:
        server.close()
        stopping = greenlets(leaving.leave, [server], patience=0)
    until(lambda: busy.websocket.closed)
    go_on.set()
    assert read_head(sock)[0] == 503
    assert read_all(sock) == b""
    stopping.join()
    assert not called


def test_clients(serve, peer):
    server = serve()
    first, second = peer(server), peer(server)
    until(lambda: len(server.clients) == 2)
    for address, client in server.clients.items():
        assert type(client) is handler.Client
        assert client.address == address == client.ws.handler.client_address
        assert client.ws.handler.active_client is client
        client.ws.send("to all")
    assert first.hear() == second.hear() == (FIN | TEXT, b"to all")
    first.say((FIN | CLOSE, encode_close(1000)))
    until(lambda: len(server.clients) == 1)


def test_clients_of_a_plain_pywsgi_server(serve, peer):
    server = serve(server_class=WSGIServer, handler_class=WebSocketHandler)
    other = peer(server)
    until(lambda: len(getattr(server, "clients", ())) == 1)
    other.say((FIN | CLOSE, encode_close(1000)))
    until(lambda: not server.clients)


def test_the_environ(serve, peer):
    seen = []

    def app(environ, start_response):
        ws = environ["wsgi.websocket"]
        names = ("environ", "origin", "protocol", "version", "path", "closed")
        seen.append({name: getattr(ws, name) for name in names})
        seen.append((environ, ws, environ["wsgi.websocket_version"]))
        assert ws.stream.handler is ws.handler
        assert ws.handler.websocket is ws
        assert ws.logger is ws.handler.logger is ws.handler.server.logger
        return []

    other = peer(serve(app), path="/a%20b?c", more="Origin: http://elsewhere\r\nSec-WebSocket-Protocol: x, y\r\n")
    other.hear()
    facts, (environ, ws, version) = seen
    assert facts["environ"] is environ
    assert facts == {
        "environ": environ,
        "origin": "http://elsewhere",
        "protocol": "x, y",
        "version": "13",
        "path": "/a b",
        "closed": False,
    }
    assert version == "13"
    other.say((FIN | CLOSE, encode_close(1000)))
    until(lambda: environ["wsgi.websocket"] is None)
    assert ws.closed


def test_frames_in_the_requests_own_segment(serve, dial):
    server = serve()
    frames = Peer(None, server=False).wire((FIN | TEXT, b"early"))
    sock = dial(server, HEAD.format(path="/", more="") + frames.decode("latin-1"))
    assert read_head(sock)[0] == 101
    assert Peer(sock, server=False).hear() == (FIN | TEXT, b"early")


def test_a_subclass_has_its_own_websocket_class(serve, peer):
    class Shouting(WebSocket):
        def send(self, message, binary=None):
            super().send(message.upper(), binary)

    other = peer(serve(handler_class=type("Handler", (WebSocketHandler,), {"websocket_class": Shouting})))
    other.say((FIN | TEXT, b"quiet"))
    assert other.hear() == (FIN | TEXT, b"QUIET")


def test_a_subclass_may_make_the_connection_itself(serve, peer):
    made = []

    class Handler(WebSocketHandler):
        def upgrade_connection(self):
            result = super().upgrade_connection()
            self.websocket = WebSocket(self.environ, Stream(self), self)
            self.environ["wsgi.websocket"] = self.websocket
            made.append(self.websocket)
            with pytest.raises(WebSocketError):
                self.websocket.stream.read(1)
            with pytest.raises(WebSocketError):
                self.websocket.stream.write(b"x")
            return result

    other = peer(serve(handler_class=Handler))
    other.say((FIN | TEXT, b"x"))
    assert other.hear() == (FIN | TEXT, b"x")
    assert made


class Complaining(WebSocketHandler):
    errors: list = []

    def _log_error(self, t, v, tb):
        self.errors.append(t)


def test_an_application_that_raises_is_a_1011(serve, peer):
    def app(environ, start_response):
        environ["wsgi.websocket"].receive()
        raise ZeroDivisionError("meant")

    Complaining.errors = []
    other = peer(serve(app, handler_class=Complaining))
    other.say((FIN | TEXT, b"x"))
    assert other.hear() == (FIN | CLOSE, encode_close(1011, "the server has failed"))
    close(other, 1011)
    assert other.hear() is None
    assert until(lambda: Complaining.errors) == [ZeroDivisionError]


def test_an_application_that_goes_on_after_the_end_is_no_failure(serve, peer):
    def app(environ, start_response):
        while True:
            environ["wsgi.websocket"].send(environ["wsgi.websocket"].receive())

    Complaining.errors = []
    server = serve(app, handler_class=Complaining)
    other = peer(server)
    close(other)
    assert other.hear() == (FIN | CLOSE, encode_close(1000))
    assert other.hear() is None
    until(lambda: not server.clients)
    turns()
    assert not Complaining.errors


def test_any_origin_comes_in_unless_install_says_otherwise(serve):
    server = serve()
    gws.client.connect(url(server), origin="http://elsewhere").close()
    drop_in.install(origins=["http://here"])
    try:
        gws.client.connect(url(server), origin="http://here").close()
        with pytest.raises(HandshakeError, match="403"):
            gws.client.connect(url(server), origin="http://elsewhere")
    finally:
        drop_in.uninstall()
    gws.client.connect(url(server), origin="http://elsewhere").close()


def test_a_subclass_has_its_own_options(serve):
    server = serve(handler_class=WebSocketHandler.with_options(origins="http://here"))
    with pytest.raises(HandshakeError, match="403"):
        gws.client.connect(url(server), origin="http://elsewhere")


def test_limits_of_install(serve, peer):
    drop_in.install(max_message=10)
    try:
        other = peer(serve())
        other.say((FIN | TEXT, b"12345678901"))
        first, payload = other.hear()
        assert (first, payload[:2]) == (FIN | CLOSE, struct.pack("!H", 1009))
    finally:
        drop_in.uninstall()


def test_by_tls(serve):
    authority = trustme.CA()
    ours, theirs = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert("localhost").configure_cert(ours)
    authority.configure_trust(theirs)
    server = serve(ssl_context=ours)
    client = gws.client.connect(f"wss://127.0.0.1:{server.server_port}", ssl=theirs, server_hostname="localhost")
    client.write("sealed")
    assert client.read() == "sealed"
    client.close()


# ---------------------------------------------------------------------------------------------- the connection


class Heard:
    """An application's `current_app`, which is told of the end."""

    def __init__(self):
        self.said = []

    def on_close(self, reason):
        self.said.append(reason)


@pytest.fixture
def held(serve, peer):
    """Return a function that returns (their WebSocket, the peer's end, what current_app heard); all in this greenlet."""
    gates = []

    def open(websocket_class=WebSocket):
        got, gate = [], gevent.event.Event()
        gates.append(gate)

        class App:
            current_app = Heard()

            def __call__(self, environ, start_response):
                got.append(environ["wsgi.websocket"])
                gate.wait()
                return []

        app = App()
        cls = type("Handler", (WebSocketHandler,), {"websocket_class": websocket_class})
        other = peer(serve(app, handler_class=cls))
        until(lambda: got)
        return got[0], other, app.current_app.said

    yield open
    for gate in gates:
        gate.set()


def close(other, code=1000):
    other.say((FIN | CLOSE, encode_close(code)))


def test_receive(held):
    ws, other, _ = held()
    other.say((FIN | TEXT, b"text"), (FIN | BINARY, b"bytes"), (TEXT, b"a"), (FIN | CONTINUATION, b"b"))
    assert [ws.receive(), ws.receive(), ws.receive()] == ["text", b"bytes", "ab"]


def test_binary_is_a_bytearray_as_it_was(held):
    ws, other, _ = held()
    other.say((FIN | BINARY, b"bytes"))
    assert type(ws.receive()) is bytearray


def test_receive_at_the_end(held):
    ws, other, said = held()
    close(other)
    assert ws.receive() is None
    assert ws.closed
    assert not said
    with pytest.raises(WebSocketError, match=websocket.MSG_ALREADY_CLOSED):
        ws.receive()
    assert said == [websocket.MSG_ALREADY_CLOSED]


def test_receive_when_the_peer_has_left(held):
    ws, other, said = held()
    other.close()
    assert ws.receive() is None
    assert websocket.MSG_CLOSED in said


VIOLATIONS = {1002: (FIN | 3, b""), 1007: (FIN | TEXT, b"\xff"), 1009: (FIN | BINARY, bytes(17 << 20))}


@pytest.mark.parametrize("code", [1002, 1007])
def test_receive_of_a_violation(held, greenlets, code):
    ws, other, _ = held()
    other.say(VIOLATIONS[code])
    receiving = greenlets(ws.receive)
    first, payload = other.hear()
    assert (first, payload[:2]) == (FIN | CLOSE, struct.pack("!H", code))
    other.close()
    receiving.join()
    assert receiving.value is None
    assert ws.closed


@pytest.mark.parametrize(
    ("message", "binary", "frame"),
    [
        ("text", None, (0x81, b"text")),
        (b"bytes", None, (0x82, b"bytes")),
        (bytearray(b"array"), None, (0x82, b"array")),
        ("text", True, (0x82, b"text")),
        (b"bytes", False, (0x81, b"bytes")),
        (7, False, (0x81, b"7")),
        (None, False, (0x81, b"")),
    ],
)
def test_send(held, message, binary, frame):
    ws, other, _ = held()
    ws.send(message, binary)
    assert other.hear() == frame


def test_send_after_the_end(held):
    ws, other, said = held()
    close(other)
    ws.receive()
    for message in ("x", None):
        with pytest.raises(WebSocketError, match=websocket.MSG_SOCKET_DEAD):
            ws.send(message)
    assert said == [websocket.MSG_ALREADY_CLOSED, websocket.MSG_SOCKET_DEAD] * 2
    with pytest.raises(WebSocketError, match=websocket.MSG_ALREADY_CLOSED):
        ws.send_frame("x", ws.OPCODE_TEXT)


FRAMES = [
    ("OPCODE_TEXT", "t", (0x81, b"t")),
    ("OPCODE_BINARY", b"b", (0x82, b"b")),
    ("OPCODE_PING", "p", (0x89, b"p")),
    ("OPCODE_PONG", b"q", (0x8A, b"q")),
]


@pytest.mark.parametrize(("opcode", "message", "frame"), FRAMES)
def test_send_frame(held, opcode, message, frame):
    ws, other, _ = held()
    ws.send_frame(message, getattr(ws, opcode))
    assert other.hear() == frame


def test_send_frame_of_a_close(held, greenlets):
    ws, other, _ = held()
    greenlets(ws.send_frame, encode_close(4000, "bye"), ws.OPCODE_CLOSE)
    assert other.hear() == (FIN | CLOSE, encode_close(4000, "bye"))
    close(other, 4000)


def test_send_frame_refuses_what_is_no_message(held):
    ws, _, _ = held()
    with pytest.raises(ValueError, match="opcode"):
        ws.send_frame("x", ws.OPCODE_CONTINUATION)
    with pytest.raises(ValueError, match="125"):
        ws.send_frame(bytes(126), ws.OPCODE_PONG)


@pytest.mark.parametrize(
    ("args", "payload"),
    [
        ((), encode_close(1000)),
        ((1001,), encode_close(1001)),
        ((4000, b"bytes"), encode_close(4000, "bytes")),
        ((4000, "text"), encode_close(4000, "text")),
        ((1000, None), encode_close(1000)),
    ],
)
def test_close(held, greenlets, args, payload):
    ws, other, _ = held()
    closing = greenlets(ws.close, *args)
    assert other.hear() == (FIN | CLOSE, payload)
    assert ws.closed
    close(other, args[0] if args else 1000)
    closing.join()
    assert other.hear() is None


def test_close_by_its_old_names(held, greenlets):
    ws, other, _ = held()
    greenlets(ws.close, code=4001, message="named")
    assert other.hear() == (FIN | CLOSE, encode_close(4001, "named"))
    close(other, 4001)


def test_close_again(held):
    ws, other, said = held()
    close(other)
    ws.receive()
    ws.close()
    assert said == [websocket.MSG_ALREADY_CLOSED]


def test_settimeout(held):
    ws, other, _ = held()
    ws.settimeout(0.001)
    with pytest.raises(TimeoutError):
        ws.receive()
    assert not ws.closed
    other.say((FIN | TEXT, b"late"))
    ws.settimeout(5)
    assert ws.receive() == "late"


def test_gwss_own_calls_are_there(held):
    ws, other, _ = held()
    other.say((FIN | TEXT, b"x"), (FIN | CLOSE, b""))
    ws.write("y")
    assert ws.read() == "x"
    assert other.hear() == (FIN | TEXT, b"y")
    with pytest.raises(ConnectionClosed):
        ws.read()


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


# ---------------------------------------------------------------------------------------------- the connection's hooks


def hooked(**hooks):
    """Return a subclass whose hooks note what they were called with, then do what they are given."""
    called = []

    def hook(name, then):
        def method(self, header, payload):
            called.append((name, header.opcode, header.fin, header.length, bytes(payload)))
            if then is not None:
                then(self, header, payload)

        return method

    return type("Hooked", (WebSocket,), {name: hook(name, then) for name, then in hooks.items()}), called


def test_control_frames_are_told(held):
    up = {name: getattr(WebSocket, name) for name in ("handle_ping", "handle_pong", "handle_close")}
    cls, called = hooked(**up)
    ws, other, _ = held(cls)
    other.say((FIN | PING, b"a"), (FIN | PONG, b"bc"), (FIN | CLOSE, encode_close(4000, "bye")))
    assert ws.receive() is None
    assert called == [
        ("handle_ping", 9, True, 1, b"a"),
        ("handle_pong", 10, True, 2, b"bc"),
        ("handle_close", 8, True, 5, encode_close(4000, "bye")),
    ]
    assert other.hear() == (FIN | PONG, b"a")
    assert other.hear() == (FIN | CLOSE, struct.pack("!H", 4000))
    assert (ws.code, ws.reason) == (4000, "bye")


def test_a_ping_may_be_answered_in_another_way(held):
    cls, _ = hooked(handle_ping=lambda self, header, payload: self.send_frame(payload.upper(), self.OPCODE_PONG))
    ws, other, _ = held(cls)
    other.say((FIN | PING, b"p"), (FIN | TEXT, b"x"))
    assert ws.receive() == "x"
    assert other.hear() == (FIN | PONG, b"P")


@pytest.mark.parametrize(
    ("then", "answer"),
    [
        (None, struct.pack("!H", 4000)),
        (lambda self, header, payload: self.close(4001, "mine"), encode_close(4001, "mine")),
    ],
    ids=["nothing", "another code"],
)
def test_a_close_is_answered_whatever_the_hook_does(held, then, answer):
    cls, called = hooked(handle_close=then)
    ws, other, _ = held(cls)
    close(other, 4000)
    assert ws.receive() is None
    assert called
    assert other.hear() == (FIN | CLOSE, answer)
    assert other.hear() is None
    assert ws.closed
    assert ws.code == 4000


def test_read_message_and_send_frame_are_called(held):
    class Own(WebSocket):
        def read_message(self):
            return ("read", super().read_message())

        def send_frame(self, message, opcode):
            super().send_frame(message + "!", opcode)

    ws, other, _ = held(Own)
    other.say((FIN | TEXT, b"x"))
    assert ws.receive() == ("read", "x")
    ws.send("y")
    assert other.hear() == (FIN | TEXT, b"y!")


def test_read_frame(held):
    ws, other, _ = held()
    other.say((TEXT, b"one"), (FIN | CONTINUATION, b"two"), (FIN | 3, b""))
    headers = [ws.read_frame(), ws.read_frame()]
    assert [(header.fin, header.opcode, header.length, bytes(payload)) for header, payload in headers] == [
        (False, 1, 3, b"one"),
        (True, 0, 3, b"two"),
    ]
    with pytest.raises(exceptions.ProtocolError):
        ws.read_frame()


def test_read_frame_at_the_end(held):
    ws, other, _ = held()
    other.close()
    with pytest.raises(WebSocketError):
        ws.read_frame()


class ByFrames(WebSocket):
    """Counts its frames, on their way to messages."""

    __slots__ = ("count",)

    def read_frame(self):
        self.count = getattr(self, "count", 0) + 1
        return super().read_frame()


def test_an_overridden_read_frame_is_called(held):
    ws, other, _ = held(ByFrames)
    other.say((FIN | TEXT, b"x"), (FIN | PING, b"p"), (TEXT, b"a"), (FIN | CONTINUATION, b"b"), (FIN | BINARY, b"c"))
    assert [ws.receive(), ws.receive(), ws.receive()] == ["x", "ab", b"c"]
    assert ws.count == 5
    assert other.hear() == (FIN | PONG, b"p")
    close(other, 4000)
    assert ws.receive() is None
    assert other.hear() == (FIN | CLOSE, struct.pack("!H", 4000))


@pytest.mark.parametrize("code", [1002, 1007])
def test_violations_by_an_overridden_read_frame(held, greenlets, code):
    ws, other, _ = held(ByFrames)
    other.say(VIOLATIONS[code])
    receiving = greenlets(ws.receive)
    first, payload = other.hear()
    assert (first, payload[:2]) == (FIN | CLOSE, struct.pack("!H", code))
    other.close()
    receiving.join()
    assert receiving.value is None
    assert ws.closed


# ---------------------------------------------------------------------------------------------- the rest


def test_errors():
    assert issubclass(WebSocketError, OSError)
    assert issubclass(exceptions.ProtocolError, WebSocketError)
    assert issubclass(exceptions.FrameTooLargeException, exceptions.ProtocolError)


@pytest.mark.parametrize(
    ("version", "text"),
    [
        ((0, 10, 1, "final", 0), "0.10.1"),
        ((1, 2, 0, "final", 0), "1.2"),
        ((1, 2, 0, "alpha", 3), "1.2a3"),
        ((1, 2, 3, "beta", 1), "1.2.3b1"),
        ((1, 2, 3, "rc", 2), "1.2.3c2"),
    ],
)
def test_get_version(version, text):
    assert utils.get_version(version) == get_version(version) == text


def test_get_version_of_nothing():
    assert get_version() == geventwebsocket.__version__ == "0.10.1"
    with pytest.raises(ValueError):
        get_version((1, 2, 3, "gamma", 1))


def test_create_logger(capsys):
    silent = logs.create_logger("gws.test.silent")
    silent.debug("not seen")
    silent.propagate = False
    silent.error("nor this")
    loud = logs.create_logger("gws.test.loud", debug=True, format="<%(message)s>")
    loud.propagate = False
    loud.debug("seen")
    logs.create_logger("gws.test.loud", debug=True, format="<%(message)s>").debug("once")
    assert capsys.readouterr().err == "<seen>\n<once>\n"


UTF8 = [
    (b"", (True, True, 0, 0)),
    ("aé€😀".encode(), (True, True, 10, 10)),
    (b"a\xc3", (True, False, 2, 2)),
    (b"a\xff", (False, False, 1, 1)),
    (b"\xc3\x28", (False, False, 1, 1)),
    (b"\xed\xa0\x80", (False, False, 1, 1)),
    (b"\xf4\x90\x80\x80", (False, False, 1, 1)),
    (b"\xf0\x90\x80\x28", (False, False, 3, 3)),
    (b"\xc0\x80", (False, False, 0, 0)),
]


@pytest.mark.parametrize(("data", "verdict"), UTF8)
def test_utf8validator(data, verdict):
    assert Utf8Validator().validate(data) == verdict


def test_utf8validator_in_pieces():
    validator = Utf8Validator()
    assert validator.validate(b"a\xe2") == (True, False, 2, 2)
    assert validator.validate(b"\x82\xac") == (True, True, 2, 4)
    assert validator.codepoint == ord("€")
    assert validator.validate(b"b\x80") == (False, False, 1, 5)
    assert validator.decode(97) == UTF8_REJECT
    validator.reset()
    assert validator.decode(97) == UTF8_ACCEPT


def test_utf8validator_agrees_with_python():
    for first in range(256):
        for second in range(256):
            data = bytes((first, second))
            try:
                whole = data.decode() is not None
            except UnicodeDecodeError as error:
                whole = error.reason == "unexpected end of data"
            assert Utf8Validator().validate(data)[0] == whole, data


class Bytes:
    def __init__(self, data):
        self.data = data

    def read(self, size):
        piece, self.data = self.data[:size], self.data[size:]
        return piece


@pytest.mark.parametrize("length", [0, 125, 126, 65535, 65536])
@pytest.mark.parametrize("mask", [b"", b"abcd"])
def test_header(length, mask):
    data = bytes(Header.encode_header(True, 2, mask, length, Header.RSV0_MASK))
    header = Header.decode_header(Bytes(data))
    assert (header.fin, header.opcode, header.length, header.flags) == (True, 2, length, Header.RSV0_MASK)
    assert header.mask == (mask or "")
    assert header.unmask_payload(header.mask_payload(b"payload")) == b"payload"
    assert re.fullmatch(r"<Header fin=True opcode=2 .*>", repr(header))


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", WebSocketError),
        (b"\x81", WebSocketError),
        (b"\x81\x7e\x00", WebSocketError),
        (b"\x09\x00", exceptions.ProtocolError),
        (b"\x89\x7e", exceptions.FrameTooLargeException),
    ],
)
def test_header_that_is_none(data, error):
    with pytest.raises(error):
        Header.decode_header(Bytes(data))


def test_header_that_is_too_long():
    with pytest.raises(exceptions.FrameTooLargeException):
        Header.encode_header(True, 2, b"", 1 << 63, 0)


# ---------------------------------------------------------------------------------------------- resources


class Noting(WebSocketApplication):
    noted: list = []

    def on_open(self):
        self.noted.append("open")

    def on_message(self, message):
        self.noted.append(message)
        super().on_message(message)

    def on_close(self, reason):
        self.noted.append(("close", reason))


def page(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"a page"]


@pytest.mark.parametrize("kind", [list, dict])
def test_resource(serve, peer, dial, kind):
    Noting.noted = []
    resource = Resource(kind([("^/chat", Noting), ("^/.*", page)]))
    server = serve(resource)
    other = peer(server, path="/chat")
    other.say((FIN | TEXT, b"x"))
    assert other.hear() == (FIN | TEXT, b"x")
    close(other)
    until(lambda: not server.clients)
    assert Noting.noted == ["open", "x", None, ("close", None)]
    assert read_head(dial(server, "GET /chat HTTP/1.1\r\nHost: localhost\r\n\r\n"))[0] == 200


def test_a_resource_nobody_serves():
    with pytest.raises(LookupError):
        Resource()({"PATH_INFO": "/"}, None)


class Spoken(BaseProtocol):
    PROTOCOL_NAME = "spoken"


@pytest.mark.parametrize(
    ("offered", "agreed"),
    [("spoken", "spoken"), ("x, spoken", "spoken"), ("unspoken", None), ("x", None), (None, None)],
)
def test_the_protocol_of_a_resource_is_agreed_on(serve, dial, offered, agreed):
    app = type("App", (WebSocketApplication,), {"protocol_class": Spoken})
    server = serve(Resource([("^/", app)]))
    more = "" if offered is None else f"Sec-WebSocket-Protocol: {offered}\r\n"
    status, fields = read_head(dial(server, more=more))
    assert (status, fields.get("sec-websocket-protocol")) == (101, agreed)


def test_base_protocol():
    class App:
        ws = None

    protocol = BaseProtocol(App())
    assert protocol.app._app is None if hasattr(protocol.app, "_app") else protocol.app
    assert BaseProtocol(object()).server is None
    assert BaseProtocol(object()).handler is None
    with pytest.raises(LookupError):
        _ = BaseProtocol(None).app


# ---------------------------------------------------------------------------------------------- WAMP


class Store:
    def __init__(self):
        self.kept = {}

    @export_rpc
    def set(self, key, value):
        self.kept[key] = value

    @export_rpc
    def get(self, key):
        return self.kept[key]

    def hidden(self):
        raise AssertionError


class Wamp(WebSocketApplication):
    protocol_class = WampProtocol

    def on_open(self):
        self.protocol.register_procedure("http://x/calc#add", lambda a, b: a + b)
        self.protocol.register_object("http://x/db#", Store())
        self.protocol.register_pubsub("http://x/news")


@pytest.fixture
def wamp(serve, peer):
    """Return a function that opens a WAMP session: (say, hear)."""
    server = serve(Resource([("^/", Wamp)]))

    def open():
        other = peer(server, more="Sec-WebSocket-Protocol: wamp\r\n")

        def say(*message):
            other.say((FIN | TEXT, json.dumps(message).encode()))

        def hear():
            first, payload = other.hear()
            assert first == FIN | TEXT
            return json.loads(payload)

        welcome = hear()
        assert [welcome[0], *welcome[2:]] == [0, 1, "gevent-websocket/0.10.1"]
        return say, hear

    return open


def test_wamp_calls(wamp):
    say, hear = wamp()
    say(2, "1", "http://x/calc#add", 2, 3)
    assert hear() == [3, "1", 5]
    say(1, "db", "http://x/db#")
    say(2, "2", "db:set", "key", [1, 2])
    assert hear() == [3, "2", None]
    say(2, "3", "db:get", "key")
    assert hear() == [3, "3", [1, 2]]
    say(2, "4", "db:get", "no such")
    assert hear() == [4, "4", "http://TODO#generic", "<class 'KeyError'>", "'no such'"]
    say(2, "5", "db:hidden")
    kind, call_id, *_ = hear()
    assert (kind, call_id) == (4, "5")


def test_wamp_publishing(wamp):
    (say, hear), (say_too, hear_too) = wamp(), wamp()
    say(5, "http://x/news")
    say_too(1, "x", "http://x/")
    say_too(5, "x:news")
    say(7, "http://x/news", {"n": 1})
    assert hear() == [8, "http://x/news", {"n": 1}]
    # Who subscribed after the first event has, by the time its own call is answered.
    say_too(2, "1", "http://x/calc#add", 1, 1)
    while hear_too() != [3, "1", 2]:
        pass
    say(7, "http://x/news", "second")
    assert hear() == [8, "http://x/news", "second"]
    assert hear_too() == [8, "http://x/news", "second"]
    say(6, "http://x/news")
    say(7, "http://x/news", "third")
    assert hear_too() == [8, "http://x/news", "third"]
    say(2, "2", "http://x/calc#add", 1, 1)
    assert hear() == [3, "2", 2]


def test_prefixes():
    prefixes = Prefixes()
    prefixes.add("p", "http://x/")
    assert prefixes.resolve("p:a") == "http://x/a"
    assert prefixes.resolve("https://y/b") == "https://y/b"
    for unknown in ("q:a", "nothing"):
        with pytest.raises(LookupError):
            prefixes.resolve(unknown)


def test_remote_procedures():
    procedures = RemoteProcedures()
    procedures.register_procedure("http://x/f", max)
    assert procedures.call("http://x/f", [1, 2]) == 2
    with pytest.raises(LookupError):
        procedures.call("http://x/g", [])


def test_channels():
    class Subscriber:
        def __init__(self, alive=True):
            self.heard, self.ws, self.alive = [], self, alive

        def send(self, message):
            if not self.alive:
                raise WebSocketError
            self.heard.append(json.loads(message))

    channels, here, gone = Channels(), Subscriber(), Subscriber(alive=False)
    channels.create("c")
    for subscriber in (gone, here, here):
        channels.subscribe("c", subscriber)
    channels.subscribe("no such", here)
    channels.publish("c", "event")
    channels.publish("no such", "event")
    assert here.heard == [[8, "c", "event"]]
    assert channels.channels == {"c": [here]}
    channels.unsubscribe("c", here)
    channels.unsubscribe("no such", here)
    channels.subscribe("c", here)
    assert channels.channels == {"c": [here]}


@pytest.mark.parametrize(
    "message", ["{}", "[]", "[99]", "[3, 1]", "[2, 1, 2]", "[5, 1]", "[5]", '[1, [], ""]', '[1, "p", 5]']
)
def test_wamp_refuses_what_is_none(message):
    with pytest.raises(ValueError):
        WampProtocol(object()).on_message(message)


def test_nothing_is_left_of_a_server_with_connections(serve, peer):
    server = serve()
    other = peer(server)
    turns()
    close(other)
    assert other.hear()[0] == FIN | CLOSE
