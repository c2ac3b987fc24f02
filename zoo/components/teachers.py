"""Teachers: named scorers. Which weights, in which context, through which transform of the distribution."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

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


@component("weights_of")
class PeriodicWeights(Weights):
    """A copy of the student, made anew after `every` optimizer steps, or (`rounds`) at each of so many equal parts of the run."""

    kind: Literal["periodic"] = "periodic"
    every: int | None = Field(None, ge=1)
    rounds: int | None = Field(None, ge=2)

    @model_validator(mode="after")
    def _one(self) -> PeriodicWeights:
        if (self.every is None) == (self.rounds is None):
            raise ValueError("give one of every (optimizer steps) and rounds (equal parts of the run)")
        return self


@component("weights_of")
class GatedWeights(Weights):
    """A copy of the student, made anew when all tests hold (2606.03532): `every` steps since the last copy; the running mean of `measure`
    (decay `smooth`) above its best value at a copy by more than `margin`; `tail` (a measure that must not grow), if given, at most `limit`."""

    kind: Literal["gated"] = "gated"
    measure: str
    every: int = Field(10, ge=1)
    smooth: float = Field(0.9, ge=0, lt=1)
    margin: float = Field(0.0, ge=0)
    tail: str | None = None
    limit: float = 1.0


@component("weights_of")
class SteeredWeights(Weights):
    """The initial student with `scale` times a direction added to its hidden states after block `layer` (counted from 1; a share of the
    depth below 1): the mean of the last prompt state shown with `toward` less that of the plain prompt, over `samples` prompts."""

    kind: Literal["steered"] = "steered"
    toward: Context
    layer: float = Field(0.5, gt=0)
    scale: float = 1.0
    samples: int = Field(64, ge=1)


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
