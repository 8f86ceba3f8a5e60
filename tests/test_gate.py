"""The gate: whose a connection is, that its messages come in order, and what becomes of them when it changes hands."""

from __future__ import annotations

import struct
from time import perf_counter
from types import SimpleNamespace

import gevent
import pytest
from conftest import turns, until
from gevent.event import Event

import gws.client
from gws import reading, skynet, sockethelper
from gws.errors import CallFailed, ConnectionClosed, HandshakeError, ServiceExited
from gws.frame import CLOSE, PING, PONG, TEXT, encode
from gws.gate import Gate
from gws.server import Server

pytestmark = pytest.mark.usefixtures("deadline")


@pytest.fixture(autouse=True)
def no_services():
    """No service survives a test."""
    yield
    for service in skynet.services():
        skynet.kill(service.address)
    turns()


class Watchdog:
    """It keeps what it is told, and does what the test wants."""

    made: list[Watchdog] = []

    def __init__(self, **conf):
        self.told, self.fds, self.data = [], [], []
        self.gate = skynet.newservice("gws.gate")
        self.address = skynet.call(self.gate, "open", {"address": "127.0.0.1", "port": 0, **conf})
        self.made.append(self)

    def socket_open(self, fd, addr):
        self.told.append(("open", addr))
        self.fds.append(fd)

    def socket_data(self, fd, msg):
        self.data.append(msg)
        if msg == "hold":
            self.held = Event()
            self.held.wait()

    def socket_close(self, fd, code, reason):
        self.told.append(("close", code, reason))

    def socket_error(self, fd, err):
        self.told.append(("error", type(err).__name__))

    def socket_warning(self, fd, size):
        self.told.append(("warning", size))


class Agent:
    """It keeps what it gets; some messages are orders."""

    made: list[Agent] = []

    def __init__(self, gate=None, log=None):
        self.gate, self.home = gate, skynet.self()
        self.log = [] if log is None else log  # several agents may share one
        self.late = []
        self.go = Event()
        self.made.append(self)

    def message(self, fd, msg):
        self.log.append(msg)
        order, _, to = msg.partition(" ")
        getattr(self, f"_{order}", print)(fd, *to.split())

    def _echo(self, fd):
        fd.write(f"echo by {skynet.self()}")

    def _nap(self, fd, seconds):
        gevent.sleep(float(seconds))

    def _wait(self, fd):
        self.go.wait()

    def _answer(self, fd):
        self.go.wait()
        fd.write("the answer")

    def _read(self, fd):
        self.late.append(fd.read())

    def _work(self, fd):
        begun = perf_counter()
        while perf_counter() < begun + 0.01:
            pass
        fd.write("done")

    def _exit(self, fd):
        skynet.exit()

    def _fail(self, fd):
        raise LookupError("as it was told")

    def _late(self, fd):
        fd.close()
        fd.write("too late")

    def _timeout(self, fd):
        gevent.Timeout(0.001).start()

    def _to(self, fd, agent):
        skynet.call(self.gate, "forward", fd, agent)

    def take(self, fd):
        skynet.call(self.gate, "forward", fd)


@pytest.fixture
def gate():
    """Return a function that makes (watchdog's instance, gate's address)."""
    Watchdog.made.clear()
    Agent.made.clear()

    def make(**conf):
        skynet.newservice(Watchdog, **conf)
        return Watchdog.made[-1], Watchdog.made[-1].gate

    return make


@pytest.fixture
def connect():
    """Return a function that connects to a watchdog's gate, and returns (client, fd)."""
    opened = []

    def make(watchdog, **options):
        client = gws.client.connect(*watchdog.address, **{"close_timeout": 0.05, **options})
        opened.append(client)
        until(lambda: len(watchdog.fds) == len(opened))
        return client, watchdog.fds[-1]

    yield make
    for client in opened:
        client.close()


def agent_of(gate, log=None):
    """Return (address, instance) of a new agent."""
    address = skynet.newservice(Agent, gate, log)
    return address, Agent.made[-1]


def end_of(client):
    """Read to the end, and return its code and reason."""
    with pytest.raises(ConnectionClosed) as end:
        while True:
            client.read()
    return end.value.code, end.value.reason


# ------------------------------------------------------------------------------------------------- what it tells


def test_the_watchdog_is_told_from_open_to_close(gate, connect):
    watchdog, address = gate()
    client, fd = connect(watchdog, close_timeout=5)
    assert watchdog.told == [("open", fd.addr)]
    closing = gevent.spawn(client.close, 4000, "bye")  # which nobody hears yet
    turns()
    skynet.call(address, "accept", fd)
    closing.join()
    until(lambda: len(watchdog.told) == 2)
    assert watchdog.told[1] == ("close", 4000, "bye")


