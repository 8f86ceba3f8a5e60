"""The console: what the first bytes decide, who may come in, what they see, and what a hostile visitor gets."""

from __future__ import annotations

import json
import os
import stat

import gevent
import pytest
from conftest import turns, until
from gevent import socket

import gws.client
from gws import console as room
from gws import overview, skynet
from gws.errors import ConnectionClosed, HandshakeError

pytestmark = pytest.mark.usefixtures("deadline")


class Clerk:
    """A service."""

    def tell(self):
        return 7


@pytest.fixture
def clerk():
    """Return the address of a Clerk."""
    address = skynet.newservice(Clerk)
    yield address
    for each in skynet.addresses():
        skynet.kill(each)
    turns()


@pytest.fixture
def console():
    """Return a function that opens a console; it is closed in the end."""
    opened = []

    def make(port=0, *args, **options):
        opened.append(room.start(port, *args, **options))
        return opened[-1]

    yield make
    for each in opened:
        each.stop(timeout=0)


class Visitor:
    """Who connects, and does not hurry."""

    def __init__(self, console):
        if isinstance(console.address, str):
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.connect(console.address)
        else:
            self.sock = socket.create_connection(console.address[:2])
        self.sock.settimeout(10)
        self.heard = b""

    def say(self, text):
        self.sock.sendall(text if isinstance(text, bytes) else text.encode())

    def answer(self):
        """Read through an empty line, and return the lines."""
        while b"\n\n" not in self.heard:
            self._hear()
        answer, _, self.heard = self.heard.partition(b"\n\n")
        return answer.decode().split("\n")

    def line(self):
        """Read a line."""
        while b"\n" not in self.heard:
            self._hear()
        line, _, self.heard = self.heard.partition(b"\n")
        return line.decode()

    def end(self):
        """Read to the end."""
        try:
            while more := self.sock.recv(65536):
                self.heard += more
        except ConnectionResetError:
            pass
        return self.heard.decode()

    def _hear(self):
        more = self.sock.recv(65536)
        assert more, f"it hung up after {self.heard!r}"
        self.heard += more

    def ask(self, line):
        self.say(line + "\n")
        return self.answer()

    def leave(self):
        self.sock.shutdown(socket.SHUT_WR)
        return self.end()


@pytest.fixture
def visit():
    """Return a function that connects to a console."""
    visitors = []

    def come(console):
        visitors.append(Visitor(console))
        return visitors[-1]

    yield come
    for each in visitors:
        each.sock.close()


@pytest.fixture
def join():
    """Return a function that opens a page's connection, as a client, and returns it with what it hears."""
    joined = []

    def come(console, **options):
        client = gws.client.connect("127.0.0.1", console.port, **options)
        joined.append(client)
        return client

    yield come
    for each in joined:
        each.close()


def hear(client, key):
    """Return the next message that has `key`."""
    while True:
        said = json.loads(client.read())
        if key in said:
            return said


# ------------------------------------------------------------------------------------------------ the first bytes


def test_who_is_silent_for_long_and_then_asks_is_answered(console, visit, clerk):
    inside = console(handshake_timeout=0.01)
    visitor = visit(inside)
    until(lambda: inside._strangers)
    gevent.sleep(0.03)  # three times what an HTTP request has
    lines = visitor.ask("list")
    assert lines[1].startswith(clerk)
    assert lines[-1] == "1 services"


@pytest.mark.parametrize(
    "pieces", [["list\n"], ["l", "ist\n"], ["LIS", "T", "\r\n"], ["GET\n", "list\n"], ["\n\nlist\n"]]
)
def test_a_command_in_pieces(console, visit, clerk, pieces):
    visitor = visit(console())
    for piece in pieces:
        visitor.say(piece)
        turns()
    while "1 services" not in visitor.answer():
        pass


@pytest.mark.parametrize(
    "pieces",
    [["GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"], ["G", "ET", " ", "/", " HTTP/1.1\r\nHost: localhost\r\n", "\r\n"]],
)
def test_a_request_in_pieces(console, visit, pieces):
    visitor = visit(console())
    for piece in pieces:
        visitor.say(piece)
        turns()
    assert visitor.end().startswith("HTTP/1.1 200 OK\r\n")


