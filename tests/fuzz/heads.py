"""Heads of requests and responses for the fuzzers: sound ones, in which something is changed, and anything at all."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

__all__ = ["ACCEPT", "KEY", "heads", "lines", "values"]

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # of RFC 6455 section 1.3, and what answers it
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

VALUES = [
    "", " ", "\t", "13", "12", "0", "00", "5", "5, 5", "+5", "1" * 25, "websocket", "WebSocket", "Upgrade", "upgrade, keep-alive",
    "h2c, websocket", "chat", "chat, superchat", "a, a", "a,,b", ",", "a b", "chunked", "close", "example.org", "example.org:80",
    "[::1]:80", "a@b", KEY, KEY[:-1], KEY + "=", KEY[:-3] + "R==", ACCEPT, f" {KEY} ", "permessage-deflate", 'x; y="z"', "é", "\x7f", "\0", "a\rb",
    "a\nb", "http://example.org", "null", '"', "\\", "a;b", "=",
]  # fmt: skip
SPACES = ["", "", "", " ", " ", "  ", "\t"]
RARELY = st.sampled_from([False] * 30 + [True])
ENDS = ["\r\n"] * 9 + ["\n", "\r", "\r\n ", "\r\n\r\n", ""]


def values() -> Any:
    """Return a strategy for the values of headers."""
    text = st.text(st.characters(max_codepoint=255), max_size=12)
    return st.one_of(st.sampled_from(VALUES), text, st.lists(st.sampled_from(VALUES), max_size=3).map(", ".join))


def names(common: list[str]) -> Any:
    some = st.sampled_from(common)
    return st.one_of(
        some, some.map(str.swapcase), st.sampled_from(["X", "", "Content-Length", "Transfer-Encoding", "a b", "é"])
    )


@st.composite
def lines(draw: Any, common: list[str]) -> str:
    """Return a header line with its end."""
    name, value = draw(names(common)), draw(values())
    before, behind = draw(st.sampled_from(SPACES[:5])), draw(st.sampled_from(SPACES))
    odd = " " if draw(RARELY) else ""
    colon = "" if draw(RARELY) else ":"
    return f"{name}{odd}{colon}{before}{value}{behind}{draw(st.sampled_from(ENDS))}"


@st.composite
def heads(draw: Any, sound: str, firsts: Any) -> bytes:
    """Return a head: `sound` with lines changed, left out, doubled and added; `firsts` is what may begin one."""
    first, *fields = sound.split("\r\n")[:-2]
    common = [field.partition(":")[0] for field in fields]
    if draw(st.integers(0, 2)) == 0:
        first = draw(firsts)
    text = first + "\r\n"
    for field in fields:
        fate = draw(st.integers(0, 19))
        text += draw(lines(common)) if fate == 0 else "" if fate == 1 else (field + "\r\n") * (1 + (fate == 2))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 1, 2, 3]))):
        text += draw(lines(common))
    data = (text + "\r\n").encode("latin-1")
    for _ in range(draw(st.sampled_from([0, 0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(max_size=2)) + data[at + draw(st.integers(0, 2)) :]
    return data
