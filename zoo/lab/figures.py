"""The lab's two pictures, in the style of the comparisons'."""

from __future__ import annotations

import io
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from zoo.figures import FAINT, FAMILY_COLOURS, INK, STUDENT, STYLE
from zoo.lab.estimators import HORIZONS, estimator_numbers
from zoo.lab.routing import routing_numbers

BLUE, ORANGE, GREEN = FAMILY_COLOURS["in_distribution"], FAMILY_COLOURS["out_of_distribution"], FAMILY_COLOURS["retention"]
CURVES = {
    "immediate, sampled token": (BLUE, "-"), "immediate − KL baseline": (BLUE, "--"), "direct, full vocabulary": (GREEN, "-"),
    "discounted, γ = 0.9": (STUDENT, "-"), "return-to-go": (ORANGE, "-"), "return-to-go − value": (ORANGE, "--"),
}  # fmt: skip
PLACES = 4  # decimals that are drawn; the rest would differ between machines


def _svg(draw: Any) -> bytes:
    out = io.BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        figure = draw()
        FigureCanvasAgg(figure)
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


def estimator_svg() -> bytes:
    """Bias against (a) and (b) by estimator, and variance against the horizon."""
    return _svg(_estimators)


def routing_svg() -> bytes:
    """Change of each probability by routing, for each written token of negative advantage."""
    return _svg(_routing)


def _estimators() -> Figure:
    found = estimator_numbers()
    figure = Figure(figsize=(9.6, 5.4))
    left, right = figure.subplots(1, 2, width_ratios=(1.2, 1.0))
    figure.subplots_adjust(left=0.24, right=0.97, top=0.88, bottom=0.12, wspace=0.32)
    places = np.arange(len(found))
    for offset, colour, name, values in (
        (-0.17, BLUE, "(a) per state, frozen", [n.state[0] for n in found]),
        (0.17, ORANGE, "(b) whole sequence", [n.sequence[0] for n in found]),
    ):
        left.barh(places + offset, np.round(np.minimum(values, 2.2), PLACES), height=0.3, color=colour, label=name)
    left.set_yticks(places, [n.row.name for n in found])
    left.set_ylim(len(found) - 0.4, -0.6)
    left.set_xlabel("bias relative to the reference")
    left.tick_params(axis="y", length=0)
    left.grid(axis="x", color=FAINT, linewidth=0.8)
    left.set_axisbelow(True)
    left.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, frameon=False, fontsize=9)
    for n in found:
        if n.row.name in CURVES:
            colour, line = CURVES[n.row.name]
            right.plot(HORIZONS, np.round(n.variance, PLACES), line, color=colour, label=n.row.name, linewidth=1.6)
    right.set_xticks(HORIZONS)
    right.set_xlabel("horizon T")
    right.set_ylabel("variance of one sequence's gradient")
    right.grid(axis="y", color=FAINT, linewidth=0.8)
    right.legend(frameon=False, fontsize=9)
    return figure


def _routing() -> Figure:
    found = routing_numbers()
    written = sorted(found[0].moved)
    figure = Figure(figsize=(9.6, 3.4))
    panels = np.atleast_1d(figure.subplots(1, len(written), sharey=True))
    figure.subplots_adjust(left=0.08, right=0.98, top=0.8, bottom=0.14, wspace=0.08)
    colours = (STUDENT, INK, BLUE, GREEN, ORANGE)
    for axes, token in zip(panels, written, strict=True):
        for k, (n, colour) in enumerate(zip(found, colours, strict=True)):
            places = np.arange(len(n.moved[token])) + 0.16 * (k - 2)
            axes.bar(places, np.round(n.moved[token], PLACES), width=0.15, color=colour, label=n.row.name)
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.set_xticks(range(len(found[0].moved[token])), [f"token {v + 1}" for v in range(len(found[0].moved[token]))])
        axes.set_title(f"token {token + 1} was written", fontsize=10, loc="left")
        axes.grid(axis="y", color=FAINT, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(axis="x", length=0)
    panels[0].set_ylabel("Δp per unit of learning rate")
    panels[0].legend(loc="lower left", bbox_to_anchor=(0, 1.1), ncols=5, frameon=False, fontsize=9)
    return figure
