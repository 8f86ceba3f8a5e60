"""python tests/peers/neighbour.py PORT PID   --   a client that behaves well; on SIGTERM it tells how long its echoes took.

Knows nothing of gws: it starts at once, and is slowed down by nothing but the server, the process PID.  The time for
which either of them was kept waiting for a processor, by other processes, is nobody's fault and does not count.
"""

import json
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


def now():
    """Return the time, as it is for two processes that have processors for themselves."""
    return monotonic() - sum(kept_waiting(pid) for pid in ("self", sys.argv[2]))


def kept_waiting(pid):
    try:
        with open(f"/proc/{pid}/schedstat") as file:
            return int(file.read().split()[1]) / 1e9
    except OSError:  # a kernel that does not tell
        return 0


signal.signal(signal.SIGTERM, stop)
worst = echoes = 0
began = now()
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as sock:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(HELLO)
    assert b" 101 " in sock.recv(4096)
    print("ready", flush=True)
    try:
        while True:
            began = now()
            sock.sendall(b"\x81\x85\0\0\0\0hello")
            answer = sock.recv(4096)
            if answer == b"\x89\x04" + answer[2:6]:  # the server's keepalive
                sock.sendall(b"\x8a\x84\0\0\0\0" + answer[2:6])
                answer = answer[6:] or sock.recv(4096)
            assert answer == b"\x81\x05hello", answer
            worst, echoes, began = max(worst, now() - began), echoes + 1, None
            sleep(0.005)
    except SystemExit:
        worst = max(worst, now() - began if began else 0)  # the one that it still waits for
print(json.dumps({"worst": worst, "echoes": echoes}))
