"""`python -m gws bench`: put a load on a server, and tell what it bore.

Knows the command line and the terminal; the loads are in `load`.  What is not on this machine is left alone unless the
user says that it is his, and every load is bounded: 20,000 connections, 60 s.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import gevent

from gws import __version__, benchserver, terminal
from gws.door import Door
from gws.errors import GwsError
from gws.load import LOADS, Plan, Result
from gws.stream import Stream
from gws.talk import signals_raise
from gws.url import Target

__all__ = ["Progress", "arguments", "describe", "run", "table"]

_CONNECTIONS = {"echo": 64, "fanout": 200, "handshakes": 64, "idle": 1000}
_OWN = list(LOADS)  # the loads for our own server, if none is named
_FOREIGN = ["echo", "handshakes"]  # and for one of which we know nothing: it may not be a room
_BAR = 30  # characters
_BLOCKS = "█░" if terminal.ENCODING.lower().replace("-", "") == "utf8" else "#."


def arguments(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = (
        "Without --url it starts a server of its own, in a process of its own, anew for each load. The load comes from "
        "one process in Python: if that is the busier one, the server could have borne more. Compare what was measured "
        "on the same machine in the same minutes, and nothing else."
    )
    add = parser.add_argument
    named = ", ".join(f"{name} ({count})" for name, count in _CONNECTIONS.items())
    add("loads", nargs="*", metavar="LOAD", help=f"of {', '.join(_OWN)} (all; {' and '.join(_FOREIGN)} of --url)")
    add("--url", help="load this server, which echoes, or (fanout) sends everything to everybody")
    add("--pid", type=int, help="the number of its process, to tell its processor time and its memory")
    add("--remote", action="store_true", help="it is mine: load it though it is not on this machine")
    add("-c", "--connections", type=int, metavar="N", help=f"at a time: {named}")
    add("-s", "--size", type=int, default=Plan.size, metavar="BYTES", help="of a message (%(default)s)")
    add("-d", "--depth", type=int, default=Plan.depth, metavar="N", help="messages in flight on each (%(default)s)")
    add("-t", "--seconds", type=float, default=Plan.seconds, help="for each load (%(default)s)")
    add("--json", action="store_true", help="print JSON instead of a table")


def run(args: Namespace) -> int:
    """Do what the command line says; return the exit status: 1 if a connection failed.   Blocks."""
    names = args.loads or (_FOREIGN if args.url else _OWN)
    if unknown := set(names) - set(LOADS):
        raise ValueError(f"there is no load {', '.join(sorted(unknown))}; there are {', '.join(LOADS)}")
    plans = {name: _plan(args, name) for name in names}  # ValueError before anything is loaded
    if args.pid is not None and not args.url:
        raise ValueError("--pid is of no use without --url")
    _allow_files(max(plan.connections for plan in plans.values()))
    results = []
    with signals_raise():
        for name, plan in plans.items():
            with _server(args, name) as (door, pid), Progress(name) as progress:
                terminal.tell(describe(name, plan, door))
                results.append(LOADS[name](door, plan, pid).run(progress.show))
    if args.json:
        terminal.write(json.dumps(_about(args) | {"loads": [*map(_rounded, results)]}, indent=1) + "\n")
    else:
        terminal.write(table(results))
    for each in results:
        if each.failure is not None:
            terminal.tell(f"{each.load}: {each.failures} of {each.connections} connections failed: {each.failure}")
    return int(any(each.failures for each in results))


def _plan(args: Namespace, name: str) -> Plan:
    connections = _CONNECTIONS[name] if args.connections is None else args.connections
    return Plan(connections, args.size, args.depth, args.seconds)


def _allow_files(connections: int) -> None:
    """Open as many files as that takes, and so may the server that we start."""
    try:
        import resource
    except ImportError:  # not on this system
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + 100
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise GwsError(
            f"{connections} connections need {wanted} files, and a process may have {hard} here (ulimit -Hn)"
        )
    if soft != resource.RLIM_INFINITY and wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextlib.contextmanager
def _server(args: Namespace, name: str) -> Iterator[tuple[Door, int | None]]:
    """Give the door to the server, and its process's number if we may look at it.   Blocks."""
    if args.url:
        door = Door(Target.of(args.url))
        if not door.loopback and not args.remote:
            raise ValueError(f"{door.target} is not on this machine: if it is yours to load, say --remote")
        door.open().close()  # is it there? the first connection may also cost the server more than others
        yield door, args.pid
        return
    with benchserver.serving() as (port, pid):
        door = Door(Target.of(f"ws://127.0.0.1:{port}{benchserver.ROOM if name == 'fanout' else '/'}"))
        door.open().close()
        yield door, pid if os.path.exists("/proc/self/statm") else None