def test_the_watchdog_is_told_what_it_accepts(gate, connect):
    watchdog, address = gate()
    client, fd = connect(watchdog)
    for message in ("one", b"two", ""):
        client.write(message)
    skynet.call(address, "accept", fd)
    until(lambda: watchdog.data == ["one", b"two", ""])


def test_nothing_is_read_before_it_is_accepted(gate, connect):
    watchdog, address = gate()
    client, fd = connect(watchdog)
    client.write("x" * 100)
    until(lambda: fd.waiting)
    turns(5)
    assert (fd.waiting, watchdog.data) == (True, [])
    skynet.call(address, "accept", fd)
    until(lambda: watchdog.data == ["x" * 100])


def test_the_watchdog_is_told_of_errors(gate, connect):
    watchdog, address = gate(max_message=10)
    client, fd = connect(watchdog)
    skynet.call(address, "accept", fd)
    client.write("x" * 11)
    assert end_of(client)[0] == 1009
    until(lambda: len(watchdog.told) == 3)
    assert [word for word, *_ in watchdog.told] == ["open", "error", "close"]


def test_the_watchdog_is_told_of_a_slow_peer(gate, connect):
    watchdog, _ = gate()
    _, fd = connect(watchdog)
    gevent.spawn(fd.stream.warn, 1024 * 1024).join()
    until(lambda: ("warning", 1024) in watchdog.told)


def test_a_connection_that_the_watchdog_cannot_be_told_of_is_closed(gate, connect, caplog):
    watchdog, _ = gate()
    connect(watchdog)
    skynet.kill(watchdog_address())
    client = gws.client.connect(*watchdog.address)
    assert end_of(client) == (1011, "the server has failed")
    assert "there is no service" in caplog.text


def watchdog_address():
    return next(service.address for service in skynet.services() if service.kind == "Watchdog")


# ------------------------------------------------------------------------------------------------------- opening


def test_open_returns_where_it_listens(gate):
    watchdog, _ = gate()
    host, port = watchdog.address
    assert (host, port > 0) == ("127.0.0.1", True)


def test_open_knows_the_options_of_listen(gate, connect):
    watchdog, _ = gate(maxclient=1, nodelay=False, protocols=["game"])
    client, _ = connect(watchdog, protocols=["game"])
    assert client.protocol == "game"
    with pytest.raises(HandshakeError, match="503"):
        connect(watchdog)


def test_open_knows_the_callbacks_of_the_handshake(gate, connect):
    def refuse(fd, request):
        return 401

    watchdog, _ = gate(handshake=refuse)
    with pytest.raises(HandshakeError, match="401"):
        connect(watchdog)


