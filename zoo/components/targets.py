"""Targets: transforms of a teacher's distribution before it is compared."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import model_validator
from torch import Tensor

from zoo.components.base import Component, Number, check_range, component


class Target(Component):
    """A transform of the teacher's distribution before it is compared."""

    reads_student: ClassVar[bool] = False

    def transform(self, teacher_logp_NV: Tensor, student_logp_NV: Tensor) -> Tensor:
        """Normalised log-probabilities (N, V); the student's arrive without gradient."""
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

    def transform(self, teacher_logp_NV: Tensor, student_logp_NV: Tensor) -> Tensor:
        return (teacher_logp_NV / self.tau).log_softmax(-1)


@component("target")
class Interpolate(Target):
    """softmax((1 - t) log p + t log q): the target moves from the student to the teacher (TAID 2501.16937)."""

    kind: Literal["interpolate"] = "interpolate"
    t: Number
    reads_student = True

    def transform(self, teacher_logp_NV: Tensor, student_logp_NV: Tensor) -> Tensor:
        return ((1.0 - self.t) * student_logp_NV + self.t * teacher_logp_NV).log_softmax(-1)
