"""Shaping: bounded or rescaled signals, applied per vocabulary entry, per token's divergence, or to the advantage."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from zoo.components.base import Component, Number, Slot, check_range, component
from zoo.statistics import TokenContext

Where = Literal["entry", "token", "advantage"]


class Shaping(Component):
    """Base of all shapings. `where` says what it is applied to; `batchwide` ones read the whole batch's advantages,
    `outcome` ones a sequence's result, by its `name`."""

    batchwide: ClassVar[bool] = False
    outcome: ClassVar[bool] = False
    where: Where = "advantage"

    def apply(self, value: Tensor, context: TokenContext | None) -> Tensor:
        """The shaped signal, of the same shape."""
        raise NotImplementedError


@component("shaping")
class Clip(Shaping):
    """Clamp to [-at, at], or only from above (`side: upper`, as OPSD caps each entry of its divergence) or from below (`side: lower`,
    REOPOLD's floor of the log-ratio)."""

    kind: Literal["clip"] = "clip"
    at: Number
    side: Literal["both", "upper", "lower"] = "both"

    @model_validator(mode="after")
    def _positive(self) -> Clip:
        check_range("at", self.at, 0.0, inclusive=False)
        return self

    def apply(self, value: Tensor, context: TokenContext | None) -> Tensor:
        return value.clamp(min=None if self.side == "upper" else -self.at, max=None if self.side == "lower" else self.at)


@component("shaping")
class SoftLog(Shaping):
    """sign(a) log(1 + |a|)."""

    kind: Literal["soft_log"] = "soft_log"

    def apply(self, value: Tensor, context: TokenContext | None) -> Tensor:
        # Not through sign(a), whose slope at 0 is 0 where the function's is 1.
        return torch.where(value < 0, -(-value).clamp(min=0).log1p(), value.clamp(min=0).log1p())


@component("shaping")
class Power(Shaping):
    """sign(a) |a|^exponent."""

    kind: Literal["power"] = "power"
    exponent: float = Field(gt=0)

    def apply(self, value: Tensor, context: TokenContext | None) -> Tensor:
        # At 0 the slope of a root is infinite, and an absent entry's must be 0.
        zero = value == 0
        size = torch.where(zero, torch.ones_like(value), value.abs()).pow(self.exponent)
        return torch.where(zero, torch.zeros_like(value), value.sign() * size)


@component("shaping")
class DivergenceWeight(Shaping):
    """w_f(u) = u f'(u) - f(u) with log u the advantage so far, which must be the log-ratio log q(y) - log p(y): the advantage whose
    immediate policy gradient descends the f-divergence `of` (OPD+ 2606.01039; catalogue A.3). Clip the log-ratio before it where
    w_f has no bound (forward KL: u itself)."""

    kind: Literal["w_f"] = "w_f"
    of: Annotated[Any, Slot("divergence")]

    @model_validator(mode="after")
    def _generated(self) -> DivergenceWeight:
        if not hasattr(self.of, "pg_weight"):
            raise ValueError(
                f"w_f needs an f-divergence, and {self.of.kind} is none; use forward_kl, reverse_kl, generalized_jsd, alpha or another with a generator"
            )
        if self.where != "advantage":
            raise ValueError("w_f turns a log-ratio into an advantage; set where: advantage")
        return self

    def apply(self, value: Tensor, context: TokenContext | None) -> Tensor:
        weighted: Tensor = self.of.pg_weight(value)
        return weighted


@component("shaping")
class Whiten(Shaping):
    """(a - mean) / sqrt(var + epsilon) over the supervised tokens of the global batch, or of each response; population variance."""

    kind: Literal["whiten"] = "whiten"
    epsilon: float = Field(1e-8, gt=0)
    centre: bool = True
    among: Literal["batch", "response"] = "batch"
    batchwide = True

    def apply(self, value: Tensor, context: TokenContext | None) -> Tensor:
        if context is None:
            raise ValueError("whiten needs the batch")
        mean = self._mean(value, context)
        variance = self._mean((value - mean).square(), context)
        centred = value - mean if self.centre else value
        return centred * torch.rsqrt(variance + self.epsilon) * context.mask_BT

    def _mean(self, value: Tensor, context: TokenContext) -> Tensor:
        if self.among == "response":
            return context.sequence_mean(value)[:, None]
        return context.batch_mean(value, context.mask_BT)


@component("shaping")
class MarginShift(Shaping):
    """Constants added to right and wrong responses until their mean advantages are `margin` apart (Uni-OPD 2605.03677).

    With m_i the mean over the tokens of response i, gap = mean of the right ones' m - mean of the wrong ones', shift = max(margin - gap, 0):
    right responses get + shift / 2 and wrong ones - shift / 2, or all of it on one side; over each group, or the global batch. Where
    one outcome is missing nothing is added. A reward above 1/2 is right.
    """

    kind: Literal["margin_shift"] = "margin_shift"
    name: str
    margin: Number = 0.4
    side: Literal["both", "right", "wrong"] = "both"
    scope: Literal["group", "batch"] = "group"
    batchwide = True
    outcome = True

    def apply(self, value: Tensor, context: TokenContext | None) -> Tensor:
        if context is None:
            raise ValueError("margin_shift needs the batch")
        rows_B = context.mask_BT.any(1)
        right_B = context.rewards[self.name] > 0.5
        mean_B = context.sequence_mean(value)
        (right, rights), (wrong, wrongs) = (self._mean(mean_B, side_B & rows_B, context) for side_B in (right_B, ~right_B))
        shift = torch.where((rights > 0) & (wrongs > 0), (self.margin - (right - wrong)).clamp(min=0.0), 0.0)
        up, down = {"both": (0.5, 0.5), "right": (1.0, 0.0), "wrong": (0.0, 1.0)}[self.side]
        return (value + torch.where(right_B, up * shift, -down * shift)[:, None]) * context.mask_BT

    def _mean(self, mean_B: Tensor, counted_B: Tensor, context: TokenContext) -> tuple[Tensor, Tensor]:
        """The mean over the counted responses of each one's scope, and their number."""
        if self.scope == "batch":
            return context.batch_mean(mean_B, counted_B), context.total(counted_B.sum())
        total_B, _ = context.group_sum(torch.where(counted_B, mean_B, 0.0))
        count_B, _ = context.group_sum(counted_B.to(mean_B))
        return total_B / count_B.clamp(min=1), count_B


def shape_values(shapings: tuple[Shaping, ...], where: Where, value: Tensor, context: TokenContext | None = None) -> Tensor:
    """Apply those shapings that act at `where`, in order."""
    for shaping in shapings:
        if shaping.where == where:
            value = shaping.apply(value, context)
    return value
