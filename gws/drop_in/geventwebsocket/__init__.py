"""gevent-websocket 0.10.1, over gws.

`WebSocketHandler` for pywsgi, its WebSocket, `WebSocketServer`, `Resource` and its applications, WAMP, and the worker
for gunicorn are there, and so is each hook that a subclass may override, called in the same order.  Where
gevent-websocket broke RFC 6455, this does not.
"""

from __future__ import annotations

from gws.drop_in.geventwebsocket.exceptions import WebSocketError
from gws.drop_in.geventwebsocket.resource import Resource, WebSocketApplication
from gws.drop_in.geventwebsocket.server import WebSocketServer
from gws.drop_in.geventwebsocket.utils import VERSION, get_version

__version__ = get_version()

__all__ = ["VERSION", "Resource", "WebSocketApplication", "WebSocketError", "WebSocketServer", "get_version"]
