"""gws.server: its events, its options, whom it refuses and how, how it stops.   The peers here speak byte by byte."""

from __future__ import annotations

import logging
import os
import signal
import socket
import struct
import sys
from contextlib import suppress

import _socket
import gevent
import gevent.socket
import pytest
import trustme
from conftest import turns, until
from gevent.event import Event
from programs import free_port, python

from gws import http, opening, signals, sockethelper
from gws import server as room
from gws import websocket as ws
from gws.deflate import Compression
from gws.errors import ConnectionClosed, HandshakeError
from gws.frame import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, decode, decode_close, encode, encode_close
from gws.server import EVENTS, Options, Server
from gws.stream import Stream

pytestmark = pytest.mark.usefixtures("deadline")

SOUND = {
    "Host": "localhost",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}
MIB = 1024 * 1024


def request(line="GET /chat?room=1 HTTP/1.1", **changes):
    """Encode a sound opening request, but for the changes: X_Y is the header X-Y, None leaves it out."""
    fields = SOUND | {name.replace("_", "-"): value for name, value in changes.items()}
    return "\r\n".join([line, *(f"{k}: {v}" for k, v in fields.items() if v is not None), "", ""]).encode()


PLAIN = request("GET /health HTTP/1.1", Upgrade=None, Connection=None, Sec_WebSocket_Key=None)


