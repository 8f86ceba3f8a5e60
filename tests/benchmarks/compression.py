"""python3 tests/benchmarks/compression.py   --   permessage-deflate: gws beside its peers, and what it costs in memory.

All servers have their own defaults for compression; load.c sends JSON that was deflated in advance, inflates what
comes back, and compares it.  The ratios are to the first peer, within a round: medians, and the extremes.
"""

from __future__ import annotations

import argparse
import subprocess
from statistics import median

import place
from measure import Failed, build_load, measure, raise_limit

SERVERS = {"gws": "with_gws.py", "websockets": "with_websockets.py", "aiohttp": "with_aiohttp.py"}
LOADS = {
    "64 connections, 1 KiB": "echo -c 64 -s 1024 -z",
    "64 connections, 64 KiB": "echo -c 64 -s 65536 -z",
}
IDLE = {
    "5,000 idle, without compression": ("echo", "idle -c 5000"),
    "5,000 idle, negotiated": ("packed", "idle -c 5000 -z"),
    "5,000 after a message, without": ("echo", "idle -c 5000 -s 1024 -u"),
    "5,000 after a message, negotiated": ("packed", "idle -c 5000 -s 1024 -u -z"),
}


def main():
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--rounds", type=int, default=5, help="(%(default)s)")
    add("-t", "--seconds", type=float, default=0.8, help="for one measurement (%(default)s)")
    add("--quiet", type=float, default=45, metavar="SECONDS", help="how long the idle ones keep silent (%(default)s)")
    add("--python", metavar="PATH", help="a Python that has the peers, instead of a venv; gws is that of this tree")
    add("--plain", action="store_true", help="the stream in plain Python")
    options = parser.parse_args()
    raise_limit()
    python, environment = place.find_python(options.python)
    environment |= {"GWS_PURE": "1" if options.plain else ""}
    load = build_load(place.cache(), packed=True)

    def ask(server, kind, arguments, seconds):
        command = [python, place.HERE / "servers" / SERVERS[server], kind]
        try:
            return measure(load, command, environment, [*arguments.split(), "-t", str(seconds)], (0, 1))
        except (Failed, subprocess.TimeoutExpired) as error:
            raise SystemExit(f"{server}: {error}") from None

    for title, arguments in LOADS.items():
        rounds = [
            {name: ask(name, "packed", arguments, options.seconds) for name in SERVERS} for _ in range(options.rounds)
        ]
        compare(title, rounds)
    compare_memory({title: ask("gws", *each, options.quiet)["kib_each"] for title, each in IDLE.items()})


def compare(title, rounds):
    """Print how many messages each serves, by the clock and by its processor time."""
    print(title)
    for name in SERVERS:
        clock = [each[name]["per_second"] / each["websockets"]["per_second"] for each in rounds]
        processor = [each["websockets"]["cpu_us"] / each[name]["cpu_us"] for each in rounds]
        failure = next((each[name]["failure"] for each in rounds if "failure" in each[name]), "")
        print(
            f"  {name:12} {median(each[name]['cpu_us'] for each in rounds):8.1f} us of processor"
            f"   by the clock {spread(clock)}   by the processor {spread(processor)}   {failure}"
        )


def spread(ratios):
    """Return a median and its extremes."""
    return f"{median(ratios):5.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def compare_memory(kib):
    """Print what a connection takes, and ratios to the same without compression."""
    base = None
    for title, each in kib.items():
        base = each if "without" in title else base
        print(f"{title:36} {each:6.2f} KiB each   {each / base:5.2f}")


if __name__ == "__main__":
    main()
