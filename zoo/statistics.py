"""Per-token quantities computed once per batch without gradient, which rewards, baselines, gates and weights then read.

A statistic is a hashable value; two components that ask for the same one share its column.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from zoo.seeds import seed_for, uniforms
from zoo.tensors import Rollout, smallest


class View(Protocol):
    """N response tokens as the scorers see them. Only `student` carries a gradient, and only during the update."""

    token_N: Tensor

    def logp_NV(self, scorer: str, temperature: float = 1.0) -> Tensor:
        """Normalised fp32 log-probabilities over the shared vocabulary, after the scorer's target transform."""
        ...

    def written_N(self, scorer: str) -> Tensor:
        """The log-probability of each written token, or its share of that of the span which a teacher with another tokenizer sees."""
        ...

    def compared(self, scorer: str, temperature: float = 1.0) -> tuple[Tensor, Tensor] | None:
        """For a teacher whose alignment compares G spans on common columns: both sides' log-masses (G, K). None for all others."""
        ...

    def divergence_N(self, divergence: Any, scorer: str, temperature: float = 1.0) -> Tensor | None:
        """A divergence of the student to a scorer, summed over the whole vocabulary without its entries; None where entries must be summed."""
        ...

    def places(self, scorer: str) -> tuple[Tensor, Tensor] | None:
        """For a teacher with an alignment: the row and the sequence of each span, both (G,). None for all others."""
        ...

    def value_N(self, learner: str) -> Tensor:
        """A value head's estimate at each token's state."""
        ...

    def states(self, scorer: str, layers: str) -> list[Tensor]:
        """A scorer's hidden states (N, H) after the chosen layers, in the order of the student's."""
        ...

    def projected(self, learner: str, states_NH: Tensor, place: int) -> Tensor:
        """States of the layer at a place, mapped by a projector."""
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
        return view.written_N(self.scorer)


@dataclass(frozen=True)
class Paired:
    """1 at the tokens where the loss of a comparison with a teacher that has another tokenizer stands, else 0."""

    scorer: str

    @property
    def scorers(self) -> tuple[str, ...]:
        return (self.scorer,)

    def compute(self, view: View) -> Tensor:
        places = view.places(self.scorer)
        found_N = torch.zeros(len(view.token_N), device=view.token_N.device)
        return found_N + 1.0 if places is None else found_N.index_fill(0, places[0], 1.0)


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
class Explored:
    """A column about texts that go on otherwise than the written one, at the tokens that the gate `within` keeps, 0 elsewhere.

    No view of the written tokens shows it: who can run the models fills it in once all other columns stand. `rule` is the gate as text.
    """

    teacher: str
    rule: str
    within: Any = field(compare=False)

    @property
    def scorers(self) -> tuple[str, ...]:
        return (self.teacher, "student")

    def compute(self, view: View) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} is no function of the written tokens")


