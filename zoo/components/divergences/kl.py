"""Kullback-Leibler divergences, their mixtures and skews.

`entries` receives log-probabilities on the support (already restricted and, if asked, renormalised). Gradients flow
through the student only. Sources: survey A (2604.00626) table A.3; GKD 2306.13649; DistiLLM 2402.03898; DistiLLM-2
2503.07067.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import model_validator
from torch import Tensor

from zoo.components.base import Number, check_range, component, extremes
from zoo.components.divergences.base import FDivergence, log_mix, weighted


@component("divergence")
class ForwardKL(FDivergence):
    """KL(q || p) = sum q (log q - log p)."""

    kind: Literal["forward_kl"] = "forward_kl"
    forward = True

    def entries(self, student_logp_NK: Tensor, teacher_logp_NK: Tensor) -> Tensor:
        return weighted(teacher_logp_NK.exp(), teacher_logp_NK - student_logp_NK)

    def generator(self, log_u: Tensor) -> Tensor:
        return log_u.exp() * log_u

    def pg_weight(self, log_u: Tensor) -> Tensor:
        return log_u.exp()


@component("divergence")
class ReverseKL(FDivergence):
    """KL(p || q) = sum p (log p - log q)."""

    kind: Literal["reverse_kl"] = "reverse_kl"

    def entries(self, student_logp_NK: Tensor, teacher_logp_NK: Tensor) -> Tensor:
        return weighted(student_logp_NK.exp(), student_logp_NK - teacher_logp_NK)

    def detached_entries(self, student_logp_NK: Tensor, teacher_logp_NK: Tensor) -> Tensor:
        """p * sg[log p - log q]: the field whose truncated form has p = q on the support as its minimum (D.11)."""
        return weighted(student_logp_NK.exp(), (student_logp_NK - teacher_logp_NK).detach())

    def generator(self, log_u: Tensor) -> Tensor:
        return -log_u

    def pg_weight(self, log_u: Tensor) -> Tensor:
        return log_u - 1.0


@component("divergence")
class GeneralizedJSD(FDivergence):
    """beta KL(q || m) + (1 - beta) KL(p || m), m = beta q + (1 - beta) p (GKD; beta weighs the teacher, as in TRL)."""

    kind: Literal["generalized_jsd"] = "generalized_jsd"
    beta: Number = 0.5

    @model_validator(mode="after")
    def _inside(self) -> GeneralizedJSD:
        check_range("beta", self.beta, 0.0, 1.0, inclusive=False, why="it tends to 0 at both ends: name forward_kl or reverse_kl instead")
        return self

    def entries(self, student_logp_NK: Tensor, teacher_logp_NK: Tensor) -> Tensor:
        mixture_NK = log_mix(teacher_logp_NK, student_logp_NK, self.beta)
        teacher_NK = weighted(teacher_logp_NK.exp(), teacher_logp_NK - mixture_NK)
        return self.beta * teacher_NK + (1.0 - self.beta) * weighted(student_logp_NK.exp(), student_logp_NK - mixture_NK)

    def generator(self, log_u: Tensor) -> Tensor:
        log_m = log_mix(log_u, torch.zeros_like(log_u), self.beta)
        return self.beta * log_u.exp() * (log_u - log_m) - (1.0 - self.beta) * log_m

    def pg_weight(self, log_u: Tensor) -> Tensor:
        return (1.0 - self.beta) * log_mix(log_u, torch.zeros_like(log_u), self.beta)


class Skewed(FDivergence):
    """Divergences to a mixture of both; `skew` is the weight of the side that the divergence starts from."""

    skew: Number = 0.1

    @model_validator(mode="after")
    def _inside(self) -> Skewed:
        check_range("skew", self.skew, 0.0, 1.0, why="it is a mixture weight")
        if extremes(self.skew)[1] == 1.0:
            raise ValueError("skew 1 compares a model with itself; use a value below 1")
        return self


@component("divergence")
class SkewForwardKL(Skewed):
    """KL(q || skew q + (1 - skew) p); skew 0 is forward KL (DistiLLM SKL)."""

    kind: Literal["skew_forward_kl"] = "skew_forward_kl"
    forward = True

    def entries(self, student_logp_NK: Tensor, teacher_logp_NK: Tensor) -> Tensor:
        mixture_NK = student_logp_NK if self.skew == 0.0 else log_mix(teacher_logp_NK, student_logp_NK, self.skew)
        return weighted(teacher_logp_NK.exp(), teacher_logp_NK - mixture_NK)

    def generator(self, log_u: Tensor) -> Tensor:
        return log_u.exp() * (log_u - self.log_mixture(log_u))

    def pg_weight(self, log_u: Tensor) -> Tensor:
        return (1.0 - self.skew) * (log_u - self.log_mixture(log_u)).exp()

    def log_mixture(self, log_u: Tensor) -> Tensor:
        """log(skew u + 1 - skew)."""
        return torch.zeros_like(log_u) if self.skew == 0.0 else log_mix(log_u, torch.zeros_like(log_u), self.skew)


@component("divergence")
class SkewReverseKL(Skewed):
    """KL(p || (1 - skew) q + skew p); skew 0 is reverse KL (DistiLLM SRKL). `detach_mixture` stops the gradient through
    p inside the mixture, as the release of DistiLLM-2 does."""

    kind: Literal["skew_reverse_kl"] = "skew_reverse_kl"
    detach_mixture: bool = False

    def entries(self, student_logp_NK: Tensor, teacher_logp_NK: Tensor) -> Tensor:
        inside_NK = student_logp_NK.detach() if self.detach_mixture else student_logp_NK
        mixture_NK = teacher_logp_NK if self.skew == 0.0 else log_mix(inside_NK, teacher_logp_NK, self.skew)
        return weighted(student_logp_NK.exp(), student_logp_NK - mixture_NK)

    def generator(self, log_u: Tensor) -> Tensor:
        return -self.log_mixture(log_u)

    def pg_weight(self, log_u: Tensor) -> Tensor:
        log_m = self.log_mixture(log_u)
        return log_m - (1.0 - self.skew) * (log_u - log_m).exp()

    def log_mixture(self, log_u: Tensor) -> Tensor:
        """log((1 - skew) u + skew)."""
        return log_u if self.skew == 0.0 else log_mix(torch.zeros_like(log_u), log_u, self.skew)
