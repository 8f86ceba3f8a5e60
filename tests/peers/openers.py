"""python tests/peers/openers.py PORT COUNT   --   open so many connections and drop them, as fast as it goes.

One in ten just opens and closes, the others ask for an upgrade and reset the connection, before or after its answer.
"""

import socket
import struct
import sys

port, count = int(sys.argv[1]), int(sys.argv[2])
HELLO = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
RESET = struct.pack("ii", 1, 0)
for number in range(count):
    with socket.create_connection(("127.0.0.1", port)) as sock:
        if number % 10:
            sock.sendall(HELLO)
            if number % 10 > 7:
                sock.recv(64)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    if not (number + 1) % 1000:
        print(number + 1, flush=True)
