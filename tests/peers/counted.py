"""python tests/peers/counted.py PORT   --   an echo server that tells over HTTP what it holds: GET /."""

import gc
import json
import os
import sys

from greenlet import greenlet

import gws.server as server


def count(request):
    gc.collect()
    live = [it for it in gc.get_objects() if isinstance(it, greenlet) and not it.dead]
    held = {"descriptors": len(os.listdir("/proc/self/fd")), "greenlets": len(live), "open": len(server.default.fds)}
    return 200, {"Content-Type": "application/json"}, json.dumps(held)


server.on("message", lambda fd, msg: fd.write(msg))
server.on("http", count)
server.listen(port=int(sys.argv[1]))
