"""Rewards of single tokens, from the probabilities of scorers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from zoo.components.base import Number, component
from zoo.components.rewards.base import Reward, on_last
from zoo.statistics import Entropy, Kl, Statistic, TokenContext, View, log_probs


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


@dataclass(frozen=True)
class CentredLogit:
    """A scorer's logit of the written token, or of its best one, less the mean of its logits over the vocabulary."""

    scorer: str
    best: bool = False

    @property
    def scorers(self) -> tuple[str, ...]:
        return (self.scorer,)

    def compute(self, view: View) -> Tensor:
        logp_NV = view.logp_NV(self.scorer)
        logit_N = logp_NV.amax(-1) if self.best else logp_NV.gather(-1, view.token_N[:, None])[:, 0]
        return logit_N - logp_NV.mean(-1)


@component("reward")
class Bellman(Reward):
    """Q(s_t, y_t) - max_a Q(s_{t + k}, a), Q the teacher's logits, centred in each state and read as action values: the reward that k
    steps must have paid (KETCHUP 2504.19024; k = 1 is LLMR). A response that ends earlier is followed to its last state; at the last
    token nothing is subtracted."""

    kind: Literal["bellman"] = "bellman"
    teacher: str = "teacher"
    k: int = Field(ge=1)

    def scorers(self) -> tuple[str, ...]:
        return (self.teacher,)

    def statistics(self) -> tuple[Statistic, ...]:
        return (CentredLogit(self.teacher), CentredLogit(self.teacher, best=True))

    def tokens(self, context: TokenContext, name: str | None) -> Tensor:
        mask_BT = context.mask_BT
        written_BT, best_BT = (context.column(statistic) for statistic in self.statistics())
        last_BT = on_last(mask_BT)
        at_T = torch.arange(mask_BT.shape[1], device=mask_BT.device)
        ahead_BT = torch.minimum(at_T + self.k, (last_BT * at_T).sum(1, keepdim=True))
        paid_BT = torch.where(last_BT, 0.0, best_BT.gather(1, ahead_BT))
        return torch.where(mask_BT, written_BT - paid_BT, 0.0)


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
