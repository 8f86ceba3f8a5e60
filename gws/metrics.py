"""Figures for Prometheus: what servers do, exported through `prometheus_client` (pip install 'gevent-gws[prometheus]').

Hears of connections by the `on()` table, and looks at those that are open whenever somebody asks: between two scrapes a
message costs nothing.  A server that nobody watches does not know of this room.
Knows nothing of how a connection works: it has `traffic`, `pending` and `latency`.  What a peer chooses (paths, codes)
never becomes a label, so nobody outside can make the series grow.

    from gws import metrics
    metrics.watch(server)                   # any number of servers, each under a name
    server.on("http", metrics.page)         # /metrics on the same port; or prometheus_client.start_http_server(9100)
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate, count
from threading import Lock
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeHistogramMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from gws.errors import HandshakeError
from gws.http import Request, Response, response
from gws.server import Server
from gws.websocket import Traffic, WebSocket

__all__ = ["page", "unwatch", "watch"]

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds


def watch(
    server: Server | ModuleType,
    name: str | None = None,
    *,
    codes: Iterable[int] = (),
    registry: CollectorRegistry = REGISTRY,
) -> None:
    """Export what `server` does, under the label server=`name`: "1", "2", ... if there is none.

    The module gws.server is its default server, as for `on` and `listen`.
    `codes` are those close codes from 3000 up that are told apart: a peer may choose any, so the others count as "3xxx"
    and "4xxx".   ValueError if the name is taken, or the server is watched already.
    """
    exporter = _exporters.get(registry)
    if exporter is None:
        exporter = _exporters[registry] = _Exporter()
        registry.register(exporter)
    exporter.add(_meant(server), name, frozenset(codes))


def unwatch(server: Server | ModuleType, *, registry: CollectorRegistry = REGISTRY) -> None:
    """Export what `server` does no longer.   ValueError if nobody does."""
    exporter = _exporters.get(registry)
    if exporter is None:
        raise ValueError(f"{server!r} is not watched")
    exporter.remove(_meant(server))
    if not exporter.watched:
        del _exporters[registry]
        registry.unregister(exporter)


def page(request: Request) -> Response | None:
    """Answer a request for /metrics, and leave any other to the next handler: for `server.on("http", metrics.page)`.

    Whoever reaches the port can read it: where that is the whole world, let a second Server serve it on loopback.
    """
    if request.path != "/metrics" or request.method not in ("GET", "HEAD"):
        return None
    encode, kind = choose_encoder(request.headers.get("Accept", ""))
    return Response(200, {"Content-Type": kind}, encode(REGISTRY))


def _meant(server: Server | ModuleType) -> Server:
    return server.default if isinstance(server, ModuleType) else server


class _Exporter(Collector):
    """What one registry has of gws: the families, and the servers that are told of in them."""

    def __init__(self) -> None:
        self.watched: dict[str, _Watched] = {}
        self._numbers = count(1)

    def add(self, server: Server, name: str | None, codes: frozenset[int]) -> None:
        if any(each.server is server for each in self.watched.values()):
            raise ValueError(f"{server!r} is watched already")
        if name is None:
            name = next(number for number in map(str, self._numbers) if number not in self.watched)
        if name in self.watched:
            raise ValueError(f"there is a server {name!r} already")
        self.watched[name] = _Watched(server, codes)

    def remove(self, server: Server) -> None:
        for name, each in self.watched.items():
            if each.server is server:
                each.forget()
                del self.watched[name]
                return
        raise ValueError(f"{server!r} is not watched")

    def describe(self) -> Iterable[Any]:
        """Describe the families: what keeps another collector from taking their names."""
        return _Families().each()

    def collect(self) -> Iterable[Any]:
        """Read all figures, now; in any thread."""
        families = _Families()
        for name, watched in list(self.watched.items()):
            watched.report(name, families)
        return families.each()


_exporters: WeakKeyDictionary[CollectorRegistry, _Exporter] = WeakKeyDictionary()


class _Families:
    """The metrics, empty; one object for each scrape."""

    def __init__(self) -> None:
        by_server = ["server"]
        self.open = GaugeMetricFamily("gws_connections_open", "Connections that are open.", labels=by_server)
        self.opened = CounterMetricFamily("gws_connections", "Connections that were opened.", labels=by_server)
        self.traffic = (
            CounterMetricFamily("gws_messages_received", "Messages that came in.", labels=by_server),
            CounterMetricFamily("gws_messages_sent", "Messages that went out, or wait to.", labels=by_server),
            CounterMetricFamily("gws_received_bytes", "Bytes that came in, before TLS.", labels=by_server),
            CounterMetricFamily("gws_sent_bytes", "Bytes that the kernel took, before TLS.", labels=by_server),
        )
        self.closes = CounterMetricFamily("gws_closes", "Connections that ended.", labels=["server", "code"])
        self.refusals = CounterMetricFamily(
            "gws_refusals", "Requests that were turned down.", labels=["server", "status"]
        )
        self.pending = GaugeMetricFamily("gws_pending_bytes", "Bytes that wait for slow peers.", labels=by_server)
        self.slowest = GaugeMetricFamily(
            "gws_pending_bytes_max", "Bytes that wait for the slowest peer.", labels=by_server
        )
        self.latency = GaugeHistogramMetricFamily(
            "gws_latency_seconds", "Round trips of the last ping to each open connection.", labels=by_server
        )

    def each(self) -> Iterator[Any]:
        for value in vars(self).values():
            yield from value if isinstance(value, tuple) else (value,)


class _Watched:
    """One server: the sums of its connections that are over, and those that are open.

    prometheus_client's own page is served by a thread, hence the lock; nobody switches greenlets within it.  No figure
    of a counter ever falls: a connection is either among the open or in the sums, and keeps its last figures.
    """

    def __init__(self, server: Server, codes: frozenset[int]):
        self.server = server
        self._codes = codes
        self._lock = Lock()
        self._open = set(server.fds)
        self._opened = len(self._open)
        self._over = Traffic(0, 0, 0, 0)
        self._closes: Counter[str] = Counter()
        self._refusals: Counter[str] = Counter()
        self._handlers: dict[str, Callable[..., None]] = {
            "connection": self._came,
            "disconnect": self._left,
            "refusal": self._refused,
        }
        for event, handler in self._handlers.items():
            server.on(event, handler, first=True)  # others may block, or raise

    def forget(self) -> None:
        for event, handler in self._handlers.items():
            self.server.off(event, handler)

    def _came(self, fd: WebSocket, addr: Any) -> None:
        with self._lock:
            self._open.add(fd)
            self._opened += 1

    def _left(self, fd: WebSocket, code: int, reason: str) -> None:
        with self._lock:
            self._open.discard(fd)
            self._over = _sum(self._over, fd.traffic)
            self._closes[self._label(code)] += 1

    def _label(self, code: int) -> str:
        return str(code) if code < 3000 or code in self._codes else f"{code // 1000}xxx"

    def _refused(self, addr: Any, error: HandshakeError) -> None:
        with self._lock:
            self._refusals[str(response(error).status)] += 1

    def report(self, name: str, families: _Families) -> None:
        """Add the figures to `families`."""
        with self._lock:
            fds, opened, traffic = list(self._open), self._opened, self._over
            closes, refusals = dict(self._closes), dict(self._refusals)
        for fd in fds:
            traffic = _sum(traffic, fd.traffic)
        pending = [fd.pending for fd in fds]
        families.open.add_metric([name], len(fds))
        families.opened.add_metric([name], opened)
        for family, value in zip(families.traffic, traffic):
            family.add_metric([name], value)
        for label, times in closes.items():
            families.closes.add_metric([name, label], times)
        for label, times in refusals.items():
            families.refusals.add_metric([name, label], times)
        families.pending.add_metric([name], sum(pending))
        families.slowest.add_metric([name], max(pending, default=0))
        latencies = [fd.latency for fd in fds if fd.latency is not None]
        families.latency.add_metric([name], _buckets(latencies), sum(latencies))


def _sum(one: Traffic, other: Traffic) -> Traffic:
    return Traffic(one[0] + other[0], one[1] + other[1], one[2] + other[2], one[3] + other[3])


def _buckets(values: list[float]) -> list[tuple[str, float]]:
    """Return (upper bound, how many are not above it), as Prometheus wants them."""
    counts = [0] * (len(_BUCKETS) + 1)
    for value in values:
        counts[bisect_left(_BUCKETS, value)] += 1
    bounds = [*map(str, _BUCKETS), "+Inf"]
    return list(zip(bounds, map(float, accumulate(counts))))
