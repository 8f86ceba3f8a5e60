"""Whoever attacks a server, the server in a process of its own, and what is measured of it meanwhile."""

from __future__ import annotations

import contextlib
import json
import socket as stdlib
import struct
from time import monotonic

import gevent
from gevent import socket
from programs import PATIENCE, free_port, python

from gws import sockethelper
from gws.frame import CLOSE, FIN, RSV1, TEXT, decode_close, decode_header, encode_header
from gws.gauge import cpu

MIB = 1024 * 1024
HELLO = {
    "Host": "localhost",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}
DEFLATE = {"Sec-WebSocket-Extensions": "permessage-deflate"}


def hello(line="GET / HTTP/1.1", more="", **changes):
    """Encode an opening request; X_Y=... changes the header X-Y, None leaves it out; `more` are further lines."""
    fields = HELLO | {name.replace("_", "-"): value for name, value in changes.items()}
    return "".join(
        [line, "\r\n", *(f"{k}: {v}\r\n" for k, v in fields.items() if v is not None), more, "\r\n"]
    ).encode()


def wire(first, payload=b""):
    """Encode a frame, masked with zeros: it is quickly made."""
    return encode_header(first, len(payload), bytes(4)) + payload


def connect(port):
    """Return a gevent socket.   (gevent's own connect() would ask its resolver, in threads that stay for a while.)"""
    sock = socket.socket(fileno=sockethelper.connect("127.0.0.1", port).detach())
    sock.settimeout(PATIENCE)
    return sock


class Attacker:
    """A socket whose other end is the server's; what the server makes of it is told."""

    def __init__(self, port, data=None):
        self.sock = connect(port)
        self._data = b""
        if data is not None:
            self.send(data)

    def enter(self):
        """Read the 101."""
        assert self.status() == 101
        return self

    def send(self, data):
        """Send all of it, or as much as the server has patience for."""
        with contextlib.suppress(ConnectionError):
            self.sock.sendall(data)

    def head(self):
        """Read an answer's head."""
        while b"\r\n\r\n" not in self._data and self._receive():
            pass
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        return head

    def status(self):
        """Read an answer's head, and return its status; None if there is none."""
        head = self.head()
        return int(head.split()[1]) if head else None

    def frame(self):
        """Read a frame: (opcode, payload), or None at the end."""
        while (header := decode_header(self._data, masked=False, rsv=RSV1)) is None:
            if not self._receive():
                return None
        while len(self._data) < header.size + header.length:
            if not self._receive():
                return None
        payload = self._data[header.size : header.size + header.length]
        self._data = self._data[header.size + header.length :]
        return header.first & 0x0F, payload

    def verdict(self):
        """Read on to the server's Close, and return its code; None if the server just hangs up."""
        while (frame := self.frame()) is not None:
            if frame[0] == CLOSE:
                return decode_close(frame[1])[0]
        return None

    def rest(self):
        """Read until the server hangs up."""
        while self._receive():
            pass
        return self._data

    def _receive(self):
        with contextlib.suppress(ConnectionError):
            piece = self.sock.recv(256 * 1024)
            self._data += piece
            return bool(piece)
        return False

    def echo(self, text):
        """Be served like anybody."""
        self.send(wire(FIN | TEXT, text))
        assert self.frame() == (TEXT, text)

    def vanish(self):
        """Reset the connection."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class Target:
    """A server in a process of its own."""

    def __init__(self, program, port):
        self.program, self.port, self.pid = program, port, program._process.pid
        self._attackers = []

    def attack(self, data=None):
        """Connect, and say something."""
        attacker = Attacker(self.port, data)
        self._attackers.append(attacker)
        return attacker

    def enter(self, **changes):
        """Open a WebSocket."""
        return self.attack(hello(**changes)).enter()

    def held(self):
        """Ask the server what it holds."""
        with connect(self.port) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = b"".join(iter(lambda: sock.recv(65536), b""))
        return json.loads(answer.partition(b"\r\n\r\n")[2])

    def held_when_quiet(self, is_quiet):
        """Let the attackers go, and ask what the server holds until it is quiet, for as long as PATIENCE lasts."""
        while self._attackers:
            self._attackers.pop().sock.close()
        until = monotonic() + PATIENCE
        while not is_quiet(now := self.held()) and monotonic() < until:
            gevent.sleep(0.05)
        return now

    def spent(self):
        """Return the processor time that the server has taken so far, in seconds."""
        return cpu(self.pid)

    def memory(self, what):
        """Return VmRSS, or VmHWM (the most that VmRSS was), in bytes."""
        with open(f"/proc/{self.pid}/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith(what))

    def forget_the_most(self):
        with contextlib.suppress(OSError), open(f"/proc/{self.pid}/clear_refs", "w") as file:
            file.write("5")


@contextlib.contextmanager
def serving(kind, **options):
    """Run an echo server on the stream of that kind: a Target.   In the end it is told to stop, and stops well."""
    port = free_port()
    environment = {"GWS_PURE": "1"} if kind == "plain" else {}
    with python("tests/peers/counted.py", port, json.dumps(options), environment=environment) as program:
        program.wait_until_it_listens(port)
        target = Target(program, port)
        try:
            yield target
        finally:
            for attacker in target._attackers:
                attacker.sock.close()
        assert program.stop() == 0
        assert "Traceback" not in program.said
        assert "Assertion" not in program.said


@contextlib.contextmanager
def attacked(kind, most=64 * MIB, longest=0.5, **options):
    """Run a server that is about to be attacked, beside a neighbour who behaves well.

    However it is attacked: it takes no more than `most` bytes, the neighbour never waits longer than `longest` seconds (of
    the server's time: see there), and nothing of the attackers' stays.
    """
    with serving(kind, **options) as target, python("tests/peers/neighbour.py", target.port, target.pid) as neighbour:
        assert neighbour.read_line() == "ready\n"
        target.enter().echo(b"x" * 200_000)
        quiet = target.held_when_quiet(lambda held: held["open"] == 1)
        before = target.memory("VmRSS")
        target.forget_the_most()
        yield target
        held = target.held_when_quiet(lambda held: held == quiet)
        assert held == quiet, (held, quiet)
        took = target.memory("VmHWM") - before
        assert neighbour.stop() == 0, neighbour.said
        served = json.loads(neighbour.said.splitlines()[-1])
        assert took < most, took
        assert served["worst"] < longest, served
        assert served["waited"] < PATIENCE, served
        assert served["echoes"] > 0
