"""What a detector says about a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Level = Literal["silent", "amber", "red", "not_measured"]
LEVELS: tuple[Level, ...] = get_args(Level)
_RANK: dict[Level, int] = {"not_measured": 0, "silent": 1, "amber": 2, "red": 3}


@dataclass(frozen=True)
class Example:
    """A sequence that shows it: where it was written, the end of its text, and what to look at."""

    step: int
    stream: str
    rollout: int
    text: str
    note: str = ""


@dataclass(frozen=True)
class Finding:
    """One failure mode in one run. `value` is the number that its thresholds are about (null where there is none), `first_step` the optimizer
    step at which it first fired, `evidence` further numbers (JSON values), `examples` at most three sequences, `reason` one line: what was
    seen, or why nothing could be."""

    failure_mode: str
    level: Level
    value: float | None = None
    first_step: int | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    examples: tuple[Example, ...] = ()
    reason: str = ""

    @property
    def fired(self) -> bool:
        """Whether it is amber or red."""
        return self.level in ("amber", "red")


def worst(levels: Iterable[Level]) -> Level:
    """The most alarming of several levels; not_measured only where nothing was."""
    return max(levels, key=_RANK.__getitem__, default="not_measured")


def first_fired(steps: Iterable[int], levels: Iterable[Level]) -> int | None:
    """The first of the steps whose level is amber or red; None where none is."""
    return next((step for step, level in zip(steps, levels, strict=True) if level in ("amber", "red")), None)
