"""What both ends agree on for compression (RFC 7692 section 7.1): a client offers, a server answers.

Knows neither HTTP nor what compresses: parameters come parsed from the handshake, and go as a header's value.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from gws.errors import HandshakeError

__all__ = ["NAME", "Compression", "Parameters", "accept", "accepted", "offer"]

NAME = "permessage-deflate"

Extension = tuple[str, Sequence[tuple[str, "str | None"]]]  # name and parameters, as handshake.extensions() has them


@dataclass(frozen=True)
class Compression:
    """What a user may set, for a server or a client.

    threshold         messages of fewer bytes are sent as they are
    window_bits       the largest LZ77 window that we deflate with, 8 to 15: 2 ** bits bytes.  A message of 32 KiB or
                      more, which needs nothing of what came before, has as large a one as the peer allows
    peer_window_bits  the largest that we let the peer use.  None is what costs no connection: a server asks for its own
                      window_bits where the client can do it, a client asks for nothing
    mem_level, level  zlib's.  At the default level (1) and at -1, isal deflates if it is installed
    *_no_context_takeover    ask for messages that are compressed each on its own: less memory, and less compression
    """

    threshold: int = 128
    window_bits: int = 12
    peer_window_bits: int | None = None
    mem_level: int = 5
    level: int = zlib.Z_BEST_SPEED
    server_no_context_takeover: bool = False
    client_no_context_takeover: bool = False

    def __post_init__(self) -> None:
        for name, allowed in _SETTINGS.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} cannot be {getattr(self, name)!r}")


_SETTINGS: Mapping[str, Sequence[int | None]] = {
    "window_bits": range(8, 16),
    "peer_window_bits": [None, *range(8, 16)],
    "mem_level": range(1, 10),
    "level": range(-1, 10),
}


class Parameters(NamedTuple):
    """What both ends have agreed on (RFC 7692 section 7.1)."""

    server_no_context_takeover: bool = False
    client_no_context_takeover: bool = False
    server_max_window_bits: int = 15
    client_max_window_bits: int = 15


def offer(compression: Compression) -> str:
    """Return a client's offer, the value of its Sec-WebSocket-Extensions."""
    params: dict[str, int] = {name: True for name in _FLAGS if getattr(compression, name)}
    if compression.peer_window_bits is not None:
        params["server_max_window_bits"] = compression.peer_window_bits
    return _header({**params, "client_max_window_bits": True})


def accept(offers: Iterable[Extension], compression: Compression) -> tuple[str, Parameters] | None:
    """Choose the first sound one of a client's offers; return the answer's value and what it agrees to.

    None: there is none, and the connection goes on without compression.
    """
    for name, params in offers:
        if name == NAME:
            try:
                return _answer(_parse(params, _OFFERED), compression)
            except ValueError:
                continue  # "A server MUST decline an extension negotiation offer" that is not sound; others may follow.
    return None


def accepted(answer: Sequence[Extension], compression: Compression | None) -> Parameters | None:
    """Judge the server's answer to offer(compression), or to no offer; None: there is no compression.

    HandshakeError for an answer to something else than what was offered.
    """
    if not answer:
        return None
    if compression is None or len(answer) > 1 or answer[0][0] != NAME:
        raise _refusal("extensions that we did not ask for (RFC 6455 section 9.1)")
    try:
        params = _parse(answer[0][1], _ANSWERED)
    except ValueError as err:
        raise _refusal(f"{err} (RFC 7692 section 7.1)") from err
    if compression.server_no_context_takeover and "server_no_context_takeover" not in params:
        raise _refusal("no server_no_context_takeover, as we had asked (RFC 7692 section 7.1.1.1)")
    if params.get("server_max_window_bits", 15) > (compression.peer_window_bits or 15):
        raise _refusal("a larger server_max_window_bits than we had asked (RFC 7692 section 7.1.2.1)")
    if compression.client_no_context_takeover:
        # "even if the server doesn't include" it in its answer, "the client is not going to use context takeover"
        params["client_no_context_takeover"] = True
    return Parameters(**params)


# The values that each parameter may have, and what they mean.  (7.1)
_FLAGS = ("server_no_context_takeover", "client_no_context_takeover")
_BITS: Mapping[str | None, int] = {str(bits): bits for bits in range(8, 16)}
_ANSWERED: Mapping[str, Mapping[str | None, int]] = {
    **{name: {None: True} for name in _FLAGS},
    "server_max_window_bits": _BITS,
    "client_max_window_bits": _BITS,
}
_OFFERED = {**_ANSWERED, "client_max_window_bits": {**_BITS, None: 15}}


def _parse(params: Iterable[tuple[str, str | None]], known: Mapping[str, Mapping[str | None, int]]) -> dict[str, Any]:
    """Read the parameters of an offer or of an answer; ValueError names the first that is not allowed there."""
    parsed: dict[str, Any] = {}
    for name, value in params:
        if name in parsed:
            raise ValueError(f"{name} twice")
        if value not in known.get(name, ()):
            raise ValueError(name if value is None else f"{name}={value}")
        parsed[name] = known[name][value]
    return parsed


def _answer(offered: Mapping[str, int], compression: Compression) -> tuple[str, Parameters]:
    """Answer a sound offer: all that it asks for, and nothing that the client may not know."""
    # A client that offers client_no_context_takeover keeps to it in any case; repeating it lets us hold no context.
    agreed: dict[str, Any] = {name: True for name in _FLAGS if name in offered or getattr(compression, name)}
    peer_window_bits = compression.peer_window_bits or compression.window_bits
    for name, ours in ("server_max_window_bits", compression.window_bits), ("client_max_window_bits", peer_window_bits):
        if name in offered:
            agreed[name] = min(offered[name], ours)
    return _header(agreed), Parameters(**agreed)


def _header(params: Mapping[str, int]) -> str:
    return "; ".join([NAME, *(name if value is True else f"{name}={value}" for name, value in params.items())])


def _refusal(what: str) -> HandshakeError:
    return HandshakeError(101, f"the server answered with {what}")
