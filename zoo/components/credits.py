"""Credit: from a per-token reward to the advantage of each token.

Signs and origins: reward r_t of the written token, discount counted from t (B-survey derivations D.1, D.5; MiniLLM
2306.08543 for the return that starts after t; GRPO 2402.03300 for groups). A sequence reward stands on the last token.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from zoo.components.base import Component, Number, check_range, component
from zoo.statistics import Statistic, TokenContext, Value


class Credit(Component):
    """Base of all credits. `outcome` marks those that read a sequence's result beside the reward they are given, by its `name`."""

    outcome: ClassVar[bool] = False

    @property
    def local(self) -> bool:
        """Whether the advantage at t depends on nothing after t."""
        return False

    def critic(self) -> str | None:
        """Name of the value head it needs."""
        return None

    def statistics(self) -> tuple[Statistic, ...]:
        """Columns it reads."""
        return ()

    def advantage(self, reward_BT: Tensor, context: TokenContext) -> Tensor:
        """Advantage (B, T); entries outside the mask are 0."""
        raise NotImplementedError

    def value_target(self, advantage_BT: Tensor, context: TokenContext) -> Tensor:
        """What its value head regresses, (B, T)."""
        return advantage_BT + context.column(self.statistics()[0])

    def estimator(self) -> str:
        """The coordinate this credit gives to a policy-gradient term."""
        raise NotImplementedError


def discounted_sum(value_BT: Tensor, gamma: float) -> Tensor:
    """G_t = sum over k >= t of gamma^(k-t) value_k, from the right."""
    total_B, columns = torch.zeros_like(value_BT[:, 0]), []
    for t in range(value_BT.shape[1] - 1, -1, -1):
        total_B = value_BT[:, t] + gamma * total_B
        columns.append(total_B)
    return torch.stack(columns[::-1], 1)


def shifted(value_BT: Tensor) -> Tensor:
    """value_{t+1}, 0 after the end."""
    return torch.cat([value_BT[:, 1:], torch.zeros_like(value_BT[:, :1])], 1)


@component("credit")
class Immediate(Credit):
    """A_t = r_t."""

    kind: Literal["immediate"] = "immediate"

    @property
    def local(self) -> bool:
        return True

    def advantage(self, reward_BT: Tensor, context: TokenContext) -> Tensor:
        return reward_BT

    def estimator(self) -> str:
        return "pg_immediate"


class Return(Credit):
    """Credits that sum the rewards from t on, or from t + 1 on."""

    start: Literal["this", "next"] = Field("this", alias="from")
    per_length: bool = False

    model_config = {"populate_by_name": True}

    def returns(self, reward_BT: Tensor, context: TokenContext, gamma: float) -> Tensor:
        """Discounted return from t or from t + 1, optionally divided by the number of tokens it sums over."""
        mask_BT = context.mask_BT.to(reward_BT)
        return_BT, count_BT = discounted_sum(reward_BT, gamma), discounted_sum(mask_BT, 1.0)
        if self.start == "next":
            return_BT, count_BT = shifted(return_BT), shifted(count_BT)
        if self.per_length:
            return_BT = return_BT / count_BT.clamp(min=1.0)
        return return_BT * mask_BT


@component("credit")
class ReturnToGo(Return):
    """A_t = sum over k >= t of r_k: with the log-ratio as reward, the gradient of the sequence reverse KL (D.1). With a `stride` only
    r_t, r_{t + stride}, ... and the last reward of the sequence count, the last one once (KETCHUP 2504.19024)."""

    kind: Literal["return_to_go"] = "return_to_go"
    stride: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _plain(self) -> ReturnToGo:
        if self.stride > 1 and (self.start == "next" or self.per_length):
            raise ValueError("a stride counts from the token itself and is not divided; drop from and per_length, or the stride")
        return self

    def advantage(self, reward_BT: Tensor, context: TokenContext) -> Tensor:
        if self.stride == 1:
            return self.returns(reward_BT, context, 1.0)
        mask_BT = context.mask_BT
        at_T = torch.arange(mask_BT.shape[1], device=mask_BT.device)
        last_B = torch.where(mask_BT, at_T, torch.zeros_like(at_T)).amax(1)
        final_B = reward_BT.gather(1, last_B[:, None])[:, 0]
        columns: list[Tensor] = []
        for t in range(mask_BT.shape[1] - 1, -1, -1):
            further_B = columns[-self.stride] if len(columns) >= self.stride else torch.zeros_like(final_B)
            missed_B = torch.where(last_B > t, final_B, torch.zeros_like(final_B))
            columns.append(reward_BT[:, t] + torch.where(last_B >= t + self.stride, further_B, missed_B))
        return torch.stack(columns[::-1], 1) * mask_BT

    def estimator(self) -> str:
        return "pg_return_to_go"


