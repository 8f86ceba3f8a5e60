"""Every example runs as it stands: it is started, talked to, and stopped by SIGTERM."""

from __future__ import annotations

import ast
import json
import ssl
from contextlib import ExitStack, contextmanager
from pathlib import Path

import gevent
import pytest
from gevent import socket
from programs import PATIENCE, ROOT, free_port, python

import gws.client
from gws.errors import ConnectionClosed, HandshakeError
from gws.server import Server

EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))
SERVERS = ["blocking", "chat", "echoserver", "patched", "tls"]
CLIENTS = ["echoclient", "patchedclient"]
COMMANDS = {"locustfile": "locust -f"}  # where it is another than python


@contextmanager
def running(name, *arguments):
    """Run an example that serves, on `.port`, and see that it ends well."""
    port = free_port()
    with python(f"examples/{name}.py", port, *arguments) as program:
        program.wait_until_it_listens(port)
        yield program
        assert program.stop() == 0, program.said
        assert "Traceback" not in program.said
        assert "Warning" not in program.said


@pytest.fixture
def connect():
    """Return `gws.client.connect`; what it opened is closed in the end."""
    opened = []

    def connect(*args, **kwargs):
        opened.append(gws.client.connect(*args, **kwargs))
        return opened[-1]

    with gevent.Timeout(PATIENCE):
        yield connect
        for client in opened:
            client.close()


