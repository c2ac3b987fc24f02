"""Teachers: named scorers. Which weights, in which context, through which transform of the distribution."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from zoo.components.base import Component, Context, Slot, component


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
    target: Annotated[Any, Slot("target")] | None = None


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
