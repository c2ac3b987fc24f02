"""Schedules that follow what the steps measure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from zoo.components.base import Text, component
from zoo.components.schedules.fixed import Schedule

MEASURES = r"loss(\.\d+)?|grad_norm|kept\.\d+|(reward\.\w+|length|truncated)\.\w+"
Metric = Annotated[str, Text(MEASURES, "loss, loss.N, grad_norm, kept.N, reward.NAME.STREAM, length.STREAM or truncated.STREAM")]


class Adaptive(Schedule):
    """Schedules that follow a measured quantity. The rule is a pure function; its state, a few numbers that start as `begin()` says, lives
    in the run and is saved with it. `measures` are names of what a step leaves behind: `loss` (of all terms), `loss.0` (of the first, without its coefficient),
    `grad_norm`, `kept.0` (share of its stream's tokens that the first term acts on), `reward.NAME.STREAM`, `length.STREAM`,
    `truncated.STREAM`. A measure that a step does not give leaves the state as it was."""

    def measures(self) -> tuple[str, ...]:
        """What the rule reads of every step."""
        raise NotImplementedError

    def begin(self) -> dict[str, float]:
        """The state before the first step; `value` is the number itself."""
        raise NotImplementedError

    def follow(self, state: Mapping[str, float], metrics: Mapping[str, float], progress: float) -> dict[str, float]:
        """The state after a step that left `metrics`, with the share `progress` of the run over."""
        raise NotImplementedError

    def value(self, progress: float) -> float:
        return self.begin()["value"]


@component("schedule")
class Momentum(Adaptive):
    """TAID's rule (2501.16937, algorithm 1; its code): with loss L_n, delta = (L_{n-1} - L_n) / (L_{n-1} + 1e-15),
    m <- beta m + (1 - beta) delta, value <- min(end, max(start + (end - start) progress, value + rate sigmoid(m) (1 - value))).
    The first step only stores its loss."""

    schedule: Literal["momentum"] = "momentum"
    start: float
    end: float = 1.0
    rate: float = Field(5e-4, gt=0)
    beta: float = Field(0.99, ge=0, lt=1)
    measure: Metric = "loss"

    @model_validator(mode="after")
    def _rises(self) -> Momentum:
        if not 0.0 <= self.start < self.end <= 1.0:
            raise ValueError("start and end must rise within [0, 1]; the rule only moves upwards")
        return self

    def extremes(self) -> tuple[float, float]:
        return self.start, self.end

    def measures(self) -> tuple[str, ...]:
        return (self.measure,)

    def begin(self) -> dict[str, float]:
        return {"value": self.start, "momentum": 0.0}

    def follow(self, state: Mapping[str, float], metrics: Mapping[str, float], progress: float) -> dict[str, float]:
        loss = metrics[self.measure]
        if "loss" not in state:
            return {**state, "loss": loss}
        delta = (state["loss"] - loss) / (state["loss"] + 1e-15)
        momentum = self.beta * state["momentum"] + (1.0 - self.beta) * delta
        step = self.rate * (1.0 - state["value"]) / (1.0 + math.exp(-min(max(momentum, -700.0), 700.0)))
        floor = self.start + (self.end - self.start) * progress
        return {"value": min(self.end, max(floor, state["value"] + step)), "momentum": momentum, "loss": loss}


@component("schedule")
class LossTrend(Adaptive):
    """AdaKD's rule (2510.11615, loss-driven ratio): e is a running mean of the loss, e <- decay e + (1 - decay) L; e_ref its value when
    `warmup` of the run is over. Where e has fallen by more than `tolerance` of e_ref, value <- max(low, value (1 - change)); where it has
    risen by more, value <- min(start, value (1 + change)); either way e_ref <- e."""

    schedule: Literal["loss_trend"] = "loss_trend"
    start: float = Field(1.0, gt=0)
    low: float = Field(0.1, gt=0)
    change: float = Field(0.05, gt=0, lt=1)
    tolerance: float = Field(0.05, ge=0)
    decay: float = Field(0.97, ge=0, lt=1)
    warmup: float = Field(0.05, ge=0, lt=1)
    measure: Metric = "loss"

    @model_validator(mode="after")
    def _ordered(self) -> LossTrend:
        if self.low > self.start:
            raise ValueError("low must not exceed start; the value moves between the two")
        return self

    def extremes(self) -> tuple[float, float]:
        return self.low, self.start

    def measures(self) -> tuple[str, ...]:
        return (self.measure,)

    def begin(self) -> dict[str, float]:
        return {"value": self.start}

    def follow(self, state: Mapping[str, float], metrics: Mapping[str, float], progress: float) -> dict[str, float]:
        loss = metrics[self.measure]
        mean = self.decay * state["mean"] + (1.0 - self.decay) * loss if "mean" in state else loss
        found = {**state, "mean": mean}
        if progress < self.warmup:
            return found
        reference = state.get("reference", mean)
        fall, value = reference - mean, state["value"]
        if abs(fall) <= self.tolerance * abs(reference):
            return {**found, "reference": reference}
        value = max(self.low, value * (1.0 - self.change)) if fall > 0 else min(self.start, value * (1.0 + self.change))
        return {**found, "reference": mean, "value": value}


@component("schedule")
class HitRate(Adaptive):
    """Prune-OPD's window (2605.07804): where the measured share is at least `above`, value <- min(high, value grow), else
    value <- max(low, value shrink)."""

    schedule: Literal["hit_rate"] = "hit_rate"
    start: float = Field(gt=0)
    low: float = Field(gt=0)
    high: float = Field(gt=0)
    measure: Metric
    above: float = 0.5
    grow: float = Field(1.1, ge=1)
    shrink: float = Field(0.9, gt=0, le=1)

    @model_validator(mode="after")
    def _ordered(self) -> HitRate:
        if not self.low <= self.start <= self.high:
            raise ValueError("start must lie between low and high")
        return self

    def extremes(self) -> tuple[float, float]:
        return self.low, self.high

    def measures(self) -> tuple[str, ...]:
        return (self.measure,)

    def begin(self) -> dict[str, float]:
        return {"value": self.start}

    def follow(self, state: Mapping[str, float], metrics: Mapping[str, float], progress: float) -> dict[str, float]:
        value, hit = state["value"], metrics[self.measure] >= self.above
        return {"value": min(self.high, value * self.grow) if hit else max(self.low, value * self.shrink)}


@component("schedule")
class Balance(Adaptive):
    """RAFT's weight (2606.00147): m(of) / (m(to) + 1e-8) with running means m <- decay m + (1 - decay) measure that start at their first
    measure, held within [low, high]; two losses then weigh alike."""

    schedule: Literal["balance"] = "balance"
    of: Metric
    to: Metric
    start: float = 1.0
    decay: float = Field(0.9, ge=0, lt=1)
    low: float = Field(0.0, ge=0)
    high: float = Field(10.0, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Balance:
        if not self.low <= self.start <= self.high or self.of == self.to:
            raise ValueError("start must lie between low and high, and `of` and `to` be two measures")
        return self

    def extremes(self) -> tuple[float, float]:
        return self.low, self.high

    def measures(self) -> tuple[str, ...]:
        return (self.of, self.to)

    def begin(self) -> dict[str, float]:
        return {"value": self.start}

    def follow(self, state: Mapping[str, float], metrics: Mapping[str, float], progress: float) -> dict[str, float]:
        means = {name: self.decay * state.get(name, metrics[name]) + (1.0 - self.decay) * metrics[name] for name in self.measures()}
        return {"value": min(max(means[self.of] / (means[self.to] + 1e-8), self.low), self.high), **means}


@component("schedule")
class Informed(Adaptive):
    """PGPO's multiplier (2606.03620; its form a reconstruction): min(exp(sharpness (measure - at)), cap), as of the last step."""

    schedule: Literal["informed"] = "informed"
    measure: Metric
    at: float
    sharpness: float = Field(1.0, gt=0)
    cap: float = Field(2.0, gt=0)
    start: float = Field(1.0, gt=0)

    @model_validator(mode="after")
    def _capped(self) -> Informed:
        if self.start > self.cap:
            raise ValueError("start must not exceed cap")
        return self

    def extremes(self) -> tuple[float, float]:
        return 0.0, self.cap

    def measures(self) -> tuple[str, ...]:
        return (self.measure,)

    def begin(self) -> dict[str, float]:
        return {"value": self.start}

    def follow(self, state: Mapping[str, float], metrics: Mapping[str, float], progress: float) -> dict[str, float]:
        return {"value": min(math.exp(min(self.sharpness * (metrics[self.measure] - self.at), 700.0)), self.cap)}
