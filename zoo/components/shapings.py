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
    """Base of all shapings. `where` says what it is applied to; `batchwide` ones read the whole batch's advantages."""

    batchwide: ClassVar[bool] = False
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


def shape_values(shapings: tuple[Shaping, ...], where: Where, value: Tensor, context: TokenContext | None = None) -> Tensor:
    """Apply those shapings that act at `where`, in order."""
    for shaping in shapings:
        if shaping.where == where:
            value = shaping.apply(value, context)
    return value