def test_a_page_on_the_same_port(gate):
    watchdog, _ = gate(http=lambda request: f"this is {request.path}")
    with gevent.socket.create_connection(watchdog.address) as sock:
        sock.sendall(b"GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b"".join(iter(lambda: sock.recv(4096), b""))
    assert answer.endswith(b"this is /page")


@pytest.mark.parametrize(
    ("conf", "error"),
    [
        ({}, "watchdog"),
        ({"watchdog": ":0", "agent": "gws.gate"}, "there is no option agent"),
        ({"watchdog": ":0", "maxclient": 0}, "maxclient must be a positive number"),
    ],
)
def test_open_refuses(conf, error):
    address = skynet.newservice("gws.gate")
    with pytest.raises(CallFailed, match=error):
        skynet.call(address, "open", conf)
    skynet.call(address, "open", {"watchdog": ":0", "port": 0})  # it can be opened still


def test_open_refuses_when_it_is_open(gate):
    _, address = gate()
    with pytest.raises(CallFailed, match="open already"):
        skynet.call(address, "open", {"watchdog": ":0", "port": 0})


def test_close_and_open_again(gate, connect):
    watchdog, address = gate()
    client, _ = connect(watchdog)
    closing = gevent.spawn(skynet.call, address, "close")
    assert end_of(client)[0] == 1001
    closing.get()
    skynet.call(address, "close")
    with pytest.raises(ConnectionRefusedError):
        gws.client.connect(*watchdog.address)
    watchdog.address = skynet.call(address, "open", {"port": 0, "watchdog": watchdog_address()})
    connect(watchdog)


def test_a_gate_that_ends_takes_its_connections_with_it(gate, connect):
    watchdog, address = gate()
    client, fd = connect(watchdog)
    skynet.call(address, "forward", fd, agent_of(address)[0])
    skynet.kill(address)
    assert end_of(client)[0] == 1001
    with pytest.raises(ConnectionRefusedError):
        gws.client.connect(*watchdog.address)


def test_repr():
    class Seen(Gate):
        def show(self):
            return repr(self)

    address = skynet.newservice(Seen)
    assert skynet.call(address, "show") == "<Gate closed, watchdog ->"
    skynet.call(address, "open", {"watchdog": ":7", "port": 0})
    assert "0 connections>, watchdog :7>" in skynet.call(address, "show")


def test_a_gate_that_is_closed_while_it_opens_listens_nowhere(slow_names):
    address = skynet.newservice("gws.gate")
    opening = [gevent.spawn(outcome, skynet.call, address, "open", {"watchdog": ":0", "port": 0}) for _ in range(2)]
    until(lambda: slow_names.asked)
    skynet.call(address, "close")
    slow_names.go.set()
    said = [str(each.get()) for each in opening]
    assert "the server was stopped while it started" in said[0]
    assert "is open already" in said[1]
    assert slow_names.left() == []
    skynet.call(address, "open", {"watchdog": ":0", "port": 0})


@pytest.mark.parametrize("kind", ["gws.gate", "gws.echoserver"])
def test_a_service_that_is_killed_while_it_opens_listens_nowhere(slow_names, kind):
    address = skynet.newservice(kind)
    conf = {"port": 0} | ({"watchdog": ":0"} if kind == "gws.gate" else {})
    opening = gevent.spawn(outcome, skynet.call, address, "open" if kind == "gws.gate" else "start", conf)
    until(lambda: slow_names.asked)
    gevent.get_hub().loop.run_callback(slow_names.go.set)  # it goes on in the turn in which it is killed
    gevent.get_hub().loop.run_callback(skynet.kill, address)
    assert isinstance(opening.get(), (ServiceExited, tuple))
    turns()
    assert slow_names.left() == []


@pytest.fixture
def slow_names(monkeypatch):
    """Names take a while to resolve: until `go` is set."""

    def listen(*args, **options):
        names.asked += 1
        go.wait()
        made.append(sockethelper_listen(*args, **options))
        return made[-1]

    sockethelper_listen, go, made = sockethelper.listen, Event(), []
    names = SimpleNamespace(asked=0, go=go, left=lambda: [sock for sock in made if sock.fileno() >= 0])
    monkeypatch.setattr(sockethelper, "listen", listen)
    return names


def outcome(func, *args):
    """Return what `func` returns or raises."""
    try:
        return func(*args)
    except Exception as err:
        return err


# ----------------------------------------------------------------------------------- who leaves before it is anybody's


@pytest.fixture
def dial(gate):
    """Return a function that connects by hand, and returns (socket, fd)."""
    opened = []

    def make(watchdog):
        sock = gevent.socket.create_connection(watchdog.address)
        opened.append(sock)
        sock.sendall(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += sock.recv(1)
        until(lambda: len(watchdog.fds) == len(opened))
        return sock, watchdog.fds[-1]

    yield make
    for sock in opened:
        sock.close()


def frame(text, opcode=TEXT):
    return encode(text, opcode, masked=True)


RESET = struct.pack("ii", 1, 0)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([], 1006),
        ([frame(b"", PONG)], 1006),
        ([frame(b"", PING), frame(b"\x0f\xa0bye", CLOSE)], 4000),
        ([frame(b"half")[:3]], 1006),
    ],
    ids=["nothing", "a pong", "a goodbye", "half a message"],
)
def test_a_peer_that_leaves_before_it_is_accepted(gate, dial, words, code):
    """It is noticed at once, though nobody reads."""
    watchdog, address = gate(close_timeout=60)
    sock, fd = dial(watchdog)
    sock.sendall(b"".join(words))
    sock.close()
    until(lambda: len(watchdog.told) == 2)
    assert watchdog.told[1][:2] == ("close", code)
    failed = outcome(skynet.call, address, "forward", fd, agent_of(address)[0])
    assert isinstance(failed.__cause__, ConnectionClosed)


def test_a_peer_that_resets_before_it_is_accepted(gate, dial):
    watchdog, _ = gate(close_timeout=60)
    sock, _ = dial(watchdog)
    sock.setsockopt(gevent.socket.SOL_SOCKET, gevent.socket.SO_LINGER, RESET)
    sock.close()
    until(lambda: len(watchdog.told) == 2)
    assert watchdog.told[1][:2] == ("close", 1006)


