"""The app that test_worker has served: it answers in every way, and writes down what it was handed."""

import functools
import os
import signal

import gevent

from gws.worker import Worker


class Choosy(Worker.with_options(protocols=["mine"])):
    """A worker with options."""


class Patient(Worker):
    """A worker on a machine that may be slow: it waits for what is answered at all."""

    patience = 3600.0


class Early(Worker):
    """A worker that is told to stop before it has set up its signals."""

    def patch(self):
        """Patch as ever."""
        os.kill(os.getpid(), signal.SIGTERM)
        super().patch()


def app(environ, start_response):
    """Say which process this is; answer then, after so many seconds as the query says."""
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    ws = environ.get("wsgi.websocket")
    if ws is None:
        if path == "/slow":
            accepted("slow")
            gevent.sleep(0.5)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [path[1:].encode()]
    ws.send(str(os.getpid()))
    WAYS.get(path, answer)(ws, float(query or 0))
    return []


def answer(ws, seconds):
    while (message := ws.receive()) is not None:
        accepted(message)
        gevent.sleep(seconds) if seconds else None
        ws.send(message)


def other(ws, seconds):
    def later(message):
        gevent.sleep(seconds)
        ws.send(message)

    while (message := ws.receive()) is not None:
        accepted(message)
        gevent.spawn(later, message)


def who(ws, _):
    ws.close()


def never(ws, _):
    accepted(ws.receive())
    ws.ended.wait()


WAYS = {"/other": other, "/who": who, "/never": never}


def accepted(message):
    if len(message) < 100:
        os.write(_log(os.getpid()), f"{message}\n".encode())


@functools.cache
def _log(pid):
    return os.open(os.path.join(os.environ["GWS_ACCEPTED"], f"{pid}.accepted"), os.O_CREAT | os.O_APPEND | os.O_WRONLY)
