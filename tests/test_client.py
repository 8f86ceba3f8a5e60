"""gws.client: its events, reading, closing, whom it believes and whom not.   Its hosts often speak byte by byte."""

from __future__ import annotations

import logging
import os
import random
import re
import socket
import ssl
from contextlib import suppress

import gevent
import gevent.socket
import pytest
import trustme
from by_hand import outcome
from conftest import turns, until
from gevent import getcurrent
from gevent.event import Event
from gevent.pool import Pool
from gevent.server import StreamServer

import gws.client
from gws import client as room
from gws import dialing, http, sockethelper
from gws import websocket as ws
from gws.client import EVENTS, Client, Options
from gws.errors import ConnectionClosed, HandshakeError
from gws.frame import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, decode, encode, encode_close
from gws.handshake import accept_response, check_upgrade
from gws.server import Server
from gws.url import Target, redirected

pytestmark = pytest.mark.usefixtures("deadline")

MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def serve():
    """Return a function that starts a gws server, and stops it in the end."""
    servers = []

    def start(on=None, server=None, port=0, **options):
        server = server or Server()
        for event, handler in (on or {}).items():
            server.on(event, handler)
        servers.append(server)
        server.start("127.0.0.1", port, **options)
        return server

    yield start
    for server in servers:
        server.stop(timeout=0)


def echo(fd, message):
    fd.write(message)


@pytest.fixture
def client():
    """Return a function that makes a client, with handlers; its connections are cut in the end."""
    clients = []

    def make(**on):
        client = gws.client.new()
        for event, handler in on.items():
            client.on(event, handler)
        clients.append(client)
        return client

    yield make
    for client in clients:
        if client._running is not None:
            client._running.kill()
            client.fd.cut(1001, "")  # it may not even have begun to read


class Host:
    """The other end of one connection."""

    def __init__(self, sock):
        self.sock = sock
        self.send = sock.sendall
        self.request = None

    def read(self, size):
        data = b""
        while len(data) < size:
            more = self.sock.recv(size - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def head(self):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.read(1)
        return head

    def accept(self, more=b""):
        """Shake hands; `more` follows in the same segment."""
        self.request = http.parse_request(self.head())
        self.send(accept_response(check_upgrade(self.request)) + more)

    def frame(self):
        """Read the next frame, which must be masked: (opcode, payload)."""
        data = self.read(2)
        length = data[1] & 0x7F
        if length > 125:
            data += self.read(2 if length == 126 else 8)
            length = int.from_bytes(data[2:], "big")
        payload, _, opcode, _, masked = decode(data + self.read(4 + length))
        assert masked
        return opcode, payload

    def say(self, payload, opcode=TEXT, fin=True):
        self.send(encode(payload.encode() if isinstance(payload, str) else payload, opcode, fin=fin))

    def rest(self):
        """Read until the client hangs up."""
        with suppress(OSError):
            while self.sock.recv(65536):
                pass


@pytest.fixture
def host():
    """Return a function that serves each connection with `handle(Host)`, and gives the port."""
    servers = []

    def start(handle):
        def each(sock, _):
            with suppress(OSError, EOFError):
                handle(Host(sock))

        server = StreamServer(("127.0.0.1", 0), each, spawn=Pool())
        server.start()
        servers.append(server)
        return server.server_port

    yield start
    for server in servers:
        server.stop(timeout=0)


@pytest.fixture
def answering(host):
    """Return a function that starts a host with the given answer to each head, and gives the port and the heads."""

    def start(*answers):
        heads, left = [], list(answers)

        def handle(host):
            heads.append(host.head())
            host.send(left.pop(0) if len(left) > 1 else left[0])
            host.sock.shutdown(socket.SHUT_WR)
            host.rest()

        return host(handle), heads

    return start


class Diary(list):
    """Everything that a client tells: (event, *arguments)."""

    def handlers(self, *without):
        names = set(EVENTS) - set(without)
        return {event: lambda *args, event=event: self.append((event, *args)) for event in names}

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


# ----------------------------------------------------------------------------------------------------- connecting


class TestConnect:
    @pytest.mark.parametrize(
        ("form", "path"),
        [
            (lambda port: ("127.0.0.1", port), "/"),
            (lambda port: ("localhost", port), "/"),
            (lambda port: (f"ws://127.0.0.1:{port}",), "/"),
            (lambda port: (f"ws://localhost:{port}/a%20b?c=d",), "/a%20b"),
        ],
    )
    def test_forms(self, form, path, serve, client):
        server = serve({"message": echo})
        it = client()
        assert it.connect(*form(server.port)) is it
        assert not it.closed
        (fd,) = server.fds
        assert fd.path == path
        it.write("hello")
        assert it.read() == "hello"
        it.close()
        assert (it.closed, it.fd.code) == (True, 1000)

    def test_in_one_go(self, serve):
        server = serve({"message": echo})
        it = gws.client.connect("127.0.0.1", server.port)
        it.write(b"\x00")
        assert it.read() == b"\x00"
        it.close()

    def test_what_the_server_sees(self, serve, client):
        server = serve(protocols=["v1"])
        it = client()
        headers = [("X-A", "1"), ("X-A", "2"), ("Host", "example.org")]
        url = f"ws://me:secret@127.0.0.1:{server.port}/chat?room=1"
        it.connect(url, headers=headers, protocols=["v2", "v1"], origin="http://example.org")
        (fd,) = server.fds
        asked = fd.request
        assert (asked.target, asked.query) == ("/chat?room=1", {"room": "1"})
        assert asked.headers.get_all("X-A") == ["1", "2"]
        assert asked.headers["Host"] == "example.org"
        assert asked.headers["Origin"] == "http://example.org"
        assert asked.headers["Sec-WebSocket-Protocol"] == "v2, v1"
        assert asked.headers["Authorization"] == "Basic bWU6c2VjcmV0"
        assert it.protocol == fd.protocol == "v1"
        assert it.fd.addr == ("127.0.0.1", server.port)

    def test_compression(self, serve, client):
        server = serve({"message": echo})
        for options, compressed in (({}, True), ({"compression": None}, False)):
            it = client().connect("127.0.0.1", server.port, **options)
            assert (it.fd.deflate is not None) == compressed
            it.write("x" * 1000)
            assert it.read() == "x" * 1000
            it.close()

    def test_max_message(self, serve, client, diary):
        server = serve({"connection": lambda fd, addr: fd.write("123456")})
        it = client(**diary.handlers())
        it.connect("127.0.0.1", server.port, max_message=5)
        it.join()
        assert diary.of("close")[0][0] == 1009

    def test_a_unix_socket(self, client, tmp_path):
        server = Server()
        server.on("message", echo)
        server.start(path=str(tmp_path / "sock"))
        it = client().connect("ws://example.org/chat", path=tmp_path / "sock")
        (fd,) = server.fds
        assert (fd.path, fd.request.headers["Host"]) == ("/chat", "example.org")
        it.write("x")
        assert it.read() == "x"
        it.close()
        server.stop()

    @pytest.mark.parametrize(
        ("args", "options", "error", "told"),
        [
            (("127.0.0.1",), {}, ValueError, "a URL, or a host and a port|ws:// or wss:// URL"),
            (("http://127.0.0.1/",), {}, ValueError, "expected a ws:// or wss:// URL"),
            (("ws://h/#top",), {}, ValueError, "no fragment"),
            (("127.0.0.1", 70000), {}, ValueError, "0 to 65535"),
            (("127.0.0.1", 1), {"header": {}}, TypeError, "there is no option header; see gws.client.Options"),
            (("127.0.0.1", 1), {"protocols": "chat"}, TypeError, "a sequence of str"),
            (("127.0.0.1", 1), {"ssl": True}, TypeError, "ssl must be an ssl.SSLContext, not True"),
            (("127.0.0.1", 1), {"timeout": 0}, ValueError, "timeout must be a positive number, not 0"),
            (("127.0.0.1", 1), {"timeout": None}, ValueError, "timeout must be a positive number"),
            (("127.0.0.1", 1), {"max_header": -1}, ValueError, "max_header must be a positive number"),
            (("127.0.0.1", 1), {"max_message": 0}, ValueError, "max_message must be a positive"),
        ],
    )
    def test_wrong_use(self, args, options, error, told, client):
        with pytest.raises(error, match=told):
            client().connect(*args, **options)

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            ({"headers": {"X": "a\r\nY: b"}}, "control character"),
            ({"headers": {"Sec-WebSocket-Key": "x"}}, "the handshake's own"),
            ({"origin": "a\r\nb"}, "control character"),
            ({"protocols": ["a b"]}, "different tokens"),
        ],
    )
    def test_what_may_not_be_sent(self, options, told, answering, client):
        port, heads = answering(b"")
        with pytest.raises(ValueError, match=told):
            client().connect("127.0.0.1", port, **options)
        assert heads == []

    def test_a_path_that_no_request_may_hold(self, answering, client):
        port, heads = answering(b"")
        with pytest.raises(ValueError, match="percent-encoded"):
            client().connect(f"ws://127.0.0.1:{port}/ü")
        assert heads == []

    def test_nobody_there(self, client):
        sock = sockethelper.listen()
        port = sock.getsockname()[1]
        sockethelper.close(sock)
        with pytest.raises(ConnectionRefusedError, match=f"127.0.0.1:{port}"):
            client().connect("127.0.0.1", port)

    def test_nobody_at_the_unix_socket(self, client, tmp_path):
        with pytest.raises(FileNotFoundError, match="sock"):
            client().connect("ws://localhost/", path=str(tmp_path / "sock"))

    def test_twice(self, serve, client, host):
        server = serve()
        it = client().connect("127.0.0.1", server.port)
        with pytest.raises(RuntimeError, match=rf"<Client ws://127.0.0.1:{server.port}/ open> is connected already"):
            it.connect("127.0.0.1", server.port)
        it.close()
        it.connect("127.0.0.1", server.port)
        assert not it.closed

    def test_twice_at_once(self, host, client, greenlets):
        asked, go_on = Event(), Event()

        def handle(host):
            asked.set()
            go_on.wait()
            host.accept()
            host.rest()

        it, port = client(), host(handle)
        connecting = greenlets(it.connect, "127.0.0.1", port)
        asked.wait()
        with pytest.raises(RuntimeError, match="is connected already"):
            it.connect("127.0.0.1", port)
        go_on.set()
        assert connecting.get() is it

    def test_before_it(self, client):
        it = client()
        assert (it.closed, it.protocol, repr(it)) == (True, None, "<Client not connected>")
        for verb in (it.read, it.ping, lambda: it.write("x"), lambda: next(iter(it))):
            with pytest.raises(RuntimeError, match="connect\\(\\) first"):
                verb()
        it.close()  # as for a file: there is nothing to be closed
        it.join()

    def test_repr(self, serve, client):
        it = client()
        it.connect(f"ws://me:secret@127.0.0.1:{serve().port}/x")
        assert re.fullmatch(r"<Client ws://127.0.0.1:\d+/x open>", repr(it))
        it.close(4000)
        assert re.fullmatch(r"<Client ws://127.0.0.1:\d+/x closed 4000>", repr(it))


