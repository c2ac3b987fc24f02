"""Functions of whole-sequence log-probabilities, for `log_prob_loss` terms."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import logsigmoid

from zoo.components.base import Component, Number, check_range, component


class Preference(Component):
    """Base of all preferences. `mean_B` and `total_B` are per-token mean and sum of a sequence's log-probabilities."""

    needs_reference: ClassVar[bool] = False

    def loss(self, chosen: Sums, rejected: Sums) -> Tensor:
        """Loss (B,) of each pair, differentiable in the student's sums."""
        raise NotImplementedError

    def losses(self, chosen: Sums, rejected: Sums, kept_B: Tensor, total: Callable[[Tensor], Tensor]) -> Tensor:
        """Numbers (B,) whose mean over the kept pairs of the global batch is the loss; `total` sums over processes."""
        return self.loss(chosen, rejected)


class Sums:
    """Log-probability sums of one side of the pairs: under the student, and under the reference where it is asked for."""

    def __init__(self, total_B: Tensor, length_B: Tensor, reference_B: Tensor | None = None) -> None:
        self.total_B, self.length_B, self.reference_B = total_B, length_B, reference_B

    @property
    def mean_B(self) -> Tensor:
        """Mean log-probability per token."""
        return self.total_B / self.length_B.clamp(min=1)

    @property
    def margin_B(self) -> Tensor:
        """Student minus reference."""
        if self.reference_B is None:
            raise ValueError("this preference needs the reference's log-probabilities")
        return self.total_B - self.reference_B


@component("preference")
class Orpo(Preference):
    """-mean log p(y+) - beta log sigmoid(log odds(y+) - log odds(y-)), odds(y) = P / (1 - P), P = exp(mean log p)
    (ORPO; ORPO-Distill 2509.25100)."""

    kind: Literal["orpo"] = "orpo"
    beta: Number = 0.1

    def loss(self, chosen: Sums, rejected: Sums) -> Tensor:
        margin_B = self._log_odds(chosen.mean_B) - self._log_odds(rejected.mean_B)
        return -chosen.mean_B - self.beta * logsigmoid(margin_B)

    @staticmethod
    def _log_odds(mean_B: Tensor) -> Tensor:
        return mean_B - torch.log(-torch.expm1(mean_B.clamp(max=-1e-6)))


@component("preference")
class Dpo(Preference):
    """-log sigmoid(beta (margin+ - margin-)), margins against the reference (2305.18290)."""

    kind: Literal["dpo"] = "dpo"
    beta: float = Field(0.1, gt=0)
    needs_reference = True

    def loss(self, chosen: Sums, rejected: Sums) -> Tensor:
        return -logsigmoid(self.beta * (chosen.margin_B - rejected.margin_B))


@component("preference")
class Ipo(Preference):
    """(margin+ - margin- - 1 / (2 beta))^2 on per-token means (2310.12036)."""

    kind: Literal["ipo"] = "ipo"
    beta: float = Field(0.1, gt=0)
    needs_reference = True

    def loss(self, chosen: Sums, rejected: Sums) -> Tensor:
        gap_B = chosen.margin_B / chosen.length_B.clamp(min=1) - rejected.margin_B / rejected.length_B.clamp(min=1)
        return (gap_B - 1.0 / (2.0 * self.beta)).square()


@component("preference")
class Bco(Preference):
    """-log sigmoid(beta margin+) - log sigmoid(-beta margin-): two labels of their own in place of one comparison, margins against the
    reference (2404.04656 without its running mean; SPoT 2603.01683)."""

    kind: Literal["bco"] = "bco"
    beta: float = Field(0.1, gt=0)
    needs_reference = True

    def loss(self, chosen: Sums, rejected: Sums) -> Tensor:
        return -logsigmoid(self.beta * chosen.margin_B) - logsigmoid(-self.beta * rejected.margin_B)


@component("preference")
class Hinge(Preference):
    """max(0, at - beta (margin+ - margin-)), margins against the reference (SPIN 2401.01335, its second loss; `at` is 1)."""

    kind: Literal["hinge"] = "hinge"
    beta: float = Field(0.1, gt=0)
    at: float = Field(1.0, gt=0)
    needs_reference = True

    def loss(self, chosen: Sums, rejected: Sums) -> Tensor:
        return (self.at - self.beta * (chosen.margin_B - rejected.margin_B)).clamp(min=0.0)


@component("preference")
class Renyi(Preference):
    """(1 / alpha) (log mean exp(-alpha u+) + log mean exp(alpha u-)), u = beta (log p(y) - log p_0(y)), the means over the pairs of the global
    batch (IRIS 2604.20933, a reconstruction). alpha -> 0 gives mean u- - mean u+; a larger one weighs hard pairs by exp(-alpha u+) and exp(alpha u-)."""

    kind: Literal["renyi"] = "renyi"
    alpha: Number = 1.0
    beta: float = Field(0.1, gt=0)
    needs_reference = True

    @model_validator(mode="after")
    def _positive(self) -> Renyi:
        check_range("alpha", self.alpha, 0.0, inclusive=False)
        return self

    def loss(self, chosen: Sums, rejected: Sums) -> Tensor:
        raise ValueError("the Renyi risk is a function of all pairs, not of each")

    def losses(self, chosen: Sums, rejected: Sums, kept_B: Tensor, total: Callable[[Tensor], Tensor]) -> Tensor:
        pairs = total(kept_B.to(torch.float32).sum()).double().clamp(min=1.0)
        own_B = torch.zeros_like(chosen.total_B)
        for side, sign in ((chosen, -1.0), (rejected, 1.0)):
            # In double precision, held back from overflow; the slope is each pair's share of the sum.
            power_B = (sign * self.alpha * self.beta * side.margin_B.double()).clamp(max=600.0)
            size_B = torch.where(kept_B, power_B.exp(), 0.0)
            whole = total(size_B.detach().sum()).clamp(min=1e-300)
            value = (whole / pairs).log()
            own_B = own_B + ((pairs * (size_B - size_B.detach()) / whole + value) / self.alpha).to(own_B)
        return own_B