class Peer:
    """The other end."""

    def __init__(self, sock, data):
        self._read, self.send = sockethelper.readfunc(sock), sockethelper.writefunc(sock)
        self.sock = sock
        self.addr = sock.getsockname()
        self.send(data)

    def head(self):
        """Read an answer's head."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self._read(1)
        return http.parse_response(head)

    def rest(self):
        """Read until the server hangs up."""
        data = []
        with suppress(EOFError):
            while True:
                data.append(self._read())
        return b"".join(data)

    def answer(self):
        """Read a plain answer, see the server hang up, and do so, too: (status, headers, body)."""
        response, body = self.head(), self.rest()
        sockethelper.close(self.sock)
        return response.status, response.headers, body

    def say(self, payload, opcode=TEXT, fin=True):
        payload = payload.encode() if isinstance(payload, str) else payload
        self.send(encode(payload, opcode, masked=True, fin=fin))

    def frame(self):
        """Read the next frame: (opcode, payload)."""
        data = self._read(2)
        if data[1] > 125:
            data += self._read(2 if data[1] == 126 else 8)
        length = int.from_bytes(data[2:], "big") if data[1] > 125 else data[1]
        payload, _, opcode, _, _ = decode(data + (self._read(length) if length else b""))
        return opcode, payload

    def goodbye(self):
        """Read the server's Close, answer it, see it hang up, and do so, too: (code, reason)."""
        opcode, payload = self.frame()
        assert opcode == CLOSE
        self.say(payload[:2], CLOSE)
        assert self.rest() == b""
        sockethelper.close(self.sock)
        return decode_close(payload)

    def leave(self, code=1000, reason=""):
        """Close, and see the server hang up."""
        self.say(encode_close(code, reason), CLOSE)
        assert self.frame() == (CLOSE, encode_close(code))
        assert self.rest() == b""

    def vanish(self):
        """Reset the connection: the server's next read or write fails."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sockethelper.close(self.sock)


@pytest.fixture
def serve():
    """Return a function that starts a server, with its handlers and options, and stops it in the end."""
    servers = []

    def start(address="127.0.0.1", port=0, on=None, **options):
        server = Server()
        for event, handler in (on or {}).items():
            server.on(event, handler)
        servers.append(server)
        server.start(address, port, **options)
        return server

    yield start
    for server in servers:
        server.stop(timeout=0)


@pytest.fixture
def knock():
    """Return a function that connects to a server, says something, and gives the Peer."""
    peers = []

    def make(server, data=None, context=None):
        if isinstance(server.address, str):
            sock = sockethelper.connect_unix(server.address)
        else:
            sock = sockethelper.connect("127.0.0.1", server.port)
        if context is not None:
            sock = sockethelper.start_tls(sock, context, server_hostname="localhost")
        peers.append(Peer(sock, request() if data is None else data))
        return peers[-1]

    yield make
    for peer in peers:
        sockethelper.close(peer.sock)


@pytest.fixture
def enter(knock):
    """Return a function that opens a connection to a server, and gives the Peer."""

    def make(server, data=None, context=None):
        peer = knock(server, data, context)
        peer.response = peer.head()
        assert peer.response.status == 101
        return peer

    return make


class Diary(list):
    """Everything that a server tells: (event, *arguments)."""

    def handlers(self):
        return {event: lambda *args, event=event: self.append((event, *args)) for event in EVENTS}

    def of(self, event):
        return [args for name, *args in self if name == event]


@pytest.fixture
def diary():
    return Diary()


def records(caplog, level=logging.WARNING):
    return [record for record in caplog.records if record.name == "gws" and record.levelno >= level]


def failures(caplog):
    """Return what was logged with a traceback: the exceptions."""
    return [record.exc_info[1] for record in records(caplog) if record.exc_info]


# --------------------------------------------------------------------------------------------------------- events


class TestEvents:
    def test_a_life(self, serve, enter, diary):
        server = serve(on=diary.handlers())
        peer = enter(server)
        peer.say("hello")
        peer.say("frag", fin=False)
        peer.say(b"a", PING)
        peer.say("ments", CONTINUATION)
        peer.say(b"\x00", BINARY)
        peer.say(b"b", PONG)
        assert peer.frame() == (PONG, b"a")
        assert server.fds == {diary[0][1]}
        peer.leave(4000, "bye")
        until(lambda: diary.of("disconnect"))
        _, fd, asked = diary[0]
        assert diary == [
            ("handshake", fd, asked),
            ("connection", fd, peer.addr),
            ("message", fd, "hello"),
            ("ping", fd, b"a"),
            ("message", fd, "fragments"),
            ("message", fd, b"\x00"),
            ("pong", fd, b"b"),
            ("disconnect", fd, 4000, "bye"),
        ]
        assert (fd.addr, fd.path, fd.code, fd.reason) == (peer.addr, "/chat", 4000, "bye")
        assert fd.request is asked
        assert asked.query == {"room": "1"}
        assert server.fds == set()

    def test_plain_http(self, serve, knock, diary):
        server = serve(on=diary.handlers())
        assert knock(server, PLAIN).answer()[0] == 426
        (event, asked), (refusal, addr, error) = diary
        assert (event, asked.method, asked.path) == ("http", "GET", "/health")
        assert (refusal, addr, error.status) == ("refusal", addr, 426)

    def test_error_comes_before_disconnect(self, serve, enter, diary):
        server = serve(on=diary.handlers())
        peer = enter(server)
        peer.send(b"\x81\x05hello")  # "a client MUST mask all frames that it sends to the server"  (section 5.1)
        assert peer.goodbye()[0] == 1002
        until(lambda: diary.of("disconnect"))
        assert [event for event, *_ in diary] == ["handshake", "connection", "error", "disconnect"]
        ((fd, error),) = diary.of("error")
        assert isinstance(error, ws.ProtocolError)
        assert diary.of("disconnect") == [[fd, 1002, str(error)]]

    def test_warning(self, serve, enter, diary):
        server = serve(on=diary.handlers(), compression=None)
        peer = enter(server)
        (fd,) = server.fds
        for _ in range(12):
            ws.broadcast([fd], bytes(MIB))
        until(lambda: diary.of("warning"))
        for _ in range(12):
            assert peer.frame() == (BINARY, bytes(MIB))
        until(lambda: diary.of("warning")[-1] == [fd, 0])
        sizes = [size for _, size in diary.of("warning")]
        assert sizes[0] >= 1024
        assert sizes[:-1] == sorted(sizes[:-1])

    def test_nobody_need_listen(self, serve, enter):
        peer = enter(serve())
        for opcode in (TEXT, PING, PONG):
            peer.say(b"x", opcode)
        assert peer.frame() == (PONG, b"x")
        peer.leave()

    def test_several_handlers_in_their_order(self, serve, enter):
        told = []
        server = serve()
        for name in ("first", "second"):
            server.on("connection", lambda fd, addr, name=name: told.append(name))
            server.on("message", lambda fd, message, name=name: told.append((name, message)))
        enter(server).say("x")
        until(lambda: len(told) == 4)
        assert told == ["first", "second", ("first", "x"), ("second", "x")]

    def test_a_handler_that_takes_itself_off_hides_nobody(self, serve, enter):
        told = []
        server = serve()

        def once(fd, message):
            told.append("once")
            server.off("message", once)

        server.on("message", once)
        server.on("message", lambda fd, message: told.append(message))
        peer = enter(server)
        peer.say("1")
        peer.say("2")
        until(lambda: "2" in told)
        assert told == ["once", "1", "2"]

    def test_a_handler_that_comes_late(self, serve, enter):
        server, told = serve(), []
        peer = enter(server)
        peer.say(b"", PING)
        assert peer.frame() == (PONG, b"")
        server.on("message", lambda fd, message: told.append(message))
        peer.say("x")
        until(lambda: told == ["x"])

    def test_on_as_a_decorator(self, serve, enter):
        server = serve()

        @server.on("message")
        def echo(fd, message):
            fd.write(message)

        assert echo.__name__ == "echo"
        peer = enter(server)
        peer.say("x")
        assert peer.frame() == (TEXT, b"x")

    def test_an_unknown_event(self):
        with pytest.raises(ValueError, match="no event 'mesage'; there are handshake, http, refusal, connection"):
            Server().on("mesage", print)

    @pytest.mark.parametrize("kind", [socket.socket, gevent.socket.socket])
    def test_a_socket_that_listens_already_is_the_server_s_from_then_on(self, kind, serve, enter):
        sock = kind()
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        server = serve(sock=sock)
        assert server.address == sock.getsockname()
        enter(server).leave()
        server.stop(timeout=0)
        assert sock.fileno() == -1

    def test_two_servers_on_one_socket_have_their_share_of_a_crowd(self, serve, enter):
        """As in two processes: each accepts one at a time."""
        sock = socket.create_server(("127.0.0.1", 0), backlog=100)
        crowd = []
        for _ in range(50):
            crowd.append(_socket.socket())
            crowd[-1].connect(sock.getsockname())  # the kernel's backlog takes it, and no loop turns meanwhile
        one, other = serve(sock=sock), serve(sock=sock.dup())
        until(lambda: len(one._greenlets) + len(other._greenlets) == 50)
        assert one._greenlets
        assert other._greenlets
        one.stop(timeout=0)
        enter(other).leave()  # the socket is open in the other
        for each in crowd:
            each.close()

    def test_a_socket_must_be_one(self):
        with pytest.raises(TypeError, match="sock must be a socket"):
            Server().start(sock="127.0.0.1")

    def test_the_module_s_functions_are_a_default_server_s(self):
        for name in ("on", "off", "listen", "start", "stop"):
            assert getattr(room, name) == getattr(room.default, name)


class TestHandlersThatRaise:
    """ "A handler that raises: `error`, Close 1011, a logged traceback, and every other connection unharmed."""

    @pytest.mark.parametrize("error", [KeyError("x"), gevent.Timeout(1), OSError(5, "a disk"), EOFError()], ids=repr)
    @pytest.mark.parametrize("event", ["connection", "message", "ping", "pong"])
    def test_it(self, event, error, serve, enter, diary, caplog):
        server = serve(on=diary.handlers())
        other = enter(server)

        def fail(fd, value):
            raise error

        server.on(event, fail)
        peer = enter(server)
        peer.say(b"x", {"ping": PING, "pong": PONG}.get(event, TEXT))
        if event == "ping":
            assert peer.frame() == (PONG, b"x")
        assert peer.goodbye() == (1011, "the server has failed")
        until(lambda: diary.of("disconnect"))
        ((fd, told),) = diary.of("error")
        assert told is error
        assert diary.of("disconnect") == [[fd, 1011, ""]]
        assert failures(caplog) == [error]
        assert repr(fd)[:20] in caplog.text
        server.off(event, fail)
        other.say("still here")
        until(lambda: [m for _, m in diary.of("message") if m == "still here"])
        other.leave()

    @pytest.mark.parametrize("error", [KeyError("x"), gevent.Timeout(1)], ids=repr)
    @pytest.mark.parametrize("event", ["error", "disconnect"])
    def test_after_the_last_chance_to_tell_it_is_logged(self, event, error, serve, enter, diary, caplog):
        server = serve(on=diary.handlers())

        def fail(*args):
            raise error

        server.on(event, fail)
        peer = enter(server)
        peer.send(b"\x81\x00")
        assert peer.goodbye()[0] == 1002
        until(lambda: diary.of("disconnect"))
        assert failures(caplog) == [error]
        assert f"a handler of {event!r} failed" in caplog.text

    def test_while_the_goodbyes_are_said(self, serve, enter, diary, caplog):
        server = serve(on=diary.handlers())
        error = OSError(5, "a disk")

        def fail(*args):
            raise error

        server.on("message", fail)
        server.on("ping", fail)
        peer = enter(server)
        peer.say("x")
        assert peer.frame()[0] == CLOSE
        peer.say(b"x", PING)
        assert peer.rest() == b""
        until(lambda: diary.of("disconnect"))
        assert [code for _, code, _ in diary.of("disconnect")] == [1011]
        assert failures(caplog) == [error, error]

    def test_another_connection_s_end(self, serve, enter, diary, caplog):
        gone = []

        def message(fd, message):
            gone[0].write(message)

        server = serve(on=diary.handlers())
        peer = enter(server)
        (fd,) = server.fds
        gone.append(fd)
        peer.leave()
        until(lambda: fd.closed)
        server.on("message", message)
        peer = enter(server)
        peer.say("x")
        assert peer.goodbye()[0] == 1011
        until(lambda: len(diary.of("disconnect")) == 2)
        ((_, error),) = diary.of("error")
        assert isinstance(error, ConnectionClosed)
        assert error.code == 1000
        assert failures(caplog) == [error]

    def test_its_own_end_is_no_failure(self, serve, enter, diary, caplog):
        server = serve(on=diary.handlers())

        def message(fd, message):
            fd.close(4000, "enough")
            fd.write("too late")

        server.on("message", message)
        peer = enter(server)
        peer.say("x")
        assert peer.goodbye() == (4000, "enough")
        until(lambda: diary.of("disconnect"))
        assert diary.of("error") == []
        assert records(caplog) == []

    def test_a_handler_may_end_its_greenlet(self, serve, enter, diary, caplog):
        server = serve(on=diary.handlers())

        def message(fd, message):
            raise gevent.GreenletExit

        server.on("message", message)
        peer = enter(server)
        peer.say("x")
        assert peer.goodbye()[0] == 1001
        until(lambda: diary.of("disconnect"))
        assert records(caplog) == []


