"""gws.wsgi: WebSockets in WSGI apps, on gevent.pywsgi's server."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import urllib.parse

import gevent
import pytest
import trustme
from conftest import until
from gevent import socket, ssl
from gevent.event import Event
from gevent.pool import Pool
from gevent.pywsgi import WSGIHandler, WSGIServer
from served import PLAIN, Wire, request

import gws.client
from gws import wsgi as room
from gws.deflate import Compression
from gws.errors import ConnectionClosed, HandshakeError
from gws.frame import BINARY, CLOSE, FIN, PING, PONG, TEXT, decode_close, encode_close
from gws.goodbye import CLOSED
from gws.keepalive import keepalive
from gws.wsgi import Options, WebSocketHandler, upgrade

pytestmark = pytest.mark.usefixtures("deadline")

HELLO = (FIN | TEXT, b"hello")
BYE = (FIN | CLOSE, encode_close(1000, ""))


def echo(environ, start_response):
    ws = environ.get("wsgi.websocket")
    if ws is None:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"plain"]
    while (message := ws.receive()) is not None:
        ws.send(message)
    return []


def uncalled(environ, start_response):
    raise AssertionError("the app was called")


@pytest.fixture
def serve(serve_wsgi):
    """Return a function that serves an app: the echo, unless it is told."""
    return lambda app=echo, handler_class=WebSocketHandler, **options: serve_wsgi(app, handler_class, **options)


@pytest.fixture
def connect():
    """Return a function that connects a client to what is served; it is closed in the end."""
    made = []

    def make(served, path="/", **options):
        made.append(gws.client.connect(served.url + path, **options))
        return made[-1]

    yield make
    for client in made:
        client.close()


# ----------------------------------------------------------------------------------------------- the connection

MESSAGES = ["", "hello", "\N{SNOWMAN}", b"", b"\0\xff", "x" * 70_000, b"y" * 300_000]


@pytest.mark.parametrize("compression", [None, Compression()], ids=["plain", "deflated"])
def test_messages_go_there_and_back(serve, connect, compression):
    client = connect(serve(compression=compression))
    for message in MESSAGES:
        client.write(message)
        assert client.read() == message
    client.close(4000, "bye")
    assert client.fd.code == 4000


def test_an_app_finds_what_it_knows_from_gevent_websocket(serve, connect):
    found = {}

    def app(environ, start_response):
        ws = environ["wsgi.websocket"]
        found.update({name: getattr(ws, name) for name in ("path", "origin", "protocol", "version", "closed")})
        found["environ"] = ws.environ is environ
        found["handler"] = ws.handler.websocket is ws
        found["stream"] = ws.stream.pending
        found["wsgi.websocket_version"] = environ["wsgi.websocket_version"]
        ws.receive()
        found["end"] = ws.receive(), ws.receive(), ws.closed
        return []

    served = serve(app, protocols=["chat"])
    client = connect(served, "/a%20b?c=d", protocols=["other", "chat"], origin=f"http://127.0.0.1:{served.port}")
    assert client.fd.protocol == "chat"
    client.write("go")
    client.close()
    until(lambda: "end" in found)
    assert found == {
        "path": "/a b",
        "origin": f"http://127.0.0.1:{served.port}",
        "protocol": "chat",
        "version": "13",
        "closed": False,
        "environ": True,
        "handler": True,
        "stream": 0,
        "wsgi.websocket_version": "13",
        "end": (None, None, True),
    }


def test_an_app_finds_all_of_gws_too(serve, connect):
    found = []

    def app(environ, start_response):
        ws = environ["wsgi.websocket"]
        ws.data = "mine"
        found.extend([ws.request.path, ws.request.query, ws.addr[0], ws.latency, ws.pending, ws.data])
        ws.write(ws.read())
        ws.ping(b"there?")
        for message in ws:
            found.append(message)
        found.append((ws.code, ws.reason))
        with pytest.raises(ConnectionClosed):
            ws.read()
        with pytest.raises(ConnectionClosed):
            ws.send("late")
        return []

    client = connect(serve(app), "/a%20b?c=d")
    client.write("hello")
    assert client.read() == "hello"
    client.write(b"x")
    client.close(1000, "done")
    until(lambda: (1000, "done") in found)
    assert found == ["/a%20b", {"c": "d"}, "127.0.0.1", None, 0, "mine", b"x", (1000, "done")]


SENT = [
    (("text",), "text"),
    ((b"data",), b"data"),
    ((bytearray(b"data"),), b"data"),
    (("text", True), b"text"),
    (("text", False), "text"),
    ((b"text", False), "text"),
    ((b"data", True), b"data"),
    ((bytearray(b"\xe2\x98\x83"), False), "\N{SNOWMAN}"),
]


@pytest.mark.parametrize(("args", "message"), SENT)
def test_send_says_how(serve, connect, args, message):
    client = connect(serve(lambda environ, _: environ["wsgi.websocket"].send(*args) or []))
    assert client.read() == message


@pytest.mark.parametrize("wrong", [(None,), (7,), ([b"x"],), (None, False)])
def test_what_is_no_message_is_not_sent(serve, connect, wrong):
    def app(environ, start_response):
        with pytest.raises(TypeError):
            environ["wsgi.websocket"].send(*wrong)
        environ["wsgi.websocket"].send("well")
        return []

    assert connect(serve(app)).read() == "well"


CLOSES = [
    ((), (1000, "")),
    ((4000,), (4000, "")),
    ((4000, "why"), (4000, "why")),
    ((4000, b"why"), (4000, "why")),
]


@pytest.mark.parametrize("keyword", [None, "message", "reason"])
@pytest.mark.parametrize(("args", "end"), CLOSES)
def test_an_app_closes(serve, connect, args, end, keyword):
    def app(environ, start_response):
        named = {keyword: args[1]} if keyword and len(args) > 1 else {}
        environ["wsgi.websocket"].close(*args[: 1 if named else 2], **named)
        return []

    with pytest.raises(ConnectionClosed) as closed:
        connect(serve(app)).read()
    assert (closed.value.code, closed.value.reason) == end


def test_a_silent_peer_is_noticed(serve, connect):
    heard = []

    def app(environ, start_response):
        ws = environ["wsgi.websocket"]
        assert ws.gettimeout() is None
        ws._sock.settimeout(5)  # as python-engineio does
        assert ws.gettimeout() == 5
        heard.append(ws.receive())
        ws.settimeout(0.01)
        try:
            ws.receive()
        except TimeoutError as error:
            heard.append(type(error))
        ws.settimeout(None)
        heard.append(ws.receive())  # nothing is lost by that
        return []

    client = connect(serve(app))
    client.write("one")
    until(lambda: TimeoutError in heard)
    client.write("two")
    until(lambda: len(heard) == 3)
    assert heard == ["one", TimeoutError, "two"]


def test_pings_are_answered_and_told_to_the_handler(serve):
    heard = []

    class Handler(WebSocketHandler):
        def told(self, fd, event, value):
            heard.append((fd is self.websocket, event, value))

    peer = serve(handler_class=Handler).dial(request())
    peer.head()
    peer.say((FIN | PING, b"a"), (FIN | PONG, b"b"), BYE)
    assert peer.hear_all() == [(FIN | PONG, b"a"), BYE]
    assert heard == [(True, "ping", b"a"), (True, "pong", b"b")]


def test_the_keepalive_watches(serve, connect):
    watch = keepalive(7.0, 3.0)
    client = connect(serve(ping_interval=7.0, ping_timeout=3.0))
    client.write("x")
    client.read()
    (fd,) = list(watch._pings._things)
    watch._ping(fd, None)
    until(lambda: fd.latency is not None)
    client.close()
    until(lambda: fd.closed)
    until(lambda: not watch._pings and not watch._pongs)


def test_no_keepalive_where_none_is_wanted(serve, connect):
    client = connect(serve(ping_interval=None))
    client.write("x")
    assert client.read() == "x"


def test_the_limits_hold(serve):
    peer = serve(max_message=10).dial(request())
    peer.head()
    peer.say((FIN | BINARY, b"x" * 11))
    ((first, payload),) = peer.hear_all()
    assert (first, decode_close(payload)[0]) == (FIN | CLOSE, 1009)


# ----------------------------------------------------------------------------------------------- the handshake


def test_the_101_is_as_the_rfc_has_it(serve):
    peer = serve(protocols=["b"]).dial(
        request(Sec_WebSocket_Protocol="a, b", Sec_WebSocket_Extensions="permessage-deflate")
    )
    line, fields = peer.head()
    assert line == "HTTP/1.1 101 Switching Protocols"
    assert "content-length" not in fields
    assert "transfer-encoding" not in fields
    wanted = {
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        "sec-websocket-protocol": "b",
    }
    assert fields | wanted == fields
    assert fields["sec-websocket-extensions"].startswith("permessage-deflate")


SEGMENTS = [
    b"",
    PLAIN,
    PLAIN * 3,
    b"POST /form HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\na=b",
]


@pytest.mark.parametrize("before", SEGMENTS, ids=["first", "second", "fourth", "behind a body"])
@pytest.mark.parametrize("cut", [None, 0, 1, 7, -1], ids=str)
def test_frames_of_the_same_segment_are_not_lost(serve, before, cut):
    """All in one segment, or the frames cut in two: the first part comes with the request."""
    peer = serve().dial()
    frames = peer.wire(HELLO, (FIN | BINARY, b"x" * 9000), BYE)
    first, rest = (frames, b"") if cut is None else (frames[:cut], frames[cut:])
    peer.sock.sendall(before + request() + first)
    for _ in range(before.count(b" HTTP/1.1\r\n")):
        line, fields = peer.head()
        assert line == "HTTP/1.1 200 OK"
        peer._data = peer._data[int(fields["content-length"]) :]
    assert peer.head()[0] == "HTTP/1.1 101 Switching Protocols"
    peer.sock.sendall(rest)
    assert peer.hear_all() == [HELLO, (FIN | BINARY, b"x" * 9000), BYE]


REFUSED = [
    (request(Sec_WebSocket_Version="12"), 426, {"upgrade": "websocket", "sec-websocket-version": "13"}),
    (request(Sec_WebSocket_Version=None), 426, {"connection": "close, Upgrade"}),
    (request(Upgrade=None), 426, {}),
    (request(Upgrade="h2c"), 426, {}),
    (request(Connection="keep-alive"), 400, {"connection": "close"}),
    (request(Sec_WebSocket_Key=None), 400, {}),
    (request(Sec_WebSocket_Key="short"), 400, {}),
    (request(Host=None), 400, {}),
    (request(Host="a\r\nHost: b"), 400, {}),
    (request().replace(b"\r\n", b"\n"), 400, {}),
    (request().replace(b"Upgrade: ", b"X: y\nUpgrade: "), 400, {}),
    (request(X="a\r\n b"), 400, {}),
    (request(X="a\x0bb"), 400, {}),
    (request("POST / HTTP/1.1"), 405, {"allow": "GET"}),
    (request("POST / HTTP/1.1", Content_Length="1000000"), 405, {}),
    (request(Content_Length="7"), 413, {}),
    (request(Transfer_Encoding="chunked"), 400, {}),
    (request("GET / HTTP/1.0"), 505, {}),
    (request(Origin="https://elsewhere.example"), 403, {}),
    (request(Sec_WebSocket_Protocol="a, a"), 400, {}),
    (request(Sec_WebSocket_Extensions="a;b;=c"), 400, {}),
    (request(X="x" * 9000), 431, {}),
]


@pytest.mark.parametrize(("data", "status", "headers"), REFUSED)
def test_an_unsound_request_is_refused(serve, data, status, headers):
    peer = serve(uncalled).dial(data)
    line, fields = peer.head()
    assert line.split()[1] == str(status)
    assert fields | headers == fields
    assert fields["connection"].startswith("close")
    assert len(peer.rest()) == int(fields["content-length"]) > 0


def test_a_refused_head_has_no_body(serve):
    peer = serve(uncalled).dial(request("HEAD / HTTP/1.1"))
    assert peer.head()[0] == "HTTP/1.1 405 Method Not Allowed"
    assert peer.rest() == b""


ORIGINS = [
    (None, "http://localhost", True),
    (None, "https://localhost:8443", False),
    (None, "http://elsewhere.example", False),
    ("*", "http://elsewhere.example", True),
    (["https://good.example"], "https://good.example", True),
    (["https://good.example"], "http://localhost", False),
]


@pytest.mark.parametrize(("origins", "origin", "let_in"), ORIGINS)
def test_the_origin_is_looked_at(serve, origins, origin, let_in):
    peer = serve(origins=origins).dial(request(Origin=origin))
    assert peer.head()[0].split()[1] == ("101" if let_in else "403")


def test_who_expects_a_100_gets_it_before_the_101(serve):
    peer = serve().dial(request(Expect="100-continue"))
    assert peer.head()[0] == "HTTP/1.1 100 Continue"
    assert peer.head()[0] == "HTTP/1.1 101 Switching Protocols"
    peer.say(HELLO)
    assert peer.hear() == HELLO


def test_firefox_and_proxies_ask_in_their_own_words(serve):
    peer = serve().dial(request(Upgrade="WebSocket", Connection="keep-alive, Upgrade"))
    assert peer.head()[0] == "HTTP/1.1 101 Switching Protocols"


def test_plain_requests_are_served_as_ever(serve):
    served = serve()
    peer = served.dial(PLAIN + request(Upgrade="h2c", Sec_WebSocket_Key=None, Connection="close"))
    for _ in range(2):
        line, fields = peer.head()
        assert line == "HTTP/1.1 200 OK"
        assert fields["content-length"] == "5"
        while len(peer._data) < 5:
            assert peer._receive()
        peer._data = peer._data[5:]
    assert peer.rest() == b""
    until(lambda: len(served.lines) == 2)
    assert all('HTTP/1.1" 200 ' in line for line in served.lines)


def test_options_may_follow_the_request(serve):
    class Handler(WebSocketHandler):
        def websocket_options(self):
            return Options(protocols=[self.environ["PATH_INFO"][1:]])

    peer = serve(handler_class=Handler).dial(request("GET /mine HTTP/1.1", Sec_WebSocket_Protocol="yours, mine"))
    assert peer.head()[1]["sec-websocket-protocol"] == "mine"


@pytest.mark.parametrize("wrong", [{"max_message": 0}, {"protocols": "chat"}, {"max_header": "much"}])
def test_wrong_options_are_told_at_once(wrong):
    with pytest.raises((TypeError, ValueError)):
        WebSocketHandler.with_options(**wrong)


def test_options_add_up():
    handler = WebSocketHandler.with_options(max_message=7).with_options(max_header=8)
    assert handler.options == Options(max_message=7, max_header=8)
    assert WebSocketHandler.options == Options()


def test_an_unknown_option_is_told_at_once():
    with pytest.raises(TypeError):
        WebSocketHandler.with_options(backlog=7)


def test_a_subclass_sees_the_101_and_may_add_to_it(serve):
    class Handler(WebSocketHandler):
        def start_response(self, status, headers, exc_info=None):
            return super().start_response(status, [*headers, ("X-Status", status)], exc_info)

    peer = serve(handler_class=Handler).dial(request())
    assert peer.head()[1]["x-status"] == "101 Switching Protocols"


def test_over_tls(serve):
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    served = serve(ssl=server)
    raw = socket.create_connection(("127.0.0.1", served.port))
    with contextlib.closing(Wire(client.wrap_socket(raw, server_hostname="localhost"))) as peer:
        peer.sock.settimeout(5)
        peer.sock.sendall(PLAIN + request() + peer.wire(HELLO))
        assert peer.head()[0] == "HTTP/1.1 200 OK"
        while len(peer._data) < 5:
            assert peer._receive()
        peer._data = peer._data[5:]
        assert peer.head()[0] == "HTTP/1.1 101 Switching Protocols"
        assert peer.hear() == HELLO
        peer.say((FIN | BINARY, b"x" * 100_000))
        assert peer.hear() == (FIN | BINARY, b"x" * 100_000)
        peer.say(BYE)
        assert peer.hear_all() == [BYE]


def test_on_a_unix_socket(tmp_path):
    path = os.fspath(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        server = WSGIServer(listener, echo, handler_class=WebSocketHandler, spawn=Pool(), log=None)
        server.start()
        client = gws.client.connect("ws://localhost/", path=path)
        client.write("hello")
        assert client.read() == "hello"
        client.close()
        server.stop(timeout=5)


# ----------------------------------------------------------------------------------------------- the end


def ended(peer):
    """Return how the server closes, and answer it."""
    peer.head()
    first, payload = peer.hear()
    assert first == FIN | CLOSE
    peer.say((FIN | CLOSE, payload[:2]))
    assert peer.hear_all() == []
    return decode_close(payload)


def test_an_app_that_returns_closes_1000(serve):
    assert ended(serve(lambda environ, start_response: []).dial(request())) == (1000, "")


RESPONSES = [
    lambda start: start("200 OK", []) and [b"never seen"],
    lambda start: start("200 OK", [("Content-Length", "3")])(b"abc") or [],
    lambda start: start("204 No Content", []) and [],
    lambda start: (piece for piece in [b"a", b"b"]),
]


@pytest.mark.parametrize("respond", RESPONSES)
def test_a_response_after_the_upgrade_goes_nowhere(serve, respond):
    served = serve(lambda environ, start_response: respond(start_response))
    assert ended(served.dial(request())) == (1000, "")
    until(lambda: served.lines)
    assert '" 101 ' in served.lines[0]


def test_an_app_may_be_a_generator_and_is_closed(serve):
    told = []

    class Result:
        def __init__(self, environ):
            self.ws = environ["wsgi.websocket"]

        def __iter__(self):
            yield b""
            self.ws.send(self.ws.receive())

        def close(self):
            told.append(self.ws.closed)

    peer = serve(lambda environ, _: Result(environ)).dial(request())
    peer.say(HELLO)
    peer.head()
    assert peer.hear() == HELLO
    assert decode_close(peer.hear()[1]) == (1000, "")
    assert told == [False]


RAISED = [ZeroDivisionError("division by zero"), gevent.Timeout(), OSError("no number"), HandshakeError(400, "late")]


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_an_app_that_raises_closes_1011_and_is_logged_once(serve, capfd, caplog, error):
    def app(environ, start_response):
        raise error

    served = serve(app)
    with caplog.at_level(logging.INFO, "gws"):
        assert ended(served.dial(request()))[0] == 1011
        until(lambda: served.lines)
    assert '" 101 ' in served.lines[0]
    assert capfd.readouterr().err.count("Traceback") == 1
    assert not caplog.records


def test_an_app_that_the_peers_end_has_stopped_is_not_logged(serve, connect, capfd):
    def app(environ, start_response):
        while True:
            environ["wsgi.websocket"].write(environ["wsgi.websocket"].read())

    served = serve(app)
    connect(served).close()
    until(lambda: served.lines)
    assert capfd.readouterr().err == ""


def test_an_uncaught_end_of_another_connection_is_a_failure(serve, capfd):
    def app(environ, start_response):
        raise ConnectionClosed(1001, "somebody else's")

    served = serve(app)
    assert ended(served.dial(request()))[0] == 1011
    until(lambda: served.lines)
    assert capfd.readouterr().err.count("Traceback") == 1


def test_a_peer_that_is_gone_ends_the_app(serve):
    heard = []

    def app(environ, start_response):
        ws = environ["wsgi.websocket"]
        heard.append(ws.receive())
        heard.append((ws.closed, ws.code))
        return []

    served = serve(app)
    peer = served.dial(request())
    peer.head()
    peer.close()
    until(lambda: served.lines)
    assert heard == [None, (True, 1006)]


def test_a_server_that_is_stopped_says_1001(serve):
    served = serve()
    peer = served.dial(request() + b"")
    peer.head()
    served.server.stop(timeout=0)
    assert decode_close(peer.hear()[1]) == (1001, "")
    assert peer.hear_all() == []


def test_nothing_holds_a_connection_that_is_over(serve):
    kept = []

    def app(environ, start_response):
        kept.extend([environ, environ["wsgi.websocket"]])
        return []

    served = serve(app)
    ended(served.dial(request()))
    until(lambda: served.lines)
    environ, fd = kept
    assert (environ["wsgi.websocket"], "gws.handler" in environ, fd.handler.websocket) == (None, False, None)
    until(lambda: not room.handlers(served.server))
    assert fd.state == CLOSED


def test_the_access_log_tells_what_was_sent(serve):
    served = serve()
    peer = served.dial(request() + Wire(None).wire(HELLO, BYE))
    said = peer.rest()
    until(lambda: served.lines)
    assert f'"GET /chat?room=1 HTTP/1.1" 101 {len(said)} ' in served.lines[0]


def test_the_time_in_the_access_log_is_all_of_it(serve):
    """pywsgi's line has the seconds from the request to the end of the response."""
    served = serve()
    peer = served.dial(request())
    peer.head()
    assert not served.lines
    peer.say(BYE)
    assert peer.hear_all() == [BYE]
    until(lambda: served.lines)


