"""Real sockets on loopback: listening, connecting, TLS, reading, closing.  Patched or not, libev or libuv."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import struct
from contextlib import closing
from types import SimpleNamespace

import _socket
import gevent
import pytest
import trustme
from gevent import ssl as gevent_ssl
from gevent.event import Event
from gevent.socket import wait_read

from gws import sockethelper
from gws.sockethelper import close, connect, connect_unix, listen, readfunc, start_tls, writefunc

LARGE = bytes(range(256)) * 8192  # 2 MiB: more than the kernel takes from one end without the other's help


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="there is no IPv6 here")


@pytest.fixture
def keep():
    """Return a function that passes a socket through and closes it when the test is over."""
    kept = []
    yield lambda sock: kept.append(sock) or sock
    for sock in kept:
        close(sock)


@pytest.fixture
def pair(keep):
    """Return two connected sockets of ours."""
    return [keep(end) for end in socketpair()]


@pytest.fixture
def resolver(monkeypatch):
    """Return a function that fixes what every name resolves to; a callable is called instead."""

    def fix(*found):
        def getaddrinfo(*args):
            if callable(found[0]):
                found[0]()
            return [(family, socket.SOCK_STREAM, 6, "", sockaddr) for family, sockaddr in found]

        monkeypatch.setattr(gevent.get_hub(), "resolver", SimpleNamespace(getaddrinfo=getaddrinfo))

    return fix


def socketpair():
    ends = _socket.socketpair()
    for end in ends:
        end.setblocking(False)
    return ends


def take(listener):
    """Accept a connection."""
    wait_read(listener.fileno())
    sock = _socket.socket(fileno=listener._accept()[0])
    sock.setblocking(False)
    return sock


def port_of(listener):
    return listener.getsockname()[1]


def free_port():
    with closing(listen()) as listener:
        return port_of(listener)


def nodelay_of(sock):
    return bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))


class TestListen:
    @pytest.mark.parametrize(
        ("address", "bound"),
        [
            ("127.0.0.1", "127.0.0.1"),
            ("", "0.0.0.0"),
            pytest.param("::1", "::1", marks=needs_ipv6),
            pytest.param("::", "::", marks=needs_ipv6),
        ],
    )
    def test_a_listener_is_raw_and_non_blocking_and_closed_on_exec(self, address, bound, keep):
        listener = keep(listen(address))
        assert type(listener) is _socket.socket
        assert listener.gettimeout() == 0
        assert not os.get_inheritable(listener.fileno())
        assert listener.getsockname()[0] == bound
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)

    @needs_ipv6
    def test_of_a_name_with_both_kinds_of_address_the_ipv4_is_taken(self, resolver, keep):
        resolver((socket.AF_INET6, ("::1", 0, 0, 0)), (socket.AF_INET, ("127.0.0.1", 0)))
        assert keep(listen("both.test")).getsockname()[0] == "127.0.0.1"

    def test_a_port_in_use_is_named(self, keep):
        port = port_of(keep(listen()))
        with pytest.raises(OSError, match=f"Address already in use: 127.0.0.1:{port}$") as caught:
            listen("127.0.0.1", port)
        assert caught.value.errno == errno.EADDRINUSE

    def test_an_address_that_is_not_ours_is_named(self):
        with pytest.raises(OSError, match=r"requested address: 192\.0\.2\.1:80$"):
            listen("192.0.2.1", 80)

    @pytest.mark.parametrize("port", [-1, 65536])
    def test_a_port_that_is_none_is_the_callers_fault(self, port):
        with pytest.raises(ValueError, match="a port is 0 to 65535"):
            listen("127.0.0.1", port)

    def test_reuse_port_lets_several_listen(self, keep):
        port = port_of(keep(listen(reuse_port=True)))
        assert port_of(keep(listen("127.0.0.1", port, reuse_port=True))) == port

    def test_reuse_port_needs_a_system_that_has_it(self, monkeypatch):
        monkeypatch.delattr(_socket, "SO_REUSEPORT")
        with pytest.raises(ValueError, match="no SO_REUSEPORT"):
            listen(reuse_port=True)

    def test_a_port_is_free_again_at_once(self, keep):
        listener = keep(listen())
        port = port_of(listener)
        client = keep(connect("127.0.0.1", port))
        close(take(listener))  # the server's end closes first: TIME_WAIT is on the port
        close(listener)
        close(client)
        keep(listen("127.0.0.1", port))

    def test_elsewhere_than_on_posix_addresses_are_not_reused(self, monkeypatch, keep):
        monkeypatch.setattr(sockethelper.os, "name", "nt")
        listener = keep(listen())
        monkeypatch.undo()
        assert not listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)


class TestUnix:
    @pytest.fixture(autouse=True)
    def here(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)  # a path for a Unix socket may be 107 bytes, and tmp_path is long
        return tmp_path

    def test_the_file_comes_and_goes(self, here, monkeypatch):
        listener = listen(path="s")
        assert listener.gettimeout() == 0
        assert not os.get_inheritable(listener.fileno())
        monkeypatch.chdir("/")  # as a daemon does
        close(listener)
        assert not (here / "s").exists()
        close(listener)

    def test_both_ends_talk(self, here, keep):
        listener = keep(listen(path=here.relative_to(here) / "s"))
        client = keep(connect_unix(here.relative_to(here) / "s"))
        server = keep(take(listener))
        writefunc(client)(b"hello")
        assert readfunc(server)(5) == b"hello"
        close(server)  # whose own name is the path, too
        assert (here / "s").exists()

    def test_the_file_of_a_dead_server_is_replaced(self, keep):
        listen(path="s").close()
        keep(listen(path="s"))
        keep(connect_unix("s"))

    def test_the_file_of_a_living_server_is_not(self, keep):
        listener = keep(listen(path="s"))
        with pytest.raises(OSError, match=r"Address already in use: s$"):
            listen(path="s")
        keep(connect_unix("s"))
        close(keep(take(listener)))  # it was asked whether it lives

    def test_a_file_that_is_no_socket_is_left_alone(self, here):
        (here / "s").write_text("precious")
        with pytest.raises(OSError, match=r"Address already in use: s$"):
            listen(path="s")
        assert (here / "s").read_text() == "precious"

    def test_a_successors_file_is_left_alone(self, here, keep):
        first = listen(path="s")
        os.unlink("s")
        keep(listen(path="s"))
        close(first)
        keep(connect_unix("s"))

    def test_a_file_that_is_gone_already_is_no_error(self):
        listener = listen(path="s")
        os.unlink("s")
        close(listener)

    def test_a_childs_copy_does_not_take_the_file_along(self, here, monkeypatch):
        listener = listen(path="s")
        monkeypatch.setattr(os, "getpid", lambda: 0)
        close(listener)
        assert (here / "s").exists()

    def test_an_abstract_name_has_no_file(self, keep):
        name = f"\0gws-{os.getpid()}"
        listener = keep(listen(path=name))
        keep(connect_unix(name))
        with pytest.raises(OSError, match="Address already in use"):
            listen(path=name)
        close(listener)

    def test_an_attempt_that_fails_after_binding_leaves_no_file(self, here):
        with pytest.raises(TypeError):
            listen(path="s", backlog="many")
        assert not (here / "s").exists()

    @pytest.mark.parametrize("function", [lambda path: listen(path=path), connect_unix])
    @pytest.mark.parametrize(
        ("path", "text"), [("no/s", "No such file or directory: no/s"), ("s" * 200, "too long: sss")]
    )
    def test_what_cannot_be_is_named(self, function, path, text):
        with pytest.raises(OSError, match=text):
            function(path)

    def test_a_dead_server_refuses(self):
        listen(path="s").close()
        with pytest.raises(ConnectionRefusedError, match=r"Connection refused: s$"):
            connect_unix("s")

    def test_a_full_backlog_is_waited_for(self, keep, greenlets):
        listener = keep(listen(path="s", backlog=0))
        keep(connect_unix("s"))
        with pytest.raises(TimeoutError, match=r"timed out after 0\.02 s: s$"):
            connect_unix("s", timeout=0.02)
        second = greenlets(connect_unix, "s")
        keep(take(listener))
        keep(second.get(timeout=30))
        keep(take(listener))


class TestConnect:
    @pytest.mark.parametrize("address", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
    @pytest.mark.parametrize("nodelay", [True, False])
    def test_a_connection_is_raw_and_non_blocking(self, address, nodelay, keep):
        listener = keep(listen(address, nodelay=nodelay))
        client = keep(connect(address, port_of(listener), nodelay=nodelay))
        assert type(client) is _socket.socket
        assert client.gettimeout() == 0
        assert not os.get_inheritable(client.fileno())
        server = keep(take(listener))
        assert server.getpeername() == client.getsockname()
        assert nodelay_of(client) == nodelay_of(server) == nodelay

    def test_nobody_there_is_named(self):
        port = free_port()
        with pytest.raises(ConnectionRefusedError, match=f"Connection refused: 127.0.0.1:{port}$"):
            connect("127.0.0.1", port)

    def test_each_address_of_a_name_is_tried(self, resolver, keep):
        port, dead = port_of(keep(listen())), free_port()
        resolver((9999, ("an unknown family", 0)), (socket.AF_INET, ("127.0.0.1", dead)), (2, ("127.0.0.1", port)))
        assert keep(connect("a.test", 1)).getpeername() == ("127.0.0.1", port)

    @needs_ipv6
    def test_each_failure_is_told(self, resolver):
        port = free_port()
        resolver((socket.AF_INET6, ("::1", port, 0, 0)), (socket.AF_INET, ("127.0.0.1", port)))
        with pytest.raises(ConnectionRefusedError) as caught:
            connect("a.test", port)
        refused = f"Connection refused: a.test:{port}"
        assert caught.value.strerror == f"{refused} ([::1]:{port}); {refused} (127.0.0.1:{port})"

    def test_an_unknown_name_is_named(self, resolver):
        def fail():
            raise _socket.gaierror(_socket.EAI_NONAME, "Name or service not known")

        resolver(fail)
        with pytest.raises(socket.gaierror, match=r"Name or service not known: a\.test$"):
            connect("a.test", 80)

    def test_gevents_resolver_knows_localhost(self, keep):
        listener = keep(listen("localhost"))
        keep(connect("localhost", port_of(listener)))

    @pytest.fixture
    def deaf(self, keep):
        """Return the port of a server that takes no connection: its backlog is full (Linux drops the SYN)."""
        listener = keep(listen(backlog=0))
        keep(connect("127.0.0.1", port_of(listener)))
        return port_of(listener)

    def test_the_timeout_names_the_address(self, deaf):
        with pytest.raises(TimeoutError, match=f"timed out after 0.02 s: 127.0.0.1:{deaf}$") as caught:
            connect("127.0.0.1", deaf, timeout=0.02)
        assert caught.value.errno == errno.ETIMEDOUT

    def test_the_timeout_is_in_all(self, deaf, resolver):
        resolver((socket.AF_INET, ("127.0.0.1", deaf)), (socket.AF_INET, ("127.0.0.1", deaf)))
        with pytest.raises(TimeoutError):
            connect("a.test", deaf, timeout=0.02)

    def test_the_timeout_covers_the_resolver(self, resolver):
        resolver(Event().wait)
        with pytest.raises(TimeoutError, match=r"a\.test:80$"):
            connect("a.test", 80, timeout=0.02)

    @pytest.mark.parametrize(
        "error", [gevent.Timeout(9), TimeoutError("mine"), ConnectionRefusedError("mine")], ids=repr
    )
    def test_the_callers_timeout_is_the_callers(self, deaf, resolver, error):
        resolver((socket.AF_INET, ("127.0.0.1", deaf)), (socket.AF_INET, ("127.0.0.1", deaf)))
        with pytest.raises(type(error)) as caught, gevent.Timeout(0.02, error):
            connect("a.test", deaf, timeout=5)
        assert caught.value is error

    @pytest.mark.parametrize(
        ("host", "text"), [("127.0.0.1", "127.0.0.1:80"), ("::1", "[::1]:80"), ("a.test", "a.test:80")]
    )
    def test_netloc(self, host, text):
        assert sockethelper.netloc(host, 80) == text


@pytest.fixture(scope="session")
def authority():
    return trustme.CA()


@pytest.fixture(scope="session")
def files(authority, tmp_path_factory):
    """Return the paths of PEM files: certificate, its key, both in one, and the authority."""
    here = tmp_path_factory.mktemp("certificates")
    leaf = authority.issue_cert("localhost", "127.0.0.1")
    made = SimpleNamespace(cert=here / "cert.pem", key=here / "key.pem", both=here / "both.pem", ca=here / "ca.pem")
    leaf.cert_chain_pems[0].write_to_path(str(made.cert))
    leaf.private_key_pem.write_to_path(str(made.key))
    leaf.private_key_and_cert_chain_pem.write_to_path(str(made.both))
    authority.cert_pem.write_to_path(str(made.ca))
    return made


@pytest.fixture
def tls(files, pair, greenlets):
    """Return a function that shakes hands over a pair and gives both ends; `context` is the server's."""

    def shake(context=None, **options):
        ours, theirs = pair
        context = context or sockethelper.server_context(files.both)
        server = greenlets(start_tls, theirs, context, server_side=True)
        options.setdefault("server_hostname", "localhost")
        client = start_tls(ours, sockethelper.client_context(files.ca), **options)
        return client, server.get(timeout=30)

    return shake


