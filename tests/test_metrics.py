"""gws.metrics: what Prometheus is told, of open connections and of those that are over, and what peers cannot do to it."""

from __future__ import annotations

import gevent
import pytest
from conftest import until
from gevent import get_hub, socket
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

import gws.client
import gws.server
from gws import metrics
from gws import websocket as ws
from gws.errors import HandshakeError
from gws.http import Headers, Request
from gws.server import Server

pytestmark = pytest.mark.usefixtures("deadline")


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def serve(registry):
    """Return a function that starts a server which is watched."""
    servers = []

    def make(name="it", *, codes=(), on=(), **options):
        server = Server()
        servers.append(server)
        for event, handler in dict(on).items():
            server.on(event, handler)
        metrics.watch(server, name, codes=codes, registry=registry)
        server.start("127.0.0.1", 0, **options)
        return server

    yield make
    for server in servers:
        server.stop(timeout=1)


@pytest.fixture
def connect():
    """Return a function that connects to a server; what it opened is closed in the end."""
    opened = []

    def make(server, **options):
        opened.append(gws.client.connect("127.0.0.1", server.port, **options))
        return opened[-1]

    yield make
    for client in opened:
        client.close()


@pytest.fixture
def figure(registry):
    """Return a function that gives a figure, or all of a name by their second label."""

    def get(name, server="it", **labels):
        return registry.get_sample_value(f"gws_{name}", {"server": server, **labels})

    def by(name, label, server="it"):
        samples = [sample for family in registry.collect() for sample in family.samples if sample.name == f"gws_{name}"]
        return {each.labels[label]: each.value for each in samples if each.labels["server"] == server}

    get.by = by
    return get


def fetch(server, path="/metrics", accept="*/*"):
    """Return (status, head, body)."""
    with socket.create_connection(server.address) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n".encode())
        head, _, body = b"".join(iter(lambda: sock.recv(65536), b"")).partition(b"\r\n\r\n")
    return int(head.split()[1]), head.decode(), body.decode()


def upgrade(server, *, path="/", **fields):
    """Ask for a connection by hand and return the status."""
    fields = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13", **fields}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    with socket.create_connection(server.address) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{head}\r\n".encode())
        return int(b"".join(iter(lambda: sock.recv(65536), b"")).split()[1])


# ------------------------------------------------------------------------------------------------------- the figures


def test_a_server_that_nobody_has_come_to(serve, figure):
    serve()
    assert figure("connections_open") == 0
    for name in ("connections", "messages_received", "messages_sent", "received_bytes", "sent_bytes"):
        assert figure(f"{name}_total") == 0
    assert figure("pending_bytes") == figure("pending_bytes_max") == figure("latency_seconds_gcount") == 0
    assert figure.by("closes_total", "code") == figure.by("refusals_total", "status") == {}


def test_messages_and_bytes_of_open_connections(serve, figure, connect):
    server = serve(on={"message": ws.write}, compression=None)
    client = connect(server)
    (fd,) = server.fds
    heads = fd.traffic
    for message in ("hello", bytes(1000)):
        client.write(message)
        assert client.read() == message
    ws.broadcast(server.fds, "x")
    assert client.read() == "x"
    assert (figure("connections_open"), figure("connections_total")) == (1, 1)
    assert (figure("messages_received_total"), figure("messages_sent_total")) == (2, 3)
    assert figure("received_bytes_total") == heads.bytes_received + (2 + 4 + 5) + (4 + 4 + 1000)
    assert figure("sent_bytes_total") == heads.bytes_sent + (2 + 5) + (4 + 1000) + (2 + 1)


def test_what_is_over_stays_in_the_sums(serve, figure, connect):
    server = serve(on={"message": ws.write})
    for _ in range(3):
        client = connect(server)
        client.write("hello")
        assert client.read() == "hello"
        client.close(1000)
    until(lambda: not server.fds)
    assert (figure("connections_open"), figure("connections_total")) == (0, 3)
    assert (figure("messages_received_total"), figure("messages_sent_total")) == (3, 3)
    assert figure("received_bytes_total") > 3 * 100
    assert figure("sent_bytes_total") > 3 * 100
    assert figure.by("closes_total", "code") == {"1000": 3}


def block(*_):
    gevent.sleep(5)


def fail(*_):
    raise KeyError("a handler")


