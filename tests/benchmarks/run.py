"""python3 tests/benchmarks/run.py   --   gws beside its peers; the README here tells what is measured.

Each measurement has a fresh server on one processor and load.c on another.  Within a round the servers take turns at
each load, so that whatever else the machine does falls on all of them alike.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import figures
import picture
import place
from measure import Failed, build_load, measure, raise_limit

HERE = Path(__file__).resolve().parent


class Server(NamedTuple):
    """A server: its title, its file in servers/, the distributions that matter, and what its environment needs."""

    title: str
    file: str
    packages: tuple[str, ...]
    environment: dict[str, str] = {}


class Load(NamedTuple):
    """A load: its title, the arguments of load.c, and the number of rounds that are enough for it."""

    title: str
    arguments: str
    enough: int = 1000


SERVERS = {
    "gws": Server("gws", "with_gws.py", ("gevent", "greenlet"), {"GWS_PURE": ""}),
    "gws-pure": Server("gws, plain Python", "with_gws.py", (), {"GWS_PURE": "1"}),
    "picows": Server("picows", "with_picows.py", ("picows", "uvloop")),
    "socketify": Server("socketify (C++)", "with_socketify.py", ("socketify",)),
    "aiohttp": Server("aiohttp", "with_aiohttp.py", ("aiohttp", "uvloop")),
    "websockets": Server("websockets", "with_websockets.py", ("websockets", "uvloop")),
    "gevent-websocket": Server("gevent-websocket", "with_gevent_websocket.py", ("gevent-websocket",)),
    "gevent-ws": Server("gevent-ws", "with_gevent_ws.py", ("gevent-ws",)),
    "simple-websocket": Server("simple-websocket", "with_simple_websocket.py", ("simple-websocket", "wsproto")),
    "ws4py": Server("ws4py", "with_ws4py.py", ("ws4py",)),
    "gws-wsgi": Server("gws in pywsgi", "with_gws_wsgi.py", (), {"GWS_PURE": ""}),
}
USUAL = list(SERVERS)[:7]
BASE = "picows"
LOADS = {
    "small": Load("Echo, 64 connections, 128 B", "echo -c 64 -s 128 -d 1"),
    "pipelined": Load("Echo, the same, 32 in flight", "echo -c 64 -s 128 -d 32"),
    "crowd": Load("Echo, 2000 connections, 128 B", "echo -c 2000 -s 128 -d 1"),
    "large": Load("Echo, 8 connections, 64 KiB", "echo -c 8 -s 65536 -d 1"),
    "huge": Load("Echo, 4 connections, 1 MiB", "echo -c 4 -s 1048576 -d 1"),
    "fanout": Load("Fan-out to 1000, 128 B", "fanout -c 1000 -s 128 -d 4"),
    "churn": Load("Handshakes and goodbyes", "churn -c 64"),
    "idle": Load("Idle connections per MiB", "idle -c 10000", enough=2),
}


def main():
    """Do what the command line says; return the exit status: 1 if a server failed at a load."""
    options = parse_arguments()
    results = options.out / "results.json"
    if options.again:
        found = figures.summary(json.loads(results.read_text(encoding="utf-8")), options.base)
    else:
        found = figures.summary(run(options), options.base)
        results.write_text(figures.encode(found), encoding="utf-8")
    if found["base"] == BASE:
        (options.out / "picture.svg").write_text(picture.draw(found), encoding="utf-8")
    print(figures.table(found))
    return int(any(load["failures"] for load in found["loads"].values()))


def parse_arguments():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--rounds", type=int, default=5, help="(%(default)s)")
    add("-t", "--seconds", type=float, default=0.8, help="for one measurement (%(default)s)")
    add("-w", "--warmup", type=float, default=0.3, metavar="SECONDS", help="before that, not counted (%(default)s)")
    add("--loads", type=_among(LOADS), default=list(LOADS), metavar="NAME,...", help=f"of {', '.join(LOADS)}")
    add("--servers", type=_among(SERVERS), default=USUAL, metavar="NAME,...", help=f"({','.join(USUAL)})")
    add("--all", dest="servers", action="store_const", const=list(SERVERS), help="all servers: also the last four")
    add("--base", default=BASE, metavar="NAME", help="the server that ratios are to (%(default)s, as in the picture)")
    add("--processors", type=_pair, default=(0, 1), metavar="A,B", help="for the server, and for the load (0,1)")
    add("--python", metavar="PATH", help="a Python that has the peers, instead of a venv; gws is that of this tree")
    add("--out", type=Path, default=HERE, metavar="FOLDER", help="for results.json and picture.svg (beside this file)")
    add("--again", action="store_true", help="measure nothing: table and picture anew from results.json; see --base")
    options = parser.parse_args()
    if options.base not in options.servers and not options.again:
        parser.error(f"--base {options.base} is not among the servers")
    return options


def _among(names):
    def chosen(text):
        unknown = set(text.split(",")) - set(names)
        if unknown:
            raise argparse.ArgumentTypeError(f"there is no {', '.join(sorted(unknown))}")
        return [name for name in names if name in text.split(",")]

    return chosen


def _pair(text):
    server, load = map(int, text.split(","))
    return server, load


def run(options):
    """Measure all that is asked for, and return what results.json holds."""
    servers = {name: SERVERS[name] for name in options.servers}
    python, environment = place.find_python(options.python)
    about = {
        "command": _command(options),
        "rounds": options.rounds,
        "machine": place.machine(),
        "versions": place.versions(python, environment, [name for each in servers.values() for name in each.packages]),
        "servers": {name: server.title for name, server in servers.items()},
    }
    program = build_load(place.cache())
    rounds = {load: {name: [] for name in servers} for load in options.loads}
    for load, name in _course(options):
        arguments = [*LOADS[load].arguments.split(), "-t", str(options.seconds), "-w", str(options.warmup)]
        command = [python, HERE / "servers" / SERVERS[name].file, "fanout" if load == "fanout" else "echo"]
        surroundings = environment | SERVERS[name].environment
        try:
            rounds[load][name].append(measure(program, command, surroundings, arguments, options.processors))
        except (Failed, subprocess.TimeoutExpired) as error:
            rounds[load][name].append({"failure": str(error)})
    loads = {load: {**LOADS[load]._asdict(), "rounds": said} for load, said in rounds.items()}
    return about | {"loads": loads}


def _course(options):
    """Yield (load, server) in the order of measuring, and tell how far it is."""
    if (most := raise_limit()) < 10_500 and "idle" in options.loads:
        sys.exit(f"the load 'idle' needs 10,500 files, and the limit is {most}: ulimit -Hn, or other --loads")
    course = [
        (number, load, name)
        for number in range(1, options.rounds + 1)
        for load in options.loads
        for name in options.servers
        if number <= LOADS[load].enough
    ]
    began = time.monotonic()
    for done, (number, load, name) in enumerate(course):
        left = (time.monotonic() - began) / done * (len(course) - done) if done else 0
        place.tell(f"round {number} of {options.rounds}, {load}, {name}; {left:.0f} s left")
        yield load, name
    place.tell(f"{time.monotonic() - began:.0f} s", end="\n")


def _command(options):
    """Return what is typed to do the same again, on a machine that has no Python with the peers yet."""
    words = ["python3", "tests/benchmarks/run.py", f"--rounds {options.rounds}", f"--seconds {options.seconds}"]
    if options.loads != list(LOADS):
        words.append(f"--loads {','.join(options.loads)}")
    if options.servers != USUAL:
        words.append("--all" if options.servers == list(SERVERS) else f"--servers {','.join(options.servers)}")
    return " ".join(words)


if __name__ == "__main__":
    sys.exit(main())