@dataclass(frozen=True)
class TokenContext:
    """All that is known about one stream's batch before any gradient: its columns, rewards and the run's progress.

    `rewards` holds one number per sequence. `total` turns a per-process sum into the
    sum over all processes. `absent` marks the sequences (B,), or the tokens (B, T), for which a scorer's context has
    nothing to show. `turn_rewards` holds rewards of turns, (B, T), each on its turn's last token.
    `memory` holds what gates remember of earlier steps, by their keys.
    """

    rollout: Rollout
    columns: Mapping[Statistic, Tensor] = field(default_factory=dict)
    rewards: Mapping[str, Tensor] = field(default_factory=dict)
    total: Callable[[Tensor], Tensor] = field(default=lambda value: value)
    absent: Mapping[str, Tensor] = field(default_factory=dict)
    turn_rewards: Mapping[str, Tensor] = field(default_factory=dict)
    memory: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)

    @property
    def mask_BT(self) -> Tensor:
        return self.rollout.mask_BT

    def heard_BT(self, scorers: Iterable[str]) -> Tensor | None:
        """Tokens (B, 1 or T) for which all of these scorers have their context; None where none of them can lack it."""
        missing = [self.absent[name] for name in scorers if name in self.absent]
        return ~functools.reduce(torch.logical_or, [m if m.ndim == 2 else m[:, None] for m in missing]) if missing else None

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

    def sequence_mean(self, value_BT: Tensor) -> Tensor:
        """For each sequence, the mean of `value_BT` over its supervised tokens, (B,); 0 where it has none."""
        mask_BT = self.mask_BT
        total_B = torch.where(mask_BT, value_BT, torch.zeros_like(value_BT)).sum(1)
        return total_B / mask_BT.sum(1).clamp(min=1)

    def turn_sum(self, value_BT: Tensor) -> tuple[Tensor, Tensor]:
        """For each token, the sum of `value_BT` over its turn's supervised tokens, and their number, both (B, T)."""
        mask_BT, turn_BT = self.mask_BT, self.rollout.turns_BT
        own_BT = torch.where(mask_BT, value_BT, torch.zeros_like(value_BT))
        total_BK, count_BK = (torch.zeros_like(own_BT).scatter_add_(1, turn_BT, each) for each in (own_BT, mask_BT.to(own_BT)))
        return total_BK.gather(1, turn_BT), count_BK.gather(1, turn_BT)

    def turn_mean(self, value_BT: Tensor) -> Tensor:
        """For each token, the mean of `value_BT` over its turn's supervised tokens, (B, T)."""
        total_BT, count_BT = self.turn_sum(value_BT)
        return total_BT / count_BT.clamp(min=1)

    def batch_mean(self, value: Tensor, counted: Tensor) -> Tensor:
        """The mean of `value` over the entries of the global batch that count; 0 where none does."""
        total = self.total(torch.where(counted, value, torch.zeros_like(value)).sum())
        return total / self.total(counted.sum()).clamp(min=1)

    def quantile(self, value: Tensor, counted: Tensor, level: float) -> Tensor:
        """The quantile of the counted entries of the global batch, between two of them by linear interpolation; 0 where none counts."""
        count = int(self.total(counted.sum()))
        if count == 0:
            return value.new_zeros(())
        place = level * (count - 1)
        low = smallest(value, counted, int(place), self.total)
        high = smallest(value, counted, min(int(place) + 1, count - 1), self.total)
        return low + (place - int(place)) * (high - low)

    def row_quantile(self, value_BT: Tensor, level: float) -> Tensor:
        """The same over the supervised tokens of each sequence, (B, 1)."""
        mask_BT = self.mask_BT
        ordered_BT = torch.where(mask_BT, value_BT, torch.full_like(value_BT, torch.inf)).sort(1).values
        place_B1 = level * (mask_BT.sum(1, keepdim=True) - 1).clamp(min=0).to(torch.float64)
        low_B1, high_B1 = (ordered_BT.gather(1, place.long()) for place in (place_B1.floor(), place_B1.ceil()))
        found_B1 = low_B1 + (place_B1 - place_B1.floor()).to(value_BT) * (high_B1 - low_B1)
        return torch.where(mask_BT.any(1, keepdim=True), found_B1, torch.zeros_like(found_B1))

    def uniform_B(self, purpose: str) -> Tensor:
        """A uniform draw on [0, 1) for each sequence, float64; see `uniform_BT`."""
        return self.uniform_BT(purpose)[:, 0]

    def uniform_BT(self, purpose: str) -> Tensor:
        """A uniform draw on [0, 1) for each token, float64, the same for all who name one purpose.

        The seed is a hash of the purpose, the prompt, the student's age at writing and the supervised tokens, so draws depend
        on neither order, padding nor the number of processes; two equal answers to one prompt share theirs.
        """
        rollout, mask_BT = self.rollout, self.mask_BT.tolist()
        rows = [[i for i, m in zip(*row, strict=True) if m] for row in zip(rollout.response_BT.tolist(), mask_BT, strict=True)]
        seeds = [seed_for(purpose, p.id, rollout.version, *row) for p, row in zip(rollout.prompts, rows, strict=True)]
        return uniforms(seeds, max(self.mask_BT.shape[1], 1)).to(self.mask_BT.device)


def log_probs(scorers: Mapping[str, float] | tuple[str, ...]) -> tuple[Statistic, ...]:
    """The columns behind a set of scorer names; `behaviour` needs none."""
    return tuple(LogProb(name) for name in scorers if name != "behaviour")
