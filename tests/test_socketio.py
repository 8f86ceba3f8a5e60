"""Flask-SocketIO and python-engineio over gws, unchanged, with their JavaScript clients (socket.io-client from npm).

The apps are in tests/apps: written for gevent-websocket, in the shape of the examples of those projects, without a word
of gws.  They are run by `python -m gws drop-in`, by a program that installs the stand-ins first, and under gunicorn.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from functools import partial

import pytest
from gevent import socket
from programs import PATIENCE, ROOT, Program, free_port, node, python

from gws.frame import CLOSE, TEXT, decode

pytestmark = pytest.mark.usefixtures("deadline")

APPS = ROOT / "tests" / "apps"
DROP_IN = [sys.executable, "-m", "gws", "drop-in", "--"]
INSTALL = """
import runpy, sys
import gws.drop_in
gws.drop_in.install(LIMITS)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def by_drop_in(name, port, environment):
    return python(APPS / f"{name}.py", port, within=DROP_IN, environment=environment)


def by_installing(name, port, environment, limits=""):
    return python("-c", INSTALL.replace("LIMITS", limits), APPS / f"{name}.py", port, environment=environment)


def under_gunicorn(worker, *options, within=()):
    def run(name, port, environment):
        where = ["-b", f"127.0.0.1:{port}", "--pythonpath", APPS, *options]
        return python("-m", "gunicorn", "-k", worker, *where, f"{name}:app", within=within, environment=environment)

    return run


WAYS = {
    "drop-in": by_drop_in,
    "installed in code": by_installing,
    "gunicorn": under_gunicorn("gws.worker.Worker"),
    "gunicorn, preloaded": under_gunicorn("gws.worker.Worker", "--preload"),
    "gunicorn, as it was": under_gunicorn("geventwebsocket.gunicorn.workers.GeventWebSocketWorker", within=DROP_IN),
}


@pytest.fixture(scope="module", params=WAYS)
def chat(request):
    """The Flask-SocketIO app."""
    yield from serving(WAYS[request.param], "flask_chat")


@pytest.fixture(scope="module", params=WAYS)
def echo(request):
    """The python-engineio app."""
    yield from serving(WAYS[request.param], "engineio_echo")


def serving(way, name, **environment):
    port = free_port()
    with way(name, port, environment) as program:
        program.wait_until_it_listens(port)
        yield program
        program.stop()
        assert "Traceback" not in program.said


@pytest.fixture(scope="module")
def javascript():
    with Program(node("socket.io-client"), ROOT / "tests" / "peers" / "socketio.mjs", stderr=False) as program:
        yield program


class Client:
    """A client in JavaScript."""

    names = iter(range(1_000_000))

    def __init__(self, program, port):
        self._program = program
        self._port = port
        self.who = next(self.names)

    def do(self, command, **arguments):
        """Have the client do something; return what it gave."""
        self._program.write_line(json.dumps({"command": command, "who": self.who, **arguments}))
        answer = json.loads(self._program.read_line() or '{"error": "it is gone"}')
        if "error" in answer:
            raise ConnectionError(answer["error"])
        return answer["ok"]

    def connect(self, namespace="/", **options):
        return self.do("connect", url=f"http://127.0.0.1:{self._port}{namespace}", options=options)

    def emit(self, *args):
        self.do("emit", args=[dump(each) for each in args])

    def ask(self, *args):
        """Emit, and return what the acknowledgement holds."""
        return load(self.do("ask", args=[dump(each) for each in args]))

    def send(self, data):
        self.do("send", data=dump(data))

    def recv(self):
        return load(self.do("recv"))

    def disconnect(self):
        self.do("disconnect")


def dump(value):
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def load(value):
    match value:
        case {"base64": data}:
            return base64.b64decode(data)
        case dict():
            return {key: load(each) for key, each in value.items()}
        case list():
            return [load(each) for each in value]
    return value


@pytest.fixture
def join(chat, javascript):
    """Return a function that brings a client into the chat, by WebSocket alone; all of them leave in the end."""
    made = []

    def connect(namespace="/", **options):
        client = Client(javascript, chat.port)
        made.append(client)
        client.told = client.connect(namespace, **{"transports": ["websocket"], **options})
        if namespace == "/":
            _, client.welcome = client.recv()
        return client

    yield connect
    for client in made:
        client.disconnect()


def wait_for(program, what):
    """Read what the program says until there is a line with `what` in it, and return that."""
    while True:
        for line in program.lines:
            if what in line:
                return line
        assert program.read_line(), f"it has not said {what}, but {program.said}"


# ------------------------------------------------------------------------------------------------------ Flask-SocketIO


def test_by_websocket_alone(join):
    client = join()
    assert client.told["transport"] == "websocket"
    assert client.welcome["transport"] is True
    client.emit("message", "hello")
    assert client.recv() == ["message", "hello"]


def test_from_polling_to_websocket(join):
    client = join(transports=["polling", "websocket"])
    client.do("upgraded")
    client.emit("message", "hello")
    assert client.recv() == ["message", "hello"]


def test_a_page_is_served_as_ever(chat):
    with socket.create_connection(("127.0.0.1", chat.port)) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert answer.endswith(b"async mode: gevent")


@pytest.mark.parametrize(
    "values",
    [["text"], ["žluťoučký 🐎"], [b"\x00\xff" * 1000], [1, None, [True, {"a": 0.5}]], [b"", "", b"x" * 200_000], []],
    ids=["text", "more text", "binary", "JSON", "several", "none"],
)
def test_values_come_back_as_they_were(join, values):
    assert join().ask("same", *values) == values


