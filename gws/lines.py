"""Lines of text over a stream, as a person at `nc` writes them, and what tells them from an HTTP request.

Does not know what they mean.
Contract with `stream` below: bytes come one by one, and what they are is decided before any more are taken.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import gevent

from gws.stream import Stream

__all__ = ["LONGEST", "begins_request", "first_words", "part", "post", "read"]

LONGEST = 1024  # bytes in a line
_PARTING = 2.0  # seconds for reading our last words

_METHOD = re.compile(rb"[A-Z]{1,20} ?")
_REQUEST = re.compile(rb"[A-Z]{1,20} [/*]")
_HTTP = re.compile(r" HTTP/[0-9]\.[0-9]$")
_NO_TEXT = {*range(32), 127} - {*b"\t\r\n"}  # a terminal sends none of it; a TLS hello begins with one


def first_words(stream: Stream) -> bytes:
    """Read as much as tells an HTTP request from a line.   Blocks, for as long as nothing comes."""
    said = stream.read(1)
    while _METHOD.fullmatch(said):
        said += stream.read(1)
    return said


def begins_request(said: bytes) -> bool:
    """Tell whether the first words are those of an HTTP request."""
    return _REQUEST.match(said) is not None


def read(stream: Stream, said: bytes) -> Iterator[str]:
    """Yield the lines, also a last one without a newline; `said` comes first.   Blocks.

    ValueError at what is no line of text, or too long, or the first line of a request.
    """
    line = bytearray()
    for byte in _bytes(stream, said):
        if byte in _NO_TEXT:
            raise ValueError("this is no text")
        if len(line) >= LONGEST:
            raise ValueError(f"a line is longer than {LONGEST} bytes")
        line.append(byte)
        if byte == 10:
            text = line.decode(errors="replace").strip()
            if _HTTP.search(text):
                raise ValueError("this is no request for us")
            yield text
            line.clear()
    if line:
        yield line.decode(errors="replace").strip()


def part(stream: Stream, last_words: str) -> None:
    """Hang up, so that the last words are read.   Blocks."""
    with gevent.Timeout(_PARTING, False):  # type: ignore[arg-type]  # False: in silence
        stream.write(f"{last_words}\n".encode() if last_words else b"")
        stream.drain()
        stream.shutdown()
        stream.linger()


def post(stream: Stream, lines: list[str]) -> None:
    """Send lines, unless it is ending; never blocks."""
    try:
        stream.post("".join(f"{line}\n" for line in lines).encode(errors="backslashreplace"))
    except OSError:
        return  # its reader will hear


def _bytes(stream: Stream, said: bytes) -> Iterator[int]:
    """Yield what was said and what comes, to its end.   Blocks."""
    yield from said
    with contextlib.suppress(EOFError):
        while True:
            yield from stream.read(1)
