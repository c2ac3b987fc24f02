"""A gate that looks at what would follow: whether teacher and student, left to themselves, go the same way."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from zoo.components.base import Slot, component
from zoo.components.gates.base import Gate
from zoo.statistics import Explored, Statistic, TokenContext
from zoo.tensors import smallest

BLUR, ROUNDS = 0.05, 100


@dataclass(frozen=True)
class FutureGap(Explored):
    """How far `window` tokens that `teacher` writes from a state lie from those that the student writes."""

    window: int


def transport_cost(cost_UMN: Tensor, first_UM: Tensor, second_UN: Tensor) -> Tensor:
    """sum of P C, (U,): P carries even weights of the entries of `first` over to even weights of those of `second` (both boolean), the plan of
    least cost but for an entropy of weight 0.05; Sinkhorn's rounds, in logarithms."""
    log_first_UM, log_second_UN = (torch.where(mask, -mask.sum(-1, keepdim=True).clamp(min=1).log(), -torch.inf) for mask in (first_UM, second_UN))
    kernel_UMN = -cost_UMN / BLUR
    column_UN = torch.zeros_like(log_second_UN).masked_fill(~second_UN, -torch.inf)
    for _ in range(ROUNDS):
        row_UM = log_first_UM - (kernel_UMN + column_UN[:, None]).logsumexp(-1)
        column_UN = log_second_UN - (kernel_UMN + row_UM[:, :, None]).logsumexp(-2)
    return ((kernel_UMN + row_UM[:, :, None] + column_UN[:, None]).exp() * cost_UMN).sum((-2, -1))


@component("gate")
class ContinuationMatch(Gate):
    """All tokens but false alarms: of those that the gate `within` suspects, the `share` (rounded down, equal ones with them) of the global
    batch whose futures lie nearest to each other is dropped (TOPD 2606.00305, its filter).

    Teacher and student go on from the state before the token, greedily, for `window` tokens or to their stop. The distance of the two
    windows is the cost of carrying the tokens of one over to those of the other, each with the same weight: 1 - cosine of the teacher's input embeddings.
    """

    kind: Literal["continuation_match"] = "continuation_match"
    teacher: str = "teacher"
    within: Annotated[Any, Slot("gate")]
    window: int = Field(50, ge=1)
    share: float = Field(0.3, ge=0, lt=1)

    def scorers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(("student", self.teacher, *self.within.scorers())))

    def statistics(self) -> tuple[Statistic, ...]:
        return (self._column(), *self.within.statistics())

    def keep(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        suspect_BT = self.within.keep(context, None) & context.mask_BT
        if (heard_BT := context.heard_BT((self.teacher,))) is not None:
            suspect_BT = suspect_BT & heard_BT
        # Rounding must not turn 0.3 of 10 into 2 tokens.
        dropped = int(self.share * int(context.total(suspect_BT.sum())) + 1e-9)
        if not dropped:
            return context.mask_BT
        gap_BT = context.column(self._column())
        return context.mask_BT & ~(suspect_BT & (gap_BT <= smallest(gap_BT, suspect_BT, dropped - 1, context.total)))

    def _column(self) -> FutureGap:
        rule = json.dumps(self.within.model_dump(mode="json", by_alias=True), sort_keys=True)
        return FutureGap(self.teacher, rule, self.within, self.window)
