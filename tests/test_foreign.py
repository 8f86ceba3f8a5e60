"""Peers that others have written, real ones, in their own processes; each as a client of ours and as a server to us.

What is said of one is said of all: a peer obeys commands (tests/peers/commands.py), so each case is told once,
whichever side of the connection is ours.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import struct
import sys
from pathlib import Path

import gevent
import pytest
from gevent.event import Event
from gevent.queue import Queue
from programs import PATIENCE, Program, node

import gws.client
from gws.errors import ConnectionClosed
from gws.frame import BINARY, CLOSE, CONTINUATION, FIN, PING, TEXT, encode
from gws.server import Server

HERE = Path(__file__).parent / "peers"
PROTOCOLS = ["v2.gws", "v1.gws"]
MIB = 1024 * 1024


def python_package(module):
    """Return the command that runs Python, if there is such a package."""
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"the package {module} is not installed: pip install 'gevent-gws[test]'")
    return sys.executable


PEERS = {
    "websockets, threads, client": (python_package, "websockets", "websockets_sync.py"),
    "websockets, asyncio, client": (python_package, "websockets", "websockets_asyncio.py"),
    "websockets, asyncio, server": (python_package, "websockets", "websockets_asyncio.py"),
    "websocket-client, client": (python_package, "websocket", "websocket_client.py"),
    "ws, client": (node, "ws", "ws.mjs"),
    "ws, server": (node, "ws", "ws.mjs"),
}


class Foreigner:
    """A peer's process, in one role."""

    def __init__(self, program, name, role):
        self.program = program
        self.name = name
        self.role = role

    def begin(self, do, **command):
        """Have something done, and go on meanwhile."""
        self.program.write_line(json.dumps({"do": do, **command}))

    def answer(self):
        """Return the answer to what was begun."""
        answer = json.loads(self.program.read_line() or '{"failed": "it is gone"}')
        assert "failed" not in answer, answer
        return answer

    def ask(self, do, **command):
        """Have something done, and return the answer."""
        self.begin(do, **command)
        return self.answer()

    def send(self, *messages):
        self.ask("send", messages=[dump(message) for message in messages])

    def recv(self):
        return load(self.ask("recv"))

    def send_raw(self, data):
        self.ask("raw", base64=base64.b64encode(data).decode())

    def frame(self, first, payload=b""):
        """Return a frame as it must send it, but for what is wrong with `first` or `payload`."""
        data = encode(payload, masked=self.role == "client")
        return bytes([first]) + data[1:]


def dump(message):
    return {"text": message} if isinstance(message, str) else {"base64": base64.b64encode(message).decode()}


def load(message):
    return message["text"] if "text" in message else base64.b64decode(message["base64"])


@pytest.fixture(scope="module", params=PEERS)
def foreigner(request):
    """Each peer, running; a program serves many connections, one after the other."""
    find, module, script = PEERS[request.param]
    role = request.param.rpartition(" ")[2]
    with Program(find(module), HERE / script, role, stderr=False) as program:
        peer = Foreigner(program, request.param, role)
        if role == "server":
            peer.port = json.loads(program.read_line())["port"]
        yield peer


class Ours:
    """Our end of the connection: a server's fd, or a client."""

    def __init__(self, end, fd, heard):
        self.fd = fd
        self.read, self.write, self.close = end.read, end.write, end.close
        self.heard = heard  #: (event, value) of what came besides messages

    def read_the_end(self):
        """Read on to the end; return its code and reason."""
        try:
            while True:
                self.read()
        except ConnectionClosed as end:
            return end.code, end.reason


@pytest.fixture
def join(foreigner):
    """Return a function that joins the peer with us and returns our end; `foreigner.protocol` is what it agreed to."""
    endings = []

    def serve(protocols, offered, **options):
        server, arrived, finished, heard = Server(), Queue(), Event(), []
        server.on("connection", lambda fd, addr: (arrived.put(fd), finished.wait()))
        for event in ("ping", "pong"):
            server.on(event, lambda fd, value, event=event: heard.append((event, value)))
        server.start("127.0.0.1", 0, protocols=protocols, **options)
        endings.append(lambda: (finished.set(), server.stop(timeout=5)))
        foreigner.begin("connect", url=f"ws://127.0.0.1:{server.port}/path?query", protocols=offered)
        foreigner.protocol = foreigner.answer()["protocol"]
        fd = arrived.get()
        return Ours(fd, fd, heard)

    def call(protocols, offered, **options):
        client, heard = gws.client.new(), []
        for event in ("ping", "pong"):
            client.on(event, lambda value, event=event: heard.append((event, value)))
        client.connect(f"ws://127.0.0.1:{foreigner.port}/path?query", protocols=offered, proxy=None, **options)
        endings.append(client.close)
        foreigner.protocol = foreigner.ask("accept")["protocol"]
        return Ours(client, client.fd, heard)

    def join(protocols=(), offered=(), **options):
        return (serve if foreigner.role == "client" else call)(list(protocols), list(offered), **options)

    with gevent.Timeout(PATIENCE):
        yield join
        foreigner.begin("drop")  # some are deaf to a Close while nobody asks them to receive
        foreigner.program.read_line()
        for end in endings:
            end()


