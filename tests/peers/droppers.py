"""python tests/peers/droppers.py PORT CLIENTS SECONDS   --   connect, send 20 messages, drop without a Close; again.

Half of the clients reset their connections, half just close them; none reads to the end.
"""

import itertools
import socket as stdlib
import struct
import sys
from time import monotonic

import gevent
from gevent import socket

from gws import frame, handshake

port, clients, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
hello = handshake.upgrade_request("127.0.0.1", port, key=handshake.new_key())
messages = b"".join(frame.encode(b"message %d" % i, masked=True) for i in range(20))
done = itertools.count()
until = monotonic() + seconds


def drop(number):
    while True:
        with socket.create_connection(("127.0.0.1", port)) as sock:
            if number % 2:
                sock.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_LINGER, struct.pack("ii", 1, 0))
            sock.sendall(hello)
            sock.recv(64)
            sock.sendall(messages)
        next(done)
        if monotonic() >= until:
            return


crowd = [gevent.spawn(drop, number) for number in range(clients)]
while len(gevent.joinall(crowd, timeout=1, raise_error=True)) < clients:
    print("dropping")
print(next(done))
