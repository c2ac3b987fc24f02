"""When a stream changes hands, or ends: online statistics of two models' next-token laws, one decision for each row and for good."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from zoo.components.base import Component, Number, check_range, component
from zoo.components.rollouts.base import State


class Handover(Component):
    """When a stream changes hands, once for each row and for good."""

    def observe(self, state: State, first_BV: Tensor, then_BV: Tensor, uniform_B: Tensor) -> tuple[Tensor, State]:
        """Whether each row hands over before this token: boolean (B,), and the state for the next token (None at first)."""
        raise NotImplementedError


@component("handover")
class DivergenceJump(Handover):
    """At the first token whose divergence exceeds `ratio` times the mean of the last `window` (AdaSwitch 2510.07842).

    The paper does not say what holds before the window is full: here the mean is over what there is, and never at the first token.
    """

    kind: Literal["divergence_jump"] = "divergence_jump"
    ratio: Number = 3.0
    window: int = Field(10, ge=1)
    divergence: Literal["forward_kl", "reverse_kl"] = "forward_kl"

    @model_validator(mode="after")
    def _range(self) -> Self:
        check_range("ratio", self.ratio, 0.0, inclusive=False)
        return self

    def observe(self, state: State, first_BV: Tensor, then_BV: Tensor, uniform_B: Tensor) -> tuple[Tensor, State]:
        now_B = divergence_of(self.divergence, first_BV, then_BV)
        recent_BL = now_B[:, None] if state is None else torch.cat([state, now_B[:, None]], -1)[:, -self.window :]
        jump_B = torch.zeros_like(now_B, dtype=torch.bool) if state is None else now_B > self.ratio * state.mean(-1)
        return jump_B, recent_BL


@component("handover")
class AtPosition(Handover):
    """After a number of tokens drawn uniformly from `low`..`high` for each row (random prefixes of one author, continued by another)."""

    kind: Literal["position"] = "position"
    low: int = Field(0, ge=0)
    high: int = Field(ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) must not exceed high ({self.high})")
        return self

    def observe(self, state: State, first_BV: Tensor, then_BV: Tensor, uniform_B: Tensor) -> tuple[Tensor, State]:
        left_B = self.low + (uniform_B * (self.high - self.low + 1)).floor() if state is None else state
        return left_B <= 0, left_B - 1


@dataclass(frozen=True)
class _Calm:
    """State of a divergence that may have dropped: the last values, the sum and number of all, and for how many tokens it has been low."""

    recent_BL: Tensor
    total_B: Tensor
    count: int
    low_B: Tensor


@component("handover")
class DivergenceDrop(Handover):
    """When the mean divergence of the last `window` tokens has stayed below a bound for `patience` tokens: `below` itself, or `share` of the
    mean over the row so far (KAT 2606.09471, whose bound follows training by a rule that is not known).

    Nothing is decided before the window is full. On a prefix beyond repair the teacher merely agrees, so a low divergence carries no
    correction.
    """

    kind: Literal["divergence_drop"] = "divergence_drop"
    below: Number | None = None
    share: Number | None = None
    window: int = Field(10, ge=1)
    patience: int = Field(1, ge=1)
    divergence: Literal["forward_kl", "reverse_kl"] = "reverse_kl"

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.below is None) == (self.share is None):
            raise ValueError("give exactly one of below and share")
        check_range("below", 0.0 if self.below is None else self.below, 0.0)
        check_range("share", 0.0 if self.share is None else self.share, 0.0)
        return self

    def observe(self, state: State, first_BV: Tensor, then_BV: Tensor, uniform_B: Tensor) -> tuple[Tensor, State]:
        now_B = divergence_of(self.divergence, first_BV, then_BV)
        recent_BL = now_B[:, None] if state is None else torch.cat([state.recent_BL, now_B[:, None]], -1)[:, -self.window :]
        total_B, count = (now_B, 1) if state is None else (state.total_B + now_B, state.count + 1)
        bound_B = self.share * total_B / count if self.share is not None else torch.full_like(now_B, self.below or 0.0)
        low_B = (recent_BL.mean(-1) < bound_B) & (count >= self.window)
        since_B = torch.where(low_B, (0 if state is None else state.low_B) + torch.ones_like(now_B), torch.zeros_like(now_B))
        return since_B >= self.patience, _Calm(recent_BL, total_B, count, since_B)


def divergence_of(kind: str, first_BV: Tensor, then_BV: Tensor) -> Tensor:
    """forward_kl: KL(then || first); reverse_kl: KL(first || then); per row in nats."""
    first_logp_BV, then_logp_BV = first_BV.log_softmax(-1), then_BV.log_softmax(-1)
    p_BV, q_BV = (then_logp_BV, first_logp_BV) if kind == "forward_kl" else (first_logp_BV, then_logp_BV)
    return torch.where(p_BV > -torch.inf, p_BV.exp() * (p_BV - q_BV), torch.zeros_like(p_BV)).sum(-1)
