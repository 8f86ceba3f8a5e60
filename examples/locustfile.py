"""locust -f examples/locustfile.py --headless -u 200 -r 50 -t 20s -H ws://127.0.0.1:8888   --   load on an echo server.

Each user has a connection of its own, by `gws.client`, which blocks that user's greenlet alone.  What users do is told
as Locust's statistics: how long it takes to connect, for an echo to come back, to close; and what fails.
(pip install locust)
"""

import random
import time
from contextlib import contextmanager

import gevent
from locust import User, between, task  # it patches the standard library; gws does not mind

import gws.client


class EchoUser(User):
    """Somebody who says something, listens to the echo, and thinks about it for a while."""

    host = "ws://127.0.0.1:8888"
    wait_time = between(0.1, 0.5)
    client = None

    @contextmanager
    def measured(self, name):
        """Report what happens within as one request; after a failure the next one has a new connection."""
        report = {"name": name, "response_length": 0, "exception": None}
        began = time.perf_counter()
        try:
            with gevent.Timeout(10, TimeoutError("no answer within 10 s")):
                yield report
        except Exception as error:
            report["exception"], lost, self.client = error, self.client, None
            if lost is not None:
                gevent.spawn(lost.close)  # if it is not closed already
        report["response_time"] = (time.perf_counter() - began) * 1000
        self.environment.events.request.fire(request_type="WS", context=self.context(), **report)

    @task
    def echo(self):
        message = "x" * random.choice((1, 128, 4096))
        if self.client is None:
            with self.measured("connect"):
                self.client = gws.client.connect(self.host)
            return
        with self.measured("echo") as report:
            self.client.write(message)
            report["response_length"] = len(answer := self.client.read())
            if answer != message:
                raise ValueError("another answer")

    def on_stop(self):
        if self.client is not None:
            with self.measured("close"):
                self.client.close()
