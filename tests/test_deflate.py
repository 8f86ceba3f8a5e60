"""permessage-deflate: what is offered and answered, what goes in and what comes out, and how much of it."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import random
import sys
import tracemalloc
import zlib
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gws import deflate as room
from gws.deflate import Compression, Deflate, Parameters, deflate_once
from gws.errors import HandshakeError, InvalidPayload, MessageTooBig
from gws.parameters import NAME, accept, accepted, offer

TAIL = b"\x00\x00\xff\xff"
MIB = 1 << 20
ALL_BITS = range(8, 16)
PLAIN = Compression(window_bits=15)
FRESH = Parameters(server_no_context_takeover=True, client_no_context_takeover=True)
TEXT = b'{"user": "alice", "text": "Lorem ipsum dolor sit amet", "id": 4711, "tags": ["a", "b", "c"]}'

igzip = importlib.import_module("isal.isal_zlib") if importlib.util.find_spec("isal") else None
BACKENDS = [None] if igzip is None else [None, igzip]


@pytest.fixture(autouse=True, params=BACKENDS, ids=lambda module: "zlib" if module is None else "isal", scope="module")
def backend(request):
    """Everything holds with each of the libraries that may deflate."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "_igzip", request.param)
        yield request.param


def parsed(header):
    """Split a (sound) header value as the handshake does."""
    parts = [[part.strip() for part in element.split(";")] for element in header.split(",")]
    return [(name, [(*param.split("="), None)[:2] for param in params]) for name, *params in parts]


def ends(parameters=Parameters(), compression=PLAIN):  # noqa: B008
    """Return a server's and a client's."""
    return Deflate(parameters, compression, server=True), Deflate(parameters, compression, server=False)


def inflated(deflate, payload, limit=MIB):
    return deflate.inflate(payload, limit, True)


