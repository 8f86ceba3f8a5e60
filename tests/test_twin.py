"""README.zh.md says what README.md says: the same blocks of code, headings and tables, in the same order.

Whoever changes one of them changes the other; where the Chinese is not at hand, the English will do until it is.
"""

from __future__ import annotations

import difflib

import pytest
from pages import ROOT, blocks, code, headings, links, rows

ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh.md"


def shapes(path):
    """Return what both must have: each as a line, by kind."""
    return {
        "blocks of code": "\n".join(
            f"{language}: {line}" for language, text in blocks(path) for line in text.splitlines()
        ),
        "headings": "\n".join("#" * level for level, _ in headings(path)),
        "rows of tables": "\n".join(f"{len(row)} cells: {', '.join(code(row[0]))}" for row in rows(path)),
    }


@pytest.mark.parametrize("kind", shapes(ENGLISH))
def test_both_have_the_same(kind):
    ours, theirs = shapes(ENGLISH)[kind].splitlines(), shapes(CHINESE)[kind].splitlines()
    change = difflib.unified_diff(theirs, ours, CHINESE.name, ENGLISH.name, lineterm="", n=2)
    assert ours == theirs, f"README.zh.md wants the {kind} of README.md (copy the lines with a +):\n" + "\n".join(
        change
    )


def test_both_lead_to_each_other():
    assert CHINESE.name in links(ENGLISH)
    assert ENGLISH.name in links(CHINESE)


def test_the_links_of_the_twin_lead_somewhere():
    for target in links(CHINESE):
        assert target.startswith("https:") or (ROOT / target).exists(), target