class TestBlockingStyle:
    def test_a_loop_in_the_connection_handler(self, serve, enter, diary):
        def connected(fd, addr):
            for message in fd:
                fd.write(message[::-1])

        server = serve(on=diary.handlers())
        server.on("connection", connected)
        peer = enter(server)
        for text in ("abc", "xyz"):
            peer.say(text)
            assert peer.frame() == (TEXT, text[::-1].encode())
        peer.leave()
        until(lambda: diary.of("disconnect"))
        assert diary.of("message") == diary.of("error") == []

    def test_what_it_leaves_unread_is_dispatched(self, serve, enter, diary):
        server = serve(on=diary.handlers())
        read = []
        server.on("connection", lambda fd, addr: read.append(fd.read()))
        peer = enter(server)
        for text in ("name", "1", "2"):
            peer.say(text)
        until(lambda: len(diary.of("message")) == 2)
        assert read == ["name"]
        assert [message for _, message in diary.of("message")] == ["1", "2"]

    def test_frames_in_the_head_s_segment(self, serve, knock, diary):
        server = serve(on=diary.handlers())
        frames = b"".join(encode(text, masked=True) for text in (b"1", b"2"))
        knock(server, request() + frames + encode(b"", CLOSE, masked=True))
        until(lambda: diary.of("disconnect"))
        assert [message for _, message in diary.of("message")] == ["1", "2"]
        assert diary.of("disconnect")[0][1:] == [1005, ""]

    def test_who_is_slow_is_slow_alone(self, serve, enter):
        go_on = Event()

        def message(fd, message):
            if message == "wait":
                go_on.wait()
            fd.write(message)

        server = serve(on={"message": message})
        slow, quick = enter(server), enter(server)
        slow.say("wait")
        for text in ("1", "2", "3"):
            quick.say(text)
            assert quick.frame() == (TEXT, text.encode())
        go_on.set()
        assert slow.frame() == (TEXT, b"wait")


def reset(server, fd, peer):
    peer.vanish()


def hang_up(server, fd, peer):
    sockethelper.close(peer.sock)


def overflow(server, fd, peer):
    while fd.state == ws.OPEN:
        ws.broadcast([fd], bytes(MIB))
    while peer.frame()[0] != CLOSE:
        pass
    peer.say(encode_close(1013), CLOSE)


ENDS = {
    "the peer closes": (lambda server, fd, peer: peer.leave(4321, "bye"), 4321, "bye"),
    "the peer closes, without a code": (lambda server, fd, peer: peer.say(b"", CLOSE), 1005, ""),
    "the peer hangs up": (hang_up, 1006, ""),
    "the peer resets": (reset, 1006, ""),
    "a handler closes": (lambda server, fd, peer: peer.say("close"), 4001, ""),
    "a handler fails": (lambda server, fd, peer: peer.say("fail"), 1011, ""),
    "somebody else closes": (lambda server, fd, peer: gevent.spawn(fd.close, 4002), 4002, ""),
    "somebody cuts it": (lambda server, fd, peer: fd.cut(1011, "away"), 1011, "away"),
    "a broken frame": (lambda server, fd, peer: peer.send(b"\x83\x80abcd"), 1002, "opcode 3 is reserved"),
    "too large a message": (lambda server, fd, peer: peer.say(bytes(2000)), 1009, "a message is longer"),
    "no UTF-8": (lambda server, fd, peer: peer.say(b"\xff"), 1007, ""),
    "a peer that reads too slowly": (overflow, 1013, ""),
    "the server stops": (lambda server, fd, peer: gevent.spawn(server.stop, 1012), 1012, ""),
    "the server stops at once": (lambda server, fd, peer: server.stop(timeout=0), 1001, "the server stopped"),
}


@pytest.mark.parametrize("way", ENDS)
def test_disconnect_comes_exactly_once(way, serve, enter, diary):
    end, code, reason = ENDS[way]

    def message(fd, message):
        assert message == "close"
        fd.close(4001, "")

    server = serve(on=diary.handlers(), max_message=1000, compression=None)
    server.on("message", message)
    peer = enter(server)
    (fd,) = server.fds
    end(server, fd, peer)
    if code in (1002, 1007, 1009, 1011, 1012, 4001, 4002) or reason == "the server stopped":
        assert peer.goodbye()[0] == code
    until(lambda: server._greenlets == {})
    ((told, told_code, told_reason),) = diary.of("disconnect")
    assert (told, told_code) == (fd, code)
    assert reason in told_reason
    assert (fd.code, fd.reason) == (told_code, told_reason)
    assert server.fds == set()
    with pytest.raises(ConnectionClosed):
        fd.write("too late")


# -------------------------------------------------------------------------------------------------------- options


def padded(size):
    """Return a sound request of `size` bytes."""
    bare = len(request(X_Pad=""))
    return request(X_Pad="x" * (size - bare))


def lines(count):
    """Return a sound request with `count` header lines."""
    return request(**{f"X_{i}": "x" for i in range(count - len(SOUND))})


