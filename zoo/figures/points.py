"""Figures of points and shares: score against cost with its Pareto front, performance profiles, scores by coordinate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from zoo.families import FAMILIES
from zoo.figures.data import Board
from zoo.figures.lines import shown
from zoo.figures.style import CONTEXT, FAINT, HUES, INK, MARKERS, NOTE, canvas, dash, heading, hue, panel, thousands

AXES = ("feedback_signal", "teacher_access", "loss_granularity", "estimator", "routing")
TAUS = 61
LEAST_RANGE = 1.25  # of an axis of costs, the largest over the smallest
GROUND = {"facecolor": "#ffffff", "edgecolor": "none", "pad": 0.6}  # behind a name, so that no line strikes it through


def pareto_data(board: Board) -> dict[str, Any] | None:
    """Score and costs of every method with a score; None below two of them."""
    points = [
        {
            "method": method,
            "family": board.family[method],
            "score": board.mean(method),
            "tokens": board.cost[method].written,
            "seconds": board.cost[method].seconds,
        }
        for method in board.trained
        if not math.isnan(board.mean(method)) and board.cost[method].written > 0 and board.cost[method].seconds > 0
    ]
    return {"unit": board.unit, "points": points} if len(points) > 1 else None


def front(points: Sequence[Mapping[str, Any]], cost: str) -> list[str]:
    """The methods that no other beats on both: none is as cheap and better, or cheaper and as good; cheapest first."""
    found: list[Mapping[str, Any]] = []
    for point in sorted(points, key=lambda point: (point[cost], -point["score"], point["method"])):
        if not found or point["score"] > found[-1]["score"]:
            found.append(point)
    return [point["method"] for point in found]


def draw_pareto(data: Mapping[str, Any]) -> Figure:
    """Two panels, tokens and seconds; the front as a step line, its methods in bold; other names where there is room."""
    figure = canvas(10.4, 5.45)
    heading(
        figure, "Score against cost", f"Up: {data['unit']}, mean over seeds. Line and bold names: the Pareto front. Names that found no room are in the tables."
    )
    titles = {"tokens": "tokens that the student wrote or was trained on", "seconds": "seconds of the run"}
    families = [name for name in FAMILIES if any(point["family"] == name for point in data["points"])]
    for index, (cost, title) in enumerate(titles.items()):
        axes = panel(figure, 0.55 + index * 4.95, 1.05, 4.6, 3.7)
        axes.set_xscale("log")
        for point in data["points"]:
            place = families.index(point["family"])
            axes.plot(
                point[cost], point["score"], MARKERS[place % len(MARKERS)], color=hue(place), markersize=6.5, markeredgecolor="#ffffff", markeredgewidth=0.6
            )
        best = front(data["points"], cost)
        axes.set_xlabel(title, fontsize=8.5)
        _decades(axes, [point[cost] for point in data["points"]])
        corners = _front_line(axes, [point for name in best for point in data["points"] if point["method"] == name], cost)
        _place_names(axes, data["points"], cost, best, corners)
    for place, name in enumerate(families):
        row, column = divmod(place, 4)
        x, y = 0.06 + column * 0.24, 0.075 - row * 0.042
        figure.text(x, y, name, fontsize=8, color=hue(place), va="center")
        figure.add_artist(_marker(figure, x - 0.012, y, place))
    return figure


def _marker(figure: Figure, x: float, y: float, place: int) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([x], [y], marker=MARKERS[place % len(MARKERS)], color=hue(place), markersize=6, linestyle="none", transform=figure.transFigure)


def _front_line(axes: Axes, best: Sequence[Mapping[str, Any]], cost: str) -> list[tuple[float, float]]:
    """Draw the front as steps that end at the panel's edge; returns their corners."""
    right = axes.get_xlim()[1]
    corners = [(best[0][cost], best[0]["score"])]
    for point in best[1:]:
        corners += [(point[cost], corners[-1][1]), (point[cost], point["score"])]
    corners.append((right, corners[-1][1]))
    axes.plot(*zip(*corners, strict=True), color=INK, linewidth=1, zorder=1)
    return corners


def _decades(axes: Axes, values: Sequence[float]) -> None:
    low, high = min(values), max(values)
    if high < LEAST_RANGE * low:  # equal budgets: a closer look would show their rounding
        middle = math.sqrt(low * high)
        low, high = middle / math.sqrt(LEAST_RANGE), middle * math.sqrt(LEAST_RANGE)
    room = (high / low) ** 0.08
    axes.set_xlim(low / room**2.2, high * room**2.2)
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom - 0.02 * (top - bottom), top + 0.06 * (top - bottom))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(thousands))