def test_a_last_line_needs_no_newline(console, visit):
    visitor = visit(console())
    visitor.say("help")
    assert "kill address" in visitor.leave()


def test_several_commands_at_once(console, visit):
    visitor = visit(console())
    visitor.say("help\nstat\nmem\n")
    assert len([visitor.answer() for _ in range(3)]) == 3


def test_a_command_that_is_none(console, visit):
    answer = visit(console()).ask("lisst")
    assert answer == ["there is no command lisst; there are: list, connections, stat, mem, kill, trace, help"]


def test_kill_and_trace(console, visit, clerk):
    visitor = visit(console())
    assert visitor.ask(f"trace {clerk}") == [
        f"tracing {clerk} Clerk: each message as it begins and ends, until the next line"
    ]
    skynet.call(clerk, "tell")
    assert visitor.line().endswith(f"#1 begins: {clerk} Clerk.tell")
    assert "#1 done after" in visitor.line()
    visitor.say("\n")
    assert visitor.ask(f"kill {clerk}") == [f"killed {clerk}"]
    assert skynet.addresses() == []


def test_a_trace_ends_with_its_visitor(console, visit, clerk):
    visitor = visit(console())
    visitor.ask(f"trace {clerk}")
    service = skynet.find(clerk, "tell")
    assert service.tracer is not None
    visitor.leave()
    until(lambda: service.tracer is None)


def test_a_name_cannot_command_the_terminal(console, visit, clerk):
    skynet.newservice(type("\x1b[2J\x07evil", (Clerk,), {}))
    visitor = visit(console())
    visitor.say("list\n")
    assert not set("".join(visitor.answer())) & {"\x1b", "\x07"}


def test_what_is_seen_is_the_others_and_not_the_console_itself(console, visit):
    visitor = visit(console())
    assert visitor.ask("connections")[-1] == "0 connections"
    assert "connections     0" in visitor.ask("stat")


# --------------------------------------------------------------------------------------------------- who comes in


@pytest.mark.parametrize("address", ["0.0.0.0", "", "::"])
def test_beyond_loopback_there_must_be_a_token(address):
    with pytest.raises(ValueError, match="needs a token"):
        room.start(0, address)


def test_the_class_knows_that_too():
    with pytest.raises(ValueError, match="needs a token"):
        room.Console().start("0.0.0.0", 0)


@pytest.mark.parametrize("token", ["", " x", "x\n", 7, b"x"])
def test_what_is_no_token(token):
    with pytest.raises(ValueError, match="a token is"):
        room.start(0, token=token)


