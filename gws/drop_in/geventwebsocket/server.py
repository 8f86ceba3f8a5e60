"""gevent-websocket's server: pywsgi's, with a handler that opens WebSockets."""

from __future__ import annotations

from collections.abc import Callable
from logging import Logger
from typing import Any

from gevent.pywsgi import WSGIServer

from gws.drop_in.geventwebsocket.handler import WebSocketHandler
from gws.drop_in.geventwebsocket.logging import create_logger

__all__ = ["WebSocketServer"]


class WebSocketServer(WSGIServer):
    """A WSGI server; `pre_start_hook(handler)` may return true to have a request served as plain HTTP."""

    handler_class = WebSocketHandler
    debug_log_format = "%(levelname)s in %(module)s [%(pathname)s:%(lineno)d]: %(message)s"

    def __init__(
        self, *args: Any, debug: bool = False, pre_start_hook: Callable[[Any], Any] | None = None, **kwargs: Any
    ):
        self.debug = debug
        self.pre_start_hook = pre_start_hook
        self.clients: dict[Any, Any] = {}  #: by address: the connections that are open
        self._logger: Logger | None = None
        super().__init__(*args, **kwargs)

    @property
    def logger(self) -> Logger:
        """The server's log: to stderr with `debug`."""
        if self._logger is None:
            self._logger = create_logger("geventwebsocket.server", self.debug, self.debug_log_format)
        return self._logger