# ----------------------------------------------------------------------------------------------- by hand


def by_hand(environ, start_response):
    """Let in who has a name, and upgrade by hand."""
    if "name" not in urllib.parse.parse_qs(environ["QUERY_STRING"]):
        start_response("401 Unauthorized", [("Content-Length", "4")])
        return [b"name"]
    ws = upgrade(environ)
    assert upgrade(environ) is ws
    ws.send(json.dumps([ws.path, ws.request.target, ws.addr[0], environ["wsgi.websocket"] is ws]))
    while (message := ws.receive()) is not None:
        ws.send(message)
    start_response("200 OK", [])
    return [b"never seen"]


class Manual(WebSocketHandler):
    automatic = False


HANDLERS = [WSGIHandler, Manual]


@pytest.mark.parametrize("handler", HANDLERS)
def test_an_app_may_upgrade_by_hand(serve, handler, capfd):
    served = serve(by_hand, handler)
    peer = served.dial(request())
    assert peer.head()[0] == "HTTP/1.1 401 Unauthorized"
    while len(peer._data) < 4:
        assert peer._receive()
    peer._data = peer._data[4:]
    peer.sock.sendall(request("GET /a%20b?name=x HTTP/1.1") + peer.wire(HELLO, BYE))
    assert peer.head()[0] == "HTTP/1.1 101 Switching Protocols"
    first, payload = peer.hear()
    assert (first, json.loads(payload)) == (FIN | TEXT, ["/a b", "/a%20b?name=x", "127.0.0.1", True])
    assert peer.hear_all() == [HELLO, BYE]
    until(lambda: len(served.lines) == 2)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("handler", HANDLERS)