@pytest.mark.parametrize("end", [b"", frame(b"\x0f\xa0bye", CLOSE)], ids=["cut", "goodbye"])
def test_what_a_peer_said_before_it_left_can_be_read(gate, dial, end):
    watchdog, address = gate(close_timeout=60)
    sock, fd = dial(watchdog)
    sock.sendall(frame(b"one") + frame(b"two") + end)
    sock.close()
    turns(10)
    assert watchdog.told == [("open", fd.addr)]
    agent, it = agent_of(address)
    skynet.call(address, "forward", fd, agent)
    until(lambda: len(watchdog.told) == 2)
    assert it.log == ["one", "two"]
    assert watchdog.told[1][:2] == ("close", 4000 if end else 1006)


def test_what_nobody_wants_to_read_is_dropped_in_the_end(gate, dial):
    watchdog, address = gate(close_timeout=0.4)
    sock, fd = dial(watchdog)
    sock.sendall(frame(b"one") + frame(b"\x0f\xa0bye", CLOSE))
    sock.close()
    until(lambda: len(watchdog.told) == 2)
    assert watchdog.told[1] == ("close", 4000, "bye")
    assert watchdog.data == []


def test_a_peer_that_leaves_once_it_is_accepted_is_not_looked_after(gate, dial):
    watchdog, address = gate(close_timeout=0.05)
    sock, fd = dial(watchdog)
    skynet.call(address, "accept", fd)
    sock.sendall(frame(b"hold") + frame(b"two"))
    sock.close()
    until(lambda: watchdog.data == ["hold"])
    gevent.sleep(0.06)  # it could have been sent away by now
    watchdog.held.set()
    until(lambda: len(watchdog.told) == 2)
    assert watchdog.data == ["hold", "two"]


def test_a_descriptor_that_is_used_again_is_somebody_elses(gate, dial):
    """The kernel's number of a connection that was kicked is the next one's."""
    watchdog, address = gate(close_timeout=0.05)
    numbers = set()
    for _ in range(5):
        sock, fd = dial(watchdog)
        numbers.add(fd.stream.fileno())
        skynet.call(address, "kick", fd)
        sock.close()
    until(lambda: len(watchdog.told) == 10)
    sock, fd = dial(watchdog)
    assert fd.stream.fileno() in numbers
    turns()
    assert len(watchdog.told) == 11
    sock.close()
    until(lambda: len(watchdog.told) == 12)


# --------------------------------------------------------------------------------------------------- forwarding


def test_messages_go_straight_to_the_agent(gate, connect):
    watchdog, address = gate()
    client, fd = connect(watchdog)
    agent, it = agent_of(address)
    skynet.call(address, "forward", fd, agent)
    client.write("echo")
    assert client.read() == f"echo by {agent}"
    assert (it.log, watchdog.data) == (["echo"], [])
    (stat,) = [service for service in skynet.services() if service.address == agent]
    assert stat.messages >= 2  # the forward, and the message


def test_a_look_at_an_agent_tells_what_it_waits_for(gate, connect):
    watchdog, address = gate()
    client, fd = connect(watchdog)
    agent, _ = agent_of(address)
    skynet.call(address, "forward", fd, agent)
    client.write("echo")
    client.read()
    turns()
    assert skynet.look(agent).greenlets == [(f"{agent} Agent.message", f"a message of {fd!r}")]


def test_a_wait_while_a_message_is_handled_is_no_time_of_the_agents(gate, connect):
    watchdog, address = gate()
    client, fd = connect(watchdog)
    agent, _ = agent_of(address)
    skynet.call(address, "forward", fd, agent)
    client.write("nap 0.2")
    client.write("echo")
    client.read()
    assert skynet.look(agent).time < 0.1


class Reader:
    """A service that reads a connection by itself, and computes for a twentieth of a second at each message."""

    def read(self, fd):
        for _ in fd:
            begun = perf_counter()
            while perf_counter() - begun < 0.05:
                pass
            fd.write("done")


def test_what_is_done_with_a_message_is_the_time_of_who_reads_it(connect):
    reader, server = skynet.newservice(Reader), Server()
    server.on("connection", lambda fd, addr: (skynet.send(reader, "read", fd), fd.ended.wait()))
    server.start(port=0)
    client = gws.client.connect("127.0.0.1", server.port)
    for _ in range(3):
        client.write("")
        client.read()
    assert skynet.look(reader).time > 0.14
    client.close()
    server.stop(timeout=0)


def test_an_agent_is_followed_while_it_reads(gate, connect):
    watchdog, address = gate()
    client, fd = connect(watchdog)
    agent, _ = agent_of(address)
    skynet.call(address, "forward", fd, agent)
    lines = []
    leave = skynet.follow(agent, lines.append)
    client.write("echo")
    client.read()
    until(lambda: len(lines) == 2)
    assert lines[0] == f"#1 begins: {agent} Agent.message, sent by {address} Gate"
    leave()
    client.write("echo")
    client.read()
    assert len(lines) == 2


