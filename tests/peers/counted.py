"""python tests/peers/counted.py PORT [OPTIONS]   --   an echo server that tells over HTTP what it holds: GET /.

OPTIONS are those of listen(), in JSON.   With "tell", each disconnect is told on standard output.   Some texts are commands:
"join" and "all:..." are for broadcasts, "close" closes the connection that sent it, "close others" all others, "stop" stops the server,
"raise" raises, "block" sleeps for a minute, and "spawn" answers from a greenlet of its own.
"""

import gc
import json
import os
import sys

import gevent
from greenlet import greenlet

import gws.server as server
from gws import websocket as ws

port, options = int(sys.argv[1]), json.loads(sys.argv[2] if sys.argv[2:] else "{}")


def count(request):
    gc.collect()
    live = [it for it in gc.get_objects() if isinstance(it, greenlet) and not it.dead]
    held = {"descriptors": len(os.listdir("/proc/self/fd")), "greenlets": len(live), "open": len(server.default.fds)}
    return 200, {"Content-Type": "application/json"}, json.dumps(held)


room = set()


def join(fd):
    room.add(fd)
    fd.write("joined")


def close_others(fd):
    gevent.sleep(0.2)  # by now others may be here, too
    for other in list(server.default.fds - {fd}):
        other.close(1000, "the other one said so")
    fd.write("closed")


def fail(fd):
    raise LookupError("a handler's own fault")


COMMANDS = {
    "join": join,
    "close": lambda fd: fd.close(1000, "as you wish"),
    "close others": close_others,
    "stop": lambda fd: server.stop(),
    "raise": fail,
    "block": lambda fd: gevent.sleep(60),
    "spawn": lambda fd: gevent.spawn(fd.write, "spawned"),
}


def message(fd, msg):
    if isinstance(msg, str) and msg.startswith("all:"):
        ws.broadcast(room, msg)
    elif msg in COMMANDS:
        COMMANDS[msg](fd)
    else:
        fd.write(msg)


server.on("message", message)
server.on("disconnect", lambda fd, code, reason: room.discard(fd))
server.on("http", count)
if options.pop("tell", False):
    server.on("disconnect", lambda fd, code, reason: print("disconnect", code, reason, flush=True))
server.listen(options.pop("address", "127.0.0.1"), port, **options)
