"""python tests/autobahn/server.py [PORT]   --   the echo server that the Autobahn testsuite judges.

It prints its URL; with port 0, or without any, the kernel chooses.
"""

import sys

import gevent

import gws.server as server
from gws import websocket as ws

LARGEST = 16 * 1024 * 1024  # bytes in the suite's largest message; all other options are what they are by default

server.on("message", ws.write)

if __name__ == "__main__":
    server.start("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 0, max_message=LARGEST)
    print(f"ws://127.0.0.1:{server.default.port}", flush=True)
    gevent.wait()
