"""An echo in the manner of flask-sock's README; its only word about gevent is the first line.

gunicorn -k gevent echo_flask_sock:app
flask --app echo_flask_sock run
python echo_flask_sock.py PORT            werkzeug's server
python echo_flask_sock.py PORT pywsgi     gevent's
"""

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402

from flask import Flask, request  # noqa: E402
from flask_sock import Sock  # noqa: E402

app = Flask(__name__)
app.config["SOCK_SERVER_OPTIONS"] = {"ping_interval": 25, "subprotocols": ["b"]}
sock = Sock(app)


@app.route("/")
def index():
    return "a page"


@sock.route("/echo")
def echo(ws):
    ws.send(f"{type(ws).__module__} {ws.mode} {ws.subprotocol} {request.args.get('name')}")
    while True:
        data = ws.receive()
        if data == "close":
            break
        ws.send(data)


if __name__ == "__main__":
    port = int(sys.argv[1])
    if sys.argv[2:] == ["pywsgi"]:
        from gevent.pywsgi import WSGIServer

        WSGIServer(("127.0.0.1", port), app).serve_forever()
    app.run(port=port)