def test_an_agent_may_speak_as_a_watchdog_does(gate, connect):
    class SpeaksSo:
        def socket_data(self, fd, msg):
            fd.write(f"heard {msg}")

    class SpeaksBoth(SpeaksSo):
        def message(self, fd, msg):
            fd.write(f"got {msg}")

    watchdog, address = gate()
    client, fd = connect(watchdog)
    for agent, answer in ((SpeaksSo, "heard it"), (SpeaksBoth, "got it")):
        skynet.call(address, "forward", fd, skynet.newservice(agent))
        client.write("it")
        assert client.read() == answer


def test_an_agent_may_ask_for_its_connection(gate, connect):
    watchdog, address = gate()
    client, fd = connect(watchdog)
    agent, _ = agent_of(address)
    skynet.call(agent, "take", fd)
    client.write("echo")
    assert client.read() == f"echo by {agent}"


def test_what_came_before_the_forward_comes_in_order(gate, connect):
    watchdog, address = gate()
    client, fd = connect(watchdog)
    for number in range(500):
        client.write(str(number))
    agent, it = agent_of(address)
    skynet.call(address, "forward", fd, agent)
    until(lambda: it.log == [str(number) for number in range(500)])


def test_the_next_message_is_read_when_the_one_before_has_been_handled(gate, connect):
    watchdog, address = gate()
    client, fd = connect(watchdog)
    other, other_fd = connect(watchdog)
    agent, it = agent_of(address)
    for each in (fd, other_fd):
        skynet.call(address, "forward", each, agent)
    for message in ("wait", "one", "two"):
        client.write(message)
    until(lambda: it.log == ["wait"])
    other.write("echo")
    assert other.read() == f"echo by {agent}"  # that of another connection does not wait
    assert it.log == ["wait", "echo"]
    it.go.set()
    until(lambda: it.log == ["wait", "echo", "one", "two"])


def test_a_command_may_read_on_by_itself(gate, connect):
    watchdog, address = gate()
    client, fd = connect(watchdog)
    agent, it = agent_of(address)
    skynet.call(address, "forward", fd, agent)
    for message in ("read", "one", "echo"):
        client.write(message)
    assert client.read() == f"echo by {agent}"
    assert (it.log, it.late) == (["read", "echo"], ["one"])


def test_the_time_that_an_agent_takes_is_its_own(gate, connect):
    watchdog, address = gate()
    client, fd = connect(watchdog)
    agent, _ = agent_of(address)
    skynet.call(address, "forward", fd, agent)

    def taken():
        (stat,) = [service for service in skynet.services() if service.address == agent]
        return stat.time

    at_first = taken()
    gevent.sleep(0.01)
    assert taken() - at_first < 0.01  # it does nothing
    begun = perf_counter()
    client.write("work")
    client.read()
    assert 0.01 <= taken() - at_first <= perf_counter() - begun


def test_a_message_that_fails_is_logged_and_the_next_is_handled(gate, connect, caplog):
    watchdog, address = gate()
    client, fd = connect(watchdog)
    agent, _ = agent_of(address)
    skynet.call(address, "forward", fd, agent)
    client.write("fail")
    client.write("echo")
    assert client.read() == f"echo by {agent}"
    assert f"{agent} Agent.message, sent by {address} Gate, failed" in caplog.text
    assert "as it was told" in caplog.text


def test_an_agent_that_writes_too_late_is_not_told_off(gate, connect, caplog):
    watchdog, address = gate()
    client, fd = connect(watchdog)
    skynet.call(address, "forward", fd, agent_of(address)[0])
    client.write("late")
    assert end_of(client)[0] == 1000
    until(lambda: len(watchdog.told) == 2)
    assert caplog.text == ""


def test_a_timeout_that_nobody_has_closed_ends_the_connection(gate, connect, caplog):
    watchdog, address = gate()
    client, fd = connect(watchdog)
    skynet.call(address, "forward", fd, agent_of(address)[0])
    client.write("timeout")
    assert end_of(client)[0] == 1011
    assert "Timeout" in caplog.text


# -------------------------------------------------------------------------------------------------- changing hands