def _place_names(axes: Axes, points: Sequence[Mapping[str, Any]], cost: str, best: Sequence[str], corners: Sequence[tuple[float, float]]) -> None:
    """Names beside their points where they hit no other name, no point and not the front; those of the front always, the better ones first."""
    at = {point["method"]: axes.transData.transform((point[cost], point["score"])) * 72 / axes.figure.dpi for point in points}
    taken = [(x - 3.5, y - 3.5, x + 3.5, y + 3.5) for x, y in at.values()]
    line = [axes.transData.transform(corner) * 72 / axes.figure.dpi for corner in corners]
    taken += [(min(a[0], b[0]) - 1, min(a[1], b[1]) - 1, max(a[0], b[0]) + 1, max(a[1], b[1]) + 1) for a, b in pairwise(line)]
    box = axes.get_window_extent()
    left, right = box.x0 * 72 / axes.figure.dpi, box.x1 * 72 / axes.figure.dpi + 26
    for point in sorted(points, key=lambda point: (point["method"] not in best, -point["score"], point["method"])):
        name, bold = point["method"], point["method"] in best
        x, y = at[name]
        width, height = (4.9 if bold else 4.4) * len(name), 8.0
        spots = [(5, -3), (-5 - width, -3), (-width / 2, 6), (-width / 2, -13), (6, 4), (6, -12), (-6 - width, 5), (-6 - width, -12)]
        boxes = [(x + dx, y + dy, x + dx + width, y + dy + height) for dx, dy in spots]
        hits = [sum(b[0] < t[2] and t[0] < b[2] and b[1] < t[3] and t[1] < b[3] for t in taken) + 9 * (b[0] < left or b[2] > right) for b in boxes]
        if min(hits) and not bold:
            continue
        dx, dy = spots[hits.index(min(hits))]
        taken.append((x + dx, y + dy, x + dx + width, y + dy + height))
        place: dict[str, Any] = {"xytext": (dx, dy + 1.5), "textcoords": "offset points"}
        axes.annotate(name, (point[cost], point["score"]), **place, fontsize=7.5, fontweight="bold" if bold else "normal", color=INK if bold else NOTE)


def profile_data(board: Board) -> dict[str, Any] | None:
    """For each method the share of its runs (seeds × tasks) above a score, over a grid of scores; None below two methods or two runs each."""
    runs = {method: board.runs[method] for method in board.trained if board.runs[method]}
    if len(runs) < 2 or max(map(len, runs.values())) < 2:
        return None
    values = [value for mine in runs.values() for value in mine]
    low, high = min(values), max(values)
    grid = np.linspace(low - 0.02 * (high - low), high + 0.02 * (high - low), TAUS)
    shares = {method: _steps(grid.tolist(), [float(np.mean(np.array(mine) > tau)) for tau in grid]) for method, mine in runs.items()}
    medians = {method: float(np.median(mine)) for method, mine in runs.items()}
    groups = [shown(name, mine) for name, methods in board.groups() if (mine := [method for method in methods if method in runs])]
    return {"unit": board.unit, "range": [grid[0], grid[-1]], "steps": shares, "medians": medians, "groups": groups}


def _steps(grid: Sequence[float], share: Sequence[float]) -> list[list[float]]:
    """The points at which the share falls, and both ends."""
    last = len(grid) - 1
    return [[tau, value] for place, (tau, value) in enumerate(zip(grid, share, strict=True)) if place in (0, last) or value != share[place - 1]]


def draw_profiles(data: Mapping[str, Any]) -> Figure:
    """Small multiples by family; the further right and up a line, the better. Source: Agarwal et al., arXiv 2108.13264, section 4.2."""
    groups, middle = data["groups"], data["medians"]
    lines = {method: tuple(zip(*steps, strict=True)) for method, steps in data["steps"].items()}
    rows = math.ceil(len(groups) / 2)
    width, height, cell = 2.75, 1.6, 4.55
    figure = canvas(0.35 + 2 * cell, 1.05 + rows * (height + 0.68))
    below = f"Share of a method's runs (seeds × tasks) above a score, over scores ({data['unit']}). Further right is better."
    below += " Grey: methods of other families. Beside a name: the median of its runs."
    heading(figure, "Performance profiles", below)
    for index, (name, methods) in enumerate(groups):
        row, column = divmod(index, 2)
        axes = panel(figure, 0.5 + column * cell, 0.45 + (rows - 1 - row) * (height + 0.68), width, height)
        for method, line in lines.items():
            if method not in methods:
                axes.step(*line, color=CONTEXT, linewidth=0.7, zorder=1, where="post")
        for place, method in enumerate(methods):
            axes.step(*lines[method], color=hue(place), linestyle=dash(place), linewidth=1.5, zorder=3, where="post")
        axes.set_xlim(*data["range"])
        axes.set_ylim(-0.03, 1.05)
        axes.set_title(name, loc="left", fontsize=9.5, fontweight="bold", pad=5)
        ordered = sorted(methods, key=lambda method: (-middle[method], method))
        ends = {method: (0.95 - 0.9 * place / max(len(ordered) - 1, 6), hue(methods.index(method))) for place, method in enumerate(ordered)}
        _listed(axes, ends, {method: f"{method}  {middle[method]:.2f}".replace("-", "−") for method in ordered})
    return figure


