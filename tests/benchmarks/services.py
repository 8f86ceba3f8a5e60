"""python tests/benchmarks/services.py: what a service costs, beside what gevent itself costs.

Each figure is the best of several rounds, and the rounds of what is compared take turns.
"""

from __future__ import annotations

import gc
import os
import time

import gevent
from gevent.queue import Queue

from gws import skynet

ROUNDS, NUMBER, SERVICES = 7, 10_000, 10_000


class Echo:
    """A service that answers, and one that passes the question on."""

    def __init__(self, further=None):
        self.further = further

    def echo(self, word):
        return word

    def pass_on(self, word):
        return skynet.call(self.further, "echo", word)

    def call_often(self, number):
        for _ in range(number):
            skynet.call(self.further, "echo", "word")


def queues():
    """There and back through two queues, to a greenlet that does nothing else."""

    def answer():
        for word in there:
            back.put(word)

    there, back = Queue(), Queue()
    answerer = gevent.spawn(answer)
    for _ in range(NUMBER):
        there.put("word")
        back.get()
    answerer.kill()


def call(address):
    for _ in range(NUMBER):
        skynet.call(address, "echo", "word")


def call_two(address):
    for _ in range(NUMBER):
        skynet.call(address, "pass_on", "word")


def send(address):
    for _ in range(NUMBER // 50):
        for _ in range(50):
            skynet.send(address, "echo", "word")
        gevent.sleep(0)


def seconds(func, *args):
    begun = time.perf_counter()
    func(*args)
    return time.perf_counter() - begun


def compare():
    """Print each round trip in microseconds, and as a multiple of that through two queues."""
    last = skynet.newservice(Echo)
    first = skynet.newservice(Echo, last)
    rows = {
        "two gevent.queue.Queue": (queues,),
        "call": (call, first),
        "call from a service": (skynet.call, first, "call_often", NUMBER),
        "call of a service that calls": (call_two, first),
        "send": (send, first),
    }
    best = dict.fromkeys(rows, 9e9)
    for _ in range(ROUNDS):
        for name, row in rows.items():
            best[name] = min(best[name], seconds(*row))
    unit = best["two gevent.queue.Queue"]
    for name, taken in best.items():
        print(f"{name:30} {taken / NUMBER * 1e6:6.2f} us {taken / unit:6.2f}")


def resident():
    """Return the bytes of memory in use."""
    gc.collect()
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def crowd():
    """Print what many services take to start, in memory, and to end."""
    before, addresses = resident(), []
    start = seconds(lambda: addresses.extend(skynet.newservice(Echo) for _ in range(SERVICES)))
    idle = resident() - before
    asked = seconds(lambda: [skynet.call(address, "echo", "word") for address in addresses])
    used = resident() - before
    end = seconds(lambda: [skynet.kill(address) for address in addresses])
    print(f"{SERVICES} services: start {start:.2f} s, {idle / SERVICES / 1024:.2f} KiB each", end=", ")
    print(f"one call to each {asked:.2f} s, {used / SERVICES / 1024:.2f} KiB each, end {end:.2f} s")


if __name__ == "__main__":
    compare()
    crowd()