@component("credit")
class Discounted(Return):
    """A_t = sum over k >= t of gamma^(k-t) r_k; 0 is immediate credit, 1 return-to-go, in between the gradient of no scalar (D.5)."""

    kind: Literal["discounted"] = "discounted"
    gamma: Number

    @model_validator(mode="after")
    def _inside(self) -> Discounted:
        check_range("gamma", self.gamma, 0.0, 1.0, why="it is a discount")
        return self

    @property
    def local(self) -> bool:
        return self.gamma == 0.0 and self.start == "this" and not self.per_length

    def advantage(self, reward_BT: Tensor, context: TokenContext) -> Tensor:
        return self.returns(reward_BT, context, self.gamma)

    def estimator(self) -> str:
        return "pg_immediate" if self.local else "pg_return_to_go" if self.gamma == 1.0 else "pg_discounted"


@component("credit")
class KStep(Credit):
    """A_t = sum of the k rewards from t on (KETCHUP's horizon)."""

    kind: Literal["k_step"] = "k_step"
    k: int = Field(ge=1)

    @property
    def local(self) -> bool:
        return self.k == 1

    def advantage(self, reward_BT: Tensor, context: TokenContext) -> Tensor:
        total_BT, ahead_BT = reward_BT, reward_BT
        for _ in range(min(self.k, reward_BT.shape[1]) - 1):
            ahead_BT = shifted(ahead_BT)
            total_BT = total_BT + ahead_BT
        return total_BT * context.mask_BT

    def estimator(self) -> str:
        return "pg_immediate" if self.k == 1 else "pg_kstep"


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
class Gae(Credit):
    """A_t = sum over l of (gamma lambda)^l delta_{t+l}, delta_t = r_t + gamma V(s_{t+1}) - V(s_t), V = 0 after the last token,
    at a stop and at a cut alike (1506.02438; catalogue D.8). gamma 0 is r_t - V; gamma = lambda = 1 is return-to-go minus V."""

    kind: Literal["gae"] = "gae"
    gamma: Number = 1.0
    lam: Number = Field(0.95, alias="lambda")
    value: str = "value"

    model_config = {"populate_by_name": True}

    @model_validator(mode="after")
    def _inside(self) -> Gae:
        check_range("gamma", self.gamma, 0.0, 1.0, why="it is a discount")
        check_range("lambda", self.lam, 0.0, 1.0, why="it is a mixing weight")
        return self

    def critic(self) -> str:
        return self.value

    def statistics(self) -> tuple[Statistic, ...]:
        return (Value(self.value),)

    def advantage(self, reward_BT: Tensor, context: TokenContext) -> Tensor:
        value_BT = context.column(Value(self.value)) * context.mask_BT
        delta_BT = reward_BT + self.gamma * shifted(value_BT) - value_BT
        return discounted_sum(delta_BT * context.mask_BT, self.gamma * self.lam) * context.mask_BT

    def estimator(self) -> str:
        return "pg_gae"


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


@component("credit")
class PathConsistency(Credit):
    """A_t = C_{t - k + 1} + ... + C_t, C_t = V(s_{t + k}) - V(s_t) + r_t + ... + r_{t + k - 1}, cut at the end, where V = 0: with the
    log-ratio to a teacher as reward the descent of mean C^2 / 2, the path consistency of entropy-regularised RL whose optimum is the
    teacher (1702.08892; 2502.17717), on whoever's text. `k` none takes whole paths, `value` none V = 0, its value at the optimum.

    The value head descends the same loss: it regresses V(s_t) + C_t - C_{t - k}.
    """

    kind: Literal["path_consistency"] = "path_consistency"
    k: int | None = Field(None, ge=1)
    value: str | None = "value"

    def critic(self) -> str | None:
        return self.value

    def statistics(self) -> tuple[Statistic, ...]:
        return () if self.value is None else (Value(self.value),)

    def advantage(self, reward_BT: Tensor, context: TokenContext) -> Tensor:
        gap_BT, k = self._gaps(reward_BT, context)
        passed_BT = gap_BT.cumsum(1)
        return (passed_BT - _before(passed_BT, k)) * context.mask_BT

    def value_target(self, advantage_BT: Tensor, context: TokenContext) -> Tensor:
        # A_t - A_{t - 1} is C_t - C_{t - k}.
        return context.column(self.statistics()[0]) + advantage_BT - _before(advantage_BT, 1)

    def _gaps(self, reward_BT: Tensor, context: TokenContext) -> tuple[Tensor, int]:
        """C_t (B, T) and the number of steps of a path."""
        k = min(self.k or reward_BT.shape[1], reward_BT.shape[1])
        reward_BT = reward_BT * context.mask_BT
        ahead_BT = discounted_sum(reward_BT, 1.0)
        gap_BT = ahead_BT - _after(ahead_BT, k)
        if self.value is not None:
            value_BT = context.column(Value(self.value)) * context.mask_BT
            gap_BT = gap_BT + _after(value_BT, k) - value_BT
        return gap_BT * context.mask_BT, k

    def estimator(self) -> str:
        return "pg_gae"


def _before(value_BT: Tensor, k: int) -> Tensor:
    """value_{t-k}, 0 before the start."""
    return torch.nn.functional.pad(value_BT, (k, 0))[:, : value_BT.shape[1]]


def _after(value_BT: Tensor, k: int) -> Tensor:
    """value_{t+k}, 0 after the end."""
    return torch.nn.functional.pad(value_BT, (0, k))[:, k:]
