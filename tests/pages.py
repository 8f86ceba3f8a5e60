"""What is written for people, taken apart: the README, its twin, and the pages of docs/.

Knows what a block of code, a heading and a table look like in Markdown, and nothing of what they say.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
_FENCED = re.compile(r"^```.*?^```$", re.M | re.S)


def blocks(path):
    """Return (language, code) for each block of code."""
    return _BLOCK.findall(path.read_text(encoding="utf-8"))


def prose(path):
    """Return all but the blocks."""
    return _FENCED.sub("", path.read_text(encoding="utf-8"))


def headings(path):
    """Return (level, text) for each heading."""
    return [(len(marks), text) for marks, text in re.findall(r"^(#+) (.*)$", prose(path), re.M)]


def links(path):
    """Return the target of each link and picture."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(path))


def rows(path):
    """Return the cells of each row of each table, of the heads too."""
    lines = re.findall(r"^\|(.*)\|$", prose(path), re.M)
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)] for line in lines if set(line) - set("|-: ")]


def code(text):
    """Return what stands in backticks."""
    return re.findall(r"`([^`]+)`", text)
