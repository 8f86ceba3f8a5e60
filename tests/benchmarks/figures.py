"""From what load.c said in each round to the figures that are told.

Every figure is the median over the rounds; a ratio is formed within each round first.
"""

from __future__ import annotations

import json
import re
import statistics

UNITS = {
    "echo": "messages per processor second",
    "fanout": "deliveries per processor second",
    "churn": "connections per processor second",
    "idle": "connections per MiB",
}


def summary(found, base):
    """Return what results.json holds: what was found (see run.py), and the figures of each load."""
    return found | {"base": base, "loads": {name: load | _summary(load, base) for name, load in found["loads"].items()}}


def encode(found):
    """Return the results as JSON, each set of figures on a line of its own."""
    return re.sub(r"\{[^{}]*\}", lambda innermost: " ".join(innermost[0].split()), json.dumps(found, indent=1)) + "\n"


def _summary(load, base):
    rounds = load["rounds"]
    theirs = rounds.get(base, [])
    based = {
        "worth": [_worth(each) for each in theirs],
        "per_second": [each.get("per_second") for each in theirs],
        "p99_us": [each.get("p99_us") for each in theirs],
    }
    return {
        "unit": UNITS[load["arguments"].split()[0]],
        "failures": {name: why for name, said in rounds.items() if (why := _failure(said))},
        "figures": {name: _figures(said, based) for name, said in rounds.items()},
    }


def _worth(said):
    """Return how much work a unit of the server's processor time (or memory) has done: more is better."""
    if said.get("mode") == "idle":
        return 1024 / said["kib_each"] if said["kib_each"] > 0 else None
    return 1e6 / said["cpu_us"] if said.get("cpu_us") else None


def _figures(rounds, base):
    worths = [_worth(each) for each in rounds]
    ratios = _ratios(worths, base["worth"])
    told = {
        "worth": _median(worths),
        "ratio": _median(ratios),
        "low": _round(min(ratios, default=None)),
        "high": _round(max(ratios, default=None)),
    }
    for key in ("per_second", "p99_us"):
        told[key + "_ratio"] = _median(_ratios([each.get(key) for each in rounds], base[key]))
    for key in ("per_second", "mb_per_second", "cpu_us", "busy", "kib_each", "p50_us", "p99_us", "opening"):
        told[key] = _median([each.get(key) for each in rounds])
    return told


def _ratios(ours, theirs):
    return [our / their for our, their in zip(ours, theirs) if our and their]


def _median(values):
    known = [value for value in values if value is not None]
    return _round(statistics.median(known)) if known else None


def _round(value):
    return None if value is None else round(value, 4)


def _failure(rounds):
    found = [each["failure"] for each in rounds if "failure" in each]
    return f"{found[0]} ({len(found)} of {len(rounds)} rounds)" if found else None


def table(found):
    """Return the results as text."""
    lines = [f"Medians of {found['rounds']} rounds; x: as a ratio to {found['base']}, with its extremes in brackets."]
    for load in found["loads"].values():
        lines += ["", f"{load['title']}: {load['unit']}  ({load['arguments']})"]
        for name, told in load["figures"].items():
            lines.append(f"  {name:17}{_row(told)}".rstrip())
            if name in load["failures"]:
                lines.append(f"    failed: {load['failures'][name]}")
    return "\n".join(lines)


def _row(told):
    if told["worth"] is None:
        return ""
    extremes = "" if told["low"] is None else f"({told['low']:.2f}-{told['high']:.2f})"
    row = f"{told['worth']:>10,.0f}  {_times(told['ratio'])} {extremes:13}"
    if not told["per_second"]:
        return f"{row}  {told['kib_each']:.2f} KiB each"
    return (
        f"{row}  {told['per_second']:>9,.0f}/s {_times(told['per_second_ratio'])}  busy {told['busy']:4.0%}  "
        f"{told['mb_per_second']:8.1f} MB/s  p50 {told['p50_us'] / 1000:.2f} ms  p99 {told['p99_us'] / 1000:.2f} ms "
        f"{_times(told['p99_us_ratio'])}"
    )


def _times(ratio):
    return f"{'' if ratio is None else f'x{ratio:.3g}':6}"
