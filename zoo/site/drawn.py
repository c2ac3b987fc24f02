"""Small drawings inside pages, as SVG and marked-up text that take their colours from the page: bars, strips, curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from zoo.table_forms import TableCell

WIDE, HIGH, LEFT, BELOW = 300, 132, 46, 18  # of a plot, in its own units


@dataclass(frozen=True)
class Scale:
    """From values to shares of a bar."""

    low: float
    high: float

    def share(self, value: float) -> float:
        """Where the value lies, cut to the bar's ends."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))

    def percent(self, value: float) -> str:
        """The share as CSS writes it."""
        return f"{100 * self.share(value):.1f}%"


def scale_of(values: Sequence[float], *, within: tuple[float, float] = (0.0, 1.0)) -> Scale:
    """A scale that shows `within` and the values, but no outlier farther than the span itself."""
    found = [value for value in values if not math.isnan(value)]
    span = within[1] - within[0]
    low = max(min([within[0], *found]), within[0] - span / 2)
    high = min(max([within[1], *found]), within[1] + span / 2)
    room = 0.02 * (high - low)
    return Scale(low - room, high + room)


def bar(cell: TableCell, scale: Scale) -> Markup:
    """A dot on a track from student to teacher, with its interval where it has one; without a number nothing."""
    if cell.value is None:
        return Markup("")
    interval = cell.interval or (cell.value, cell.value)
    ends = {"a": interval[0], "b": interval[1], "v": cell.value, "s": 0.0, "t": 1.0}
    style = ";".join(f"--{name}:{scale.percent(value)}" for name, value in ends.items())
    return Markup('<span class="bar" style="{}" aria-hidden="true"><i class="ends"></i><i class="span"></i><i class="dot"></i></span>').format(style)


def strip(values: Sequence[float], own: float | None) -> Markup:
    """Ticks of all methods along one line, the own one marked; larger to the right."""
    found = [value for value in values if not math.isnan(value)]
    if len(found) < 2 or own is None or max(found) == min(found):
        return Markup("")
    low, high = min(found), max(found)
    places = sorted({round(4 + 152 * (value - low) / (high - low)) for value in found})
    ticks = "".join(f"M{place} 5v8" for place in places)
    mine = 4 + 152 * (own - low) / (high - low)
    text = '<svg class="strip" viewBox="0 0 160 18" width="160" height="18" aria-hidden="true"><path d="{}"/><circle cx="{:.1f}" cy="9" r="4"/></svg>'
    return Markup(text).format(ticks, mine)


def plot(title: str, line: Mapping[str, Sequence[float]], other: Mapping[str, Sequence[float]] | None, other_name: str) -> Markup:
    """One quantity over tokens: mean with the range over seeds, and another line for reference. Values stand at the axes' ends."""
    values = [value for name in ("low", "high") for value in line[name]] + (list(other["mean"]) if other else [])
    low, high = min(values), max(values)
    low, high = (low - 0.5, high + 0.5) if low == high else (low, high)
    last = max(line["tokens"][-1], other["tokens"][-1] if other else 0.0) or 1.0

    def x(token: float) -> str:
        return f"{LEFT + (WIDE - LEFT - 4) * token / last:.1f}"

    def y(value: float) -> str:
        return f"{6 + (HIGH - BELOW - 10) * (1 - (value - low) / (high - low)):.1f}"

    def path(tokens: Sequence[float], of: Sequence[float]) -> str:
        return "M" + "L".join(f"{x(token)} {y(value)}" for token, value in zip(tokens, of, strict=True))

    band = path(line["tokens"], line["high"]) + "L" + path(line["tokens"][::-1], line["low"][::-1])[1:] + "Z"
    beside = Markup('<path class="other" d="{}"><title>{}</title></path>').format(path(other["tokens"], other["mean"]), other_name) if other else Markup("")
    words = f"{title}: from {line['mean'][0]:.3g} to {line['mean'][-1]:.3g}"
    return Markup(
        '<figure class="plot"><figcaption>{}</figcaption><svg viewBox="0 0 {} {}" role="img" aria-label="{}">'
        '<path class="frame" d="M{} {}H{}"/>{}<path class="band" d="{}"/><path class="line" d="{}"/>'
        '<text x="{}" y="12" text-anchor="end">{}</text><text x="{}" y="{}" text-anchor="end">{}</text>'
        '<text x="{}" y="{}">0</text><text x="{}" y="{}" text-anchor="end">{} tokens</text></svg></figure>'
    ).format(
        *(title, WIDE, HIGH, words, LEFT, HIGH - BELOW + 2, WIDE, beside, band, path(line["tokens"], line["mean"])),
        *(LEFT - 5, f"{high:.3g}", LEFT - 5, HIGH - BELOW, f"{low:.3g}", LEFT, HIGH - 4, WIDE - 2, HIGH - 4, f"{last:,.0f}"),
    )
