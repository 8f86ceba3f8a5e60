"""Tunnels through real proxies on loopback: two that are written here, and one that is not (`pproxy`)."""

from __future__ import annotations

import base64
import os
import re
import socket
import subprocess
import sys
from contextlib import suppress
from types import SimpleNamespace

import _socket
import gevent
import pytest
import trustme
from gevent.event import Event
from gevent.pool import Pool
from gevent.server import StreamServer

from gws import proxy, sockethelper
from gws.errors import HandshakeError
from gws.proxy import open_tunnel, proxy_for
from gws.sockethelper import close, readfunc, start_tls, writefunc


@pytest.fixture
def keep():
    """Return a function that passes a socket through and closes it when the test is over."""
    kept = []
    yield lambda sock: kept.append(sock) or sock
    for sock in kept:
        close(sock)


@pytest.fixture
def serve():
    """Return a function that serves with `handle(sock)`, which is killed in the end, and gives the server's port."""
    servers = []

    def start(handle):
        server = StreamServer(("127.0.0.1", 0), lambda sock, _: swallow(handle, sock), spawn=Pool())
        server.start()
        servers.append(server)
        return server.server_port

    yield start
    for server in servers:
        server.stop(timeout=0)


def swallow(handle, sock):
    with suppress(OSError, EOFError):
        handle(sock)


@pytest.fixture
def greeter(serve):
    """Return the port of a server that speaks first, and then repeats what it hears."""

    def handle(sock):
        sock.sendall(b"welcome")
        while data := sock.recv(65536):
            sock.sendall(data)

    return serve(handle)


def converse(sock):
    """Hear the greeter, and have something repeated that fills the kernel's buffers."""
    data = bytes(range(256)) * 4096
    read, writer = readfunc(sock), gevent.spawn(writefunc(sock), data)
    assert read(7) == b"welcome"
    assert read(len(data)) == data
    writer.get(timeout=30)


def exactly(sock, size):
    """Read `size` bytes."""
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def head_of(sock):
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += exactly(sock, 1)
    return head


def relay(here, there):
    """Carry bytes both ways until both ends have said all."""

    def carry(source, sink):
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    back = gevent.spawn(carry, there, here)
    try:
        carry(here, there)
        back.join()
    finally:
        back.kill()
        there.close()


@pytest.fixture
def http_proxy(serve):
    """A CONNECT proxy (RFC 9110 section 9.3.6): its port, the heads that it has seen, the user that it wants."""
    it = SimpleNamespace(heads=[], user=None)

    def handle(sock):
        head = head_of(sock)
        it.heads.append(head)
        if it.user is not None and b"Proxy-Authorization: Basic " + base64.b64encode(it.user) + b"\r\n" not in head:
            sock.sendall(b"HTTP/1.1 407 Who are you\r\nProxy-Authenticate: Basic\r\n\r\n")
            return
        host, port = re.match(rb"CONNECT \[?(.+?)\]?:(\d+) HTTP/1.1\r\n", head).groups()
        try:
            there = gevent.socket.create_connection((host.decode(), int(port)))
        except OSError:
            sock.sendall(b"HTTP/1.0 502 Nobody there\r\n\r\n")
            return
        # What the server says first comes in one piece with our head.
        sock.sendall(b"HTTP/1.0 200 Connection established\r\nVia: test\r\n\r\n" + exactly(there, 7))
        relay(sock, there)

    it.port = serve(handle)
    return it


@pytest.fixture
def socks_proxy(serve):
    """A SOCKS5 proxy (RFC 1928, RFC 1929): its port, the targets that it was asked for, the user that it wants."""
    it = SimpleNamespace(targets=[], user=None)

    def handle(sock):
        version, count = exactly(sock, 2)
        methods = exactly(sock, count)
        wanted = 0 if it.user is None else 2
        sock.sendall(bytes((5, wanted if wanted in methods else 255)))
        if it.user is not None:
            assert exactly(sock, 1) == b"\1"
            user = exactly(sock, exactly(sock, 1)[0]), exactly(sock, exactly(sock, 1)[0])
            sock.sendall(b"\1\0" if user == it.user else b"\1\1")
        version, command, _, kind = exactly(sock, 4)
        assert (version, command) == (5, 1)
        if kind == 3:
            host = exactly(sock, exactly(sock, 1)[0]).decode()
        else:
            host = socket.inet_ntop({1: socket.AF_INET, 4: socket.AF_INET6}[kind], exactly(sock, {1: 4, 4: 16}[kind]))
        port = int.from_bytes(exactly(sock, 2), "big")
        it.targets.append((kind, host, port))
        try:
            there = gevent.socket.create_connection(("127.0.0.1", port))
        except OSError:
            sock.sendall(b"\5\5\0\1" + bytes(6))
            return
        bound = {1: b"\1" + bytes(4), 3: b"\3\4test", 4: b"\4" + bytes(16)}[kind]
        sock.sendall(b"\5\0\0" + bound + b"\0\1" + exactly(there, 7))
        relay(sock, there)

    it.port = serve(handle)
    return it


