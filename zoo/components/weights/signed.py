"""Weights that compare signs: of the term's own advantage, of a measure, of the verifier's outcome."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from zoo.components.base import Number, Slot, check_range, component
from zoo.components.weights.base import Weight
from zoo.statistics import Statistic, TokenContext


@component("weight")
class EvidenceRatio(Weight):
    """How far a contrast speaks for the sign of the term's own advantage, s = sign(A), and x the measure.

    form ratio: 1 - mix + mix * clamp(exp(s x), low, high) (RLSD 2604.03128). form excess: 1 + mix * max(s x - low, 0), which leaves the
    advantage alone below the threshold `low` (AMR-SD 2605.18529). `reverse` takes -x (RLRT 2605.10781).
    """

    kind: Literal["evidence_ratio"] = "evidence_ratio"
    of: Annotated[Any, Slot("measure")]
    form: Literal["ratio", "excess"] = "ratio"
    mix: Number = 1.0
    low: Number = 0.8
    high: float | None = Field(1.2, gt=0)
    reverse: bool = False
    reads_advantage = True

    @model_validator(mode="after")
    def _ranges(self) -> EvidenceRatio:
        check_range("mix", self.mix, 0.0, 1.0 if self.form == "ratio" else None, why="it is a share of the weight")
        check_range("low", self.low, 0.0)
        return self

    def scorers(self) -> tuple[str, ...]:
        return tuple(self.of.scorers())

    def statistics(self) -> tuple[Statistic, ...]:
        return tuple(self.of.statistics())

    def weight(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        if advantage_BT is None:
            raise ValueError("an evidence_ratio weight stands in a policy_gradient term")
        signed_BT = advantage_BT.sign() * self.of.value(context) * (-1.0 if self.reverse else 1.0)
        if self.form == "excess":
            return 1.0 + self.mix * (signed_BT - self.low).clamp(min=0.0)
        return 1.0 - self.mix + self.mix * signed_BT.clamp(max=80.0).exp().clamp(self.low, self.high)


@component("weight")
class SignAgreement(Weight):
    """`agree` where a measure, or the term's own advantage, has the sign of the outcome (+ for a reward above 1/2, - below), `differ` where
    it has the other; at 0 it agrees. OPPO (2605.21851) drops what differs, SG-OPD (2606.09304) damps it."""

    kind: Literal["sign_agreement"] = "sign_agreement"
    name: str
    of: Annotated[Any, Slot("measure")] | None = None
    agree: Number = 1.0
    differ: Number = 0.0
    scope: Literal["token", "sequence"] = "token"
    outcome = True

    @property
    def reads_advantage(self) -> bool:  # type: ignore[override]
        return self.of is None

    def scorers(self) -> tuple[str, ...]:
        return () if self.of is None else tuple(self.of.scorers())

    def statistics(self) -> tuple[Statistic, ...]:
        return () if self.of is None else tuple(self.of.statistics())

    def weight(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        value_BT = advantage_BT if self.of is None else self.of.value(context)
        if value_BT is None:
            raise ValueError("a sign_agreement weight without `of` stands in a policy_gradient term")
        if self.scope == "sequence":
            value_BT = context.sequence_mean(value_BT)[:, None].expand_as(context.mask_BT)
        outcome_B1 = torch.where(context.rewards[self.name] > 0.5, 1.0, -1.0)[:, None]
        return torch.where(value_BT * outcome_B1 < 0, self.differ, self.agree)
