"""Per-token quantities computed once per batch without gradient, which rewards, baselines, gates and weights then read.

A statistic is a hashable value; two components that ask for the same one share its column.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from zoo.tensors import Rollout


class View(Protocol):
    """N response tokens as the scorers see them. Only `student` carries a gradient, and only during the update."""

    token_N: Tensor

    def logp_NV(self, scorer: str, temperature: float = 1.0) -> Tensor:
        """Normalised fp32 log-probabilities over the shared vocabulary, after the scorer's target transform."""
        ...

    def value_N(self, learner: str) -> Tensor:
        """A value head's estimate at each token's state."""
        ...


class Statistic(Protocol):
    """A column to be computed from a view."""

    @property
    def scorers(self) -> tuple[str, ...]:
        """Names of the scorers whose distributions are read."""
        ...

    def compute(self, view: View) -> Tensor:
        """The quantity for each of the N tokens."""
        ...


def kl_NV(p_logp_NV: Tensor, q_logp_NV: Tensor) -> Tensor:
    """KL(p || q) per row in nats; entries where p is 0 contribute 0."""
    p_NV = p_logp_NV.exp()
    return torch.where(p_NV > 0, p_NV * (p_logp_NV - q_logp_NV), torch.zeros_like(p_NV)).sum(-1)


@dataclass(frozen=True)
class LogProb:
    """log-probability of the token that was written, under `scorer`."""

    scorer: str

    @property
    def scorers(self) -> tuple[str, ...]:
        return (self.scorer,)

    def compute(self, view: View) -> Tensor:
        return view.logp_NV(self.scorer).gather(-1, view.token_N[:, None])[:, 0]


@dataclass(frozen=True)
class Entropy:
    """Full-vocabulary entropy of `scorer`, in nats."""

    scorer: str

    @property
    def scorers(self) -> tuple[str, ...]:
        return (self.scorer,)

    def compute(self, view: View) -> Tensor:
        logp_NV = view.logp_NV(self.scorer)
        p_NV = logp_NV.exp()
        return -torch.where(p_NV > 0, p_NV * logp_NV, torch.zeros_like(p_NV)).sum(-1)


@dataclass(frozen=True)
class Kl:
    """KL(of || to), over the full vocabulary or over the `top_k` tokens of `of` with both sides renormalised."""

    of: str
    to: str
    top_k: int | None = None

    @property
    def scorers(self) -> tuple[str, ...]:
        return (self.of, self.to)

    def compute(self, view: View) -> Tensor:
        of_NV, to_NV = view.logp_NV(self.of), view.logp_NV(self.to)
        if self.top_k is not None and self.top_k < of_NV.shape[-1]:
            index_NK = of_NV.topk(self.top_k, -1).indices
            of_NV, to_NV = of_NV.gather(-1, index_NK).log_softmax(-1), to_NV.gather(-1, index_NK).log_softmax(-1)
        return kl_NV(of_NV, to_NV)


@dataclass(frozen=True)
class Value:
    """A learned value of the state in which the token was written, from the student's last hidden state."""

    learner: str

    @property
    def scorers(self) -> tuple[str, ...]:
        return ("student",)

    def compute(self, view: View) -> Tensor:
        return view.value_N(self.learner)


@dataclass(frozen=True)
class TokenContext:
    """All that is known about one stream's batch before any gradient: its columns, rewards and the run's progress.

    `rewards` holds one number per sequence. `total` turns a per-process sum into the
    sum over all processes.
    """

    rollout: Rollout
    columns: Mapping[Statistic, Tensor] = field(default_factory=dict)
    rewards: Mapping[str, Tensor] = field(default_factory=dict)
    total: Callable[[Tensor], Tensor] = field(default=lambda value: value)

    @property
    def mask_BT(self) -> Tensor:
        return self.rollout.mask_BT

    def logp_BT(self, scorer: str) -> Tensor:
        """The written token's log-probability under a scorer, or under `behaviour` (whoever wrote it, at that time)."""
        if scorer == "behaviour":
            return self.rollout.behaviour_logp_BT
        return self.columns[LogProb(scorer)]

    def group_sum(self, value_B: Tensor) -> tuple[Tensor, Tensor]:
        """For each sequence, the sum of `value_B` over its group's members, itself included, and their number, both (B,)."""
        _, index_B, count_G = torch.unique(self.rollout.group_B, return_inverse=True, return_counts=True)
        total_G = torch.zeros_like(count_G, dtype=value_B.dtype).index_add_(0, index_B, value_B)
        return total_G[index_B], count_G[index_B]

    def group_mean(self, value_B: Tensor) -> Tensor:
        """For each sequence, the mean of `value_B` over its group, (B,)."""
        total_B, count_B = self.group_sum(value_B)
        return total_B / count_B

    def column(self, statistic: Statistic) -> Tensor:
        """A column that some component declared it needs."""
        return self.columns[statistic]


def log_probs(scorers: Mapping[str, float] | tuple[str, ...]) -> tuple[Statistic, ...]:
    """The columns behind a set of scorer names; `behaviour` needs none."""
    return tuple(LogProb(name) for name in scorers if name != "behaviour")