def test_an_agent_hands_its_connection_over_between_two_messages(gate, connect):
    """None is lost, doubled or reordered, though all of them came at once; each comes to whom it is for."""
    watchdog, address = gate()
    client, fd = connect(watchdog)
    agents = [agent_of(address) for _ in range(3)]
    addresses = [agent for agent, _ in agents]
    expected = [[], [], []]
    for number in range(60):
        has = number // 5 % 3
        words = f"to {addresses[(has + 1) % 3]}" if number % 5 == 4 else str(number)
        expected[has].append(words)
        client.write(words)
    skynet.call(address, "forward", fd, addresses[0])
    until(lambda: sum(len(it.log) for _, it in agents) == 60)
    assert [it.log for _, it in agents] == expected


def test_hand_over_while_messages_are_in_flight(gate, connect):
    watchdog, address = gate()
    client, fd = connect(watchdog)
    log = []
    agents = [agent_of(address, log)[0] for _ in range(3)]

    def talk():
        for number in range(2000):
            client.write(str(number))

    talking = gevent.spawn(talk)
    for number in range(500):
        skynet.call(address, "forward", fd, agents[number % 3])
        skynet.send(address, "forward", fd, agents[(number + 1) % 3])
        gevent.sleep(0)
    talking.join()
    until(lambda: len(log) == 2000)
    assert log == [str(number) for number in range(2000)]


def test_a_message_that_comes_as_its_reader_is_called_off(gate, connect, monkeypatch):
    """It goes to the new agent, ahead of all others."""
    watchdog, address = gate()
    client, fd = connect(watchdog)
    (old, before), (new, after) = agent_of(address), agent_of(address)
    skynet.call(address, "forward", fd, old)
    client.write("first")
    until(lambda: before.log == ["first"])
    monkeypatch.setattr(reading.Reader, "interrupt", lambda self: None)  # it comes too late
    skynet.call(address, "forward", fd, new)
    for message in ("second", "third"):
        client.write(message)
    until(lambda: after.log == ["second", "third"])
    assert before.log == ["first"]


def test_forward_twice_at_once(gate, connect):
    watchdog, address = gate()
    client, fd = connect(watchdog)
    (first, _), (second, between), (third, it) = (agent_of(address) for _ in range(3))
    skynet.call(address, "forward", fd, first)
    turns()
    skynet.send(address, "forward", fd, second)
    skynet.send(address, "forward", fd, third)
    client.write("echo")
    assert client.read() == f"echo by {third}"
    assert (between.log, it.log) == ([], ["echo"])


def test_forward_to_the_one_that_has_it(gate, connect):
    watchdog, address = gate()
    client, fd = connect(watchdog)
    agent, _ = agent_of(address)
    for _ in range(3):
        skynet.call(address, "forward", fd, agent)
        client.write("echo")
        assert client.read() == f"echo by {agent}"


def test_from_the_watchdog_to_an_agent_and_back(gate, connect):
    """Whoever has it may give it away in the middle of a message: the next comes when that is done."""
    watchdog, address = gate()
    client, fd = connect(watchdog)
    agent, it = agent_of(address)
    skynet.call(address, "accept", fd)
    for message in ("hold", "wait", "back"):
        client.write(message)
    until(lambda: watchdog.data == ["hold"])
    skynet.call(address, "forward", fd, agent)
    turns()
    assert it.log == []
    watchdog.held.set()
    until(lambda: it.log == ["wait"])
    skynet.call(address, "accept", fd)
    it.go.set()
    until(lambda: watchdog.data == ["hold", "back"])
    assert it.log == ["wait"]


def test_the_agent_that_gave_it_away_may_end(gate, connect):
    watchdog, address = gate()
    client, fd = connect(watchdog)
    (old, _), (new, it) = agent_of(address), agent_of(address)
    skynet.call(address, "forward", fd, old)
    turns()
    skynet.send(address, "forward", fd, new)
    skynet.kill(old)
    client.write("echo")
    assert client.read() == f"echo by {new}"
    third, _ = agent_of(address)
    client.write("wait")
    until(lambda: it.log == ["echo", "wait"])
    skynet.call(address, "forward", fd, third)
    skynet.kill(new)  # in the middle of a message
    it.go.set()
    client.write("echo")
    assert client.read() == f"echo by {third}"


def test_a_message_that_its_agent_still_handles_as_it_ends_is_seen_through(gate, connect):
    """The connection is another's already: nobody would miss the agent, but the client its answer."""
    watchdog, address = gate()
    client, fd = connect(watchdog)
    (old, it), (new, after) = agent_of(address), agent_of(address)
    skynet.call(address, "forward", fd, old)
    for message in ("answer", "echo"):
        client.write(message)
    until(lambda: it.log)
    skynet.call(address, "forward", fd, new)
    skynet.kill(old)
    turns()
    assert after.log == []
    it.go.set()
    assert client.read() == "the answer"
    assert client.read() == f"echo by {new}"


