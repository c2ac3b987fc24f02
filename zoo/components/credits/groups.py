"""Credits that compare the answers to one prompt, or start from how many of them were right."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from zoo.components.base import component
from zoo.components.credits.base import Credit
from zoo.statistics import LogProb, Statistic, TokenContext


@component("credit")
class Group(Credit):
    """A_i = (R_i - mean_j R_j) / (std_j R_j + epsilon), the same for every token of sequence i (GRPO; std with one degree
    of freedom less, as in TRL). `divide: none` is Dr. GRPO's. R_i is the sum of the answer's rewards, with `per_length` their mean, for
    rewards of tokens (the log-ratio bonus of 2605.08873)."""

    kind: Literal["group"] = "group"
    divide: Literal["std", "none"] = "std"
    epsilon: float = Field(1e-4, gt=0)
    per_length: bool = Field(False, exclude_if=lambda value: value is False)

    def advantage(self, reward_BT: Tensor, context: TokenContext) -> Tensor:
        reward_B = context.sequence_mean(reward_BT) if self.per_length else (reward_BT * context.mask_BT).sum(1)
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
class Listwise(Credit):
    """A_i = q*_i - p_i over the answers of a group, p_i = softmax of log p(y_i), q*_i = softmax of log p(y_i) + R_i / tau: with sums over tokens
    the exact gradient of KL(q* || p), q* fixed, among the candidates (2606.03603, its tilt a reconstruction)."""

    kind: Literal["listwise"] = "listwise"
    tau: float = Field(1.0, gt=0)

    def statistics(self) -> tuple[Statistic, ...]:
        return (LogProb("student"),)

    def advantage(self, reward_BT: Tensor, context: TokenContext) -> Tensor:
        reward_B = (reward_BT * context.mask_BT).sum(1)
        logp_B = (context.logp_BT("student") * context.mask_BT).sum(1)
        shares = [self._share(score_B.double(), context) for score_B in (logp_B + reward_B / self.tau, logp_B)]
        return (shares[0] - shares[1]).to(reward_BT)[:, None] * context.mask_BT

    @staticmethod
    def _share(score_B: Tensor, context: TokenContext) -> Tensor:
        """Softmax within each group."""
        best_B = torch.stack([score_B[context.rollout.group_B == group].max() for group in context.rollout.group_B])
        size_B = (score_B - best_B).exp()
        return size_B / context.group_sum(size_B)[0]

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
