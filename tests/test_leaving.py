"""gws.leaving: how the connections of a WSGI server are told that it stops."""

from __future__ import annotations

import gevent
import pytest
import trustme
from conftest import turns, until
from gevent import socket, ssl
from gevent.event import Event
from served import PLAIN, request

from gws import leaving as room
from gws.frame import CLOSE, FIN, TEXT, decode_close, encode_close
from gws.leaving import cut, leave
from gws.wsgi import handlers

pytestmark = pytest.mark.usefixtures("deadline")

NEVER = 3600.0  # seconds of patience: nothing here waits for it
GOODBYE = (FIN | CLOSE, encode_close(1001, ""))


def text(message):
    return FIN | TEXT, message.encode()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(room, "_POLL", 0.001)


@pytest.fixture
def polls(monkeypatch):
    """Return a list that grows each time the connections are looked at."""
    seen = []
    run = room._Leaving._consider
    monkeypatch.setattr(room._Leaving, "_consider", lambda *args: seen.append(args) or run(*args))
    return seen


class App:
    """An app whose answers wait until they are let go; `got` is what it was handed."""

    def __init__(self, hear):
        self.got = []
        self.go = Event()
        self._hear = hear

    def __call__(self, environ, start_response):
        ws = environ["wsgi.websocket"]
        while (message := self._hear(ws)) is not None:
            self.got.append(message)
            self.answer(ws, message)
        return []

    def answer(self, ws, message):
        self.go.wait()
        ws.send(message)


class InParts(App):
    def answer(self, ws, message):
        ws.send("part")
        self.go.wait()
        gevent.sleep(0)
        ws.send(message)


class ByAnother(App):
    def answer(self, ws, message):
        gevent.spawn(super().answer, ws, message)


HEARING = {
    "receive": lambda ws: ws.receive(),
    "read": lambda ws: ws.read(),
    "next": lambda ws: next(ws, None),
}


@pytest.fixture
def leaving(greenlets):
    """Return a function that begins to leave."""
    return lambda served, patience=NEVER, **options: greenlets(leave, [served.server], patience=patience, **options)


def opened(served):
    peer = served.dial(request())
    peer.head()
    return peer


def agree(peer):
    """Answer the server's Close, and see it hang up."""
    peer.say((FIN | CLOSE, encode_close(1001, "")))
    assert peer.hear_all() == []


@pytest.mark.parametrize("hear", HEARING.values(), ids=HEARING)
def test_who_is_idle_is_told_at_once(serve_wsgi, leaving, hear):
    served = serve_wsgi(App(hear))
    peers = [opened(served) for _ in range(3)]
    served.server.close()
    going = leaving(served)
    assert [peer.hear() for peer in peers] == [GOODBYE] * 3
    assert not going.ready()  # the peers have a word in it
    for peer in peers:
        agree(peer)
    going.join()


@pytest.mark.parametrize("hear", HEARING.values(), ids=HEARING)
@pytest.mark.parametrize("kind", [App, InParts, ByAnother])
def test_what_is_at_hand_is_answered_first(serve_wsgi, leaving, polls, kind, hear):
    """And what comes behind it is handed to nobody, not even from the same segment."""
    app = kind(hear)
    served = serve_wsgi(app)
    peer = opened(served)
    peer.say(text("first"))
    until(lambda: app.got)
    leaving(served)
    until(lambda: len(polls) > 3)
    peer.say(text("second"), text("third"))
    until(lambda: len(polls) > 6)
    app.go.set()
    assert peer.hear_all_until_close() == [*([text("part")] if kind is InParts else []), text("first"), GOODBYE]
    agree(peer)
    assert app.got == ["first"]


