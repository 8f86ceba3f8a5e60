"""python tests/peers/victim.py   --   a client with default options that goes wherever it is sent, and tells how it went.

A line of standard input is a URL; its answer is a line of JSON: {"messages": how many came, "bytes": of how many in all,
"end": "1009 ...", or the exception, "memory": the most that we took for it, in bytes}.
"""

import json
import sys

import gws.client
from gws.errors import ConnectionClosed, GwsError


def memory(what):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(what))


def visit(url):
    messages = size = 0
    try:
        client = gws.client.connect(url)
    except (GwsError, OSError) as error:
        return {"end": f"{type(error).__name__}: {error}"}
    try:
        while True:
            size += len(client.read())
            messages += 1
    except ConnectionClosed as error:
        return {"messages": messages, "bytes": size, "end": str(error)}
    finally:
        client.close()


for line in sys.stdin:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = memory("VmRSS")
    answer = visit(line.strip())
    print(json.dumps(answer | {"memory": memory("VmHWM") - before}), flush=True)
