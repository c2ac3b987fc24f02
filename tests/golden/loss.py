"""What a reference is: a loss term by term on the fixture, its value, and its gradient by central differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .fixture import Fixture, Loss
from .numerics import Array

STEP = 1e-5  # nats; central differences then err by about 1e-10


@dataclass(frozen=True)
class GoldenResult:
    """The scalar that is minimised over the batch, and its terms (coefficients included; they add up to it)."""

    loss: float
    per_term: dict[str, float]


@dataclass(frozen=True)
class Reference:
    """One method's loss: `streams` are those whose student logits it reads."""

    build: Callable[[Fixture], Loss]
    streams: tuple[str, ...] = ("main",)

    def __call__(self, fixture: Fixture) -> GoldenResult:
        """The value at the fixture's student."""
        terms = self.build(fixture)(fixture.student_logits())
        return GoldenResult(loss=float(sum(terms.values())), per_term=terms)

    def gradient(self, fixture: Fixture) -> dict[str, Array]:
        """dL/d(student logits) of each stream in `streams`, (B, T, V), by central differences.

        The loss is built once, at the fixture's values, so whatever the paper detaches stays fixed.
        """
        loss, student = self.build(fixture), fixture.student_logits()
        return {stream: _central_difference(loss, student, stream) for stream in self.streams}


def _central_difference(loss: Loss, student: dict[str, Array], stream: str) -> Array:
    gradient = np.zeros_like(student[stream])
    for at in np.ndindex(gradient.shape):
        value = []
        for step in (STEP, -STEP):
            moved = student[stream].copy()
            moved[at] += step
            value.append(sum(loss({**student, stream: moved}).values()))
        gradient[at] = (value[0] - value[1]) / (2.0 * STEP)
    return gradient
