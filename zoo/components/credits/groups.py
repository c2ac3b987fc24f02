"""Credits that compare the answers to one prompt, or start from how many of them were right."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from zoo.components.base import component
from zoo.components.credits.base import Credit
from zoo.statistics import TokenContext


@component("credit")
class Group(Credit):
    """A_i = (R_i - mean_j R_j) / (std_j R_j + epsilon), the same for every token of sequence i (GRPO; std with one degree
    of freedom less, as in TRL). `divide: none` is Dr. GRPO's."""

    kind: Literal["group"] = "group"
    divide: Literal["std", "none"] = "std"
    epsilon: float = Field(1e-4, gt=0)

    def advantage(self, reward_BT: Tensor, context: TokenContext) -> Tensor:
        reward_B = (reward_BT * context.mask_BT).sum(1)
        advantage_B = reward_B - context.group_mean(reward_B)
        if self.divide == "std":
            square_B, count_B = context.group_sum(advantage_B.square())
            advantage_B = advantage_B / ((square_B / (count_B - 1).clamp(min=1)).sqrt() + self.epsilon)
        return advantage_B[:, None] * context.mask_BT

    def estimator(self) -> str:
        return "pg_group"


@component("credit")
class LeaveOneOut(Credit):
    """A_i = R_i - mean of the other members' R (RLOO)."""

    kind: Literal["leave_one_out"] = "leave_one_out"

    def advantage(self, reward_BT: Tensor, context: TokenContext) -> Tensor:
        reward_B = (reward_BT * context.mask_BT).sum(1)
        total_B, count_B = context.group_sum(reward_B)
        others_B = (total_B - reward_B) / (count_B - 1).clamp(min=1)
        return (reward_B - others_B)[:, None] * context.mask_BT

    def estimator(self) -> str:
        return "pg_group"


@component("credit")
class BayesOdds(Credit):
    """A_t = sigmoid(l_t + r_t) - sigmoid(l_t), l_1 = logit(V_0), l_{t+1} = l_t + r_t (OPPO 2605.21851).

    The reward is the token's evidence, a log-ratio with and without the right answer (clip it there); V_0 is the mean of a sequence
    reward over the group, held within [low, 1 - low]. The advantages of a response sum to the change of its odds, sigmoid(l_end) - V_0;
    to first order A_t = V_t (1 - V_t) r_t.
    """

    kind: Literal["bayes_odds"] = "bayes_odds"
    name: str
    low: float = Field(0.05, gt=0, lt=0.5)
    outcome = True

    @property
    def local(self) -> bool:
        return True

    def advantage(self, reward_BT: Tensor, context: TokenContext) -> Tensor:
        prior_B = context.group_mean(context.rewards[self.name].to(reward_BT)).clamp(self.low, 1.0 - self.low)
        evidence_BT = reward_BT * context.mask_BT
        before_BT = prior_B.logit()[:, None] + evidence_BT.cumsum(1) - evidence_BT
        return ((before_BT + evidence_BT).sigmoid() - before_BT.sigmoid()) * context.mask_BT

    def estimator(self) -> str:
        return "pg_immediate"
