"""Measures made of other measures: brought to a common scale, and put together."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from zoo.components.base import Slot, component
from zoo.components.measures.base import Among, Measure, quantile
from zoo.statistics import Statistic, TokenContext


@component("measure")
class Scaled(Measure):
    """A measure on a common scale, over the supervised tokens of the response or of the global batch.

    max: x / max. min_max: (x - min) / (max - min). quantiles: (x - Q_low) / (Q_high - Q_low), clamped to [0, 1]. median: x / median.
    whiten: (x - mean) / standard deviation (population). Where the divisor is 0 every token gets 0. `within` takes them over the tokens that
    a gate keeps, and scales all.
    """

    kind: Literal["scaled"] = "scaled"
    of: Annotated[Any, Slot("measure")]
    by: Literal["max", "min_max", "quantiles", "median", "whiten"]
    among: Among = "batch"
    low: float = Field(0.05, ge=0, le=1)
    high: float = Field(0.95, ge=0, le=1)
    absolute: bool = False
    within: Annotated[Any, Slot("gate")] | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Scaled:
        if self.low >= self.high:
            raise ValueError("low must be a smaller quantile than high")
        return self

    def scorers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for part in self._read() for name in part.scorers()))

    def statistics(self) -> tuple[Statistic, ...]:
        return tuple(dict.fromkeys(statistic for part in self._read() for statistic in part.statistics()))

    def _read(self) -> tuple[Any, ...]:
        return (self.of,) if self.within is None else (self.of, self.within)

    def value(self, context: TokenContext) -> Tensor:
        value_BT = torch.where(context.mask_BT, self.of.value(context), 0.0)
        counted = context
        if self.within is not None:
            counted = replace(context, rollout=replace(context.rollout, mask_BT=self.within.keep(context, None)))
        origin, unit = self._scale(value_BT, counted)
        scaled_BT = torch.where(unit > 0, (value_BT - origin) / torch.where(unit > 0, unit, 1.0), 0.0)
        if self.by == "quantiles":
            scaled_BT = scaled_BT.clamp(0.0, 1.0)
        return scaled_BT.abs() if self.absolute else scaled_BT

    def _scale(self, value_BT: Tensor, context: TokenContext) -> tuple[Tensor, Tensor]:
        nothing = torch.zeros((), dtype=value_BT.dtype, device=value_BT.device)
        if self.by == "whiten":
            mean = self._mean(value_BT, context)
            return mean, self._mean((value_BT - mean).square(), context).sqrt()
        if self.by == "median":
            return nothing, quantile(value_BT, context, 0.5, self.among)
        low, high = (self.low, self.high) if self.by == "quantiles" else (0.0, 1.0)
        top = quantile(value_BT, context, high, self.among)
        if self.by == "max":
            return nothing, top
        bottom = quantile(value_BT, context, low, self.among)
        return bottom, top - bottom

    def _mean(self, value_BT: Tensor, context: TokenContext) -> Tensor:
        if self.among == "batch":
            return context.batch_mean(value_BT, context.mask_BT)
        return context.sequence_mean(value_BT)[:, None]


@component("measure")
class Combined(Measure):
    """Several measures as one: soft_or 1 - prod(1 - x), product, sum, difference (the first less the others), or least, their minimum.

    A soft-or of measures in [0, 1] is large where one of them is (TIP 2604.14084: uncertain, or confidently wrong).
    """

    kind: Literal["combined"] = "combined"
    of: tuple[Annotated[Any, Slot("measure")], ...] = Field(min_length=2)
    how: Literal["soft_or", "product", "sum", "difference", "least"]

    def scorers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for part in self.of for name in part.scorers()))

    def statistics(self) -> tuple[Statistic, ...]:
        return tuple(dict.fromkeys(statistic for part in self.of for statistic in part.statistics()))

    def value(self, context: TokenContext) -> Tensor:
        first_BT, *others = (part.value(context) for part in self.of)
        for other_BT in others:
            if self.how == "soft_or":
                first_BT = first_BT + other_BT - first_BT * other_BT
            elif self.how == "product":
                first_BT = first_BT * other_BT
            elif self.how == "least":
                first_BT = torch.minimum(first_BT, other_BT)
            else:
                first_BT = first_BT + other_BT if self.how == "sum" else first_BT - other_BT
        return first_BT


@component("measure")
class Weighed(Measure):
    """What a weight says of the token, as a number that other measures may take up: a bent measure inside a further one
    (DDT 2602.12222: the exponent of a token's weight depends on how foreign the token is)."""

    kind: Literal["weight"] = "weight"
    of: Annotated[Any, Slot("weight")]

    @model_validator(mode="after")
    def _alone(self) -> Weighed:
        if self.of.reads_advantage:
            raise ValueError(f"a measure has no advantage for the weight {self.of.kind} to read; name one that reads measures")
        return self

    def scorers(self) -> tuple[str, ...]:
        return tuple(self.of.scorers())

    def statistics(self) -> tuple[Statistic, ...]:
        return tuple(self.of.statistics())

    def value(self, context: TokenContext) -> Tensor:
        found: Tensor = self.of.weight(context, None)
        return found.expand_as(context.mask_BT)
