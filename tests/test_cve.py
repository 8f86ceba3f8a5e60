"""What has hurt other WebSocket endpoints: for each incident a test, on a fresh server with default options.

Each shows what is bounded, and what the attacker gets to see; `hostile.attacked` asserts, for all of them, that the
server takes no more than 64 MiB, that nothing of the attackers' stays, and that a well-behaved neighbour on the same
server never waits longer than 0.5 s.  SECURITY.md says what is promised, and where else it is tested.
"""

from __future__ import annotations

import ast
import contextlib
import itertools
import json
import re
import ssl
import zlib
from time import monotonic

import gevent
import pytest
import trustme
from by_hand import deflated
from gevent import socket
from hostile import DEFLATE, MIB, attacked, hello, serving, wire
from programs import ROOT

import gws.client
from gws import sockethelper
from gws.frame import BINARY, CONTINUATION, FIN, PING, PONG, RSV1, TEXT
from gws.stream import Plain, Stream

KINDS = ["plain"] if Stream is Plain else ["compiled", "plain"]
COMPRESSED = {name.replace("-", "_"): value for name, value in DEFLATE.items()}


@pytest.fixture(params=KINDS)
def target(request):
    with gevent.Timeout(60), attacked(request.param) as target:
        yield target


# ------------------------------------------------------------------------------------- fragments, floods of small things


class TestTinyFragments:
    """ws CVE-2026-48779 and #2331, undici CVE-2026-12151, Bandit CVE-2026-42786, Java-WebSocket #1508.

    Fragments are gathered into one buffer, so that they cost their bytes, and nobody need count them.
    """

    def test_cve_2026_42786_empty_fragments(self, target):
        attacker = target.enter()
        attacker.send(wire(TEXT, b"here "))
        for _ in range(20):
            attacker.send(wire(CONTINUATION) * 10_000)
        attacker.send(wire(FIN | CONTINUATION, b"and there"))
        assert attacker.frame() == (TEXT, b"here and there")

    def test_ws_2331_131072_fragments_of_a_byte(self, target):
        attackers = [target.enter() for _ in range(3)]
        for attacker in attackers:
            attacker.send(wire(TEXT) + wire(CONTINUATION, b"x") * 131_072)
        for attacker in attackers:
            attacker.send(wire(FIN | CONTINUATION))
            assert attacker.frame() == (TEXT, b"x" * 131_072)

    def test_cve_2026_48779_more_than_a_message_may_hold(self, target):
        attackers = [target.enter() for _ in range(10)]
        for attacker in attackers:
            attacker.send(wire(BINARY) + wire(CONTINUATION, bytes(100)) * 10_500)
        assert [attacker.verdict() for attacker in attackers] == [1009] * 10


FLOODS = {
    "messages": wire(FIN | TEXT),
    "pings": wire(FIN | PING),
    "pongs": wire(FIN | PONG),
    "compressed": wire(FIN | RSV1 | TEXT, deflated(b"a" * 128)),
    "small ones that inflate to large ones": wire(FIN | RSV1 | BINARY, deflated(bytes(MIB))),
}


