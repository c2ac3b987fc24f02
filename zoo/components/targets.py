"""Targets: transforms of a teacher's distribution before it is compared.

All but the temperature are products of powers of distributions, normalised: q is the teacher, p the student, held fixed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

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


def with_inputs(names: Iterable[str], teachers: Mapping[str, Any]) -> tuple[str, ...]:
    """The names, and after them the teachers that these are made of and the scorers that their targets read, each once."""
    found = dict.fromkeys(names)
    for _ in range(len(teachers) + 1):  # a member or an input may have some of its own
        known = [teachers[name] for name in found if name in teachers]
        more = [name for teacher in known for name in (*teacher.members, *(teacher.target.reads if teacher.target is not None else ()))]
        found = dict.fromkeys([*found, *more])
    return tuple(found)
