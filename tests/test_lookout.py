"""The lookout hears that a peer has sent its last byte, and takes none of them."""

from __future__ import annotations

import gevent
import pytest
from conftest import turns, until

from gws import lookout
from gws.frame import CLOSE, PING, TEXT, encode
from gws.lookout import Lookout, has_messages

ONE, PINGED, BYE = (encode(b"data", opcode, masked=True) for opcode in (TEXT, PING, CLOSE))


@pytest.fixture
def watch():
    """Return a Lookout; `.heard` is what it has heard."""
    heard = []
    made = Lookout(heard.append)
    yield made, heard
    made.close()
    made.close()


def test_a_peer_that_leaves(raw, watch):
    looking, heard = watch
    (fd, peer), (other, _) = raw(), raw()
    for each in (fd, other):
        looking.add(each)
    peer.sock.sendall(ONE)
    turns()
    assert heard == []
    peer.sock.close()
    until(lambda: heard == [fd])
    turns()
    assert heard == [fd]
    assert fd.read() == "data"


def test_a_peer_that_says_no_more_but_listens(raw, watch):
    looking, heard = watch
    fd, peer = raw()
    looking.add(fd)
    peer.sock.shutdown(gevent.socket.SHUT_WR)
    until(lambda: heard == [fd])


@pytest.mark.parametrize("closed", [False, True])
def test_who_is_watched_no_longer(raw, watch, closed):
    looking, heard = watch
    fd, peer = raw()
    looking.add(fd)
    if closed:
        fd.cut(1001, "")
    looking.discard(fd)
    looking.discard(fd)
    peer.sock.close()
    turns()
    assert heard == []


def test_who_is_discarded_in_the_turn_in_which_the_peer_leaves(raw):
    both, heard = [], []

    def left(fd):
        heard.append(fd)
        for each in both:
            looking.discard(each)

    looking = Lookout(left)
    peers = []
    for fd, peer in (raw(), raw()):
        looking.add(fd)
        both.append(fd)
        peers.append(peer)
    for peer in peers:
        peer.sock.close()
    until(lambda: heard)
    turns()
    assert len(heard) == 1
    looking.close()


def test_where_there_is_no_epoll_nobody_is_heard(raw, watch, monkeypatch):
    monkeypatch.setattr(lookout, "_epoll", None)
    looking, heard = watch
    fd, peer = raw()
    looking.add(fd)
    peer.sock.close()
    turns()
    looking.discard(fd)
    assert heard == []


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"", False),
        (PINGED + BYE, False),
        (PINGED + ONE, True),
        (ONE[:5], False),
        (ONE[:8], False),
        (BYE[:3], False),
        (b"\x17\x03\x03 sealed", True),
        (b"\xc1\x80 packed", True),
        (encode(bytes(5000), TEXT, masked=True), True),
    ],
)
def test_whether_there_are_messages(raw, sent, expected):
    fd, peer = raw()
    peer.sock.sendall(sent)
    peer.sock.close()
    assert has_messages(fd) is expected
    assert fd.stream.received == 0


def test_a_message_that_was_received_with_another(raw):
    fd, peer = raw()
    peer.sock.sendall(ONE + ONE)
    assert fd.read() == "data"
    assert has_messages(fd) is True
    assert fd.read() == "data"
    assert has_messages(fd) is False


def test_a_closed_connection_has_none(raw):
    fd, _ = raw()
    fd.cut(1001, "")
    assert (has_messages(fd), fd.stream.fileno()) == (False, -1)