def _listed(axes: Axes, ends: Mapping[str, tuple[float, str]], texts: Mapping[str, str]) -> None:
    for name, (y, colour) in ends.items():
        axes.text(1.04, y, texts[name], transform=axes.transAxes, color=colour, fontsize=7.5, va="center")


def taxonomy_data(board: Board) -> dict[str, Any] | None:
    """Each coordinate's values with the scores of the methods that have them; None where no method with a score has coordinates."""
    scored = [method for method in board.trained if not math.isnan(board.mean(method)) and board.coordinates.get(method)]
    if not scored:
        return None
    blocks = []
    for axis in AXES:
        values: dict[str, list[list[Any]]] = {}
        for method in scored:
            held = board.coordinates[method][axis]
            for value in held if isinstance(held, list | tuple) else [held]:
                values.setdefault(str(value), []).append([method, board.mean(method), board.family[method]])
        blocks.append([axis, [[value, sorted(found, key=lambda item: (item[1], item[0]))] for value, found in values.items()]])
    return {
        "unit": board.unit,
        "blocks": [[axis, sorted(values, key=lambda item: (-float(np.median([m[1] for m in item[1]])), item[0]))] for axis, values in blocks],
    }


def draw_taxonomy(data: Mapping[str, Any]) -> Figure:
    """A row per value of each coordinate, a dot per method at its score, the median as a bar; the best and the worst of a row by name."""
    blocks = data["blocks"]
    rows, step = sum(len(values) for _, values in blocks), 0.34
    extent = rows * step + len(blocks) * 0.42
    figure = canvas(9.2, 1.25 + extent)
    below = f"Each dot a method, at its {data['unit']} (mean over seeds); bar: median of the row."
    below += " A method stands in each row it belongs to. By name: best and worst."
    heading(figure, "Where scores lie in the taxonomy", below)
    axes = panel(figure, 1.9, 0.5, 6.6, extent)
    axes.grid(False)
    axes.grid(axis="x", color=FAINT, linewidth=0.7)
    scores = [item[1] for _, values in blocks for _, found in values for item in found]
    room = 0.17 * ((max(scores) - min(scores)) or 1.0)
    axes.set_xlim(min(scores) - room, max(scores) + room)
    y = 0.0
    for index, (axis, values) in enumerate(blocks):
        y += 0.42
        axes.annotate(axis.replace("_", " "), (0, y - 0.02), xycoords=("axes fraction", "data"), xytext=(-128, -2), textcoords="offset points",
                      fontsize=9, fontweight="bold", color=HUES[index])  # fmt: skip
        for value, found in values:
            y += step
            _row(axes, value, found, y, HUES[index])
    axes.set_ylim(y + 0.2, 0)
    axes.set_yticks([])
    axes.set_xlabel(data["unit"], fontsize=8.5)
    return figure


def _row(axes: Axes, value: str, found: Sequence[Sequence[Any]], y: float, colour: str) -> None:
    axes.axhline(y, color=FAINT, linewidth=0.7, zorder=0)
    scores = [item[1] for item in found]
    axes.plot(scores, [y] * len(scores), "o", color=colour, alpha=0.55, markersize=5.5, markeredgewidth=0)
    middle = float(np.median(scores))
    axes.plot([middle, middle], [y - 0.12, y + 0.12], color=INK, linewidth=2, solid_capstyle="butt")
    at: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "fontsize": 8.5, "va": "center"}
    axes.annotate(f"{value.replace('_', ' ')}", (0, y), xytext=(-118, 0), **at)
    axes.annotate(f"{len(found)}", (0, y), xytext=(-8, 0), **at | {"color": NOTE, "ha": "right"})
    ends = [(found[0], "right", -5), (found[-1], "left", 5)] if len(found) > 1 else [(found[-1], "left", 5)]
    for item, side, aside in ends:
        axes.annotate(item[0], (item[1], y), xytext=(aside, 0), textcoords="offset points", fontsize=6.8, color=NOTE, va="center", ha=side, bbox=GROUND)
