"""Ratios: how a policy-gradient surrogate corrects for tokens that another or an older policy wrote.

With one minibatch per rollout and the student as author every ratio is 1; the compatibility rules refuse that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, model_validator
from torch import Tensor

from zoo.components.base import Component, Number, check_range, component


class Ratio(Component):
    """Base of all ratios; the surrogate is -A rho, or max(-A rho, -A clip(rho)), rho being the product of the factors; -A rho log p
    where every factor is frozen.

    `frozen` factors carry no gradient; `off_policy` ones make tokens written by others legitimate; `reads` names the
    log-probabilities at rollout time that enter the factor.
    """

    frozen: ClassVar[bool] = False
    off_policy: ClassVar[bool] = False

    @property
    def reads(self) -> tuple[str, ...]:
        """`student`, `behaviour`, both or neither."""
        return ()

    def factor(self, logp_N: Tensor, old: Mapping[str, Tensor]) -> Tensor:
        """rho's factor; `old` holds the log-probabilities at rollout time of `student` and of `behaviour`, each (N,)."""
        raise NotImplementedError

    def clip(self, rho_N: Tensor) -> Tensor | None:
        """The clipped ratio, or None where there is no clipping."""
        return None


@component("ratio")
class Importance(Ratio):
    """p(y) / mu(y), mu being whoever wrote the token, as it was then."""

    kind: Literal["importance"] = "importance"
    off_policy = True

    @property
    def reads(self) -> tuple[str, ...]:
        return ("behaviour",)

    def factor(self, logp_N: Tensor, old: Mapping[str, Tensor]) -> Tensor:
        return (logp_N - old["behaviour"]).exp()


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
class PpoClip(Ratio):
    """p(y) / p_old(y), clipped to [1 - at, 1 + at] on the pessimistic side; `upper` widens the upper edge (clip-higher)."""

    kind: Literal["ppo_clip"] = "ppo_clip"
    shorthand = "at"
    at: Number = 0.2
    upper: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _positive(self) -> PpoClip:
        check_range("at", self.at, 0.0, inclusive=False, why="it is how far the ratio may move from 1")
        return self

    @property
    def reads(self) -> tuple[str, ...]:
        return ("student",)

    def factor(self, logp_N: Tensor, old: Mapping[str, Tensor]) -> Tensor:
        return (logp_N - old["student"]).exp()

    def clip(self, rho_N: Tensor) -> Tensor:
        return rho_N.clamp(1.0 - self.at, 1.0 + (self.upper or self.at))


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
