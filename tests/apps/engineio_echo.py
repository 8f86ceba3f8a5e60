"""A python-engineio app of the usual shape, written for gevent-websocket, which knows nothing of gws.

python engineio_echo.py PORT
gunicorn engineio_echo:app
"""

import os
import sys

import engineio
from gevent import pywsgi

seconds = float(os.environ.get("PING_SECONDS", "20"))
eio = engineio.Server(ping_interval=seconds, ping_timeout=seconds, monitor_clients=False)


def page(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"async mode: gevent"]


app = engineio.WSGIApp(eio, page)


@eio.on("connect")
def connect(sid, environ):
    print("connected", sid, flush=True)
    eio.send(sid, "welcome")


@eio.on("message")
def message(sid, data):
    if data == "bye":
        eio.disconnect(sid)
    else:
        eio.send(sid, data)


@eio.on("disconnect")
def disconnect(sid, reason):
    print("disconnected", sid, reason, flush=True)


if __name__ == "__main__":
    try:
        from geventwebsocket.handler import WebSocketHandler

        options = {"handler_class": WebSocketHandler}
    except ImportError:
        options = {}
    pywsgi.WSGIServer(("127.0.0.1", int(sys.argv[1])), app, **options).serve_forever()
