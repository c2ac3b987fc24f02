"""Schedules of the run's progress alone, from 0 at its start to 1 at the end of its budget."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from zoo.components.base import Component, Slot, component


class Schedule(Component):
    """Base of all schedules."""

    tag = "schedule"

    def value(self, progress: float) -> float:
        """The number at `progress` in [0, 1]."""
        raise NotImplementedError

    def extremes(self) -> tuple[float, float]:
        """Smallest and largest value over the whole run."""
        raise NotImplementedError


class Ramp(Schedule):
    """Schedules that go from `start` to `end` while the run passes `over`, and stay there."""

    start: float
    end: float
    over: tuple[float, float] = (0.0, 1.0)

    @model_validator(mode="after")
    def _ordered(self) -> Ramp:
        if not 0.0 <= self.over[0] < self.over[1] <= 1.0:
            raise ValueError("over must be two increasing shares of the run, each in [0, 1]")
        return self

    def extremes(self) -> tuple[float, float]:
        return min(self.start, self.end), max(self.start, self.end)

    def share(self, progress: float) -> float:
        """How far along `over` the run is, from 0 to 1."""
        return min(max((progress - self.over[0]) / (self.over[1] - self.over[0]), 0.0), 1.0)


@component("schedule")
class Linear(Ramp):
    """start + (end - start) * share."""

    schedule: Literal["linear"] = "linear"

    def value(self, progress: float) -> float:
        return self.start + (self.end - self.start) * self.share(progress)


@component("schedule")
class Cosine(Ramp):
    """Half a cosine from start to end."""

    schedule: Literal["cosine"] = "cosine"

    def value(self, progress: float) -> float:
        return self.end + (self.start - self.end) * 0.5 * (1.0 + math.cos(math.pi * self.share(progress)))


@component("schedule")
class Exponential(Ramp):
    """start (end / start)^share (ImitKD 2009.07253: beta_i = r^(i / I) from 1 to r; scheduled sampling 1506.03099)."""

    schedule: Literal["exponential"] = "exponential"

    @model_validator(mode="after")
    def _positive(self) -> Exponential:
        if not (self.start > 0 and self.end > 0):
            raise ValueError("start and end must be above 0; an exponential never reaches it")
        return self

    def value(self, progress: float) -> float:
        return float(self.start * (self.end / self.start) ** self.share(progress))


@component("schedule")
class Complement(Schedule):
    """1 - of, of being another schedule: the other share of a mixture of two."""

    schedule: Literal["complement"] = "complement"
    of: Annotated[Any, Slot("schedule")]

    def value(self, progress: float) -> float:
        return 1.0 - float(self.of.value(progress))

    def extremes(self) -> tuple[float, float]:
        low, high = self.of.extremes()
        return 1.0 - high, 1.0 - low


@component("schedule")
class Stepwise(Schedule):
    """values[i] from at[i] on; at[0] is 0."""

    schedule: Literal["stepwise"] = "stepwise"
    at: tuple[float, ...] = Field(min_length=1)
    values: tuple[float, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _aligned(self) -> Stepwise:
        if len(self.at) != len(self.values) or self.at[0] != 0.0 or list(self.at) != sorted(self.at):
            raise ValueError("at and values must be of one length, and at must rise from 0")
        return self

    def value(self, progress: float) -> float:
        return [v for a, v in zip(self.at, self.values, strict=True) if a <= progress or a == 0.0][-1]

    def extremes(self) -> tuple[float, float]:
        return min(self.values), max(self.values)
