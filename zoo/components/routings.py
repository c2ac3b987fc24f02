"""Routing: where a policy-gradient update takes probability from or gives it to (derivations D.9 and D.10).

A positive advantage always raises the written token by the softmax rule. For a negative one, `redirect` may name the
tokens that receive the mass; the loss is then |A| (log p(y) - sum_j rho_j log p(j)), with rho summing to one.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from zoo.components.base import Component, component


class Routing(Component):
    """Base of all routings; `coordinate` is the taxonomy's value for it, `spread` marks those that push several tokens of each state,
    every one by its own advantage."""

    coordinate: ClassVar[str] = "sampled_token"
    spread: ClassVar[bool] = False

    def redirect(self, student_logp_NV: Tensor, teacher_logp_NV: Tensor, token_N: Tensor) -> tuple[Tensor, Tensor] | None:
        """Distribution rho (N, V) that receives the mass, without gradient, and the rows (N,) where it applies."""
        return None


@component("routing")
class SampledRouting(Routing):
    """The softmax rule: others are lifted by their own present mass."""

    kind: Literal["sampled"] = "sampled"


class TeacherRouted(Routing):
    """Routings that read a teacher's distribution."""

    teacher: str = "teacher"


@component("routing")
class TeacherRouting(TeacherRouted):
    """rho = q."""

    kind: Literal["teacher"] = "teacher"
    coordinate = "full_vocab"

    def redirect(self, student_logp_NV: Tensor, teacher_logp_NV: Tensor, token_N: Tensor) -> tuple[Tensor, Tensor]:
        return teacher_logp_NV.exp(), torch.ones_like(token_N, dtype=torch.bool)


@component("routing")
class TeacherTopKRouting(TeacherRouted):
    """rho = q on the teacher's top-k, renormalised."""

    kind: Literal["teacher_topk"] = "teacher_topk"
    k: int = Field(ge=1)
    coordinate = "teacher_topk"

    def redirect(self, student_logp_NV: Tensor, teacher_logp_NV: Tensor, token_N: Tensor) -> tuple[Tensor, Tensor]:
        top = teacher_logp_NV.topk(min(self.k, teacher_logp_NV.shape[-1]), -1)
        rho_NV = torch.zeros_like(teacher_logp_NV).scatter(-1, top.indices, top.values.softmax(-1))
        return rho_NV, torch.ones_like(token_N, dtype=torch.bool)


@component("routing")
class CounterfactualRouting(TeacherRouted):
    """rho_j ~ q_j^a p_j^b on {j != y: q_j >= tau_teacher, p_j >= tau_student, A_j + KL > 0}; where that set is empty, or
    where A_y + KL >= 0, the sampled rule (D.10 with the corrections of the catalogue's Part 5, items 9 and 10)."""

    kind: Literal["counterfactual"] = "counterfactual"
    teacher_power: float = 1.0
    student_power: float = 1.0
    tau_teacher: float = Field(0.05, ge=0, lt=1)
    tau_student: float = Field(0.02, ge=0, lt=1)
    coordinate = "counterfactual"

    def redirect(self, student_logp_NV: Tensor, teacher_logp_NV: Tensor, token_N: Tensor) -> tuple[Tensor, Tensor]:
        p_NV, q_NV = student_logp_NV.exp(), teacher_logp_NV.exp()
        log_ratio_NV = teacher_logp_NV - student_logp_NV
        centred_NV = log_ratio_NV - (p_NV * log_ratio_NV).sum(-1, keepdim=True)
        candidate_NV = (q_NV >= self.tau_teacher) & (p_NV >= self.tau_student) & (centred_NV > 0)
        candidate_NV = candidate_NV.scatter(-1, token_N[:, None], False)
        rho_NV = torch.where(candidate_NV, q_NV.pow(self.teacher_power) * p_NV.pow(self.student_power), torch.zeros_like(p_NV))
        applies_N = candidate_NV.any(-1) & (centred_NV.gather(-1, token_N[:, None])[:, 0] < 0)
        return rho_NV / rho_NV.sum(-1, keepdim=True).clamp(min=1e-30), applies_N


class Spread(Routing):
    """Routings that push several candidates v of each state: -sum over v of weight_v A(v) log p(v), weights and advantages without
    gradient, A(v) read as of the update."""

    spread = True
    keeps_written: ClassVar[bool] = False

    def candidates(self, student_logp_NV: Tensor, token_N: Tensor, noise_N: Tensor) -> tuple[Tensor, Tensor]:
        """Token indices and weights, both (N, R); `noise_N` holds random 64-bit numbers. The student arrives without gradient."""
        raise NotImplementedError


@component("routing")
class StudentTopKRouting(Spread):
    """Each of the student's k best, weighted by its renormalised probability (Rethinking OPD 2604.13016). With the log-ratio as reward it
    is the field of the detached truncated reverse KL divided by the mass of the k (D.11); k = V is the exact reverse KL."""

    kind: Literal["student_topk"] = "student_topk"
    k: int = Field(ge=1)
    coordinate = "student_topk"

    def candidates(self, student_logp_NV: Tensor, token_N: Tensor, noise_N: Tensor) -> tuple[Tensor, Tensor]:
        top = student_logp_NV.topk(min(self.k, student_logp_NV.shape[-1]), -1)
        return top.indices, top.values.softmax(-1)


@component("routing")
class MultiSample(Spread):
    """The written token, by its ratio where the term has one, and `n` - 1 more drawn from the student as it is at the update, each with
    weight 1 / n (AsyncOPD 2606.24143); n = 1 is the sampled rule. The draws are a function of the sequence, so splitting a batch
    changes nothing."""

    kind: Literal["multi_sample"] = "multi_sample"
    n: int = Field(ge=1)
    keeps_written = True

    def candidates(self, student_logp_NV: Tensor, token_N: Tensor, noise_N: Tensor) -> tuple[Tensor, Tensor]:
        mass_NV = student_logp_NV.double().exp().cumsum(-1)
        drawn_NR = torch.searchsorted(mass_NV, uniforms(noise_N, self.n - 1) * mass_NV[:, -1:])
        index_NR = torch.cat([token_N[:, None], drawn_NR.clamp(max=student_logp_NV.shape[-1] - 1)], -1)
        return index_NR, torch.full(index_NR.shape, 1.0 / self.n, device=token_N.device)


def uniforms(noise_N: Tensor, count: int) -> Tensor:
    """`count` numbers in [0, 1) out of each 64-bit one, (N, count), float64: the splitmix64 generator (Steele et al. 2014)."""
    state = noise_N[:, None] + torch.arange(1, count + 1, device=noise_N.device) * -7046029254386353131
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        state = (state ^ _shifted(state, shift)) * factor
    return _shifted(state ^ _shifted(state, 31), 11).double() / 2.0**53


def _shifted(state: Tensor, by: int) -> Tensor:
    """A shift to the right that fills with zeros."""
    return (state >> by) & ((1 << (64 - by)) - 1)