def raw(*pieces, flush=zlib.Z_SYNC_FLUSH):
    """Deflate pieces as somebody else would."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    return b"".join(deflater.compress(piece) + deflater.flush(flush) for piece in pieces)


class Strict:
    """A peer that holds a window of exactly 2 ** bits bytes, and not one more within a call."""

    def __init__(self, bits):
        self.inflater = zlib.decompressobj(-bits)

    def inflate(self, payload):
        data, message = payload + TAIL, bytearray()
        while data:
            message += self.inflater.decompress(data, 1)
            data = self.inflater.unconsumed_tail
        while more := self.inflater.decompress(b"", 1):
            message += more
        return bytes(message)


# ------------------------------------------------------------------------------------------------------ offers, answers


NO_TAKEOVER = Compression(server_no_context_takeover=True, client_no_context_takeover=True)
BOTH = "server_no_context_takeover; client_no_context_takeover"

OFFERS = {
    "default": (Compression(), f"{NAME}; client_max_window_bits"),
    "no takeover": (NO_TAKEOVER, f"{NAME}; {BOTH}; client_max_window_bits"),
    "a small server": (Compression(peer_window_bits=10), f"{NAME}; server_max_window_bits=10; client_max_window_bits"),
}


@pytest.mark.parametrize(("compression", "value"), OFFERS.values(), ids=OFFERS)
def test_offer(compression, value):
    assert offer(compression) == value


# "with the same or smaller value as the offer" (7.1.2.1), and ours is 12
SERVER = {
    "nothing asked": ("", "", (False, False, 15, 15)),
    "a browser": ("; client_max_window_bits", "; client_max_window_bits=12", (False, False, 15, 12)),
    "client 15": ("; client_max_window_bits=15", "; client_max_window_bits=12", (False, False, 15, 12)),
    "client 9": ("; client_max_window_bits=9", "; client_max_window_bits=9", (False, False, 15, 9)),
    "client 8": ("; client_max_window_bits=8", "; client_max_window_bits=8", (False, False, 15, 8)),
    "server 15": ("; server_max_window_bits=15", "; server_max_window_bits=12", (False, False, 12, 15)),
    "server 9": ("; server_max_window_bits=9", "; server_max_window_bits=9", (False, False, 9, 15)),
    "server 8": ("; server_max_window_bits=8", "; server_max_window_bits=8", (False, False, 8, 15)),
    "server fresh": ("; server_no_context_takeover", "; server_no_context_takeover", (True, False, 15, 15)),
    "client fresh": ("; client_no_context_takeover", "; client_no_context_takeover", (False, True, 15, 15)),
    "all four": (
        "; client_max_window_bits=11; server_max_window_bits=9; client_no_context_takeover; server_no_context_takeover",
        f"; {BOTH}; server_max_window_bits=9; client_max_window_bits=11",
        (True, True, 9, 11),
    ),
}


@pytest.mark.parametrize(("offered", "answer", "agreed"), SERVER.values(), ids=SERVER)
def test_accept(offered, answer, agreed):
    assert accept(parsed(NAME + offered), Compression()) == (NAME + answer, agreed)


def test_accept_wants_what_the_user_wants():
    compression = replace(NO_TAKEOVER, peer_window_bits=9)
    answer = f"{NAME}; {BOTH}; client_max_window_bits=9"
    assert accept(parsed(f"{NAME}; client_max_window_bits"), compression) == (answer, (True, True, 15, 9))
    # If an offer has no client_max_window_bits, the answer "MUST NOT include" it.  (7.1.2.2)
    assert accept(parsed(NAME), compression)[1].client_max_window_bits == 15


UNSOUND = {
    "unknown parameter": [("window_bits", "9")],
    "a name in capitals": [("Server_No_Context_Takeover", None)],
    "server_no_context_takeover with a value": [("server_no_context_takeover", "1")],
    "client_no_context_takeover with a value": [("client_no_context_takeover", "")],
    "server_no_context_takeover twice": [("server_no_context_takeover", None)] * 2,
    "client_no_context_takeover twice": [("client_no_context_takeover", None)] * 2,
    "server_max_window_bits twice": [("server_max_window_bits", "9"), ("server_max_window_bits", "10")],
    "client_max_window_bits twice": [("client_max_window_bits", "9")] * 2,
    "server_max_window_bits without a value": [("server_max_window_bits", None)],
} | {
    f"{name}={value!r}": [(name, value)]
    for name in ("server_max_window_bits", "client_max_window_bits")
    for value in ("7", "16", "+9", "09", " 9", "x", "", "٩")
}


@pytest.mark.parametrize("params", UNSOUND.values(), ids=UNSOUND)
def test_an_unsound_offer_is_declined_and_the_next_one_tried(params):
    assert accept([(NAME, params)], Compression()) is None
    assert accept([(NAME, params), (NAME, [])], Compression()) == (NAME, Parameters())


@pytest.mark.parametrize("offers", [[], [("x-webkit-deflate-frame", [])], [("Permessage-Deflate", [])]])
def test_nothing_to_accept(offers):
    assert accept(offers, Compression()) is None


def test_the_first_sound_offer_is_taken():
    offers = parsed("x-other, permessage-deflate; server_max_window_bits=10, permessage-deflate")
    assert accept(offers, Compression())[0] == f"{NAME}; server_max_window_bits=10"


SMALL = Compression(peer_window_bits=10)
CLIENT = {
    "plain": (Compression(), "", (False, False, 15, 15)),
    "8 and 8": (Compression(), "; server_max_window_bits=8; client_max_window_bits=8", (False, False, 8, 8)),
    "unasked": (Compression(), f"; {BOTH}; server_max_window_bits=9", (True, True, 9, 15)),
    "as asked": (SMALL, "; server_max_window_bits=10", (False, False, 10, 15)),
    "smaller than asked": (SMALL, "; server_max_window_bits=9", (False, False, 9, 15)),
    "our promise, which the server ignores": (NO_TAKEOVER, "; server_no_context_takeover", (True, True, 15, 15)),
}


@pytest.mark.parametrize(("compression", "answer", "agreed"), CLIENT.values(), ids=CLIENT)
def test_accepted(compression, answer, agreed):
    assert accepted(parsed(NAME + answer), compression) == agreed


@pytest.mark.parametrize("compression", [None, Compression()], ids=["nothing offered", "offered"])
def test_no_answer_is_no_compression(compression):
    assert accepted([], compression) is None


@pytest.mark.parametrize("params", [*UNSOUND.values(), [("client_max_window_bits", None)]], ids=[*UNSOUND, "no value"])
def test_an_unsound_answer_fails_the_connection(params):
    with pytest.raises(HandshakeError, match=r"RFC 7692 section 7\.1") as caught:
        accepted([(NAME, params)], Compression())
    assert caught.value.status == 101


NOT_OFFERED = {
    "nothing offered": (None, NAME, "RFC 6455 section 9.1"),
    "another extension": (Compression(), "x-webkit-deflate-frame", "RFC 6455 section 9.1"),
    "twice": (Compression(), f"{NAME}, {NAME}", "RFC 6455 section 9.1"),
    "one more": (Compression(), f"{NAME}, x-other", "RFC 6455 section 9.1"),
    "takeover after all": (Compression(server_no_context_takeover=True), NAME, "RFC 7692 section 7.1.1.1"),
    "server bits missing": (SMALL, NAME, "RFC 7692 section 7.1.2.1"),
    "server bits larger": (SMALL, f"{NAME}; server_max_window_bits=11", "RFC 7692 section 7.1.2.1"),
}


@pytest.mark.parametrize(("compression", "answer", "rule"), NOT_OFFERED.values(), ids=NOT_OFFERED)
def test_an_answer_to_something_else_fails_the_connection(compression, answer, rule):
    with pytest.raises(HandshakeError, match=rule):
        accepted(parsed(answer), compression)


# What Autobahn's fuzzing client offers in 12.* and 13.1 to 13.7, as (no takeover, window bits) for the server.
AUTOBAHN = {
    "12.*, 13.1": [(False, 0)],
    "13.2": [(True, 0)],
    "13.3": [(False, 9)],
    "13.4": [(False, 15)],
    "13.5": [(True, 9)],
    "13.6": [(True, 15)],
    "13.7": [(True, 9), (True, 0), (False, 0)],
}


@pytest.mark.parametrize("wanted", AUTOBAHN.values(), ids=AUTOBAHN)
def test_autobahn_offers_nothing_that_is_declined(wanted):
    offers = ", ".join(
        f"{NAME}; client_no_context_takeover; client_max_window_bits"
        + "; server_no_context_takeover" * fresh
        + f"; server_max_window_bits={bits}" * bool(bits)
        for fresh, bits in wanted
    )
    _, agreed = accept(parsed(offers), Compression())
    fresh, bits = wanted[0]
    assert agreed == Parameters(fresh, True, min(bits, 12) if bits else 15, 12)


@pytest.mark.parametrize("wanted", AUTOBAHN.values(), ids=AUTOBAHN)
def test_autobahn_answers_nothing_that_is_refused(wanted):
    fresh, bits = wanted[0]  # its fuzzing server takes the first, and wants it of the client
    answer = NAME + "; client_no_context_takeover" * fresh + f"; client_max_window_bits={bits}" * bool(bits)
    assert accepted(parsed(answer), Compression()) == Parameters(False, fresh, 15, bits or 15)


SETTINGS = [
    *({name: value} for name in ("window_bits", "peer_window_bits") for value in (7, 16)),
    *({"window_bits": None}, {"mem_level": 0}, {"mem_level": 10}, {"level": -2}, {"level": 10}),
]


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_settings_that_cannot_be(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        Compression(**setting)


bits = st.integers(8, 15)
compressions = st.builds(
    Compression,
    window_bits=bits,
    peer_window_bits=st.none() | bits,
    mem_level=st.integers(1, 9),
    level=st.integers(-1, 9),
    server_no_context_takeover=st.booleans(),
    client_no_context_takeover=st.booleans(),
)


@given(compressions, compressions)
def test_both_ends_agree_on_the_same(client, server):
    answer, agreed = accept(parsed(offer(client)), server)
    assert accepted(parsed(answer), client) == agreed


names = st.sampled_from([*Parameters._fields, "x"])
values = st.none() | st.integers(7, 16).map(str) | st.text("0189 x", max_size=3)
answers = st.lists(st.tuples(st.sampled_from([NAME, "x"]), st.lists(st.tuples(names, values), max_size=5)), max_size=3)


@given(answers, compressions)
def test_any_parameters_are_judged(answer, compression):
    """Invariant: accept() never raises, accepted() nothing but HandshakeError."""
    accept(answer, compression)
    with contextlib.suppress(HandshakeError):
        accepted(answer, compression)


# ----------------------------------------------------------------------------------------------- the examples of 7.2.3


HELLO = bytes.fromhex("f248cdc9c90700")
EXAMPLES = {
    "7.2.3.1 one compressed block": (["f248cdc9c90700"], ["Hello"]),
    "7.2.3.2 the window is shared": (["f248cdc9c90700", "f200110000"], ["Hello", "Hello"]),
    "7.2.3.2 the window is not used": (["f248cdc9c90700", "f248cdc9c90700"], ["Hello", "Hello"]),
    "7.2.3.3 no compression": (["000500faff48656c6c6f00"], ["Hello"]),
    "7.2.3.4 BFINAL": (["f348cdc9c9070000"], ["Hello"]),
    "7.2.3.5 two blocks": (["f2480500" + "0000ffff" + "cac9c90700"], ["Hello"]),
    "7.2.3.6 an empty message": (["00"], [""]),
}


@pytest.mark.parametrize(("payloads", "messages"), EXAMPLES.values(), ids=EXAMPLES)
@pytest.mark.parametrize("size", [1, 3, 100], ids=lambda size: f"fragments of {size}")
def test_examples_are_inflated(payloads, messages, size):
    server, _ = ends()
    for payload, message in zip(map(bytes.fromhex, payloads), messages):
        starts = range(0, len(payload), size)
        got = [server.inflate(payload[at : at + size], 5, at == starts[-1]) for at in starts]
        assert b"".join(got) == message.encode()


def test_examples_are_what_zlib_makes():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "_igzip", None)
        server, _ = ends()
        assert [server.deflate(b"Hello"), server.deflate(b"Hello")] == [HELLO, bytes.fromhex("f200110000")]  # 7.2.3.2
        server, _ = ends(FRESH)
        assert [server.deflate(b"Hello"), server.deflate(b"Hello")] == [HELLO, HELLO]
        assert server.deflate(b"") == b"\x00"  # 7.2.3.6


# -------------------------------------------------------------------------------------------------------- in both roles


def conversation(seed=1, count=8):
    """Return messages that tempt a compressor to refer far back."""
    made = random.Random(seed)
    units = [made.randbytes(size) for size in (1, 200, 249, 255, 300, 500, 700, 1500)]
    return [TEXT, b"", *(made.choice(units) * made.randint(1, 3) + made.choice(units) for _ in range(count)), TEXT]


@pytest.mark.parametrize("parameters", [Parameters(), FRESH], ids=["takeover", "no takeover"])
@pytest.mark.parametrize("size", ALL_BITS)
def test_round_trip(size, parameters):
    server, client = ends(parameters._replace(server_max_window_bits=size, client_max_window_bits=23 - size))
    for message in conversation():
        assert inflated(client, server.deflate(message)) == message
        assert inflated(server, client.deflate(message)) == message


@pytest.mark.parametrize("size", ALL_BITS)
def test_the_window_agreed_on_is_kept_to(size):
    server, _ = ends(Parameters(server_max_window_bits=size))
    peer = Strict(size)
    for message in conversation(seed=size):
        assert peer.inflate(server.deflate(message)) == message


@pytest.mark.parametrize("level", range(-1, 10))
def test_a_window_of_256_bytes_is_kept_to_at_every_level(level):
    server, _ = ends(Parameters(server_max_window_bits=8), Compression(level=level))
    peer = Strict(8)
    for message in conversation(seed=8):
        assert peer.inflate(server.deflate(message)) == message


def test_the_check_of_the_window_can_fail():
    peer = Strict(8)
    far = random.Random(1).randbytes(300)
    with pytest.raises(zlib.error, match="too far back"):
        peer.inflate(raw(far * 2)[:-4])


def test_our_own_window_may_be_smaller_than_agreed():
    server, _ = ends(compression=Compression(window_bits=9))
    peer = Strict(9)
    for message in conversation():
        assert peer.inflate(server.deflate(message)) == message


@pytest.mark.parametrize("size", ALL_BITS[:-1])
def test_a_peer_that_goes_beyond_its_window_is_refused(size):
    server, _ = ends(Parameters(client_max_window_bits=size))
    unit, gap = random.Random(1).randbytes(100), random.Random(2).randbytes((1 << size) - 50)
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    for message in unit, gap:
        assert inflated(server, deflater.compress(message) + deflater.flush(zlib.Z_SYNC_FLUSH)[:-4]) == message
    with pytest.raises(InvalidPayload, match="too far back"):
        inflated(server, deflater.compress(unit) + deflater.flush(zlib.Z_SYNC_FLUSH)[:-4])


def test_repr():
    server, client = ends(Parameters(True, False, 10, 9), Compression())
    assert repr(server) == "<Deflate own: 10 bits; peer: 9 bits, takeover>"
    inflated(server, client.deflate(TEXT))
    assert repr(server) == "<Deflate own: 10 bits; peer: 9 bits, takeover, held>"
    assert repr(client) == "<Deflate own: 9 bits, takeover, held; peer: 10 bits>"


@pytest.mark.parametrize(("threshold", "wanted"), [(0, [True, True, True]), (2, [False, False, True])])
def test_small_messages_are_not_wanted(threshold, wanted):
    server, _ = ends(compression=Compression(threshold=threshold))
    assert [server.wants(message) for message in (b"", b"a", b"ab")] == wanted


# --------------------------------------------------------------------------------------------------------- other people


@pytest.mark.parametrize("ours", [Compression(), NO_TAKEOVER, Compression(window_bits=9), PLAIN], ids=repr)
@pytest.mark.parametrize("theirs", [{}, {"server_no_context_takeover": True}, {"server_max_window_bits": 9}], ids=str)
def test_a_client_of_websockets(ours, theirs):
    module = pytest.importorskip("websockets.extensions.permessage_deflate")
    factory = module.ClientPerMessageDeflateFactory(**theirs)
    answer, agreed = accept([(NAME, factory.get_request_params())], ours)
    talk_to_websockets(Deflate(agreed, ours, server=True), factory.process_response_params(parsed(answer)[0][1], []))


@pytest.mark.parametrize(
    "ours", [Compression(), NO_TAKEOVER, Compression(window_bits=9, peer_window_bits=9)], ids=["default", "fresh", "9"]
)
@pytest.mark.parametrize(
    "theirs", [{}, {"client_max_window_bits": 9, "client_no_context_takeover": True}], ids=["default", "strict"]
)
def test_a_server_of_websockets(ours, theirs):
    module = pytest.importorskip("websockets.extensions.permessage_deflate")
    factory = module.ServerPerMessageDeflateFactory(**theirs)
    params, extension = factory.process_request_params(parsed(offer(ours))[0][1], [])
    talk_to_websockets(Deflate(accepted([(NAME, params)], ours), ours, server=False), extension)


def talk_to_websockets(deflate, extension):
    frames = importlib.import_module("websockets.frames")
    for message in conversation():
        sent = extension.encode(frames.Frame(frames.Opcode.BINARY, message))
        assert inflated(deflate, bytes(sent.data)) == message
        payload = deflate.deflate(message)
        assert extension.decode(frames.Frame(frames.Opcode.BINARY, payload, rsv1=True)).data == message


@pytest.mark.parametrize("ours", [Compression(), NO_TAKEOVER, PLAIN], ids=["default", "fresh", "15"])
@pytest.mark.parametrize("theirs", [{}, {"client_no_context_takeover": True, "client_max_window_bits": 10}], ids=str)
@pytest.mark.parametrize("server", [True, False], ids=["its client", "its server"])
def test_wsproto(ours, theirs, server):
    module = pytest.importorskip("wsproto.extensions")
    frames = importlib.import_module("wsproto.frame_protocol")
    extension = module.PerMessageDeflate(**theirs)
    if server:
        answer, agreed = accept(parsed(f"{NAME}; {extension.offer()}"), ours)
        extension.finalize(answer)
    else:
        agreed = accepted(parsed(f"{NAME}; {extension.accept(offer(ours))}".rstrip("; ")), ours)
    deflate = Deflate(agreed, ours, server=server)
    peer, none = SimpleNamespace(client=server), frames.RsvBits(False, False, False)
    for message in conversation():
        _, payload = extension.frame_outbound(peer, frames.Opcode.BINARY, none, message, True)
        assert inflated(deflate, payload) == message
        payload = deflate.deflate(message)
        extension.frame_inbound_header(peer, frames.Opcode.BINARY, none._replace(rsv1=True), len(payload))
        got = extension.frame_inbound_payload_data(peer, payload)
        assert got + extension.frame_inbound_complete(peer, True) == message


# ---------------------------------------------------------------------------------------------------------- the limit


@pytest.mark.parametrize("message", [b"", b"a", TEXT, b"a" * 5000, random.Random(1).randbytes(5000)], ids=len)
@pytest.mark.parametrize("deflated", [raw, lambda message: raw(message, flush=zlib.Z_FINISH) + b"\x00" + TAIL])
def test_exactly_at_the_limit(message, deflated):
    server, _ = ends()
    payload = deflated(message)[:-4]
    for _ in range(2):
        assert inflated(server, payload, limit=len(message)) == message
    if message:
        with pytest.raises(MessageTooBig):
            inflated(server, payload, limit=len(message) - 1)


def test_the_limit_in_the_middle_of_a_message():
    server, _ = ends()
    payload = raw(TEXT * 2)[:-4]
    with pytest.raises(MessageTooBig):
        server.inflate(payload, len(TEXT), final=False)


def bomb(mebibytes):
    return raw(bytes(MIB), flush=zlib.Z_FULL_FLUSH) * mebibytes


@pytest.mark.parametrize(
    "payload",
    [bomb(64), raw(b"x", flush=zlib.Z_FINISH) + bomb(64), raw(bytes(MIB), flush=zlib.Z_FINISH) * 64],
    ids=["one stream", "after a final block", "final blocks"],
)
def test_a_bomb_takes_no_more_than_the_limit(payload):
    server, _ = ends()
    tracemalloc.start()
    try:
        with pytest.raises(MessageTooBig) as caught:
            inflated(server, payload, limit=MIB)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.code == 1009
    assert peak < 4 * MIB


def test_a_high_limit_costs_nothing():
    server, _ = ends()
    payload = raw(TEXT)[:-4]
    tracemalloc.start()
    try:
        inflated(server, payload, limit=1 << 40)
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


BROKEN = {
    "reserved block type": "07",
    "reserved block type after a final block": "030007",
    "stored lengths that differ": "00050000ff48656c6c6f00",
    "refers to before the beginning": "f200110000",
    "refers to before a final block": "f348cdc9c90700f200110000",
}


@pytest.mark.parametrize("payload", BROKEN.values(), ids=BROKEN)
def test_a_broken_stream(payload):
    server, _ = ends()
    with pytest.raises(InvalidPayload, match="cannot inflate") as caught:
        inflated(server, bytes.fromhex(payload))
    assert caught.value.code == 1007
    assert len(str(caught.value)) <= 123


# -------------------------------------------------------------------------------------------------- blocks with BFINAL


def final(message):
    return raw(message, flush=zlib.Z_FINISH)


FINAL = {
    "as it should be": ([final(TEXT) + b"\x00"], TEXT),
    "without the 0x00": ([final(TEXT)], TEXT),
    "without the 0x00, behind it an empty fragment": ([final(TEXT), b"", b""], TEXT),
    "an empty one": ([b"\x03\x00\x00"], b""),
    "two": ([final(b"ab") + final(b"cd") + b"\x00"], b"abcd"),
    "two without the 0x00": ([final(b"ab") + final(b"cd")], b"abcd"),
    "first, then others": ([final(b"ab") + raw(b"cd", b"ef")[:-4]], b"abcdef"),
    "last of a fragment": ([final(b"ab"), raw(b"cd")[:-4]], b"abcd"),
    "in the middle of a fragment": ([final(b"ab") + raw(b"cd")[:3], raw(b"cd")[3:-4]], b"abcd"),
    "each its own fragment": ([final(b"ab"), final(b"cd"), b"\x00"], b"abcd"),
    "large, then large": ([final(TEXT * 500) + raw(random.Random(1).randbytes(9000))[:-4]], None),
    "a thousand": ([final(b"ab") * 1000 + b"\x00"], b"ab" * 1000),
}


@pytest.mark.parametrize(("fragments", "message"), FINAL.values(), ids=FINAL)
@pytest.mark.parametrize("parameters", [Parameters(), FRESH], ids=["takeover", "no takeover"])
def test_final_blocks(parameters, fragments, message):
    server, client = ends(parameters)
    message = TEXT * 500 + random.Random(1).randbytes(9000) if message is None else message
    for _ in range(2):
        got = [server.inflate(data, MIB, at == len(fragments)) for at, data in enumerate(fragments, 1)]
        assert b"".join(got) == message
    client.deflate(b"before")
    client.release()
    assert inflated(server, client.deflate(TEXT)) == TEXT


class Counted:
    """Counts inflaters, and the bytes that each is given."""

    def __init__(self, monkeypatch):
        self.made = self.given = 0
        self._make = zlib.decompressobj
        monkeypatch.setattr(room.zlib, "decompressobj", self)

    def __call__(self, wbits):
        self.made += 1
        self.inflater = self._make(wbits)
        return self

    def decompress(self, data, limit):
        self.given += len(data)
        return self.inflater.decompress(data, limit)

    eof = property(lambda self: self.inflater.eof)
    unused_data = property(lambda self: self.inflater.unused_data)
    unconsumed_tail = property(lambda self: self.inflater.unconsumed_tail)


def test_empty_blocks_without_end(monkeypatch):
    counted = Counted(monkeypatch)
    payload = (b"\x00" + TAIL) * 100_000 + b"\x00"
    assert inflated(ends()[0], payload) == b""
    assert (counted.made, counted.given) == (1, len(payload) + 4)


def test_final_blocks_without_end(monkeypatch):
    counted = Counted(monkeypatch)
    payload = b"\x03\x00" * 500_000
    with pytest.raises(InvalidPayload, match="too many final"):
        inflated(ends()[0], payload)
    assert counted.made <= 4097
    assert counted.given <= len(payload) + 4 + 4097 * 4096


def test_final_blocks_copy_what_follows_only_once(monkeypatch):
    counted = Counted(monkeypatch)
    payload = b"\x03\x00" * 4000 + raw(random.Random(1).randbytes(MIB))[:-4]
    assert len(inflated(ends()[0], payload)) == MIB
    assert counted.given <= 2 * len(payload) + 4000 * 4096 + 8


# ------------------------------------------------------------------------------------------------------- the contexts


def held(deflate):
    return deflate._deflater is not None, deflate._inflater is not None


def test_contexts_are_made_when_needed():
    server, client = ends()
    assert held(server) == held(client) == (False, False)
    payload = client.deflate(TEXT)
    assert held(client) == (True, False)
    inflated(server, payload)
    assert held(server) == (False, True)


def test_no_takeover_holds_no_context_between_messages():
    server, client = ends(FRESH)
    payload = client.deflate(TEXT)
    assert held(client) == (False, False)
    server.inflate(payload[:5], MIB, False)
    server.release()
    server.release_idle()
    assert held(server) == (False, True)
    server.inflate(payload[5:], MIB, True)
    assert held(server) == (False, False)


@pytest.mark.parametrize("drop", [Deflate.release, Deflate.share], ids=["release", "share"])
def test_a_deflater_may_go_at_any_time(drop):
    server, client = ends()
    for _ in range(3):
        assert inflated(server, client.deflate(TEXT)) == TEXT
        drop(client)
        assert held(client) == (False, False)
    assert held(server) == (False, True)


def test_an_idle_deflater_goes():
    server, _ = ends()
    server.release_idle()
    server.deflate(TEXT)
    server.release_idle()
    assert held(server) == (True, False)
    server.deflate(TEXT)
    server.release_idle()
    assert held(server) == (True, False)
    server.release_idle()
    assert held(server) == (False, False)


# ---------------------------------------------------------------------------------------------------- for many at once


def test_one_key_for_those_who_agree_on_the_same():
    browser = Deflate(Parameters(client_max_window_bits=12), Compression(), server=True)
    other = Deflate(FRESH, Compression(threshold=0), server=True)
    small = Deflate(Parameters(server_max_window_bits=9), Compression(), server=True)
    assert browser.share() == other.share()
    assert len({deflate.share() for deflate in (browser, other, small)}) == 2
    assert deflate_once(TEXT, browser.share()) == deflate_once(TEXT, other.share())


@pytest.mark.parametrize("size", ALL_BITS)
def test_everybody_can_inflate_what_is_shared(size):
    server, _ = ends(Parameters(server_max_window_bits=size))
    peer = Strict(size)
    for message in conversation():
        assert peer.inflate(server.deflate(message)) == message
        assert peer.inflate(deflate_once(message, server.share())) == message


def test_why_sharing_drops_the_deflater():
    server, client = ends()
    first, shared = random.Random(1).randbytes(500), random.Random(2).randbytes(100)
    inflated(client, server.deflate(first))
    kept = server._deflater
    inflated(client, deflate_once(shared, server.share()))
    server._deflater = kept  # it takes `first` for the last 500 bytes, which are others for the peer
    assert inflated(client, server.deflate(first)) != first


message = st.binary(max_size=300) | st.builds(bytes.__mul__, st.binary(max_size=40), st.integers(0, 60))
actions = st.tuples(st.sampled_from(["deflate", "share", "release", "release_idle", "plain"]), message)


@settings(deadline=None)
@given(st.lists(actions, max_size=12), bits, st.booleans())
def test_whatever_is_sent_arrives(steps, size, fresh):
    """Invariant: a peer with exactly the window agreed on inflates each message, in any order of what we may do."""
    server, _ = ends(Parameters(server_max_window_bits=size, server_no_context_takeover=fresh))
    peer = Strict(size)
    for action, body in steps:
        if action == "deflate":
            assert peer.inflate(server.deflate(body)) == body
        elif action == "share":
            assert peer.inflate(deflate_once(body, server.share())) == body
        elif action != "plain":
            getattr(server, action)()


@settings(deadline=None)
@given(st.lists(message, min_size=1, max_size=4), st.lists(st.integers(0, 400), max_size=6), st.booleans())
def test_it_does_not_matter_where_a_message_is_cut(messages, cuts, fresh):
    """Invariant: any split of a compressed message into fragments inflates to the same."""
    server, client = ends(FRESH if fresh else Parameters())
    for body in messages:
        payload = client.deflate(body)
        marks = [0, *sorted(min(cut, len(payload)) for cut in cuts), len(payload)]
        pieces = [payload[begin:end] for begin, end in pairwise(marks)]
        got, left = [], len(body)
        for at, piece in enumerate(pieces, 1):
            got.append(server.inflate(piece, left, at == len(pieces)))
            left -= len(got[-1])
        assert b"".join(got) == body


streams = st.lists(
    st.binary(max_size=40)
    | st.sampled_from([b"\x03\x00", b"\x00" + TAIL, b"\x00", HELLO, TAIL, b"\xf3\x48\xcd\xc9\xc9\x07\x00"])
    | message.map(raw)
    | message.map(final),
    max_size=6,
).map(b"".join)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(streams, st.integers(0, 2000), st.booleans()), min_size=1, max_size=4), bits)
def test_any_bytes_are_inflated_or_refused(fragments, size):
    """Invariant: inflate() returns at most `limit` bytes, or raises InvalidPayload or MessageTooBig."""
    server, _ = ends(Parameters(client_max_window_bits=size))
    with contextlib.suppress(InvalidPayload, MessageTooBig):
        for data, limit, end in fragments:
            assert len(server.inflate(data, limit, end)) <= limit


# ------------------------------------------------------------------------------------------------- the faster deflater


def load(monkeypatch, isal, environment=None):
    """Import the room anew, with such a package `isal` and such a GWS_ZLIB."""
    monkeypatch.setitem(sys.modules, "isal", isal)
    monkeypatch.setitem(sys.modules, "isal.isal_zlib", isal)
    monkeypatch.delenv("GWS_ZLIB", raising=False)
    if environment is not None:
        monkeypatch.setenv("GWS_ZLIB", environment)
    spec = importlib.util.spec_from_file_location("gws_deflate_again", room.__file__)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


class Twin:
    """Stands in for isal.isal_zlib."""

    @staticmethod
    def compressobj(level, method, wbits, mem_level):
        return zlib.compressobj(level, method, wbits, mem_level)


@pytest.mark.parametrize(
    ("isal", "environment", "found"),
    [(None, None, False), (Twin, None, True), (Twin, "isal", True), (Twin, "zlib", False)],
    ids=["not installed", "installed", "wanted", "not wanted"],
)
def test_isal_is_found(monkeypatch, isal, environment, found):
    module = load(monkeypatch, isal, environment)
    server = module.Deflate(module.Parameters(), module.Compression(), server=True)
    assert (server.share()[0] is Twin.compressobj) is found
    assert Strict(12).inflate(server.deflate(TEXT)) == TEXT


@pytest.mark.parametrize(
    ("setting", "used"),
    [({}, True), ({"level": 1}, True), ({"level": 0}, False), ({"level": 6}, False), ({"window_bits": 8}, False)],
    ids=str,
)
def test_isal_deflates_at_the_default_level_and_at_1(monkeypatch, setting, used):
    monkeypatch.setattr(room, "_igzip", Twin)
    monkeypatch.setattr(room, "_key", room._key.__wrapped__)
    key = Deflate(Parameters(), Compression(**setting), server=True).share()
    assert (key[0] is Twin.compressobj) is used


def test_a_large_message_is_deflated_on_its_own():
    server, client = ends()
    large = b"so it goes, and so on. " * 2000
    for message in (TEXT, large, TEXT, large):
        assert inflated(client, server.deflate(message)) == message
    assert deflate_once(large, server.share(len(large))) == server.deflate(large)
    assert server._deflater is None  # it would refer to what the peer's window does not hold any more


@pytest.mark.parametrize("bits", [9, 12, 15])
def test_a_large_message_stays_within_the_window_that_was_agreed_on(bits):
    server = Deflate(Parameters(server_max_window_bits=bits), Compression(), server=True)
    far = bytes(random.Random(1).randbytes(2000)) * 20  # what is worth referring to is 2,000 bytes before
    assert Strict(bits).inflate(server.deflate(far)) == far


def test_what_a_pause_has_interrupted_goes_on_from_there():
    server, client = ends()
    message = b"so it goes. " * 50_000
    payload = client.deflate(message)
    paused = []

    def pause():
        paused.append(True)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        server.inflate(payload, len(message), True, pause)
    assert server.inflate(payload, len(message), True, pause) == message
    assert len(paused) == 1
    assert inflated(server, client.deflate(message)) == message


def test_who_has_to_wait_with_a_first_message_holds_no_inflater():
    server, client = ends()
    message = b"so it goes. " * 50_000
    held = []

    def pause():
        server.shed()
        held.append((server._inflater, server._half))
        if len(held) == 1:
            raise KeyboardInterrupt

    payload = client.deflate(message)
    with pytest.raises(KeyboardInterrupt):
        server.inflate(payload, len(message), True, pause)
    assert server.inflate(payload, len(message), True, pause) == message
    assert held == [(None, None)] * 2
    assert inflated(server, client.deflate(message)) == message


def test_who_has_to_wait_with_a_later_message_goes_on_from_there():
    server, client = ends()
    first, second = b"so it goes. " * 1000, b"and so it goes on. " * 50_000
    assert inflated(server, client.deflate(first)) == first
    assert server.inflate(client.deflate(second), len(second), True, server.shed) == second
    assert inflated(server, client.deflate(first)) == first


@pytest.mark.parametrize("size", [16 * 1024 - 1, 16 * 1024, 16 * 1024 + 1, 100_000])
def test_a_limit_holds_for_what_comes_in_steps(size):
    payload = ends()[1].deflate(bytes(size))
    assert ends()[0].inflate(payload, size, True) == bytes(size)
    with pytest.raises(MessageTooBig):
        ends()[0].inflate(payload, size - 1, True)


SMALL_WINDOW = Parameters(client_max_window_bits=12)


def test_the_inflater_of_an_idle_connection_is_packed():
    server, client = ends(SMALL_WINDOW)
    context = zlib.compressobj(6, zlib.DEFLATED, -12)
    for round_ in range(4):
        for number in range(20):
            message = b"message %d of %d, which refers to those before. " % (number, round_) * (number + 1)
            payload = (context.compress(message) + context.flush(zlib.Z_SYNC_FLUSH))[:-4]
            assert inflated(server, payload) == message
        assert not server.release_idle()
        assert server._inflater is not None
        assert server.release_idle()
        assert server._inflater is None
        assert len(server._window) < 500
        assert not server.release_idle()


@pytest.mark.parametrize(
    ("parameters", "payload"),
    [
        (Parameters(), raw(b"its window is large")[:-4]),
        (Parameters(client_no_context_takeover=True), raw(b"it has none")[:-4]),
        (SMALL_WINDOW, b"\x00\x0a\x00\xf5\xffabc"),  # a stored block of 10 bytes, 3 of them here
    ],
)
def test_an_inflater_that_cannot_be_packed_goes_on(parameters, payload):
    server, twin = ends(parameters)[0], ends(parameters)[0]
    for deflate in (server, twin):
        with contextlib.suppress(InvalidPayload):
            deflate.inflate(payload, MIB, True)
    server.release_idle()
    assert not server.release_idle()
    following = raw(b"what follows")[:-4]
    outcomes = []
    for deflate in (server, twin):
        try:
            outcomes.append(inflated(deflate, following))
        except InvalidPayload as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]


def test_an_inflater_in_the_middle_of_a_message_stays():
    server = ends(SMALL_WINDOW)[0]
    payload = raw(b"in two fragments, " * 100)[:-4]
    first = server.inflate(payload[:10], MIB, False)
    server.release_idle()
    assert not server.release_idle(between=False)
    assert first + server.inflate(payload[10:], MIB, True) == b"in two fragments, " * 100


def test_what_a_window_recalls_is_bounded():
    server, client = ends(SMALL_WINDOW)
    for size in (0, 1, 100, 5000, 100_000) * 20:
        inflated(server, client.deflate(bytes(size)))
        assert len(server._recent) <= 5 * 1024
