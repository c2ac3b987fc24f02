"""What a measurement holds, and the sums over outcomes that it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.lab.exact import LabContext
from zoo.lab.laws import Law
from zoo.lab.world import Array
from zoo.method import Method, Prepared
from zoo.statistics import TokenContext


@dataclass(frozen=True)
class Measured:
    """What one step does to the student's table, per term and in all; gradients of the loss, so the update is their negative.

    `second` is the mean squared length of one outcome's gradient, `tokens` the mean number of supervised tokens of one outcome.
    """

    by_term: dict[int, Array]
    laws: dict[str, Law]
    error: float
    tokens: float
    second: dict[int, float]
    prepared: tuple[Prepared, ...] = ()

    @cached_property
    def gradient(self) -> Array:
        """The whole loss."""
        found: Array = np.sum(list(self.by_term.values()), 0)
        return found

    def of(self, terms: Sequence[int]) -> Array:
        """Some of its terms."""
        return np.sum([self.by_term[i] for i in terms], 0) if terms else np.zeros_like(self.gradient)

    def variance(self, term: int) -> float:
        """Trace of the covariance of one outcome's gradient."""
        return self.second[term] - float((self.by_term[term] ** 2).sum())


def replace_terms(method: Method, only: int) -> Method:
    """The method with one of its terms."""
    found = Method.__new__(Method)
    found.__dict__.update(method.__dict__)
    found.terms = tuple((i, term) for i, term in method.terms if i == only)
    return found


def state_values(law: Law, reward_RT: Array, gamma: float, states: int) -> Array:
    """E[sum over k >= t of gamma^(k-t) r_k | state], (S,)."""
    return_RT, running = np.zeros_like(reward_RT), np.zeros(len(law))
    for t in range(reward_RT.shape[1] - 1, -1, -1):
        running = reward_RT[:, t] + gamma * running
        return_RT[:, t] = running
    valid = law.state_RT >= 0
    weight = np.broadcast_to(law.probability_R[:, None], valid.shape)[valid]
    total = np.bincount(law.state_RT[valid], weight * return_RT[valid], minlength=states)
    mass = np.bincount(law.state_RT[valid], weight, minlength=states)
    found: Array = np.where(mass > 0, total / np.where(mass > 0, mass, 1.0), 0.0)
    return found


def weights(law: Law) -> Tensor:
    """The probability of each row."""
    return torch.from_numpy(law.probability_R)


def copied(law: Law, copies: int) -> Law:
    """The law so many times, each copy an outcome of its own."""
    if copies == 1:
        return law
    index = np.tile(np.arange(len(law)), copies)
    found = law.rows(index)
    shifted = found.outcome_R + np.repeat(np.arange(copies), len(law)) * law.outcomes
    return replace(found, probability_R=found.probability_R / copies, outcome_R=shifted)


def second_moment(pieces: list[tuple[Law, Array]], shape: tuple[int, int]) -> float:
    """E of the squared length of one outcome's gradient."""
    if not pieces:
        return 0.0
    outcomes = pieces[0][0].outcomes
    whole = np.zeros((outcomes, *shape))
    for law, one_NV in pieces:
        valid = law.state_RT >= 0
        outcome_N = np.broadcast_to(law.outcome_R[:, None], valid.shape)[valid]
        np.add.at(whole, (outcome_N, law.state_RT[valid]), one_NV)
    return float((pieces[0][0].per_outcome * (whole**2).sum((1, 2))).sum())


def rows_of(law: Law) -> list[Any]:
    """The rows of each outcome."""
    order = np.argsort(law.outcome_R, kind="stable")
    return np.split(order, law.outcomes)


def part_of(context: TokenContext, rows: Any) -> TokenContext:
    """A context of some rows."""
    at = torch.from_numpy(rows)
    columns = {s: c[at] for s, c in context.columns.items()}
    changes: dict[str, Any] = {"rollout": context.rollout.rows(rows.tolist()), "columns": columns, "rewards": {n: r[at] for n, r in context.rewards.items()}}
    if isinstance(context, LabContext) and context.shift_B is not None:
        changes["shift_B"] = context.shift_B[at]
    return replace(context, **changes)
