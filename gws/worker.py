"""A gunicorn worker for WSGI apps with WebSockets: `gunicorn -k gws.worker.Worker app:app`.

Knows gunicorn, which is an extra (`pip install 'gevent-gws[gunicorn]'`) and imported by this room and `supervised`
alone: its gevent worker, with gws's handler.  A worker that has to stop (SIGTERM, SIGHUP to the master, --reload,
--max-requests) says so at once, and leaves as soon as its peers have answered.  Options go into a subclass, or into
gunicorn.conf.py:

    worker_class = gws.worker.Worker.with_options(origins="https://example.org")
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from time import monotonic
from typing import Any

import gevent
from gevent import socket
from gevent.pool import Pool
from gunicorn.http.wsgi import base_environ
from gunicorn.sock import ssl_context
from gunicorn.workers.ggevent import VERSION, GeventPyWSGIWorker, PyWSGIHandler, PyWSGIServer

from gws.leaving import PATIENCE, cut, leave
from gws.wsgi import WebSocketHandler

__all__ = ["Handler", "Worker"]

_TICK = 1.0  # seconds between two signs of life for the master


class Handler(WebSocketHandler, PyWSGIHandler):  # type: ignore[misc]
    """Handles the requests of one socket in gunicorn's way, and those for WebSocket in ours."""

    def run_application(self) -> None:
        """Answer a request for WebSocket, and call the app; each request counts for --max-requests.   Blocks."""
        worker: Worker = vars(self.server)["worker"]
        worker.count()
        super().run_application()


class Worker(GeventPyWSGIWorker):  # type: ignore[misc]
    """gunicorn's gevent worker, with connections in `environ["wsgi.websocket"]`."""

    server_class = PyWSGIServer
    wsgi_handler = Handler
    alive: bool
    _servers: Sequence[Any] = ()
    patience = PATIENCE  #: seconds that an app has for answering the message at hand, when the worker stops

    @classmethod
    def setup(cls) -> None:
        """Let an app that asks whether there is gevent-websocket, as python-engineio does, find gws.

        simple_websocket is gws even where the real one is installed, as it is with flask-sock: that would shake hands
        on its own, on a socket that is a connection's already.   gunicorn calls this when it has found the class,
        before it loads the app, wherever it does that.
        """
        drop_in = importlib.import_module("gws.drop_in")  # by its name, since it stands above us
        if not drop_in.installed():
            drop_in.install("geventwebsocket")
        if "simple_websocket" not in sys.modules:
            drop_in.prefer("simple_websocket")

    @classmethod
    def with_options(cls, **options: Any) -> type[Worker]:
        """Return a worker class whose handler has these options (see gws.wsgi.Options)."""
        return type(cls.__name__, (cls,), {"wsgi_handler": cls.wsgi_handler.with_options(**options)})

    def init_process(self) -> None:
        """Become a worker, and serve.   Blocks.

        A SIGTERM that comes before all is ready counts: until then signals would go where the master's go, into a queue
        that nobody reads in this process, and the master sends but one.
        """
        signal.signal(signal.SIGTERM, self.handle_exit)
        super().init_process()

    def run(self) -> None:
        """Serve until told to stop; leave then.   Blocks."""
        self._servers = [self._serve(sock) for sock in self.sockets]
        while self.alive:
            self.notify()
            self._wait()
        for server in self._servers:
            server.close()
        self._leave()

    def count(self) -> None:
        """Count a request."""
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Autorestarting worker after current request.")
            self.alive = False
            os.write(self.PIPE[1], b"1")

    def handle_quit(self, sig: int, frame: Any) -> None:
        """Stop at once (SIGQUIT, SIGINT): whoever is connected is still told so."""
        gevent.spawn(cut, self._servers)
        super().handle_quit(sig, frame)

    def _serve(self, sock: Any) -> Any:
        sock.setblocking(1)
        environ = base_environ(self.cfg) | {"wsgi.multithread": True, "SERVER_SOFTWARE": VERSION}
        server = self.server_class(
            sock,
            application=self.wsgi,
            spawn=Pool(self.worker_connections),
            log=self.log,
            handler_class=self.wsgi_handler,
            environ=environ,
            **({"ssl_context": ssl_context(self.cfg)} if self.cfg.is_ssl else {}),
        )
        server.worker = self
        server.start()
        return server

    def _wait(self) -> None:
        """Wait for a signal, or for the reloader: both write into the pipe.   Blocks for a tick at most."""
        with contextlib.suppress(TimeoutError):
            socket.wait_read(self.PIPE[0], _TICK)
            os.read(self.PIPE[0], 4096)

    def _leave(self) -> None:
        until = monotonic() + self.cfg.graceful_timeout
        leaving = gevent.spawn(leave, self._servers, patience=self.patience)
        while not leaving.ready() and monotonic() < until:
            self.notify()
            leaving.join(min(_TICK, max(0, until - monotonic())))
        if not leaving.ready():
            self.log.warning("Worker graceful timeout (pid:%s)", self.pid)
            cut(self._servers)
            for server in self._servers:
                server.stop(timeout=1)
