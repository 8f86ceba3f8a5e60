"""A gateway with a client that talks to it, and a console on the port that is given: python inside.py [TOKEN] PORT."""

import signal
import sys

import gevent
from gevent.event import Event

import gws.client
from gws import console, skynet


class Agent:
    """Sends everything back."""

    def start(self, conf):
        skynet.call(conf["gate"], "forward", conf["client"])

    def message(self, fd, msg):
        fd.write(msg)

    def disconnect(self):
        pass


def sleeper(name):
    """Make a class of services that sleep."""
    return type(name, (), {"nap": lambda self: skynet.sleep(600)})


def talk(port):
    client = gws.client.connect("127.0.0.1", port)
    while True:
        client.write("hello")
        client.read()
        gevent.sleep(0.01)


stopped = Event()
for number in (signal.SIGINT, signal.SIGTERM):
    gevent.signal_handler(number, stopped.set)
watchdog = skynet.newservice("gws.watchdog", agent=Agent)
address = skynet.call(watchdog, "start", {"address": "127.0.0.1", "port": 0, "ping_interval": 0.5})
for name in ("Sleeper", '<img src=x onerror="document.title=1">'):
    skynet.send(skynet.newservice(sleeper(name)), "nap")
talking = gevent.spawn(talk, address[1])
inside = console.start(int(sys.argv[-1]), token=sys.argv[1] if len(sys.argv) > 2 else None)
stopped.wait()
talking.kill()
inside.stop(timeout=1)
skynet.call(watchdog, "stop")
