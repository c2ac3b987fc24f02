"""A weight that asks what a teacher would have written instead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from zoo.components.base import Slot, component
from zoo.components.weights.base import Weight
from zoo.statistics import Entropy, Explored, LogProb, Statistic, TokenContext


@dataclass(frozen=True)
class Resemblance(Explored):
    """How like the next `size` tokens are `samples` texts of as many tokens that `teacher` writes in their place, summed: each 1 - edit distance over
    the longer text's length."""

    size: int
    samples: int

    @property
    def scorers(self) -> tuple[str, ...]:
        return ("student",)


@component("weight")
class ContinuationSupport(Weight):
    """(k + alpha g) / (samples + alpha) for the tokens of a chunk, 0 elsewhere: k how like it are texts that the teacher samples in its place,
    g = exp(mean log p(y)) of the chunk itself (OmniOPD 2606.01476, a Dirichlet-multinomial estimate). Chunks are those of gate entropy_chunks.

    Only the teacher's texts are read.
    """

    kind: Literal["continuation_match"] = "continuation_match"
    teacher: str = "teacher"
    count: int = Field(10, ge=1)
    size: int = Field(50, ge=1)
    samples: int = Field(10, ge=1)
    alpha: float = Field(1.0, gt=0)
    judged = True

    @property
    def within(self) -> object:
        """The gate that keeps the chunks' first tokens."""
        return Slot("gate").validate({"kind": "entropy_chunks", "count": self.count, "size": self.size, "part": "anchors"})

    def scorers(self) -> tuple[str, ...]:
        return ("student",)

    def asks(self) -> tuple[str, ...]:
        return (self.teacher,)

    def statistics(self) -> tuple[Statistic, ...]:
        return (self._column(), Entropy("student"), LogProb("student"))

    def weight(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        anchor_BT = self.within.keep(context, None)  # type: ignore[attr-defined]
        mask_BT, logp_BT = context.mask_BT, context.logp_BT("student")
        place_BT = mask_BT.cumsum(1) - 1
        column_T = torch.arange(mask_BT.shape[1], device=mask_BT.device)
        start_BT = torch.where(anchor_BT, column_T, -1).cummax(1).values
        inside_BT = mask_BT & (start_BT >= 0) & (place_BT - place_BT.gather(1, start_BT.clamp(min=0)) < self.size)
        own_BT = torch.where(inside_BT, logp_BT, torch.zeros_like(logp_BT))
        total_BT = torch.zeros_like(own_BT).scatter_add_(1, start_BT.clamp(min=0), own_BT)
        like_BT = (context.column(self._column()) + self.alpha * (total_BT / self.size).exp()) / (self.samples + self.alpha)
        return torch.where(inside_BT, like_BT.gather(1, start_BT.clamp(min=0)), torch.zeros_like(like_BT))

    def _column(self) -> Resemblance:
        return Resemblance(self.teacher, f"entropy_chunks {self.count} {self.size}", self.within, self.size, self.samples)