@pytest.mark.parametrize("handler", [block, fail])
def test_no_figure_hangs_on_the_program_s_own_handlers(serve, figure, connect, handler):
    """They were there before, and block or raise."""
    server = serve(on={"connection": handler, "disconnect": handler, "refusal": fail}, compression=None)
    client = connect(server)
    client.write("hello")
    if handler is block:
        assert figure("connections_open") == 1
    client.fd.cut(1001, "")
    server.stop(timeout=0)
    assert (figure("connections_open"), figure("connections_total")) == (0, 1)
    assert sum(figure.by("closes_total", "code").values()) == 1


def test_messages_that_are_read_in_blocking_style_count(serve, figure, connect):
    def connected(fd, addr):
        for message in fd:
            fd.write(message)

    client = connect(serve(on={"connection": connected}))
    client.write("hello")
    assert client.read() == "hello"
    assert (figure("messages_received_total"), figure("messages_sent_total")) == (1, 1)


def test_pending_bytes(serve, figure, connect):
    server = serve(compression=None)
    with socket.create_connection(server.address) as slow:
        slow.sendall(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        connect(server)
        until(lambda: len(server.fds) == 2)
        (fd,) = (fd for fd in server.fds if fd.addr == slow.getsockname())
        ws.broadcast([fd], bytes(15 * 1024 * 1024))
        until(lambda: fd.traffic.bytes_sent > 1024)
        assert figure("pending_bytes") == figure("pending_bytes_max") == fd.pending > 1024 * 1024
    until(lambda: fd.closed)
    assert figure("pending_bytes") == figure("pending_bytes_max") == 0


def test_latency(serve, figure, connect):
    server = serve(ping_interval=0.01, ping_timeout=20)
    connect(server)
    (fd,) = server.fds
    until(lambda: fd.latency is not None)
    assert figure("latency_seconds_gcount") == 1
    assert 0 < figure("latency_seconds_gsum") < 20
    assert figure("latency_seconds_bucket", le="+Inf") == 1


def test_latency_falls_into_buckets(serve, figure, connect):
    server = serve(ping_interval=None)
    for _ in range(3):
        connect(server)
    for fd, latency in zip(server.fds, (0.001, 0.0011, 99.0)):
        fd.latency = latency
    buckets = figure.by("latency_seconds_bucket", "le")
    assert [buckets[le] for le in ("0.0005", "0.001", "0.0025", "10.0", "+Inf")] == [0, 1, 2, 2, 3]


# ---------------------------------------------------------------------------------- what peers cannot do to the labels


def test_codes_of_peers_do_not_become_series_without_end(serve, figure, connect):
    server = serve(codes=[4001])
    codes = [1000, 1001, *range(3000, 3010), *range(4000, 4010), 4999]
    for code in codes:
        connect(server).close(code)
    until(lambda: sum(figure.by("closes_total", "code").values()) == len(codes))
    assert figure.by("closes_total", "code") == {"1000": 1, "1001": 1, "3xxx": 10, "4001": 1, "4xxx": 10}


def test_refusals_by_status_whatever_was_asked(serve, figure, registry, connect):
    def judge(fd, request):
        return 401 if request.path.startswith("/private") else HandshakeError(0, "something behind us has failed")

    server = serve(on={"handshake": judge})
    key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    for number in range(5):
        assert upgrade(server, path=f"/private/{number}", Origin="http://localhost", **key) == 401
    assert upgrade(server, path="/x", **key) == 502
    assert upgrade(server, Origin="http://elsewhere", **key) == 403
    assert upgrade(server) == 400
    assert fetch(server)[0] == 426
    assert figure.by("refusals_total", "status") == {"401": 5, "502": 1, "403": 1, "400": 1, "426": 1}
    assert (figure("connections_total"), figure.by("closes_total", "code")) == (0, {})
    text = [str(sample) for family in registry.collect() for sample in family.samples]
    assert not [line for line in text if "private" in line or "elsewhere" in line]


# ------------------------------------------------------------------------------------------------------- many servers


def test_several_servers(serve, figure, connect):
    one, other = serve("one"), serve("other")
    connect(one)
    connect(other).close()
    until(lambda: not other.fds)
    assert (figure("connections_open", "one"), figure("connections_open", "other")) == (1, 0)
    assert (figure("connections_total", "one"), figure("connections_total", "other")) == (1, 1)


def test_servers_without_a_name_have_a_number(registry, figure):
    metrics.watch(Server(), "2", registry=registry)  # which no other gets, then
    for _ in range(2):
        metrics.watch(Server(), registry=registry)
    assert [figure("connections_open", name) for name in ("1", "2", "3")] == [0, 0, 0]


def test_a_server_whose_connections_are_open_already(serve, figure, connect, registry):
    server = serve()
    metrics.unwatch(server, registry=registry)
    client = connect(server)
    metrics.watch(server, "late", registry=registry)
    assert (figure("connections_open", "late"), figure("connections_total", "late")) == (1, 1)
    client.close()
    until(lambda: figure("connections_open", "late") == 0)
    assert figure("connections_total", "late") == 1


def test_who_is_watched_no_longer_costs_nothing(registry, figure):
    server = Server()
    metrics.watch(server, "it", registry=registry)
    assert any(server._events.table.values())
    metrics.unwatch(server, registry=registry)
    assert not any(server._events.table.values())
    assert list(registry.collect()) == []
    metrics.watch(server, "it", registry=registry)
    assert figure("connections_open") == 0


def test_what_the_caller_does_wrong(registry):
    server = Server()
    with pytest.raises(ValueError, match="is not watched"):
        metrics.unwatch(server, registry=registry)
    metrics.watch(server, "a", registry=registry)
    with pytest.raises(ValueError, match="watched already"):
        metrics.watch(server, "b", registry=registry)
    with pytest.raises(ValueError, match="a server 'a' already"):
        metrics.watch(Server(), "a", registry=registry)
    with pytest.raises(ValueError, match="is not watched"):
        metrics.unwatch(Server(), registry=registry)


# ----------------------------------------------------------------------------------------------------------- the page


@pytest.fixture
def watched():
    """A server with its page, in the registry that all share."""
    server = Server()
    server.on("http", metrics.page)
    metrics.watch(server, "page")
    server.start("127.0.0.1", 0)
    yield server
    metrics.unwatch(server)
    server.stop(timeout=1)


@pytest.mark.parametrize(
    ("accept", "kind", "parser"),
    [
        ("*/*", "text/plain", parse),
        ("text/html;q=x, ,;", "text/plain", parse),
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text", parse_openmetrics),
    ],
)
def test_the_page(watched, connect, accept, kind, parser):
    connect(watched)
    status, head, body = fetch(watched, accept=accept)
    assert status == 200
    assert f"Content-Type: {kind}" in head
    families = {family.name: family for family in parser(body)}
    (sample,) = families["gws_connections_open"].samples
    assert (sample.labels, sample.value) == ({"server": "page"}, 1)
    assert "gws_latency_seconds" in families


@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("GET", "/metrics/x"), ("POST", "/metrics")])
def test_other_requests_are_left_to_others(method, path):
    assert metrics.page(Request(method, path, Headers())) is None


