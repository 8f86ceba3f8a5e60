"""An echo on python-engineio, which speaks WebSocket by geventwebsocket if that can be imported.

python echo_engineio.py PORT
python echo_engineio.py PORT simple        by simple_websocket, as where there is no geventwebsocket
"""

import sys

import engineio
from gevent import pywsgi

if sys.argv[2:] == ["simple"]:
    WebSocketHandler = pywsgi.WSGIHandler
else:
    from geventwebsocket.handler import WebSocketHandler

eio = engineio.Server(async_mode="gevent", ping_interval=0.3, ping_timeout=2)
app = engineio.WSGIApp(eio)


@eio.on("connect")
def connect(sid, environ):
    ws = environ.get("wsgi.websocket")
    print("connect", sys.modules["simple_websocket"].__name__ if ws is None else type(ws).__module__, flush=True)


@eio.on("message")
def message(sid, data):
    eio.send(sid, data)


@eio.on("disconnect")
def disconnect(sid, reason):
    print("disconnect", reason, flush=True)


if __name__ == "__main__":
    pywsgi.WSGIServer(("127.0.0.1", int(sys.argv[1])), app, handler_class=WebSocketHandler).serve_forever()