def test_rooms(join):
    one, two, three = join(), join(), join()
    for member in (one, two):
        member.emit("join", "room")
        assert member.recv() == ["rooms", ["room"]]
    three.emit("tell", "room", {"n": 1, "data": "to two of three"})
    assert one.recv() == two.recv() == ["told", {"n": 1, "data": "to two of three"}]
    two.emit("leave", "room")
    assert two.recv() == ["left", "room"]
    three.emit("tell", "room", b"\x00 to one")
    assert one.recv() == ["told", b"\x00 to one"]
    three.emit("close", "room")
    assert one.recv() == ["closing", "room"]
    three.emit("tell", "room", "to nobody")
    for each in (one, two, three):
        assert each.ask("same", "nothing else has come") == ["nothing else has come"]
    three.emit("everybody", "still here?")
    assert one.recv() == two.recv() == three.recv() == ["heard", "still here?"]


def test_sessions_and_messages_of_the_server_s_own(join):
    client = join()
    for number in (1, 2):
        client.emit("count")
        assert client.recv() == ["counted", number]
    client.emit("later", {"bytes": "none"})
    assert client.recv() == ["later", {"bytes": "none"}]


def test_another_namespace(join):
    client = join("/other")
    client.emit("message", "hello")
    assert client.recv() == ["message", {"other": "hello"}]


def test_many_messages_in_their_order(join):
    client = join()
    for number in range(200):
        client.emit("message", number)
    assert [client.recv()[1] for _ in range(200)] == list(range(200))


def test_a_client_that_disconnects(join, chat):
    client = join()
    client.disconnect()
    assert client.recv() == ["disconnect", "io client disconnect"]
    assert "client disconnect" in wait_for(chat, f"disconnected {client.welcome['sid']}")


def test_a_client_that_the_server_disconnects(join, chat):
    client = join()
    client.emit("bye")
    assert client.recv() == ["disconnect", "io server disconnect"]
    assert "server disconnect" in wait_for(chat, f"disconnected {client.welcome['sid']}")


def test_a_client_that_is_refused(join):
    with pytest.raises(ConnectionError, match="rejected"):
        join(auth={"token": "wrong"})


def test_a_packet_that_is_too_large_ends_its_connection_alone(join):
    large, other = join(), join()
    large.emit("message", b"x" * 600_000)
    assert large.recv()[0] == "disconnect"
    other.emit("message", "hello")
    assert other.recv() == ["message", "hello"]


# ----------------------------------------------------------------------------------------------------- python-engineio


@pytest.fixture
def engine(echo, javascript):
    """Return a function that makes a client of engine.io."""
    made = []

    def connect(*transports):
        client = Client(javascript, echo.port)
        made.append(client)
        client.told = client.do("engine", url=f"http://127.0.0.1:{echo.port}", options={"transports": transports})
        assert client.recv() == ["message", "welcome"]
        return client

    yield connect
    for client in made:
        client.disconnect()


@pytest.mark.parametrize("message", ["hello", "🐎" * 1000, b"\x00\xff", bytes(100_000)], ids=lambda it: f"{len(it)}")
def test_engineio_by_websocket_alone(engine, message):
    client = engine("websocket")
    assert client.told["transport"] == "websocket"
    client.send(message)
    assert client.recv() == ["message", message]


def test_engineio_from_polling_to_websocket(engine):
    client = engine("polling", "websocket")
    client.send("hello")
    assert client.recv() == ["message", "hello"]


def test_engineio_disconnects(engine, echo):
    client = engine("websocket")
    client.disconnect()
    assert client.recv()[0] == "close"
    wait_for(echo, f"disconnected {client.told['id']}")
    client = engine("websocket")
    client.send("bye")
    assert client.recv()[0] == "close"
    wait_for(echo, f"disconnected {client.told['id']}")


@pytest.fixture
def quick():
    """The python-engineio app, with a ping each second, and half a second for a goodbye."""
    way = partial(by_installing, limits="close_timeout=0.5")
    yield from serving(way, "engineio_echo", PING_SECONDS="1")


def test_a_peer_that_is_gone_without_a_word_is_noticed(quick, javascript):
    """Half open: TCP is there, and nobody behind it.   (The app does not monitor its clients; gws's ping is 20 s off.)

    A client that answers the pings stays meanwhile.
    """
    steady = Client(javascript, quick.port)
    steady.do("engine", url=f"http://127.0.0.1:{quick.port}", options={"transports": ["websocket"]})
    assert steady.recv() == ["message", "welcome"]
    key = base64.b64encode(os.urandom(16)).decode()
    with socket.create_connection(("127.0.0.1", quick.port), PATIENCE) as sock:
        sock.sendall(
            b"GET /engine.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key.encode() + b"\r\n\r\n"
        )
        data = b"".join(iter(lambda: sock.recv(65536), b""))  # to the end, without a word
    head, _, frames = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101")
    said = []
    while frames:
        payload, _, opcode, frames, _ = decode(frames)
        said.append((opcode, payload))
    assert [opcode for opcode, _ in said] == [TEXT, TEXT, TEXT, CLOSE]  # who it is, welcome, a ping, goodbye
    wait_for(quick, f"disconnected {json.loads(said[0][1][1:])['sid']}")
    steady.send("still here")
    assert steady.recv() == ["message", "still here"]
    steady.disconnect()