@pytest.mark.parametrize("hear", HEARING.values(), ids=HEARING)
def test_what_had_arrived_is_handed_over(serve_wsgi, leaving, hear):
    """In the kernel or behind the message at hand: it is answered; what is sent from then on is not."""
    app = App(hear)
    served = serve_wsgi(app)
    peer = opened(served)
    (handler,) = handlers(served.server)
    peer.say(text("first"), text("second"))
    until(lambda: app.got)
    peer.say(text("third"))
    until(lambda: handler.websocket.stream.unread)
    leaving(served)
    until(lambda: handler.websocket._backlog)
    app.go.set()
    for message in ("first", "second", "third"):
        assert peer.hear() == text(message)
    peer.say(text("too late"))
    assert peer.hear_all_until_close() == [GOODBYE]
    agree(peer)
    assert app.got == ["first", "second", "third"]


def test_what_had_arrived_in_one_record_of_tls_is_handed_over(serve_wsgi, leaving):
    """The kernel counts what is sealed, which is more than comes of it."""
    authority, app = trustme.CA(), App(HEARING["receive"])
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    served = serve_wsgi(app, ssl=server)
    peer = served.dial()
    peer.sock = client.wrap_socket(peer.sock, server_hostname="localhost")
    peer.sock.sendall(request())
    peer.head()
    (handler,) = handlers(served.server)
    peer.say(text("first"))
    until(lambda: app.got)
    peer.say(text("second"), text("third"))
    until(lambda: handler.websocket.stream.unread)
    leaving(served)
    until(lambda: handler.websocket._backlog)
    app.go.set()
    assert peer.hear_all_until_close() == [text("first"), text("second"), text("third"), GOODBYE]
    agree(peer)


def test_what_there_is_no_time_for_is_left(serve_wsgi, leaving):
    app = App(HEARING["receive"])
    served = serve_wsgi(app)
    peer = opened(served)
    (handler,) = handlers(served.server)
    peer.say(text("first"), text("second"), text("third"))
    until(lambda: app.got)
    leaving(served)
    backlog = until(lambda: handler.websocket._backlog)
    backlog._begun -= 0.3 * NEVER  # so long did the first one take, at least
    app.go.set()
    assert peer.hear_all_until_close() == [text("first"), GOODBYE]
    agree(peer)
    assert app.got == ["first"]


def test_who_has_sent_half_a_message_is_told_in_time(serve_wsgi, leaving):
    app = App(HEARING["receive"])
    served = serve_wsgi(app, close_timeout=0.05)
    peer = opened(served)
    (handler,) = handlers(served.server)
    peer.sock.sendall(peer.wire(text("half of it"))[:-3])
    until(lambda: handler.websocket.stream.received)
    going = leaving(served, patience=0.05)
    assert peer.hear_all() == [GOODBYE]
    going.join()
    assert app.got == []


def test_who_asks_again_at_once_does_not_keep_it(serve_wsgi, leaving, greenlets):
    app = App(HEARING["receive"])
    app.go.set()
    served = serve_wsgi(app)
    peer = opened(served)
    heard = []

    def ask():
        while True:
            peer.say(text("again"))
            heard.append(peer.hear())
            if heard[-1][0] == FIN | CLOSE:
                return agree(peer)

    greenlets(ask)
    until(lambda: len(heard) > 10)
    leaving(served).join()
    assert heard[-1] == GOODBYE
    assert len(app.got) == len(heard) - 1


def test_all_that_is_at_hand_is_answered(serve_wsgi, leaving, polls):
    """Three messages, three greenlets: the first answer is not the last one."""
    gates = {f"{number}": Event() for number in range(3)}

    def answer(ws, message):
        gates[message].wait()
        ws.send(message)

    def app(environ, start_response):
        ws = environ["wsgi.websocket"]
        while (message := ws.receive()) is not None:
            got.append(message)
            gevent.spawn(answer, ws, message)
        return []

    got = []
    served = serve_wsgi(app)
    peer = opened(served)
    peer.say(*map(text, gates))
    until(lambda: len(got) == 3)
    leaving(served)
    for message, gate in gates.items():
        count = len(polls)
        until(lambda least=count + 4: len(polls) > least)
        gate.set()
        assert peer.hear() == text(message)
    assert peer.hear() == GOODBYE
    agree(peer)


def hang(environ, start_response):
    environ["wsgi.websocket"].receive()
    environ["wsgi.websocket"].ended.wait()
    return []


