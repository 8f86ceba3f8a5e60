"""Programs as they are written for skynet, line by line: its gateway (main, watchdog, agent) and its balanced echo.

Each class is one of its services, each method one entry of a table of commands; what they call has the name that it has
there.   What is different: `message` is the agent's dispatch of the client protocol, a table within a table (SOCKET.open)
is a prefix (socket_open), and a service has no need to say start(), dispatch() or ret().
"""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from conftest import turns, until

import gws.client
from gws import skynet, websocket
from gws.errors import ConnectionClosed, HandshakeError, ServiceExited

pytestmark = pytest.mark.usefixtures("deadline")


@pytest.fixture(autouse=True)
def no_services():
    """No service survives a test."""
    said.clear()
    yield
    for service in skynet.services():
        skynet.kill(service.address)
    turns()


said = []  # what would be printed


class SimpleDB:
    def __init__(self):
        self.db = {}

    def get(self, key):
        return self.db.get(key)

    def set(self, key, value):
        last, self.db[key] = self.db.get(key), value
        return last


class Watchdog:
    def __init__(self):
        self.agent = {}
        self.gate = skynet.newservice("gws.gate")

    def socket_open(self, fd, addr):
        skynet.error("New client from :", addr)
        self.agent[fd] = skynet.newservice(Agent)
        skynet.call(self.agent[fd], "start", {"gate": self.gate, "client": fd, "watchdog": skynet.self()})

    def _close_agent(self, fd):
        agent = self.agent.pop(fd, None)
        if agent:
            skynet.call(self.gate, "kick", fd)
            with suppress(ServiceExited):  # skynet's send() does not tell
                skynet.send(agent, "disconnect")

    def socket_close(self, fd, code, reason):
        said.append(("socket close", code, reason))
        self._close_agent(fd)

    def socket_error(self, fd, err):
        said.append(("socket error", type(err).__name__))
        self._close_agent(fd)

    def socket_warning(self, fd, size):
        said.append(("socket warning", size))

    def socket_data(self, fd, msg):
        pass

    def start(self, conf):
        return skynet.call(self.gate, "open", conf)

    def close(self, fd):
        self._close_agent(fd)


class Agent:
    """Its requests come as [name, arguments] in JSON."""

    def _get(self, what):
        return {"result": skynet.call(".simpledb", "get", what)}

    def _set(self, what, value):
        return {"result": skynet.call(".simpledb", "set", what, value)}

    def _handshake(self):
        return {"msg": "Welcome to skynet, I will send heartbeat every 5 sec."}

    def _quit(self):
        skynet.call(self.watchdog, "close", self.client)

    def _die(self):
        skynet.exit()

    def _send_package(self, pack):
        websocket.write(self.client, json.dumps(pack))

    def message(self, fd, msg):
        assert fd is self.client
        name, args = json.loads(msg)
        try:
            self._send_package(getattr(self, f"_{name}")(*args))
        except AttributeError as err:
            skynet.error(err)

    def start(self, conf):
        self.client, self.watchdog = conf["client"], conf["watchdog"]

        def heartbeat():
            while True:
                self._send_package("heartbeat")
                skynet.sleep(5)

        skynet.fork(heartbeat)
        skynet.call(conf["gate"], "forward", self.client)

    def disconnect(self):
        skynet.exit()


def main(max_client=64):
    skynet.error("Server start")
    skynet.name(".simpledb", skynet.newservice(SimpleDB))
    watchdog = skynet.newservice(Watchdog)
    return skynet.call(watchdog, "start", {"address": "127.0.0.1", "port": 0, "maxclient": max_client, "nodelay": True})


class Player:
    """A client of that program."""

    def __init__(self, address, **options):
        self.connection = gws.client.connect(*address, **options)
        assert json.loads(self.connection.read()) == "heartbeat"

    def ask(self, name, *args):
        self.connection.write(json.dumps([name, args]))
        return self.hear()

    def hear(self):
        while (said := json.loads(self.connection.read())) == "heartbeat":
            pass
        return said

    def end(self, *request):
        with pytest.raises(ConnectionClosed) as end:
            self.ask(*request)
        return end.value.code


@pytest.fixture
def connect():
    """Return `Player`; who is still there in the end leaves."""
    players = []

    def come(address, **options):
        players.append(Player(address, **options))
        return players[-1]

    yield come
    for player in players:
        player.connection.close()


def kinds():
    return [service.kind for service in skynet.services()]


def test_the_gateway(connect):
    address = main()
    ada, bob = connect(address), connect(address)
    assert ada.ask("handshake")["msg"].startswith("Welcome")
    assert ada.ask("set", "hello", "world") == {"result": None}
    assert bob.ask("get", "hello") == {"result": "world"}
    assert kinds() == ["SimpleDB", "Watchdog", "Gate", "Agent", "Agent"]
    ada.connection.close(1000, "bye")
    until(lambda: said == [("socket close", 1000, "bye")])
    assert bob.end("quit") == 1000
    until(lambda: kinds() == ["SimpleDB", "Watchdog", "Gate"])
    assert said == [("socket close", 1000, "bye"), ("socket close", 1000, "")]


def test_an_agent_that_dies(connect):
    address = main()
    ada, bob = connect(address), connect(address)
    assert ada.end("die") == 1011
    assert bob.ask("get", "hello") == {"result": None}
    until(lambda: said == [("socket close", 1011, "")])
    assert kinds() == ["SimpleDB", "Watchdog", "Gate", "Agent"]


def test_a_client_that_breaks_the_rules(connect, caplog):
    address = main()
    ada, bob = connect(address), connect(address)
    ada.connection.fd.stream.write(b"\xff\xff\xff\xff")
    until(lambda: len(said) == 2)
    assert [words[:2] for words in said] == [("socket error", "ProtocolError"), ("socket close", 1002)]
    assert bob.ask("get", "hello") == {"result": None}
    bob.connection.write('["no such request", []]')
    assert bob.ask("get", "hello") == {"result": None}
    assert "has no attribute '_no such request'" in caplog.text


def test_there_are_so_many_clients_and_no_more(connect):
    address = main(max_client=2)
    connect(address), connect(address)
    with pytest.raises(HandshakeError, match="503"):
        connect(address)


# ------------------------------------------------------------------------------------------------------ its balanced echo


class Master:
    """Twenty agents take turns; each has many connections."""

    def __init__(self):
        self.agents = [skynet.newservice(EchoAgent) for _ in range(20)]
        self.balance = 0
        self.gate = skynet.newservice("gws.gate")

    def start(self, conf):
        return skynet.call(self.gate, "open", conf)

    def socket_open(self, fd, addr):
        skynet.call(self.gate, "forward", fd, self.agents[self.balance])
        self.balance = (self.balance + 1) % len(self.agents)

    def socket_close(self, fd, code, reason):
        said.append(("ws close", code, reason))


class EchoAgent:
    def message(self, fd, msg):
        websocket.write(fd, msg)


def test_the_balanced_echo():
    address = skynet.call(skynet.newservice(Master), "start", {"port": 0})
    clients = [gws.client.connect(*address) for _ in range(40)]
    for number, client in enumerate(clients):
        client.write(f"hello world! {number}")
    assert [client.read() for client in clients] == [f"hello world! {number}" for number in range(40)]
    assert [service.messages for service in skynet.services() if service.kind == "EchoAgent"] == [4] * 20
    for client in clients:  # two forwards and two messages for each agent
        client.close(1000, "bye")
    until(lambda: said == [("ws close", 1000, "bye")] * 40)