def test_a_message_that_is_not_done_in_time_takes_its_connection_with_it(gate, connect):
    watchdog, address = gate(close_timeout=0.05)
    client, fd = connect(watchdog)
    (old, it), (new, after) = agent_of(address), agent_of(address)
    skynet.call(address, "forward", fd, old)
    for message in ("answer", "echo"):
        client.write(message)
    until(lambda: it.log)
    skynet.call(address, "forward", fd, new)
    skynet.kill(old)
    assert end_of(client) == (1011, "the agent has ended")
    until(lambda: len(watchdog.told) == 2)
    assert after.log == []


def test_a_message_that_ends_with_its_agent_takes_the_connection_along_whoever_gets_it(gate, connect):
    """Or else the client would miss one answer, and have all others."""
    watchdog, address = gate()
    client, fd = connect(watchdog)
    (old, it), (new, after) = agent_of(address), agent_of(address)
    skynet.call(address, "forward", fd, old)
    for message in ("answer", "echo"):
        client.write(message)
    until(lambda: it.log)
    skynet.kill(old)
    with pytest.raises(CallFailed, match=r"ConnectionClosed\(1011, 'its agent has ended'\)"):
        skynet.call(address, "forward", fd, new)  # in the same turn
    assert end_of(client) == (1011, "the agent has ended")
    assert after.log == []


def test_a_command_that_reads_by_itself_ends_with_its_agent(gate, connect):
    """What comes next is for whoever has the connection."""
    watchdog, address = gate()
    client, fd = connect(watchdog)
    (old, it), (new, _) = agent_of(address), agent_of(address)
    skynet.call(address, "forward", fd, old)
    client.write("read")
    until(lambda: it.log)
    turns()
    skynet.call(address, "forward", fd, new)
    skynet.kill(old)
    turns()
    client.write("echo")
    assert client.read() == f"echo by {new}"
    assert it.late == []


def test_kick_while_the_connection_changes_hands(gate, connect):
    watchdog, address = gate()
    client, fd = connect(watchdog)
    (old, _), (new, _) = agent_of(address), agent_of(address)
    skynet.call(address, "forward", fd, old)
    skynet.send(address, "kick", fd, 4000, "enough")
    skynet.send(address, "forward", fd, new)
    assert end_of(client) == (4000, "enough")
    until(lambda: len(watchdog.told) == 2)


# ------------------------------------------------------------------------------------------------ agents that end


@pytest.mark.parametrize("how", ["kill", "exit", "waiting"])
def test_an_agent_that_ends_takes_only_its_connection_with_it(gate, connect, how):
    watchdog, address = gate()
    clients = [connect(watchdog) for _ in range(2)]
    agents = [agent_of(address)[0] for _ in range(2)]
    for (_, fd), agent in zip(clients, agents):
        skynet.call(address, "forward", fd, agent)
    turns()
    (dying, _), (other, _) = clients
    if how == "exit":
        dying.write("exit")
    else:
        if how == "waiting":
            dying.write("wait")
            until(lambda: Agent.made[0].log)
        skynet.kill(agents[0])
    assert end_of(dying) == (1011, "the agent has ended")
    until(lambda: watchdog.told[-1][:2] == ("close", 1011))
    other.write("echo")
    assert other.read() == f"echo by {agents[1]}"


def test_an_agent_that_ends_before_it_has_read_anything(gate, connect):
    watchdog, address = gate()
    client, fd = connect(watchdog)
    agent, _ = agent_of(address)
    skynet.send(address, "forward", fd, agent)
    gevent.get_hub().loop.run_callback(lambda: gevent.get_hub().loop.run_callback(skynet.kill, agent))
    assert end_of(client) == (1011, "the agent has ended")


def test_an_agent_that_ends_while_it_gives_the_connection_away(gate, connect):
    watchdog, address = gate()
    client, fd = connect(watchdog)
    (old, _), (new, _) = agent_of(address), agent_of(address)
    skynet.call(address, "forward", fd, old)
    turns()
    skynet.send(address, "forward", fd, new)
    gevent.get_hub().loop.run_callback(skynet.kill, new)
    assert end_of(client) == (1011, "the agent has ended")


@pytest.mark.parametrize("how", ["before", "reads", "hand-over"])
def test_an_agent_that_a_connection_is_entrusted_to_takes_it_along(gate, connect, how):
    watchdog, address = gate()
    client, fd = connect(watchdog)
    agent, _ = agent_of(address)
    if how == "reads":
        skynet.call(address, "accept", fd)
    skynet.call(address, "entrust", fd, agent)
    if how == "hand-over":
        skynet.call(address, "entrust", fd, agent_of(address)[0])
        skynet.kill(agent)
        turns()
        assert not fd.closed
        agent = Agent.made[-1].home
    skynet.kill(agent)
    assert end_of(client) == (1011, "the agent has ended")


