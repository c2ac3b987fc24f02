"""Rewards: named feedback, per token (a contrast of scorers) or per sequence (a verifier)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from zoo.components.base import Component, Number, component
from zoo.statistics import Entropy, Kl, Statistic, TokenContext, log_probs


class Reward(Component):
    """Base of all rewards. `per_sequence` ones are measured on the whole text; `state_only` ones ignore the written token."""

    per_sequence: ClassVar[bool] = False
    state_only: ClassVar[bool] = False

    def scorers(self) -> tuple[str, ...]:
        """Scorers whose probabilities it reads."""
        return ()

    def statistics(self) -> tuple[Statistic, ...]:
        """Columns it reads."""
        return ()

    def tokens(self, context: TokenContext, name: str | None) -> Tensor:
        """Reward of each token (B, T), 0 outside the mask; a sequence reward stands on the last supervised token."""
        raise NotImplementedError


@component("reward")
class Contrast(Reward):
    """sum over scorers of coefficient * map(probability of the written token), divided by `scale`, clamped to +-`clip`.

    map log: log-probabilities (the log-ratio, ExOPD's extrapolation); probability: probabilities; power: (p^alpha - 1) / alpha,
    the Box-Cox form whose alpha -> 0 limit is log.
    """

    kind: Literal["contrast"] = "contrast"
    of: dict[str, Number] = Field(min_length=1)
    map: Literal["log", "probability", "power"] = "log"
    alpha: float = Field(0.5, gt=0)
    scale: float = Field(1.0, gt=0)
    clip: float | None = Field(None, gt=0)

    def scorers(self) -> tuple[str, ...]:
        return tuple(self.of)

    def statistics(self) -> tuple[Statistic, ...]:
        return log_probs(tuple(self.of))

    def tokens(self, context: TokenContext, name: str | None) -> Tensor:
        reward_BT = self.value({scorer: context.logp_BT(scorer) for scorer in self.of})
        return torch.where(context.mask_BT, reward_BT, torch.zeros_like(reward_BT))

    def value(self, logp: Mapping[str, Tensor]) -> Tensor:
        """The combination of given log-probabilities, of any shape, by scorer."""
        reward = torch.zeros((), device=next(iter(logp.values())).device)
        for scorer, coefficient in self.of.items():
            reward = reward + coefficient * self._mapped(logp[scorer])
        reward = reward / self.scale
        return reward if self.clip is None else reward.clamp(-self.clip, self.clip)

    def _mapped(self, logp: Tensor) -> Tensor:
        if self.map == "log":
            return logp
        return logp.exp() if self.map == "probability" else torch.expm1(self.alpha * logp) / self.alpha


@component("reward")
class Verifier(Reward):
    """1 where the pair's task accepts the decoded answer, else 0. `check` names one of the task's checks."""

    kind: Literal["verifier"] = "verifier"
    check: str = "answer"
    per_sequence = True

    def tokens(self, context: TokenContext, name: str | None) -> Tensor:
        if name is None:
            raise ValueError("a sequence reward is read by its name")
        mask_BT = context.mask_BT
        positions_T = torch.arange(mask_BT.shape[1], device=mask_BT.device)
        last_B1 = torch.where(mask_BT, positions_T, torch.full_like(positions_T, -1)).amax(1, keepdim=True)
        on_last_BT = (positions_T == last_B1) & mask_BT
        return on_last_BT * context.rewards[name].to(torch.float32)[:, None]


@component("reward")
class StateDivergence(Reward):
    """-KL(p || q) of the state, or -KL(q || p), or the negative cross-entropy -H(q, p), whatever token was written: as an immediate
    advantage its expected gradient is 0 (D.6). Credit from the next state on makes it the cost of where an action leads (DistIL
    2606.05152)."""

    kind: Literal["state_divergence"] = "state_divergence"
    teacher: str = "teacher"
    by: Literal["reverse_kl", "forward_kl", "cross_entropy"] = "reverse_kl"
    state_only = True

    def scorers(self) -> tuple[str, ...]:
        return ("student", self.teacher)

    def statistics(self) -> tuple[Statistic, ...]:
        if self.by == "reverse_kl":
            return (Kl("student", self.teacher),)
        return (Kl(self.teacher, "student"), *([Entropy(self.teacher)] if self.by == "cross_entropy" else []))

    def tokens(self, context: TokenContext, name: str | None) -> Tensor:
        return torch.where(context.mask_BT, -sum(context.column(s) for s in self.statistics()), 0.0)