class TestDeadline:
    """`timeout` is for connecting, TLS and the opening handshake, in all."""

    def silent(self, host):
        host.rest()

    def drips(self, host):
        host.head()
        host.send(b"HTTP/1.1 101 Switching Protocols\r\nX: ")
        while True:
            host.send(b"x")
            gevent.sleep(0.002)

    @pytest.mark.parametrize("kind", ["silent", "drips"])
    def test_it(self, kind, host, client):
        port = host(getattr(self, kind))
        with pytest.raises(TimeoutError, match=rf"timed out after 0.03 s: ws://127.0.0.1:{port}/x"):
            client().connect(f"ws://127.0.0.1:{port}/x", timeout=0.03)

    def test_tls(self, host, client, tls_contexts):
        with pytest.raises(TimeoutError, match="wss://localhost"):
            client().connect(f"wss://localhost:{host(self.silent)}", timeout=0.03, ssl=tls_contexts[1])

    def test_redirects(self, host, client):
        def handle(host):
            host.head()
            host.send(b"HTTP/1.1 302 Found\r\nLocation: /again\r\n\r\n")
            gevent.sleep(0.01)

        asked = []
        port = host(lambda host: (asked.append(host), gevent.sleep(0.02), handle(host)))
        with pytest.raises(TimeoutError):  # and not: more than 10 redirects
            client().connect("127.0.0.1", port, timeout=0.05)
        assert len(asked) <= 3

    def test_the_caller_s_own_time(self, host, client):
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.02):
            client().connect("127.0.0.1", host(self.silent))


KEY_OF = re.compile(rb"Sec-WebSocket-Key: (.*)\r\n")
SOUND = ["Upgrade: websocket", "Connection: Upgrade"]


def answer(*lines, status="101 Switching Protocols", accept=None):
    """Return a host that answers with such a head."""

    def handle(host):
        key = KEY_OF.search(host.head())[1].decode()
        sound = re.search(rb"Accept: (.*)\r\n", accept_response(key))[1].decode()
        host.send(
            "\r\n".join([f"HTTP/1.1 {status}", *lines, f"Sec-WebSocket-Accept: {accept or sound}", "", ""]).encode()
        )
        host.rest()

    return handle


