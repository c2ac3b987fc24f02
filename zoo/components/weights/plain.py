"""Weights of whole sequences: the pass rate of their group, a reward, the perplexity under a scorer."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from zoo.components.base import component
from zoo.components.weights.base import Weight
from zoo.statistics import LogProb, Statistic, TokenContext


@component("weight")
class PassRate(Weight):
    """r^alpha (1 - r)^beta of the group's pass rate r (PACED 2603.11178)."""

    kind: Literal["pass_rate"] = "pass_rate"
    name: str
    alpha: float = Field(1.0, ge=0)
    beta: float = Field(1.0, ge=0)
    outcome = True

    def weight(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        rate_B = context.group_mean(context.rewards[self.name].to(torch.float32))
        return (rate_B.pow(self.alpha) * (1.0 - rate_B).pow(self.beta))[:, None].expand_as(context.mask_BT)


@component("weight")
class Perplexity(Weight):
    """exp(-mean log-probability) of the sequence under a scorer; `normalise: batch` divides by the batch mean (SCOPE)."""

    kind: Literal["perplexity"] = "perplexity"
    of: str = "student"
    normalise: Literal["none", "batch"] = "batch"

    def scorers(self) -> tuple[str, ...]:
        return (self.of,)

    def statistics(self) -> tuple[Statistic, ...]:
        return (LogProb(self.of),)

    def weight(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        mask_BT = context.mask_BT
        length_B = mask_BT.sum(1).clamp(min=1)
        # A token that the scorer rules out must not make the weight infinite.
        perplexity_B = (-(context.logp_BT(self.of) * mask_BT).sum(1) / length_B).clamp(max=80.0).exp()
        if self.normalise == "batch":
            rows_B = mask_BT.any(1)
            mean = context.total((perplexity_B * rows_B).sum()) / context.total(rows_B.sum()).clamp(min=1)
            perplexity_B = perplexity_B / mean.clamp(min=1.0)  # a perplexity is at least 1, so only an empty batch is clamped
        return perplexity_B[:, None].expand_as(mask_BT)


@component("weight")
class PeerPerplexity(Weight):
    """PPL^power over its mean among those members of the group that have the sequence's own verdict; a member that is alone has 1 (SCOPE
    2604.10688: power 1 / tau under the student for right answers, -1 / tau under the teacher for wrong ones). A reward above 1/2 is right."""

    kind: Literal["peer_perplexity"] = "peer_perplexity"
    name: str
    of: str = "student"
    power: float = 1.0
    outcome = True

    def scorers(self) -> tuple[str, ...]:
        return (self.of,)

    def statistics(self) -> tuple[Statistic, ...]:
        return (LogProb(self.of),)

    def weight(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        mask_BT = context.mask_BT
        mean_B = (context.logp_BT(self.of) * mask_BT).sum(1) / mask_BT.sum(1).clamp(min=1)
        value_B = (-self.power * mean_B).clamp(-80.0, 80.0).exp()
        right_B = (context.rewards[self.name] > 0.5).to(value_B.dtype)
        alike_B = torch.zeros_like(value_B)
        for side_B in (right_B, 1.0 - right_B):
            total_B, _ = context.group_sum(value_B * side_B)
            number_B, _ = context.group_sum(side_B)
            alike_B = alike_B + side_B * total_B / number_B.clamp(min=1.0)
        return (value_B / alike_B)[:, None].expand_as(mask_BT)


@component("weight")
class RewardWeight(Weight):
    """floor + (1 - floor) R of a named sequence reward; `normalise` divides it by its mean over the group or the global batch, where that
    mean is not 0 (RW-OPD 2605.13501 weighs the answers of a prompt so). `scope: turn` reads a reward of turns."""

    kind: Literal["reward"] = "reward"
    name: str
    floor: float = Field(0.0, ge=0, lt=1)
    normalise: Literal["none", "group", "batch"] = "none"
    scope: Literal["turn", "sequence"] = Field("sequence", exclude_if=lambda value: value == "sequence")
    outcome = True

    @model_validator(mode="after")
    def _alone(self) -> RewardWeight:
        if self.scope == "turn" and self.normalise != "none":
            raise ValueError("a reward of turns is not normalised; drop normalise")
        return self

    def weight(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        mask_BT = context.mask_BT
        if self.scope == "turn":
            return self.floor + (1.0 - self.floor) * context.turn_sum(context.turn_rewards[self.name])[0]
        weight_B = self.floor + (1.0 - self.floor) * context.rewards[self.name].to(torch.float32)
        if self.normalise != "none":
            mean = context.group_mean(weight_B) if self.normalise == "group" else context.batch_mean(weight_B, mask_BT.any(1))
            weight_B = torch.where(mean == 0, torch.zeros_like(weight_B), weight_B / torch.where(mean == 0, 1.0, mean))
        return weight_B[:, None].expand_as(mask_BT)