def test_floods_of_whatever_is_cheap_to_send(target):
    """tornado PR #2391, centrifugo PR #1162: what a frame costs is the peer's choice; so time is shared, not frames."""
    floods = [frame * (400_000 // len(frame)) for frame in FLOODS.values()]
    attackers = [target.enter(**COMPRESSED) for _ in floods]

    def flow(attacker, frames):
        with gevent.Timeout(1, False):
            while True:
                attacker.send(frames)

    def drink(attacker):
        with contextlib.suppress(OSError):
            while attacker.sock.recv(MIB):
                pass

    drinkers = [gevent.spawn(drink, attacker) for attacker in attackers]
    gevent.joinall([gevent.spawn(flow, *each) for each in zip(attackers, floods)], raise_error=True)
    for attacker in attackers:
        attacker.vanish()
    gevent.joinall(drinkers)


# ---------------------------------------------------------------------------------------------------------- compression


class TestBombs:
    """websockets CVE-2018-1000518 and #1715, eventlet CVE-2021-21419, undici CVE-2026-1526, aiohttp CVE-2026-54278 ...

    max_message is a bound on what a message inflates to, and it is enforced while inflating.
    """

    def test_cve_2018_1000518_200_mib_in_a_message(self, target):
        bomb = wire(FIN | RSV1 | TEXT, deflated(bytes(200 * MIB)))
        attackers = [target.enter(**COMPRESSED) for _ in range(10)]
        for attacker in attackers:
            attacker.send(bomb)
        assert [attacker.verdict() for attacker in attackers] == [1009] * 10

    def test_cve_2021_21419_in_fragments(self, target):
        attacker = target.enter(**COMPRESSED)
        payload = deflated(bytes(200 * MIB))
        pieces = [payload[at : at + 1000] for at in range(0, len(payload), 1000)]
        attacker.send(wire(RSV1 | BINARY, pieces[0]) + b"".join(wire(CONTINUATION, piece) for piece in pieces[1:]))
        assert attacker.verdict() == 1009

    def test_ghsa_hxp9_w8x3_p566_the_limit_is_not_for_what_is_compressed(self, target):
        attacker = target.enter(**COMPRESSED)
        payload = deflated(bytes(MIB + 1))
        assert len(payload) < 2000
        attacker.send(wire(FIN | RSV1 | BINARY, payload))
        assert attacker.verdict() == 1009

    def test_websockets_1715_just_at_the_limit(self, target):
        """Off by a byte or two, it cut messages short."""
        for more in (-1, 0, 1):
            attacker = target.enter(**COMPRESSED)
            attacker.send(wire(FIN | RSV1 | BINARY, deflated(bytes(MIB + more))))
            if more > 0:
                assert attacker.verdict() == 1009
            else:
                opcode, payload = attacker.frame()
                inflated = zlib.decompressobj(-15).decompress(payload + b"\0\0\xff\xff")
                assert (opcode, len(inflated)) == (BINARY, MIB + more)

    def test_cve_2026_39804_blocks_that_end_the_stream_without_end(self, target):
        attacker = target.enter(**COMPRESSED)
        attacker.send(wire(FIN | RSV1 | BINARY, b"\x03\x00" * 200_000))
        assert attacker.verdict() == 1007


BITS = ["7", "16", "0", "-9", "08", "15.0", "1e1", '"10', "999999999999999999999", "x"]


def test_cve_2026_2229_window_bits_out_of_range(target):
    """undici: the offer is declined, or refused if it is malformed; the connection does without."""
    for name, bits in itertools.product(("server_max_window_bits", "client_max_window_bits"), BITS):
        attacker = target.attack(hello(Sec_WebSocket_Extensions=f"permessage-deflate; {name}={bits}"))
        head = attacker.head()
        assert head.startswith(b"HTTP/1.1 400" if '"' in bits else b"HTTP/1.1 101")
        assert b"Sec-WebSocket-Extensions" not in head


# -------------------------------------------------------------------------------------------------------------- lengths

LENGTHS = {
    "the top bit": (b"\x82\xff" + b"\xff" * 8, 1002),
    "the top bit alone": (b"\x82\xff\x80" + bytes(7), 1002),
    "2 ** 63 - 1": (b"\x82\xff\x7f" + b"\xff" * 7, 1009),
    "1 TiB": (b"\x82\xff" + (1 << 40).to_bytes(8, "big"), 1009),
    "1 GiB": (b"\x82\xff" + (1 << 30).to_bytes(8, "big"), 1009),
    "a sum beyond 2 ** 63": (wire(BINARY, b"x") + b"\x80\xff\x7f" + b"\xff" * 7, 1009),
    "a sum beyond 2 ** 64": (wire(BINARY, b"xx") + b"\x80\xff" + b"\xff" * 8, 1002),
    "in more bytes than needed": (b"\x82\xff" + (125).to_bytes(8, "big"), 1002),
    "of a ping": (b"\x89\xff\x7f" + b"\xff" * 7, 1002),
}


def test_cve_2020_27813_lengths_of_64_bits(target):
    """gorilla, undici CVE-2026-1528, swift-nio CVE-2026-43678, websocket-driver CVE-2026-54466, golang #11999 ..."""
    for (claim, (data, code)), more in itertools.product(LENGTHS.items(), ({}, COMPRESSED)):
        attacker = target.enter(**more)
        attacker.send(data + bytes(104))
        assert attacker.verdict() == code, claim


def test_gevent_websocket_memory_for_what_is_only_claimed(target):
    """gevent-websocket 0.10.1 allocates what a header claims: here 300 of them claim 300 MiB."""
    attackers = [target.enter() for _ in range(300)]
    for attacker in attackers:
        attacker.send(b"\x82\xff" + MIB.to_bytes(8, "big") + bytes(104))
    target.enter().echo(b"still there?")


# ---------------------------------------------------------------------------------------------------------------- heads

HEADS = {
    "ws CVE-2021-32640: whitespace in a list of protocols": (hello(Sec_WebSocket_Protocol="a" + " " * 7000 + "b"), 400),
    "CVE-2020-7662: a quoted string without an end": (hello(Sec_WebSocket_Extensions='a; b="' + "\\c" * 3500), 400),
    "CVE-2020-7663: the same with a token": (hello(Sec_WebSocket_Extensions="a; b=" + "c" * 7000 + '"'), 400),
    "a list of nothing": (hello(Sec_WebSocket_Extensions="," * 7000), 400),
    "many offers": (hello(Sec_WebSocket_Extensions=", ".join(["permessage-deflate"] * 350)), 400),
    "ws CVE-2024-37890: many headers": (hello(more="a: b\r\n" * 1000), 431),
    "long ones": (hello(more=f"a: {'b' * 8192}\r\n"), 431),
    "tungstenite CVE-2023-43669: a head of a megabyte": (hello(more=f"a: {'b' * MIB}\r\n"), 431),
    "no head at all": (b"\x00" * 9000, 431),
    "a line without an end": (b"G" * 9000, 431),
}


def test_cve_2021_32640_heads_that_take_long_to_parse(target):
    for case, (head, status) in HEADS.items():
        before = target.spent()
        for _ in range(5):
            assert target.attack(head).status() == status, case
        assert target.spent() - before < 0.5, case


def test_cve_2023_43669_a_head_byte_by_byte(target):
    head = hello(more=f"a: {'b' * 7500}\r\n")
    attacker = target.attack()
    before = target.spent()
    for at in range(len(head)):
        attacker.send(head[at : at + 1])
    assert attacker.status() == 101
    assert target.spent() - before < 2


class TestSmuggling:
    """gevent CVE-2023-41419: what a proxy before us may read in another way is refused, and nothing follows an answer."""

    HEADS = {
        "two lengths": hello(more="Content-Length: 0\r\nContent-Length: 5\r\n"),
        "a length that is none": hello(more="Content-Length: +5\r\n"),
        "a length and chunks": hello(more="Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
        "a folded line": hello(more="X: a\r\n Transfer-Encoding: chunked\r\n"),
        "a name with a space": hello(more="Content-Length : 5\r\n"),
        "LF alone": hello(more="X: a\nContent-Length: 5\r\n"),
        "CR alone": hello(more="X: a\rContent-Length: 5\r\n"),
        "NUL": hello(more="X: a\0b\r\n"),
        "two hosts": hello(more="Host: elsewhere\r\n"),
        "no host": hello(Host=None),
        "another host in the target": hello("GET http://elsewhere/ HTTP/1.1"),
    }

    def test_cve_2023_41419_heads_with_two_meanings(self, target):
        for case, head in self.HEADS.items():
            attacker = target.attack(head + hello("GET /smuggled HTTP/1.1", Upgrade=None))
            assert attacker.status() == 400, case
            assert b"HTTP/1.1" not in attacker.rest(), case

    def test_cve_2023_41419_a_second_request(self, target):
        """An upgrade has no body in which there could be one, and nothing follows a plain answer."""
        for more in ("Content-Length: 70\r\n", "Transfer-Encoding: chunked\r\n"):
            attacker = target.attack(hello(more=more) + hello())
            assert attacker.status() in (400, 413)
            assert b"HTTP/1.1" not in attacker.rest()
        plain = hello(Upgrade=None, Connection="keep-alive", Sec_WebSocket_Key=None)
        attacker = target.attack(plain * 3)
        assert attacker.status() == 200
        assert b"HTTP/1.1" not in attacker.rest()


def test_gevent_2035_h2c_is_no_websocket(target):
    """An upgrade to HTTP/2 is answered as a plain request (RFC 9110 section 7.8 lets a server ignore it)."""
    attempt = hello(
        Upgrade="h2c", Connection="Upgrade, HTTP2-Settings", HTTP2_Settings="AAMAAABk", Sec_WebSocket_Key=None
    )
    assert target.attack(attempt).status() == 200
    assert target.attack(hello(Upgrade="h2c")).status() == 426
    assert target.attack(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").status() in (400, 505)


ORIGINS = [
    "https://evil.example",
    "null",
    "",
    "http://localhost.evil.example",
    "http://localhost@evil.example",
    "http://localhost:8080",
    "file://",
    "localhost",
]


def test_cve_2019_13611_pages_of_other_sites(target):
    """python-engineio, taipy #2890, djust #653 ... (CWE-1385): same-origin unless `origins` says otherwise."""
    for origin in ORIGINS:
        assert target.attack(hello(Origin=origin)).status() == 403, origin
    assert target.attack(hello(Origin="http://localhost")).status() == 101


# ---------------------------------------------------------------------------------------------------- the peer's duties


def test_rfc_6455_section_5_1_masking_is_required(target):
    """gevent-websocket 0.10.1 and skynet take unmasked frames."""
    for first in (FIN | TEXT, FIN | BINARY, FIN | PING, TEXT):
        attacker = target.enter()
        attacker.send(bytes([first, 5]) + b"hello")
        assert attacker.verdict() == 1002


class TestSlowness:
    def test_ws_1620_who_sends_and_never_reads(self, target):
        """ws #999, matterjs PR #825: its answers fill the kernel's buffers, and then it is read from no more."""
        attackers = [target.enter() for _ in range(5)]
        message = wire(FIN | BINARY, bytes(MIB)) * 20

        def pour(attacker):
            with gevent.Timeout(0.7, False):
                attacker.send(message)
                attacker.served = True

        gevent.joinall([gevent.spawn(pour, attacker) for attacker in attackers], raise_error=True)
        assert not [attacker for attacker in attackers if hasattr(attacker, "served")]

    def test_world_of_claudecraft_950_a_broadcast_to_who_never_reads(self, target):
        """16 MiB of each are kept, by reference; then it is closed, 1013, and not waited for."""
        deaf = [target.enter() for _ in range(5)]
        for attacker in deaf:
            attacker.send(wire(FIN | TEXT, b"join"))
            assert attacker.frame() == (TEXT, b"joined")
        speaker = target.enter()
        for _ in range(60):
            speaker.send(wire(FIN | TEXT, b"all:" + bytes(500_000)))
        speaker.echo(b"said")
        assert target.memory("VmRSS") < 200 * MIB
        assert [attacker.verdict() for attacker in deaf] == [1013] * 5

    def test_websocketpp_789_slow_handshakes_and_closes_that_are_not_answered(self):
        """libwebsockets #2154, super-productivity #9885: 10 s for a handshake in all, and 10 s for a Close.

        (The servers are two at once, for it takes 10 s.)
        """
        with gevent.Timeout(60), contextlib.ExitStack() as stack:
            targets = [stack.enter_context(attacked(kind)) for kind in KINDS]
            gevent.joinall([gevent.spawn(self._be_slow, target) for target in targets], raise_error=True)

    @staticmethod
    def _be_slow(target):
        began = monotonic()
        silent = [target.attack() for _ in range(50)]
        dripping = [target.attack(hello()[:-2]) for _ in range(50)]
        stuck = [target.enter() for _ in range(50)]
        for attacker in stuck:
            attacker.send(wire(FIN | TEXT, b"close"))
        statuses = [gevent.spawn(attacker.status) for attacker in silent + dripping]
        drops = itertools.count()
        while len(gevent.joinall(statuses, timeout=1)) < len(statuses):
            drop = b"X-%d: y\r\n" % next(drops)  # so that only a deadline for all of it helps
            for attacker in dripping:
                attacker.send(drop)
        assert [each.get() for each in statuses] == [408] * 100
        assert [attacker.verdict() for attacker in stuck] == [1000] * 50
        assert {attacker.rest() for attacker in stuck} == {b""}
        assert monotonic() - began > 9


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("tls") / "localhost.pem")
    authority = trustme.CA()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(path)
    return path, authority


@pytest.mark.parametrize("kind", KINDS)
def test_skynet_2040_tls_handshakes_that_fail(kind, files):
    """Not a descriptor is lost by them; who speaks plain HTTP to it is hung up on."""
    path, authority = files
    with gevent.Timeout(60), serving(kind, certfile=path) as target:
        context = sockethelper.client_context()
        authority.configure_trust(context)

        def held():
            sock = sockethelper.start_tls(
                sockethelper.connect("127.0.0.1", target.port), context, server_hostname="localhost"
            )
            sockethelper.writefunc(sock)(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            read, answer = sockethelper.readfunc(sock), b""
            with contextlib.suppress(EOFError):
                while True:
                    answer += read()
            sockethelper.close(sock)
            return json.loads(answer.partition(b"\r\n\r\n")[2])

        held()
        quiet = held()
        distrust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        for number in range(100):
            sock = sockethelper.connect("127.0.0.1", target.port)
            match number % 4:
                case 0:
                    sockethelper.writefunc(sock)(hello())
                case 1:
                    sockethelper.writefunc(sock)(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
                case 2:
                    with pytest.raises(ssl.SSLError):
                        sock = sockethelper.start_tls(sock, distrust, server_hostname="localhost")
            sockethelper.close(sock)
        until = monotonic() + 10
        while (now := held()) != quiet and monotonic() < until:
            gevent.sleep(0.05)
        assert now == quiet


# ------------------------------------------------------------------------------------------------- what we do ourselves


@pytest.mark.parametrize(
    "options",
    [
        {"protocols": ["chat\r\nX-Injected: 1"]},
        {"headers": {"X": "1\r\nX-Injected: 1"}},
        {"headers": {"X\r\nX-Injected": "1"}},
        {"headers": {"X": "1\0"}},
        {"origin": "http://a\r\nX-Injected: 1"},
    ],
)
def test_cve_2026_1527_lines_in_headers(options):
    """undici: CR and LF in a subprotocol.   Nothing is sent."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with pytest.raises(ValueError), gevent.Timeout(5):
            gws.client.connect("127.0.0.1", listener.getsockname()[1], **options)


def test_ws4py_a_client_verifies():
    """ws4py: CERT_NONE by default."""
    context = sockethelper.client_context()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


def sources():
    return {
        str(path.relative_to(ROOT)): path.read_text()
        for room in ("gws", "examples")
        for path in ROOT.glob(room + "/*.py")
    }


def test_cve_2025_61765_nothing_is_ever_unpickled():
    """python-socketio: whoever reached the broker could run code."""
    for name, source in sources().items():
        for node in ast.walk(ast.parse(source)):
            modules = {alias.name.split(".")[0] for alias in node.names} if isinstance(node, ast.Import) else set()
            if isinstance(node, ast.ImportFrom):
                modules.add((node.module or "").split(".")[0])
            assert not modules & {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "jsonpickle"}, name
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec", "compile"), name


def test_cve_2021_33880_credentials_are_compared_in_constant_time():
    """websockets compared passwords with `==`.   gws asks for no credentials; what of it ever does has to do it so."""
    for name, source in sources().items():
        if re.search(r"""(\[|get\()["'](proxy-)?authorization["']""", source, re.I):
            assert "compare_digest" in source, name


# ----------------------------------------------------------------------------------------------------------- promises


def names_in(path):
    """Return the names of the tests in a file: "test_it", "TestThat::test_it"."""
    names = set()
    for node in ast.parse((ROOT / path).read_text()).body:
        inner = node.body if isinstance(node, ast.ClassDef) else []
        names |= {node.name} if hasattr(node, "name") else set()
        names |= {f"{node.name}::{each.name}" for each in inner if isinstance(each, ast.FunctionDef)}
    return names


def test_every_promise_is_held_by_a_test():
    """What SECURITY.md names exists, and each row of its table names something."""
    text = (ROOT / "SECURITY.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)::([\w:]+)`", text)
    assert len(named) >= 30
    for path, name in named:
        assert name in names_in(path), f"{path}::{name}"
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith(("| promise", "|--"))]
    assert not [row for row in rows if "`tests/" not in row]
