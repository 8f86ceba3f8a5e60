"""The console's commands: a line in, lines of plain text out, safe for a terminal.

    list [word]   connections [word]   stat   mem   kill address   trace address   help

Does not know how the lines come and go.
Contract with `overview` below: it looks at one thing at a time for us, so whoever asks meanwhile waits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from typing import Any

from gevent.lock import BoundedSemaphore

from gws import overview, skynet
from gws.errors import ServiceExited
from gws.server import Server
from gws.skynet import Stat
from gws.terminal import safe

__all__ = ["Session", "amount", "span"]

_LINES = 200  # of a trace, until they are sent


class Session:
    """Somebody who asks.   What is traced collects in `lines`; those for which there was no room are but counted."""

    def __init__(self, but: Server, turn: BoundedSemaphore):
        self.lines: list[str] = []
        self.left_out = 0
        self._but = but
        self._turn = turn
        self._leave: Callable[[], None] | None = None

    def do(self, line: str) -> list[str]:
        """Do what the line says, and return the answer; whatever was traced is traced no longer.   Blocks."""
        self.leave()
        word, _, rest = line.strip().partition(" ")
        found = _COMMANDS.get(word.lower())
        if found is None:
            names = ", ".join(_COMMANDS)
            return [f"there is no command {safe(word):.40}; there are: {names}"] if word else []
        function, usage, _ = found
        rest = rest.strip()
        wants = usage.partition(" ")[2]
        if (rest and not wants) or (not rest and wants == "address"):
            return [f"usage: {usage}"]
        with self._turn:
            return [safe(each) for each in function(self, rest)]

    def leave(self) -> None:
        """Trace no longer."""
        if self._leave is not None:
            self._leave()
        self._leave = None

    def take(self) -> list[str]:
        """Return the lines of the trace that have come since the last time."""
        lines, self.lines = self.lines, []
        if self.left_out:
            lines.append(f"({self.left_out} lines are left out)")
            self.left_out = 0
        return lines

    def _hear(self, line: str) -> None:
        if len(self.lines) < _LINES:
            self.lines.append(safe(f"{_clock()} {line}"))
        else:
            self.left_out += 1

    # ------------------------------------------------------------------------------------------------ the commands

    def _list(self, word: str) -> list[str]:
        rows, total = overview.services(word)
        head = ("address", "service", "mailbox", "messages", "time", "greenlets")
        table = _table(head, [_service(stat) for stat in rows], left=2)
        lines = table[:1]
        for line, stat in zip(table[1:], rows):
            lines += [line, *_greenlets(stat)]
        return lines + _more("services", len(rows), total, "list")

    def _connections(self, word: str) -> list[str]:
        rows, total = overview.connections(word, but=self._but)
        head = ("number", "peer", "state", "messages in", "out", "bytes in", "out", "pending", "latency")
        cells = [
            [
                f"#{row.number}",
                row.peer,
                row.state,
                *map(str, row[3:5]),
                *map(amount, row[5:8]),
                "-" if row.latency is None else span(row.latency),
            ]
            for row in rows
        ]
        return _table(head, cells, left=3) + _more("connections", len(rows), total, "connections")

    def _stat(self, _: str) -> list[str]:
        return _pairs(overview.figures(self._but))

    def _mem(self, _: str) -> list[str]:
        return _pairs(overview.memory_figures())

    def _kill(self, address: str) -> list[str]:
        try:
            killed = skynet.kill(address)
        except ValueError as err:  # it is another thread's
            return [str(err)]
        return [f"killed {address}" if killed else f"there is no service {address}"]

    def _trace(self, address: str) -> list[str]:
        """Follow a service until the next line; begin with what its greenlets wait for."""
        try:
            stat = skynet.look(address, overview.GREENLETS)
            self._leave = skynet.follow(address, self._hear)
        except (ServiceExited, ValueError) as err:
            return [str(err)]
        name = f"{stat.address} {stat.kind}"
        return [*_greenlets(stat), f"tracing {name}: each message as it begins and ends, until the next line"]

    def _help(self, _: str) -> list[str]:
        return _table(("", ""), [(usage, told) for _, usage, told in _COMMANDS.values()], left=2)[1:]


_COMMANDS: dict[str, tuple[Callable[[Session, str], list[str]], str, str]] = {
    "list": (Session._list, "list [word]", "services: mailbox, messages handled, time, what each greenlet waits for"),
    "connections": (Session._connections, "connections [word]", "connections: messages and bytes in and out, latency"),
    "stat": (Session._stat, "stat", "the process as a whole"),
    "mem": (Session._mem, "mem", "its memory"),
    "kill": (Session._kill, "kill address", "end a service"),
    "trace": (
        Session._trace,
        "trace address",
        "follow a service: the calls it waits in, each message as it comes",
    ),
    "help": (Session._help, "help", "this"),
}


_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def amount(size: float) -> str:
    """Write a number of bytes."""
    power = min(int(math.log(max(size, 1), 1024)), len(_UNITS) - 1)
    return f"{size / 1024**power:.{1 if power else 0}f} {_UNITS[power]}"


def span(seconds: float) -> str:
    """Write how long something takes."""
    return f"{seconds * 1000:.3f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _service(stat: Stat) -> list[str]:
    kind = " ".join((stat.kind, *stat.names))
    return [stat.address, kind, str(stat.mailbox), str(stat.messages), span(stat.time), str(stat.parked)]


def _greenlets(stat: Stat) -> list[str]:
    lines = [f"    {chain}: {what}" for chain, what in stat.greenlets]
    return lines + ([f"    ... {stat.parked - len(lines)} more"] if stat.parked > len(lines) else [])


def _more(what: str, shown: int, total: int, command: str) -> list[str]:
    if total > shown:
        return [f"... {total - shown} more of {total} {what}; '{command} WORD' shows those that have the word"]
    return [f"{total} {what}"]


def _pairs(figures: dict[str, Any]) -> list[str]:
    return _table(("", ""), [(name, _value(name, value)) for name, value in figures.items()], left=2)[1:]


def _value(name: str, value: Any) -> str:
    if name in ("memory", "bytes in", "bytes out", "resident", "peak"):
        return amount(value)
    return span(value) if isinstance(value, float) else str(value)


def _table(head: tuple[str, ...], rows: list[Any], left: int) -> list[str]:
    """Set in columns, of which the first `left` are flush left."""
    cells = [[safe(cell) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    pads = [str.ljust if at < left else str.rjust for at in range(len(head))]
    return ["  ".join(pad(cell, width) for pad, cell, width in zip(pads, row, widths)).rstrip() for row in cells]


def _clock() -> str:
    return f"{datetime.now():%H:%M:%S.%f}"
