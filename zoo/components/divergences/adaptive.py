"""Forward and reverse KL mixed by weights that depend on the two distributions: by head and tail, by entry, by target and rest."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from zoo.components.base import Number, component
from zoo.components.divergences.base import Divergence, weighted


def both_kls(student_logp_NK: Tensor, teacher_logp_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Entries of the forward and of the reverse KL."""
    gap_NK = teacher_logp_NK - student_logp_NK
    return weighted(teacher_logp_NK.exp(), gap_NK), weighted(student_logp_NK.exp(), -gap_NK)


@component("divergence")
class AdaptiveKL(Divergence):
    """g_head / (g_head + g_tail) KL(q || p) + g_tail / (g_head + g_tail) KL(p || q), g the sum of |q - p| on the teacher's head or
    tail, without gradient (AKL 2404.02657).

    The head are the teacher's most probable tokens whose cumulative mass stays within `mu`, the first always; `crossing: head`
    adds the token that crosses it, as later re-implementations do. Where both gaps are 0 the weights are equal.
    """

    kind: Literal["adaptive_kl"] = "adaptive_kl"
    mu: float = Field(0.5, gt=0, le=1)
    crossing: Literal["tail", "head"] = "tail"
    whole = True

    def entries(self, student_logp_NK: Tensor, teacher_logp_NK: Tensor) -> Tensor:
        teacher_NK = teacher_logp_NK.exp()
        ranked_NK, order_NK = teacher_NK.sort(dim=-1, descending=True, stable=True)
        mass_NK = ranked_NK.cumsum(-1)
        head_NK = mass_NK <= self.mu if self.crossing == "tail" else mass_NK - ranked_NK < self.mu
        head_NK = torch.cat([torch.ones_like(head_NK[:, :1]), head_NK[:, 1:]], -1)
        gap_NK = (teacher_NK - student_logp_NK.detach().exp()).abs().gather(-1, order_NK)
        total_N1, inside_N1 = gap_NK.sum(-1, keepdim=True), (gap_NK * head_NK).sum(-1, keepdim=True)
        head_N1 = torch.where(total_N1 > 0, inside_N1 / total_N1.clamp(min=1e-30), torch.full_like(total_N1, 0.5))
        forward_NK, reverse_NK = both_kls(student_logp_NK, teacher_logp_NK)
        return head_N1 * forward_NK + (1.0 - head_N1) * reverse_NK


@component("divergence")
class EntrywiseKL(Divergence):
    """sum a q log(q / p) + (1 - a) p log(p / q), a = sigmoid(beta log(q / p)) = q^beta / (q^beta + p^beta) without gradient
    (ToDi 2505.16297): forward where the student is too low, reverse where it is too high; beta 0 is their plain mean."""

    kind: Literal["entrywise_kl"] = "entrywise_kl"
    beta: Number = 1.0

    def entries(self, student_logp_NK: Tensor, teacher_logp_NK: Tensor) -> Tensor:
        forward_NK, reverse_NK = both_kls(student_logp_NK, teacher_logp_NK)
        weight_NK = (self.beta * (teacher_logp_NK - student_logp_NK)).sigmoid().detach()
        return weight_NK * forward_NK + (1.0 - weight_NK) * reverse_NK


@component("divergence")
class Decoupled(Divergence):
    """target * KL(b_q || b_p) + rest * KL(q' || p'), b the two-way distribution of the written token y against all others, ' the
    distribution over the others, normalised (ATKD 2402.11890). With target 1 and rest 1 - q(y) it is the forward KL.

    `reverse` exchanges student and teacher in both parts.
    """

    kind: Literal["decoupled"] = "decoupled"
    target: Number = 1.0
    rest: Number = 1.0
    reverse: bool = False
    whole = True

    def at_tokens(self, student_logp_NK: Tensor, teacher_logp_NK: Tensor, token_N: Tensor) -> Tensor:
        sides = (student_logp_NK, teacher_logp_NK) if self.reverse else (teacher_logp_NK, student_logp_NK)
        (first_two, first_rest), (second_two, second_rest) = (self._split(side, token_N) for side in sides)
        two_N = weighted(first_two.exp(), first_two - second_two).sum(-1)
        rest_N = weighted(first_rest.exp(), first_rest - second_rest).sum(-1)
        return torch.stack([self.target * two_N, self.rest * rest_N], -1)

    @staticmethod
    def _split(logp_NK: Tensor, token_N: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of y and of not-y, (N, 2), and those of the other tokens among themselves, y at a weight of 0."""
        others_NK = logp_NK.scatter(-1, token_N[:, None], -1e30)
        other_N1 = others_NK.logsumexp(-1, keepdim=True)
        return torch.cat([logp_NK.gather(-1, token_N[:, None]), other_N1], -1), others_NK - other_N1
