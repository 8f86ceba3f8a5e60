"""An echo on python-engineio, which speaks WebSocket by geventwebsocket if that can be imported.

python echo_engineio.py PORT
"""

import sys

import engineio
from gevent import pywsgi
from geventwebsocket.handler import WebSocketHandler

eio = engineio.Server(async_mode="gevent", ping_interval=0.2, ping_timeout=0.2)
app = engineio.WSGIApp(eio)


@eio.on("connect")
def connect(sid, environ):
    print("connect", type(environ["wsgi.websocket"]).__module__, flush=True)


@eio.on("message")
def message(sid, data):
    eio.send(sid, data)


@eio.on("disconnect")
def disconnect(sid, reason):
    print("disconnect", reason, flush=True)


if __name__ == "__main__":
    pywsgi.WSGIServer(("127.0.0.1", int(sys.argv[1])), app, handler_class=WebSocketHandler).serve_forever()
