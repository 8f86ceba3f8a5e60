"""gws in gevent's WSGI server: with_gws_wsgi.py echo|fanout PORT."""

import sys

from gevent.pywsgi import WSGIServer

from gws import websocket
from gws.wsgi import WebSocketHandler

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
            websocket.broadcast(room, message)
    finally:
        room.discard(ws)
    return []


load, port = sys.argv[1:]
app = {"echo": echo, "fanout": fanout}[load]
handler = WebSocketHandler.with_options(max_message=64 * 1024 * 1024, compression=None)
WSGIServer(("127.0.0.1", int(port)), app, handler_class=handler, log=None, backlog=4096).serve_forever()
