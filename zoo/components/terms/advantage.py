"""From rewards to the advantage of a policy gradient: the term's own, and others that are added to it before any ratio or clip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import model_validator
from torch import Tensor

from zoo.components.base import Number, Slot, Strict, slot_schema
from zoo.components.baselines import Baseline, NoBaseline
from zoo.components.credits import Credit, Immediate
from zoo.components.rewards import Reward
from zoo.components.shapings import shape_values
from zoo.components.terms.base import gates_and_weights
from zoo.statistics import Statistic, TokenContext


class RewardSlot(Slot):
    """A reward written in place, or the name of one declared under `rewards`."""

    def validate(self, value: Any) -> Any:
        return value if isinstance(value, str) else super().validate(value)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, slot_schema("reward")]}


class Advantage:
    """What the term and each summand share: a reward, its credit and a baseline."""

    reward: Any
    credit: Credit
    baseline: Baseline
    shaping: tuple[Any, ...]

    def resolved_reward(self, rewards: Mapping[str, Reward]) -> Reward:
        """The reward object behind a name or written in place."""
        return rewards[self.reward] if isinstance(self.reward, str) else self.reward

    def own_reward_names(self) -> tuple[str, ...]:
        """Names under `rewards` that the reward, its credit or a shaping reads."""
        return (*((self.reward,) if isinstance(self.reward, str) else ()), *(str(part.name) for part in self.outcomes()))

    def outcomes(self) -> tuple[Any, ...]:
        """The credit and the shapings that read a sequence's result."""
        return tuple(part for part in (self.credit, *self.shaping) if part.outcome)

    def critic(self) -> str | None:
        """The value head that its credit or its baseline reads."""
        return self.credit.critic() or self.baseline.critic()

    def own_scorers(self, rewards: Mapping[str, Reward]) -> tuple[str, ...]:
        """Scorers that the reward and the baseline read."""
        read = [name for statistic in self.baseline.statistics() for name in statistic.scorers]
        return (*self.resolved_reward(rewards).scorers(), *read)

    def own_statistics(self, rewards: Mapping[str, Reward]) -> tuple[Statistic, ...]:
        """Columns that the reward, the credit and the baseline read."""
        return (*self.resolved_reward(rewards).statistics(), *self.credit.statistics(), *self.baseline.statistics())

    def credited(self, context: TokenContext, rewards: Mapping[str, Reward]) -> Tensor:
        """The advantage before its baseline, (B, T)."""
        name = self.reward if isinstance(self.reward, str) else None
        return self.credit.advantage(self.resolved_reward(rewards).tokens(context, name), context)

    def shaped(self, credited_BT: Tensor, context: TokenContext) -> Tensor:
        """The advantage after baseline and shaping, 0 outside the mask."""
        advantage_BT = shape_values(self.shaping, "advantage", self.baseline.subtract(credited_BT, context), context)
        return torch.where(context.mask_BT, advantage_BT, torch.zeros_like(advantage_BT))


class Summand(Strict, Advantage):
    """A further advantage, added to the term's own before its gates, weights, ratio and clip: coefficient * gates * weights * A.

    Its order is the term's: reward, credit, baseline, shaping, gates, weights, each its own.
    """

    coefficient: Number = 1.0
    reward: Annotated[Any, RewardSlot("reward")]
    credit: Annotated[Credit, Slot("credit")] = Immediate()
    baseline: Annotated[Baseline, Slot("baseline")] = NoBaseline()
    shaping: tuple[Annotated[Any, Slot("shaping")], ...] = ()
    gates: tuple[Annotated[Any, Slot("gate")], ...] = ()
    weights: tuple[Annotated[Any, Slot("weight")], ...] = ()

    @model_validator(mode="after")
    def _placed(self) -> Summand:
        if self.critic() is not None:
            raise ValueError("a credit or a baseline with a value head stands in the term itself, not in plus: the head regresses one return")
        if any(shaping.where != "advantage" for shaping in self.shaping):
            raise ValueError("a shaping in plus acts on the advantage; leave out where")
        return self

    def parts(self) -> tuple[Any, ...]:
        """Its gates and weights, also those inside others."""
        return gates_and_weights((*self.gates, *self.weights))

    def added(self, context: TokenContext, rewards: Mapping[str, Reward]) -> Tensor:
        """What it adds to the term's advantage, (B, T)."""
        advantage_BT = self.shaped(self.credited(context, rewards), context)
        total_BT = self.coefficient * advantage_BT
        for gate in self.gates:
            total_BT = torch.where(gate.keep(context, advantage_BT), total_BT, torch.zeros_like(total_BT))
        for weight in self.weights:
            total_BT = total_BT * weight.weight(context, advantage_BT)
        return torch.where(context.mask_BT, total_BT, torch.zeros_like(total_BT))
