"""Functions of the written token's log-ratio, d = log p(y) - log q(y)."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field
from torch import Tensor
from torch.nn.functional import softplus

from zoo.components.base import component
from zoo.components.divergences.base import Divergence


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


@component("divergence")
class BoundedK2(SampledEstimator):
    """log 2 - log(1 + exp(-d^2 / (2 tau))): k2 / (2 tau) for small d, at most log 2, so that a token on which both differ wildly stops pulling
    (SGSD 2605.28791). Its derivative is d / (tau (1 + exp(d^2 / (2 tau))))."""

    kind: Literal["bounded_k2"] = "bounded_k2"
    tau: float = Field(1.0, gt=0)

    def entries(self, student_logp_NK: Tensor, teacher_logp_NK: Tensor) -> Tensor:
        return math.log(2.0) - softplus(-(student_logp_NK - teacher_logp_NK).square() / (2.0 * self.tau))
