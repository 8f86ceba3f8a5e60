"""python tests/peers/gateway.py PORT: an echo through a gateway whose agents die, hand over and kick at random.

A plain HTTP request is answered with what is there, in JSON.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections import Counter
from contextlib import suppress

import gevent

from gws import skynet
from gws.errors import CallFailed
from gws.watchdog import Watchdog

ROOMS = 8
done = Counter()


class Agent:
    """It echoes what its clients say, and then does something or other."""

    mortality = 0.0005

    def __init__(self, gate=None):
        self.gate = gate

    def start(self, conf):
        self.gate, fd = conf["gate"], conf["client"]
        chance = random.random()
        if chance < 0.002:
            done["deaths before the forward"] += 1
            skynet.fork(skynet.exit)
            return
        if chance < 0.01:
            skynet.sleep(0.001)
        fd.data = skynet.self()
        skynet.call(self.gate, "forward", fd)

    def message(self, fd, msg):
        done["messages"] += 1
        fd.write(msg)
        chance = random.random()
        if chance < self.mortality:
            done["deaths"] += 1
            if chance < self.mortality / 2:
                hand_over(self.gate, fd)  # and the connection lives
            skynet.exit()
        elif chance < 0.001:
            kick(self.gate, fd)
        elif chance < 0.02:
            hand_over(self.gate, fd)
        elif chance < 0.03:
            skynet.sleep(0.001)

    def disconnect(self):
        pass


class Room(Agent):
    """It has many clients, which all go with it."""

    mortality = 0.00001


class Crowd(Watchdog):
    """A watchdog that keeps its rooms, and kicks and hands over at random, too."""

    def __init__(self):
        super().__init__(agent=Agent)
        skynet.fork(self.stir)

    def stir(self):
        while True:
            skynet.sleep(0.001)
            rooms[:] = filter(alive, rooms)
            while len(rooms) < ROOMS:
                rooms.append(skynet.newservice(Room, self.gate))
            for fd in random.sample(list(self.agents), min(3, len(self.agents))):
                hand_over(self.gate, fd)
            if self.agents and random.random() < 0.01:
                kick(self.gate, random.choice(list(self.agents)))


rooms = []


def alive(address):
    return any(service.address == address for service in skynet.services())


def hand_over(gate, fd):
    if fd.data is not None:  # its agent has started
        done["hand-overs"] += 1
        with suppress(CallFailed):  # the other one, or the connection, is gone
            skynet.call(gate, "forward", fd, random.choice([*rooms, fd.data]))


def kick(gate, fd):
    done["kicks"] += 1
    skynet.send(gate, "kick", fd, 4000, "out")


def tell(request):
    services = Counter(service.kind for service in skynet.services())
    return json.dumps({"services": services, "fds": len(os.listdir("/proc/self/fd")), "done": done})


if __name__ == "__main__":
    watchdog = skynet.newservice(Crowd)
    conf = {
        "port": int(sys.argv[1]),
        "http": tell,
        "compression": None,
        "handshake_timeout": 60,
    }  # the crowd has one CPU
    skynet.call(watchdog, "start", conf)
    gevent.wait()
