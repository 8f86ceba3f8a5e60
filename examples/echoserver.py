"""python examples/echoserver.py [[--port] PORT]   --   send back whatever comes."""

import sys

import gws.server as server
from gws import websocket as ws


def connected(fd, addr):
    print("on connect:", fd, addr)


def message(fd, msg):
    ws.write(fd, msg)


def disconnected(fd, code, reason):
    print("on disconnect:", fd, code, reason)


server.on("connection", connected)
server.on("message", message)
server.on("disconnect", disconnected)

if __name__ == "__main__":
    server.listen(address="127.0.0.1", port=int(sys.argv[-1]) if len(sys.argv) > 1 else 8888)
