"""Every exception that gws raises on purpose; each carries what must be told to the peer.

Knows nothing: this is the ground floor.  What the *caller* does wrong is a TypeError or a ValueError and does not
live here.

    GwsError                      catch this to catch gws
    +-- HandshakeError            no connection came to be        .status .headers .body
    +-- ProtocolError             the PEER broke the RFC          .code = 1002
    |   +-- InvalidPayload        not UTF-8                       .code = 1007
    |   +-- PolicyViolation       a limit of ours                 .code = 1008
    |   +-- MessageTooBig                                         .code = 1009
    +-- ConnectionClosed          it is over                      .code .reason; __cause__ tells why
    +-- ServiceError              the service wing
        +-- ServiceExited         no such address, or it exited before it answered
        +-- CallFailed            the service raised; __cause__ is what it raised
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "CallFailed",
    "ConnectionClosed",
    "GwsError",
    "HandshakeError",
    "InvalidPayload",
    "MessageTooBig",
    "PolicyViolation",
    "ProtocolError",
    "ServiceError",
    "ServiceExited",
]


class GwsError(Exception):
    """Whatever gws raises on purpose."""


class HandshakeError(GwsError):
    """The opening handshake failed: no connection came to be (RFC 6455 section 4).

    A server answers with it, a client is told by it: `status` is the HTTP status (0 when there was no sound response
    at all), `headers` are name and value pairs, `body` is bytes and names the rule that was broken.
    """

    def __init__(self, status: int, reason: str, headers: Iterable[tuple[str, str]] = (), body: bytes | None = None):
        super().__init__(reason)
        self.status = status
        self.headers = tuple(headers)
        self.body = reason.encode() + b"\n" if body is None else body

    def __str__(self) -> str:
        reason = _shown(str(self.args[0]))
        return f"{self.status} {reason}" if self.status else reason


class ProtocolError(GwsError):
    """The peer broke RFC 6455; the connection is failed with `code` and this error's text as the reason."""

    code = 1002


class InvalidPayload(ProtocolError):
    """A text message or a close reason is not UTF-8 (RFC 6455 section 8.1)."""

    code = 1007


class PolicyViolation(ProtocolError):
    """The peer went beyond a limit of ours for which there is no better code (RFC 6455 section 7.4.1)."""

    code = 1008


class MessageTooBig(ProtocolError):
    """A message is larger than `max_message` (RFC 6455 section 7.4.1)."""

    code = 1009


class ConnectionClosed(GwsError):
    """The connection is over; `code` and `reason` are those of RFC 6455 section 7.1.5, `__cause__` tells why.

    1005: the peer's Close held no code.   1006: the connection ended without a Close.
    """

    def __init__(self, code: int, reason: str = ""):
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.code} {_shown(self.reason)}".rstrip()


class ServiceError(GwsError):
    """Something went wrong between services."""


class ServiceExited(ServiceError):
    """There is no service at this address, or it exited before it answered."""


class CallFailed(ServiceError):
    """The service that was called raised; `__cause__` is what it raised."""


def _shown(reason: str) -> str:
    """Return what may go to logs and terminals: there may be a peer's words in it."""
    return reason if reason.isprintable() else ascii(reason)
