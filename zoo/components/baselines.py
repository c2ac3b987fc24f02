"""Baselines: state-only quantities subtracted from the advantage; they never change its expected gradient (D.6)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from zoo.components.base import Component, component
from zoo.statistics import Kl, Statistic, TokenContext


class Baseline(Component):
    """Base of all baselines."""

    learned: ClassVar[bool] = False

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
