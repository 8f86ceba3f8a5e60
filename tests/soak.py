"""python tests/soak.py [--minutes 30] [--plain]   --   a mixed load for a long while, and what is left of it.

On one server with default options, plain and TLS: echoes of all sizes, compressed and not, in fragments, pings between
them, peers that read slowly, peers that die.   It fails if a message is lost, reordered or altered on a connection that
stayed up, or if the server's memory, descriptors or greenlets are not where they began.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import ssl
import subprocess
import sys
import tempfile
from collections import Counter
from time import monotonic

import gevent
import trustme
from gevent import socket
from hostile import Attacker, hello, wire

import gws.client
from gws.frame import CONTINUATION, FIN, PING, TEXT

SERVER = """
import json, os, gc, sys
from greenlet import greenlet
from gws.server import Server

def held(request):
    gc.collect()
    live = [it for it in gc.get_objects() if isinstance(it, greenlet) and not it.dead]
    with open("/proc/self/status") as status:
        rss = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    return json.dumps({"rss": rss, "descriptors": len(os.listdir("/proc/self/fd")), "greenlets": len(live),
                       "open": len(plain.fds) + len(secure.fds)})

plain, secure = Server(), Server()
for server in plain, secure:
    server.on("message", lambda fd, message: fd.write(message))
    server.on("http", held)