def push(environ, start_response):
    while not environ["wsgi.websocket"].closed:
        environ["wsgi.websocket"].send("tick")
        turns(1)
    return []


def swallow(environ, start_response):
    for _ in environ["wsgi.websocket"]:
        pass
    return []


@pytest.mark.parametrize("app", [hang, push, swallow])
def test_patience_ends(serve_wsgi, leaving, app):
    served = serve_wsgi(app)
    peer = opened(served)
    peer.say(text("hello"))
    (handler,) = handlers(served.server)
    until(lambda: handler.websocket.stream.received or app is push)
    leaving(served, patience=0.05)
    assert peer.hear_all_until_close()[-1] == GOODBYE
    agree(peer)


def test_a_peer_that_does_not_answer_is_not_waited_for_for_ever(serve_wsgi, leaving):
    served = serve_wsgi(swallow, close_timeout=0.05)
    peer = opened(served)
    leaving(served).join()
    assert peer.hear_all() == [GOODBYE]


def test_who_comes_meanwhile_is_told_too(serve_wsgi, leaving, polls):
    app = App(HEARING["receive"])
    served = serve_wsgi(app)
    first = opened(served)
    first.say(text("hold"))
    until(lambda: app.got)
    late = served.dial()
    leaving(served)
    until(lambda: polls)
    late.sock.sendall(request() + late.wire(text("late")))
    assert late.head()[0] == "HTTP/1.1 101 Switching Protocols"
    app.go.set()
    assert late.hear_all_until_close()[-1] == GOODBYE
    agree(late)
    assert first.hear_all_until_close() == [text("hold"), GOODBYE]
    agree(first)


def test_the_code_and_the_reason_are_the_callers(serve_wsgi, leaving):
    served = serve_wsgi(swallow)
    peer = opened(served)
    leaving(served, code=1012, reason="be back soon")
    assert decode_close(peer.hear()[1]) == (1012, "be back soon")
    agree(peer)


def test_cut_waits_for_nobody(serve_wsgi):
    served = serve_wsgi(swallow)
    peer = opened(served)
    idle = served.dial()
    until(lambda: len(handlers(served.server)) == 2)
    cut([served.server])
    assert peer.hear_all() == [GOODBYE]
    idle.sock.sendall(PLAIN.replace(b"/health", b"/"))  # plain HTTP is not meant


def plain(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        environ["go"].wait()
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]


def test_plain_requests_are_let_finish_and_idle_ones_let_go(serve_wsgi, leaving):
    go = Event()
    served = serve_wsgi(lambda environ, start: plain(environ | {"go": go}, start))
    idle, busy, silent = served.dial(PLAIN), served.dial(PLAIN.replace(b"/health", b"/slow")), served.dial()
    assert idle.head()[0] == "HTTP/1.1 200 OK"
    until(lambda: len(handlers(served.server)) == 3)
    going = leaving(served, patience=0.2)
    assert idle.rest() == b"ok"
    assert silent.rest() == b""  # it had its time
    assert not going.ready()
    go.set()
    assert busy.head()[0] == "HTTP/1.1 200 OK"
    assert busy.rest() == b"ok"
    going.join()


def test_a_first_request_may_still_come(serve_wsgi, leaving):
    served = serve_wsgi(plain)
    peer = served.dial()
    until(lambda: handlers(served.server))
    leaving(served)
    turns(5)
    peer.sock.sendall(PLAIN)
    assert peer.head()[0] == "HTTP/1.1 200 OK"
    assert peer.rest() == b"ok"


# gevent leaves the socket of a handshake that is ended to the garbage collector.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
def test_a_tls_handshake_that_comes_to_nothing_does_not_keep_it(serve_wsgi, leaving):
    served = serve_wsgi(plain, ssl=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    with socket.create_connection(("127.0.0.1", served.port)) as peer:
        until(lambda: served.server.pool)
        leaving(served, patience=0.01).join()
        peer.settimeout(5)
        assert peer.recv(1) == b""
