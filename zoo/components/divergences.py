"""Divergences between student p and teacher q, as per-entry contributions whose sum over the support is the value.

`entries` receives log-probabilities on the support (already restricted and, if asked, renormalised). Gradients flow
through the student only. Sources: survey A (2604.00626) table A.3; GKD 2306.13649; DistiLLM 2402.03898; DistiLLM-2
2503.07067.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Tensor

from zoo.components.base import Component, Number, check_range, component, extremes


def weighted(weight: Tensor, log_ratio: Tensor) -> Tensor:
    """weight * log_ratio with 0 where the weight is 0, in value and in gradient."""
    zero = weight == 0
    return torch.where(zero, torch.zeros_like(weight), weight * torch.where(zero, torch.zeros_like(log_ratio), log_ratio))


def log_mix(first_logp: Tensor, second_logp: Tensor, weight: float) -> Tensor:
    """log(weight * first + (1 - weight) * second)."""
    return torch.logaddexp(first_logp + math.log(weight), second_logp + math.log1p(-weight))


class Divergence(Component):
    """Base of all divergences. `forward` marks those whose expectation is taken under the teacher."""

    forward: ClassVar[bool] = False
    sampled_only: ClassVar[bool] = False

    def entries(self, student_logp_NK: Tensor, teacher_logp_NK: Tensor) -> Tensor:
        """Contribution of each support entry, (N, K), in nats."""
        raise NotImplementedError


@component("divergence")
class ForwardKL(Divergence):
    """KL(q || p) = sum q (log q - log p)."""

    kind: Literal["forward_kl"] = "forward_kl"
    forward = True

    def entries(self, student_logp_NK: Tensor, teacher_logp_NK: Tensor) -> Tensor:
        return weighted(teacher_logp_NK.exp(), teacher_logp_NK - student_logp_NK)


@component("divergence")
class ReverseKL(Divergence):
    """KL(p || q) = sum p (log p - log q)."""

    kind: Literal["reverse_kl"] = "reverse_kl"

    def entries(self, student_logp_NK: Tensor, teacher_logp_NK: Tensor) -> Tensor:
        return weighted(student_logp_NK.exp(), student_logp_NK - teacher_logp_NK)

    def detached_entries(self, student_logp_NK: Tensor, teacher_logp_NK: Tensor) -> Tensor:
        """p * sg[log p - log q]: the field whose truncated form has p = q on the support as its minimum (D.11)."""
        return weighted(student_logp_NK.exp(), (student_logp_NK - teacher_logp_NK).detach())


@component("divergence")
class GeneralizedJSD(Divergence):
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


class Skewed(Divergence):
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


class SampledEstimator(Divergence):
    """A function of the sampled token's log-ratio d = log p(y) - log q(y); unbiased in value for y drawn from p."""

    sampled_only = True


@component("divergence")
class K1(SampledEstimator):
    """d. Differentiated directly its expected gradient is 0, so it is always refused as a loss; kept to say so."""

    kind: Literal["k1"] = "k1"

    def entries(self, student_logp_NK: Tensor, teacher_logp_NK: Tensor) -> Tensor:
        return student_logp_NK - teacher_logp_NK


@component("divergence")
class K2(SampledEstimator):
    """d^2 / 2. Its expected gradient is that of the reverse KL."""

    kind: Literal["k2"] = "k2"

    def entries(self, student_logp_NK: Tensor, teacher_logp_NK: Tensor) -> Tensor:
        return 0.5 * (student_logp_NK - teacher_logp_NK).square()


@component("divergence")
class K3(SampledEstimator):
    """exp(-d) - 1 + d. An unbiased value of the reverse KL whose expected gradient is that of the FORWARD KL."""

    kind: Literal["k3"] = "k3"
    forward = True

    def entries(self, student_logp_NK: Tensor, teacher_logp_NK: Tensor) -> Tensor:
        log_ratio_NK = teacher_logp_NK - student_logp_NK
        return log_ratio_NK.exp() - 1.0 - log_ratio_NK
