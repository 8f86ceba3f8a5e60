"""What goes on in this thread, as rows and figures: services, connections, what has gone over them, memory.

Reads both wings, and changes nothing.  Does not know who looks, nor how it is shown.
There may be ten thousand services and a hundred thousand connections: whatever walks along them rests after each spell,
and what it gives is bounded.
"""

from __future__ import annotations

import gc
import heapq
import os
import platform
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from time import monotonic
from typing import Any, NamedTuple, TypeVar

import gevent
from gevent import get_hub

import gws
from gws import skynet, stream
from gws.client import clients
from gws.errors import ServiceExited
from gws.gauge import memory
from gws.keepalive import watched
from gws.server import Server, servers
from gws.skynet import Stat
from gws.sockethelper import netloc
from gws.terminal import safe
from gws.websocket import WebSocket

__all__ = ["Connection", "connections", "count", "figures", "latencies", "memory_figures", "services", "spent"]

MOST = 100  # rows that are shown
WIDE = 300  # characters of anything that somebody else has named
GREENLETS = 5  # of each service
_SPELL, _REST = 0.002, 0.004  # seconds of walking, and of rest
_SAMPLE = 1000  # connections whose latency is looked at

_T = TypeVar("_T")


class Connection(NamedTuple):
    """A connection, as it is now."""

    number: int
    peer: str
    state: str
    messages_in: int
    messages_out: int
    bytes_in: int
    bytes_out: int
    pending: int  # bytes that the kernel has not taken yet
    latency: float | None  # seconds that the last answered keepalive ping took


def services(word: str = "", most: int = MOST) -> tuple[list[Stat], int]:
    """Return a look at the services whose address, class or names hold the word, and how many they are.   Blocks.

    If there are more, those with the longest mailboxes, or else the most time, are chosen; the oldest come first.
    """
    found = _Counted(stat for stat in _glances() if word in f"{stat.address} {stat.kind} {' '.join(stat.names)}")
    chosen = heapq.nlargest(most, found, key=lambda stat: (stat.mailbox, stat.time))
    looks = [_trim(look) for stat in _unhurried(chosen) if (look := _look(stat.address, GREENLETS))]
    return sorted(looks, key=lambda look: int(look.address[1:], 16)), found.count


def connections(word: str = "", most: int = MOST, but: Server | None = None) -> tuple[list[Connection], int]:
    """Return the connections whose number, peer or state hold the word, and how many they are.   Blocks.

    If there are more, those with the most bytes pending, or else the most traffic, are chosen; the oldest come first.
    Those of the server `but` are left out.
    """
    found = _Counted(fd for fd in _everyone(but) if not word or word in f"#{fd.number} {_peer(fd)} {fd.describe()}")
    chosen = heapq.nlargest(most, found, key=_weight)
    return [_connection(fd) for fd in sorted(chosen, key=lambda fd: fd.number)], found.count


def count(but: Server | None = None) -> tuple[int, int]:
    """Return how many services and connections there are.   Blocks."""
    return len(skynet.addresses()), sum(1 for _ in _everyone(but))


def latencies(but: Server | None = None) -> list[float]:
    """Return the latencies of the connections, of about a thousand at most, in ascending order.   Blocks."""
    found = _Counted(fd.latency for fd in _everyone(but) if fd.latency is not None)
    kept: list[float] = []
    step = 1
    for latency in found:
        if found.count % step == 0:
            kept.append(latency)
        if len(kept) >= 2 * _SAMPLE:
            kept, step = kept[1::2], 2 * step
    return sorted(kept)


def figures(but: Server | None = None) -> dict[str, Any]:
    """Return what there is to say of the whole process.   Blocks."""
    services, connections = count(but)
    messages_in, messages_out, bytes_in, bytes_out = stream.totals()
    kind = stream.Stream.__module__.rpartition(".")[2]
    return {
        "process": os.getpid(),
        "running for": time.time() - _born,
        "processor time": time.process_time(),
        "memory": (memory(os.getpid()) or 0) * 1024,
        "services": services,
        "connections": connections,
        "messages in": messages_in,
        "messages out": messages_out,
        "bytes in": bytes_in,
        "bytes out": bytes_out,
        "versions": f"gws {gws.__version__} ({kind}), gevent {gevent.__version__}, Python {platform.python_version()}",
        "loop": type(get_hub().loop).__module__.rpartition(".")[0],
    }


def memory_figures() -> dict[str, Any]:
    """Return what there is to say of memory."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    generations = gc.get_stats()
    return {
        "resident": (memory(os.getpid()) or 0) * 1024,
        "peak": peak * (1 if sys.platform == "darwin" else 1024),
        "blocks of Python's": sys.getallocatedblocks(),
        "tracked since the last collection": " / ".join(map(str, gc.get_count())),
        "collections": " / ".join(str(each["collections"]) for each in generations),
        "collected": sum(each["collected"] for each in generations),
        "uncollectable": sum(each["uncollectable"] for each in generations),
    }


def spent() -> float:
    """Return the seconds that all walks so far have taken, but for their rests."""
    return _spent


_born = time.time()
_spent = 0.0


class _Counted(Iterator[_T]):
    """Counts what is taken."""

    def __init__(self, things: Iterable[_T]):
        self._things = iter(things)
        self.count = 0

    def __next__(self) -> _T:
        thing = next(self._things)
        self.count += 1
        return thing


def _unhurried(things: Iterable[_T]) -> Iterator[_T]:
    """Yield things one by one, and rest after each spell, whoever takes them.   Blocks."""
    global _spent
    began = monotonic()
    for thing in things:
        took = monotonic() - began
        if took > _SPELL:
            _spent += took
            gevent.sleep(_REST)
            began = monotonic()
        yield thing
    _spent += monotonic() - began


def _glances() -> Iterator[Stat]:
    """Look at each service, but for its greenlets.   Blocks."""
    return (glance for address in _unhurried(skynet.addresses()) if (glance := _look(address, 0)))


def _look(address: str, most: int) -> Stat | None:
    try:
        return skynet.look(address, most)
    except ServiceExited:  # while we rested
        return None


def _trim(stat: Stat) -> Stat:
    names = tuple(_cut(name) for name in stat.names[:GREENLETS])
    greenlets = [(_cut(chain), _cut(what)) for chain, what in stat.greenlets]
    return stat._replace(kind=_cut(stat.kind), names=names, greenlets=greenlets)


def _cut(text: str) -> str:
    return safe(text if len(text) <= WIDE else f"{text[: WIDE - 1]}…")


def _everyone(but: Server | None) -> Iterator[WebSocket]:
    """Yield each open connection of this thread.   Blocks."""
    return (fd for fd in _unhurried(_candidates(but)) if not fd.closed)


def _candidates(but: Server | None) -> Iterator[WebSocket]:
    """Yield the connections of servers and clients, and who else is pinged."""
    homes = [server.fds for server in servers()]
    for server in servers():
        if server is not but:
            yield from list(server.fds)
    ours = {client.fd for client in clients() if client.fd is not None}
    yield from ours
    for fd in watched():
        if fd not in ours and not any(fd in home for home in homes):
            yield fd


def _weight(fd: WebSocket) -> tuple[int, int]:
    return fd.pending, fd.stream.received + fd.stream.sent


def _connection(fd: WebSocket) -> Connection:
    return Connection(fd.number, _cut(_peer(fd)), _cut(fd.describe()), *fd.traffic, fd.pending, fd.latency)


def _peer(fd: WebSocket) -> str:
    return netloc(*fd.addr[:2]) if isinstance(fd.addr, tuple) and len(fd.addr) > 1 else str(fd.addr or "-")
