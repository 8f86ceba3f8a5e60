"""gevent-websocket's worker for gunicorn: gws's, with the handler of this library.   It alone loads gunicorn."""

from __future__ import annotations

from typing import Any

from gws.drop_in.geventwebsocket.handler import WebSocketHandler
from gws.worker import Handler, Worker

__all__ = ["GeventWebSocketWorker"]


class _Handler(WebSocketHandler, Handler):
    """Handles the requests of one socket in gunicorn's way, and gevent-websocket's."""

    def run_application(self) -> None:
        """Open a connection, or serve a plain request; each request counts for --max-requests.   Blocks."""
        self.server.worker.count()
        super().run_application()


class GeventWebSocketWorker(Worker):
    """gunicorn -k geventwebsocket.gunicorn.workers.GeventWebSocketWorker app."""

    wsgi_handler: Any = _Handler
