"""The watchdog: an agent for each connection, from the first to the last word, and what becomes of those that fail."""

from __future__ import annotations

import gevent
import pytest
from conftest import turns, until
from gevent.event import Event

import gws.client
from gws import skynet
from gws.errors import CallFailed, ConnectionClosed
from gws.watchdog import Watchdog

pytestmark = pytest.mark.usefixtures("deadline")


@pytest.fixture(autouse=True)
def no_services():
    """No service survives a test."""
    yield
    for service in skynet.services():
        skynet.kill(service.address)
    turns()


class ChatAgent:
    """It repeats to everybody what its client says; some messages are orders."""

    made: list[ChatAgent] = []

    def __init__(self):
        self.ended = None
        self.made.append(self)

    def start(self, conf):
        self.conf = conf
        self.client = conf["client"]
        skynet.call(conf["gate"], "forward", self.client)

    def message(self, fd, msg):
        if msg == "exit":
            skynet.exit()
        elif msg == "close":
            skynet.call(self.conf["watchdog"], "close", fd)
        for agent in self.made:
            if not agent.client.closed:
                agent.client.write(msg)

    def disconnect(self):
        self.ended = (self.client.code, self.client.reason)


class Late:
    """Its constructor, or its start, takes its time."""

    go, made = Event(), Event()
    where = "constructor"

    def __init__(self):
        self.told = []
        self.wait("constructor")

    def wait(self, where):
        if where == self.where:
            self.made.set()
            self.go.wait()

    def start(self, conf):
        self.wait("start")
        skynet.call(conf["gate"], "forward", conf["client"])

    def disconnect(self):
        pass


class BadConstructor:
    def __init__(self):
        raise LookupError("out of order")


class BadStart:
    def start(self, conf):
        raise LookupError("out of order")

    def disconnect(self):
        raise LookupError("out of order, too")


class ExitsAtOnce:
    def start(self, conf):
        skynet.exit()


class DiesUnasked:
    """It ends before it has asked for its connection: at once, once it has started, or in a fork of its own."""

    def __init__(self):
        if "constructor" in self.when:
            skynet.fork(skynet.exit)

    def start(self, conf):
        if "start" in self.when:
            skynet.fork(skynet.exit)

    def disconnect(self):
        pass


class NoCommands:
    pass


@pytest.fixture(autouse=True)
def fresh():
    ChatAgent.made.clear()
    Late.go.clear()
    Late.made.clear()


@pytest.fixture
def connect():
    """Return `gws.client.connect`; what it opened is closed in the end."""
    opened = []

    def connect(address):
        opened.append(gws.client.connect(*address))
        return opened[-1]

    yield connect
    for client in opened:
        client.close()


def serve(agent):
    """Start a watchdog; return (its address, where it listens)."""
    watchdog = skynet.newservice("gws.watchdog", agent=agent)
    return watchdog, skynet.call(watchdog, "start", {"address": "127.0.0.1", "port": 0})


def end_of(client):
    with pytest.raises(ConnectionClosed) as end:
        while True:
            client.read()
    return end.value.code, end.value.reason


def kinds():
    return sorted(service.kind for service in skynet.services())


def test_the_seeds_gateway(connect):
    watchdog = skynet.newservice("gws.watchdog", agent=ChatAgent)
    address = skynet.call(watchdog, "start", {"address": "127.0.0.1", "port": 0})
    ada, bob = connect(address), connect(address)
    until(lambda: len(ChatAgent.made) == 2)
    turns()
    ada.write("hello")
    assert (ada.read(), bob.read()) == ("hello", "hello")
    bob.close(1000, "bye")
    until(lambda: ChatAgent.made[1].ended == (1000, "bye"))
    ada.write("anybody?")
    assert ada.read() == "anybody?"


def test_an_agent_is_told_whom_it_is_for(connect):
    watchdog, address = serve(ChatAgent)
    connect(address).write("hello")
    until(lambda: ChatAgent.made and hasattr(ChatAgent.made[0], "conf"))
    conf = ChatAgent.made[0].conf
    assert sorted(conf) == ["client", "gate", "watchdog"]
    assert conf["watchdog"] == watchdog
    assert conf["client"].addr[0] == "127.0.0.1"


def test_an_agent_goes_with_its_connection(connect):
    _, address = serve(ChatAgent)
    client = connect(address)
    until(lambda: "ChatAgent" in kinds())
    client.close()
    until(lambda: kinds() == ["Gate", "Watchdog"])


@pytest.mark.parametrize("agent", [ChatAgent, f"{__name__}:ChatAgent"])
def test_the_agent_in_conf_comes_first(connect, agent):
    watchdog = skynet.newservice("gws.watchdog", agent=NoCommands)
    address = skynet.call(watchdog, "start", {"port": 0, "agent": agent})
    client = connect(address)
    client.write("hello")
    assert client.read() == "hello"


def test_an_agent_may_close_its_connection(connect):
    _, address = serve(ChatAgent)
    client = connect(address)
    client.write("close")
    assert end_of(client)[0] == 1000
    until(lambda: kinds() == ["Gate", "Watchdog"])


def test_an_agent_that_dies_takes_only_its_connection_with_it(connect):
    _, address = serve(ChatAgent)
    ada, bob = connect(address), connect(address)
    ada.write("exit")
    assert end_of(ada) == (1011, "the agent has ended")
    bob.write("hello")
    assert bob.read() == "hello"
    until(lambda: kinds() == ["ChatAgent", "Gate", "Watchdog"])


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        (BadConstructor, "out of order"),
        (BadStart, "out of order, too"),
        (NoCommands, "no such command"),
        (ExitsAtOnce, "exited before it answered"),
    ],
)
def test_an_agent_that_fails_to_start(connect, caplog, agent, words):
    _, address = serve(agent)
    client = connect(address)
    assert end_of(client) == (1011, "its agent has failed")
    until(lambda: kinds() == ["Gate", "Watchdog"])
    until(lambda: words in caplog.text)


