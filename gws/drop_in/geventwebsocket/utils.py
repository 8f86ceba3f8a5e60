"""gevent-websocket's version, as it counts."""

from __future__ import annotations

__all__ = ["get_version"]

#: What we stand for.
VERSION = (0, 10, 1, "final", 0)

_STAGES = {"alpha": "a", "beta": "b", "rc": "c", "final": ""}


def get_version(version: tuple[int, int, int, str, int] = VERSION) -> str:
    """Return a version such as (0, 10, 1, "final", 0) as a string (PEP 386); without one, the version we stand for."""
    major, minor, patch, stage, number = version
    if stage not in _STAGES:
        raise ValueError(f"a version is alpha, beta, rc or final, not {stage!r}")
    release = f"{major}.{minor}" + (f".{patch}" if patch else "")
    return release if stage == "final" else f"{release}{_STAGES[stage]}{number}"
