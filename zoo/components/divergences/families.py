"""Divergences without a logarithm, and the one- and two-parameter families between the two KLs.

Sources: survey A (2604.00626) table A.3; f-distill 2307.15190 for total variation; ABKD 2505.04560 for the two-parameter family.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from zoo.components.base import Number, component
from zoo.components.divergences.base import Divergence, FDivergence, exp_slope


@component("divergence")
class TotalVariation(FDivergence):
    """1/2 sum |q - p|, between 0 and 1; f(u) = |u - 1| / 2."""

    kind: Literal["total_variation"] = "total_variation"

    def entries(self, student_logp_NK: Tensor, teacher_logp_NK: Tensor) -> Tensor:
        return 0.5 * (teacher_logp_NK.exp() - student_logp_NK.exp()).abs()

    def generator(self, log_u: Tensor) -> Tensor:
        return 0.5 * torch.expm1(log_u).abs()

    def pg_weight(self, log_u: Tensor) -> Tensor:
        return 0.5 * log_u.sign()


@component("divergence")
class SquaredHellinger(FDivergence):
    """sum (sqrt q - sqrt p)^2, between 0 and 2; f(u) = (sqrt u - 1)^2."""

    kind: Literal["squared_hellinger"] = "squared_hellinger"

    def entries(self, student_logp_NK: Tensor, teacher_logp_NK: Tensor) -> Tensor:
        return ((0.5 * teacher_logp_NK).exp() - (0.5 * student_logp_NK).exp()).square()

    def generator(self, log_u: Tensor) -> Tensor:
        return torch.expm1(0.5 * log_u).square()

    def pg_weight(self, log_u: Tensor) -> Tensor:
        return torch.expm1(0.5 * log_u)


@component("divergence")
class PearsonChi2(FDivergence):
    """sum (q - p)^2 / p; f(u) = (u - 1)^2. Without bound where the student rules out what the teacher says: there, beyond q^2 / p = e^60, it
    grows like the square of the logarithm, which fp32 holds."""

    kind: Literal["pearson_chi2"] = "pearson_chi2"

    def entries(self, student_logp_NK: Tensor, teacher_logp_NK: Tensor) -> Tensor:
        return (_exp_along(teacher_logp_NK - 0.5 * student_logp_NK) - (0.5 * student_logp_NK).exp()).square()

    def generator(self, log_u: Tensor) -> Tensor:
        return torch.expm1(log_u).square()

    def pg_weight(self, log_u: Tensor) -> Tensor:
        return torch.expm1(2.0 * log_u)


@component("divergence")
class Alpha(FDivergence):
    """sum (q^alpha p^(1 - alpha) - alpha q - (1 - alpha) p) / (alpha (alpha - 1)); f(u) = (u^alpha - alpha u - (1 - alpha)) / (alpha (alpha - 1)).

    alpha 0 is the reverse KL (plus q - p, which sums to nothing), 1 the forward KL, 1/2 twice the squared Hellinger, 2 half of
    Pearson's chi-squared; both ends are taken as limits.
    """

    kind: Literal["alpha"] = "alpha"
    alpha: Number = 0.5

    def entries(self, student_logp_NK: Tensor, teacher_logp_NK: Tensor) -> Tensor:
        # The nearer end is the one whose cancellation matters; exchanging p and q exchanges alpha and 1 - alpha.
        if self.alpha > 0.5:
            return _alpha_entries(teacher_logp_NK, student_logp_NK, 1.0 - self.alpha)
        return _alpha_entries(student_logp_NK, teacher_logp_NK, self.alpha)

    def generator(self, log_u: Tensor) -> Tensor:
        if self.alpha == 1.0:
            return log_u.exp() * log_u - torch.expm1(log_u)
        return (exp_slope(torch.zeros_like(log_u), log_u, self.alpha) - torch.expm1(log_u)) / (self.alpha - 1.0)

    def pg_weight(self, log_u: Tensor) -> Tensor:
        return exp_slope(torch.zeros_like(log_u), log_u, self.alpha)


def _alpha_entries(first_logp: Tensor, second_logp: Tensor, alpha: float) -> Tensor:
    """(second^alpha first^(1 - alpha) - alpha second - (1 - alpha) first) / (alpha (alpha - 1)) for alpha other than 1."""
    power = exp_slope(first_logp, second_logp - first_logp, alpha)
    return (power - (second_logp.exp() - first_logp.exp())) / (alpha - 1.0)


@component("divergence")
class AlphaBeta(Divergence):
    """-1 / (alpha beta) sum [q^alpha p^beta - alpha / (alpha + beta) q^(alpha + beta) - beta / (alpha + beta) p^(alpha + beta)] (ABKD 2505.04560).

    (1, 0) is the forward KL, (0, 1) the reverse KL, alpha + beta = 1 the alpha-divergence, (1, 1) half the squared distance. On
    the lines where the formula has a zero denominator its continuous limits are taken: beta 0, 1/alpha^2 sum [q^alpha
    log(q^alpha / p^alpha) - q^alpha + p^alpha]; alpha 0, the same with sides and parameters exchanged; alpha + beta 0,
    1/alpha^2 sum [log(p^alpha / q^alpha) + q^alpha / p^alpha - 1]; both 0, 1/2 sum (log q - log p)^2.
    """

    kind: Literal["alpha_beta"] = "alpha_beta"
    alpha: Number = 0.2
    beta: Number = 0.7

    def entries(self, student_logp_NK: Tensor, teacher_logp_NK: Tensor) -> Tensor:
        gap_NK, total = teacher_logp_NK - student_logp_NK, self.alpha + self.beta
        if self.alpha == 0.0 and self.beta == 0.0:
            return 0.5 * gap_NK.square()
        if total == 0.0:
            return (torch.expm1(self.alpha * gap_NK) - self.alpha * gap_NK) / self.alpha**2
        cross_NK = self.alpha * teacher_logp_NK + self.beta * student_logp_NK
        from_teacher_NK = exp_slope(cross_NK, gap_NK, self.beta)
        from_student_NK = exp_slope(cross_NK, -gap_NK, self.alpha)
        return (from_teacher_NK + from_student_NK) / total


def _exp_along(x: Tensor, end: float = 30.0) -> Tensor:
    """exp(x) up to `end`, and along its tangent from there."""
    return x.clamp(max=end).exp() * (1.0 + (x - end).clamp(min=0))
