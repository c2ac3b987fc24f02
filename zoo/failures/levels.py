"""From a number to a level. Limits are flat: `<threshold>.amber`, `<threshold>.red`, and constants by their own names."""

from __future__ import annotations

import math
from collections.abc import Mapping

from zoo.failures.finding import Level

Limits = Mapping[str, float]


def above(value: float, limits: Limits, name: str) -> Level:
    """red where value > `name.red`, amber where value > `name.amber`, else silent; an absent limit never fires, NaN is not measured."""
    return _level(value, limits.get(f"{name}.amber", math.inf), limits.get(f"{name}.red", math.inf))


def below(value: float, limits: Limits, name: str) -> Level:
    """red where value < `name.red`, amber where value < `name.amber`, else silent; an absent limit never fires, NaN is not measured."""
    return _level(-value, -limits.get(f"{name}.amber", -math.inf), -limits.get(f"{name}.red", -math.inf))


def _level(value: float, amber: float, red: float) -> Level:
    if math.isnan(value):
        return "not_measured"
    if value > red:
        return "red"
    return "amber" if value > amber else "silent"
