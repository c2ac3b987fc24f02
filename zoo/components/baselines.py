"""Baselines: quantities subtracted from the advantage. Those of the state alone never change its expected gradient (D.6); the means over
tokens or answers hold the token's own share, which shrinks it a little."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from zoo.components.base import Component, component
from zoo.statistics import Kl, Statistic, TokenContext, Value, View


class Baseline(Component):
    """Base of all baselines."""

    def critic(self) -> str | None:
        """Name of the value head it needs."""
        return None

    def statistics(self) -> tuple[Statistic, ...]:
        """Columns it reads."""
        return ()

    def subtract(self, advantage_BT: Tensor, context: TokenContext) -> Tensor:
        """The advantage after the baseline."""
        raise NotImplementedError


@component("baseline")
class NoBaseline(Baseline):
    """Nothing is subtracted."""

    kind: Literal["none"] = "none"

    def subtract(self, advantage_BT: Tensor, context: TokenContext) -> Tensor:
        return advantage_BT


@component("baseline")
class KlBaseline(Baseline):
    """A_t + KL(p || q): the closed-form mean of the immediate log-ratio (vOPD 2605.07865). `top_k` takes the KL of both
    sides renormalised on the student's top-k, which is still a function of the state alone."""

    kind: Literal["kl"] = "kl"
    teacher: str = "teacher"
    top_k: Annotated[int, Field(ge=1)] | None = None

    def statistics(self) -> tuple[Statistic, ...]:
        return (Kl("student", self.teacher, self.top_k),)

    def subtract(self, advantage_BT: Tensor, context: TokenContext) -> Tensor:
        return advantage_BT + context.column(self.statistics()[0])


@component("baseline")
class BatchMean(Baseline):
    """The mean advantage of the batch's supervised tokens."""

    kind: Literal["batch_mean"] = "batch_mean"

    def subtract(self, advantage_BT: Tensor, context: TokenContext) -> Tensor:
        mask_BT = context.mask_BT
        count, total = context.total(mask_BT.sum()), context.total((advantage_BT * mask_BT).sum())
        return advantage_BT - total / count.clamp(min=1)


@component("baseline")
class SequenceMean(Baseline):
    """The sequence's own mean advantage, over its supervised tokens (2603.12273)."""

    kind: Literal["sequence_mean"] = "sequence_mean"

    def subtract(self, advantage_BT: Tensor, context: TokenContext) -> Tensor:
        return advantage_BT - context.sequence_mean(advantage_BT)[:, None]


@component("baseline")
class GroupMean(Baseline):
    """The mean over the group's answers of their mean advantage: with an outcome as return, GRPO's comparison without its division.

    The answer itself is one of them, so the expected update is (G - 1) / G of that without a baseline where a response has one advantage.
    """

    kind: Literal["group_mean"] = "group_mean"

    def subtract(self, advantage_BT: Tensor, context: TokenContext) -> Tensor:
        written_B = context.mask_BT.any(1)
        total_B, _ = context.group_sum(torch.where(written_B, context.sequence_mean(advantage_BT), 0.0))
        count_B, _ = context.group_sum(written_B.to(advantage_BT))
        return advantage_BT - (total_B / count_B.clamp(min=1))[:, None]


@component("baseline")
class LearnedValue(Baseline):
    """V(s_t) of a value head that regresses the credited advantage: REINFORCE with a baseline (1511.06732; Sutton & Barto 13.4), without the
    bootstrapping of GAE."""

    kind: Literal["value"] = "value"
    value: str = "value"

    def critic(self) -> str:
        return self.value

    def statistics(self) -> tuple[Statistic, ...]:
        return (Value(self.value),)

    def subtract(self, advantage_BT: Tensor, context: TokenContext) -> Tensor:
        return advantage_BT - context.column(Value(self.value))


@dataclass(frozen=True)
class LeastVariance:
    """sum_v p_v |e_v - p|^2 A_v / sum_v p_v |e_v - p|^2 with A_v = log q_v - log p_v, |e_v - p|^2 = (1 - p_v)^2 + sum_{u != v} p_u^2."""

    teacher: str

    @property
    def scorers(self) -> tuple[str, ...]:
        return ("student", self.teacher)

    def compute(self, view: View) -> Tensor:
        student_NV = view.logp_NV("student")
        p_NV = student_NV.exp()
        others_NV = (p_NV.square().sum(-1, keepdim=True) - p_NV.square()).clamp(min=0)
        weight_NV = p_NV * ((1 - p_NV).square() + others_NV)
        # A law on one token has a zero score, so any number does; its logarithms must not make it NaN.
        found_NV = torch.where(weight_NV > 0, weight_NV * (view.logp_NV(self.teacher) - student_NV), torch.zeros_like(weight_NV))
        return found_NV.sum(-1) / weight_NV.sum(-1).clamp(min=torch.finfo(weight_NV.dtype).tiny)


@component("baseline")
class Optimal(Baseline):
    """b*(s) = sum_v p_v |e_v - p|^2 A_v / sum_v p_v |e_v - p|^2, A_v = log q_v - log p_v: of all numbers of the state the one that leaves an
    immediate log-ratio's score function the least variance in the student's logits (catalogue, Part 5.2 item 7). Where p is flat it is
    nearly -KL(p || q), the baseline `kl`; in peaked states that one can be worse than none."""

    kind: Literal["optimal"] = "optimal"
    teacher: str = "teacher"

    def statistics(self) -> tuple[Statistic, ...]:
        return (LeastVariance(self.teacher),)

    def subtract(self, advantage_BT: Tensor, context: TokenContext) -> Tensor:
        return advantage_BT - context.column(LeastVariance(self.teacher))
