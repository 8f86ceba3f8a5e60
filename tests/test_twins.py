"""The two streams, side by side: what one does with any bytes, and any interruptions, the other does too.

A few seconds of tests/fuzz/fuzz_twins.py, and what it has found in longer runs.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent / "fuzz"))
fuzzing: Any = importlib.import_module("fuzzing")
twins: Any = importlib.import_module("fuzz_twins")

FOUND = {
    "a compressed frame, and a limit near the largest there is": twins.Reading(
        masked=False,
        rsv=0x40,
        limit=2**63 - 1,
        text=False,
        refuses=False,
        echo=False,
        head=0,
        data=b"\xc1\x00",
        cuts=[],
    ),
}


@pytest.mark.parametrize("case", FOUND.values(), ids=FOUND)
def test_what_was_found(case: Any) -> None:
    twins.check(case)


def test_they_cannot_be_told_apart() -> None:
    fuzzing.property_of(twins, max_examples=150, derandomize=True, database=None)()
