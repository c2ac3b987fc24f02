"""Reductions: each token's share of the batch loss, fixed over the global batch before any backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from zoo.components.base import Component, component

Total = Callable[[Tensor], Tensor]


class Reduce(Component):
    """Base of all reductions. `over: kept` counts only tokens that the gates let through; the default counts all valid ones."""

    over: Literal["valid", "kept"] = "valid"

    def scale(self, valid_BT: Tensor, kept_BT: Tensor, total: Total, turn_BT: Tensor | None = None) -> Tensor:
        """Factor (B, T) of each token's loss; `total` sums a per-process number over all processes, `turn_BT` says which turn a token is of."""
        counted_BT = (kept_BT if self.over == "kept" else valid_BT).to(torch.float32)
        if isinstance(self, TurnMean) and turn_BT is not None:
            return self.turn_factors(counted_BT, turn_BT, total) * valid_BT
        return self.factors(counted_BT, total) * valid_BT

    def factors(self, counted_BT: Tensor, total: Total) -> Tensor:
        """The factor before masking."""
        raise NotImplementedError


@component("reduce")
class TokenMean(Reduce):
    """1 / number of tokens of the global batch."""

    kind: Literal["token_mean"] = "token_mean"

    def factors(self, counted_BT: Tensor, total: Total) -> Tensor:
        return torch.ones_like(counted_BT) / total(counted_BT.sum()).clamp(min=1.0)


@component("reduce")
class SequenceMean(Reduce):
    """1 / (number of sequences * tokens of this sequence): the mean over sequences of per-token means."""

    kind: Literal["sequence_mean"] = "sequence_mean"

    def factors(self, counted_BT: Tensor, total: Total) -> Tensor:
        length_B1 = counted_BT.sum(1, keepdim=True)
        sequences = total((length_B1 > 0).to(torch.float32).sum()).clamp(min=1.0)
        return torch.ones_like(counted_BT) / (sequences * length_B1.clamp(min=1.0))


@component("reduce")
class Sum(Reduce):
    """Sum over the tokens of each sequence, mean over sequences."""

    kind: Literal["sum"] = "sum"

    def factors(self, counted_BT: Tensor, total: Total) -> Tensor:
        sequences = total((counted_BT.sum(1) > 0).to(torch.float32).sum()).clamp(min=1.0)
        return torch.ones_like(counted_BT) / sequences


@component("reduce")
class Fixed(Reduce):
    """Sum over the tokens of each sequence divided by a constant, mean over sequences (Dr. GRPO's length constant)."""

    kind: Literal["fixed"] = "fixed"
    shorthand = "divisor"
    divisor: float = Field(gt=0)

    def factors(self, counted_BT: Tensor, total: Total) -> Tensor:
        sequences = total((counted_BT.sum(1) > 0).to(torch.float32).sum()).clamp(min=1.0)
        return torch.ones_like(counted_BT) / (sequences * self.divisor)


@component("reduce")
class TurnMean(Reduce):
    """The mean over each turn's tokens; then `turns: mean`, over all turns of the global batch (TCOD 2604.24005, whose rows are turns), or
    `turns: sum`, summed over the turns of a sequence, mean over sequences (HERO 2606.11559)."""

    kind: Literal["turn_mean"] = "turn_mean"
    turns: Literal["mean", "sum"] = "mean"

    def factors(self, counted_BT: Tensor, total: Total) -> Tensor:
        return self.turn_factors(counted_BT, torch.zeros_like(counted_BT, dtype=torch.long), total)

    def turn_factors(self, counted_BT: Tensor, turn_BT: Tensor, total: Total) -> Tensor:
        """The factor before masking."""
        length_BK = torch.zeros_like(counted_BT).scatter_add_(1, turn_BT, counted_BT)
        units = (length_BK > 0).sum() if self.turns == "mean" else (counted_BT.sum(1) > 0).sum()
        return 1.0 / (total(units.to(torch.float32)).clamp(min=1.0) * length_BK.gather(1, turn_BT).clamp(min=1.0))