def raw(data):
    def handle(host):
        host.head()
        host.send(data)

    return handle


EARLY = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"


FAULTS = {
    "not a 101": (answer(*SOUND, status="200 OK"), 200, "200 OK"),
    "a refusal": (answer(status="403 Forbidden"), 403, "403 Forbidden"),
    "nobody knows": (answer(status="599 Odd"), 599, "599"),
    "no accept": (answer(*SOUND, accept=" "), 101, "Accept does not answer our key"),
    "another's accept": (answer(*SOUND, accept="s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), 101, "does not answer our key"),
    "no Upgrade": (answer("Connection: Upgrade"), 101, "Upgrade must be websocket"),
    "another Upgrade": (answer("Upgrade: h2c", "Connection: Upgrade"), 101, "Upgrade must be websocket"),
    "no Connection": (answer("Upgrade: websocket"), 101, "Connection must include Upgrade"),
    "a protocol": (answer(*SOUND, "Sec-WebSocket-Protocol: v9"), 101, "not one that we offered"),
    "an extension": (answer(*SOUND, "Sec-WebSocket-Extensions: x-y"), 101, "did not ask for"),
    "a parameter": (answer(*SOUND, "Sec-WebSocket-Extensions: permessage-deflate; x=1"), 101, "RFC 7692"),
    "no extension": (answer(*SOUND, "Sec-WebSocket-Extensions: ;;"), 101, "Sec-WebSocket-Extensions is malformed"),
    "HTTP/1.0": (raw(b"HTTP/1.0 101 OK\r\n\r\n"), 0, "status line is malformed"),
    "garbage": (raw(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n\r\n"), 0, "status line is malformed"),
    "binary": (raw(bytes(100) + b"\r\n\r\n"), 0, "control character"),
    "a folded header": (raw(b"HTTP/1.1 101 OK\r\nX: a\r\n b\r\n\r\n"), 0, "must not be folded"),
    "a large head": (raw(b"HTTP/1.1 101 OK\r\nX: " + b"x" * 9000), 0, "the head is longer than 8192 bytes"),
    "101 lines": (raw(b"HTTP/1.1 101 OK\r\n" + b"X: y\r\n" * 101 + b"\r\n"), 0, "more than 100 header lines"),
    "interim ones for ever": (raw(EARLY.encode() * 100), 0, "more than 10 interim responses"),
    "a large interim one": (raw(b"HTTP/1.1 100 Continue\r\nX: " + b"x" * 9000), 0, "the head is longer than 8192"),
    "an interim one, and nothing": (raw(EARLY.encode()), 0, "closed the connection instead of answering"),
    "half a head": (raw(b"HTTP/1.1 101 OK\r\nX: "), 0, "closed the connection instead of answering"),
    "nothing": (raw(b""), 0, "closed the connection instead of answering"),
}


class TestFaultyAnswers:
    @pytest.mark.parametrize("fault", FAULTS)
    def test_it(self, fault, host, client):
        handle, status, told = FAULTS[fault]
        it = client()
        with pytest.raises(HandshakeError, match=told) as refused:
            it.connect("127.0.0.1", host(handle), protocols=["v1"])
        assert refused.value.status == status
        assert (it.closed, it.fd) == (True, None)

    def test_a_refusal_of_ours(self, serve, client):
        server = serve(origins=["https://example.org"])
        with pytest.raises(HandshakeError, match="403 Forbidden") as refused:
            client().connect("127.0.0.1", server.port, origin="https://elsewhere.example")
        assert refused.value.body == b"this Origin is not allowed here (RFC 6455 section 10.2)\n"
        assert ("Connection", "close") in refused.value.headers

    @pytest.mark.parametrize(
        ("length", "sent", "body"),
        [
            (b"Content-Length: 3\r\n", b"no!...", b"no!"),
            (b"Content-Length: 0\r\n", b"no!", b""),
            (b"Content-Length: 4\r\n", b"no!", b""),
            (b"Content-Length: 9999999999\r\n", b"no!", b""),
            (b"Content-Length: 99999\r\n", b"x" * 99999, b"x" * dialing._MAX_BODY),
            (b"Transfer-Encoding: chunked\r\n", b"3\r\nno!\r\n0\r\n\r\n", b""),
            (b"", b"no!", b""),
        ],
    )
    def test_a_refusal_s_body(self, length, sent, body, answering, client):
        port, _ = answering(b"HTTP/1.1 403 No\r\n" + length + b"\r\n" + sent)
        with pytest.raises(HandshakeError) as refused:
            client().connect("127.0.0.1", port)
        assert (refused.value.status, refused.value.body) == (403, body)

    def test_a_refusal_s_body_that_does_not_come(self, host, client, monkeypatch):
        def handle(host):
            host.head()
            host.send(b"HTTP/1.1 403 No\r\nContent-Length: 10\r\n\r\n")
            host.rest()

        monkeypatch.setattr(dialing, "_PATIENCE", 0.02)
        with pytest.raises(HandshakeError, match="403"):
            client().connect("127.0.0.1", host(handle))

    def test_an_extension_that_was_not_wanted(self, host, client):
        port = host(answer(*SOUND, "Sec-WebSocket-Extensions: permessage-deflate"))
        with pytest.raises(HandshakeError, match="did not ask for"):
            client().connect("127.0.0.1", port, compression=None)

    def test_interim_responses(self, host, client, answering):
        """103 and the like go before the final response, whatever that is."""

        def handle(host):
            head = host.head()
            host.send(EARLY.encode() + b"HTTP/1.1 100 Continue\r\n\r\n")
            host.send(EARLY.encode() + accept_response(KEY_OF.search(head)[1].decode()) + encode(b"hello"))
            host.rest()

        it = client().connect("127.0.0.1", host(handle))
        assert it.read() == "hello"
        port, _ = answering(EARLY.encode() + b"HTTP/1.1 403 No\r\nContent-Length: 3\r\n\r\nno!")
        with pytest.raises(HandshakeError) as refused:
            client().connect("127.0.0.1", port)
        assert (refused.value.status, refused.value.body) == (403, b"no!")

    def test_a_reset(self, host, client):
        def handle(host):
            host.head()
            host.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            host.sock.close()

        with pytest.raises(ConnectionResetError):
            client().connect("127.0.0.1", host(handle))

    def test_max_header(self, host, client):
        with pytest.raises(HandshakeError, match="longer than 100 bytes"):
            client().connect("127.0.0.1", host(answer(*SOUND)), max_header=100)

    def test_frames_in_the_head_s_segment(self, host, client):
        def handle(host):
            host.accept(encode(b"1") + encode(b"2"))
            host.rest()

        it = client().connect("127.0.0.1", host(handle))
        assert (it.read(), it.read()) == ("1", "2")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return a server's TLS context for localhost, and the file with its authority."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    ca = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(ca)
    return context, str(ca)


class TestTls:
    def test_a_context_of_one_s_own(self, serve, client, files):
        server = serve({"message": echo}, ssl=files[0])
        it = client().connect(f"wss://localhost:{server.port}/", ssl=sockethelper.client_context(files[1]))
        it.write("x" * 100_000)
        assert it.read() == "x" * 100_000
        it.close()

    def test_a_host_and_a_port_with_a_context_are_wss(self, serve, client, files):
        server = serve({"message": echo}, ssl=files[0])
        it = client().connect("localhost", server.port, ssl=sockethelper.client_context(files[1]))
        it.write("x")
        assert it.read() == "x"
        assert "wss://localhost" in repr(it)

    def test_the_system_s_authorities_by_default(self, serve, client, files, monkeypatch):
        server = serve({"message": echo}, ssl=files[0])
        monkeypatch.setenv("SSL_CERT_FILE", files[1])
        it = client().connect(f"wss://localhost:{server.port}/")
        it.write("x")
        assert it.read() == "x"

    def test_an_unknown_authority(self, serve, client, files):
        with pytest.raises(ssl.SSLCertVerificationError):
            client().connect(f"wss://localhost:{serve(ssl=files[0]).port}/")

    def test_another_host(self, serve, client, files):
        context = sockethelper.client_context(files[1])
        where = f"wss://127.0.0.1:{serve(ssl=files[0]).port}/"
        with pytest.raises(ssl.SSLCertVerificationError, match=r"127\.0\.0\.1"):
            client().connect(where, ssl=context)
        client().connect(where, ssl=context, server_hostname="localhost").close()

    def test_a_server_without(self, serve, client):
        with pytest.raises(ssl.SSLError):
            client().connect(f"wss://localhost:{serve(handshake_timeout=0.05).port}/")

    def test_a_server_that_hangs_up(self, host, client):
        with pytest.raises(OSError):
            client().connect(f"wss://localhost:{host(lambda host: host.read(1))}/")


# ------------------------------------------------------------------------------------------------------ redirects


def redirect(location, status=302):
    return f"HTTP/1.1 {status} Elsewhere\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()


class TestRedirects:
    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    @pytest.mark.parametrize("absolute", [True, False])
    def test_it(self, status, absolute, serve, answering, client):
        server = serve()
        if absolute:
            port, _ = answering(redirect(f"http://127.0.0.1:{server.port}/there?x=1", status))
        else:
            port, verdict = server.port, (status, {"Location": "there?x=1"}, "")
            server.on("handshake", lambda fd, asked: verdict if asked.path == "/a/b" else None)
        it = client().connect(f"ws://127.0.0.1:{port}/a/b")
        (fd,) = server.fds
        assert fd.request.target == ("/there?x=1" if absolute else "/a/there?x=1")
        assert it.fd.addr[1] == server.port

    @pytest.mark.parametrize(
        "head", [redirect("/x", 300), redirect("/x", 304), redirect("/x", 200), b"HTTP/1.1 302 Found\r\n\r\n"]
    )
    def test_what_is_none(self, head, answering, client):
        port, heads = answering(head)
        with pytest.raises(HandshakeError) as refused:
            client().connect("127.0.0.1", port)
        assert refused.value.status == int(head[9:12])
        assert len(heads) == 1

    @pytest.mark.parametrize(("count", "followed"), [(10, True), (11, False)])
    def test_ten_at_most(self, count, followed, serve, client):
        server = serve()

        def hop(fd, asked):
            left = int(asked.query["left"])
            return (302, {"Location": f"/?left={left - 1}"}, "") if left else None

        server.on("handshake", hop)
        it, url = client(), f"ws://127.0.0.1:{server.port}/?left={count}"
        if followed:
            assert not it.connect(url).closed
        else:
            with pytest.raises(HandshakeError, match="more than 10 redirects") as refused:
                it.connect(url)
            assert refused.value.status == 0

    SECRETS = {"Authorization": "Bearer x", "Cookie": "a=b", "Host": "example.org", "X-Trace": "1"}

    def test_secrets_stay_with_their_origin(self, answering, client, serve):
        server = serve()
        port, heads = answering(redirect("/same"), redirect(f"ws://127.0.0.1:{server.port}/other"))
        client().connect(f"ws://127.0.0.1:{port}/", headers=iter(self.SECRETS.items()))
        (fd,) = server.fds
        assert len(heads) == 2
        for head in heads:
            asked = http.parse_request(head)
            assert {name: asked.headers[name] for name in self.SECRETS} == self.SECRETS
        assert fd.request.headers["X-Trace"] == "1"
        assert fd.request.headers["Host"] == f"127.0.0.1:{server.port}"
        assert "Authorization" not in fd.request.headers
        assert "Cookie" not in fd.request.headers

    def test_a_url_s_user_stays_as_well(self, answering, client, serve):
        server = serve()
        port, heads = answering(redirect("/same"), redirect(f"ws://127.0.0.1:{server.port}/other"))
        client().connect(f"ws://me:secret@127.0.0.1:{port}/")
        (fd,) = server.fds
        assert [b"Authorization: Basic bWU6c2VjcmV0" in head for head in heads] == [True, True]
        assert "Authorization" not in fd.request.headers

    @pytest.mark.parametrize("scheme", ["ws", "http"])
    def test_never_from_wss_to_ws(self, scheme, serve, client, tls_contexts):
        plain = serve()
        verdict = (302, {"Location": f"{scheme}://localhost:{plain.port}/"}, "")
        secure = serve({"handshake": lambda fd, asked: verdict}, ssl=tls_contexts[0])
        with pytest.raises(HandshakeError, match="from wss to ws"):
            client().connect(f"wss://localhost:{secure.port}/", ssl=tls_contexts[1])
        assert plain._greenlets == {}

    def test_from_ws_to_wss(self, serve, answering, client, tls_contexts):
        secure = serve(ssl=tls_contexts[0])
        port, _ = answering(redirect(f"https://localhost:{secure.port}/"))
        it = client().connect(f"ws://127.0.0.1:{port}", ssl=tls_contexts[1])
        assert it.fd.addr == ("localhost", secure.port)

    def test_from_ws_to_wss_of_whom_we_do_not_trust(self, serve, answering, client, tls_contexts):
        port, _ = answering(redirect(f"https://localhost:{serve(ssl=tls_contexts[0]).port}/"))
        with pytest.raises(ssl.SSLCertVerificationError):
            client().connect("127.0.0.1", port)

    @pytest.mark.parametrize(
        "location",
        ["ftp://x/", "http://h:x/", "http://[::1/", "/a b", "/\xfc", "http://a..b/", "http://" + "a" * 70 + "/"],
    )
    def test_nowhere(self, location, answering, client):
        port, _ = answering(redirect(location).decode().encode("latin-1"))
        with pytest.raises(HandshakeError, match="a redirect leads") as refused:
            client().connect("127.0.0.1", port)
        assert refused.value.status == 0

    def test_to_nobody(self, answering, client):
        sock = sockethelper.listen()
        gone = sock.getsockname()[1]
        sockethelper.close(sock)
        port, _ = answering(redirect(f"ws://127.0.0.1:{gone}/"))
        with pytest.raises(ConnectionRefusedError, match=f":{gone}"):
            client().connect("127.0.0.1", port)

    def test_host_is_bound_to_its_origin(self):
        headers = [("Host", "example.org"), ("X", "y")]
        assert redirected(Target.of("ws://h/"), "/x", headers)[1] == headers
        assert redirected(Target.of("ws://h/"), "ws://i/x", headers)[1] == [("X", "y")]


class TestProxies:
    """A tunnel is opened by gws.proxy, whose tests these are not."""

    @pytest.fixture
    def relay(self, host):
        """Return the URL of a CONNECT proxy, and the heads that it has seen."""
        heads = []

        def carry(source, sink):
            with suppress(OSError):
                while data := source.recv(65536):
                    sink.sendall(data)
                sink.shutdown(socket.SHUT_WR)

        def handle(host):
            heads.append(host.head())
            name, port = re.match(rb"CONNECT (.+):(\d+) HTTP/1.1\r\n", heads[-1]).groups()
            with gevent.socket.create_connection((name.decode(), int(port))) as there:
                host.send(b"HTTP/1.1 200 OK\r\n\r\n")
                back = gevent.spawn(carry, there, host.sock)
                try:
                    carry(host.sock, there)
                    back.join()
                finally:
                    back.kill()

        return f"http://127.0.0.1:{host(handle)}", heads

    @pytest.mark.parametrize("scheme", ["ws", "wss"])
    def test_one_that_is_named(self, scheme, relay, serve, client, tls_contexts):
        options = ({"ssl": tls_contexts[0]}, {"ssl": tls_contexts[1]}) if scheme == "wss" else ({}, {})
        server = serve({"message": echo}, **options[0])
        it = client().connect(f"{scheme}://localhost:{server.port}/", proxy=relay[0], **options[1])
        it.write("x")
        assert it.read() == "x"
        it.close()
        assert relay[1][0].startswith(f"CONNECT localhost:{server.port} ".encode())

    @pytest.mark.parametrize(("options", "through"), [({}, True), ({"proxy": True}, True), ({"proxy": None}, False)])
    def test_one_in_the_environment(self, options, through, relay, serve, client, monkeypatch):
        monkeypatch.setenv("ws_proxy", relay[0])
        client().connect("127.0.0.1", serve().port, **options).close()
        assert len(relay[1]) == through

    def test_its_refusal(self, answering, client):
        port, _ = answering(b"HTTP/1.1 403 Not for you\r\n\r\n")
        with pytest.raises(HandshakeError, match="opened no tunnel") as refused:
            client().connect("ws://example.org/", proxy=f"http://127.0.0.1:{port}")
        assert refused.value.status == 403

    def test_its_redirect_is_nobody_s_word(self, answering, serve, client):
        # Who sits between us and the proxy could have sent it, TLS or not: it must not lead wss://bank elsewhere.
        server = serve()
        port, heads = answering(redirect(f"ws://127.0.0.1:{server.port}/"))
        with pytest.raises(HandshakeError) as refused:
            client().connect("ws://bank.example/", proxy=f"http://127.0.0.1:{port}")
        assert refused.value.status == 302
        assert (len(heads), server._greenlets) == (1, {})


# --------------------------------------------------------------------------------------------------------- events


class TestEvents:
    def test_a_life(self, host, client, diary):
        seen = []

        def handle(host):
            host.accept()
            host.say("hello")
            host.say("frag", fin=False)
            host.say(b"a", PING)
            host.say("ments", CONTINUATION)
            host.say(b"\x00", BINARY)
            host.say(b"b", PONG)
            host.say(encode_close(4000, "bye"), CLOSE)
            seen.extend([host.frame(), host.frame()])

        it = client(**diary.handlers())
        it.connect("127.0.0.1", host(handle))
        it.join()
        assert diary == [
            ("open",),
            ("message", "hello"),
            ("ping", b"a"),
            ("message", "fragments"),
            ("message", b"\x00"),
            ("pong", b"b"),
            ("close", 4000, "bye"),
        ]
        assert seen == [(PONG, b"a"), (CLOSE, encode_close(4000))]

    def test_the_open_handler_may_write(self, serve, client):
        heard = []
        it = client(open=lambda: it.write("hello"), message=heard.append)
        it.connect("127.0.0.1", serve({"message": echo}).port)
        until(lambda: heard == ["hello"])

    def test_an_error_comes_before_the_close(self, host, client, diary):
        def handle(host):
            host.accept(b"\x83\x00")
            assert host.frame()[0] == CLOSE

        it = client(**diary.handlers())
        it.connect("127.0.0.1", host(handle))
        it.join()
        assert [event for event, *_ in diary] == ["open", "error", "close"]
        ((error,),) = diary.of("error")
        assert isinstance(error, ws.ProtocolError)
        assert diary.of("close") == [[1002, str(error)]]

    def test_warning(self, host, client, diary):
        go_on = Event()

        def handle(host):
            host.accept()
            go_on.wait()
            for _ in range(12):
                assert host.frame() == (BINARY, bytes(MIB))
            host.rest()

        it = client(**diary.handlers())
        it.connect("127.0.0.1", host(handle), compression=None)
        for _ in range(12):
            ws.broadcast([it.fd], bytes(MIB))
        until(lambda: diary.of("warning"))
        go_on.set()
        until(lambda: diary.of("warning")[-1] == [0])
        assert diary.of("warning")[0][0] >= 1024

    def test_several_handlers_in_their_order(self, serve, client):
        told = []
        it = client()

        @it.on("message")
        def once(message):
            told.append("once")
            it.off("message", once)

        it.on("message", told.append)
        it.connect("127.0.0.1", serve({"message": echo}).port)
        it.write("1")
        it.write("2")
        until(lambda: "2" in told)
        assert told == ["once", "1", "2"]

    def test_an_unknown_event(self, client):
        with pytest.raises(ValueError, match="no event 'connect'; there are open, message, close"):
            client().on("connect", print)

    @pytest.mark.parametrize("error", [KeyError("x"), gevent.Timeout(1), OSError(5, "a disk"), EOFError()], ids=repr)
    @pytest.mark.parametrize("event", ["open", "message", "ping", "pong"])
    def test_a_handler_that_raises(self, event, error, host, client, diary, caplog):
        seen = []

        def handle(host):
            host.accept()
            host.say(b"x", {"ping": PING, "pong": PONG}.get(event, TEXT))
            if event == "ping":
                host.frame()
            seen.append(host.frame())
            host.say(seen[0][1], CLOSE)

        def fail(*args):
            raise error

        it = client(**diary.handlers())
        it.on(event, fail)
        it.connect("127.0.0.1", host(handle))
        it.join()
        assert seen == [(CLOSE, encode_close(1011, "the client has failed"))]
        assert diary.of("error") == [[error]]
        assert diary.of("close") == [[1011, "the client has failed"]]
        assert failures(caplog) == [error]

    @pytest.mark.parametrize("error", [KeyError("x"), gevent.Timeout(1)], ids=repr)
    @pytest.mark.parametrize("event", ["error", "close"])
    def test_after_the_last_chance_to_tell_it_is_logged(self, event, error, host, client, caplog):
        def fail(*args):
            raise error

        it = client(**{event: fail})
        it.connect("127.0.0.1", host(lambda host: host.accept(b"\x83\x00")))
        it.join()
        assert failures(caplog) == [error]
        assert f"a handler of {event!r} failed" in caplog.text

    def test_a_lost_connection(self, host, client, diary, caplog):
        it = client(**diary.handlers())
        it.connect("127.0.0.1", host(lambda host: host.accept()))
        it.join()
        assert diary == [("open",), ("close", 1006, "")]
        assert records(caplog) == []

    def test_no_keepalive(self, serve, client):
        client().connect("127.0.0.1", serve().port, ping_interval=None).close()
        assert (None, 20) not in getattr(gevent.get_hub(), "gws_keepalive", {})

    def test_keepalive(self, host, client, diary):
        def handle(host):
            host.accept()
            host.rest()

        it = client(**diary.handlers())
        it.connect("127.0.0.1", host(handle), ping_interval=0.02, ping_timeout=0.03)
        it.join()
        assert diary.of("close") == [[1011, "keepalive ping timeout (0.03 s)"]]


# -------------------------------------------------------------------------------------------------------- talking


def greet(*messages, code=1000):
    """Return a host that says this, and then Close, if there is a code."""

    def handle(host):
        host.accept()
        for message in messages:
            host.say(message, TEXT if isinstance(message, str) else BINARY)
        if code is not None:
            host.say(encode_close(code), CLOSE)
        while host.frame()[0] != CLOSE:
            pass

    return handle


class TestReading:
    def test_read(self, host, client):
        it = client().connect("127.0.0.1", host(greet("1", b"2", code=4000)))
        assert [it.read(), it.read()] == ["1", b"2"]
        for _ in range(2):  # for ever
            with pytest.raises(ConnectionClosed) as end:
                it.read()
            assert end.value.code == 4000

    @pytest.mark.parametrize("code", [1000, 1001, 1005])
    def test_iteration(self, code, host, client):
        it = client().connect("127.0.0.1", host(greet("1", "2", code=code)))
        assert list(it) == ["1", "2"]
        assert list(it) == []

    def test_an_iteration_that_does_not_end_well(self, host, client):
        messages = iter(client().connect("127.0.0.1", host(greet("1", code=1011))))
        assert next(messages) == "1"
        with pytest.raises(ConnectionClosed, match="1011"):
            next(messages)

    def test_messages_are_for_the_handler_if_there_is_one(self, host, client):
        it = client(message=print).connect("127.0.0.1", host(greet(code=None)))
        with pytest.raises(RuntimeError, match="the messages go to the 'message' handler"):
            it.read()

    def test_what_was_kept_is_there_after_the_end(self, host, client):
        it = client().connect("127.0.0.1", host(greet(*"123")))
        it.join()
        assert it.closed
        assert list(it) == ["1", "2", "3"]

    def test_a_timeout_loses_nothing(self, host, client):
        go_on = Event()

        def handle(host):
            host.accept()
            go_on.wait()
            host.say("x")
            host.rest()

        it = client().connect("127.0.0.1", host(handle))
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.01):
            it.read()
        go_on.set()
        assert it.read() == "x"

    def test_readers_share(self, host, client, greenlets):
        it = client().connect("127.0.0.1", host(greet(*"0123456789")))
        readers = [greenlets(list, it) for _ in range(3)]
        gevent.joinall(readers)
        assert sorted(message for reader in readers for message in reader.get()) == list("0123456789")

    @pytest.mark.parametrize(
        "bad", [b"\x83\x00", b"\xc1\x00", b"\x81\x01\xff", b"\x80\x00"], ids=["opcode", "rsv", "utf8", "order"]
    )
    def test_what_was_sound_is_answered_before_the_connection_is_failed(self, host, client, bad):
        seen = []

        def handle(host):
            host.accept(encode(b"1", TEXT) + encode(b"2", TEXT) + bad)
            seen.extend(host.frame() for _ in range(3))
            host.rest()

        it = client().connect("127.0.0.1", host(handle))
        with pytest.raises(ConnectionClosed, match=r"100[27]"):
            for message in it:
                it.write(message)
        assert seen[:2] == [(TEXT, b"1"), (TEXT, b"2")]
        assert seen[2][0] == CLOSE

    @pytest.mark.parametrize("taken", [0, 1, 2])
    def test_who_does_not_ask_for_more_is_not_waited_for_for_long(self, host, client, taken, monkeypatch):
        monkeypatch.setattr("gws.kept._PATIENCE", 0.05)
        seen = []

        def handle(host):
            host.accept(encode(b"1", TEXT) + encode(b"2", TEXT) + b"\x83\x00")
            seen.append(host.frame()[0])
            host.rest()

        it = client().connect("127.0.0.1", host(handle))
        assert [it.read() for _ in range(taken)] == ["1", "2"][:taken]
        it.join()
        assert seen == [CLOSE]
        assert it.fd.code == 1002

    def test_who_closes_meanwhile_says_so(self, host, client):
        seen = []

        def handle(host):
            host.accept(encode(b"1", TEXT) + b"\x83\x00")
            seen.append(host.frame())
            host.rest()

        it = client().connect("127.0.0.1", host(handle))
        assert it.read() == "1"
        until(lambda: it.fd._end_known is not None)
        it.close(1000, "enough")
        assert seen == [(CLOSE, encode_close(1000, "enough"))]

    def test_sixteen_are_kept(self, host, client):
        sent = [str(number) for number in range(40)]
        it = client().connect("127.0.0.1", host(greet(*sent)))
        until(lambda: len(it._kept) == 16)
        turns()
        assert len(it._kept) == 16
        assert not it.closed  # its Close comes after what is unread
        assert list(it) == sent

    def test_the_server_is_held_back(self, serve, client):
        sent = []

        def connected(fd, addr):
            for number in range(200):
                fd.write(number.to_bytes(2, "big") * 50_000)
                sent.append(number)

        it = client().connect("127.0.0.1", serve({"connection": connected}, compression=None).port)
        until(lambda: len(it._kept) == 16)
        turns(10)
        assert len(sent) < 200
        assert [int.from_bytes(it.read()[:2], "big") for _ in range(200)] == list(range(200))

    def test_who_is_cut_while_enough_is_kept(self, host, client):
        it = client().connect("127.0.0.1", host(greet(*"x" * 40, code=None)))
        until(lambda: len(it._kept) == 16)
        it.fd.cut(1011, "away")
        it.join()
        assert list(it._kept) == ["x"] * 16

    def test_a_handler_that_comes_late(self, serve, client):
        it = client().connect("127.0.0.1", serve({"message": echo}).port)
        it.write("1")
        assert it.read() == "1"
        heard = []
        it.on("message", heard.append)
        it.write("2")
        until(lambda: heard == ["2"])

    def test_the_open_handler_may_read(self, host, client):
        heard = []
        it = client(open=lambda: heard.append(it.read()), close=lambda code, reason: heard.append(code))
        it.connect("127.0.0.1", host(greet("name", "1", "2")))
        it.join()
        assert heard == ["name", 1000]
        assert list(it) == ["1", "2"]  # what it leaves is for everybody

    def test_the_open_handler_may_read_to_the_end(self, host, client, diary):
        it = client(**diary.handlers("message", "open"))
        it.on("open", lambda: diary.extend(it))
        it.connect("127.0.0.1", host(greet("1", "2")))
        it.join()
        assert diary == ["1", "2", ("close", 1000, "")]


class TestTalking:
    def test_ping(self, serve, client):
        it = client().connect("127.0.0.1", serve().port)
        assert 0 < it.ping() < 5

    def test_ping_when_it_ends(self, host, client):
        def handle(host):
            host.accept()
            host.frame()

        it = client().connect("127.0.0.1", host(handle))
        with pytest.raises(ConnectionClosed, match="1006"):
            it.ping()

    @pytest.mark.parametrize("verb", ["ping", "join"])
    def test_a_handler_cannot_wait_for_itself(self, verb, serve, client, diary):
        told = []

        def message(message):
            try:
                getattr(it, verb)()
            except RuntimeError as error:
                told.append(str(error))

        it = client(message=message).connect("127.0.0.1", serve({"message": echo}).port)
        it.write("x")
        until(lambda: told)
        assert told[0].startswith(f"{verb}() in a handler would wait for itself")

    def test_join(self, serve, client):
        it = client().connect("127.0.0.1", serve({"message": lambda fd, message: fd.close(4000)}).port)
        it.join(0.01)
        assert not it.closed
        it.write("end")
        it.join()
        assert (it.closed, it.fd.code) == (True, 4000)

    def test_writing_after_the_end(self, host, client):
        it = client().connect("127.0.0.1", host(greet()))
        it.join()
        with pytest.raises(ConnectionClosed, match="1000"):
            it.write("x")
        with pytest.raises(TypeError, match="not int"):
            it.write(123)

    def test_many_writers(self, serve, client, greenlets):
        it = client().connect("127.0.0.1", serve({"message": echo}).port)
        sent = [chr(65 + number) * 5000 for number in range(20)]
        gevent.joinall([greenlets(it.write, text) for text in sent])
        assert sorted(it.read() for _ in sent) == sent


class TestClosing:
    def test_a_code_and_a_reason(self, serve, client, diary):
        server = serve({"disconnect": lambda fd, code, reason: diary.append((code, reason))})
        it = client(**diary.handlers()).connect("127.0.0.1", server.port)
        it.close(4000, "enough")
        it.close()
        it.close(1001)
        assert diary.of("close") == [[4000, ""]]  # the server's Close, which says no more than the code
        until(lambda: (4000, "enough") in diary)

    @pytest.mark.parametrize(("code", "reason"), [(99, ""), (1006, ""), (1000, "x" * 124)])
    def test_what_no_close_may_carry(self, code, reason, serve, client):
        it = client().connect("127.0.0.1", serve({"message": echo}).port, reconnect=True)
        with pytest.raises(ValueError):
            it.close(code, reason)
        it.write("still here")
        assert it.read() == "still here"
        assert not it._over.is_set()

    @pytest.mark.parametrize("event", ["open", "message", "ping", "close"])
    def test_from_a_handler(self, event, serve, client, diary):
        def connected(fd, addr):
            fd.write("x")
            fd.ping()

        it = client(**diary.handlers())
        it.on(event, lambda *args: it.close(4000))
        server = serve({"connection": connected, "message": lambda fd, message: fd.close(4000)})
        it.connect("127.0.0.1", server.port)
        if event == "close":
            it.write("end")
        it.join()
        assert [code for code, _ in diary.of("close")] == [4000]
        assert diary.of("error") == []

    def test_from_another_greenlet(self, serve, client, greenlets):
        it = client().connect("127.0.0.1", serve().port)
        closing = greenlets(it.close)
        with pytest.raises(ConnectionClosed, match="1000"):
            it.read()
        closing.join()

    def test_while_it_connects(self, host, client, greenlets, diary):
        heads = []

        def handle(host):
            heads.append(host.head())
            host.rest()

        it = client(**diary.handlers())
        port = host(handle)
        connecting = greenlets(outcome, it.connect, "127.0.0.1", port)
        until(lambda: heads)
        it.close(4000, "changed my mind")
        assert str(connecting.get(timeout=30)) == "4000 changed my mind"
        assert (it.closed, it.fd, it._dialing, diary) == (True, None, None, [])
        it.close()
        with pytest.raises(RuntimeError):
            it.write("x")

    def test_while_it_connects_and_just_has(self, serve, client, diary):
        it = client(**diary.handlers())
        dialer = getcurrent()
        it.connect("127.0.0.1", serve().port)
        it._stop_dialing(dialer, ConnectionClosed(4000))  # the hub's turn came too late
        it.join()
        assert diary.of("close") == [[4000, ""]]

    def test_with_messages_unread(self, host, client):
        seen = []

        def handle(host):
            host.accept()
            for number in range(40):
                host.say(str(number))
            seen.append(host.frame())
            host.say(b"", CLOSE)

        it = client().connect("127.0.0.1", host(handle))
        until(lambda: len(it._kept) == 16)
        it.close()
        assert seen == [(CLOSE, encode_close(1000))]
        assert list(it) == [str(number) for number in range(16)]

    def test_a_server_that_does_not_answer(self, host, client, diary):
        def handle(host):
            host.accept()
            host.rest()

        it = client(**diary.handlers()).connect("127.0.0.1", host(handle), close_timeout=0.03)
        it.close(4000)
        assert diary.of("close") == [[4000, ""]]

    def test_a_handler_at_work(self, serve, client):
        go_on = Event()
        it = client(message=lambda message: go_on.wait())
        it.connect("127.0.0.1", serve({"message": echo}).port, close_timeout=0.03)
        it.write("x")
        until(go_on.linkcount)
        it.close()  # it does not wait for ever: maybe the handler waits for who has called it
        assert it.closed
        go_on.set()
        it.join()


# --------------------------------------------------------------------------------------------------- reconnecting


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(room, "_BACKOFF", (0.004, 0.02))


@pytest.mark.usefixtures("soon")
class TestReconnecting:
    def test_it(self, serve, client, diary):
        server = serve({"message": echo})
        it = client(**diary.handlers("message"))
        it.connect("127.0.0.1", server.port, reconnect=True)
        it.write("1")
        assert it.read() == "1"
        server.stop()
        until(lambda: len(diary.of("error")) > 3)
        serve(server=server, port=server.port)
        until(lambda: len(diary.of("open")) == 2)
        it.write("2")
        assert it.read() == "2"
        it.close()
        events = [event for event, *_ in diary if event != "error"]
        assert events == ["open", "close", "open", "close"]
        assert diary.of("close") == [[1001, ""], [1000, ""]]
        assert all(isinstance(error, ConnectionRefusedError) for (error,) in diary.of("error"))

    def test_read_spans_connections(self, host, client):
        ports = iter(range(5))

        def handle(host):
            host.accept()
            host.say(str(next(ports)))
            if host.request:
                host.sock.close()

        it = client().connect("127.0.0.1", host(handle), reconnect=True)
        assert [it.read() for _ in range(4)] == ["0", "1", "2", "3"]
        it.close()

    def test_whatever_the_end_was(self, host, client, diary):
        it = client(**diary.handlers())
        it.connect("127.0.0.1", host(greet(code=1000)), reconnect=True)
        until(lambda: len(diary.of("open")) > 2)
        it.close()

    def test_a_refusal_is_an_error_like_others(self, host, client, diary):
        heads = []

        def handle(host):
            heads.append(host)
            if len(heads) == 1:
                host.accept()
            else:
                host.head()
                host.send(redirect("/a b") if len(heads) == 2 else b"HTTP/1.1 403 No\r\n\r\n")

        it = client(**diary.handlers()).connect("127.0.0.1", host(handle), reconnect=True)
        until(lambda: len(diary.of("error")) == 3)
        it.close()
        assert [error.status for (error,) in diary.of("error")] == [0, 403, 403]

    def test_the_same_headers_again(self, serve, client):
        server = serve()
        options = {"headers": iter([("X-A", "1")]), "protocols": iter(["v1"]), "reconnect": True}
        client().connect("127.0.0.1", server.port, **options)
        for _ in range(2):
            (fd,) = until(lambda: server.fds)
            assert (fd.request.headers["X-A"], fd.request.headers["Sec-WebSocket-Protocol"]) == ("1", "v1")
            fd.close()
            until(lambda fd=fd: fd not in server.fds)

    def test_not_at_first(self, client):
        sock = sockethelper.listen()
        port = sock.getsockname()[1]
        sockethelper.close(sock)
        with pytest.raises(ConnectionRefusedError):
            client().connect("127.0.0.1", port, reconnect=True)

    def test_pauses(self, monkeypatch):
        monkeypatch.setattr(room, "_BACKOFF", (0.5, 60.0))
        random.seed(1)
        pauses = [next(each) for each in [room._pauses()] * 12]
        longest = [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60]
        assert all(limit / 2 <= pause <= limit for pause, limit in zip(pauses, longest))
        assert len(set(pauses)) == 12

    @pytest.mark.parametrize(("lasted", "anew"), [(0, True), (60, False)])
    def test_a_good_connection_begins_the_pauses_anew(self, lasted, anew, host, client, diary, monkeypatch):
        made = []
        monkeypatch.setattr(room, "_LASTED", lasted)
        monkeypatch.setattr(room, "_pauses", lambda pauses=room._pauses: made.append(1) or pauses())
        it = client(**diary.handlers()).connect("127.0.0.1", host(greet()), reconnect=True)
        until(lambda: len(diary.of("open")) == 4)
        it.close()
        assert (len(made) > 1) == anew

    def test_closing_during_a_pause(self, host, client, monkeypatch):
        monkeypatch.setattr(room, "_BACKOFF", (60, 60))
        it = client().connect("127.0.0.1", host(greet()), reconnect=True)
        until(lambda: it.closed)
        turns()
        it.close()  # at once
        with pytest.raises(ConnectionClosed, match="1000"):
            it.read()

    def test_closing_while_it_connects(self, host, client):
        heads = []

        def handle(host):
            heads.append(host)
            if len(heads) == 1:
                host.accept()
            else:
                host.rest()

        it = client().connect("127.0.0.1", host(handle), reconnect=True)
        reading = gevent.spawn(list, it)
        until(lambda: len(heads) == 2 and it._dialing)
        it.close()
        assert not it._dialing
        with pytest.raises(ConnectionClosed, match="1006"):
            reading.get()

    @pytest.mark.parametrize("event", ["close", "error"])
    def test_closing_in_a_handler(self, event, serve, client, diary):
        server = serve()
        it = client(**diary.handlers())
        it.on(event, lambda *args: it.close())
        it.connect("127.0.0.1", server.port, reconnect=True)
        server.stop()
        it.join()
        assert len(diary.of("close")) == 1
        assert len(diary.of("error")) == (event == "error")

    def test_connecting_anew_by_hand(self, serve, client):
        server = serve({"message": echo})
        it = client()
        for text in ("1", "2"):
            it.connect("127.0.0.1", server.port, reconnect=True)
            it.write(text)
            assert it.read() == text
            it.close()
            with pytest.raises(ConnectionClosed):
                it.read()


def test_who_is_connected_is_known(serve, client):
    one = client()
    assert one not in gws.client.clients()
    one.connect("127.0.0.1", serve().port)
    assert one in gws.client.clients()


def test_options_are_documented_fields():
    assert {"headers", "protocols", "origin", "timeout", "ssl", "proxy", "path", "reconnect"} <= set(
        Options.__dataclass_fields__
    )
    assert isinstance(gws.client.new(), Client)
