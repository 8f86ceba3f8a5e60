"""gws: with_gws.py echo|fanout|packed PORT.   GWS_PURE=1 chooses the stream in plain Python."""

import sys

import gws.server as server
from gws import websocket as ws

room = set()


def echo(fd, message):
    ws.write(fd, message)


def fanout(fd, message):
    ws.broadcast(room, message)


load, port = sys.argv[1:]
server.on("message", {"echo": echo, "fanout": fanout, "packed": echo}[load])
if load == "fanout":
    server.on("connection", lambda fd, addr: room.add(fd))
    server.on("disconnect", lambda fd, code, reason: room.discard(fd))
options = {} if load == "packed" else {"compression": None}
server.listen("127.0.0.1", int(port), max_message=64 * 1024 * 1024, **options)