def test_beyond_loopback_with_a_token(console, visit):
    inside = console(0, "0.0.0.0", token="sesame")
    visitor = visit(inside)
    visitor.say("GET / HTTP/1.1\r\nHost: anywhere.example\r\n\r\n")
    assert visitor.end().startswith("HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("word", ["sesame", "token sesame", "TOKEN  sesame"])
def test_the_token_comes_first(console, visit, word):
    visitor = visit(console(token="sesame"))
    visitor.say(f"{word}\nhelp\n")
    assert visitor.answer()[0].startswith("list [word]")


@pytest.mark.parametrize("words", ["list\n", "token\n", "token sesam\n", "\n", "sesame sesame\n", "sesam", "\xff\n"])
def test_whoever_has_no_token_learns_nothing(console, visit, monkeypatch, clerk, words):
    monkeypatch.setattr(room, "_PENALTY", 0)
    visitor = visit(console(token="sesame"))
    visitor.say(words + f"kill {clerk}\n" if words.endswith("\n") else words)
    assert visitor.leave() == "say your token first, and the right one: token SECRET\n"
    assert skynet.addresses() == [clerk]


def test_a_wrong_token_costs_a_while(console, visit, monkeypatch):
    slept = []
    monkeypatch.setattr(room.gevent, "sleep", slept.append)
    console(token="sesame")._is_wrong("sesam")
    assert slept[0] == 1.0


def test_a_unix_socket_is_its_owners_alone(console, visit, tmp_path):
    inside = console(path=tmp_path / "console.sock")
    assert stat.S_IMODE(os.stat(inside.address).st_mode) == 0o600
    assert visit(inside).ask("help")[0].startswith("list [word]")
    inside.stop()
    assert not os.path.exists(inside.address)


REQUEST = "{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("localhost:8000", 200), ("LocalHost.", 200), ("127.0.0.1:1", 200), ("[::1]:8000", 200),
        ("console.localhost", 200), ("127.9.9.9", 200),
        ("evil.example", 403), ("localhost.evil.example:8000", 403), ("127.0.0.1.evil.example", 403), ("0.0.0.0", 403),
        ("10.0.0.1", 403), ("[::]", 403),
    ],
)  # fmt: skip
def test_a_host_that_is_not_ours_is_refused(console, visit, host, status):
    visitor = visit(console())
    visitor.say(REQUEST.format(method="GET", path="/", host=host))
    assert visitor.end().startswith(f"HTTP/1.1 {status} ")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("HEAD", "/", 200), ("POST", "/", 405), ("OPTIONS", "/", 405), ("GET", "/x", 404), ("GET", "/?x=1", 200)],
)
def test_other_requests(console, visit, method, path, status):
    visitor = visit(console())
    visitor.say(REQUEST.format(method=method, path=path, host="localhost"))
    assert visitor.end().startswith(f"HTTP/1.1 {status} ")


def test_the_body_of_a_request_is_no_command(console, visit, clerk):
    """What a page of another origin may send without asking: a POST with a body of its choice."""
    body = f"\nkill {clerk}\n"
    visitor = visit(console())
    visitor.say(f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n{body}")
    assert visitor.leave().startswith("HTTP/1.1 405 ")
    assert skynet.addresses() == [clerk]


@pytest.mark.parametrize(
    "words",
    [
        "get / HTTP/1.1\r\nkill {0}\r\n",
        "CONNECT x:1 HTTP/1.1\r\nkill {0}\r\n",
        "\x16\x03\x01\nkill {0}\n",
        "\x00\nkill {0}\n",
        "help\x1b\nkill {0}\n",
    ],
)
def test_what_is_some_other_protocol_is_hung_up_on(console, visit, clerk, words):
    visitor = visit(console())
    visitor.say(words.format(clerk))
    visitor.leave()
    assert skynet.addresses() == [clerk]


def test_the_page_comes_with_its_policy(console, visit):
    visitor = visit(console())
    visitor.say(REQUEST.format(method="GET", path="/", host="localhost"))
    head, _, html = visitor.end().partition("\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:])
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    nonce = policy.partition("'nonce-")[2].partition("'")[0]
    assert html.count(f'nonce="{nonce}"') == 2
    assert "NONCE" not in html
    assert (headers["X-Frame-Options"], headers["Cache-Control"]) == ("DENY", "no-store")


def test_the_page_is_one_file():
    html = (room.files("gws") / "console.html").read_text(encoding="utf-8")
    for outside in ("innerHTML", "insertAdjacent", "outerHTML", "src=", "url(", "@import", "stylesheet", "eval("):
        assert outside not in html


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "http://localhost"])
def test_pages_of_other_origins_are_refused(console, join, origin):
    with pytest.raises(HandshakeError) as refusal:
        join(console(), origin=origin)
    assert refusal.value.status == 403


