"""gws.worker: real gunicorns, their signals, and what becomes of those who are connected."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import ssl
from collections import Counter
from pathlib import Path

import gevent
import pytest
import trustme
from conftest import until
from gevent import socket
from programs import PATIENCE, python
from served import PLAIN, Wire, request

import gws.client
from gws.errors import ConnectionClosed
from gws.frame import CLOSE, FIN, decode_close, encode_close

pytest.importorskip("gunicorn")
pytestmark = pytest.mark.usefixtures("deadline")

HERE = Path(__file__).parent

#: Nobody here is to wait for gunicorn's own patience: that is what the worker is for.
CONFIGURATION = f"""
import os

graceful_timeout = 3600
timeout = 3600
control_socket_disable = True
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None
pythonpath = {os.fspath(HERE / "apps")!r}


def post_worker_init(worker):
    os.write(1, b"booted\\n")  # in one piece: others write there, too
"""


@pytest.fixture
def deadline():
    """A test that hangs fails; a loaded machine takes its time for a few processes."""
    with gevent.Timeout(3 * PATIENCE):
        yield


class Gunicorn:
    """A running gunicorn; `accepted` is what its apps were handed."""

    def __init__(self, program, folder, workers):
        self.program = program
        self._folder = folder
        while program.said.count("booted\n") < workers:
            assert program.read_line(), f"it has ended: {program.said}"
        self.port = int((re.search(r"Listening at: .*:(\d+) \(", program.said) or [0, 0])[1])
        self._reader = gevent.spawn(self._read)  # nobody is to wait for a pipe that is full

    def _read(self):
        with contextlib.suppress(TimeoutError, OSError, ValueError):
            while self.program.read_line():
                pass

    def connect(self, path="/", **options):
        return gws.client.connect(f"ws://127.0.0.1:{self.port}{path}", **options)

    def signal(self, name):
        self.program._process.send_signal(getattr(signal, name))

    def ended(self):
        """Wait for its end, and return its exit status."""
        status = self.program._process.wait(PATIENCE)
        self._reader.join()
        return status

    @property
    def accepted(self):
        return Counter(line for file in self._folder.glob("*.accepted") for line in file.read_text().splitlines())


@pytest.fixture
def gunicorn(tmp_path):
    """Return a function that starts a gunicorn; it is ended after the test, if it has not by itself."""
    with contextlib.ExitStack() as stack:

        def start(*arguments, workers=1, app="answering:app", bind="127.0.0.1:0"):
            configuration = tmp_path / "gunicorn.conf.py"
            configuration.write_text(CONFIGURATION)
            command = ["-m", "gunicorn", "-c", configuration, "-k", "gws.worker.Worker", "-b", bind, "-w", workers]
            environment = {"GWS_ACCEPTED": os.fspath(tmp_path)}
            program = stack.enter_context(python(*command, *arguments, app, environment=environment))
            running = Gunicorn(program, tmp_path, workers)
            stack.callback(running._reader.kill)
            return running

        yield start


class Asking:
    """A client that asks again as soon as it is answered, until the end."""

    def __init__(self, server, path, name):
        self.answered = []
        self.end = None
        self.pid = None
        self._name = name
        self.greenlet = gevent.spawn(self._run, server, path)

    def _run(self, server, path):
        client = server.connect(path)
        try:
            self.pid = client.read()
            while True:
                self._ask(client, f"{self._name}-{len(self.answered)}")
        except ConnectionClosed as end:
            self.end = end
        finally:
            client.close()

    def _ask(self, client, message):
        client.write(message)
        assert client.read() == message
        self.answered.append(message)


class Listening(Asking):
    """A client that only listens."""

    def _ask(self, client, message):
        client.read()


def crowd(server, count=40):
    """Let many ask in every way: the answer comes at once, late, from another greenlet; or there is none."""
    paths = ["/?0", "/?0.3", "/other?0.05", "/other?0.3"]
    clients = [Asking(server, path, f"{path[1:]}-{number}") for path in paths for number in range(count)]
    clients += [Listening(server, "/", "") for _ in range(count)]
    until(lambda: all(each.answered or (type(each) is Listening and each.pid) for each in clients), PATIENCE)
    return clients


def check_their_end(server, clients):
    gevent.joinall([each.greenlet for each in clients], raise_error=True)
    ends = Counter((each.end.code, each.end.__cause__) for each in clients)
    assert ends == {(1001, None): len(clients)}  # without a Close of theirs there would be a cause
    answered = Counter(message for each in clients for message in each.answered)
    assert server.accepted == answered  # no message that an app was handed is lost
    assert "graceful timeout" not in server.program.said


def test_term_under_load(gunicorn):
    server = gunicorn("-k", "answering.Patient", workers=2)
    clients = crowd(server)
    server.signal("SIGTERM")
    check_their_end(server, clients)
    assert server.ended() == 0


def test_hup_under_load(gunicorn):
    server = gunicorn("-k", "answering.Patient", workers=2)
    clients = crowd(server)
    newcomers = []

    def come(pids):
        while not all(each.end for each in clients) or newcomers[-1] in pids:
            client = server.connect("/who")
            newcomers.append(client.read())
            client.close()

    coming = gevent.spawn(come, {each.pid for each in clients})
    until(lambda: newcomers)
    server.signal("SIGHUP")
    check_their_end(server, clients)
    coming.get()  # nobody was refused, and in the end new workers serve
    server.signal("SIGTERM")
    assert server.ended() == 0


def test_a_term_counts_while_a_worker_boots(gunicorn):
    server = gunicorn("-k", "answering.Early")
    until(lambda: "Worker exiting" in server.program.said, PATIENCE)


@pytest.mark.parametrize("name", ["SIGINT", "SIGQUIT"])
def test_a_quick_stop_says_so_too(gunicorn, name):
    server = gunicorn()
    client = server.connect("/never")
    client.read()
    client.write("never answered")
    until(lambda: server.accepted, PATIENCE)
    server.signal(name)
    with pytest.raises(ConnectionClosed) as end:
        client.read()
    assert end.value.code == 1001
    client.close()
    server.ended()


def test_max_requests(gunicorn):
    server = gunicorn("--max-requests", "3")
    clients = [Listening(server, "/", "")]
    until(lambda: clients[0].pid, PATIENCE)
    with contextlib.closing(plain(server)) as peer:
        assert peer.head()[0] == "HTTP/1.1 200 OK"
    clients.append(Listening(server, "/", ""))
    check_their_end(server, clients)
    client = server.connect("/")
    assert client.read() != clients[0].pid
    client.close()


def plain(server):
    peer = Wire(socket.create_connection(("127.0.0.1", server.port)))
    peer.sock.settimeout(PATIENCE)
    peer.sock.sendall(PLAIN)
    return peer


def test_reload(gunicorn, tmp_path):
    source = HERE / "apps" / "answering.py"
    copy = tmp_path / "copied.py"
    copy.write_text(source.read_text())
    server = gunicorn("--reload", "--chdir", tmp_path, app="copied:app")
    client = Listening(server, "/", "")
    until(lambda: client.pid, PATIENCE)
    copy.write_text(source.read_text() + "\n# changed\n")
    os.utime(copy, (2**31, 2**31))
    check_their_end(server, [client])
    again = server.connect("/")
    assert again.read() != client.pid
    again.close()


def test_tls(gunicorn, tmp_path):
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    server = gunicorn("--certfile", tmp_path / "server.pem", "--keyfile", tmp_path / "server.pem")
    client = gws.client.connect(f"wss://127.0.0.1:{server.port}/", ssl=context, server_hostname="localhost")
    client.read()
    client.write("x" * 100_000)
    assert client.read() == "x" * 100_000
    server.signal("SIGTERM")
    with pytest.raises(ConnectionClosed) as end:
        client.read()
    assert end.value.code == 1001
    assert server.ended() == 0


def test_a_unix_socket(gunicorn, tmp_path):
    server = gunicorn(workers=2, bind=f"unix:{tmp_path}/socket")
    client = gws.client.connect("ws://localhost/", path=os.fspath(tmp_path / "socket"))
    client.read()
    client.write("hello")
    assert client.read() == "hello"
    server.signal("SIGTERM")
    with pytest.raises(ConnectionClosed) as end:
        client.read()
    assert end.value.code == 1001
    assert server.ended() == 0


def test_plain_http_does_not_burn_the_graceful_timeout(gunicorn):
    """Connections that are kept alive end at once, a request at work is let finish."""
    server = gunicorn()
    with contextlib.closing(plain(server)) as idle, contextlib.closing(plain(server)) as busy:
        assert [peer.head()[0] for peer in (idle, busy)] == ["HTTP/1.1 200 OK"] * 2
        busy.sock.sendall(PLAIN.replace(b"/health", b"/slow"))
        until(lambda: server.accepted, PATIENCE)
        server.signal("SIGTERM")
        idle.rest()
        assert busy.rest().endswith(b"slow")
    assert server.ended() == 0


def test_the_access_log_has_its_line(gunicorn):
    server = gunicorn("--access-logfile", "-", "--access-logformat", "%(m)s %(U)s %(s)s %(B)s")
    peer = Wire(socket.create_connection(("127.0.0.1", server.port)))
    with contextlib.closing(peer):
        peer.sock.settimeout(PATIENCE)
        peer.sock.sendall(request("GET /who HTTP/1.1"))
        peer.head()
        peer.hear()
        assert decode_close(peer.hear()[1]) == (1000, "")
        peer.say((FIN | CLOSE, encode_close(1000, "")))
        peer.rest()
    found = until(lambda: re.search(r"GET /who 101 (\d+)", server.program.said), PATIENCE)
    assert int(found[1]) > 129


def test_options_are_the_worker_classs_own(gunicorn):
    server = gunicorn("-k", "answering.Choosy")
    client = server.connect("/", protocols=["mine"])
    assert client.fd.protocol == "mine"
    client.close()


def test_flask_sock_works_though_simple_websocket_is_installed(gunicorn):
    pytest.importorskip("flask_sock")
    server = gunicorn("--chdir", HERE / "older", app="echo_flask_sock:app")
    client = server.connect("/echo?name=x")
    assert client.read() == "gws.drop_in.simple_websocket.ws gevent None x"
    client.write("hello")
    assert client.read() == "hello"
    server.signal("SIGTERM")
    with pytest.raises(ConnectionClosed) as end:
        client.read()
    assert (end.value.code, end.value.__cause__) == (1001, None)
    assert server.ended() == 0
