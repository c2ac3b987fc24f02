"""Which prompts a step reads: all of them in turn, unless a stream draws them by what earlier answers to them showed.

The rule is a pure function of one number a prompt, which lives in the run, is saved with it, and is the same for any number of processes.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from zoo.components.base import Component, component


class Draw(Component):
    """Base: a step's prompts are drawn without replacement, each in proportion to a weight that the newest answers to it decide; 1 where there
    are none yet, and never less than `floor`. `name` is a reward of whole answers, meaned over the answers to a prompt.

    All streams of a step read the same prompts. With `pool` they are among the first so many of the run's shuffled reading (at least as many as
    a step reads), so that they come again within a small budget. Where fewer prompts have a positive weight than a step wants, the others follow.
    """

    name: str
    pool: int | None = Field(None, ge=1)
    floor: float = Field(0.1, ge=0, le=1)
    grouped: ClassVar[bool] = False  # whether one answer a prompt says nothing

    @property
    def others(self) -> tuple[str, ...]:
        """Streams whose answers count beside those of its own."""
        return ()

    def value(self, *mean_P: Tensor) -> Tensor:
        """What is remembered of each prompt, (P,), from the mean rewards on its own stream and on the others; NaN where nothing was seen."""
        raise NotImplementedError

    def weight(self, value_P: Tensor) -> Tensor:
        """The weight that a number stands for, (P,), between 0 and 1."""
        raise NotImplementedError

    def weights(self, value_P: Tensor) -> Tensor:
        """Every prompt's weight."""
        return torch.where(value_P.isnan(), 1.0, self.weight(value_P).clamp(min=self.floor))


def ranked(weight_P: Tensor, uniform_P: Tensor) -> Tensor:
    """All prompts, first those that a draw without replacement takes first: by -log(u) / w, the races of Efraimidis and Spirakis (2006); those of
    weight 0 behind the others, in the order of u."""
    race_P = -(1.0 - uniform_P).log()
    order_P = race_P.argsort(stable=True)
    return order_P[(race_P / weight_P)[order_P].argsort(stable=True)]


@component("prompts")
class PassRate(Draw):
    """r^alpha (1 - r)^beta over its largest value, r the pass rate of the newest group of answers: most often prompts of medium difficulty
    (Uni-OPD 2605.03677, whose weights were not found; the kernel of PACED 2603.11178)."""

    kind: Literal["pass_rate"] = "pass_rate"
    alpha: float = Field(1.0, ge=0)
    beta: float = Field(1.0, ge=0)
    grouped = True

    def value(self, *mean_P: Tensor) -> Tensor:
        return mean_P[0]

    def weight(self, value_P: Tensor) -> Tensor:
        total = self.alpha + self.beta
        best = self.alpha / total if total > 0 else 0.5
        return value_P.pow(self.alpha) * (1.0 - value_P).pow(self.beta) / (best**self.alpha * (1.0 - best) ** self.beta)


@component("prompts")
class Delta(Draw):
    """d^power where d > `above`, else `floor`: d is how much better the answers of the stream `against` are than the stream's own, or, with
    `absolute`, how far apart the two are: the total variation between the two laws of the verdict, which bounds from below that between the
    two laws of the answer (DeltaPrompts 2605.15532; Video-OPD 2602.02994). `power: 0` is a filter."""

    kind: Literal["delta"] = "delta"
    against: str
    above: float = Field(0.0, ge=0, lt=1)
    power: float = Field(0.0, ge=0)
    absolute: bool = False

    @model_validator(mode="after")
    def _acts(self) -> Delta:
        if self.floor == 1.0:
            raise ValueError("floor: 1 draws every prompt alike; write a smaller one, or drop prompts")
        return self

    @property
    def others(self) -> tuple[str, ...]:
        return (self.against,)

    def value(self, *mean_P: Tensor) -> Tensor:
        own_P, other_P = mean_P
        return (other_P - own_P).abs() if self.absolute else other_P - own_P

    def weight(self, value_P: Tensor) -> Tensor:
        return torch.where(value_P > self.above, value_P.clamp(min=0.0).pow(self.power), 0.0)
