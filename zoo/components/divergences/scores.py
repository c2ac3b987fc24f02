"""Losses on the same places that are no divergences of probabilities: score matching, ranking, entropy."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from zoo.components.base import component
from zoo.components.divergences.base import Divergence, weighted

PairWeight = Literal["teacher", "student", "uniform"]


@component("divergence")
class LogitDifference(Divergence):
    """1/2 sum over u, v of a_u b_v (d_v - d_u)^2, d the student's logit minus the teacher's, a and b distributions without gradient
    (concrete score distillation, CSD 2509.25837).

    Computed as 1/2 (E_a d^2 + E_b d^2) - E_a d E_b d; with a = b it is the variance of d under them. A constant added to either
    side's logits changes nothing.
    """

    kind: Literal["logit_difference"] = "logit_difference"
    a: PairWeight = "teacher"
    b: PairWeight = "teacher"
    whole = True

    def entries(self, student_logp_NK: Tensor, teacher_logp_NK: Tensor) -> Tensor:
        gap_NK = student_logp_NK - teacher_logp_NK
        first_NK, second_NK = (self._weight(name, student_logp_NK, teacher_logp_NK) for name in (self.a, self.b))
        # The value does not change with the centring, which takes the product of means to 0 and avoids differences of large squares.
        gap_NK = gap_NK - (second_NK * gap_NK).sum(-1, keepdim=True)
        return 0.5 * (first_NK + second_NK) * gap_NK.square()

    @staticmethod
    def _weight(name: PairWeight, student_logp_NK: Tensor, teacher_logp_NK: Tensor) -> Tensor:
        if name == "uniform":
            return torch.full_like(teacher_logp_NK, 1.0 / teacher_logp_NK.shape[-1])
        return (teacher_logp_NK if name == "teacher" else student_logp_NK).detach().exp()


@component("divergence")
class StudentEntropy(Divergence):
    """H(p) = -sum p log p, without a teacher. A positive coefficient sharpens the student, a negative one is an entropy bonus."""

    kind: Literal["entropy"] = "entropy"
    teacherless = True

    def entries(self, student_logp_NK: Tensor, teacher_logp_NK: Tensor) -> Tensor:
        return weighted(student_logp_NK.exp(), -student_logp_NK)


@component("divergence")
class PlackettLuce(Divergence):
    """-sum over k of [z_k - log sum_{j >= k} exp z_j], z the student's logits on the support in the order of the teacher's, best
    first: the Plackett-Luce likelihood of the teacher's ranking (TSD-KD 2603.13260). Not 0 where student and teacher agree."""

    kind: Literal["plackett_luce"] = "plackett_luce"

    def entries(self, student_logp_NK: Tensor, teacher_logp_NK: Tensor) -> Tensor:
        order_NK = teacher_logp_NK.argsort(dim=-1, descending=True, stable=True)
        ranked_NK = student_logp_NK.gather(-1, order_NK)
        remaining_NK = ranked_NK.flip(-1).logcumsumexp(-1).flip(-1)
        return (remaining_NK - ranked_NK).gather(-1, order_NK.argsort(-1))
