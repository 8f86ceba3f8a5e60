"""Draw the results as an SVG: a panel for each load, a bar for each server, as long as its ratio.

Everything is in the file itself: its colours, light or dark as the reader's screen, and no font but the reader's own.
"""

from __future__ import annotations

import textwrap
from html import escape

COLUMNS, WIDTH = 3, 960
MARGIN, GAP = 28, 30
TOP, TITLE, ROW, NOTE = 92, 30, 19, 14
LABEL, VALUE = 120, 44  # pixels beside a bar: left for the server's name, right for its ratio
PANEL = (WIDTH - 2 * MARGIN - (COLUMNS - 1) * GAP) / COLUMNS
BAR = PANEL - LABEL - VALUE
CUT = 1.5  # bars beyond so many times the longer of ours and the base's are cut

STYLE = """
.page{fill:#fff} .line{stroke:#afb8c1} .range{stroke:#1f2328;stroke-opacity:.6} .cut{stroke:#fff}
text{fill:#57606a;font:12px system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",Helvetica,Arial,sans-serif}
.strong{fill:#1f2328;font-weight:600} .big{font-size:19px} .small{font-size:11px}
.value{paint-order:stroke;stroke:#fff;stroke-width:3px;stroke-linejoin:round}
.peer{fill:#c3ccd4} .base{fill:#87929d} .ours{fill:#0f9d6e} .ours2{fill:#93d5bb} .ourtext{fill:#0b7a55;font-weight:600}
@media (prefers-color-scheme:dark){
.page{fill:#0d1117} .line{stroke:#484f58} .range{stroke:#f0f6fc} .cut{stroke:#0d1117}
text{fill:#9198a1} .strong{fill:#f0f6fc} .value{stroke:#0d1117}
.peer{fill:#3d444d} .base{fill:#7b8590} .ours{fill:#2fbf8a} .ours2{fill:#1d6b50} .ourtext{fill:#4fd6a3}
}
"""


def draw(found):
    """Return the SVG for what results.json holds."""
    panels, notes = list(found["loads"].values()), _notes(found)
    height = TITLE + ROW * len(found["servers"]) + GAP
    rows = len(panels) // COLUMNS + 1  # the last corner is for the notes
    total = TOP + (rows - 1) * height + max(height, NOTE * len(notes) + GAP)
    drawn = [_heading(found["base"])]
    drawn += [_panel(load, found, *_corner(number, height)) for number, load in enumerate(panels)]
    x, y = _corner(rows * COLUMNS - 1, height)
    drawn += [_text(x, y + 14 + NOTE * number, line, "small") for number, line in enumerate(notes) if line]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {total}" width="{WIDTH}" height="{total}" '
        f'role="img" aria-labelledby="title desc">\n<title id="title">gws beside other WebSocket servers</title>\n'
        f'<desc id="desc">{escape(_described(found))}</desc>\n<style>{STYLE}</style>\n'
        f'<rect class="page" width="{WIDTH}" height="{total}" rx="10"/>\n' + "\n".join(drawn) + "\n</svg>\n"
    )


def _corner(number, height):
    return MARGIN + number % COLUMNS * (PANEL + GAP), TOP + number // COLUMNS * height


def _heading(base):
    return _text(MARGIN, 42, "What a server does with one second of a processor", "strong big") + _text(
        MARGIN, 64, f"Each bar is a ratio to {base}; longer is better. The thin line spans the rounds' extremes."
    )


def _panel(load, found, x, y):
    ratios = {name: load["figures"][name]["ratio"] for name in found["servers"]}
    scale = _scale(ratios, found["base"])
    one, bottom = x + LABEL + scale, y + TITLE + ROW * len(ratios) - 5
    parts = [
        _text(x, y + 14, load["title"], "strong"),
        f'<path class="line" d="M{one:.1f} {y + TITLE - 6}V{bottom}" stroke-dasharray="2 3"/>',
    ]
    for number, (name, title) in enumerate(found["servers"].items()):
        row = y + TITLE + ROW * number
        parts.append(_text(x + LABEL - 8, row + 11, title, "ourtext" if name == "gws" else "", "end"))
        parts.append(_bar(name, load, found["base"], x + LABEL, row, scale))
    return "\n".join(parts)


def _scale(ratios, base):
    """Return the pixels for a ratio of 1, so that the longest bar fits, but for those that are to be cut."""
    known = [ratio for ratio in ratios.values() if ratio]
    most = CUT * max([ratios[name] for name in ("gws", base) if ratios.get(name)], default=1)
    return BAR / min(max(known, default=1), most)


def _bar(name, load, base, x, y, scale):
    told = load["figures"].get(name)
    if told is None or told["ratio"] is None:
        return _text(x + 2, y + 11, "fails" if name in load["failures"] else "-")
    kind = {"gws": "ours", "gws-pure": "ours2", base: "base"}.get(name, "peer")
    length, low, high = (told[key] * scale for key in ("ratio", "low", "high"))
    width = min(max(length, 1.5), BAR)
    bar = f'<rect class="{kind}" x="{x:.1f}" y="{y}" width="{width:.1f}" height="14" rx="2"/>'
    if length > BAR + 0.5:
        bar += f'<path class="cut" stroke-width="3" d="M{x + BAR - 16:.1f} {y + 16}l7 -18"/>'
    elif high - low > 2:
        bar += f'<path class="range" d="M{x + low:.1f} {y + 7}H{x + min(high, BAR):.1f}"/>'
    end = x + max(width, min(high, BAR)) + 6
    return bar + _text(end, y + 11, _ratio(told["ratio"]), "value ourtext" if name == "gws" else "value")


def _notes(found):
    machine, versions = found["machine"], found["versions"]
    packages = [f"{name} {version}" for name, version in versions.items() if name not in ("python", "commit")]
    paragraphs = [
        "The server has one processor, the load another; no compression, no logging. Of idle connections: how many "
        "the same memory holds. A bar with a cut is longer than drawn.",
        f"Medians of {found['rounds']} rounds. {machine['processor']}, {machine['processors']} processors, "
        f"{machine['system'].split('-')[0]}, {versions['python']}.",
        ", ".join(packages) + ".",
    ]
    lines = [line for each in paragraphs for line in [*textwrap.wrap(each, 50, break_on_hyphens=False), ""]]
    return lines[:-1]


def _described(found):
    told = [
        f"{load['title']}: " + ", ".join(f"{name} {_ratio(each['ratio'])}" for name, each in load["figures"].items())
        for load in found["loads"].values()
    ]
    return f"Ratios to {found['base']}. " + "; ".join(told)


def _ratio(ratio):
    if ratio is None:
        return "fails"
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2f}" if ratio >= 0.095 else f"{ratio:.1g}"


def _text(x, y, text, kind="", anchor="start"):
    kind = f' class="{kind}"' if kind else ""
    anchor = f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{kind}{anchor}>{escape(text)}</text>'