def test_by_hand_it_ends_as_ever_when_the_app_returns(serve, handler):
    assert ended(serve(lambda environ, _: upgrade(environ) and [], handler).dial(request())) == (1000, "")


@pytest.mark.parametrize("handler", HANDLERS)
def test_by_hand_it_ends_when_the_app_raises(serve, handler, capfd):
    def app(environ, start_response):
        upgrade(environ)
        raise ZeroDivisionError

    served = serve(app, handler)
    assert ended(served.dial(request()))[0] in (1000, 1011)
    until(lambda: served.lines)
    assert capfd.readouterr().err.count("Traceback") == 1


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize(("changes", "status"), [({"Sec_WebSocket_Version": "12"}, 426), ({"Origin": "http://x"}, 403)])
def test_by_hand_a_refusal_is_an_exception(serve, handler, changes, status):
    def app(environ, start_response):
        try:
            upgrade(environ)
        except HandshakeError as refusal:
            start_response(f"{refusal.status} Refused", [*refusal.headers])
            return [refusal.body]

    assert serve(app, handler).dial(request(**changes)).head()[0] == f"HTTP/1.1 {status} Refused"


def test_by_hand_a_refusal_that_nobody_catches_is_the_answer(serve):
    served = serve(lambda environ, _: upgrade(environ), Manual)
    assert served.dial(request(Origin="http://x")).head()[0] == "HTTP/1.1 403 Forbidden"
    assert served.dial(PLAIN).head()[0] == "HTTP/1.1 426 Upgrade Required"


