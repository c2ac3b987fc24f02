"""The picture of a comparison: each method's headline score per task, between the untrained student and the teacher."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from zoo.figures.style import FAINT, FAMILY_COLOURS, STUDENT, STYLE, TEACHER
from zoo.score_frame import ANCHORS
from zoo.table_cells import MARKS, Row, standard_error
from zoo.table_layouts import Task, frame_rows, tasks_of

ROW, PANEL, LABELS, TOP, BOTTOM, GAP = 0.34, 2.9, 1.0, 0.8, 0.85, 0.35  # inches
LEAST_SPAN = 0.3
MARGIN = 0.2  # inches on the right, for a reference's name beyond the last panel
CHARACTERS_PER_INCH = 16  # of the caption


def figure_svg(scores: pd.DataFrame) -> bytes:
    """The figure as SVG; the same scores give the same bytes."""
    return _saved(scores, "svg", metadata={"Date": None, "Creator": None})


def figure_png(scores: pd.DataFrame, dpi: int = 150) -> bytes:
    """The figure as PNG, to look at."""
    return _saved(scores, "png", dpi=dpi)


def _saved(scores: pd.DataFrame, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        comparison_figure(scores).savefig(out, format=form, **options)
    return out.getvalue()


def comparison_figure(scores: pd.DataFrame) -> Figure:
    """One panel per task: a dot per method with one standard error over items (over seeds too, with several), a faint dot per seed if there are several,
    dashed lines for the untrained student and the teacher, and the mark of a method without a score in its row."""
    rows = frame_rows(scores, headline=True)
    tasks = tasks_of(rows)
    methods = [method for method in dict.fromkeys(row["method"] for row in rows) if method not in ("student", "teacher")]
    labels = max(LABELS, 0.09 * max(len(_label(method, rows)) for method in methods) + 0.25) if methods else LABELS
    width, height = labels + max(1, len(tasks)) * (PANEL + GAP) + MARGIN, TOP + BOTTOM + ROW * max(1, len(methods))
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    for index, task in enumerate(tasks):
        left, extent = labels + index * (PANEL + GAP), ROW * max(1, len(methods))
        axes = figure.add_axes((left / width, BOTTOM / height, PANEL / width, extent / height))
        _panel(axes, task, task.of(rows), methods)
        axes.set_yticks(range(len(methods)), [_label(method, rows) if index == 0 else "" for method in methods])
    several = _seeds(rows) > 1
    many = "faint dots: single seeds" if several else "one seed: no ranking"
    parts = [f"dots: score ± one standard error over {'seeds and ' * several}test items", "hollow: no_op", "dashed: untrained student and teacher", many]
    caption = _packed(parts, int(width * CHARACTERS_PER_INCH))
    figure.text(0.12 / width, 0.14 / height, caption, fontsize=8, color=STUDENT, va="bottom", linespacing=1.2)
    return figure


def _packed(parts: Sequence[str], characters: int) -> str:
    """The parts, separated by semicolons, in lines of at most so many characters; no part is broken."""
    lines = [parts[0]]
    for part in parts[1:]:
        joined = f"{lines[-1]}; {part}"
        lines = [*lines[:-1], joined] if len(joined) <= characters else [*lines[:-1], f"{lines[-1]};", part]
    return "\n".join(lines)


def _seeds(rows: Sequence[Row]) -> int:
    return len({row["seed"] for row in rows if row["method"] not in ANCHORS})


def _label(method: str, rows: Sequence[Row]) -> str:
    """The method's name, and how many of its seeds succeeded where some did not."""
    seeds = {row["seed"] for row in rows if row["method"] == method}
    succeeded = {row["seed"] for row in rows if row["method"] == method and row["status"] == "success"}
    return f"{method} ({len(succeeded)}/{len(seeds)})" if succeeded and succeeded != seeds else method


def _panel(axes: Axes, task: Task, rows: Sequence[Row], methods: Sequence[str]) -> None:
    colour = FAMILY_COLOURS[task.family]
    for place, method in enumerate(methods):
        mine = [row for row in rows if row["method"] == method]
        found = [row for row in mine if not math.isnan(row["score"])]
        axes.axhline(place, color=FAINT, linewidth=0.8, zorder=0)
        if not found:
            mark = " / ".join(dict.fromkeys(MARKS[row["status"]] for row in mine))
            axes.annotate(mark, (0.02, place), xycoords=("axes fraction", "data"), va="center", fontsize=9, color=STUDENT, backgroundcolor="white")
            continue
        mean, error = float(np.mean([row["score"] for row in found])), _error(found)
        if len(found) > 1:
            axes.plot([row["score"] for row in found], [place] * len(found), "o", color=colour, alpha=0.3, markersize=4, markeredgewidth=0)
        face = "white" if method in ANCHORS else colour
        axes.errorbar(mean, place, xerr=error, fmt="o", color=colour, markerfacecolor=face, markersize=7, elinewidth=1.8, capsize=0)
    _references(axes, rows)
    axes.set_xlim(_limits(*axes.get_xlim()))
    axes.set_ylim(max(len(methods), 1) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(next((row["metric"].replace(",", ", ") for row in rows), ""), fontsize=9)
    _over(axes, task.name, 0, 34, xycoords="axes fraction", fontsize=11, fontweight="bold")
    _over(axes, task.family.replace("_", " "), 0, 20, xycoords="axes fraction", fontsize=9, color=colour)


def _over(axes: Axes, text: str, x: float, points: float, aside: float = 0, **style: Any) -> None:
    """Text at `x`, so many points above the panel and to the right."""
    axes.annotate(text, (x, 1), xytext=(aside, points), textcoords="offset points", **style)


def _limits(low: float, high: float) -> tuple[float, float]:
    """At least LEAST_SPAN wide, so that small differences look small, and within the range of shares where they are shares."""
    missing = max(0.0, LEAST_SPAN - (high - low)) / 2
    wide_low, wide_high = low - missing, high + missing
    if low > -0.05 and high < 1.05:
        shift = max(0.0, wide_high - 1.03)
        wide_low, wide_high = max(wide_low - shift, -0.03), wide_high - shift
    return wide_low, wide_high


def _error(found: Sequence[Row]) -> float:
    """One standard error, as in the tables; NaN, which draws no bar, where seeds saw other items."""
    error = standard_error(found)
    return math.nan if error is None else error


def _references(axes: Axes, rows: Sequence[Row]) -> None:
    """Dashed lines at the anchors' scores, their labels leaning apart where the lines are close."""
    found = {row["method"]: row["score"] for row in reversed(rows) if row["method"] in ("student", "teacher") and not math.isnan(row["score"])}
    low, high = _limits(*axes.get_xlim())
    together = len(found) == 2 and abs(found["teacher"] - found["student"]) < 0.3 * (high - low)
    for anchor, score in found.items():
        colour = {"student": STUDENT, "teacher": TEACHER}[anchor]
        leaning = "right" if anchor == min(found, key=lambda name: (found[name], name)) else "left"
        axes.axvline(score, color=colour, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
        aside = {"right": -3, "left": 3}[leaning] if together else 0
        place = leaning if together else "center"
        _over(axes, anchor, score, 4, aside, xycoords=("data", "axes fraction"), ha=place, fontsize=8, color=colour)
