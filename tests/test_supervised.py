"""gws.supervised: several processes under gunicorn, as they are run: started, reloaded, killed, stopped."""

from __future__ import annotations

import os
import signal
import ssl
from pathlib import Path

import gevent
import pytest
import trustme
from conftest import until
from gevent import socket
from programs import PATIENCE, free_port, python

import gws
import gws.client
from gws.errors import ConnectionClosed, GwsError

pytestmark = pytest.mark.usefixtures("deadline")

WHO = """
import os
from gws import server


@server.on("message")
def message(fd, msg):
    fd.write(f"{os.getpid()} WORD {msg}")
"""


class Crew:
    """A served program, and its clients."""

    def __init__(self, tmp_path, *args, source=WHO, port="0"):
        self.file = tmp_path / "who.py"
        self.file.write_text(source)
        self.path = tmp_path / "who.sock" if "--path" in args else None
        self.clients = []
        path = f"{tmp_path}:{Path(gws.__file__).parent.parent}"
        command = ["-m", "gws", "serve", "who", "--workers", "2", "--port", port, *args]
        self.program = python(*command, environment={"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"})
        self.pid = self.program._process.pid
        self.port = int(port)
        self.url = "ws://127.0.0.1:" + port

    def wait_until_it_listens(self):
        while not (line := self.program.read_line()).startswith("listening on "):
            assert line, self.program.said
        self.url = line.split()[-1]

    def connect(self, **options):
        """Return a client, and who serves it."""
        url = self.url if self.path is None else "ws://localhost"
        client = gws.client.connect(url, path=self.path and str(self.path), **options)
        self.clients.append(client)
        return client, ask(client)[0]

    def connect_to_both(self):
        """Connect until there are clients of two processes: these processes."""
        seen = set()

        def both():
            seen.add(self.connect()[1])
            return len(seen) == 2

        until(both, PATIENCE)
        return seen

    def ends(self):
        """Return the codes with which its clients are closed."""
        codes = []
        for client in self.clients:
            with pytest.raises(ConnectionClosed) as end:
                client.read()
            assert end.value.__cause__ is None  # by a whole closing handshake
            codes.append(end.value.code)
        self.clients = []
        return codes


def ask(client):
    """Return the process that answers, and its word."""
    client.write("?")
    pid, word, _ = client.read().split()
    return int(pid), word


@pytest.fixture
def crew(tmp_path):
    """Return a function that starts two processes."""
    made = []

    def start(*args, wait=True, **options):
        made.append(Crew(tmp_path, *args, **options))
        if wait:
            made[-1].wait_until_it_listens()
        return made[-1]

    with gevent.Timeout(2 * PATIENCE):
        yield start
    for each in made:
        for client in each.clients:
            client.close()
        if each.program._process.poll() is None:
            each.program.stop(signal.SIGQUIT)
        each.program.__exit__()


def test_term_ends_both_and_everybody_is_told(crew):
    crew = crew()
    crew.connect_to_both()
    crew.program.send_signal(signal.SIGTERM)
    assert set(crew.ends()) == {1001}
    assert crew.program.wait() == 0
    assert "Traceback" not in crew.program.said


@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGINT])
def test_quit_ends_both_at_once_and_everybody_is_told_all_the_same(crew, number):
    crew = crew("--graceful-timeout", "60")
    crew.connect_to_both()
    crew.program.send_signal(number)
    assert set(crew.ends()) == {1001}
    assert crew.program.wait() == 0
    assert "Traceback" not in crew.program.said


def test_hup_puts_others_in_their_place(crew):
    crew = crew()
    old = crew.connect_to_both()
    crew.file.write_text(WHO.replace("WORD", "news"))
    os.kill(crew.pid, signal.SIGHUP)
    assert set(crew.ends()) == {1001}
    until(lambda: crew.connect()[1] not in old, PATIENCE)
    assert ask(crew.clients[-1])[1] == "news"


def test_a_peer_that_does_not_answer_the_goodbye_is_cut_before_the_supervisor_kills(crew):
    source = (
        WHO
        + """

@server.on("disconnect")
def disconnect(fd, code, reason):
    print("over:", code, flush=True)
"""
    )
    crew = crew("--graceful-timeout", "5", source=source)
    with socket.create_connection(("127.0.0.1", int(crew.url.rpartition(":")[2]))) as silent:
        silent.sendall(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert silent.recv(12) == b"HTTP/1.1 101"
        assert crew.program.stop() == 0
    assert "over: 1001" in crew.program.said


def test_one_that_dies_is_replaced(crew):
    crew = crew()
    first, pid = crew.connect()
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ConnectionClosed) as end:
        first.read()
    assert end.value.code == 1006
    crew.clients.clear()
    assert pid not in crew.connect_to_both()


def test_reload_on_a_change_even_from_what_was_no_python(crew):
    crew = crew("--reload", source="def (:")
    while "SyntaxError" not in crew.program.read_line():
        pass

    def changed(word):
        """Change the file (anew, since gunicorn may just not have begun to look) and tell whether that is served."""
        crew.file.write_text(WHO.replace("WORD", word))
        try:
            with gevent.Timeout(3):
                client, _ = crew.connect()
                return ask(client)[1] == word
        except (gevent.Timeout, GwsError, OSError):
            return False

    until(lambda: changed("news"), PATIENCE)
    until(lambda: changed("later"), PATIENCE)


def test_tls(crew, tmp_path):
    authority, pem = trustme.CA(), tmp_path / "cert.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(pem)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    crew = crew("--certfile", pem)
    assert crew.url.startswith("wss://127.0.0.1:")
    crew.url = crew.url.replace("127.0.0.1", "localhost")
    crew.connect(ssl=context)
    crew.program.send_signal(signal.SIGTERM)
    assert crew.ends() == [1001]


def test_a_unix_socket(crew, tmp_path):
    crew = crew("--path", tmp_path / "who.sock")
    crew.connect_to_both()
    crew.program.send_signal(signal.SIGTERM)
    assert set(crew.ends()) == {1001}
    assert crew.program.wait() == 0
    assert not crew.path.exists()


def test_each_on_a_socket_of_its_own(crew):
    port = free_port()
    crew = crew("--reuse-port", port=str(port), wait=False)
    crew.program.wait_until_it_listens(port)
    crew.connect_to_both()


def test_gunicorn_s_own_settings(crew, tmp_path):
    settings = tmp_path / "settings.py"
    settings.write_text("def post_worker_init(worker): print('hooked', worker.pid, flush=True)\nworkers = 7\n")
    crew = crew("--config", settings)
    pids = crew.connect_to_both()
    while crew.program.said.count("hooked") < 2:
        crew.program.read_line()
    assert {int(line.split()[1]) for line in crew.program.lines if line.startswith("hooked")} == pids
