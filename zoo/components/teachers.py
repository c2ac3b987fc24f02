"""Teachers: named scorers. Which weights, in which context, through which transform of the distribution."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator
from torch import Tensor

from zoo.components.base import Component, Context, Number, Slot, check_range, component


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


class Weights(Component):
    """Which weights of the student's lineage a self-teacher has."""


@component("weights_of")
class InitialWeights(Weights):
    """As before the first step (with LoRA: the adapter switched off)."""

    kind: Literal["initial"] = "initial"


@component("weights_of")
class LiveWeights(Weights):
    """As they are now."""

    kind: Literal["live"] = "live"


@component("weights_of")
class EmaWeights(Weights):
    """w <- decay w + (1 - decay) student, after every step."""

    kind: Literal["ema"] = "ema"
    shorthand = "decay"
    decay: float = Field(ge=0, lt=1)


class Teacher(Component):
    """Base of all teachers. `lineage` marks weights reachable from this run's student."""

    lineage: ClassVar[bool] = False
    context: Context | None = None
    target: Annotated[Target, Slot("target")] | None = None


@component("teacher")
class External(Teacher):
    """Another model, one of the pair's teachers. `access: black_box` promises that only its texts are read."""

    kind: Literal["external"] = "external"
    model: str = "teacher"
    access: Literal["white_box", "black_box"] = "white_box"


@component("teacher")
class SelfTeacher(Teacher):
    """The student itself, with other weights, another context, or both."""

    kind: Literal["student"] = "student"
    weights: Annotated[Weights, Slot("weights_of")] = InitialWeights()
    lineage = True
