"""A server in several processes, which gunicorn supervises: it forks them, replaces those that die, passes signals on.

Knows nothing of WSGI (`worker` does) nor of the command line (`serving` does).   TERM to the supervisor ends all of it,
HUP puts new processes in the place of the old ones; either way each connection gets 1001 and time for its goodbye.
Contract with `server`: it serves on a socket that is open already, and `stop()` says goodbye.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import gevent
from gevent.socket import wait_read
from gunicorn.app.base import Application
from gunicorn.arbiter import Arbiter
from gunicorn.errors import AppImportError, HaltServer
from gunicorn.workers.base import Worker

from gws.server import Server

__all__ = ["ServerWorker", "Supervisor", "run"]

Loaded = tuple[Server, dict[str, Any]]

_BEAT = 1.0  # seconds between signs of life to the supervisor


def run(
    load: Callable[[], Loaded],
    settings: dict[str, Any],
    *,
    config: str | None = None,
    ready: Callable[[Any], None] | None = None,
) -> None:
    """Serve until a signal ends it: by SystemExit, whatever the status.   Blocks.

    `load` makes the server and the options for its `start()`, in each process.  `settings` are gunicorn's, and come
    before those of the file `config`.  `ready` is called with the address once it is open.
    """
    supervisor = Supervisor(load, settings, config, ready)
    arbiter = Arbiter(supervisor)
    # USR2 starts all of it anew, with this command; what Python has made of `-m gws` is a file that cannot be run.
    arbiter.START_CTX["args"] = [sys.executable, "-m", "gws", *sys.argv[1:]]
    step: Callable[[], None] = arbiter.run
    while True:
        try:
            step()
        except HaltServer as halt:  # another process that could not begin, while it was halting for the first
            step = partial(arbiter.halt, halt.reason, halt.exit_status)


class Supervisor(Application):  # type: ignore[misc]  # gunicorn has no types
    """What gunicorn is told: the settings, and how a server is made."""

    def __init__(
        self,
        load: Callable[[], Loaded],
        settings: dict[str, Any],
        config: str | None,
        ready: Callable[[Any], None] | None,
    ):
        self._load = load
        self._settings = settings
        self._config = config
        self._ready = ready
        super().__init__()

    def load_config(self) -> None:
        """Tell gunicorn the settings; again when it reloads."""
        if self._config is not None:
            self.chdir()
            self.load_config_from_module_name_or_filename(self._config)
        ours = self._settings | {"worker_class": ServerWorker, "when_ready": self._when_ready}
        if "control_socket_disable" in self.cfg.settings:
            ours["control_socket_disable"] = True  # it would lie about in the working directory
        for name, value in ours.items():
            self.cfg.set(name, value)

    def _when_ready(self, arbiter: Arbiter) -> None:
        if self._ready is not None and arbiter.LISTENERS:
            self._ready(arbiter.LISTENERS[0].sock.getsockname())

    def load(self) -> Loaded:
        """Make the server; in the process that is to run it."""
        try:
            return self._load()
        except (ModuleNotFoundError, ValueError) as error:
            raise AppImportError(f"gws: {error}") from error


class ServerWorker(Worker):  # type: ignore[misc]
    """One process: a Server on the supervisor's socket, and its end."""

    wsgi: Any  # what load() gave
    server: Server | None = None

    def init_process(self) -> None:
        """Become a process of its own, with a loop of its own, and serve.   Blocks."""
        gevent.reinit()
        super().init_process()

    def run(self) -> None:
        """Serve until told to stop; then see the connections off.   Blocks."""
        if not isinstance(self.wsgi, tuple):  # with --reload: the program is no Python at the moment
            self._wait()
            return
        server, options = self.wsgi
        self.server = server
        server.start(sock=self.sockets[0].sock, **options)
        self._wait()
        beating = gevent.spawn(self._beat)
        # The supervisor kills what is left after the graceful timeout; by then whoever is left shall have been told.
        server.stop(1001, timeout=min(server.options.close_timeout, 0.8 * self.cfg.graceful_timeout))
        beating.kill()

    def _wait(self) -> None:
        """Wait for the end; each signal wakes us by a byte in the pipe, before its handler runs."""
        while self.alive and self.ppid == os.getppid():
            self.notify()
            try:
                wait_read(self.PIPE[0], timeout=_BEAT, timeout_exc=TimeoutError())
                os.read(self.PIPE[0], 4096)
            except (TimeoutError, BlockingIOError):
                continue

    def _beat(self) -> None:
        while True:
            self.notify()
            gevent.sleep(_BEAT)

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """End at once: with a Close, but without waiting for its answer."""
        self.alive = False
        gevent.spawn(self._quit)  # a handler must not block

    def _quit(self) -> None:
        self.cfg.worker_int(self)
        if self.server is not None:
            self.server.stop(1001, timeout=0)
