"""Figures of lines over a run: learning curves with bands over seeds, lengths, entropies and divergences; small multiples by family."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from zoo.figures.data import Board, Point
from zoo.figures.style import CONTEXT, NOTE, STUDENT, TEACHER, canvas, dash, end_labels, heading, hue, panel, thousands

ACCURACY = ("accuracy", "accuracy.valid", "validation_accuracy", "accuracy_valid")
KL = ("kl", "kl_reverse")
TRAJECTORIES = {"length": ("length",), "entropy": ("entropy",), "kl": KL}
TITLES = {"length": "length of answers (tokens)", "entropy": "student's entropy (nats)", "kl": "reverse KL to the teacher (nats)"}
WIDTH, HEIGHT, NAMES = 2.75, 1.75, 1.25  # of a panel, in inches
COLUMNS = 2
MOST = 12  # methods of a panel that are named
PLACES = 25  # of the mean of many lines


def curve_data(board: Board) -> dict[str, Any] | None:
    """Accuracy on held-out prompts over supervised tokens, by family; None where no run measured it twice."""
    lines = {method: line for method in board.trained if (line := over_seeds(board.curves.get(method, []), ACCURACY))}
    if not lines:
        return None
    anchors = {anchor: board.raw[anchor] for anchor in ("student", "teacher") if not math.isnan(board.raw.get(anchor, math.nan))}
    return {"groups": _groups(board, lines), "lines": lines, "anchors": anchors}


def trajectory_data(board: Board) -> dict[str, Any] | None:
    """Length, entropy and divergence over supervised tokens, by family; None where no run has a curve."""
    lines = {
        name: {method: line for method in board.trained if (line := over_seeds(board.curves.get(method, []), columns))}
        for name, columns in TRAJECTORIES.items()
    }
    lines = {name: found for name, found in lines.items() if found}
    return {"groups": _groups(board, {method: 0 for found in lines.values() for method in found}), "lines": lines} if lines else None


def _groups(board: Board, lines: Mapping[str, Any]) -> list[list[Any]]:
    found = [(name, [method for method in methods if method in lines]) for name, methods in board.groups()]
    return [shown(name, methods) for name, methods in found if methods]


def shown(name: str, methods: Sequence[str]) -> list[Any]:
    """A family's title and the methods that its panel names: of many the best, as names of more cannot be read."""
    return [name, list(methods)] if len(methods) <= MOST else [f"{name}: the best {MOST} of {len(methods)}", list(methods[:MOST])]


def over_seeds(curves: Sequence[Sequence[Point]], columns: Sequence[str]) -> dict[str, list[float]] | None:
    """Mean, least and largest over seeds along a run, from the latest start to the earliest end; None below two points.

    Seeds take steps of unequal numbers of tokens: each is read off between its own points at the tokens of the one that has fewest.
    """
    found = []
    for curve in curves:
        name = next((column for column in columns if any(point.get(column) is not None for point in curve)), None)
        if name is not None:
            found.append(np.array([(float(point["supervised_tokens"] or 0), float(value)) for point in curve if (value := point.get(name)) is not None]))
    if not found or min(map(len, found)) < 2:
        return None
    first, last = max(curve[0, 0] for curve in found), min(curve[-1, 0] for curve in found)
    tokens = np.unique(np.clip(min(found, key=len)[:, 0], first, last))
    if len(tokens) < 2:
        return None
    values = np.array([np.interp(tokens, curve[:, 0], curve[:, 1]) for curve in found])
    made = {"tokens": tokens, "mean": values.mean(axis=0), "low": values.min(axis=0), "high": values.max(axis=0)}
    return {name: line.tolist() for name, line in made.items()}


def mean_line(lines: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, list[float]] | None:
    """The mean of lines at equal distances, each read off between its own points, where more than half of them reach; None below two places."""
    if not lines:
        return None
    grid = np.linspace(0, max(line["tokens"][-1] for line in lines), PLACES)
    values = np.array([np.interp(grid, line["tokens"], line["mean"], left=np.nan, right=np.nan) for line in lines])
    there = (~np.isnan(values)).mean(axis=0) > 0.5
    return {"tokens": grid[there].tolist(), "mean": np.nanmean(values[:, there], axis=0).tolist()} if there.sum() > 1 else None


