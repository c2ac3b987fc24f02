"""Credits that read a learned value."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from zoo.components.base import Number, check_range, component
from zoo.components.credits.base import Credit, discounted_sum, shifted
from zoo.statistics import Kl, Statistic, TokenContext, Value


@component("credit")
class Gae(Credit):
    """A_t = sum over l of (gamma lambda)^l delta_{t+l}, delta_t = r_t + gamma V(s_{t+1}) - V(s_t), V = 0 after the last token,
    at a stop and at a cut alike (1506.02438; catalogue D.8). gamma 0 is r_t - V; gamma = lambda = 1 is return-to-go minus V.

    `known` names the teacher of a log-ratio reward, whose mean -KL(p || q) in a state needs no critic: V(s_t) = -KL_t + gamma W(s_t), and the
    head learns the rest alone, W(s_t) -> -sum over k > t of gamma^(k-t-1) KL_k, which is discounted as the credit is (catalogue, Part 5.2
    item 3). gamma 0 is then the baseline `kl`, whatever the head says.
    """

    kind: Literal["gae"] = "gae"
    gamma: Number = 1.0
    lam: Number = Field(0.95, alias="lambda")
    value: str = "value"
    known: str | None = None

    model_config = {"populate_by_name": True}

    @model_validator(mode="after")
    def _inside(self) -> Gae:
        check_range("gamma", self.gamma, 0.0, 1.0, why="it is a discount")
        check_range("lambda", self.lam, 0.0, 1.0, why="it is a mixing weight")
        return self

    def critic(self) -> str:
        return self.value

    def statistics(self) -> tuple[Statistic, ...]:
        return (Value(self.value),) if self.known is None else (Value(self.value), Kl("student", self.known))

    def advantage(self, reward_BT: Tensor, context: TokenContext) -> Tensor:
        value_BT = context.column(Value(self.value)) * context.mask_BT
        if self.known is not None:
            value_BT = (self.gamma * value_BT - context.column(Kl("student", self.known))) * context.mask_BT
        delta_BT = reward_BT + self.gamma * shifted(value_BT) - value_BT
        return discounted_sum(delta_BT * context.mask_BT, self.gamma * self.lam) * context.mask_BT

    def value_target(self, advantage_BT: Tensor, context: TokenContext) -> Tensor:
        if self.known is None:
            return super().value_target(advantage_BT, context)
        return shifted(discounted_sum(-context.column(Kl("student", self.known)) * context.mask_BT, self.gamma)) * context.mask_BT

    def estimator(self) -> str:
        return "pg_gae"


@component("credit")
class PathConsistency(Credit):
    """A_t = C_{t - k + 1} + ... + C_t, C_t = V(s_{t + k}) - V(s_t) + r_t + ... + r_{t + k - 1}, cut at the end, where V = 0: with the
    log-ratio to a teacher as reward the descent of mean C^2 / 2, the path consistency of entropy-regularised RL whose optimum is the
    teacher (1702.08892; 2502.17717), on whoever's text. `k` none takes whole paths, `value` none V = 0, its value at the optimum.

    The value head descends the same loss: it regresses V(s_t) + C_t - C_{t - k}.
    """

    kind: Literal["path_consistency"] = "path_consistency"
    k: int | None = Field(None, ge=1)
    value: str | None = "value"

    def critic(self) -> str | None:
        return self.value

    def statistics(self) -> tuple[Statistic, ...]:
        return () if self.value is None else (Value(self.value),)

    def advantage(self, reward_BT: Tensor, context: TokenContext) -> Tensor:
        gap_BT, k = self._gaps(reward_BT, context)
        passed_BT = gap_BT.cumsum(1)
        return (passed_BT - _before(passed_BT, k)) * context.mask_BT

    def value_target(self, advantage_BT: Tensor, context: TokenContext) -> Tensor:
        # A_t - A_{t - 1} is C_t - C_{t - k}.
        return context.column(self.statistics()[0]) + advantage_BT - _before(advantage_BT, 1)

    def _gaps(self, reward_BT: Tensor, context: TokenContext) -> tuple[Tensor, int]:
        """C_t (B, T) and the number of steps of a path."""
        k = min(self.k or reward_BT.shape[1], reward_BT.shape[1])
        reward_BT = reward_BT * context.mask_BT
        ahead_BT = discounted_sum(reward_BT, 1.0)
        gap_BT = ahead_BT - _after(ahead_BT, k)
        if self.value is not None:
            value_BT = context.column(Value(self.value)) * context.mask_BT
            gap_BT = gap_BT + _after(value_BT, k) - value_BT
        return gap_BT * context.mask_BT, k

    def estimator(self) -> str:
        return "pg_gae"


def _before(value_BT: Tensor, k: int) -> Tensor:
    """value_{t-k}, 0 before the start."""
    return torch.nn.functional.pad(value_BT, (k, 0))[:, : value_BT.shape[1]]


def _after(value_BT: Tensor, k: int) -> Tensor:
    """value_{t+k}, 0 after the end."""
    return torch.nn.functional.pad(value_BT, (0, k))[:, k:]
