"""Transport between the positions of two sequences."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from zoo.components.base import component
from zoo.components.divergences.base import Divergence


@component("divergence")
class Sinkhorn(Divergence):
    """<P, W> between the n positions of one sequence: W_ab = sum_k |s_ak - q_bk|, P = exp(-W / eps) after `rounds` of dividing rows, then columns,
    by their sums (Multi-Level OT 2412.14528). A position's entry is its row of P W; P carries gradient. Needs a teacher whose alignment
    reads whole sequences."""

    kind: Literal["sinkhorn"] = "sinkhorn"
    eps: float = Field(0.1, gt=0)
    rounds: int = Field(10, ge=1)
    positions: ClassVar[bool] = True

    def over_sequences(self, student_logp_GK: Tensor, teacher_logp_GK: Tensor, sequence_G: Tensor) -> Tensor:
        cost_GG = (student_logp_GK.exp()[:, None] - teacher_logp_GK.exp()[None]).abs().sum(-1)
        apart_GG = sequence_G[:, None] != sequence_G[None]
        # In logarithms, and positions of other sequences out of reach.
        plan_GG = (-cost_GG / self.eps).masked_fill(apart_GG, -torch.inf)
        for _ in range(self.rounds):
            plan_GG = plan_GG - plan_GG.logsumexp(1, keepdim=True)
            plan_GG = plan_GG - plan_GG.logsumexp(0, keepdim=True)
        return (plan_GG.exp() * cost_GG).sum(1, keepdim=True)
