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


LEADS = [
    0x7F,
    0x80,
    0xBF,
    0xC0,
    0xC1,
    0xC2,
    0xDF,
    0xE0,
    0xE1,
    0xEC,
    0xED,
    0xEE,
    0xEF,
    0xF0,
    0xF1,
    0xF3,
    0xF4,
    0xF5,
    0xFF,
]


@pytest.mark.parametrize("lead", LEADS, ids=hex)
def test_text_is_judged_alike_after_each_byte(lead: int) -> None:
    """Each stream has a judge of its own for text in pieces (RFC 3629 section 4)."""
    for second in (0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0):
        text = bytes([0x61, lead, second, 0x80, 0x80, 0x61, 0x61])
        data = b"\x81" + bytes([len(text)]) + text
        cuts = [(cut, "settle") for cut in range(3, len(data))]
        twins.check(twins.Reading(False, 0, 100, True, False, False, 0, data, cuts))


def test_they_cannot_be_told_apart() -> None:
    fuzzing.property_of(twins, max_examples=150, derandomize=True, database=None)()