def converse(client, server):
    """Send a lot both ways at once, so that each end has to wait for room and for bytes."""
    sending = [gevent.spawn(writefunc(sock), LARGE) for sock in (client, server)]
    for sock in client, server:
        assert readfunc(sock)(len(LARGE)) == LARGE
    gevent.joinall(sending, raise_error=True)


class TestTLS:
    def test_a_handshake_and_a_conversation(self, tls, keep):
        client, server = map(keep, tls())
        for sock in client, server:
            assert isinstance(sock, ssl.SSLSocket)
            assert sock.gettimeout() == 0
            assert not os.get_inheritable(sock.fileno())
        assert client.getpeercert()["subjectAltName"] == (("DNS", "localhost"), ("IP Address", "127.0.0.1"))
        converse(client, server)

    def test_over_tcp_too(self, files, greenlets, keep):
        listener = keep(listen())
        context = sockethelper.server_context(files.cert, files.key)
        server = greenlets(lambda: start_tls(take(listener), context, server_side=True))
        client = connect("127.0.0.1", port_of(listener))
        client = keep(start_tls(client, sockethelper.client_context(files.ca), server_hostname="127.0.0.1"))
        server = keep(server.get(timeout=30))
        assert nodelay_of(client)
        assert nodelay_of(server)
        converse(client, server)

    def test_the_name_goes_along(self, files, tls, keep):
        """ "sni": what server_hostname says is what the server's callback hears, with the socket that it knows."""
        heard = []
        context = sockethelper.server_context(files.both)
        context.sni_callback = lambda sock, name, context: heard.append((type(sock), name))
        _, server = map(keep, tls(context))
        assert heard == [(type(server), "localhost")]

    @pytest.mark.parametrize("made_by", [ssl.SSLContext, gevent_ssl.orig_SSLContext, gevent_ssl.SSLContext])
    @pytest.mark.parametrize("current", [ssl.SSLContext, gevent_ssl.SSLContext])
    def test_contexts_of_every_make_do(self, made_by, current, files, tls, keep, monkeypatch):
        """ssl's own, gevent's, and ssl's own from before it was patched."""
        context = made_by(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.both)
        client_context = sockethelper.client_context(files.ca)
        monkeypatch.setattr(sockethelper, "client_context", lambda file: client_context)
        monkeypatch.setattr(ssl, "SSLContext", current)
        client, server = map(keep, tls(context))
        converse(client, server)

    @pytest.mark.parametrize("name", ["other.test", "127.0.0.2"])
    def test_a_certificate_for_another_name_is_refused(self, name, files, pair, greenlets):
        ours, theirs = pair
        context = sockethelper.server_context(files.both)
        server = greenlets(refused, theirs, context, server_side=True)
        with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
            start_tls(ours, sockethelper.client_context(files.ca), server_hostname=name)
        assert isinstance(server.get(timeout=30), OSError)
        assert ours.fileno() == theirs.fileno() == -1

    def test_an_unknown_authority_is_refused(self, files, pair, greenlets):
        ours, theirs = pair
        server = greenlets(refused, theirs, sockethelper.server_context(files.both), server_side=True)
        with pytest.raises(ssl.SSLCertVerificationError):
            start_tls(ours, sockethelper.client_context(), server_hostname="localhost")
        assert "unknown ca" in str(server.get(timeout=30)).lower().replace("_", " ")

    def test_a_name_to_check_is_needed(self, pair):
        with pytest.raises(ValueError, match="server_hostname"):
            start_tls(pair[0], sockethelper.client_context())
        assert pair[0].fileno() == -1

    @pytest.mark.parametrize("name", ["", ".a.test", "a\0b", "a..test", "x" * 64 + ".test"])
    def test_a_name_that_is_none_is_the_callers_fault(self, name, pair):
        with pytest.raises(ValueError):
            start_tls(pair[0], sockethelper.client_context(), server_hostname=name)
        assert pair[0].fileno() == -1

    def test_a_context_that_is_none_costs_no_descriptor(self, pair):
        with pytest.raises(AttributeError):
            start_tls(pair[0], None)
        assert pair[0].fileno() == -1

    @pytest.mark.parametrize("server_side", [True, False])
    @pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 64, b""])
    def test_a_peer_that_speaks_no_tls_costs_no_descriptor(self, server_side, sent, files, pair):
        ours, theirs = pair
        writefunc(theirs)(sent)
        theirs.shutdown(socket.SHUT_WR)
        assert isinstance(refused(ours, *side(files, server_side)), OSError)
        assert ours.fileno() == -1

    def test_a_peer_that_is_gone_costs_no_descriptor(self, files, keep):
        listener = keep(listen())
        client = connect("127.0.0.1", port_of(listener))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        server = take(listener)
        close(client)  # a reset
        wait_read(server.fileno())
        assert refused(server, *side(files, True)).errno in (errno.ENOTCONN, errno.ECONNRESET)
        assert server.fileno() == -1

    @pytest.mark.parametrize("server_side", [True, False])
    def test_a_silent_peer_costs_the_callers_timeout_and_no_descriptor(self, server_side, files, pair):
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.01):
            start_tls(pair[0], *side(files, server_side)[:1], **side(files, server_side)[1])
        assert pair[0].fileno() == -1

    def test_a_handshake_waits_for_room_too(self, files, pair, greenlets, keep):
        """A peer that leaves the kernel's buffer full: the handshake wants to write, and must wait for that."""
        ours, theirs = pair
        stuffed = stuff(ours)
        client = greenlets(start_tls, ours, sockethelper.client_context(files.ca), server_hostname="localhost")
        gevent.sleep(0)
        assert readfunc(theirs)(stuffed) == bytes(stuffed)
        server = start_tls(theirs, sockethelper.server_context(files.both), server_side=True)
        converse(keep(client.get(timeout=30)), keep(server))

    def test_closing_says_so(self, tls, keep):
        client, server = map(keep, tls())
        client.suppress_ragged_eofs = False  # an end without close_notify would be an SSLError
        close(server)
        with pytest.raises((EOFError, ssl.SSLZeroReturnError)):
            readfunc(client)()

    def test_whoever_reads_is_told_of_the_closing(self, tls, keep, greenlets):
        client, _ = map(keep, tls())
        reader = greenlets(failure_of, readfunc(client))
        gevent.sleep(0)
        close(client)
        assert reader.get(timeout=30).errno == errno.EBADF
        with pytest.raises((OSError, ValueError)):
            client.recv(1)


