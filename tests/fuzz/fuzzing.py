"""Run the fuzzers, for as long as is wanted: by atheris, which looks for new paths, if it is installed; else by hypothesis.

    python tests/fuzz/fuzzing.py [--seconds 60] [--engine hypothesis] [twins frames request response extensions inflate]

A fuzzer is a module with CASES, a strategy, and check(case), which holds one case against the invariant that its first
line states.   What atheris has learnt is kept under reports/corpus; what has failed is shown, and made small.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import SkipTest

from hypothesis import HealthCheck, Phase, given, seed, settings

__all__ = ["FUZZERS", "fuzz", "load", "main", "property_of"]

FUZZERS = ["twins", "frames", "request", "response", "extensions", "inflate"]
HERE = Path(__file__).parent
CORPUS = HERE.parents[1] / "reports" / "corpus"
UNHURRIED = settings(deadline=None, suppress_health_check=list(HealthCheck))


def main(arguments: list[str]) -> int:
    """Run fuzzers one after the other, each in a process of its own; return how many have failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60, help="for each fuzzer")
    parser.add_argument("--engine", choices=["atheris", "hypothesis"], default=default_engine())
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("names", nargs="*", choices=[*FUZZERS, []], metavar="name")
    chosen = parser.parse_args(arguments)
    if chosen.here:
        fuzz(chosen.names[0], chosen.engine, chosen.seconds)
        return 0
    if load("twins").KINDS[1:] == []:
        print("there is no compiled stream here: the plain one has nothing to be compared with", flush=True)
    failed = [name for name in chosen.names or FUZZERS if not runs_clean(name, chosen.engine, chosen.seconds)]
    print("failed: " + ", ".join(failed) if failed else "none has failed", flush=True)
    return len(failed)


def default_engine() -> str:
    return "atheris" if importlib.util.find_spec("atheris") else "hypothesis"


def runs_clean(name: str, engine: str, seconds: int) -> bool:
    """Run one fuzzer in a process of its own; a case that atheris has found is made small by hypothesis then."""
    print(f"== {name}, {seconds} s of {engine}: {load(name).__doc__.splitlines()[0]}", flush=True)
    command = [sys.executable, __file__, "--here", name, "--seconds"]
    failed = subprocess.run([*command, str(seconds), "--engine", engine], check=False).returncode
    if failed and engine == "atheris":
        subprocess.run([*command, "0", "--engine", "hypothesis"], check=False)
    return not failed


def load(name: str) -> Any:
    """Return a fuzzer's module."""
    if str(HERE) not in sys.path:
        sys.path.insert(0, str(HERE))
    return importlib.import_module(f"fuzz_{name}")


def property_of(fuzzer: Any, **options: Any) -> Callable[[], None]:
    """Return the fuzzer as what hypothesis calls a test."""

    def holds(case: Any) -> None:
        fuzzer.check(case)

    holds.__name__ = fuzzer.__name__  # under this name the database keeps what has failed
    return settings(UNHURRIED, **options)(given(fuzzer.CASES)(holds))


def fuzz(name: str, engine: str, seconds: int) -> None:
    """Fuzz in this process; what is found is raised."""
    if engine == "atheris":
        fuzz_by_atheris(name, seconds)
    else:
        fuzz_by_hypothesis(load(name), seconds)


def fuzz_by_hypothesis(fuzzer: Any, seconds: int) -> None:
    """Go on in rounds, each from another seed; what failed in an earlier run comes first, seconds or none."""
    holds = property_of(fuzzer, max_examples=1, phases=[Phase.reuse, Phase.shrink])
    with contextlib.suppress(SkipTest):  # nothing has failed yet
        holds()
    end, rounds = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        rounds += 1
        seed(time.time_ns())(property_of(fuzzer, max_examples=250))()
    print(f"{rounds} rounds", flush=True)


def fuzz_by_atheris(name: str, seconds: int) -> None:
    """Let libFuzzer change bytes, of which hypothesis makes cases, by what they reach in gws.   Ends the process."""
    import atheris

    with atheris.instrument_imports(include=["gws"]):
        fuzzer = load(name)
    corpus = CORPUS / name
    corpus.mkdir(parents=True, exist_ok=True)
    for i in range(16):  # something to begin with: of no bytes hypothesis makes no case
        (corpus / f"seed-{i}").write_bytes(random.Random(i).randbytes(256 << i % 3))
    options = [f"-max_total_time={seconds}", "-max_len=2048", "-len_control=0", "-timeout=60"]
    options += ["-verbosity=0", "-print_final_stats=1"]
    atheris.Setup(
        ["fuzzing", *options, f"-artifact_prefix={corpus}-", str(corpus)],
        property_of(fuzzer).hypothesis.fuzz_one_input,  # type: ignore[attr-defined]
    )
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