def test_a_page_of_a_rebound_name_is_refused(console, visit):
    """Its Origin and its Host are alike: both are the attacker's."""
    visitor = visit(console())
    visitor.say(
        "GET / HTTP/1.1\r\nHost: evil.example:8000\r\nOrigin: http://evil.example:8000\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    assert visitor.end().startswith("HTTP/1.1 403 ")


# ------------------------------------------------------------------------------------------- what a page is told


def test_a_page_is_told_what_there_is_and_what_has_changed(console, join, clerk):
    inside = console()
    client = join(inside, origin=f"http://127.0.0.1:{inside.port}")
    assert "history" in hear(client, "history")
    said = hear(client, "services")
    ((row, *_), total) = said["services"]
    assert (row[0], row[1], total) == (clerk, "Clerk", 1)
    assert said["connections"] == [[], 0]
    assert said["figures"]["services"] == 1
    point = hear(client, "point")["point"]
    assert len(point) == len(room.Point._fields)
    skynet.kill(clerk)
    while hear(client, "services")["services"][1]:
        pass


def test_a_page_may_find_and_do(console, join, clerk):
    inside = console()
    client = join(inside)
    client.write(json.dumps({"find": ["nobody", "nothing"]}))
    while hear(client, "services")["services"] != [[], 0]:
        pass
    client.write(json.dumps({"do": "help"}))
    assert hear(client, "answer")["answer"][0].startswith("list [word]")
    client.write(json.dumps({"do": f"trace {clerk}"}))
    hear(client, "answer")
    skynet.call(clerk, "tell")
    assert f"#1 begins: {clerk} Clerk.tell" in hear(client, "trace")["trace"][0]
    client.write(json.dumps({"do": f"kill {clerk}"}))
    assert hear(client, "answer")["answer"] == [f"killed {clerk}"]


@pytest.mark.parametrize(
    "words",
    ["", "x", "[]", "7", "null", "{}", '{"x": 1}', "[" * 4000, b"\xff", '{"find": 7}', '{"find": [1]}', '{"do": {}}'],
)
def test_a_page_that_talks_nonsense_disturbs_nobody(console, join, words, caplog):
    inside = console()
    client = join(inside)
    client.write(words)
    client.write(json.dumps({"do": "help"}))
    try:
        hear(client, "answer")
    except ConnectionClosed as end:
        assert end.code == 1008
    assert not caplog.records


def test_pages_share_what_is_alike(console, join, monkeypatch):
    inside = console()
    looks = []
    services = overview.services
    clients = [join(inside) for _ in range(5)]
    for client in clients:
        hear(client, "services")
    inside._history.stop()
    monkeypatch.setattr(overview, "services", lambda *words: looks.append(words) or services(*words))
    inside._show(inside._history.points[-1] if inside._history.points else (0,))
    assert looks == [("",)]


def test_a_page_needs_the_token_too(console, join, monkeypatch):
    monkeypatch.setattr(room, "_PENALTY", 0)
    inside = console(token="sesame")
    client = join(inside)
    assert json.loads(client.read()) == {"wanted": "token"}
    client.write('{"token": "sesame"}')
    hear(client, "services")
    for wrong in ('{"token": "sesam"}', '{"token": null}', '{"do": "list"}', "[]", "sesame"):
        other = join(inside)
        other.read()
        other.write(wrong)
        with pytest.raises(ConnectionClosed) as end:
            other.read()
        assert (end.value.code, end.value.reason) == (1008, "that is not the token")


def test_a_page_that_says_no_token_is_hung_up_on(console, join, monkeypatch):
    monkeypatch.setattr(room, "_PENALTY", 0)
    monkeypatch.setattr(room, "_PATIENCE", 0.01)
    client = join(console(token="sesame"))
    client.read()
    with pytest.raises(ConnectionClosed):
        client.read()


# --------------------------------------------------------------------------------------------- hostile visitors


def test_an_endless_line_is_hung_up_on(console, visit):
    visitor = visit(console())
    visitor.say("x" * 100_000)
    assert visitor.leave() == "a line is longer than 1024 bytes\n"


def test_very_many_lines_are_answered_in_turn(console, visit):
    inside = console()
    rude, polite = visit(inside), visit(inside)
    rude.say("help\n" * 50_000)
    assert polite.ask("help")
    assert polite.ask("kill :1")


def test_who_never_reads_is_not_kept_in_memory(console, visit):
    inside = console()
    rude = visit(inside)
    rude.sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            rude.sock.send(b"help\n" * 10_000)
            turns(1)
    assert all(stream.pending < 1 << 20 for stream in inside._streams)


def test_of_those_who_are_silent_the_newest_stay(console, visit, monkeypatch):
    monkeypatch.setattr(room, "_MOST", 4)
    inside = console()
    crowd = [visit(inside) for _ in range(12)]
    until(lambda: len(inside._greenlets) == 4)
    assert visit(inside).ask("help")
    assert [each.end() for each in crowd[:8]] == [""] * 8


def test_of_those_who_talk_the_last_to_do_so_stay(console, visit, monkeypatch):
    monkeypatch.setattr(room, "_MOST", 4)
    inside = console()
    crowd = [visit(inside) for _ in range(4)]
    for each in crowd:
        assert each.ask("help")
    assert crowd[0].ask("help")
    assert visit(inside).ask("help")
    assert crowd[1].end() == ""
    assert crowd[0].ask("help")
    until(lambda: len(inside._talking) == 4)


def test_there_are_only_so_many_pages(console, join, monkeypatch):
    inside = console(maxclient=2)
    for _ in range(2):
        join(inside)
    with pytest.raises(HandshakeError) as refusal:
        join(inside)
    assert refusal.value.status == 503


def test_a_page_too_many_is_told_so(console, join, monkeypatch):
    inside = console()
    hear(join(inside), "services")
    monkeypatch.setattr(room, "_MOST", 1)
    with pytest.raises(ConnectionClosed) as end:
        hear(join(inside), "services")
    assert (end.value.code, end.value.reason) == (1013, "the console is full")


def test_pages_without_a_token_keep_nobody_out(console, join, visit, monkeypatch):
    monkeypatch.setattr(room, "_MOST", 4)
    inside = console(token="sesame", maxclient=8)
    crowd = [join(inside) for _ in range(12)]
    requests = [visit(inside) for _ in range(12)]
    for each in requests:
        each.say("GET / HTTP/1.1\r\n")
    until(lambda: len(inside._strangers) == 4)
    client = join(inside)
    client.write('{"token": "sesame"}')
    hear(client, "services")
    until(lambda: len(inside._strangers) <= 4)
    for each in crowd[:8]:
        with pytest.raises(ConnectionClosed):
            hear(each, "services")


def test_a_trace_for_one_who_never_reads_is_left_out(console, visit, clerk, monkeypatch):
    inside = console()
    visitor = visit(inside)
    visitor.ask(f"trace {clerk}")
    ((session, _),) = inside._sessions.items()
    monkeypatch.setattr(room, "_SLOW", 0)
    for _ in range(300):
        skynet.call(clerk, "tell")
    inside._flush()
    assert (len(session.lines), session.left_out) == (200, 400)


# ------------------------------------------------------------------------------------------------ closing, looking


def test_stop_sends_everybody_home(console, visit, join):
    inside = console()
    silent, talking, viewer = visit(inside), visit(inside), join(inside)
    talking.ask("help")
    assert repr(inside) == f"<Console on {inside.address}, 2 sessions>"
    inside.stop()
    assert (silent.end(), talking.end()) == ("", "")
    with pytest.raises(ConnectionClosed) as end:
        while True:
            viewer.read()
    assert end.value.code == 1001
    assert repr(inside) == "<Console closed, 0 sessions>"
    assert not (inside._streams or inside._sessions or inside._strangers or inside._talking or inside._begun)


def test_a_port_that_is_taken(console):
    inside = console()
    with pytest.raises(OSError, match="in use"):
        room.start(inside.port)


def test_what_has_gone_over_the_console_is_not_counted(console, visit, join):
    inside = console()
    visit(inside).ask("help")
    client = join(inside)
    hear(client, "services")
    client.close()
    until(lambda: not inside.fds)
    now = inside._history._measure()
    assert now[2] >= 0
    join(inside)
    assert inside._history._measure()[3] == now[3]


def test_over_tls(console, tls_contexts):
    server, trusting = tls_contexts
    inside = console(ssl=server)
    client = gws.client.connect(f"wss://localhost:{inside.port}", ssl=trusting)
    hear(client, "services")
    client.close()
