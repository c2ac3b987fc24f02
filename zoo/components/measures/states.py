"""Measures of one token or its state, each a column or a few."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from zoo.components.base import Number, component
from zoo.components.measures.base import Measure
from zoo.components.measures.columns import Distance, Distances, EntropyShare, Largest, OnTop, Ranks
from zoo.statistics import Entropy, LogProb, Statistic, TokenContext, log_probs


@component("measure")
class EntropyOf(Measure):
    """H of a scorer in the state, in nats."""

    kind: Literal["entropy"] = "entropy"
    of: str = "student"

    def statistics(self) -> tuple[Statistic, ...]:
        return (Entropy(self.of),)

    def value(self, context: TokenContext) -> Tensor:
        return context.column(Entropy(self.of))


@component("measure")
class NormalisedEntropy(Measure):
    """H / log V of a scorer in the state, in [0, 1], V the number of tokens: 1 less it is how sure the scorer is on any vocabulary (EGRSD
    2605.13255, GUI-SD 2605.00642)."""

    kind: Literal["normalised_entropy"] = "normalised_entropy"
    of: str = "student"

    def statistics(self) -> tuple[Statistic, ...]:
        return (EntropyShare(self.of),)

    def value(self, context: TokenContext) -> Tensor:
        return context.column(EntropyShare(self.of))


@component("measure")
class DivergenceOf(Measure):
    """KL(of || to) in nats, their Jensen-Shannon divergence (half and half), Hellinger distance sqrt(sum (sqrt a - sqrt b)^2 / 2) or
    total variation; `top_k` sums over the k best tokens of `of` alone, renormalising nothing."""

    kind: Literal["divergence"] = "divergence"
    of: str = "student"
    to: str = "teacher"
    by: Distance = "kl"
    top_k: Annotated[int, Field(ge=1)] | None = None

    def statistics(self) -> tuple[Statistic, ...]:
        return (Distances(self.of, self.to, self.by, self.top_k),)

    def value(self, context: TokenContext) -> Tensor:
        return context.column(self.statistics()[0])


@component("measure")
class LogRatio(Measure):
    """sum over scorers of coefficient * log-probability of the written token; `absolute` takes its size."""

    kind: Literal["log_ratio"] = "log_ratio"
    of: dict[str, Number] = Field(min_length=1)
    absolute: bool = False

    def scorers(self) -> tuple[str, ...]:
        return tuple(self.of)

    def statistics(self) -> tuple[Statistic, ...]:
        return log_probs(tuple(self.of))

    def value(self, context: TokenContext) -> Tensor:
        total_BT = torch.zeros_like(context.rollout.behaviour_logp_BT)
        for scorer, coefficient in self.of.items():
            # Of given text the writer's probability is unknown: it counts as certain.
            total_BT = total_BT + coefficient * context.logp_BT(scorer).nan_to_num(0.0)
        return total_BT.abs() if self.absolute else total_BT


@component("measure")
class Probability(Measure):
    """A scorer's probability of the written token."""

    kind: Literal["probability"] = "probability"
    of: str = "student"

    def statistics(self) -> tuple[Statistic, ...]:
        return (LogProb(self.of),)

    def value(self, context: TokenContext) -> Tensor:
        return context.logp_BT(self.of).exp()


@component("measure")
class Confidence(Measure):
    """A scorer's largest probability in the state."""

    kind: Literal["confidence"] = "confidence"
    of: str = "student"

    def statistics(self) -> tuple[Statistic, ...]:
        return (Largest(self.of),)

    def value(self, context: TokenContext) -> Tensor:
        return context.column(Largest(self.of))


@component("measure")
class Rank(Measure):
    """How many tokens `under` holds more probable than the written token, or than the argmax of `of`; 0 for its own best."""

    kind: Literal["rank"] = "rank"
    under: str = "teacher"
    of: str | None = None

    def statistics(self) -> tuple[Statistic, ...]:
        return (Ranks(self.under, self.of),)

    def value(self, context: TokenContext) -> Tensor:
        return context.column(self.statistics()[0])


class Top(Measure):
    """Measures over the k most probable tokens of one scorer."""

    of: str = "teacher"
    among: str = "student"
    k: int = Field(16, ge=1)


@component("measure")
class Mass(Top):
    """The probability that `of` gives to the k best tokens of `among` (TA-OPD 2605.26844: what the student can be taught)."""

    kind: Literal["mass"] = "mass"

    def statistics(self) -> tuple[Statistic, ...]:
        return (OnTop(self.of, self.among, self.k, "mass"),)

    def value(self, context: TokenContext) -> Tensor:
        return context.column(self.statistics()[0])


@component("measure")
class Margin(Top):
    """log q(first) - log q(second), the best two of `of` within the k best tokens of `among` (2605.13643; form inferred)."""

    kind: Literal["margin"] = "margin"
    k: int = Field(16, ge=2)

    def statistics(self) -> tuple[Statistic, ...]:
        return (OnTop(self.of, self.among, self.k, "margin"),)

    def value(self, context: TokenContext) -> Tensor:
        return context.column(self.statistics()[0])


@component("measure")
class Overlap(Top):
    """Share of the k best tokens that `of` and `among` have in common (Prune-OPD 2605.07804)."""

    kind: Literal["overlap"] = "overlap"

    def statistics(self) -> tuple[Statistic, ...]:
        return (OnTop(self.of, self.among, self.k, "overlap"),)

    def value(self, context: TokenContext) -> Tensor:
        return context.column(self.statistics()[0])
