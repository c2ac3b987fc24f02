"""What all divergences share: entries on a support, and the generators of the f-divergences.

For D_f(q || p) = sum p f(u), u = q / p, the gradient in the student's logits is that of a policy gradient on sampled tokens
with the advantage w_f(u) = u f'(u) - f(u) (catalogue A.3; OPD+ 2606.01039).
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from zoo.components.base import Component


def weighted(weight: Tensor, log_ratio: Tensor) -> Tensor:
    """weight * log_ratio with 0 where the weight is 0, in value and in gradient."""
    return weight * torch.where(weight == 0, 0.0, log_ratio)


def log_mix(first_logp: Tensor, second_logp: Tensor, weight: float) -> Tensor:
    """log(weight * first + (1 - weight) * second)."""
    return torch.logaddexp(first_logp + math.log(weight), second_logp + math.log1p(-weight))


def exp_slope(base_log: Tensor, gap: Tensor, factor: float) -> Tensor:
    """(exp(base + factor gap) - exp(base)) / factor, and its limit exp(base) gap at factor 0. Neither cancels where the two are
    near nor overflows before the larger one does."""
    if factor == 0.0:
        return weighted(base_log.exp(), gap)
    step = factor * gap
    above, below = -torch.expm1(-step.clamp(min=0)), torch.expm1(step.clamp(max=0))
    return torch.where(step >= 0, (base_log + step).exp() * above, base_log.exp() * below) / factor


class Divergence(Component):
    """Base of all divergences. `forward` marks those whose expectation is taken under the teacher, `sampled_only` functions of
    the written token alone, `whole` those that are defined on the whole vocabulary only, `teacherless` those of the student alone,
    `positions` those that compare positions of one sequence with each other."""

    forward: ClassVar[bool] = False
    sampled_only: ClassVar[bool] = False
    whole: ClassVar[bool] = False
    teacherless: ClassVar[bool] = False
    positions: ClassVar[bool] = False

    def entries(self, student_logp_NK: Tensor, teacher_logp_NK: Tensor) -> Tensor:
        """Contribution of each support entry, (N, K), in nats."""
        raise NotImplementedError

    def at_tokens(self, student_logp_NK: Tensor, teacher_logp_NK: Tensor, token_N: Tensor) -> Tensor:
        """The same where it may depend on the written token, whose index in a whole vocabulary is `token_N`."""
        return self.entries(student_logp_NK, teacher_logp_NK)

    def over_sequences(self, student_logp_GK: Tensor, teacher_logp_GK: Tensor, sequence_G: Tensor) -> Tensor:
        """The same where it may compare positions of one sequence with each other; `sequence_G` numbers the sequences."""
        return self.entries(student_logp_GK, teacher_logp_GK)


class FDivergence(Divergence):
    """A divergence sum p f(q / p). Both functions take log u, u = q / p, of any shape."""

    def generator(self, log_u: Tensor) -> Tensor:
        """f(u); f(1) = 0."""
        raise NotImplementedError

    def pg_weight(self, log_u: Tensor) -> Tensor:
        """w_f(u) = u f'(u) - f(u): the advantage whose immediate policy gradient is that of the divergence."""
        raise NotImplementedError