def test_it_is_read_in_another_thread_while_clients_come_and_go(serve, registry, connect):
    """As prometheus_client's own server does: no counter falls, and none is missing in the end."""
    server = serve(on={"message": ws.write})

    def visit():
        for _ in range(20):
            client = gws.client.connect("127.0.0.1", server.port)
            client.write("hello")
            client.read()
            client.close()

    def scrape():
        samples = {each.name: each.value for family in registry.collect() for each in family.samples}
        return {name: samples[name] for name in samples if name.endswith("_total")}

    visitors = [gevent.spawn(visit) for _ in range(5)]
    last = {}
    while not all(visitor.ready() for visitor in visitors):
        now = get_hub().threadpool.apply(scrape)
        assert {name for name in last if now[name] < last[name]} == set()
        last = now
    gevent.joinall(visitors, raise_error=True)
    until(lambda: not server.fds)
    assert scrape() | {"gws_received_bytes_total": 0, "gws_sent_bytes_total": 0} == {
        "gws_connections_total": 100,
        "gws_messages_received_total": 100,
        "gws_messages_sent_total": 100,
        "gws_received_bytes_total": 0,
        "gws_sent_bytes_total": 0,
        "gws_closes_total": 100,
    }


def test_the_module_is_its_default_server(registry):
    metrics.watch(gws.server, "it", registry=registry)
    with pytest.raises(ValueError, match="is watched already"):
        metrics.watch(gws.server.default, registry=registry)
    assert registry.get_sample_value("gws_connections_open", {"server": "it"}) == 0
    metrics.unwatch(gws.server, registry=registry)
    assert registry.get_sample_value("gws_connections_open", {"server": "it"}) is None
