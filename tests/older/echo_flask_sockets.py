"""An echo in the manner of flask-sockets' README.

gunicorn -k flask_sockets.worker echo_flask_sockets:app
python echo_flask_sockets.py PORT
"""

import sys

from flask import Flask
from flask_sockets import Sockets

app = Flask(__name__)
sockets = Sockets(app)


@app.route("/")
def index():
    return "a page"


@sockets.route("/echo")
def echo(ws):
    ws.send(type(ws).__module__)
    while not ws.closed:
        message = ws.receive()
        ws.send(message)


if __name__ == "__main__":
    from gevent import pywsgi
    from geventwebsocket.handler import WebSocketHandler

    pywsgi.WSGIServer(("127.0.0.1", int(sys.argv[1])), app, handler_class=WebSocketHandler).serve_forever()
