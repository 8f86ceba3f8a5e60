"""Gauges: how long things took, and what a process has used of the processor and of memory.

Does not know what is measured.
"""

from __future__ import annotations

import math
import os

__all__ = ["Latencies", "cpu", "memory"]


class Latencies:
    """How long things took, to within 1 %, in memory that does not grow with their number."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def add(self, seconds: float) -> None:
        """Count one."""
        key = int(math.log(max(seconds, 1e-9)) * 100)
        self._counts[key] = self._counts.get(key, 0) + 1

    def percentile(self, share: float) -> float | None:
        """Return the seconds within which that share of them was done; None if there were none."""
        left = share * sum(self._counts.values())
        for key in sorted(self._counts):
            left -= self._counts[key]
            if left <= 0:
                return math.exp(key / 100)
        return None


def cpu(pid: int | None) -> float | None:
    """Return the seconds of processor time that a process has used (proc(5))."""
    if pid is None:
        return None
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
        words = stat.read().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int | None) -> float | None:
    """Return the KiB of memory in which a process resides."""
    if pid is None:
        return None
    with open(f"/proc/{pid}/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024