@pytest.mark.parametrize("when", ["constructor", "start", "kill"])
def test_an_agent_that_dies_before_it_asks_for_its_connection(connect, monkeypatch, when):
    monkeypatch.setattr(DiesUnasked, "when", when, raising=False)
    _, address = serve(DiesUnasked)
    client = connect(address)
    client.write("is anybody there?")
    if when == "kill":
        skynet.kill(until(lambda: [each.address for each in skynet.services() if each.kind == "DiesUnasked"])[0])
    assert end_of(client)[0] == 1011
    until(lambda: kinds() == ["Gate", "Watchdog"])


def test_a_client_that_leaves_before_its_agent_asks_for_the_connection(connect):
    class Idle(ChatAgent):
        def start(self, conf):
            self.client = conf["client"]

    _, address = serve(Idle)
    client = connect(address)
    until(lambda: Idle.made and hasattr(Idle.made[0], "client"))
    client.fd.cut(1001, "")
    until(lambda: kinds() == ["Gate", "Watchdog"])
    assert Idle.made[0].ended[0] == 1001


def test_a_watchdog_that_ends_while_it_makes_an_agent(connect, caplog, monkeypatch):
    monkeypatch.setattr(Late, "where", "constructor")
    watchdog, address = serve(Late)
    client = connect(address)
    Late.made.wait()
    gevent.get_hub().loop.run_callback(Late.go.set)  # the agent is made in the turn in which the watchdog ends
    gevent.get_hub().loop.run_callback(skynet.kill, watchdog)
    assert end_of(client)[0] == 1001
    until(lambda: kinds() == [])
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("where", ["constructor", "start"])
def test_a_client_that_leaves_before_its_agent_has_started(connect, caplog, monkeypatch, where):
    monkeypatch.setattr(Late, "where", where)
    watchdog, address = serve(Late)
    client = connect(address)
    Late.made.wait()
    gate = next(service.address for service in skynet.services() if service.kind == "Gate")
    fd = next(iter(instance(gate)._clients))
    closing = gevent.spawn(client.close)
    skynet.call(gate, "kick", fd)
    closing.join()
    turns(5)
    Late.go.set()
    until(lambda: kinds() == ["Gate", "Watchdog"])
    assert "Traceback" not in caplog.text


def instance(address):
    return skynet._services[address].instance


def test_a_watchdog_without_agents():
    watchdog = skynet.newservice("gws.watchdog")
    with pytest.raises(CallFailed, match="needs to know the class of its agents"):
        skynet.call(watchdog, "start", {"port": 0})


@pytest.mark.parametrize(
    ("conf", "words"),
    [
        ({"agent": "nowhere.to.be:found"}, "No module named 'nowhere'"),
        ({"agent": "gws.errors"}, "gws.errors has no class of its name"),
        ({"agent": 5}, "not from 5"),
        ({"agent": BadStart, "port": 99999}, "a port is 0 to 65535"),
    ],
)
def test_a_start_that_fails_changes_nothing(connect, conf, words):
    watchdog = skynet.newservice("gws.watchdog", agent=ChatAgent)
    with pytest.raises(CallFailed, match=words):
        skynet.call(watchdog, "start", conf)
    client = connect(skynet.call(watchdog, "start", {"address": "127.0.0.1", "port": 0}))
    with pytest.raises(CallFailed, match=r"is open already|" + words):
        skynet.call(watchdog, "start", conf)
    client.write("hello")
    assert client.read() == "hello"


def test_stop_says_1001(connect):
    watchdog, address = serve(ChatAgent)
    client = connect(address)
    stopping = gevent.spawn(skynet.call, watchdog, "stop")
    assert end_of(client)[0] == 1001
    stopping.get()
    until(lambda: kinds() == ["Gate", "Watchdog"])


def test_a_watchdog_that_ends_leaves_nothing_behind(connect, caplog):
    watchdog, address = serve(ChatAgent)
    client = connect(address)
    until(lambda: "ChatAgent" in kinds())
    skynet.kill(watchdog)
    assert end_of(client)[0] == 1001
    until(lambda: kinds() == [])
    assert caplog.text == ""
    with pytest.raises(ConnectionRefusedError):
        gws.client.connect(*address)


def test_what_it_does_about_slow_clients_and_errors_is_a_line_in_the_log(caplog):
    caplog.set_level("INFO", "gws")
    watchdog = skynet.newservice("gws.watchdog")
    skynet.call(watchdog, "socket_warning", "Ada", 1024)
    skynet.call(watchdog, "socket_error", "Ada", LookupError("odd"))
    skynet.call(watchdog, "socket_data", "Ada", "a word that nobody waits for")
    skynet.call(watchdog, "socket_close", "Ada", 1000, "")
    assert [record.message for record in caplog.records] == ["1024 KiB wait for 'Ada'", "'Ada': odd"]


def test_a_policy_of_ones_own(connect):
    class Strict(Watchdog):
        def socket_open(self, fd, addr):
            skynet.call(self.gate, "accept", fd)

        def socket_data(self, fd, msg):
            if msg == "the password":
                super().socket_open(fd, fd.addr)

    _, address = started(Strict)
    client = connect(address)
    for message in ("open!", "the password", "hello"):
        client.write(message)
    assert client.read() == "hello"


def started(kind):
    watchdog = skynet.newservice(kind, agent=ChatAgent)
    return watchdog, skynet.call(watchdog, "start", {"port": 0})
