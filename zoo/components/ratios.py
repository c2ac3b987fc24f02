"""Ratios: how a policy-gradient surrogate corrects for tokens that another or an older policy wrote.

With one minibatch per rollout and the student as author every ratio is 1; the compatibility rules refuse that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from zoo.components.base import Component, Number, check_range, component


class Ratio(Component):
    """Base of all ratios; the surrogate is -A rho, or max(-A rho, -A clip(rho)), rho being the product of the factors; -A rho log p
    where every factor is frozen.

    `frozen` factors carry no gradient, and those that are `masks`, 0 or 1, stand outside the clip; `off_policy` ones make tokens
    written by others legitimate; `own` ones differ from 1 on the student's own fresh tokens; `reads` names the log-probabilities at
    rollout time that enter the factor, `scorers` those of the teachers.
    """

    frozen: ClassVar[bool] = False
    masks: ClassVar[bool] = False
    off_policy: ClassVar[bool] = False
    own: ClassVar[bool] = False

    @property
    def reads(self) -> tuple[str, ...]:
        """`student`, `behaviour`, both or neither."""
        return ()

    def scorers(self) -> tuple[str, ...]:
        """Teachers whose log-probability of the written token enters the factor."""
        return ()

    def factor(self, logp_N: Tensor, old: Mapping[str, Tensor]) -> Tensor:
        """rho's factor; `old` holds the log-probabilities at rollout time of `student`, of `behaviour` and of `scorers`,
        each (N,)."""
        raise NotImplementedError

    def clip(self, rho_N: Tensor) -> Tensor | None:
        """The clipped ratio, or None where there is no clipping."""
        return None


@component("ratio")
class Importance(Ratio):
    """p(y) / mu(y), mu being whoever wrote the token, as it was then. `cap` bounds it from above, without gradient beyond (truncated
    importance sampling)."""

    kind: Literal["importance"] = "importance"
    cap: float | None = Field(None, gt=0)
    off_policy = True

    @property
    def reads(self) -> tuple[str, ...]:
        return ("behaviour",)

    def factor(self, logp_N: Tensor, old: Mapping[str, Tensor]) -> Tensor:
        rho_N = (logp_N - old["behaviour"]).exp()
        return rho_N if self.cap is None else rho_N.clamp(max=self.cap)


@component("ratio")
class MixtureImportance(Ratio):
    """p_old(y) / mixture(y), both at rollout time (MiniLLM's single-token weight w_t)."""

    kind: Literal["mixture_importance"] = "mixture_importance"
    frozen = True
    off_policy = True

    @property
    def reads(self) -> tuple[str, ...]:
        return ("student", "behaviour")

    def factor(self, logp_N: Tensor, old: Mapping[str, Tensor]) -> Tensor:
        return (old["student"] - old["behaviour"]).exp()


@component("ratio")
class Uncorrected(Ratio):
    """1: text that others or earlier weights wrote counts as if the student had just written it, on purpose (Lightning OPD 2604.13010, whose
    bound says what that costs)."""

    kind: Literal["uncorrected"] = "uncorrected"
    frozen = True
    off_policy = True

    def factor(self, logp_N: Tensor, old: Mapping[str, Tensor]) -> Tensor:
        return torch.ones_like(logp_N)


class Clipped(Ratio):
    """Ratios to the old student, clipped to [1 - at, 1 + at] on the pessimistic side; `upper` widens the upper edge (clip-higher)."""

    at: Number = 0.2
    upper: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _positive(self) -> Clipped:
        check_range("at", self.at, 0.0, inclusive=False, why="it is how far the ratio may move from 1")
        return self

    @property
    def reads(self) -> tuple[str, ...]:
        return ("student",)

    def clip(self, rho_N: Tensor) -> Tensor:
        return rho_N.clamp(1.0 - self.at, 1.0 + (self.upper or self.at))


@component("ratio")
class PpoClip(Clipped):
    """p(y) / p_old(y), clipped."""

    kind: Literal["ppo_clip"] = "ppo_clip"
    shorthand = "at"

    def factor(self, logp_N: Tensor, old: Mapping[str, Tensor]) -> Tensor:
        return (logp_N - old["student"]).exp()


@component("ratio")
class Shaped(Ratio):
    """rho / (rho + gamma), with mu = 1 where the writer's probability is not known (LUFFY 2504.14945)."""

    kind: Literal["shaped"] = "shaped"
    gamma: float = Field(0.1, gt=0)
    behaviour: Literal["one", "known"] = "one"
    off_policy = True

    @property
    def reads(self) -> tuple[str, ...]:
        return () if self.behaviour == "one" else ("behaviour",)

    def factor(self, logp_N: Tensor, old: Mapping[str, Tensor]) -> Tensor:
        rho_N = (logp_N if self.behaviour == "one" else logp_N - old["behaviour"]).exp()
        return rho_N / (rho_N + self.gamma)


@component("ratio")
class TrustRegion(Clipped):
    """p(y) / (p_old(y)^alpha q(y)^(1 - alpha)), clipped like ppo_clip: anchored at a geometric mixture of the old student and the teacher
    (RLAD 2602.22495). alpha 1 is ppo_clip; below 1 the ratio differs from 1 from the first step on."""

    kind: Literal["trust_region"] = "trust_region"
    alpha: float = Field(0.5, ge=0, le=1)
    teacher: str = "teacher"
    own = True

    def scorers(self) -> tuple[str, ...]:
        return (self.teacher,)

    def factor(self, logp_N: Tensor, old: Mapping[str, Tensor]) -> Tensor:
        return (logp_N - self.alpha * old["student"] - (1.0 - self.alpha) * old[self.teacher]).exp()


@component("ratio")
class OneSided(Ratio):
    """1 where p(y) / p_old(y) lies within the band, else 0, without gradient: tokens whose ratio has left it are masked out of the
    update. `below` is the lower edge, `above` the upper one; one of them may be left open."""

    kind: Literal["one_sided"] = "one_sided"
    below: float | None = Field(None, gt=0)
    above: float | None = Field(None, gt=0)
    frozen = True
    masks = True

    @model_validator(mode="after")
    def _some(self) -> OneSided:
        if self.below is None and self.above is None:
            raise ValueError("give below, above or both; without an edge nothing is masked")
        return self

    @property
    def reads(self) -> tuple[str, ...]:
        return ("student",)

    def factor(self, logp_N: Tensor, old: Mapping[str, Tensor]) -> Tensor:
        rho_N = (logp_N.detach() - old["student"]).exp()
        return (rho_N.ge(self.below or 0.0) & rho_N.le(self.above or float("inf"))).to(logp_N.dtype)
