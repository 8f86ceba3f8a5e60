"""python tests/benchmarks/gateway.py PORT: an echo through the gateway, from client to gate, agent and client."""

from __future__ import annotations

import sys

import gevent

from gws import skynet


class Agent:
    """A service that echoes what its client says."""

    def start(self, conf):
        skynet.call(conf["gate"], "forward", conf["client"])

    def message(self, fd, msg):
        fd.write(msg)

    def disconnect(self):
        pass


if __name__ == "__main__":
    watchdog = skynet.newservice("gws.watchdog", agent=Agent)
    skynet.call(watchdog, "start", {"address": "127.0.0.1", "port": int(sys.argv[1])})
    gevent.wait()
