"""A second of each fuzzer in tests/fuzz, always with the same cases; `tox -e fuzz` runs them for as long as is wanted.

What they find becomes a test of the room that it was found in.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent / "fuzz"))
fuzzing: Any = importlib.import_module("fuzzing")

FUZZERS = {name: fuzzing.load(name) for name in fuzzing.FUZZERS}  # here, as their sockets and pipes last for all tests
CASES = {"frames": 150, "request": 250, "response": 250, "extensions": 250, "inflate": 100}


@pytest.mark.parametrize(("name", "cases"), CASES.items())
def test_the_invariant_holds(name: str, cases: int) -> None:
    fuzzing.property_of(FUZZERS[name], max_examples=cases, derandomize=True, database=None)()


@pytest.mark.parametrize("name", FUZZERS)
def test_a_fuzzer_states_its_invariant_first(name: str) -> None:
    assert FUZZERS[name].__doc__.startswith("Invariant: ")
    assert name in {"twins", *CASES}
