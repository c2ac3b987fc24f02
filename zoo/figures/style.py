"""The one look of all figures: type, colours that colour-blind readers can tell apart, saving that depends on nothing but the data."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

FAMILY_COLOURS = {"in_distribution": "#1f5fa8", "out_of_distribution": "#b3541e", "retention": "#4d7c3a"}
STUDENT, TEACHER, INK, FAINT = "#8a8a8a", "#222222", "#333333", "#dddddd"
CONTEXT = "#c9c9c9"  # what a panel shows beside what it is about
NOTE = "#6b6b6b"
CHARACTERS_PER_INCH = 14.5  # of a figure's second line
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "opd-zoo",  # ids in the file are hashes of this, not of a random number
    "svg.fonttype": "none",  # text stays text: no glyph outlines, which differ between builds of the font library
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": STUDENT,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
# Okabe and Ito's hues, darkened where needed so that text in them is readable on white; lines differ in their dashes as well.
HUES = ("#0072b2", "#c44e00", "#007a5a", "#a8447f", "#8f6400", "#4c5b7a", "#2f8fc4", "#7a2f2f")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.4, 1.2)), (0, (6, 1.4, 1.4, 1.4)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
AMBER, RED, SILENT = "#e69f00", "#a50f15", "#dfe7ec"
# What the colours of ink and paper become for a reader in the dark.
DARK = {
    INK: "#dfe3e6", TEACHER: "#f2f2f2", STUDENT: "#9aa2a8", NOTE: "#a3abb1", CONTEXT: "#4a5157", FAINT: "#343a40", SILENT: "#2b3238",
    "#0072b2": "#5ab4e6", "#c44e00": "#f08a4b", "#007a5a": "#38b892", "#a8447f": "#d98cbb", "#8f6400": "#d9a52f", "#4c5b7a": "#9fb0d0",
    "#2f8fc4": "#7cc3ea", "#7a2f2f": "#d98a8a", "#1f5fa8": "#6fa8e0", "#b3541e": "#e59560", "#4d7c3a": "#93c47d", "#a50f15": "#e0474c",
}  # fmt: skip


def hue(index: int) -> str:
    """The colour of the n-th of several lines in a panel."""
    return HUES[index % len(HUES)]


def dash(index: int) -> Any:
    """Its dashes, which change once the colours are used up, and differ between neighbours."""
    return DASHES[(index + index // len(HUES)) % len(DASHES)]


def saved(draw: Callable[[], Figure], form: str, about: str = "", dpi: int = 110) -> bytes:
    """The figure as `svg`, `pdf` or `png`, without date or machine; `about` goes into the file's description."""
    metadata: dict[str, dict[str, Any]] = {
        "svg": {"Date": None, "Creator": None, "Description": about or None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None, "Subject": about or None},
        "png": {"Software": None},
    }
    out = io.BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        options: dict[str, Any] = {"dpi": dpi} if form == "png" else {}
        draw().savefig(out, format=form, metadata=metadata[form], **options)
    return _shorter(out.getvalue()) if form == "svg" else out.getvalue()


def _shorter(svg: bytes) -> bytes:
    """The SVG with places to a tenth of a point: half as large, and no eye sees the difference."""

    def places(found: re.Match[bytes]) -> bytes:
        return b' d="' + re.sub(rb"-?\d+\.\d+", lambda number: f"{float(number[0]):.1f}".removesuffix(".0").encode(), found[1]).replace(b" \n", b"\n") + b'"'

    return re.sub(rb' d="([^"]*)"', places, svg)


def for_the_dark(svg: bytes) -> bytes:
    """The SVG without its white ground, its colours following the reader's scheme: also where a page shows it as an image."""
    text = svg.decode()
    rules = "".join(f'[style*="{kind}: {light}"]{{{kind}:{dark}!important}}' for light, dark in DARK.items() if light in text for kind in ("fill", "stroke"))
    rules += '[style*="fill: #ffffff"]{fill:#1b1f23!important}[style*="stroke: #ffffff"]{stroke:#1b1f23!important}#patch_1 path{fill:none!important}'
    text = re.sub(r'(<g id="patch_1">\s*<path d="[^"]*"\s*style="fill: )#ffffff', r"\1none", text, count=1)
    return text.replace("<defs>", f"<style>@media(prefers-color-scheme:dark){{{rules}}}</style><defs>", 1).encode()


def canvas(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def panel(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place given in inches from the lower left corner."""
    across, up = figure.get_size_inches()
    axes = figure.add_axes((left / across, bottom / up, width / across, height / up))
    axes.tick_params(length=0, labelsize=8)
    axes.grid(axis="y", color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    return axes


def heading(figure: Figure, title: str, below: str, left: float = 0.15) -> None:
    """The figure's title and how to read it, in its upper left corner."""
    across, up = figure.get_size_inches()
    figure.text(left / across, 1 - 0.12 / up, title, fontsize=12.5, fontweight="bold", va="top")
    lines = [line for part in below.split("\n") for line in textwrap.wrap(part, int((across - left) * CHARACTERS_PER_INCH))]
    figure.text(left / across, 1 - 0.4 / up, "\n".join(lines), fontsize=8.5, color=NOTE, va="top", linespacing=1.35)


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places in [low, high], at least `gap` apart and in the order of the wanted ones, as near to them as blocks that are moved together allow."""
    order = sorted(range(len(wanted)), key=lambda index: (wanted[index], index))
    gap = min(gap, (high - low) / max(1, len(order) - 1)) if len(order) > 1 else gap
    blocks: list[list[float]] = []  # [sum of wanted starts, count]
    for place, index in enumerate(order):
        blocks.append([wanted[index] - place * gap, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            last = blocks.pop()
            blocks[-1] = [blocks[-1][0] + last[0], blocks[-1][1] + last[1]]
    starts = [block[0] / block[1] for block in blocks for _ in range(int(block[1]))]
    top = high - (len(order) - 1) * gap
    found = [0.0] * len(order)
    for place, (index, start) in enumerate(zip(order, starts, strict=True)):
        found[index] = min(max(start, low), top) + place * gap
    return found


def end_labels(axes: Axes, ends: Mapping[str, tuple[float, float, str]], points: float = 9.5, size: float = 7.5, aside: float = 0.04) -> None:
    """Names at the ends of their lines (x, y, colour), moved apart where they would overlap, with a thin lead from the line to the moved name.

    `points` is the least distance between two names.
    """
    if not ends:
        return
    low, high = axes.get_ylim()
    height = axes.get_window_extent().height * 72 / axes.figure.dpi  # in points
    names = list(ends)
    fractions = [(ends[name][1] - low) / (high - low) for name in names]
    places = spread(fractions, points / height, 0.02, 0.98)
    left, right = axes.get_xlim()
    for name, fraction, place in zip(names, fractions, places, strict=True):
        x, _, colour = ends[name]
        end = (x - left) / (right - left) if axes.get_xscale() == "linear" else 1.0
        axes.plot([min(end, 1.0), 1 + aside], [fraction, place], transform=axes.transAxes, color=colour, linewidth=0.6, clip_on=False, alpha=0.7)
        axes.text(1 + aside * 1.3, place, name, transform=axes.transAxes, color=colour, fontsize=size, va="center", clip_on=False)


def thousands(value: float, _: Any = None) -> str:
    """12000 as 12k."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"
