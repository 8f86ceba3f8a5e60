"""A server for a browser: an empty page and an echo on the port that is given; tells each end in a line of JSON."""

import json
import sys

import gws.server as server


@server.on("http")
def http(request):
    headers = {"Content-Type": "text/html; charset=utf-8"}
    if request.path == "/sandbox":  # its origin is "null"
        headers["Content-Security-Policy"] = "sandbox allow-scripts"
    return 200, headers, "<!doctype html><title>page</title>"


@server.on("message")
def message(fd, msg):
    """Send it back; but "close CODE REASON" closes, and "ping" pings."""
    if isinstance(msg, str) and msg.startswith("close "):
        _, code, reason = msg.split(" ", 2)
        fd.close(int(code), reason)
    elif msg == "ping":
        fd.ping(b"are you there?")
    else:
        fd.write(msg)


@server.on("pong")
def pong(fd, payload):
    if payload == b"are you there?":  # and no keepalive
        fd.write("it is there")


@server.on("disconnect")
def disconnect(fd, code, reason):
    print(json.dumps({"protocol": fd.protocol, "code": code, "reason": reason}), flush=True)


server.listen("127.0.0.1", int(sys.argv[1]), protocols=["v2.gws", "v1.gws"])