class TestOptions:
    @pytest.mark.parametrize("verb", ["listen", "start"])
    def test_an_unknown_one(self, verb):
        with pytest.raises(TypeError, match=r"there is no option max_size, portt; see gws\.server\.Options"):
            getattr(Server(), verb)(portt=1, max_size=2)

    @pytest.mark.parametrize("name", ["max_header", "handshake_timeout", "maxclient", "backlog", "close_timeout"])
    @pytest.mark.parametrize("value", [0, -1, None, "1"])
    def test_a_limit_is_positive(self, name, value):
        with pytest.raises(ValueError, match=f"{name} must be a positive number, not {value!r}"):
            Server().start("127.0.0.1", 0, **{name: value})

    @pytest.mark.parametrize(
        ("options", "error", "told"),
        [
            ({"protocols": "chat"}, TypeError, "a sequence of str, not str"),
            ({"ssl": True}, TypeError, "ssl must be an ssl.SSLContext, not True"),
            ({"ssl": "cert.pem"}, TypeError, "files are certfile and keyfile"),
            ({"keyfile": "key.pem"}, ValueError, "a keyfile needs a certfile"),
            ({"certfile": "/no/such.pem"}, FileNotFoundError, "/no/such.pem"),
            ({"compression": True}, TypeError, "compression must be a gws.deflate.Compression"),
        ],
    )
    def test_unsound_ones(self, options, error, told):
        server = Server()
        with pytest.raises(error, match=told):
            server.start("127.0.0.1", 0, **options)
        assert repr(server) == "<Server stopped, 0 connections>"

    def test_either_a_context_or_files(self, tls_contexts):
        with pytest.raises(ValueError, match="either ssl or certfile, not both"):
            Options(ssl=tls_contexts[0], certfile="cert.pem")

    @pytest.mark.parametrize("limit", [8192, 300])
    def test_max_header(self, limit, serve, knock, enter):
        server = serve(max_header=limit)
        enter(server, padded(limit)).leave()
        status, _, body = knock(server, padded(limit + 1)).answer()
        assert (status, body) == (431, f"the head is longer than {limit} bytes\n".encode())

    def test_a_head_without_end(self, serve, knock):
        assert knock(serve(), b"GET / HTTP/1.1\r\n" + b"x" * 9000).answer()[0] == 431

    def test_100_lines(self, serve, knock, enter):
        server = serve()
        enter(server, lines(100)).leave()
        assert knock(server, lines(101)).answer()[::2] == (431, b"more than 100 header lines\n")

    @pytest.mark.parametrize("data", [b"", b"GET / HT", request()[:-2]])
    def test_handshake_timeout(self, data, serve, knock, caplog):
        server = serve(handshake_timeout=0.03)
        status, _, body = knock(server, data).answer()
        assert (status, body) == (408, b"the handshake took too long\n")
        assert records(caplog) == []

    def test_handshake_timeout_of_one_that_drips(self, serve, knock, greenlets):
        peer = knock(serve(handshake_timeout=0.03), b"GET / HTTP/1.1\r\nX: ")

        def drip():
            with suppress(OSError):
                while True:
                    peer.send(b"x")
                    gevent.sleep(0.002)

        dripping = greenlets(drip)
        assert peer.head().status == 408
        peer.rest()
        peer.vanish()
        dripping.join()

    def test_handshake_timeout_includes_tls(self, serve, knock, tls_contexts, alarms, monkeypatch):
        made = []
        monkeypatch.setattr(opening, "Stream", lambda *args, **kw: made.append(Stream(*args, **kw)) or made[-1])
        ticking = alarms(opening)
        server = serve(ssl=tls_contexts[0])
        peer = knock(server, b"")
        until(lambda: ticking)[0].ring()
        assert peer.rest() == b""  # it cannot even be told
        peer = knock(server, b"GET", context=tls_contexts[1])
        until(lambda: made)
        (alarm,) = ticking[1:]  # one, for TLS and for the request
        assert alarm.seconds == server.options.handshake_timeout
        alarm.ring()
        assert peer.answer()[0] == 408

    def test_handshake_timeout_includes_the_handlers(self, serve, knock):
        server = serve(on={"handshake": lambda fd, asked: gevent.sleep(60)}, handshake_timeout=0.03)
        assert knock(server).answer()[0] == 408

    def test_max_message(self, serve, enter, diary):
        peer = enter(serve(on=diary.handlers(), max_message=5))
        peer.say("12345")
        peer.say("123456")
        code, reason = peer.goodbye()
        assert code == 1009
        assert "longer than the 5 bytes" in reason
        assert [message for _, message in diary.of("message")] == ["12345"]

    def test_maxclient(self, serve, enter, knock, diary):
        server = serve(on=diary.handlers(), maxclient=2)
        first, _ = enter(server), enter(server)
        status, _, body = knock(server).answer()
        assert (status, body) == (503, b"the server is full\n")
        assert len(diary.of("handshake")) == 2  # nobody else is bothered with it
        assert knock(server, PLAIN).answer()[0] == 426  # who only asks after our health is answered
        first.leave()
        until(lambda: len(server.fds) == 1)
        enter(server).leave()

    def test_maxclient_when_the_handshake_takes_its_time(self, serve, knock):
        go_on = Event()
        server = serve(on={"handshake": lambda fd, asked: go_on.wait() and None}, maxclient=1)
        peers = knock(server), knock(server)
        until(lambda: len(server._greenlets) == 2)
        go_on.set()
        assert sorted(peer.head().status for peer in peers) == [101, 503]

    def test_whoever_is_told_that_it_is_full_is_one_of_few(self, serve, enter, knock, monkeypatch):
        monkeypatch.setattr(room, "_REFUSALS", 1)
        server = serve(maxclient=1)
        enter(server)
        second = knock(server)
        assert second.head().status == 503
        third = knock(server)  # it waits in the backlog: the second one is still being refused
        gevent.sleep(0)
        assert len(server._greenlets) == 2
        second.vanish()
        assert third.answer()[0] == 503

    @pytest.mark.parametrize(
        ("origins", "origin", "status"),
        [
            (None, None, 101),
            (None, "http://localhost", 101),
            (None, "https://elsewhere.example", 403),
            (["https://a.example", "https://b.example"], "https://b.example", 101),
            (["https://a.example"], "http://localhost", 403),
            (["https://a.example"], None, 101),
            ("https://a.example", "https://a.example", 101),
            ("*", "https://elsewhere.example", 101),
            ([], "http://localhost", 403),
        ],
    )
    def test_origins(self, origins, origin, status, serve, knock):
        server = serve(origins=iter(origins) if isinstance(origins, list) else origins)
        for _ in range(2):
            peer = knock(server, request(Origin=origin))
            assert peer.head().status == status
            if status == 403:
                assert peer.rest() == b"this Origin is not allowed here (RFC 6455 section 10.2)\n"

    @pytest.mark.parametrize(
        ("ours", "theirs", "chosen"),
        [
            (["v2", "v1"], "v1, v2", "v1"),
            (["v2", "v1"], "v3", None),
            (["v2", "v1"], None, None),
            ([], "v1", None),
        ],
    )
    def test_protocols(self, ours, theirs, chosen, serve, enter, diary):
        server = serve(on=diary.handlers(), protocols=iter(ours))
        for _ in range(2):
            peer = enter(server, request(Sec_WebSocket_Protocol=theirs))
            assert peer.response.headers.get("Sec-WebSocket-Protocol") == chosen
            assert diary.pop(0)[1].protocol == chosen
            until(lambda: diary.of("connection"))
            diary.clear()

    @pytest.mark.parametrize(
        ("compression", "offer", "answer"),
        [
            (Compression(), "permessage-deflate", "permessage-deflate"),
            (Compression(), None, None),
            (Compression(), "x-webkit-deflate-frame", None),
            (None, "permessage-deflate", None),
        ],
    )
    def test_compression(self, compression, offer, answer, serve, enter):
        server = serve(compression=compression)
        peer = enter(server, request(Sec_WebSocket_Extensions=offer))
        assert peer.response.headers.get("Sec-WebSocket-Extensions", "-").partition(";")[0] == (answer or "-")
        (fd,) = server.fds
        assert (fd.deflate is None) == (answer is None)

    def test_tls_by_a_context(self, serve, enter, tls_contexts):
        server = serve(on={"message": ws.write}, ssl=tls_contexts[0])
        peer = enter(server, context=tls_contexts[1])
        peer.say("x" * 100_000)
        assert peer.frame() == (TEXT, b"x" * 100_000)
        assert peer.sock.version() == "TLSv1.3"

    @pytest.mark.parametrize("in_one", [True, False])
    def test_tls_by_files(self, in_one, serve, enter, tmp_path):
        authority = trustme.CA()
        leaf = authority.issue_cert("localhost")
        cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
        (leaf.private_key_and_cert_chain_pem if in_one else leaf.cert_chain_pems[0]).write_to_path(cert)
        leaf.private_key_pem.write_to_path(key)
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        server = serve(certfile=cert) if in_one else serve(certfile=str(cert), keyfile=str(key))
        peer = enter(server, context=sockethelper.client_context(tmp_path / "ca.pem"))
        peer.leave()

    @pytest.mark.skipif(sys.platform != "linux", reason="nobody else tells")
    def test_backlog(self, serve):
        sock = serve(backlog=7)._listener.sock
        # tcp_info of a listening socket: tcpi_sacked is how long its backlog may be (net/ipv4/tcp.c)
        assert struct.unpack_from("I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 28) == (7,)

    @pytest.mark.parametrize("nodelay", [True, False])
    def test_nodelay(self, nodelay, serve, enter, monkeypatch):
        seen = []

        def stream(sock, *, masked, kind=opening.Stream):
            seen.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            return kind(sock, masked=masked)

        monkeypatch.setattr(opening, "Stream", stream)
        enter(serve(nodelay=nodelay))
        assert seen == [nodelay]

    def test_reuse_port(self, serve, enter):
        first = serve(reuse_port=True)
        second = serve(port=first.port, reuse_port=True)
        while not (first.fds and second.fds):  # the kernel deals them out by their ports
            enter(first)

    def test_a_port_in_use(self, serve):
        port = serve().port
        with pytest.raises(OSError, match=f"Address already in use: 127.0.0.1:{port}"):
            serve(port=port)

    def test_an_address_that_is_not_ours(self, serve):
        with pytest.raises(OSError, match=r"192\.0\.2\.1:0"):
            serve("192.0.2.1")

    def test_path(self, serve, enter, diary, tmp_path):
        path = str(tmp_path / "sock")
        server = serve(path=path, on=diary.handlers())
        assert (server.address, repr(server)) == (path, f"<Server on {path}, 0 connections>")
        enter(server).leave()
        until(lambda: diary.of("disconnect"))
        assert diary.of("connection")[0][1] == path
        server.stop()
        assert not os.path.exists(path)

    def test_ipv6(self, serve, diary):
        try:
            server = serve("::1", on=diary.handlers())
        except OSError as error:
            pytest.skip(f"no IPv6 here: {error}")
        peer = Peer(sockethelper.connect("::1", server.port), request())
        assert peer.head().status == 101
        peer.leave()
        sockethelper.close(peer.sock)
        until(lambda: diary.of("disconnect"))
        assert repr(diary[0][1]).split()[2].startswith("::1:")

    def test_keepalive(self, serve, enter, diary):
        server = serve(on=diary.handlers(), ping_interval=0.02, ping_timeout=0.03)
        peer = enter(server)
        assert peer.frame()[0] == PING
        while (frame := peer.frame())[0] == PING:
            pass
        assert frame == (CLOSE, encode_close(1011, "keepalive ping timeout (0.03 s)"))
        assert peer.rest() == b""
        until(lambda: diary.of("disconnect"))
        assert diary.of("disconnect")[0][1:] == [1011, "keepalive ping timeout (0.03 s)"]

    def test_no_keepalive_on_the_second_start(self, serve, enter):
        server = serve(ping_interval=0.005)
        server.stop()
        server.start("127.0.0.1", 0, ping_interval=None)
        peer = enter(server)
        assert server._keepalive is None
        peer.leave()


# ------------------------------------------------------------------------------------------------------- refusals

REFUSED = [
    (b"GET / HTTP/1.1\r\n\r\n", 400, b"Host"),
    (b"\r\n\r\n", 400, b"request line"),
    (b"\x16\x03\x01\x00\xf4\x01\x00\r\n\r\n", 400, b"control character"),  # TLS, to a port without
    (request(Sec_WebSocket_Key="short"), 400, b"16 bytes in base64"),
    (request(Connection="keep-alive"), 400, b"Connection must include Upgrade"),
    (request(Sec_WebSocket_Extensions="a;;"), 400, b"Sec-WebSocket-Extensions is malformed"),
    (request(Sec_WebSocket_Protocol="a b"), 400, b"Sec-WebSocket-Protocol must be"),
    (request(Origin="null"), 403, b"Origin is not allowed"),
    (request("POST / HTTP/1.1"), 405, b"method must be GET"),
    (request(Content_Length="5") + b"hello", 413, b"no body"),
    (request(Sec_WebSocket_Version="12"), 426, b"must be 13"),
    (PLAIN, 426, b"Upgrade must be websocket"),
    (request(Upgrade="h2c", Sec_WebSocket_Key=None), 426, b"Upgrade must be websocket"),
    (request("GET / HTTP/1.0"), 505, b"must be HTTP/1.1"),
]


class TestRefusals:
    @pytest.mark.parametrize(("data", "status", "rule"), REFUSED)
    def test_it(self, data, status, rule, serve, knock, diary, caplog):
        caplog.set_level(logging.INFO, "gws")
        server = serve(on=diary.handlers())
        told, headers, body = knock(server, data).answer()
        assert told == status
        assert rule in body
        assert body.count(b"\n") == 1
        assert body.endswith(b"\n")
        assert headers["Content-Length"] == str(len(body))
        assert "close" in headers["Connection"]
        if status == 405:
            assert headers["Allow"] == "GET"
        if status == 426:
            assert (headers["Upgrade"], headers["Sec-WebSocket-Version"]) == ("websocket", "13")
        ((event, addr, error),) = [entry for entry in diary if entry[0] != "http"]
        assert (event, error.status) == ("refusal", status)
        assert addr[0] == "127.0.0.1"
        assert [record.exc_info for record in caplog.records if "refused" in record.getMessage()] == [None]
        assert records(caplog) == []

    def test_the_server_s_own_fault_is_a_refusal_too(self, serve, knock, diary):
        server = serve(on=diary.handlers())
        server.on("handshake", raiser(KeyError("x")))
        assert knock(server).answer()[0] == 500
        ((_, error),) = diary.of("refusal")
        assert error.status == 500

    def test_what_a_handler_of_refusals_raises_is_logged_and_no_more(self, serve, knock, caplog):
        server = serve(on={"refusal": raiser(KeyError("x"))})
        assert knock(server, PLAIN).answer()[0] == 426
        assert [type(error) for error in failures(caplog)] == [KeyError]

    def test_who_is_still_sending_can_read_why(self, serve, knock, greenlets):
        def upload():
            with suppress(OSError):
                peer.send(bytes(8 * MIB))

        peer = knock(serve(), request("POST /upload HTTP/1.1"))
        greenlets(upload)
        assert peer.answer()[::2] == (405, b"the method must be GET (RFC 6455 section 4.2.1)\n")

    def test_who_never_hangs_up_is_cut(self, serve, knock, monkeypatch):
        monkeypatch.setattr(opening, "_LINGER", 0.02)
        server = serve()
        peer = knock(server, PLAIN)
        assert peer.head().status == 426
        until(lambda: server._greenlets == {})

    @pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1\r\n", request()[:-1]])
    @pytest.mark.parametrize("leave", [hang_up, reset])
    def test_who_leaves_before_it_has_asked_is_no_failure(self, data, leave, serve, knock, caplog):
        server = serve()
        peer = knock(server, data)
        until(lambda: server._greenlets)
        leave(server, None, peer)
        until(lambda: server._greenlets == {})
        assert records(caplog) == []

    def test_who_has_left_when_it_is_answered(self, serve, knock, caplog):
        go_on = Event()
        server = serve(on={"handshake": lambda fd, asked: go_on.wait() and None})
        peers = [knock(server) for _ in range(3)]
        until(lambda: len(server._greenlets) == 3)
        for peer in peers:
            peer.vanish()
        go_on.set()
        until(lambda: server._greenlets == {})
        assert records(caplog) == []

    @pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05hello", bytes(100)])
    def test_tls_that_fails(self, data, serve, knock, tls_contexts, caplog):
        # skynet #2040: a failed TLS handshake leaked its descriptor.
        server = serve(ssl=tls_contexts[0])
        for leave in (hang_up, reset):
            peer = knock(server, data)
            if data:
                with suppress(ConnectionResetError):
                    peer.rest()
            else:
                until(lambda: server._greenlets)
            leave(server, None, peer)
            until(lambda: server._greenlets == {})
        assert records(caplog) == []


# -------------------------------------------------------------------------------------------------- plain requests


def raiser(error):
    def fail(*args):
        raise error

    return fail


HTML = "<!doctype html><p>hello"

ANSWERS = [
    ("fine", 200, "text/plain; charset=utf-8", b"fine"),
    (HTML, 200, "text/html; charset=utf-8", HTML.encode()),
    (b"\x00", 200, "application/octet-stream", b"\x00"),
    (404, 404, "text/plain; charset=utf-8", b"404 Not Found\n"),
    (204, 204, None, b""),
    ((201, {"X-A": "b"}, "made"), 201, "text/plain; charset=utf-8", b"made"),
    ((200, [("Content-Type", "text/css")], "p {}"), 200, "text/css", b"p {}"),
    (http.Response(302, [("Location", "/there")]), 302, None, b""),
    (HandshakeError(410, "gone for good"), 410, "text/plain; charset=utf-8", b"gone for good\n"),
]


class TestPlainRequests:
    @pytest.mark.parametrize(("value", "status", "kind", "body"), ANSWERS, ids=[repr(a[0])[:30] for a in ANSWERS])
    def test_it(self, value, status, kind, body, serve, knock):
        server = serve(on={"http": lambda asked: value})
        told, headers, text = knock(server, PLAIN).answer()
        assert (told, headers.get("Content-Type"), text) == (status, kind, body)
        assert headers.get("X-A") == ("b" if status == 201 else None)
        told, again, text = knock(server, PLAIN.replace(b"GET", b"HEAD")).answer()
        assert (told, list(again), text) == (status, list(headers), b"")

    def test_a_refusal_may_be_raised(self, serve, knock):
        refusal = HandshakeError(401, "who are you?", [("WWW-Authenticate", "Basic")])
        status, headers, body = knock(serve(on={"http": raiser(refusal)}), PLAIN).answer()
        assert (status, headers["WWW-Authenticate"], body) == (401, "Basic", b"who are you?\n")

    @pytest.mark.parametrize(
        "handler",
        [
            *map(raiser, (KeyError("x"), FileNotFoundError(2, "no page"), EOFError(), gevent.Timeout(1))),
            lambda asked: 3.14,
            lambda asked: False,
            lambda asked: 99,
            lambda asked: (200, {"X": "a\r\nSet-Cookie: b"}, ""),
            lambda asked: HandshakeError(400, "x", body="not bytes"),
        ],
    )
    def test_one_that_fails(self, handler, serve, knock, caplog):
        status, _, body = knock(serve(on={"http": handler}), PLAIN).answer()
        assert (status, body) == (500, b"the server has failed\n")
        assert len(failures(caplog)) == 1
        assert "a handler of ('127.0.0.1', " in caplog.text

    def test_the_first_that_has_an_answer(self, serve, knock):
        server = serve()
        for answer in (None, "second", "third"):
            server.on("http", lambda asked, answer=answer: answer)
        assert knock(server, PLAIN).answer()[2] == b"second"

    @pytest.mark.parametrize(("line", "status"), [("GET / HTTP/1.1", 426), ("PUT / HTTP/1.1", 405)])
    def test_nobody_has_an_answer(self, line, status, serve, knock):
        server = serve(on={"http": lambda asked: None})
        assert knock(server, PLAIN.replace(b"GET /health HTTP/1.1", line.encode())).answer()[0] == status

    def test_an_upgrade_is_not_asked_here(self, serve, enter, diary):
        enter(serve(on=diary.handlers()))
        assert diary.of("http") == []

    def test_a_large_page_for_a_slow_reader(self, serve, knock, monkeypatch):
        monkeypatch.setattr(opening, "_LINGER", 0.05)
        page = bytes(range(256)) * 48 * 1024  # more than the kernel takes at once
        peer = knock(serve(on={"http": lambda asked: page}), PLAIN)
        assert peer.head().status == 200
        gevent.sleep(0.1)  # longer than the lingering
        assert peer.rest() == page

    def test_one_that_does_not_read_it(self, serve, knock, monkeypatch):
        monkeypatch.setattr(opening, "_LINGER", 0.05)
        server = serve(on={"http": lambda asked: bytes(64 * MIB)}, handshake_timeout=0.05)
        knock(server, PLAIN)
        until(lambda: server._greenlets)
        until(lambda: not server._greenlets)


TURNED_DOWN = [
    (False, 403, b"the server turns this connection down\n"),
    (HandshakeError(401, "no"), 401, b"no\n"),
    (404, 404, b"404 Not Found\n"),
    ((429, {"Retry-After": "5"}, "later"), 429, b"later"),
    (http.Response(503, (), b"busy"), 503, b"busy"),
]


class TestHandshakeHandler:
    @pytest.mark.parametrize("verdict", [None, True])
    def test_it_lets_in(self, verdict, serve, enter):
        enter(serve(on={"handshake": lambda fd, asked: verdict})).leave()

    @pytest.mark.parametrize(("verdict", "status", "body"), TURNED_DOWN)
    def test_it_turns_down(self, verdict, status, body, serve, knock, diary, caplog):
        server = serve(on=diary.handlers())
        server.on("handshake", lambda fd, asked: verdict)
        server.on("handshake", lambda fd, asked: diary.append(("second", fd)))
        told, headers, text = knock(server).answer()
        assert (told, text) == (status, body)
        assert headers.get("Retry-After") == ("5" if status == 429 else None)
        until(lambda: server._greenlets == {})
        assert [event for event, *_ in diary] == ["handshake", "refusal"]
        assert diary.of("refusal")[0][1].status == status
        assert records(caplog) == []

    def test_it_turns_down_by_raising(self, serve, knock, caplog):
        refusal = HandshakeError(401, "who are you?", [("WWW-Authenticate", 'Basic realm="gws"')])
        status, headers, body = knock(serve(on={"handshake": raiser(refusal)})).answer()
        assert (status, headers["WWW-Authenticate"], body) == (401, 'Basic realm="gws"', b"who are you?\n")
        assert records(caplog) == []

    @pytest.mark.parametrize("error", [KeyError("x"), ConnectionRefusedError(111, "a database"), gevent.Timeout(1)])
    def test_it_fails(self, error, serve, knock, caplog):
        status, _, body = knock(serve(on={"handshake": raiser(error)})).answer()
        assert (status, body) == (500, b"the server has failed\n")
        assert failures(caplog) == [error]

    def test_it_returns_what_is_no_answer(self, serve, knock, caplog):
        assert knock(serve(on={"handshake": lambda fd, asked: 3.14})).answer()[0] == 500
        assert "an http handler returns a Response" in caplog.text

    def test_what_it_sees(self, serve, enter):
        def judge(fd, asked):
            seen.append((fd.path, fd.protocol, fd.addr, fd.closed, asked.headers["Authorization"], asked is fd.request))
            fd.data = "Aladdin"
            with pytest.raises(ConnectionClosed):
                fd.write("not yet")

        seen = []
        server = serve(on={"handshake": judge}, protocols=["v1"])
        peer = enter(server, request(Authorization="Basic QQ==", Sec_WebSocket_Protocol="v1"))
        assert seen == [("/chat", "v1", peer.addr, False, "Basic QQ==", True)]
        assert [fd.data for fd in server.fds] == ["Aladdin"]

    def test_it_may_choose_the_protocol(self, serve, enter):
        def judge(fd, asked):
            fd.protocol = "v2"

        peer = enter(serve(on={"handshake": judge}), request(Sec_WebSocket_Protocol="v1, v2"))
        assert peer.response.headers["Sec-WebSocket-Protocol"] == "v2"


# ------------------------------------------------------------------------------------------------------- stopping


class TestStop:
    def test_everybody_is_told(self, serve, enter, knock, diary, greenlets):
        server = serve(on=diary.handlers())
        peers = [enter(server) for _ in range(3)]
        where = server.port
        stopping = greenlets(server.stop)
        for peer in peers:
            assert peer.goodbye() == (1001, "")
        assert stopping.get() == []
        assert [args[1:] for args in diary.of("disconnect")] == [[1001, ""]] * 3
        with pytest.raises(ConnectionRefusedError):
            sockethelper.connect("127.0.0.1", where)
        assert repr(server) == "<Server stopped, 0 connections>"

    def test_nobody_comes_in_meanwhile(self, serve, enter, greenlets):
        server = serve()
        peer = enter(server)
        stopping = greenlets(server.stop, 1012, "a new version")
        assert peer.frame() == (CLOSE, encode_close(1012, "a new version"))
        with pytest.raises(ConnectionRefusedError):
            sockethelper.connect("127.0.0.1", server.port)
        assert not stopping.ready()
        peer.say(encode_close(1012), CLOSE)
        assert stopping.get() == []

    @pytest.mark.parametrize("code", [1006, 99, 70000])
    def test_a_code_that_no_close_may_carry(self, code, serve, enter):
        server = serve()
        peer = enter(server)
        with pytest.raises(ValueError):
            server.stop(code)
        enter(server).leave()
        peer.leave()

    def test_who_does_not_answer_is_cut_and_returned(self, serve, enter, diary, alarms):
        ticking = alarms(room)
        server = serve(on=diary.handlers())
        deaf, polite = enter(server), enter(server)
        fds = {fd.addr: fd for fd in server.fds}
        stopping = gevent.spawn(server.stop, timeout=5)
        assert polite.goodbye() == (1001, "")
        until(lambda: len(server.fds) == 1)
        assert [alarm.seconds for alarm in ticking] == [5]
        ticking[0].ring()
        assert stopping.get() == [fds[deaf.addr]]
        assert deaf.frame() == (CLOSE, encode_close(1001))
        assert deaf.rest() == b""
        # `stop` has seen to it that everybody is told before it returns.
        assert [fd.addr for fd, *_ in diary.of("disconnect")] == [polite.addr, deaf.addr]
        assert server._greenlets == {}

    def test_the_deadline_is_close_timeout(self, serve, enter):
        server = serve(close_timeout=0.05)
        enter(server)
        (fd,) = server.fds
        assert server.stop() == [fd]

    def test_a_handler_at_work_has_until_the_deadline(self, serve, enter, diary, alarms):
        ticking = alarms(room)
        ended, go_on = [], Event()

        def message(fd, message):
            try:
                gevent.sleep(60) if message == "long" else go_on.wait()
                ended.append(message)
            except gevent.GreenletExit:
                ended.append("killed")
                raise

        server = serve(on=diary.handlers())
        server.on("message", message)
        long, short = enter(server), enter(server)
        long.say("long")
        short.say("short")
        until(lambda: len(diary.of("message")) == 2)
        stopping = gevent.spawn(server.stop, timeout=5)
        assert long.goodbye() == short.goodbye() == (1001, "")
        go_on.set()
        until(lambda: ended)
        ticking[0].ring()
        assert stopping.get() == []  # both were closed as they should
        assert ended == ["short", "killed"]
        assert [args[1:] for args in diary.of("disconnect")] == [[1001, ""]] * 2

    def test_whoever_asks_again_at_once_loses_no_message_that_was_taken(self, serve, enter, greenlets):
        taken, answered = [], []

        def message(fd, number):
            taken.append((fd.number, number))
            gevent.sleep(0.05)
            fd.write(number)

        def talk(peer):
            number = 0
            while True:
                peer.say(str(number))
                opcode, payload = peer.frame()
                if opcode == CLOSE:
                    peer.say(payload[:2], CLOSE)
                    peer.end = decode_close(payload)
                    return
                answered.append((peer.number, payload.decode()))
                number += 1

        server = serve(on={"message": message})
        peers = [enter(server) for _ in range(20)]
        for peer in peers:
            (peer.number,) = (fd.number for fd in server.fds if fd.addr == peer.addr)
        talking = [greenlets(talk, peer) for peer in peers]
        until(lambda: len(answered) > 40)
        assert server.stop() == []
        gevent.joinall(talking)
        assert sorted(answered) == sorted(taken)
        assert {peer.end for peer in peers} == {(1001, "")}

    def test_at_once(self, serve, enter, diary):
        server = serve(on=diary.handlers())
        peer = enter(server)
        (fd,) = server.fds
        assert server.stop(1012, "a new version", timeout=0) == [fd]
        assert peer.goodbye() == (1012, "a new version")
        assert diary.of("disconnect") == [[fd, 1012, "a new version"]]

    def test_who_is_in_the_handshake_is_cut(self, serve, knock, tls_contexts, caplog):
        for server in (serve(), serve(ssl=tls_contexts[0])):
            peer = knock(server, b"")
            until(lambda server=server: server._greenlets)
            assert server.stop() == []
            assert peer.rest() == b""
            assert server._greenlets == {}
        assert records(caplog) == []

    @pytest.mark.parametrize("event", ["connection", "message", "ping", "disconnect"])
    def test_from_a_handler(self, event, serve, enter, diary):
        server = serve(on=diary.handlers())
        other = enter(server)
        stopped = []
        server.on(event, lambda *args: stopped.append(server.stop()))
        peer = enter(server)
        if event == "disconnect":
            peer.leave()
        else:
            peer.say(b"x", PING if event == "ping" else TEXT)
            if event == "ping":
                assert peer.frame() == (PONG, b"x")
            assert peer.goodbye() == (1001, "")
        assert other.goodbye() == (1001, "")
        until(lambda: server._greenlets == {})
        assert len(diary.of("disconnect")) == 2
        assert stopped[0] == []

    def test_from_a_plain_request(self, serve, enter, knock):
        server = serve(on={"http": lambda asked: f"{len(server.stop())} were cut"})
        other = enter(server)
        peer = knock(server, PLAIN)
        assert other.goodbye() == (1001, "")
        assert peer.answer()[2] == b"0 were cut"

    def test_from_the_handshake(self, serve, enter, knock):
        server = serve()
        other = enter(server)
        server.on("handshake", lambda fd, asked: bool(server.stop()) or None)
        peer = knock(server)
        assert other.goodbye() == (1001, "")
        assert peer.answer()[::2] == (503, b"the server is stopping\n")

    def test_from_two_handlers_and_from_outside(self, serve, enter):
        stopped, waiting, go = [], [], Event()

        def message(fd, message):
            waiting.append(fd)
            go.wait()
            stopped.append(server.stop())

        server = serve(on={"message": message}, close_timeout=60)
        peers = [enter(server) for _ in range(3)]
        for peer in peers[:2]:
            peer.say("stop")
        until(lambda: len(waiting) == 2)
        go.set()
        until(lambda: len(server._stoppers) == 2)
        outside = gevent.spawn(server.stop)
        for peer in peers:
            assert peer.goodbye() == (1001, "")
        assert outside.get() == []
        assert stopped == [[], []]

    def test_twice(self, serve, enter):
        server = serve()
        peer = enter(server)
        first, second = gevent.spawn(server.stop), gevent.spawn(server.stop)
        assert peer.goodbye() == (1001, "")
        assert first.get() == second.get() == server.stop() == []

    def test_before_the_start(self):
        assert Server().stop() == []

    def test_and_start_again(self, serve, enter, diary):
        server = serve(on=diary.handlers(), maxclient=1)
        enter(server).leave()
        port = server.port
        server.stop()
        server.start("127.0.0.1", port)
        assert (server.port, server.options.maxclient) == (port, 65535)
        for _ in range(2):
            peer = enter(server)
            peer.say("x")
        until(lambda: len(diary.of("message")) == 2)

    def test_start_twice(self, serve):
        server = serve()
        with pytest.raises(RuntimeError, match=rf"<Server on \('127.0.0.1', {server.port}\), 0 conn.*> is serving"):
            server.start()

    def test_start_twice_while_a_name_is_resolved_and_stop_meanwhile(self, serve, greenlets, monkeypatch):
        def listen(*args, **options):
            resolved.wait()
            made.append(real(*args, **options))
            return made[-1]

        real, resolved, made, server = sockethelper.listen, Event(), [], Server()
        monkeypatch.setattr(sockethelper, "listen", listen)
        starting = gevent.spawn(server.start, "127.0.0.1", 0)
        turns(1)
        with pytest.raises(RuntimeError, match="is serving already"):
            server.start("127.0.0.1", 0)
        server.stop()
        again = greenlets(server.start, "127.0.0.1", 0)
        turns(1)
        resolved.set()
        with pytest.raises(RuntimeError, match="was stopped while it started"):
            starting.get()
        again.join()
        assert [sock.fileno() >= 0 for sock in made] == [False, True]
        server.stop()


class TestListen:
    def test_until_it_is_stopped(self, knock, enter, greenlets):
        server = Server()
        listening = greenlets(server.listen, "127.0.0.1", 0)
        until(lambda: server.address)
        stopping = enter(server)
        greenlets(server.stop)
        assert stopping.goodbye() == (1001, "")
        listening.join()
        assert not signals._heard

    def test_a_kill_stops_it(self, enter):
        server = Server()
        listening = gevent.spawn(server.listen, "127.0.0.1", 0)
        until(lambda: server.address)
        peer = enter(server)
        listening.kill()
        assert peer.goodbye()[0] == 1001
        assert repr(server) == "<Server stopped, 0 connections>"

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal(self, number, enter, diary, greenlets):
        servers = Server(), Server()
        for server in servers:
            server.on("disconnect", lambda *args: diary.append(args))
        listening = [greenlets(server.listen, "127.0.0.1", 0, close_timeout=60) for server in servers]
        until(lambda: all(server.address for server in servers))
        polite, deaf = map(enter, servers)
        os.kill(os.getpid(), number)
        assert polite.goodbye() == (1001, "")
        listening[0].join()
        assert deaf.frame() == (CLOSE, encode_close(1001))
        assert signal.getsignal(number) is not None
        os.kill(os.getpid(), number)  # a second one stops at once
        assert deaf.rest() == b""
        listening[1].join()
        assert [args[1:] for args in diary] == [(1001, "")] * 2

    PROGRAM = """
import os, signal, sys, time
import gws.server as server

server.on("connection", lambda fd, addr: print("connection", flush=True))
server.on("disconnect", lambda fd, code, reason: print("disconnect", code, reason, flush=True))
server.listen("127.0.0.1", int(sys.argv[1]), close_timeout=60)
print("returned", flush=True)
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1)
except KeyboardInterrupt:
    print("KeyboardInterrupt, as ever")
"""

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    @pytest.mark.parametrize("polite", [True, False])
    def test_a_program(self, number, polite):
        with python("-c", self.PROGRAM, port := free_port()) as program:
            program.wait_until_it_listens(port)
            peer = Peer(sockethelper.connect("127.0.0.1", program.port), request())
            assert peer.head().status == 101
            assert program.read_line() == "connection\n"
            program._process.send_signal(number)
            if polite:
                assert peer.goodbye() == (1001, "")
            else:
                assert peer.frame() == (CLOSE, encode_close(1001))
                program._process.send_signal(number)
                assert peer.rest() == b""
            assert program.wait() == 0
            sockethelper.close(peer.sock)
        last = ["connection", "disconnect 1001 ", "returned", "KeyboardInterrupt, as ever"]
        assert program.said.splitlines() == last


# ------------------------------------------------------------------------------------------------ many, and too many


class TestSeveral:
    def test_two_in_one_process(self, serve, enter, diary):
        first = serve(on={"message": lambda fd, message: fd.write("first")})
        second = serve(on={"message": lambda fd, message: fd.write("second")})
        peers = enter(first), enter(second)
        for peer, text in zip(peers, (b"first", b"second")):
            peer.say("who?")
            assert peer.frame() == (TEXT, text)
        assert first.fds.isdisjoint(second.fds)
        assert {first, second} <= set(room.servers())
        first.stop(timeout=0)
        peers[1].leave()

    THREADS = """
import threading
import gevent
import gws.client
from gws.server import Server

def run(server, ready):
    server.on("message", lambda fd, message: fd.write(message) if message == "x" else server.stop())
    gevent.spawn(ready.set)  # once it listens
    server.listen("127.0.0.1", 0)

servers = Server(), Server()
ready = threading.Event()
thread = threading.Thread(target=run, args=(servers[0], ready))
thread.start()
ready.wait()
gevent.spawn(run, servers[1], ready)
gevent.sleep(0)
for server in servers:
    client = gws.client.connect("127.0.0.1", server.port)
    client.write("x")
    print(client.read())
    client.write("stop")
    client.join()
    print(client.fd.code)
thread.join()
"""

    def test_in_another_thread(self):
        # "libev: a signal must not be attached to two different loops" aborted the process.
        with python("-c", self.THREADS) as program:
            assert program.wait() == 0
            assert program.said == "x\n1001\n" * 2

    PROGRAM = """
import os, resource, sys, time
import gevent
import gws.server as server

def spent(fd, message):
    before = time.process_time()
    gevent.sleep(0.3)
    fd.write(str(time.process_time() - before))

server.on("message", spent)
gevent.get_hub().threadpool  # what is opened once is open by now
lowest = os.dup(0)
resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 8, lowest + 8))
server.listen("127.0.0.1", int(sys.argv[1]))
"""

    def test_more_than_there_are_descriptors(self, knock):
        with python("-c", self.PROGRAM, port := free_port()) as program:
            program.wait_until_it_listens(port)
            server = Server()
            server.address = ("127.0.0.1", port)
            peers = [knock(server) for _ in range(20)]
            assert peers[0].head().status == 101
            assert program.read_line().startswith("cannot accept: [Errno 24] Too many open files")
            peers[0].say("how much time have you spent?")
            assert float(peers[0].frame()[1]) < 0.15  # half of what there was: it does not spin
            for peer in peers[1:]:
                assert peer.head().status == 101  # each in its turn, as the ones before it leave
                peer.leave()
            peers[0].leave()
            assert program.stop() == 0
            assert len(program.lines) < 10
