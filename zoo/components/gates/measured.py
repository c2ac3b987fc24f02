"""Gates that compare a measure: with a threshold, with its own quantiles, or by the share of tokens to keep."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
from pydantic import model_validator
from torch import Tensor

from zoo.components.base import Number, Slot, check_range, component
from zoo.components.gates.base import Gate, Threshold
from zoo.statistics import Statistic, TokenContext
from zoo.tensors import smallest


class Measured(Gate):
    """Gates that read a measure."""

    of: Annotated[Any, Slot("measure")]

    def scorers(self) -> tuple[str, ...]:
        return tuple(self.of.scorers())

    def statistics(self) -> tuple[Statistic, ...]:
        return tuple(self.of.statistics())


@component("gate")
class MeasureThreshold(Measured, Threshold):
    """A measure against a number; `scope` compares its mean over the turn's or the sequence's tokens, over its group's sequences, or
    over all tokens of the global batch."""

    kind: Literal["threshold"] = "threshold"
    scope: Literal["token", "turn", "sequence", "group", "batch"] = "token"

    def keep(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        value_BT = self.of.value(context)
        if self.scope == "token":
            return self.passes(value_BT) & context.mask_BT
        if self.scope == "turn":
            return self.passes(context.turn_mean(value_BT)) & context.mask_BT
        if self.scope == "batch":
            return self.passes(context.batch_mean(value_BT, context.mask_BT)) & context.mask_BT
        value_B = context.sequence_mean(value_BT)
        return self.passes(context.group_mean(value_B) if self.scope == "group" else value_B)[:, None] & context.mask_BT


@component("gate")
class Quantile(Measured, Threshold):
    """A measure against its own quantile, the threshold being the level in [0, 1]; tokens against those of their response or of the
    global batch, sequences (`scope`, by their means) against those of the batch."""

    kind: Literal["quantile"] = "quantile"
    scope: Literal["token", "sequence"] = "token"
    among: Literal["response", "batch"] = "batch"

    @model_validator(mode="after")
    def _levels(self) -> Quantile:
        for name in ("above", "at_least", "below", "at_most"):
            if getattr(self, name) is not None:
                check_range(name, getattr(self, name), 0.0, 1.0, why="it is the level of a quantile")
        if self.scope == "sequence" and self.among == "response":
            raise ValueError("scope: sequence compares whole responses with each other; set among: batch")
        return self

    def keep(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        value_BT, mask_BT = self.of.value(context), context.mask_BT
        if self.scope == "sequence":
            value_B = context.sequence_mean(value_BT)
            return self.passes(value_B, lambda level: context.quantile(value_B, mask_BT.any(1), level))[:, None] & mask_BT
        if self.among == "batch":
            return self.passes(value_BT, lambda level: context.quantile(value_BT, mask_BT, level)) & mask_BT
        return self.passes(value_BT, lambda level: context.row_quantile(value_BT, level)) & mask_BT


@component("gate")
class Share(Measured):
    """The share of tokens (or, by `scope`, of sequences) whose measure is highest, or lowest; at least one.

    `among` the tokens of each response, where ties go to the earlier token, or of the global batch, where all that tie with the last
    one kept are kept. `round` says which whole number a fraction of a token becomes.
    """

    kind: Literal["share"] = "share"
    share: Number
    side: Literal["highest", "lowest"] = "highest"
    scope: Literal["token", "sequence"] = "token"
    among: Literal["response", "batch"] = "response"
    round: Literal["up", "down"] = "up"

    @model_validator(mode="after")
    def _scopes(self) -> Share:
        check_range("share", self.share, 0.0, 1.0, why="it is a share of the tokens")
        if self.scope == "sequence" and self.among == "response":
            raise ValueError("scope: sequence compares whole responses with each other; set among: batch")
        return self

    def count(self, of: int) -> int:
        """How many of so many are kept; rounding errors of the product do not count."""
        exact = of * self.share
        return max(math.ceil(exact - 1e-6) if self.round == "up" else math.floor(exact + 1e-6), 1)

    def keep(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        value_BT, mask_BT = self.of.value(context), context.mask_BT
        order_BT = -value_BT if self.side == "highest" else value_BT
        if self.among == "response":
            order_BT = order_BT.masked_fill(~mask_BT, torch.inf)
            rank_BT = torch.sort(order_BT, dim=1, stable=True).indices.argsort(1)
            kept_B = torch.tensor([self.count(n) for n in mask_BT.sum(1).tolist()], device=mask_BT.device)
            return (rank_BT < kept_B[:, None]) & mask_BT
        order, counted = (context.sequence_mean(order_BT), mask_BT.any(1)) if self.scope == "sequence" else (order_BT, mask_BT)
        total = int(context.total(counted.sum()))
        if total == 0:
            return torch.zeros_like(mask_BT)
        kept = order <= smallest(order, counted, self.count(total) - 1, context.total)
        return (kept[:, None] if self.scope == "sequence" else kept) & mask_BT
