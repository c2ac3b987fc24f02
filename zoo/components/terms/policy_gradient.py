"""The score-function term: a detached per-token advantage times the gradient of the written token's log-probability."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from zoo.components.base import Slot, component, slot_schema
from zoo.components.baselines import Baseline, NoBaseline
from zoo.components.credits import Credit
from zoo.components.ratios import Ratio
from zoo.components.rewards import Reward
from zoo.components.routings import Routing, SampledRouting
from zoo.components.shapings import shape_values
from zoo.components.terms.base import Signal, TokenTerm, unique
from zoo.statistics import LogProb, Statistic, TokenContext, View


class RewardSlot(Slot):
    """A reward written in place, or the name of one declared under `rewards`."""

    def validate(self, value: Any) -> Any:
        return value if isinstance(value, str) else super().validate(value)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, slot_schema("reward")]}


@component("term")
class PolicyGradientTerm(TokenTerm):
    """-A rho for each token; order: reward, credit, baseline, shaping, gates, weights, denominator."""

    term: Literal["policy_gradient"] = "policy_gradient"
    reward: Annotated[Any, RewardSlot("reward")]
    credit: Annotated[Credit, Slot("credit")]
    baseline: Annotated[Baseline, Slot("baseline")] = NoBaseline()
    routing: Annotated[Routing, Slot("routing")] = SampledRouting()
    ratio: tuple[Annotated[Ratio, Slot("ratio")], ...] = Field(())

    def resolved_reward(self, rewards: Mapping[str, Reward]) -> Reward:
        """The reward object behind a name or written in place."""
        return rewards[self.reward] if isinstance(self.reward, str) else self.reward

    def reward_names(self) -> tuple[str, ...]:
        return (*super().reward_names(), *((self.reward,) if isinstance(self.reward, str) else ()))

    def scorers(self, rewards: Mapping[str, Any]) -> tuple[str, ...]:
        read = [s for statistic in self.baseline.statistics() for s in statistic.scorers]
        return unique([*self.resolved_reward(rewards).scorers(), *read, *super().scorers(rewards)])

    def statistics(self, rewards: Mapping[str, Any]) -> tuple[Statistic, ...]:
        own = [*self.resolved_reward(rewards).statistics(), *self.credit.statistics(), *self.baseline.statistics()]
        return unique([*own, *super().statistics(rewards)])

    def update_scorers(self) -> tuple[str, ...]:
        teacher = getattr(self.routing, "teacher", None)
        return () if teacher is None else (teacher,)

    def prepare(self, contexts: Mapping[str, TokenContext], rewards: Mapping[str, Any]) -> tuple[Signal, ...]:
        context = contexts[self.on]
        mask_BT = context.mask_BT
        name = self.reward if isinstance(self.reward, str) else None
        credited_BT = self.credit.advantage(self.resolved_reward(rewards).tokens(context, name), context)
        advantage_BT = self.baseline.subtract(credited_BT, context)
        advantage_BT = shape_values(self.shaping, "advantage", advantage_BT, context)
        advantage_BT = torch.where(mask_BT, advantage_BT, torch.zeros_like(advantage_BT))
        columns = {
            "advantage": advantage_BT,
            "student": context.rollout.student_logp_BT.nan_to_num(0.0),
            "behaviour": context.rollout.behaviour_logp_BT.nan_to_num(0.0),
        }
        if self.credit.critic() is not None:
            columns["value_target"] = credited_BT + context.column(self.credit.statistics()[0])
        return (self.gated(context, advantage_BT, columns),)

    def token_loss(self, view: View, columns_N: Mapping[str, Tensor]) -> Tensor:
        advantage_N, logp_N = columns_N["advantage"], LogProb("student").compute(view)
        loss_N = self._surrogate(advantage_N, logp_N, columns_N)
        redirect = self._redirected(view)
        if redirect is None:
            return loss_N
        rho_NV, applies_N = redirect
        student_logp_NV = view.logp_NV("student")
        received_N = (rho_NV * student_logp_NV).sum(-1)
        return torch.where(applies_N & (advantage_N < 0), advantage_N.abs() * (logp_N - received_N), loss_N)

    def _surrogate(self, advantage_N: Tensor, logp_N: Tensor, columns_N: Mapping[str, Tensor]) -> Tensor:
        if not self.ratio:
            return -advantage_N * logp_N
        rho_N = torch.ones_like(logp_N)
        for ratio in self.ratio:
            rho_N = rho_N * ratio.factor(logp_N, columns_N)
        if all(ratio.frozen for ratio in self.ratio):
            return -advantage_N * rho_N * logp_N
        loss_N = -advantage_N * rho_N
        for ratio in self.ratio:
            clipped_N = ratio.clip(rho_N)
            if clipped_N is not None:
                loss_N = torch.maximum(loss_N, -advantage_N * clipped_N)
        return loss_N

    def _redirected(self, view: View) -> tuple[Tensor, Tensor] | None:
        teacher = getattr(self.routing, "teacher", None)
        if teacher is None:
            return None
        return self.routing.redirect(view.logp_NV("student").detach(), view.logp_NV(teacher), view.token_N)