def side(files, server_side):
    """Return what makes start_tls a server's or a client's: the context and the options."""
    if server_side:
        return sockethelper.server_context(files.both), {"server_side": True}
    return sockethelper.client_context(files.ca), {"server_hostname": "localhost"}


def refused(sock, context, options=None, **more):
    """Return what start_tls raises."""
    return failure_of(lambda: start_tls(sock, context, **(options or more)))


def failure_of(function):
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError("it did not fail")


def stuff(sock):
    """Write zeros until the kernel takes no more; return how many it took."""
    taken = 0
    try:
        while True:
            taken += sock.send(bytes(65536))
    except BlockingIOError:
        return taken


class TestContexts:
    def test_the_files_may_be_one_or_two(self, files):
        assert sockethelper.server_context(files.both).verify_mode == ssl.CERT_NONE
        assert sockethelper.server_context(str(files.cert), str(files.key)).get_ca_certs() == []

    def test_a_client_verifies(self, files):
        for context in sockethelper.client_context(), sockethelper.client_context(files.ca):
            assert context.check_hostname
            assert context.verify_mode == ssl.CERT_REQUIRED

    def test_a_file_that_is_not_there_is_named(self, files, tmp_path):
        absent = tmp_path / "absent.pem"
        for make in (
            lambda: sockethelper.server_context(absent),
            lambda: sockethelper.server_context(files.cert, absent),
            lambda: sockethelper.client_context(absent),
        ):
            with pytest.raises(FileNotFoundError, match=r"No such file or directory: '.*absent\.pem'$"):
                make()

    def test_files_that_are_wrong_are_named(self, files, authority, tmp_path):
        other, rubbish = tmp_path / "other.pem", tmp_path / "rubbish.pem"
        authority.issue_cert("other.test").private_key_pem.write_to_path(str(other))
        rubbish.write_text("rubbish")
        for make, named in (
            (lambda: sockethelper.server_context(files.cert, other), rf"{files.cert}, {other}$"),
            (lambda: sockethelper.server_context(files.cert), rf"{files.cert}$"),
            (lambda: sockethelper.server_context(rubbish), rf"{rubbish}$"),
            (lambda: sockethelper.client_context(rubbish), rf"{rubbish}$"),
        ):
            with pytest.raises(ssl.SSLError, match=named):
                make()

    def test_a_key_with_a_password_does_not_ask_at_the_terminal(self, files, tmp_path):
        from cryptography.hazmat.primitives import serialization

        secret = serialization.load_pem_private_key(files.key.read_bytes(), None).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
        (tmp_path / "secret.pem").write_bytes(secret)
        with pytest.raises(ssl.SSLError, match=r"secret\.pem$"):
            sockethelper.server_context(files.cert, tmp_path / "secret.pem")


