"""Functions of whole-sequence log-probabilities, for `log_prob_loss` terms."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from zoo.components.base import Component, Number, component


class Preference(Component):
    """Base of all preferences. `mean_B` and `total_B` are per-token mean and sum of a sequence's log-probabilities."""

    needs_reference: ClassVar[bool] = False

    def loss(self, chosen: Sums, rejected: Sums) -> Tensor:
        """Loss (B,) of each pair, differentiable in the student's sums."""
        raise NotImplementedError


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
