"""Figures of coloured cells: the probability that one method beats another, and which failure modes were seen in which method's runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from zoo import stats
from zoo.figures.data import IDLE, Board
from zoo.figures.style import AMBER, INK, NOTE, RED, SILENT, canvas, heading, panel

LEAST_SEEDS = stats.MIN_SEEDS
LOSING, EVEN, WINNING = "#c44e00", "#f4f4f2", "#0072b2"
MOST = 60  # methods of a matrix that can still be read


def improvement_data(board: Board) -> dict[str, Any] | None:
    """P(row > column) on the first task in distribution, and whether the paired difference is significant after Holm's adjustment.

    Methods with every seed, best first; None below four seeds, below two methods and above MOST.
    """
    seeds = max((len(board.score[method]) for method in board.trained), default=0)
    usable = [method for method in board.trained if len(board.score[method]) == seeds]
    if seeds < LEAST_SEEDS or not 2 <= len(usable) <= MOST:
        return None
    task = sorted(board.items[usable[0]])[0]
    held = {method: board.items[method][task] for method in usable if task in board.items[method]}
    order = sorted(held, key=lambda method: (-board.mean(method), method))
    matrix_SI = {method: _matrix(held[method], held[order[0]]) for method in order}
    pairs = list(combinations(order, 2))
    p = dict(zip(pairs, stats.holm([stats.crossed_p_value(matrix_SI[a] - matrix_SI[b]) for a, b in pairs]), strict=True))
    cells = [[stats.probability_of_improvement(matrix_SI[a].mean(axis=1), matrix_SI[b].mean(axis=1)) if a != b else math.nan for b in order] for a in order]
    clear = [[bool(p.get((a, b), p.get((b, a), 1.0)) < 0.05) for b in order] for a in order]
    return {"task": task, "methods": order, "cells": cells, "clear": clear, "seeds": seeds}


def _matrix(held: Mapping[int, Mapping[Any, float]], like: Mapping[int, Mapping[Any, float]]) -> stats.Array:
    items = list(next(iter(like.values())))
    return np.array([[held[seed][item] for item in items] for seed in sorted(held)])


def draw_improvement(data: Mapping[str, Any]) -> Figure:
    """A square of cells, best method first; a dot where the difference is significant."""
    methods, size = data["methods"], 0.235
    extent = size * len(methods)
    longest = 0.075 * max(map(len, methods)) + 0.25
    figure = canvas(max(6.4, longest + extent + 1.2), extent + longest + 1.05)
    below = f"P(a run of the row's method scores above one of the column's), {data['task'].rpartition('/')[2]}, {data['seeds']} seeds."
    heading(figure, "Probability of improvement", f"{below}\nDot: the paired difference is significant at 5 % after Holm's adjustment. Best mean first.")
    axes = panel(figure, longest, 0.3, extent, extent)
    axes.grid(False)
    cells = np.array([[math.nan if value is None else value for value in row] for row in data["cells"]])
    axes.imshow(cells, cmap=LinearSegmentedColormap.from_list("even", [LOSING, EVEN, WINNING]), vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    places = range(len(methods))
    axes.set_xticks(places, methods, rotation=90, fontsize=7.5)
    axes.xaxis.tick_top()
    axes.set_yticks(places, methods, fontsize=7.5)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for row, column in ((r, c) for r in places for c in places if data["clear"][r][c]):
        axes.plot(column, row, "o", color="#ffffff" if abs(cells[row, column] - 0.5) > 0.25 else INK, markersize=2.4)
    _scale(figure, longest + extent + 0.3, 0.3)
    return figure


def _scale(figure: Figure, left: float, bottom: float) -> None:
    for step in range(11):
        axes = panel(figure, left, bottom + step * 0.13, 0.16, 0.13)
        axes.set_axis_off()
        colour = LinearSegmentedColormap.from_list("even", [LOSING, EVEN, WINNING])(step / 10)
        axes.add_patch(Rectangle((0, 0), 1, 1, color=colour))
        if step in (0, 5, 10):
            axes.text(1.3, 0.5, f"{step / 10:g}", fontsize=7.5, color=NOTE, va="center")


def failure_data(board: Board) -> dict[str, Any] | None:
    """method × failure mode: how many of its runs fired red, amber, were silent or not measured; None without findings and above MOST methods."""
    modes = sorted({mode for found in board.findings.values() for mode in found})
    diagnosed = board.diagnosed()
    methods = [method for _, group in diagnosed for method in group]
    if not modes or not 0 < len(methods) <= MOST:
        return None
    kinds = ("red", "amber", "silent", "not_measured")
    cells = [[[board.findings[method].get(mode, []).count(kind) for kind in kinds] for mode in modes] for method in methods]
    return {"modes": modes, "methods": methods, "cells": cells, "groups": [[name, len(group)] for name, group in diagnosed]}


def draw_failures(data: Mapping[str, Any]) -> Figure:
    """Rows are methods by family. The worst level colours a cell; its number is how many runs fired at all."""
    modes, methods, size = data["modes"], data["methods"], 0.27
    longest = 0.078 * max(map(len, methods)) + 0.25
    gaps = 0.32 * len(data["groups"])
    tall = size * len(methods) + gaps
    figure = canvas(max(7.5, longest + size * len(modes) + 0.4), tall + 1.2)
    below = "Cell: worst level over a method's runs, and in how many of them it fired (red: bold; amber). Blank ground: silent. A slash: not measured."
    below += " What fires for no_op, which learns nothing, is the pair's or the task's." * (IDLE in methods)
    heading(figure, "Failure modes by method", below)
    axes = panel(figure, longest, 0.2, size * len(modes), tall)
    axes.grid(False)
    axes.set_xlim(0, len(modes))
    axes.set_ylim(tall / size, 0)
    y, place = 0.0, 0
    ticks: list[tuple[float, str]] = []
    for name, count in data["groups"]:
        axes.annotate(name, (0, y + 0.95), fontsize=8, fontweight="bold", color=NOTE, annotation_clip=False)
        y += 0.32 / size
        for method, row in zip(methods[place : place + count], data["cells"][place : place + count], strict=True):
            axes.add_patch(Rectangle((0, y + 0.06), len(modes), 0.88, facecolor=SILENT, linewidth=0))
            for column, counts in enumerate(row):
                _cell(axes, column, y, counts)
            ticks.append((y + 0.5, method))
            y += 1
        place += count
    axes.vlines(range(1, len(modes)), 0, tall / size, color="#ffffff", linewidth=1.5, zorder=2)
    axes.set_yticks([at for at, _ in ticks], [name for _, name in ticks], fontsize=7.5)
    axes.set_xticks([column + 0.5 for column in range(len(modes))], [mode.removeprefix("FM") for mode in modes], fontsize=7.5)
    axes.xaxis.tick_top()
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def _cell(axes: Axes, column: float, y: float, counts: Sequence[int]) -> None:
    red, amber, silent, unmeasured = counts
    if red or amber:
        axes.add_patch(Rectangle((column + 0.04, y + 0.06), 0.92, 0.88, facecolor=RED if red else AMBER, linewidth=0, zorder=3))
        style: dict[str, Any] = {"color": "#fefefe", "fontweight": "bold"} if red else {"color": "#111111"}
        axes.text(column + 0.5, y + 0.54, str(red + amber), ha="center", va="center", fontsize=7, zorder=4, **style)
    elif unmeasured and not silent:
        axes.add_patch(Rectangle((column + 0.02, y + 0.04), 0.98, 0.92, facecolor="#ffffff", linewidth=0, zorder=1.5))
        axes.plot([column + 0.3, column + 0.7], [y + 0.7, y + 0.3], color=NOTE, linewidth=0.8)