def describe(name: str, plan: Plan, door: Door) -> str:
    """Say what is about to be done."""
    connections = f"{plan.connections:,} connection{'s' if plan.connections > 1 else ''} to {door.target}"
    messages = f"{plan.depth} message{'s' if plan.depth > 1 else ''} of {plan.size:,} bytes in flight"
    what = {
        "echo": f"{connections}, {messages} on each",
        "fanout": f"{connections}, one of which sends to all, {messages}",
        "handshakes": f"{connections} at a time, opened, closed, and opened again",
        "idle": f"{connections}, and not a word on them",
    }[name]
    return f"{name}: {what}, for {plan.seconds:g} s"


class Progress:
    """A bar on stderr, if that is a terminal; gone in the end."""

    def __init__(self, name: str):
        self._name = name
        self._visible = os.isatty(2)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._write("")

    def show(self, share: float, rate: float) -> None:
        """Show how much is done, and what there was in a second.   Blocks."""
        done = round(share * _BAR)
        bar = _BLOCKS[0] * done + _BLOCKS[1] * (_BAR - done)
        self._write(f"{self._name:10} {bar} {share:4.0%} {rate:>12,.0f}/s")

    def _write(self, text: str) -> None:
        if self._visible:
            with contextlib.suppress(OSError):
                terminal.write(f"\r\x1b[K{text}", 2)


def table(results: Sequence[Result]) -> str:
    """Return the results as text."""
    rows = [_HEAD, *map(_row, results)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row[1:], widths[1:])) for row in rows]
    return "".join(f"{row[0]:{widths[0]}}  {line}\n" for row, line in zip(rows, lines))


_HEAD = ("load", "connections", "bytes", "depth", "per second", "MB/s", "p50", "p99", "server", "its cpu", "ours")


def _row(result: Result) -> tuple[str, ...]:
    idle = result.load == "idle"
    cost = _cell(result.kib_each, "{:.1f} KiB each") if idle else _cell(result.server_us, "{:.1f} us each")
    return (
        result.load,
        f"{result.connections:,}",
        _cell(result.size, "{:,}"),
        _cell(result.depth, "{:,}"),
        "-" if idle else f"{result.per_second:,.0f} {result.counted}",
        _cell(result.mb_per_second, "{:,.1f}"),
        _time(result.p50),
        _time(result.p99),
        cost,
        _cell(result.server_busy, "{:.0%}"),
        f"{result.own_busy:.0%}",
    )


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1e6:.0f} us" if seconds < 0.001 else f"{seconds * 1e3:.3g} ms"


def _rounded(result: Result) -> dict[str, Any]:
    """Return the result for JSON, with no more digits than it is good for."""
    return {key: float(f"{value:.4g}") if type(value) is float else value for key, value in asdict(result).items()}


def _about(args: Namespace) -> dict[str, Any]:
    return {
        "gws": __version__,
        "stream": Stream.__module__,
        "gevent": gevent.__version__,
        "loop": type(gevent.get_hub().loop).__module__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()}",
        "processors": os.cpu_count(),
        "url": args.url,
    }