secure.start(port=0, certfile=sys.argv[1])
plain.start(port=0)
print(plain.port, secure.port, flush=True)
plain._stopped.wait()
"""
ROUND = 200  # messages on a connection, before another one is made
SIZES = (0, 1, 100, 125, 126, 1000, 4096, 65535, 65536, 200_000, 1024 * 1024)
SLACK = 16 * 1024  # KiB that the server's memory may have grown by


class Soak:
    """The load: greenlets that each do one thing, over and over, until the time is over."""

    def __init__(self, plain, secure, context, seconds):
        self.plain, self.secure, self.context = plain, secure, context
        self.until = monotonic() + seconds
        self.done = Counter()

    def run(self):
        crowd = (
            [self.echo] * 6 + [self.secure_echo] * 3 + [self.raw, self.slow, self.slow, self.die, self.die, self.lie]
        )
        running = [gevent.spawn(each, random.Random(number)) for number, each in enumerate(crowd)]
        while len(gevent.joinall(running, timeout=10, raise_error=True)) < len(running):
            print(f"{max(0, self.until - monotonic()):5.0f} s left: {dict(self.done)}", flush=True)
            assert monotonic() < self.until + 120, "somebody waits for ever"

    def rounds(self):
        return iter(lambda: monotonic() < self.until, False)

    def echo(self, rng):
        for _ in self.rounds():
            compression = {} if rng.random() < 0.5 else {"compression": None}
            client = gws.client.connect("127.0.0.1", self.plain, **compression)
            self.converse(client, rng)
            client.close()
            self.done["connections"] += 1

    def secure_echo(self, rng):
        for _ in self.rounds():
            client = gws.client.connect(f"wss://localhost:{self.secure}", ssl=self.context)
            self.converse(client, rng)
            client.close()
            self.done["connections over TLS"] += 1

    def converse(self, client, rng):
        """Write on and on, and compare what comes back, in order."""
        sent = []

        def write():
            for number in range(ROUND):
                message = make(rng, number)
                sent.append(message)
                client.write(message)
                if rng.random() < 0.05:
                    client.ping()
                if rng.random() < 0.2:
                    gevent.sleep(rng.random() / 50)

        writing = gevent.spawn(write)
        for number in range(ROUND):
            message = client.read()
            assert message == sent[number], f"message {number} is not what was sent"
            sent[number] = None
            self.done["messages"] += 1
        writing.get()

    def raw(self, rng):
        """Fragments, with pings between them."""
        for _ in self.rounds():
            with contextlib.closing(self.knock().enter()) as peer:
                for number in range(ROUND):
                    pieces = [b"%d " % number * rng.randrange(200) for _ in range(rng.randrange(1, 20))]
                    peer.send(wire(TEXT, pieces[0]) + wire(FIN | PING, b"between"))
                    for piece in pieces[1:]:
                        peer.send(wire(CONTINUATION, piece))
                    peer.send(wire(FIN | CONTINUATION))
                    heard = [peer.frame(), peer.frame()]
                    assert heard[-1] == (TEXT, b"".join(pieces)), f"message {number} is not what was sent"
                    self.done["messages in fragments"] += 1

    def slow(self, rng):
        """Read slowly: nothing is lost of it, and nobody waits for us."""
        for _ in self.rounds():
            with contextlib.closing(self.knock().enter()) as peer:
                sent = [(b"%d " % number) * rng.randrange(100_000) for number in range(20)]
                writing = gevent.spawn(
                    lambda sent=sent, peer=peer: [peer.send(wire(FIN | TEXT, each)) for each in sent]
                )
                for each in sent:
                    gevent.sleep(rng.random() / 5)
                    assert peer.frame() == (TEXT, each), "a message to a slow peer is not what was sent"
                    self.done["messages to slow peers"] += 1
                writing.get()

    def die(self, rng):
        """Vanish: in the handshake, in a frame, with answers unread."""
        for _ in self.rounds():
            peer = self.knock()
            if rng.random() < 0.7:
                peer.enter()
                data = wire(FIN | TEXT, b"x" * rng.choice(SIZES[:-1]))
                with gevent.Timeout(0.2, False):
                    peer.send(data * rng.randrange(4) + data[: rng.randrange(len(data))])
            peer.vanish() if rng.random() < 0.5 else peer.close()
            self.done["deaths"] += 1
            gevent.sleep(rng.random() / 20)

    def lie(self, rng):
        """Break a rule, and be told so."""
        lies = [
            (b"\x81\x01x", 1002),
            (wire(0x83), 1002),
            (wire(FIN | TEXT, b"\xff"), 1007),
            (b"\x82\xff" + b"\x7f" * 8, 1009),
        ]
        for _ in self.rounds():
            data, code = rng.choice(lies)
            with contextlib.closing(self.knock().enter()) as peer:
                peer.send(data + bytes(8))
                assert peer.verdict() == code
            self.done["lies"] += 1
            gevent.sleep(0.05)

    def knock(self):
        peer = Attacker(self.plain, hello())
        peer.close = peer.sock.close
        return peer


def make(rng, number):
    """Make a message that no other one is taken for: text or binary, of any size."""
    size = rng.choice(SIZES) if rng.random() < 0.1 else rng.randrange(2000)
    if rng.random() < 0.5:
        return rng.randbytes(size)
    start = f"{number} {rng.random()} "
    return (start + "lorem ipsum " * (size // 12))[:size]


def held(port):
    with socket.create_connection(("127.0.0.1", port), 20) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    return json.loads(answer.partition(b"\r\n\r\n")[2])


def held_when_quiet(port, quiet=None):
    """Ask until nobody is there, and no more is held than `quiet`: half a minute at most."""
    until = monotonic() + 30
    while monotonic() < until:
        now = held(port)
        if not now["open"] and (
            quiet is None or all(now[each] <= quiet[each] for each in ("descriptors", "greenlets"))
        ):
            break
        gevent.sleep(0.2)
    return now


def soak(minutes, plain):
    with tempfile.TemporaryDirectory() as place:
        path, authority = os.path.join(place, "server.pem"), trustme.CA()
        authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        authority.configure_trust(context)
        environment = os.environ | ({"GWS_PURE": "1"} if plain else {})
        server = subprocess.Popen([sys.executable, "-c", SERVER, path], stdout=subprocess.PIPE, env=environment)
        try:
            ports = [int(word) for word in server.stdout.readline().split()]
            Soak(*ports, context, min(20, minutes * 12)).run()  # what is taken once for all is taken by now
            before = held_when_quiet(ports[0])
            print(f"before: {before}", flush=True)
            load = Soak(*ports, context, minutes * 60)
            load.run()
            after = held_when_quiet(ports[0], before)
            print(f"after: {after}; {dict(load.done)}")
            assert after["descriptors"] <= before["descriptors"], "descriptors were lost"
            assert after["greenlets"] <= before["greenlets"], "greenlets were left"
            assert after["rss"] <= before["rss"] + SLACK, "memory was lost"
        finally:
            server.send_signal(signal.SIGKILL)
            server.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--plain", action="store_true", help="the server on the plain stream")
    options = parser.parse_args()
    soak(options.minutes, options.plain)
    print("nothing was lost")