def fetch(port, path="/", method="GET"):
    """Return (status, head, body) of a plain HTTP request."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        sock.sendall(f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), head.decode(), body.decode()


# ----------------------------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_short_and_begins_with_its_command(name):
    source = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")
    assert source.count("\n") < 60
    command = COMMANDS.get(name, "python")
    assert ast.get_docstring(ast.parse(source)).startswith(f"{command} examples/{name}.py")


def test_every_example_is_tested():
    assert sorted([*SERVERS, *CLIENTS, *COMMANDS]) == EXAMPLES


@pytest.mark.parametrize("name", SERVERS)
def test_a_signal_ends_it_well_whoever_is_at_the_door(name):
    with ExitStack() as idle, running(name) as program:
        for _ in range(3):
            idle.enter_context(socket.create_connection(("127.0.0.1", program.port), PATIENCE))


# ------------------------------------------------------------------------------------------------------- the echoes


@pytest.mark.parametrize("name", ["echoserver", "blocking"])
@pytest.mark.parametrize("message", ["hello", "", "žluťoučký kůň 🐎", b"", bytes(range(256)), "x" * 100_000])
def test_echo(name, message, connect):
    with running(name) as program:
        client = connect("127.0.0.1", program.port)
        client.write(message)
        assert client.read() == message


def test_echoserver_tells_who_comes_and_goes(connect):
    with running("echoserver") as program:
        client = connect("127.0.0.1", program.port)
        while "on connect:" not in program.read_line():
            pass
        assert "open> ('127.0.0.1', " in program.lines[-1]
        client.close(1000, "enough")
        assert program.read_line().endswith("closed 1000 enough> 1000 enough\n")


def test_echoserver_takes_its_port_with_or_without_a_name_for_it():
    port = free_port()
    with python("examples/echoserver.py", "--port", port) as program, gevent.Timeout(PATIENCE):
        program.wait_until_it_listens(port)
        assert program.stop() == 0


def test_blocking_serves_the_second_while_the_first_is_silent(connect):
    with running("blocking") as program:
        connect("127.0.0.1", program.port)
        second = connect("127.0.0.1", program.port)
        second.write("hello")
        assert second.read() == "hello"


def test_stopping_says_1001(connect):
    with running("echoserver") as program:
        client = connect("127.0.0.1", program.port)
        assert program.stop() == 0
        with pytest.raises(ConnectionClosed) as end:
            client.read()
        assert end.value.code == 1001


def test_echoclient_says_hello_and_prints_what_comes():
    server = Server()
    server.on("message", lambda fd, msg: (fd.write(msg.upper()), fd.close(4000, "enough")))
    server.start("127.0.0.1", 0)
    with python("examples/echoclient.py", server.port) as program:
        assert program.wait() == 0
    server.stop()
    assert program.lines == ["on message... HELLO\n", "on close... 4000 enough\n", ""]


# ---------------------------------------------------------------------------------------------------------- patched


def test_patchedclient_waits_in_all_of_its_threads_at_once():
    server, most = Server(), 0

    def message(fd, msg):
        nonlocal most
        most = max(most, len(server.fds))
        fd.write(msg)

    server.on("message", message)
    server.start("127.0.0.1", 0)
    with python("examples/patchedclient.py", f"ws://127.0.0.1:{server.port}") as program:
        assert program.wait() == 0, program.said
    server.stop()
    assert most > 1
    assert "50 clients, 1000 echoes, median " in program.said
    assert "Traceback" not in program.said


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        ("some/page", "this is /some/page\n"),
        ("é ü?#", "this is /é ü?#\n"),
        (b"bin", "this is /bin\n"),
        ("x" * 2000, f"this is /{'x' * 2000}\n"),
        ("missing", "404 Not Found"),
    ],
)
def test_patched_fetches_from_itself(sent, answer, connect):
    with running("patched") as program:
        client = connect("127.0.0.1", program.port)
        client.write(sent)
        assert client.read() == answer


def test_patched_serves_plain_http():
    with running("patched") as program:
        assert fetch(program.port, "/a%20page")[::2] == (200, "this is /a page\n")


# -------------------------------------------------------------------------------------------------------------- tls


def test_tls_with_a_certificate_made_on_the_spot(connect):
    with running("tls") as program:
        while "SSL_CERT_FILE=" not in program.read_line():
            pass
        assert "SELF-MADE" in program.said
        cafile = program.lines[-1].partition("SSL_CERT_FILE=")[2].split()[0]
        client = connect(f"wss://localhost:{program.port}", ssl=ssl.create_default_context(cafile=cafile))
        client.write("hello")
        assert client.read() == "hello"
    assert not Path(cafile).exists()


def test_tls_with_a_certificate_that_is_given(connect, tmp_path):
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    given = authority.issue_cert("localhost")
    certfile, keyfile = tmp_path / "cert.pem", tmp_path / "key.pem"
    given.cert_chain_pems[0].write_to_path(certfile)
    given.private_key_pem.write_to_path(keyfile)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with running("tls", certfile, keyfile) as program:
        assert program.read_line() == f"wss://127.0.0.1:{program.port} with the certificate in {certfile}\n"
        client = connect(f"wss://localhost:{program.port}", ssl=context)
        client.write("hello")
        assert client.read() == "hello"


def test_a_self_made_certificate_is_trusted_by_nobody_unasked():
    with running("tls") as program, pytest.raises(OSError, match="certificate"):
        gws.client.connect(f"wss://localhost:{program.port}")


# ------------------------------------------------------------------------------------------------------------- chat


class Guest:
    """Somebody in the chat room."""

    def __init__(self, connection):
        self.connection = connection

    def say(self, **said):
        self.connection.write(json.dumps(said))

    def hear(self):
        return json.loads(self.connection.read())

    def hear_the_end(self):
        try:
            while True:
                self.connection.read()
        except ConnectionClosed as end:
            return end.code, end.reason


@pytest.fixture
def room(connect):
    """Return a function that lets somebody into a chat room, or to its door if no name is given."""
    with running("chat") as program:

        def come(name=None):
            guest = Guest(connect("127.0.0.1", program.port, origin=f"http://127.0.0.1:{program.port}"))
            if name is not None:
                guest.say(name=name)
                guest.welcome = guest.hear()
            return guest

        come.port = program.port
        yield come


def test_chat_serves_its_page_and_nothing_else(room):
    status, head, body = fetch(room.port)
    assert status == 200
    assert "text/html" in head
    assert "NONCE" not in body
    assert "http-equiv" in body
    assert fetch(room.port)[2] != body  # another nonce
    assert fetch(room.port, "/favicon.ico")[0] == 404


def test_the_page_is_one_file():
    page = (ROOT / "examples" / "chat.html").read_text(encoding="utf-8")
    assert "innerHTML" not in page
    for outside in ('src="', "url(", "@import", '<link rel="stylesheet'):
        assert outside not in page


def test_chat_from_entrance_to_exit(room):
    ada = room("Ada")
    assert ada.welcome == {"kind": "welcome", "you": "Ada", "here": ["Ada"], "history": []}
    bob = room(" Bob\n the  Builder ")
    assert bob.welcome["here"] == ["Ada", "Bob the Builder"]
    assert ada.hear() == {"kind": "enter", "name": "Bob the Builder"}
    ada.say(text="  hello\nthere 🐎 ")
    heard = bob.hear()
    assert heard == ada.hear()
    assert (heard["kind"], heard["name"], heard["text"]) == ("said", "Ada", "hello\nthere 🐎")
    del heard["kind"]
    assert room("Cyd").welcome["history"] == [heard]
    assert bob.hear() == ada.hear() == {"kind": "enter", "name": "Cyd"}
    ada.connection.close()
    assert bob.hear() == {"kind": "leave", "name": "Ada"}


def test_no_two_guests_have_one_name(room):
    asked = ["Ada", "ADA", "ada", "Ada 2"]
    assert [room(name).welcome["you"] for name in asked] == ["Ada", "ADA 2", "ada 3", "Ada 2 2"]


def test_the_history_is_the_last_forty_lines_and_fits_into_a_message(room):
    ada = room("Ada")
    for number in range(50):
        ada.say(text=f"{number:04}" + "🐎" * 1996)
        ada.hear()
    history = room("Bob").welcome["history"]
    assert [int(line["text"][:4]) for line in history] == list(range(10, 50))
    numbers = [line["number"] for line in history]
    assert numbers == sorted(set(numbers))


BAD_NAMES = ["", " ", "\n\t", "\u200b", "\x00", "x" * 33, None, 7, ["A"], {"a": 1}, "\ud800"]


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
def test_a_bad_name_is_shown_out(room, name):
    steady, guest = room("Steady"), room()
    guest.say(name=name)
    assert guest.hear_the_end()[0] in (1007, 1008)
    assert_unharmed(steady)


BAD_MESSAGES = {
    "no JSON": ("hello", 1007),
    "nothing": ("", 1007),
    "half": ('{"text": "', 1007),
    "not an object": ('["text"]', 1007),
    "a number": ("7", 1007),
    "null": ("null", 1007),
    "nested too deep": ("[" * 30_000, 1007),
    "a number without end": ("9" * 30_000, 1007),
    "binary": (b"\xff\x00", 1007),
    "another key": ('{"name": "Eve"}', 1007),
    "not text": ('{"text": 7}', 1007),
    "empty": ('{"text": ""}', 1008),
    "blank": ('{"text": " \\n "}', 1008),
    "too long": (json.dumps({"text": "x" * 2001}), 1008),
    "a huge message": (json.dumps({"text": "x" * 40_000}), 1009),
}


@pytest.mark.parametrize("case", BAD_MESSAGES)
def test_whoever_sends_nonsense_is_shown_out_and_nobody_else_is_harmed(room, case):
    message, code = BAD_MESSAGES[case]
    steady, eve = room("Steady"), room("Eve")
    assert steady.hear()["kind"] == "enter"
    eve.connection.write(message)
    ended, reason = eve.hear_the_end()
    assert ended == code
    assert reason
    assert steady.hear() == {"kind": "leave", "name": "Eve"}
    assert_unharmed(steady)


def test_half_a_surrogate_pair_does_no_harm(room):
    steady = room("Steady")
    steady.say(text="a\ud800b")
    assert steady.hear()["text"] == "a\ud800b"
    assert_unharmed(steady)


def test_markup_comes_back_as_it_was(room):
    steady = room("<b>Steady</b>")
    steady.say(text="<img src=x onerror=alert(1)>")
    assert steady.hear()["text"] == "<img src=x onerror=alert(1)>"


def test_a_page_from_elsewhere_is_refused(room):
    with pytest.raises(HandshakeError) as refusal:
        gws.client.connect("127.0.0.1", room.port, origin="https://elsewhere.example")
    assert refusal.value.status == 403


def assert_unharmed(guest):
    guest.say(text="still here")
    assert guest.hear()["text"] == "still here"


# ----------------------------------------------------------------------------------------------------------- locust


@contextmanager
def echoing(**handlers):
    """Run an echo server, or another one, in this process."""
    server = Server()
    for event, handler in (handlers or {"message": lambda fd, msg: fd.write(msg)}).items():
        server.on(event, handler)
    server.start("127.0.0.1", 0)
    yield server
    server.stop(timeout=1)


@pytest.fixture
def locust():
    """Return a function that loads a server with a few users for a while: (exit status, what it reports)."""
    pytest.importorskip("pytest_locust", reason="locust is not installed: pip install 'gevent-gws[test]'")

    def run(port, *report, users=5, seconds=2):
        command = ["-m", "locust", "-f", "examples/locustfile.py", "--headless", "--only-summary", *report]
        load = ["-u", users, "-r", users, "-t", f"{seconds}s", "-H", f"ws://127.0.0.1:{port}"]
        with python(*command, *load, within=["env", "PYTHONDEVMODE="]) as program:
            return program.wait(), program.said

    return run


def test_locust_reports_echoes_by_name_and_time(locust, tmp_path):
    with echoing() as server:
        status, said = locust(server.port, "--json-file", tmp_path / "it", seconds=3)
    assert status == 0, said
    rows = {row["name"]: row for row in json.loads((tmp_path / "it.json").read_text())}
    assert set(rows) == {"connect", "echo", "close"}
    assert 1 <= rows["connect"]["num_requests"] == rows["close"]["num_requests"] <= 5
    assert rows["echo"]["num_requests"] > 0
    assert rows["echo"]["total_response_time"] > 0
    assert rows["echo"]["total_content_length"] >= rows["echo"]["num_requests"]
    assert sum(row["num_failures"] for row in rows.values()) == 0


FAILING = {
    "another answer": {"message": lambda fd, msg: fd.write("nonsense")},
    "ConnectionClosed": {"message": lambda fd, msg: fd.close(4000, "no more")},
    "HandshakeError": {"handshake": lambda fd, request: 403},
}


@pytest.mark.parametrize("failure", FAILING)
def test_locust_reports_failures_by_name(locust, failure):
    with echoing(**FAILING[failure]) as server:
        status, said = locust(server.port, users=1)
    assert status == 1, said
    assert "Error report" in said
    assert failure in said
