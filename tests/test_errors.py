"""gws.errors: what each error is, carries and says."""

from __future__ import annotations

import inspect

import pytest

import gws
from gws import errors
from gws.errors import (
    CallFailed,
    ConnectionClosed,
    GwsError,
    HandshakeError,
    InvalidPayload,
    MessageTooBig,
    PolicyViolation,
    ProtocolError,
    ServiceError,
    ServiceExited,
)

TREE = [
    (GwsError, Exception),
    (HandshakeError, GwsError),
    (ProtocolError, GwsError),
    (InvalidPayload, ProtocolError),
    (PolicyViolation, ProtocolError),
    (MessageTooBig, ProtocolError),
    (ConnectionClosed, GwsError),
    (ServiceError, GwsError),
    (ServiceExited, ServiceError),
    (CallFailed, ServiceError),
]


@pytest.mark.parametrize(("error", "parent"), TREE, ids=lambda kind: kind.__name__)
def test_tree(error: type, parent: type) -> None:
    assert error.__bases__ == (parent,)


def test_the_tree_is_whole() -> None:
    made = {kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__}
    assert made == {error for error, _ in TREE}
    assert set(errors.__all__) == {kind.__name__ for kind in made}


def test_the_front_door_shows_what_users_catch() -> None:
    for name in set(gws.__all__) - {"__version__"}:
        assert getattr(gws, name) is getattr(errors, name)


# "1002 indicates that an endpoint is terminating the connection due to a protocol error. ... 1007 ... data within a
# message that was not consistent with the type of the message (e.g., non-UTF-8 [RFC3629] data within a text message).
# ... 1008 ... a message that violates its policy. ... 1009 ... a message that is too big for it to process."  (7.4.1)
@pytest.mark.parametrize(
    ("error", "code"), [(ProtocolError, 1002), (InvalidPayload, 1007), (PolicyViolation, 1008), (MessageTooBig, 1009)]
)
def test_what_a_peer_can_do_wrong_carries_its_close_code(error: type[ProtocolError], code: int) -> None:
    assert error.code == error("why").code == code
    assert str(error("why")) == "why"


def test_a_handshake_error_is_an_answer() -> None:
    refusal = HandshakeError(401, "who are you?", [("WWW-Authenticate", "Basic")])
    assert (refusal.status, refusal.headers, refusal.body) == (401, (("WWW-Authenticate", "Basic"),), b"who are you?\n")
    assert str(refusal) == "401 who are you?"


@pytest.mark.parametrize("body", [b"", b"<p>"])
def test_a_handshake_error_keeps_the_body_it_is_given(body: bytes) -> None:
    assert HandshakeError(404, "no", body=body).body == body


def test_a_handshake_error_without_a_response_says_no_status() -> None:
    assert str(HandshakeError(0, "that was no HTTP")) == "that was no HTTP"
    assert HandshakeError(0, "no").headers == ()


@pytest.mark.parametrize(
    ("end", "text"),
    [
        (ConnectionClosed(1000, "bye"), "1000 bye"),
        (ConnectionClosed(1006), "1006"),
        (ConnectionClosed(1005, ""), "1005"),
    ],
)
def test_connection_closed_says_why(end: ConnectionClosed, text: str) -> None:
    assert str(end) == text
    assert end.args == (end.code, end.reason)


@pytest.mark.parametrize("reason", ["a\x1b[2Jb", "a\nERROR: b", "a\x9bb", "a\u202eb"])
def test_what_goes_to_a_log_leaves_the_terminal_alone(reason: str) -> None:
    """It may hold a peer's words; whoever asks for them as they are has `reason`, and `args`."""
    for error in (ConnectionClosed(1000, reason), HandshakeError(0, reason), HandshakeError(400, reason)):
        assert str(error).isprintable()
        assert reason in error.args