def test_an_agent_that_has_given_away_what_was_entrusted_to_it(gate, connect):
    watchdog, address = gate()
    client, fd = connect(watchdog)
    (old, _), (new, _) = agent_of(address), agent_of(address)
    skynet.call(address, "entrust", fd, old)
    skynet.call(address, "forward", fd, new)
    skynet.kill(old)
    client.write("echo")
    assert client.read() == f"echo by {new}"


@pytest.mark.parametrize("agent", [":0", None])
def test_entrust_needs_an_agent(gate, connect, agent):
    watchdog, address = gate()
    _, fd = connect(watchdog)
    assert isinstance(outcome(skynet.call, address, "entrust", fd, agent).__cause__, (ServiceExited, ValueError))


def test_a_message_that_comes_in_the_turn_in_which_its_agent_ends(gate, connect, monkeypatch):
    """The agent is dead, but its reader has not heard of it: the message is for whoever gets the connection next."""
    watchdog, address = gate()
    client, fd = connect(watchdog)
    (old, before), (new, after) = agent_of(address), agent_of(address)
    skynet.call(address, "forward", fd, old)
    client.write("first")
    until(lambda: before.log == ["first"])
    stops = []
    monkeypatch.setattr(reading.Reader, "stop", lambda self: stops.append(self))  # it hears of it late
    monkeypatch.setattr(reading.Reader, "abandon", lambda self: stops.append(self))
    skynet.kill(old)
    for message in ("second", "echo"):
        client.write(message)
    until(lambda: not fd.waiting)
    skynet.call(address, "forward", fd, new)
    assert client.read() == f"echo by {new}"
    assert (before.log, after.log) == (["first"], ["second", "echo"])
    assert stops


def test_a_connection_that_gets_another_agent_in_the_turn_in_which_its_own_ends(gate, connect):
    watchdog, address = gate()
    client, fd = connect(watchdog)
    (old, _), (new, _) = agent_of(address), agent_of(address)
    skynet.call(address, "forward", fd, old)
    turns()
    skynet.kill(old)
    skynet.send(address, "forward", fd, new)
    client.write("echo")
    assert client.read() == f"echo by {new}"


# ------------------------------------------------------------------------------------------------------ bad input


def test_a_connection_that_is_gone(gate, connect):
    watchdog, address = gate()
    client, fd = connect(watchdog)
    skynet.call(address, "kick", fd, 4000, "enough")
    assert end_of(client) == (4000, "enough")
    until(lambda: fd.closed)
    for command in (("forward", fd, agent_of(address)[0]), ("accept", fd)):
        with pytest.raises(CallFailed, match=r"ConnectionClosed\(4000") as failed:
            skynet.call(address, *command)
        assert isinstance(failed.value.__cause__, ConnectionClosed)
    skynet.call(address, "kick", fd)  # it is gone, which was the point


@pytest.mark.parametrize("command", ["forward", "accept", "kick"])
def test_what_is_no_connection_of_this_gate(gate, connect, command):
    watchdog, _ = gate()
    _, fd = connect(watchdog)
    address = skynet.newservice("gws.gate")
    for each in ("nobody", fd):
        with pytest.raises(CallFailed, match="is no connection of this gate"):
            skynet.call(address, command, each)
    assert not fd.closed


@pytest.mark.parametrize(
    ("agent", "kind", "words"),
    [
        (":0", ServiceExited, "there is no service ':0'"),
        ("gate", CallFailed, "Gate.message: no such command; there are: accept, close"),
        (None, ValueError, "needs to know the agent"),
    ],
)
def test_an_agent_that_is_none(gate, connect, agent, kind, words):
    watchdog, address = gate()
    client, fd = connect(watchdog)
    with pytest.raises(CallFailed, match=words) as failed:
        skynet.call(address, "forward", fd, address if agent == "gate" else agent)
    assert isinstance(failed.value.__cause__, kind)
    agent, _ = agent_of(address)
    skynet.call(address, "forward", fd, agent)  # the connection is none the worse
    client.write("echo")
    assert client.read() == f"echo by {agent}"


@pytest.mark.parametrize(("code", "reason"), [(1006, ""), (99, ""), (1000, "r" * 124)])
def test_kick_refuses_what_no_close_may_carry(gate, connect, code, reason):
    watchdog, address = gate()
    client, fd = connect(watchdog)
    with pytest.raises(CallFailed):
        skynet.call(address, "kick", fd, code, reason)
    assert not fd.closed
