"""A WSGI application as gevent-websocket's users wrote them.

gunicorn -k geventwebsocket.gunicorn.workers.GeventWebSocketWorker plain_app:app
"""

from geventwebsocket import WebSocketError


def app(environ, start_response):
    ws = environ.get("wsgi.websocket")
    if ws is None:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"a page"]
    ws.send(type(ws).__module__)
    try:
        while True:
            ws.send(ws.receive())
    except WebSocketError:
        return []