# --------------------------------------------------------------------------------------------------------- messages

SIZES = [0, 1, 125, 126, 127, 65535, 65536, MIB]
MESSAGES = {
    **{f"{size} bytes of text": ("0123456789abcdef" * (size // 16 + 1))[:size] for size in SIZES},
    **{f"{size} binary bytes": (bytes(range(256)) * (size // 256 + 1))[:size] for size in SIZES},
    "text of all kinds": "aé—žluťoučký\u0000\n\u2028\u202e עברית 中文 👩\u200d👩\u200d👧 \ufeff\uffff\U0010ffff",
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_arrive_as_they_were_sent(foreigner, join, name):
    message = MESSAGES[name]
    ours = join()
    ours.write(message)
    assert foreigner.recv() == message
    foreigner.send(message)
    assert ours.read() == message


def test_a_burst_keeps_its_order(foreigner, join):
    ours = join()
    messages = [f"message {number}" for number in range(500)]
    foreigner.send(*messages)
    assert [ours.read() for _ in messages] == messages
    for message in messages:
        ours.write(message)
    assert [foreigner.recv() for _ in messages] == messages


@pytest.mark.parametrize(
    "pieces",
    [
        ["one ", "two ", "three"],
        ["", "", "x", ""],
        ["", ""],
        [b"\x00\xff", b"", b"\xfe" * 70_000],
        ["x" * 65536] * 16,
        [bytes([number]) for number in range(256)],
    ],
    ids=["text", "empty pieces", "nothing but empty pieces", "binary", "1 MiB in 16 pieces", "256 bytes in 256 pieces"],
)
def test_fragments_make_one_message(foreigner, join, pieces):
    ours = join()
    foreigner.ask("fragments", pieces=[dump(piece) for piece in pieces])
    foreigner.send("next")
    assert ours.read() == pieces[0][:0].join(pieces)
    assert ours.read() == "next"


def test_a_character_may_be_cut_by_fragments(foreigner, join):
    ours = join()
    whole = "žluťoučký 🐎".encode()
    cut = [whole[at : at + 1] for at in range(len(whole))]
    opcodes = [TEXT] + [CONTINUATION] * (len(cut) - 2) + [FIN | CONTINUATION]
    foreigner.send_raw(b"".join(map(foreigner.frame, opcodes, cut)))
    assert ours.read() == whole.decode()


# ------------------------------------------------------------------------------------------------------------ pings


@pytest.mark.parametrize("payload", ["", "are you there?", "x" * 125], ids=len)
def test_our_ping_is_answered(foreigner, join, payload):
    ours = join()
    foreigner.begin("recv")
    ours.fd.ping(payload)
    ours.write("go on")
    assert load(foreigner.answer()) == "go on"
    foreigner.send("behind the pong")
    assert ours.read() == "behind the pong"
    assert ours.heard == [("pong", payload.encode())]


@pytest.mark.parametrize("payload", ["", "are you there?", "x" * 125], ids=len)
def test_their_ping_is_answered(foreigner, join, payload):
    ours = join()
    reading = gevent.spawn(ours.read)
    foreigner.ask("ping", payload=payload)
    foreigner.send("behind the ping")
    assert reading.get() == "behind the ping"
    assert ours.heard == [("ping", payload.encode())]


# ---------------------------------------------------------------------------------------------------------- closing

ENDS = [
    (1000, ""),
    (1000, "bye"),
    (1001, "going"),
    (1011, "failed"),
    (3000, "x"),
    (4999, "žluťoučký ☃"),
    (4000, "r" * 123),
]


@pytest.mark.parametrize(("code", "reason"), ENDS)
def test_we_close(foreigner, join, code, reason):
    ours = join()
    foreigner.begin("recv")
    ours.close(code, reason)
    assert foreigner.answer() == {"closed": [code, reason]}
    assert ours.fd.closed
    # "When sending a Close frame in response, the endpoint typically echos the status code" (5.5.1): all but one do.
    assert ours.fd.code == (1000 if foreigner.name == "websocket-client, client" else code)


@pytest.mark.parametrize(("code", "reason"), ENDS)
def test_they_close(foreigner, join, code, reason):
    ours = join()
    reading = gevent.spawn(ours.read_the_end)
    assert foreigner.ask("close", code=code, reason=reason)["closed"][0] == code
    assert reading.get() == (code, reason)


def test_they_close_while_messages_of_ours_are_under_way(foreigner, join):
    ours = join()
    for number in range(10):
        ours.write(f"{number}")
    reading = gevent.spawn(ours.read_the_end)
    foreigner.begin("recv")
    assert load(foreigner.answer()) == "0"
    foreigner.send("last words")
    foreigner.send_raw(foreigner.frame(FIN | CLOSE, struct.pack("!H", 4001) + b"done"))
    assert reading.get() == (4001, "done")


def test_a_close_may_be_empty(foreigner, join):
    ours = join()
    foreigner.send_raw(foreigner.frame(FIN | CLOSE))
    assert ours.read_the_end() == (1005, "")


def test_they_vanish(foreigner, join):
    ours = join()
    foreigner.ask("drop")
    assert ours.read_the_end()[0] == 1006


# ---------------------------------------------------------------------------------- what they must never send (raw)

WRONG = {
    "RSV2": ([(FIN | 0x20 | TEXT, b"hi")], 1002),
    "RSV3 on a ping": ([(FIN | 0x10 | PING, b"")], 1002),
    "a reserved opcode": ([(FIN | 3, b"hi")], 1002),
    "a reserved control opcode": ([(FIN | 11, b"hi")], 1002),
    "a fragmented ping": ([(PING, b"hi")], 1002),
    "a ping of 126 bytes": ([(FIN | PING, b"x" * 126)], 1002),
    "nothing to continue": ([(FIN | CONTINUATION, b"hi")], 1002),
    "a message within another": ([(TEXT, b"a"), (FIN | BINARY, b"b")], 1002),
    "text that is not UTF-8": ([(FIN | TEXT, b"\xff\xfe")], 1007),
    "text that is cut short": ([(FIN | TEXT, "é".encode()[:1])], 1007),
    "a surrogate": ([(TEXT, b"ok"), (CONTINUATION, b"\xed\xa0\x80")], 1007),
    "a close of one byte": ([(FIN | CLOSE, b"\x03")], 1002),
    "the close code 1006": ([(FIN | CLOSE, b"\x03\xee")], 1002),
    "a reason that is not UTF-8": ([(FIN | CLOSE, b"\x03\xe8\xff")], 1007),
    "a message over the limit": ([(BINARY, b"x" * 600), (CONTINUATION, b"x" * 600)], 1009),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_and_ends_it(foreigner, join, case):
    frames, code = WRONG[case]
    ours = join(max_message=1000)
    reading = gevent.spawn(ours.read_the_end)
    foreigner.send_raw(b"".join(foreigner.frame(*frame) for frame in frames))
    closed, reason = foreigner.ask("recv")["closed"]
    assert closed == code
    assert reason
    foreigner.ask("drop")  # not all of them do that by themselves, and we would wait for it
    assert reading.get()[0] == code


def test_a_frame_with_the_wrong_masking_is_refused(foreigner, join):
    """ "The server MUST close the connection upon receiving a frame that is not masked. [...]  A client MUST close a
    connection if it detects a masked frame."  (section 5.1)
    """
    ours = join()
    reading = gevent.spawn(ours.read_the_end)
    foreigner.send_raw(encode(b"hi", TEXT, masked=foreigner.role == "server"))
    assert foreigner.ask("recv")["closed"][0] == 1002
    foreigner.ask("drop")
    assert reading.get()[0] == 1002


# ----------------------------------------------------------------------------------------------------- subprotocols


@pytest.mark.parametrize(
    ("offered", "agreed"),
    [
        ([], None),
        (["v1.gws"], "v1.gws"),
        (["v1.gws", "v2.gws"], "v1.gws"),
        (["unknown", "v2.gws"], "v2.gws"),
    ],
)
def test_subprotocols(foreigner, join, offered, agreed):
    ours = join(protocols=PROTOCOLS, offered=offered)
    assert ours.fd.protocol == agreed
    assert foreigner.protocol == agreed


def test_no_subprotocol_in_common(foreigner, join):
    """It is the client's choice whether it goes on without; browsers do not, and these two."""
    refusals = {"ws, client": "Server sent no subprotocol", "websocket-client, client": "Invalid WebSocket Header"}
    if foreigner.name in refusals:
        with pytest.raises(AssertionError, match=refusals[foreigner.name]):
            join(protocols=PROTOCOLS, offered=["unknown"])
    else:
        ours = join(protocols=PROTOCOLS, offered=["unknown"])
        assert ours.fd.protocol is foreigner.protocol is None
