"""A number that a learned policy sets, paid by what the steps after each choice measure."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from zoo.components.base import component
from zoo.components.schedules.adaptive import Adaptive, Metric

FEATURES = 3


@component("schedule")
class Controller(Adaptive):
    """value = low + (high - low) x with x ~ Beta(a, b), a = 1 + softplus(w_a s), b = 1 + softplus(w_b s), s = (1, progress, loss / first loss)
    (ATESD 2605.11458; s, its maps and the defaults are choices). It holds for `horizon` steps, which pay R = sum_i gamma^(i-1) (max(0, l_{i-1} -
    l_i) + truth (m_i - m_{i-1})), l the `measure`, m the measure `by`; then w <- w + rate grad [(R - mean R) log Beta(x) - pull max(0, H - at)^2].
    H is the policy's entropy, `at` its target. Draws depend on their number alone, so runs with other seeds see the same ones.
    """

    schedule: Literal["controller"] = "controller"
    low: float = 0.0
    high: float = 1.0
    horizon: int = Field(10, ge=1)
    gamma: float = Field(0.9, gt=0, le=1)
    measure: Metric = "loss"
    by: Metric | None = None
    truth: float = Field(1.0, ge=0)
    rate: float = Field(0.1, gt=0)
    at: float = -0.5
    pull: float = Field(0.01, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> Controller:
        if not self.low < self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        return self

    def extremes(self) -> tuple[float, float]:
        return self.low, self.high

    def measures(self) -> tuple[str, ...]:
        return (self.measure,) if self.by is None else (self.measure, self.by)

    def begin(self) -> dict[str, float]:
        weights = {f"{name}{i}": 0.0 for name in "ab" for i in range(FEATURES)}
        return self._drawn({**weights, "s0": 1.0, "s1": 0.0, "s2": 1.0, "count": 0.0, "mean": 0.0})

    def follow(self, state: Mapping[str, float], metrics: Mapping[str, float], progress: float) -> dict[str, float]:
        loss, told = metrics[self.measure], metrics[self.by] if self.by is not None else 0.0
        now = {**state, "loss": loss, "told": told}
        if "loss" not in state:  # the first step only stores what it left
            return {**now, "first": loss if loss else 1.0}
        discount = self.gamma ** state["held"]
        now["paid"] = state["paid"] + discount * (max(0.0, state["loss"] - loss) + self.truth * (told - state["told"]))
        now["held"] = state["held"] + 1.0
        if now["held"] < self.horizon:
            return now
        learned = self._learned(now)
        return self._drawn({**learned, "s1": progress, "s2": loss / state["first"], "count": state["count"] + 1.0})

    def _shape(self, state: Mapping[str, float], name: str) -> tuple[float, float]:
        """A parameter of the policy, and its derivative by w s."""
        z = sum(state[f"{name}{i}"] * state[f"s{i}"] for i in range(FEATURES))
        return 1.0 + math.log1p(math.exp(min(z, 50.0))), 1.0 / (1.0 + math.exp(-min(max(z, -50.0), 50.0)))

    def _drawn(self, state: dict[str, float]) -> dict[str, float]:
        from scipy.special import betaincinv

        (a, _), (b, _) = self._shape(state, "a"), self._shape(state, "b")
        x = float(betaincinv(a, b, random.Random(f"controller {int(state['count'])}").random()))
        return {**state, "x": x, "value": self.low + (self.high - self.low) * x, "held": 0.0, "paid": 0.0}

    def _learned(self, state: dict[str, float]) -> dict[str, float]:
        """The policy after one step of REINFORCE, and the running mean of what choices were paid."""
        from scipy.special import betaln, digamma, polygamma

        (a, slope_a), (b, slope_b) = self._shape(state, "a"), self._shape(state, "b")
        x = min(max(state["x"], 1e-6), 1.0 - 1e-6)
        advantage = state["paid"] - state["mean"]
        entropy = float(betaln(a, b) - (a - 1) * digamma(a) - (b - 1) * digamma(b) + (a + b - 2) * digamma(a + b))
        above = 2.0 * self.pull * max(0.0, entropy - self.at)
        common = (a + b - 2) * float(polygamma(1, a + b))
        found = dict(state)
        for name, shape, slope, told in (("a", a, slope_a, math.log(x)), ("b", b, slope_b, math.log1p(-x))):
            by_shape = advantage * (told - float(digamma(shape)) + float(digamma(a + b))) - above * (common - (shape - 1) * float(polygamma(1, shape)))
            for i in range(FEATURES):
                found[f"{name}{i}"] += self.rate * by_shape * slope * state[f"s{i}"]
        found["mean"] = state["mean"] + (state["paid"] - state["mean"]) / (state["count"] + 1.0)
        return found
