"""From what load.c said in each round to the figures that are told.

Every figure is the median over the rounds; a ratio is formed within each round first.
"""

from __future__ import annotations

import statistics

UNITS = {
    "echo": "messages per processor second",
    "fanout": "deliveries per processor second",
    "churn": "connections per processor second",
    "idle": "connections per MiB",
}


def summary(title, arguments, base, rounds):
    """Return what is told of one load; `rounds` is {server: [what load.c said in each round]}."""
    mode = arguments.split()[0]
    named = {
        "worth": [_worth(each) for each in rounds[base]],
        "per_second": [each.get("per_second") for each in rounds[base]],
        "p99_us": [each.get("p99_us") for each in rounds[base]],
    }
    return {
        "title": title,
        "arguments": arguments,
        "unit": UNITS[mode],
        "failures": {name: why for name, said in rounds.items() if (why := _failure(said))},
        "figures": {name: _figures(said, named) for name, said in rounds.items()},
        "rounds": rounds,
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
        "low": min(ratios, default=None),
        "high": max(ratios, default=None),
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
    return round(statistics.median(known), 4) if known else None


def _failure(rounds):
    found = [each["failure"] for each in rounds if "failure" in each]
    return f"{found[0]} ({len(found)} of {len(rounds)} rounds)" if found else None


def table(found):
    """Return the results as text."""
    lines = [f"Medians of {found['rounds']} rounds; x: as a ratio to {found['base']}, with its extremes."]
    for load in found["loads"].values():
        lines += ["", f"{load['title']}: {load['unit']}  ({load['arguments']})"]
        for name, told in load["figures"].items():
            lines.append(f"  {name:17}" + (_row(told) if told["ratio"] is not None else ""))
            if name in load["failures"]:
                lines.append(f"    failed: {load['failures'][name]}")
    return "\n".join(lines)


def _row(told):
    row = f"{told['worth']:>10,.0f}  x{told['ratio']:<5.2f} ({told['low']:.2f}-{told['high']:.2f})"
    if not told["per_second"]:
        return f"{row}   {told['kib_each']:.2f} KiB each"
    return (
        f"{row:33}  {told['per_second']:>10,.0f}/s x{told['per_second_ratio']:<5.2f}  busy {told['busy']:4.0%}  "
        f"{told['mb_per_second']:8.1f} MB/s  p50 {told['p50_us'] / 1000:.2f} ms  p99 {told['p99_us'] / 1000:.2f} ms "
        f"x{told['p99_us_ratio'] or 0:.2f}"
    )