def draw_curves(data: Mapping[str, Any]) -> Figure:
    """A panel per family: its methods in colour with the range of their seeds, all others grey behind them."""
    groups, lines = data["groups"], data["lines"]
    rows = math.ceil(len(groups) / COLUMNS)
    cell = WIDTH + NAMES + 0.55
    figure = canvas(0.35 + COLUMNS * cell, 0.9 + rows * (HEIGHT + 0.62))
    below = "Exact match on held-out prompts over supervised tokens. Line: mean over seeds; band: least to largest seed; grey: methods of other families."
    heading(figure, "Learning curves", below)
    limits = _limits(list(lines.values()), list(data["anchors"].values()))
    for index, (name, methods) in enumerate(groups):
        row, column = divmod(index, COLUMNS)
        axes = panel(figure, 0.5 + column * cell, 0.45 + (rows - 1 - row) * (HEIGHT + 0.62), WIDTH, HEIGHT)
        _draw(axes, lines, methods, limits)
        for anchor, score in data["anchors"].items():
            axes.axhline(score, color={"student": STUDENT, "teacher": TEACHER}[anchor], linewidth=1, linestyle=(0, (4, 3)), zorder=1)
            down = {"student": 2, "teacher": -8}[anchor]
            axes.annotate(anchor, (0.01, score), xycoords=("axes fraction", "data"), xytext=(0, down), textcoords="offset points", fontsize=7, color=NOTE)
        axes.set_title(name, loc="left", fontsize=9.5, fontweight="bold", pad=5)
        _names(axes, lines, methods)
    return figure


def draw_trajectories(data: Mapping[str, Any]) -> Figure:
    """A row per family, a column per quantity; all other methods grey behind."""
    groups, lines = data["groups"], data["lines"]
    height, step, name_width = 1.3, 1.3 + 0.5, 1.3
    figure = canvas(0.6 + len(lines) * (WIDTH - 0.25 + 0.5) + name_width, 1.15 + len(groups) * step)
    heading(
        figure,
        "Lengths, entropies, divergences",
        "Over supervised tokens. Line: mean over seeds; band: least to largest seed; grey: methods of other families.",
    )
    for column, (quantity, found) in enumerate(lines.items()):
        limits = _limits(list(found.values()), [])
        for row, (name, methods) in enumerate(groups):
            axes = panel(figure, 0.5 + column * (WIDTH + 0.25), 0.45 + (len(groups) - 1 - row) * step, WIDTH - 0.25, height)
            _draw(axes, found, [method for method in methods if method in found], limits, methods)
            if column == 0:
                axes.set_title(name, loc="left", fontsize=9.5, fontweight="bold", pad=4)
            if row == 0:
                axes.annotate(TITLES[quantity], (0, 1), xytext=(0, 22), xycoords="axes fraction", textcoords="offset points", fontsize=9, color=NOTE)
            if column == len(lines) - 1:
                _names(axes, found, methods)
    return figure


def _limits(lines: Sequence[Mapping[str, list[float]]], others: Sequence[float]) -> tuple[float, float]:
    """The range of the means, with what the bands add up to a third of it: one seed's outlier may leave the panel, a mean never does."""
    means = [value for line in lines for value in line["mean"]] + list(others)
    low, high = min(means), max(means)
    room = (high - low or 1.0) / 3
    low = max(min([low, *(value for line in lines for value in line["low"])]), low - room)
    high = min(max([high, *(value for line in lines for value in line["high"])]), high + room)
    margin = 0.04 * (high - low or 1.0)
    return low - margin, high + margin


def _draw(axes: Axes, lines: Mapping[str, Mapping[str, list[float]]], methods: Sequence[str], limits: tuple[float, float], order: Sequence[str] = ()) -> None:
    behind = [line for method, line in lines.items() if method not in methods]
    xs, ys = ([value for line in behind for value in (*_thinned(line[name]), math.nan)] for name in ("tokens", "mean"))
    axes.plot(xs, ys, color=CONTEXT, linewidth=0.7, zorder=1)  # one path with gaps: a tenth of the bytes
    for method in methods:
        line, place = lines[method], list(order or methods).index(method)
        axes.fill_between(line["tokens"], line["low"], line["high"], color=hue(place), alpha=0.13, linewidth=0, zorder=2)
        axes.plot(line["tokens"], line["mean"], color=hue(place), linestyle=dash(place), linewidth=1.5, zorder=3)
    axes.set_ylim(*limits)
    axes.set_xlim(0, max(line["tokens"][-1] for line in lines.values()))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(thousands))
    axes.yaxis.set_major_locator(MaxNLocator(4))


def _thinned(values: Sequence[float]) -> list[float]:
    """About a dozen of the values, with the first and the last: enough for a grey line, and the file stays small."""
    step = max(1, (len(values) - 1) // 12)
    return [*values[: len(values) - 1 : step], values[-1]]


def _names(axes: Axes, lines: Mapping[str, Mapping[str, list[float]]], methods: Sequence[str]) -> None:
    ends = {method: (lines[method]["tokens"][-1], lines[method]["mean"][-1], hue(place)) for place, method in enumerate(methods) if method in lines}
    end_labels(axes, ends)