class TestReadAndWrite:
    def test_a_size_is_exact_and_without_one_whatever_comes(self, pair):
        ours, theirs = pair
        read = readfunc(ours)
        writefunc(theirs)(b"onetwothree and more")
        assert [read(3), read(0), read(3), read(5), read()] == [b"one", b"", b"two", b"three", b" and more"]

    def test_no_more_is_taken_than_was_asked_for(self, pair):
        writefunc(pair[1])(b"head, then the stream's")
        assert readfunc(pair[0])(5) == b"head,"
        assert pair[0].recv(100) == b" then the stream's"

    def test_the_end_is_an_error(self, pair):
        read = readfunc(pair[0])
        writefunc(pair[1])(b"abc")
        close(pair[1])
        for size in (4, 4):
            with pytest.raises(EOFError, match="the peer closed the connection"):
                read(size)
        assert read() == b"abc"
        with pytest.raises(EOFError):
            read()

    def test_a_timeout_loses_nothing(self, pair):
        read, write = readfunc(pair[0]), writefunc(pair[1])
        write(b"abc")
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.01):
            read(6)
        write(b"def")
        assert read(2) == b"ab"
        assert read(4) == b"cdef"

    def test_memory_follows_what_comes_and_not_what_is_asked_for(self, pair):
        writefunc(pair[1])(b"abc")
        close(pair[1])
        with pytest.raises(EOFError):
            readfunc(pair[0])(1 << 50)

    def test_a_write_waits_until_all_is_taken(self, pair, greenlets):
        ours, theirs = pair
        writer = greenlets(writefunc(ours), LARGE)
        assert readfunc(theirs)(len(LARGE)) == LARGE
        writer.get(timeout=30)

    @pytest.mark.parametrize("data", [b"abc", bytearray(b"abc"), memoryview(b"abc")])
    def test_bytes_of_every_kind(self, data, pair):
        writefunc(pair[0])(data)
        assert readfunc(pair[1])(3) == b"abc"

    def test_a_peer_that_is_gone_is_an_error(self, pair):
        close(pair[1])
        with pytest.raises(BrokenPipeError):
            writefunc(pair[0])(b"abc")


