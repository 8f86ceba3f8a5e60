"""How the pages are built: by `tox -e docs`, or by sphinx-build, with what docs/requirements.txt names installed."""

from __future__ import annotations

import dataclasses
import json
import re
import textwrap
from pathlib import Path

import gws

ROOT = Path(__file__).resolve().parent.parent

project = "gws"
copyright = "the gws authors"
release = gws.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["requirements.txt"]
myst_enable_extensions = ["substitution"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "show-inheritance": True}
default_role = "py:obj"  # `a name` in a docstring leads to it, if there is one; else it is code

smartquotes = False  # --reload has two hyphens
suppress_warnings = ["ref.python"]  # two classes are called WebSocket; either page tells of the other

html_theme = "furo"
html_title = f"gws {release}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_theme_options = {"navigation_with_keys": True}


def results() -> str:
    """Return the figures of tests/benchmarks/results.json as a table: for each load a row, for each server a column."""
    found = json.loads((ROOT / "tests/benchmarks/results.json").read_text())
    servers = found["servers"]
    lines = ["| load | " + " | ".join(servers.values()) + " |", "|---" * (len(servers) + 1) + "|"]
    for load in found["loads"].values():
        ratios = [load["figures"].get(name, {}).get("ratio") for name in servers]
        lines.append(f"| {load['title']} | " + " | ".join(map(_ratio, ratios)) + " |")
    return "\n".join(lines)


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if value >= 0.01 else f"{value:.3f}"


def versions() -> str:
    """Return what was measured, and on what."""
    found = json.loads((ROOT / "tests/benchmarks/results.json").read_text())
    machine, theirs = found["machine"], found["versions"]
    named = ", ".join(f"{name} {version}" for name, version in theirs.items() if name != "commit")
    return f"{machine['processors']} processors ({machine['processor']}), {machine['system']}; {named}"


myst_substitutions = {"results": results(), "versions": versions()}


def literal(app, what, name, obj, options, lines):
    """Show what a docstring indents or aligns as it stands there: in this house that is an example, or a table."""
    if lines and lines[0].startswith("Alias for field number"):  # a named tuple's: the type is all that there is to say
        del lines[:]
    told, within = [], False
    for paragraph in "\n".join(lines).split("\n\n"):
        indented = paragraph.startswith("    ")
        stands = indented or re.search(r"^  ", paragraph, re.M) is not None
        if stands and not (within and indented):
            told.append("::")
        if stands:
            told.append(paragraph if indented else textwrap.indent(paragraph, "    "))
        else:
            told.append(_marked(re.sub(r"(?<![`*\w])(\*+)(?=\w)", r"\\\1", paragraph)))  # *args is no emphasis
        within = stands
    lines[:] = "\n\n".join(told).split("\n")


def _marked(text):
    """Have what is in backticks shown as such also where it touches a word, as in server=`name`."""
    pieces = text.split("`")
    for at in range(1, len(pieces) - 1, 2):
        if pieces[at - 1][-1:] not in {"", *" \n([{<-/:\"'"}:
            pieces[at - 1] += "\\ "
        if pieces[at + 1][:1].isalnum():
            pieces[at + 1] = "\\ " + pieces[at + 1]
    return "`".join(pieces)


def fields_say_it(app, what, name, obj, options, signature, returns):
    """Leave the signature of a dataclass out: its fields follow, with what each of them is."""
    return ("", None) if what == "class" and dataclasses.is_dataclass(obj) else None


def setup(app):
    """Have Sphinx ask us about each docstring and signature."""
    app.connect("autodoc-process-docstring", literal)
    app.connect("autodoc-process-signature", fields_say_it)
