"""A Flask-SocketIO app of the usual shape, written for gevent-websocket, which knows nothing of gws.

python flask_chat.py PORT
gunicorn flask_chat:app
"""

import os
import sys

from flask import Flask, request, session
from flask_socketio import SocketIO, close_room, disconnect, emit, join_room, leave_room, rooms, send

seconds = float(os.environ.get("PING_SECONDS", "20"))
app = Flask(__name__)
app.config["SECRET_KEY"] = "not much of one"
socketio = SocketIO(app, ping_interval=seconds, ping_timeout=seconds, max_http_buffer_size=500_000)


@app.route("/")
def index():
    return f"async mode: {socketio.async_mode}"


@socketio.event
def connect(auth):
    if auth == {"token": "wrong"}:
        return False
    session["count"] = 0
    emit("welcome", {"sid": request.sid, "transport": request.environ.get("wsgi.websocket") is not None})
    return True


@socketio.on("disconnect")
def gone(reason):
    print("disconnected", request.sid, reason, flush=True)


@socketio.event
def count():
    session["count"] += 1
    emit("counted", session["count"])


@socketio.event
def same(*args):
    return list(args)  # to the acknowledgement


@socketio.event
def everybody(data):
    emit("heard", data, broadcast=True)


@socketio.event
def join(room):
    join_room(room)
    emit("rooms", sorted(rooms(sid=request.sid), key=len)[:1])


@socketio.event
def leave(room):
    leave_room(room)
    emit("left", room)


@socketio.event
def tell(room, data):
    emit("told", data, to=room)


@socketio.event
def close(room):
    emit("closing", room, to=room)
    close_room(room)


@socketio.event
def later(data):
    def send_later():
        socketio.sleep(0.01)
        socketio.emit("later", data)

    socketio.start_background_task(send_later)


@socketio.on("message")
def message(data):
    send(data)


@socketio.on("message", namespace="/other")
def other(data):
    send({"other": data})


@socketio.event
def bye():
    disconnect()


if __name__ == "__main__":
    socketio.run(app, host="127.0.0.1", port=int(sys.argv[1]))
