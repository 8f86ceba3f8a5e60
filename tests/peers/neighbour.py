"""python tests/peers/neighbour.py PORT   --   a client that behaves well; on SIGTERM it tells how long its echoes took.

Knows nothing of gws: it starts at once, and is slowed down by nothing but the server.
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


signal.signal(signal.SIGTERM, stop)
worst = echoes = 0
began = monotonic()
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as sock:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(HELLO)
    assert b" 101 " in sock.recv(4096)
    print("ready", flush=True)
    try:
        while True:
            began = monotonic()
            sock.sendall(b"\x81\x85\0\0\0\0hello")
            answer = sock.recv(4096)
            if answer == b"\x89\x04" + answer[2:6]:  # the server's keepalive
                sock.sendall(b"\x8a\x84\0\0\0\0" + answer[2:6])
                answer = answer[6:] or sock.recv(4096)
            assert answer == b"\x81\x05hello", answer
            worst, echoes, began = max(worst, monotonic() - began), echoes + 1, None
            sleep(0.005)
    except SystemExit:
        worst = max(worst, monotonic() - began if began else 0)  # the one that it still waits for
print(json.dumps({"worst": worst, "echoes": echoes}))
