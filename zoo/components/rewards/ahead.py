"""Rewards for where a token leads: what a teacher says one step ahead, against the tokens that might have stood there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from zoo.components.base import Slot, component
from zoo.components.rewards.base import Reward
from zoo.statistics import Explored, Statistic, TokenContext

Sureness = Literal["confidence", "negative_entropy"]


@dataclass(frozen=True)
class OneAhead(Explored):
    """How sure `teacher` is behind the written token, against the same behind the student's k most probable tokens of the state."""

    k: int
    by: Sureness
    epsilon: float


def sureness(logp_NV: Tensor, by: Sureness) -> Tensor:
    """The largest probability of each row, or its negative entropy in nats, (N,)."""
    if by == "confidence":
        return logp_NV.amax(-1).exp()
    p_NV = logp_NV.exp()
    return torch.where(p_NV > 0, p_NV * logp_NV, torch.zeros_like(p_NV)).sum(-1)


def candidates(logp_NV: Tensor, stops: Any, k: int) -> Tensor:
    """The k most probable tokens behind which a text goes on, (N, k); fewer where the vocabulary has no more."""
    going_NV = logp_NV.clone()
    going_NV[:, list(stops)] = -torch.inf
    return going_NV.topk(min(k, logp_NV.shape[-1] - len(set(stops))), -1).indices


def standing(written_N: Tensor, candidate_NK: Tensor, epsilon: float) -> Tensor:
    """(x - mean) / (standard deviation + epsilon), both of the candidates; population standard deviation."""
    return (written_N - candidate_NK.mean(-1)) / (candidate_NK.std(-1, correction=0) + epsilon)


@component("reward")
class Lookahead(Reward):
    """(c(y_t) - mean c(v)) / (std c(v) + epsilon) at the tokens that the gate `within` keeps, 0 elsewhere: c(v) says how sure `teacher` is
    in the state behind token v, and mean and population standard deviation run over the student's k most probable tokens v (Lookahead Group
    Reward 2605.30833, whose measure and sign are inferred).

    `by`: the largest probability (`confidence`) or the negative entropy in nats. A stop token has no state behind it: it is no candidate, and
    where it is written the reward is 0. The teacher reads the k branches of a state in one pass over the text, each seeing what stands before
    it alone; its budget counts the text and all branches.
    """

    kind: Literal["lookahead"] = "lookahead"
    teacher: str = "teacher"
    k: int = Field(ge=2)
    by: Sureness = "confidence"
    within: Annotated[Any, Slot("gate")]
    epsilon: float = Field(1e-6, gt=0)

    def scorers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(("student", self.teacher, *self.within.scorers())))

    def statistics(self) -> tuple[Statistic, ...]:
        return (self._column(), *self.within.statistics())

    def tokens(self, context: TokenContext, name: str | None) -> Tensor:
        return torch.where(context.mask_BT, context.column(self._column()), 0.0)

    def _column(self) -> OneAhead:
        rule = json.dumps(self.within.model_dump(mode="json", by_alias=True), sort_keys=True)
        return OneAhead(self.teacher, rule, self.within, self.k, self.by, self.epsilon)
