"""python tests/peers/neighbour.py PORT PID   --   a client that behaves well; on SIGTERM it tells how long its echoes took.

"worst" is what the server, whose process PID is, let it wait for one echo at most, in seconds: no more than the server's
processor time meanwhile, which was for others, and no more than the clock says, less the time for which the machine let
one of the two wait for a processor.   "waited" is by the clock.
Knows nothing of gws: it starts at once, and is slowed down by nothing but the server.
"""

import contextlib
import json
import os
import signal
import socket
import sys
from time import monotonic, sleep

HELLO = (
    b"GET / HTTP/1.1\r\nHost: neighbour\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def stop(*_):
    raise SystemExit


def read(path):
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return file.read()
    return b""  # there is none, or the server is gone


def look():
    """(the time, the server's processor time, the time for which it and we were kept from a processor), in seconds."""
    words = read(f"/proc/{sys.argv[2]}/stat").rpartition(b")")[2].split()
    spent = sum(map(int, words[11:13])) / os.sysconf("SC_CLK_TCK")
    delays = [(read(f"/proc/{pid}/schedstat").split() or [0, 0])[1] for pid in ("self", sys.argv[2])]
    return monotonic(), spent, sum(map(int, delays)) / 1e9


def count():
    """Count how long the echo has taken that is just there."""
    global worst, waited
    clock, spent, delayed = (now - then for now, then in zip(look(), began))
    worst, waited = max(worst, min(spent, clock - delayed)), max(waited, clock)


signal.signal(signal.SIGTERM, stop)
worst = waited = echoes = 0
began = None
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as sock:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(HELLO)
    assert b" 101 " in sock.recv(4096)
    print("ready", flush=True)
    try:
        while True:
            began = look()
            sock.sendall(b"\x81\x85\0\0\0\0hello")
            answer = sock.recv(4096)
            if answer == b"\x89\x04" + answer[2:6]:  # the server's keepalive
                sock.sendall(b"\x8a\x84\0\0\0\0" + answer[2:6])
                answer = answer[6:] or sock.recv(4096)
            assert answer == b"\x81\x05hello", answer
            count()
            echoes, began = echoes + 1, None
            sleep(0.005)
    except SystemExit:
        if began is not None:  # the one that it still waits for
            count()
print(json.dumps({"worst": worst, "waited": waited, "echoes": echoes}))
