"""gevent-websocket: with_gevent_websocket.py echo|fanout PORT."""

import sys

from gevent.pywsgi import WSGIServer
from geventwebsocket.handler import WebSocketHandler

room = set()


def echo(environ, start_response):
    ws = environ["wsgi.websocket"]
    while (message := ws.receive()) is not None:
        ws.send(message)
    return []


def fanout(environ, start_response):
    ws = environ["wsgi.websocket"]
    room.add(ws)
    try:
        while (message := ws.receive()) is not None:
            for member in list(room):
                member.send(message)
    finally:
        room.discard(ws)
    return []


load, port = sys.argv[1:]
app = {"echo": echo, "fanout": fanout}[load]
WSGIServer(("127.0.0.1", int(port)), app, handler_class=WebSocketHandler, log=None, backlog=4096).serve_forever()
