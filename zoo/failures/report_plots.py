"""A run's curve as small panels, one quantity each, with the steps at which alarms were established."""

from __future__ import annotations

from matplotlib.figure import Figure

from zoo.failures.reporting import RunReport
from zoo.figures.style import AMBER, INK, NOTE, RED, canvas, heading, hue, panel, saved

PANELS = {
    "accuracy": "greedy accuracy, validation", "loss": "loss", "grad_norm": "gradient norm before the clip", "length": "answer length, tokens",
    "truncated": "cut by the budget, share", "entropy": "student's entropy, nats a token", "kl": "KL(student || reference), nats a token",
    "repeat_share": "tokens in repeated 6-grams, share",
}  # fmt: skip
WIDTH, HEIGHT, GAP, COLUMNS, TOP, LEFT = 2.5, 1.25, 0.62, 3, 0.85, 0.55


def plotted(report: RunReport) -> bytes | None:
    """The panels as SVG; None where the run has no curve."""
    names = [name for name in PANELS if name in report.curve and report.curve[name].notna().sum() > 1]
    return saved(lambda: _draw(report, names), "svg", f"Course of {report.name}") if names else None


def _draw(report: RunReport, names: list[str]) -> Figure:
    rows = -(-len(names) // COLUMNS)
    width, height = LEFT + COLUMNS * (WIDTH + GAP), TOP + rows * (HEIGHT + GAP)
    figure = canvas(width, height)
    marks = [(f.first_step, f.failure_mode, RED if f.level == "red" else AMBER) for f in report.fired if f.first_step is not None]
    heading(figure, report.name, "by optimizer step; a line stands where an alarm was established" if marks else "by optimizer step; no alarm")
    for index, name in enumerate(names):
        row, column = divmod(index, COLUMNS)
        axes = panel(figure, LEFT + column * (WIDTH + GAP), height - TOP - (row + 1) * (HEIGHT + GAP) + GAP - 0.1, WIDTH, HEIGHT)
        seen = report.curve[["step", name]].dropna()
        axes.plot(seen["step"], seen[name], color=hue(0), linewidth=1.4, marker="o", markersize=2)
        axes.set_title(PANELS[name], fontsize=8, loc="left", color=INK, pad=10)
        axes.set_xlim(0, float(report.curve["step"].max()) * 1.02)
        if float(seen[name].min()) >= 0:
            axes.set_ylim(bottom=0)
        for place, (step, mode, colour) in enumerate(sorted(marks)):
            axes.axvline(step, color=colour, linewidth=1.1, alpha=0.8)
            if index == 0:
                above = {"xycoords": ("data", "axes fraction"), "xytext": (1, 1 + 6 * (place % 2)), "textcoords": "offset points"}
                axes.annotate(mode, (step, 1), fontsize=5.5, color=NOTE, **above)  # type: ignore[arg-type]
    return figure
