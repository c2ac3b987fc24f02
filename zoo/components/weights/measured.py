"""Weights that are functions of measures, and weights made of gates and of other weights."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from zoo.components.base import Number, Slot, component
from zoo.components.weights.base import Weight
from zoo.statistics import Statistic, TokenContext


class OfMeasure(Weight):
    """Weights that read a measure."""

    of: Annotated[Any, Slot("measure")]

    def scorers(self) -> tuple[str, ...]:
        return tuple(self.of.scorers())

    def statistics(self) -> tuple[Statistic, ...]:
        return tuple(self.of.statistics())


@component("weight")
class Mapped(OfMeasure):
    """base + scale * f, f = clamp(map(slope * (x - origin)), low, high), x being a measure or, by `scope`, its mean over the turn or
    the sequence.

    map: identity, exp, sigmoid, tanh, or power (x^exponent, for x >= 0). So w_min + (1 - w_min) sigmoid((frac - tau) / s) has base w_min,
    scale 1 - w_min, slope 1 / s and origin tau (PW-OPSD 2605.21606); a capped importance weight is exp of a log-ratio with `high`.
    """

    kind: Literal["mapped"] = "mapped"
    map: Literal["identity", "exp", "sigmoid", "tanh", "power"] = "identity"
    slope: Number = 1.0
    origin: Number = 0.0
    exponent: float = Field(1.0, gt=0)
    low: Number | None = None
    high: Number | None = None
    base: Number = 0.0
    scale: Number = 1.0
    scope: Literal["token", "turn", "sequence"] = "token"

    @model_validator(mode="after")
    def _used(self) -> Mapped:
        if self.exponent != 1.0 and self.map != "power":
            raise ValueError("exponent belongs to map: power")
        return self

    def weight(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        value_BT = self.of.value(context)
        if self.scope == "sequence":
            value_BT = context.sequence_mean(value_BT)[:, None].expand_as(context.mask_BT)
        elif self.scope == "turn":
            value_BT = context.turn_mean(value_BT)
        inner_BT = self.slope * (value_BT - self.origin)
        if self.map == "power":
            inner_BT = inner_BT.clamp(min=0.0).pow(self.exponent)
        elif self.map == "exp":
            inner_BT = inner_BT.clamp(max=80.0).exp()
        elif self.map != "identity":
            inner_BT = inner_BT.sigmoid() if self.map == "sigmoid" else inner_BT.tanh()
        if self.low is not None or self.high is not None:
            inner_BT = inner_BT.clamp(self.low, self.high)
        return self.base + self.scale * inner_BT


@component("weight")
class LogTanh(OfMeasure):
    """exp(-c tanh(log x)) of a measure x >= 0: 1 at x = 1, e^c at 0, e^-c for large x. With x a difficulty over its median this is AdaKD's
    temperature of a token (2510.11615), low where the token is hard."""

    kind: Literal["log_tanh"] = "log_tanh"
    c: float = 0.5

    def weight(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        square_BT = self.of.value(context).clamp(0.0, 1e8).square()
        return (-self.c * (square_BT - 1.0) / (square_BT + 1.0)).exp()


@component("weight")
class Normalised(Weight):
    """The product of weights, divided by its mean over the supervised tokens of the turn, the response or the global batch, where that is not 0."""

    kind: Literal["normalised"] = "normalised"
    of: tuple[Annotated[Any, Slot("weight")], ...] = Field(min_length=1)
    among: Literal["turn", "response", "batch"] = "response"

    def weight(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        weight_BT = self.of[0].weight(context, advantage_BT)
        for part in self.of[1:]:
            weight_BT = weight_BT * part.weight(context, advantage_BT)
        if self.among == "turn":
            mean = context.turn_mean(weight_BT)
        elif self.among == "response":
            mean = context.sequence_mean(weight_BT)[:, None]
        else:
            mean = context.batch_mean(weight_BT, context.mask_BT)
        return torch.where(mean == 0, torch.zeros_like(weight_BT), weight_BT / torch.where(mean == 0, 1.0, mean))


@component("weight")
class SoftGate(Weight):
    """`inside` where a gate lets a token through, `outside` where it does not (SelecTKD 2510.24021: 1 and beta by acceptance)."""

    kind: Literal["soft_gate"] = "soft_gate"
    gate: Annotated[Any, Slot("gate")]
    inside: Number = 1.0
    outside: Number

    def weight(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        kept_BT = self.gate.keep(context, advantage_BT)
        return torch.where(kept_BT, self.inside, self.outside)


@component("weight")
class SignedEntropy(OfMeasure):
    """tanh((Q_level(H) - H) / MAD) of an entropy, quantile and mean absolute deviation being those of the response: positive
    where the student is sure, negative where it is not (Direction-Adaptive Self-Distillation 2605.22263)."""

    kind: Literal["signed_entropy"] = "signed_entropy"
    level: float = Field(0.8, ge=0, le=1)

    def weight(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        value_BT = self.of.value(context)
        spread_B1 = context.sequence_mean((value_BT - context.sequence_mean(value_BT)[:, None]).abs())[:, None]
        gap_BT = context.row_quantile(value_BT, self.level) - value_BT
        # A response of equal entropies has no forks: its tokens count as neither.
        return torch.where(spread_B1 > 0, (gap_BT / torch.where(spread_B1 > 0, spread_B1, 1.0)).tanh(), 0.0)


@component("weight")
class Segments(OfMeasure):
    """1 + kappa * x / max x, where a token after a spike has the spike's x until the next boundary (GEAR 2605.11853; its form inferred).

    A token whose measure exceeds `spike` opens a segment, which its value fills up to the next token whose `boundary` measure exceeds
    `boundary_above`; the maximum is the response's.
    """

    kind: Literal["divergence_segment"] = "divergence_segment"
    spike: Number
    boundary: Annotated[Any, Slot("measure")]
    boundary_above: Number
    kappa: Number = 1.0

    def scorers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.of.scorers(), *self.boundary.scorers())))

    def statistics(self) -> tuple[Statistic, ...]:
        return tuple(dict.fromkeys((*self.of.statistics(), *self.boundary.statistics())))

    def weight(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        mask_BT = context.mask_BT
        value_BT = torch.where(mask_BT, self.of.value(context), 0.0)
        ends_BT = self.boundary.value(context) > self.boundary_above
        columns, held_B = [], torch.full_like(value_BT[:, 0], -torch.inf)
        for value_B, ends_B, mask_B in zip(value_BT.T, ends_BT.T, mask_BT.T, strict=True):
            held_B = torch.where(ends_B & mask_B, torch.full_like(held_B, -torch.inf), held_B)
            held_B = torch.where((value_B > self.spike) & mask_B, torch.maximum(held_B, value_B), held_B)
            columns.append(torch.where(held_B > -torch.inf, held_B, value_B))
        filled_BT = torch.stack(columns, 1)
        top_B1 = value_BT.amax(1, keepdim=True)
        return 1.0 + self.kappa * torch.where(top_B1 > 0, filled_BT / torch.where(top_B1 > 0, top_B1, 1.0), 0.0)


@component("weight")
class SpanDiscrepancy(OfMeasure):
    """min((d_1 + eps) / (d_k + eps), 1 + delta) for the tokens of span k >= 2, 1 for those of the first (SOD 2605.07725).

    d_k is the mean of the measure over span k; spans are runs of supervised tokens, parted by what others wrote (a tool's output).
    """

    kind: Literal["span_discrepancy"] = "span_discrepancy"
    delta: float = Field(0.2, ge=0)
    epsilon: float = Field(1e-6, gt=0)

    def weight(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        mask_BT = context.mask_BT
        begins_BT = mask_BT & ~torch.nn.functional.pad(mask_BT, (1, 0))[:, :-1]
        span_BT = (begins_BT.cumsum(1) - 1).clamp(min=0)
        value_BT = torch.where(mask_BT, self.of.value(context), 0.0)
        sums_BT = torch.zeros_like(value_BT).scatter_add_(1, span_BT, value_BT)
        counts_BT = torch.zeros_like(value_BT).scatter_add_(1, span_BT, mask_BT.to(value_BT))
        mean_BT = (sums_BT / counts_BT.clamp(min=1)).gather(1, span_BT)
        first_B1 = (sums_BT / counts_BT.clamp(min=1))[:, :1]
        ratio_BT = ((first_B1 + self.epsilon) / (mean_BT + self.epsilon)).clamp(max=1.0 + self.delta)
        return torch.where(span_BT == 0, torch.ones_like(ratio_BT), ratio_BT)
