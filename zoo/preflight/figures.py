"""Token by token, the student's answers as both sides see them: overlap, log-ratios, entropies, margins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from zoo.failures.probes.columns import columns
from zoo.failures.probes.scene import Reader, Scene, Texts

LONG = 10.0  # a log-ratio beyond this is a tail


@dataclass(frozen=True)
class Figures:
    """Means over the tokens of the student's answers: share of common tokens among both sides' top 4; quantiles of A = log q - log p and the share of
    |A| > 10; entropies of student and teacher; the teacher's -log q of these tokens and of its own; the teacher's margin log q_(1) - log q_(2)
    among the student's top 4, in the first and in the second half of the answers, at tokens where the student is not sure."""

    tokens: int
    overlap: float
    ratio: tuple[float, float, float]
    tails: float
    entropy_student: float
    entropy_teacher: float
    surprise: float
    surprise_own: float
    margin_first: float
    margin_second: float

    @property
    def margin(self) -> float:
        """The late margin over the early one; NaN where a half has no undecided token."""
        return self.margin_second / self.margin_first if self.margin_first > 0 else float("nan")


def figures(scene: Scene, teacher: Reader, own: Texts) -> Figures:
    """From the scene's answers, and the teacher's own."""
    found = columns(scene, teacher)
    length = np.array([max(len(ids), 1) for ids in scene.answers().ids])
    surprise = [-seen.written_N("teacher").double().cpu() for seen in scene.laws({"teacher": teacher}, own)]
    unsure, late = found["top_student"] < 0.98, found["position"] / length[found["row"]] >= 0.5
    ratio = found["logq"] - found["logp"]
    low, middle, high = np.quantile(ratio, [0.01, 0.5, 0.99])
    return Figures(
        len(ratio), float(found["overlap"].mean()), (float(low), float(middle), float(high)), float((np.abs(ratio) > LONG).mean()),
        float(found["entropy_student"].mean()), float(found["entropy_teacher"].mean()), float(-found["logq"].mean()), float(torch.cat(surprise).mean()),
        _mean(found["margin"][unsure & ~late]), _mean(found["margin"][unsure & late]),
    )  # fmt: skip


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