class TestClose:
    @pytest.mark.parametrize("make", [_socket.socket, socket.socket, gevent.socket.socket])
    def test_every_kind_of_socket_and_twice(self, make):
        sock = make()
        fd = sock.fileno()
        for _ in range(2):
            close(sock)
            assert sock.fileno() == -1
            with pytest.raises(OSError):
                os.fstat(fd)

    @pytest.mark.parametrize(
        "how", [lambda sock: readfunc(sock)(1), lambda sock: writefunc(sock)(LARGE)], ids=["r", "w"]
    )
    def test_whoever_waits_is_told_and_the_descriptor_is_free_at_once(self, how, pair, greenlets):
        """libev would abort the process: "I/O watcher with invalid fd found"."""
        ours, fd = pair[0], pair[0].fileno()
        waiting = [greenlets(failure_of, lambda: how(ours)) for _ in range(2)]
        gevent.sleep(0)
        close(ours)
        with pytest.raises(OSError):
            os.fstat(fd)
        for each in waiting:
            assert str(each.get(timeout=30)) == f"[Errno {errno.EBADF}] the socket was closed by another greenlet"
        assert not sockethelper._waits

    def test_who_waits_elsewhere_is_told_before_the_descriptor_is_closed(self, pair, greenlets):
        loop = type(gevent.get_hub().loop)
        if "libuv" in loop.__module__ and "closing_fd" not in vars(loop):
            pytest.skip("this gevent's libuv cannot tell who watches a descriptor")
        waiting = greenlets(wait_read, pair[0].fileno())
        gevent.sleep(0)
        close(pair[0])
        assert pair[0].fileno() == -1
        waiting.get(timeout=30)

    def test_the_next_owner_of_the_number_is_not_disturbed(self, pair, greenlets, keep):
        fd = pair[0].fileno()
        waiting = greenlets(failure_of, lambda: readfunc(pair[0])())
        gevent.sleep(0)
        close(pair[0])
        here, there = map(keep, socketpair())
        if here.fileno() != fd:
            os.dup2(here.fileno(), fd, inheritable=False)
            here = keep(_socket.socket(fileno=fd))
            here.setblocking(False)
        greenlets(writefunc(there), b"for the next")
        assert readfunc(here)() == b"for the next"
        assert waiting.get(timeout=30).errno == errno.EBADF
        assert not sockethelper._waits

    def test_a_killed_greenlet_leaves_no_watcher(self, pair):
        waiting = gevent.spawn(readfunc(pair[0]))
        gevent.sleep(0)
        assert sockethelper._waits
        waiting.kill()
        assert not sockethelper._waits


def test_what_the_kernel_holds_is_counted():
    here, there = socketpair()
    with closing(here), closing(there):
        assert sockethelper.unread(here) == 0
        there.send(b"four")
        assert sockethelper.unread(here) == 4
        here.recv(3)
        assert sockethelper.unread(here) == 1
    assert sockethelper.unread(here) == 0
