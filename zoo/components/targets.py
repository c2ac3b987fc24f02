"""Targets: transforms of a teacher's distribution before it is compared.

All but the temperature and the consensus are products of powers of distributions, normalised: q is the teacher, p the student, held fixed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from zoo.components.base import Component, Number, check_range, component


class Target(Component):
    """A transform of the teacher's distribution before it is compared."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Other scorers whose distributions it combines with the teacher's."""
        return ()

    def transform(self, teacher_logp_NV: Tensor, others: Mapping[str, Tensor]) -> Tensor:
        """Normalised log-probabilities (N, V); `others` holds those of the scorers in `reads`, without gradient."""
        raise NotImplementedError


@component("target")
class Temperature(Target):
    """q^(1/tau), normalised."""

    kind: Literal["temperature"] = "temperature"
    tau: Number

    @model_validator(mode="after")
    def _positive(self) -> Temperature:
        check_range("tau", self.tau, 0.0, inclusive=False)
        return self

    def transform(self, teacher_logp_NV: Tensor, others: Mapping[str, Tensor]) -> Tensor:
        return (teacher_logp_NV / self.tau).log_softmax(-1)


class Bridge(Target):
    """Targets that hold the student as it is."""

    @property
    def reads(self) -> tuple[str, ...]:
        return ("student",)


@component("target")
class Interpolate(Bridge):
    """softmax((1 - t) log p + t log q): the target moves from the student to the teacher (TAID 2501.16937)."""

    kind: Literal["interpolate"] = "interpolate"
    t: Number

    def transform(self, teacher_logp_NV: Tensor, others: Mapping[str, Tensor]) -> Tensor:
        return ((1.0 - self.t) * others["student"] + self.t * teacher_logp_NV).log_softmax(-1)


@component("target")
class Geometric(Bridge):
    """q p^power, normalised (Veto 2601.07155). Under a reverse KL the student comes to rest at q^(1 / (1 - power)), normalised."""

    kind: Literal["geometric"] = "geometric"
    power: Number

    @model_validator(mode="after")
    def _inside(self) -> Geometric:
        check_range("power", self.power, 0.0, 1.0, why="above 1 the student runs away from the teacher")
        return self

    def transform(self, teacher_logp_NV: Tensor, others: Mapping[str, Tensor]) -> Tensor:
        return (teacher_logp_NV + self.power * others["student"]).log_softmax(-1)


@component("target")
class Extrapolate(Target):
    """q^lambda b^(1 - lambda), normalised: beyond the teacher, away from `base` b, for lambda above 1 (ExOPD, G-OPD 2602.12125);
    0 is the base, 1 the teacher."""

    kind: Literal["extrapolate"] = "extrapolate"
    lam: Number = Field(alias="lambda")
    base: str = "reference"

    model_config = {"populate_by_name": True}

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.base,)

    def transform(self, teacher_logp_NV: Tensor, others: Mapping[str, Tensor]) -> Tensor:
        return (self.lam * teacher_logp_NV + (1.0 - self.lam) * others[self.base]).log_softmax(-1)


@component("target")
class Delta(Target):
    """q (plus / minus)^power, normalised: the teacher moved by the log-difference of two other scorers (Delta-KD 2509.14526: the raw
    student against the raw teacher). `clip` bounds the log-difference, which explodes where `minus` has no mass."""

    kind: Literal["delta"] = "delta"
    plus: str = "reference"
    minus: str
    power: Number = 1.0
    clip: float | None = Field(None, gt=0)

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.plus, self.minus)

    def transform(self, teacher_logp_NV: Tensor, others: Mapping[str, Tensor]) -> Tensor:
        moved_NV = others[self.plus] - others[self.minus]
        if self.clip is not None:
            moved_NV = moved_NV.clamp(-self.clip, self.clip)
        return (teacher_logp_NV + self.power * moved_NV).log_softmax(-1)


@component("target")
class Consensus(Bridge):
    """q* ~ exp(mean_m log q_m + lambda J), normalised, over the teacher and the further views in `of` (AVSD 2605.20643): their geometric mean,
    and a share of what the arithmetic one has beyond it, J = log mean_m q_m - mean_m log q_m >= 0.

    With D_m = log q_m - log p and A = mean_m D_m, lambda = |A| / (mean_m |D_m| + eps) * |A| / (|A| + J + eps) for each token, so lambda J
    never exceeds |A| and the share cannot turn the sign.
    """

    kind: Literal["consensus"] = "consensus"
    of: tuple[str, ...] = Field(min_length=1)
    epsilon: float = Field(1e-8, gt=0)

    @property
    def reads(self) -> tuple[str, ...]:
        return ("student", *self.of)

    def transform(self, teacher_logp_NV: Tensor, others: Mapping[str, Tensor]) -> Tensor:
        views_MNV = torch.stack([teacher_logp_NV, *(others[name] for name in self.of)])
        geometric_NV = views_MNV.mean(0)
        beyond_NV = views_MNV.logsumexp(0) - math.log(len(views_MNV)) - geometric_NV
        size_NV = (geometric_NV - others["student"]).abs()
        agreement_NV = size_NV / ((views_MNV - others["student"]).abs().mean(0) + self.epsilon)
        share_NV = agreement_NV * size_NV / (size_NV + beyond_NV + self.epsilon)
        return (geometric_NV + share_NV * beyond_NV).log_softmax(-1)


def with_inputs(names: Iterable[str], teachers: Mapping[str, Any]) -> tuple[str, ...]:
    """The names, and after them the teachers that these are made of and the scorers that their targets read, each once."""
    found = dict.fromkeys(names)
    for _ in range(len(teachers) + 1):  # a member or an input may have some of its own
        known = [teachers[name] for name in found if name in teachers]
        more = [name for teacher in known for name in (*teacher.members, *(teacher.target.reads if teacher.target is not None else ()))]
        found = dict.fromkeys([*found, *more])
    return tuple(found)
