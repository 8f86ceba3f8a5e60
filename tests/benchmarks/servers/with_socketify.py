"""socketify, which is uWebSockets (C++) under Python: with_socketify.py echo|fanout PORT."""

import sys

from socketify import App

app = App()


def enter(ws):
    ws.subscribe("room")


def echo(ws, message, opcode):
    ws.send(message, opcode)


def fanout(ws, message, opcode):
    app.publish("room", message, opcode)


load, port = sys.argv[1:]
options = {"compression": 0, "idle_timeout": 0, "max_payload_length": 64 * 1024 * 1024}
handlers = {"echo": {"message": echo}, "fanout": {"open": enter, "message": fanout}}[load]
app.ws("/*", options | handlers)
app.listen({"host": "127.0.0.1", "port": int(port)}, lambda config: None)
app.run()
