"""simple-websocket, which flask-sock uses, on gevent's pywsgi: with_simple_websocket.py echo|fanout PORT."""

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402

from gevent.pywsgi import WSGIServer  # noqa: E402
from simple_websocket import ConnectionClosed, Server  # noqa: E402

room = set()


def echo(environ, start_response):
    ws = Server.accept(environ)
    try:
        while True:
            ws.send(ws.receive())
    except ConnectionClosed:
        return []


def fanout(environ, start_response):
    ws = Server.accept(environ)
    room.add(ws)
    try:
        while True:
            message = ws.receive()
            for member in list(room):
                member.send(message)
    except ConnectionClosed:
        return []
    finally:
        room.discard(ws)


load, port = sys.argv[1:]
app = {"echo": echo, "fanout": fanout}[load]
WSGIServer(("127.0.0.1", int(port)), app, log=None, backlog=4096).serve_forever()
