"""Weights that compare several scorers on what was written."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from zoo.components.base import component
from zoo.components.weights.base import Weight
from zoo.statistics import LogProb, Statistic, TokenContext


@component("weight")
class Disagreement(Weight):
    """max(floor, 1 / (1 + gamma min(D / q, cap))), D the variance of log q_k(y) over the scorers `of` (one teacher in several contexts, say) and q
    its `level` quantile over the global batch: less where they disagree (UniSD 2605.06597, its code)."""

    kind: Literal["disagreement"] = "disagreement"
    of: tuple[str, ...] = Field(min_length=2)
    gamma: float = Field(1.0, ge=0)
    level: float = Field(0.95, gt=0, le=1)
    cap: float = Field(10.0, gt=0)
    floor: float = Field(0.01, gt=0, le=1)

    def scorers(self) -> tuple[str, ...]:
        return self.of

    def statistics(self) -> tuple[Statistic, ...]:
        return tuple(LogProb(name) for name in self.of)

    def weight(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        spread_BT = torch.stack([context.logp_BT(name) for name in self.of]).var(0, correction=0)
        level = context.quantile(spread_BT, context.mask_BT, self.level)
        # Where all agree everywhere the quantile is 0, and no token is worth less than another.
        ratio_BT = torch.where(level > 0, spread_BT / level.clamp(min=1e-30), torch.zeros_like(spread_BT))
        return (1.0 / (1.0 + self.gamma * ratio_BT.clamp(max=self.cap))).clamp(min=self.floor)