@pytest.mark.parametrize("wrong", [{"wsgi.input": None}, {"wsgi.input": Event()}])
def test_by_hand_another_server_is_told_so(wrong):
    with pytest.raises(RuntimeError, match="handler_class"):
        upgrade(wrong)


def test_by_hand_a_response_that_has_begun_cannot_be_taken_back(serve):
    told = []

    def app(environ, start_response):
        start_response("200 OK", [("Content-Length", "1")])(b"x")
        with pytest.raises(RuntimeError, match="begun") as error:
            upgrade(environ)
        told.append(error)
        return []

    assert serve(app, Manual).dial(request()).head()[0] == "HTTP/1.1 200 OK"
    assert told


def test_by_hand_the_keepalive_watches_as_long_as_it_lasts(serve):
    watch = keepalive(8.0, 3.0)
    served = serve(lambda environ, _: list(upgrade(environ, ping_interval=8.0, ping_timeout=3.0)), WSGIHandler)
    peer = served.dial(request())
    peer.head()
    until(lambda: watch._pings)
    peer.say(BYE)
    assert peer.hear_all() == [BYE]
    until(lambda: not watch._pings)


def test_a_middleware_may_stand_between(serve, connect):
    """It has an environ of its own, and has taken a part of the path."""

    def mounted(environ, start_response):
        inner = dict(environ, SCRIPT_NAME="/app", PATH_INFO=environ["PATH_INFO"].removeprefix("/app"))

        def start(status, headers, exc_info=None):
            return start_response(status, [*headers, ("X-Mounted", "yes")], exc_info)

        return [*inner_app(inner, start)]

    def inner_app(environ, start_response):
        ws = environ["wsgi.websocket"]
        ws.send(environ["SCRIPT_NAME"] + " " + environ["PATH_INFO"])
        start_response("200 OK", [])
        return [b""]

    assert connect(serve(mounted), "/app/chat").read() == "/app /chat"