@pytest.fixture
def scripted(serve):
    """Return a function that starts a proxy which sends `answers`, each after some bytes came, and then hangs up."""

    def start(*answers):
        def handle(sock):
            for answer in answers:
                if sock.recv(65536):
                    sock.sendall(answer)

        return serve(handle)

    return start


@pytest.fixture
def free_port():
    listener = sockethelper.listen()
    port = listener.getsockname()[1]
    close(listener)
    return port


@pytest.fixture
def environment(monkeypatch):
    """Return a function that sets the proxies' variables; there are no others."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)

    def set_(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_


ALL = {
    "ws_proxy": "ws:1",
    "wss_proxy": "wss:1",
    "socks_proxy": "socks5://s:1",
    "https_proxy": "h:1",
    "http_proxy": "p:1",
}


class TestProxyFor:
    CASES = [
        ("ws://a.test", {}, None),
        ("ws://a.test", {"http_proxy": "http://p:1"}, "http://p:1"),
        ("ws://a.test", {"HTTP_PROXY": "http://p:1"}, "http://p:1"),
        ("ws://a.test", {"HTTP_PROXY": "http://p:1", "http_proxy": ""}, None),
        ("wss://a.test", {"http_proxy": "http://p:1"}, None),
        ("ws://a.test", {"https_proxy": "http://q:1", "http_proxy": "http://p:1"}, "http://q:1"),
        ("wss://a.test", {"https_proxy": "http://q:1", "http_proxy": "http://p:1"}, "http://q:1"),
        ("ws://a.test", {"socks_proxy": "socks5://s:1", "https_proxy": "http://q:1"}, "socks5://s:1"),
        ("ws://a.test", {"socks_proxy": "http://s:1"}, "socks5h://s:1"),
        ("ws://a.test", ALL, "ws:1"),
        ("wss://a.test", ALL, "wss:1"),
        ("ws://a.test", {"wss_proxy": "http://p:1"}, None),
        ("ws://a.test", {"no_proxy": "a.test", **ALL}, None),
        ("ws://b.a.test", {"no_proxy": "a.test", **ALL}, None),
        ("ws://b.test", {"no_proxy": "a.test", **ALL}, "ws:1"),
        ("ws://a.test:8080/chat?x=1", {"no_proxy": "a.test:8080", **ALL}, None),
        ("ws://a.test:8081", {"no_proxy": "a.test:8080", **ALL}, "ws:1"),
        ("ws://a.test", {"no_proxy": "a.test:80", **ALL}, None),
        ("wss://a.test", {"no_proxy": "a.test:443", **ALL}, None),
        ("wss://a.test", {"no_proxy": "*", **ALL}, None),
        ("ws://[::1]:8080/", {"no_proxy": "::1", **ALL}, None),
    ]

    @pytest.mark.parametrize(("url", "variables", "expected"), CASES)
    def test_the_environment_decides(self, url, variables, expected, environment):
        environment(**variables)
        assert proxy_for(url) == expected

    @pytest.mark.parametrize(("url", "variables", "expected"), CASES)
    def test_as_the_websockets_package_has_it(self, url, variables, expected, environment):
        theirs = pytest.importorskip("websockets.proxy")
        uri = pytest.importorskip("websockets.uri")
        environment(**variables)
        assert theirs.get_proxy(uri.parse_uri(url)) == expected

    def test_a_socks_proxy_may_come_without_a_scheme(self, environment):
        environment(socks_proxy="s:1080")
        assert proxy_for("ws://a.test") == "socks5h://s:1080"

    @pytest.mark.parametrize("url", ["http://a.test", "a.test", "ws://", "ws://a.test:x", "ws://[::1"])
    def test_what_is_no_websocket_url_is_the_callers_fault(self, url):
        with pytest.raises(ValueError, match="URL"):
            proxy_for(url)


class TestHTTP:
    @pytest.mark.parametrize(
        "url", ["http://127.0.0.1:%d", "http://127.0.0.1:%d/", "HTTP://LOCALHOST:%d", "127.0.0.1:%d"]
    )
    def test_a_tunnel(self, url, http_proxy, greeter, keep):
        sock = keep(open_tunnel(url % http_proxy.port, "127.0.0.1", greeter))
        assert type(sock) is _socket.socket
        assert sock.gettimeout() == 0
        converse(sock)
        target = f"127.0.0.1:{greeter}"
        assert http_proxy.heads == [f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode()]

    def test_tls_through_a_tunnel(self, http_proxy, serve, keep, tmp_path):
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
        context = sockethelper.server_context(tmp_path / "both.pem")

        def handle(sock):
            sock.sendall(b"welcome")
            raw = _socket.socket(fileno=os.dup(sock.fileno()))
            tls = start_tls(raw, context, server_side=True)
            writefunc(tls)(readfunc(tls)(5))
            close(tls)

        sock = keep(open_tunnel(f"http://127.0.0.1:{http_proxy.port}", "localhost", serve(handle)))
        assert readfunc(sock)(7) == b"welcome"
        client_context = sockethelper.client_context(tmp_path / "ca.pem")
        sock = keep(start_tls(sock, client_context, server_hostname="localhost"))
        writefunc(sock)(b"hello")
        assert readfunc(sock)(5) == b"hello"

    @pytest.mark.parametrize(
        ("user", "credentials"),
        [
            (b"me:secret", "me:secret@"),
            (b"me:s/c@r:t", "me:s%2Fc%40r%3At@"),
            (b"me:", "me@"),
            ("ä:ö".encode(), "ä:%C3%B6@"),
        ],
    )
    def test_who_we_are_is_shown(self, user, credentials, http_proxy, greeter, keep):
        http_proxy.user = user
        converse(keep(open_tunnel(f"http://{credentials}127.0.0.1:{http_proxy.port}", "127.0.0.1", greeter)))

    @pytest.mark.parametrize("credentials", ["", "me:wrong@"])
    def test_a_proxy_that_does_not_know_us_refuses(self, credentials, http_proxy, greeter):
        http_proxy.user = b"me:secret"
        with pytest.raises(HandshakeError) as caught:
            open_tunnel(f"http://{credentials}127.0.0.1:{http_proxy.port}", "127.0.0.1", greeter)
        assert caught.value.status == 407
        assert caught.value.headers == (("Proxy-Authenticate", "Basic"),)
        assert str(caught.value) == (
            f"407 Who are you: the proxy 127.0.0.1:{http_proxy.port} opened no tunnel to 127.0.0.1:{greeter}"
        )

    def test_a_target_that_is_not_there(self, http_proxy, free_port):
        with pytest.raises(HandshakeError, match=f"502 Nobody there: .* opened no tunnel to 127.0.0.1:{free_port}$"):
            open_tunnel(f"http://127.0.0.1:{http_proxy.port}", "127.0.0.1", free_port)

    @pytest.mark.parametrize(
        ("answer", "status", "text"),
        [
            (b"HTTP/1.1 403\r\n\r\n", 403, "opened no tunnel"),
            (b"HTTP/1.1 302 Found\r\nLocation: http://b.test\r\n\r\n", 302, "Found"),
            (b"HTTP/1.1 500 " + b"x" * 5000 + b"\r\n\r\n", 500, "^500 x{100}: the proxy"),
            (b"HTTP/1.1 199 Nearly\r\n\r\n", 199, "Nearly"),
            (b"HTTP/1.1 500 No\x07\r\n\r\n", 0, "does not answer in HTTP"),
            (b"HTTP/2 200 OK\r\n\r\n", 0, "does not answer in HTTP"),
            (b"HTTP/1.1 20 OK\r\n\r\n", 0, "does not answer in HTTP"),
            (b"\5\xff\r\n\r\n", 0, "does not answer in HTTP"),
            (b"\r\n\r\n", 0, "does not answer in HTTP"),
            (b"HTTP/1.1 200 OK\r\n", 0, "closed the connection instead of answering"),
            (b"", 0, "closed the connection instead of answering"),
            (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 8192 + b"\r\n\r\n", 0, "longer than 8192 bytes"),
            (b"x" * 100_000, 0, "longer than 8192 bytes"),
        ],
        ids=lambda value: str(value)[:30],
    )
    def test_what_else_a_proxy_may_say(self, answer, status, text, scripted):
        with pytest.raises(HandshakeError, match=text) as caught:
            open_tunnel(f"http://127.0.0.1:{scripted(answer)}", "a.test", 80)
        assert caught.value.status == status
        assert caught.value.headers == ()  # no Location: whoever follows redirects must not follow the proxy's

    @pytest.mark.parametrize("status", [b"HTTP/1.1 200 ", b"HTTP/1.1 200", b"HTTP/1.0 204 \xe4\xff"])
    def test_a_head_of_exactly_the_limit_and_every_2xx_will_do(self, status, scripted, keep):
        head = status + b"\r\nno colon\r\nContent-Length: 5\r\nX: "
        head += b"x" * (8192 - 4 - len(head)) + b"\r\n\r\n"
        sock = keep(open_tunnel(f"http://127.0.0.1:{scripted(head + b'stream')}", "a.test", 80))
        assert readfunc(sock)(6) == b"stream"

    @pytest.mark.parametrize(
        ("host", "line"),
        [("::1", b"[::1]:80"), ("a.test", b"a.test:80"), ("bücher.test", b"xn--bcher-kva.test:80"), ("a_b", b"a_b:80")],
    )
    def test_how_a_target_is_written(self, host, line, serve):
        heads = []
        port = serve(lambda sock: heads.append(head_of(sock)))
        with pytest.raises(HandshakeError):
            open_tunnel(f"http://127.0.0.1:{port}", host, 80)
        assert heads == [b"CONNECT " + line + b" HTTP/1.1\r\nHost: " + line + b"\r\n\r\n"]

    def test_a_user_with_a_colon_is_the_callers_fault(self, scripted):
        with pytest.raises(ValueError, match="colon"):
            open_tunnel(f"http://a%3Ab:c@127.0.0.1:{scripted()}", "a.test", 80)


@pytest.fixture
def names(monkeypatch):
    """Make every name that is asked for here 127.0.0.1, and return the names."""
    asked = []

    def getaddrinfo(name, port, *_):
        if name != "127.0.0.1":  # gevent's own connections ask for that, too
            asked.append(name)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(gevent.get_hub(), "resolver", SimpleNamespace(getaddrinfo=getaddrinfo))
    return asked


class TestSOCKS:
    @pytest.fixture(autouse=True)
    def socksio(self):
        return pytest.importorskip("socksio")

    @pytest.mark.parametrize(
        ("host", "kind"), [("127.0.0.1", 1), ("a.test", 3), ("::1", 4)], ids=["IPv4", "name", "IPv6"]
    )
    def test_a_tunnel(self, host, kind, socks_proxy, greeter, keep):
        sock = keep(open_tunnel(f"socks5h://127.0.0.1:{socks_proxy.port}", host, greeter))
        assert type(sock) is _socket.socket
        assert sock.gettimeout() == 0
        converse(sock)
        assert socks_proxy.targets == [(kind, host, greeter)]

    def test_socks5_looks_the_name_up_here_and_socks5h_there(self, socks_proxy, greeter, names, keep):
        keep(open_tunnel(f"socks5h://127.0.0.1:{socks_proxy.port}", "a.test", greeter))
        assert names == []
        keep(open_tunnel(f"socks5://127.0.0.1:{socks_proxy.port}", "a.test", greeter))
        assert names == ["a.test"]
        assert socks_proxy.targets == [(3, "a.test", greeter), (1, "127.0.0.1", greeter)]

    @pytest.mark.parametrize(
        ("user", "credentials"), [((b"me", b"s:c"), "me:s%3Ac@"), ((b"m" * 255, b""), f"{'m' * 255}@")]
    )
    def test_who_we_are_is_shown(self, user, credentials, socks_proxy, greeter, keep):
        socks_proxy.user = user
        converse(keep(open_tunnel(f"socks5h://{credentials}127.0.0.1:{socks_proxy.port}", "127.0.0.1", greeter)))

    def test_but_only_if_the_proxy_asks(self, socks_proxy, greeter, keep):
        converse(keep(open_tunnel(f"socks5h://me:secret@127.0.0.1:{socks_proxy.port}", "127.0.0.1", greeter)))

    @pytest.mark.parametrize(
        ("credentials", "text"),
        [("", "wants a way to log in"), ("me:no@", "does not take this user name and password")],
    )
    def test_a_proxy_that_does_not_know_us_refuses(self, credentials, text, socks_proxy, greeter):
        socks_proxy.user = (b"me", b"secret")
        with pytest.raises(HandshakeError, match=text) as caught:
            open_tunnel(f"socks5h://{credentials}127.0.0.1:{socks_proxy.port}", "127.0.0.1", greeter)
        assert caught.value.status == 0

    @pytest.mark.parametrize("credentials", [f"{'m' * 256}:x", f"x:{'m' * 256}"])
    def test_a_user_that_is_too_long_is_the_callers_fault(self, credentials, scripted):
        with pytest.raises(ValueError, match="255 bytes"):
            open_tunnel(f"socks5h://{credentials}@127.0.0.1:{scripted(bytes((5, 2)))}", "a.test", 80)

    def test_a_target_that_is_not_there(self, socks_proxy, free_port):
        where = f"the proxy 127.0.0.1:{socks_proxy.port} opened no tunnel to 127.0.0.1:{free_port}"
        with pytest.raises(HandshakeError, match=f"^connection refused: {where}$"):
            open_tunnel(f"socks5h://127.0.0.1:{socks_proxy.port}", "127.0.0.1", free_port)

    @pytest.mark.parametrize(
        ("answers", "text"),
        [
            ([b"\5\xff"], "wants a way to log in"),
            ([b"\5\2"], "wants a way to log in"),
            ([b"\5\1"], "wants a way to log in"),
            ([b"HTTP/1.1 400 Bad Request\r\n\r\n"], "does not answer in SOCKS5"),
            ([b"\5\0", b"\4\0\0\1" + bytes(6)], "does not answer in SOCKS5"),
            ([b"\5\0", b"\5\x99\0\1" + bytes(6)], "does not answer in SOCKS5"),
            ([b"\5\0", b"\5\0\0\2" + bytes(6)], "does not answer in SOCKS5"),
            ([b"\5\0", b"\5\0\0\3\1\xff" + bytes(2)], "does not answer in SOCKS5"),
            ([b"\5\0", b"\5\2\0\3\0" + bytes(2)], "connection not allowed by ruleset"),
            ([b"\5\0", b"\5\0\0\3\xff" + bytes(2)], "closed the connection instead of answering"),
            ([b"\5\0", b"\5\0\0\1"], "closed the connection instead of answering"),
            ([b"\5"], "closed the connection instead of answering"),
            ([b""], "closed the connection instead of answering"),
        ],
        ids=str,
    )
    def test_what_else_a_proxy_may_say(self, answers, text, scripted):
        with pytest.raises(HandshakeError, match=text) as caught:
            open_tunnel(f"socks5h://127.0.0.1:{scripted(*answers)}", "a.test", 80)
        assert caught.value.status == 0

    def test_a_proxy_that_wants_another_way_to_log_in(self, scripted):
        with pytest.raises(HandshakeError, match="wants another way to log in"):
            open_tunnel(f"socks5h://me:secret@127.0.0.1:{scripted(bytes((5, 255)))}", "a.test", 80)

    def test_the_package_is_wanted_before_anything_is_opened(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "socksio", None)
        monkeypatch.setattr(proxy, "connect", None)
        with pytest.raises(ImportError, match=re.escape("pip install gevent-gws[socks]")):
            open_tunnel("socks5://127.0.0.1", "a.test", 80)


class TestEither:
    SCHEMES = pytest.mark.parametrize("scheme", ["http", "socks5h"])

    @SCHEMES
    def test_a_silent_proxy_costs_the_timeout_and_no_descriptor(self, scheme, serve):
        port = serve(lambda sock: exactly(sock, 1000))
        text = rf"timed out after 0\.02 s: a\.test:80 through the proxy 127\.0\.0\.1:{port}$"
        with pytest.raises(TimeoutError, match=text):
            open_tunnel(f"{scheme}://127.0.0.1:{port}", "a.test", 80, timeout=0.02)

    @SCHEMES
    @pytest.mark.parametrize("error", [gevent.Timeout(9), TimeoutError("mine"), ConnectionError("mine")], ids=repr)
    def test_the_callers_timeout_is_the_callers(self, scheme, error, serve):
        port = serve(lambda sock: exactly(sock, 1000))
        with pytest.raises(type(error)) as caught, gevent.Timeout(0.02, error):
            open_tunnel(f"{scheme}://127.0.0.1:{port}", "a.test", 80)
        assert caught.value is error

    @pytest.mark.parametrize("error", [gevent.Timeout(9), TimeoutError("mine"), ConnectionError("mine")], ids=repr)
    def test_so_it_is_while_the_proxy_is_looked_up(self, error, monkeypatch):
        def getaddrinfo(*_):
            Event().wait()

        monkeypatch.setattr(gevent.get_hub(), "resolver", SimpleNamespace(getaddrinfo=getaddrinfo))
        with pytest.raises(type(error)) as caught, gevent.Timeout(0.02, error):
            open_tunnel("http://proxy.test", "a.test", 80)
        assert caught.value is error

    @SCHEMES
    def test_no_way_to_the_proxy(self, scheme, free_port):
        text = f"no way to the proxy: Connection refused: 127.0.0.1:{free_port}$"
        with pytest.raises(ConnectionRefusedError, match=text):
            open_tunnel(f"{scheme}://127.0.0.1:{free_port}", "a.test", 80)

    @pytest.mark.parametrize(("scheme", "port"), [("http", 80), ("socks5", 1080), ("socks5h", 1080)])
    def test_ports_by_default(self, scheme, port, monkeypatch):
        reached = []

        def connect(*where):
            reached.append(where)
            raise ConnectionRefusedError(111, "for the test")

        monkeypatch.setattr(proxy, "connect", connect)
        with pytest.raises(ConnectionRefusedError, match="no way to the proxy: for the test"):
            open_tunnel(f"{scheme}://proxy.test", "a.test", 80)
        assert reached == [("proxy.test", port)]

    @pytest.mark.parametrize(
        "host", ["", "a b", "a\r\nX-Evil: 1", "a\0b", "a/b", "a?b", "a#b", "u@a", "[::1]", "x" * 256, "ä b", "ä" * 64]
    )
    def test_a_host_that_is_none_is_the_callers_fault(self, host):
        with pytest.raises(ValueError):
            open_tunnel("http://127.0.0.1:1", host, 80)

    @pytest.mark.parametrize(
        "url",
        [
            "https://me:secret@p.test",
            "socks4://me:secret@p.test",
            "ftp://me:secret@p.test",
            "http://me:secret@",
            "http://me:secret@p.test:port",
            "http://me:secret@p.test:65536",
            "http://me:secret/x@p.test",
            "http://me:secret@p\N{FULLWIDTH SOLIDUS}.test",
        ],
    )
    def test_a_url_that_is_none_is_the_callers_fault_and_no_secret_is_told(self, url):
        with pytest.raises(ValueError) as caught:
            open_tunnel(url, "a.test", 80)
        assert "secret" not in str(caught.value)


@pytest.fixture(scope="module")
def stranger():
    """The port of `pproxy`, which speaks HTTP and SOCKS5 there, and whose mistakes are not ours."""
    pytest.importorskip("pproxy")
    command = [sys.executable, "-u", "-m", "pproxy", "-l", "http+socks5://127.0.0.1:0#me:secret", "--auth", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        line = process.stdout.readline()
        port = re.search(r"127\.0\.0\.1:(\d+)", line)
        try:
            yield int(port[1]) if port else pytest.skip(f"pproxy does not start here: {line}")
        finally:
            process.kill()


class TestAnIndependentProxy:
    @pytest.fixture(autouse=True, params=["http", "socks5", "socks5h"])
    def url(self, request, stranger):
        if request.param != "http":
            pytest.importorskip("socksio")
        return f"{request.param}://me:%s@127.0.0.1:{stranger}"

    def test_a_tunnel(self, url, greeter, keep):
        converse(keep(open_tunnel(url % "secret", "localhost", greeter)))

    def test_somebody_else_is_refused(self, url, greeter):
        with pytest.raises(HandshakeError):
            open_tunnel(url % "wrong", "localhost", greeter, timeout=5)
