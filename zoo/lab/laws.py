"""Laws: every text that a stream may hold, who wrote each token, and how probable that is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from math import factorial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.lab.world import Array, World
from zoo.tensors import Author

Ints = NDArray[np.int64]


class Exempt(Exception):
    """The lab has no double for a part; the message names it and gives the reason."""


@dataclass(frozen=True)
class Law:
    """R rows, each a text with its authors. `state_RT` is -1 behind the end; `outcome_R` and `member_R` number what happens together
    (the members of a group, the two sides of a pair) and `probability_R` belongs to the outcome, the same in all its rows.

    `given_R` marks texts of which no writer's probability is known. `error` is the largest error of a probability, where the law
    was sampled.
    """

    token_RT: Ints
    state_RT: Ints
    author_RT: Ints
    behaviour_RT: Array
    finished_R: NDArray[np.bool_]
    given_R: NDArray[np.bool_]
    probability_R: Array
    outcome_R: Ints
    error: float = 0.0

    def __len__(self) -> int:
        return len(self.token_RT)

    @property
    def outcomes(self) -> int:
        """How many things may happen."""
        return int(self.outcome_R.max()) + 1

    @property
    def per_outcome(self) -> Array:
        """The probability of each outcome."""
        found = np.zeros(self.outcomes)
        found[self.outcome_R] = self.probability_R
        return found

    def visits(self, states: int) -> Array:
        """How often each state is expected among the sequences of one outcome, divided by their number."""
        found, valid = np.zeros(states), self.state_RT >= 0
        np.add.at(found, self.state_RT[valid], np.broadcast_to(self.probability_R[:, None], self.state_RT.shape)[valid])
        return found / (len(self) / self.outcomes)

    def tokens(self, states: int, vocabulary: int) -> Array:
        """The expected number of times that each token is written in each state, (S, V), per sequence."""
        found, valid = np.zeros((states, vocabulary)), self.state_RT >= 0
        np.add.at(found, (self.state_RT[valid], self.token_RT[valid]), np.broadcast_to(self.probability_R[:, None], self.state_RT.shape)[valid])
        return found / (len(self) / self.outcomes)

    def rows(self, index: Any) -> Law:
        """The same for some of the rows, in the given order."""
        picked = {name: value[index] for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return replace(self, **picked)


NextToken = Callable[[Ints, int], tuple[Array, Array, tuple[int, ...]]]  # states (R,), position -> joint (R, A, V), log law (R, V), authors


def unrolled(world: World, horizon: int, next_token: NextToken, given: bool = False, start: tuple[int, int] = (0, 0)) -> Law:
    """The law of texts written token by token, each by the present state alone, from a state at a position (whose columns before stay blank)."""
    horizon = min(horizon, world.horizon)
    state_R, probability_R = np.full(1, start[0], dtype=np.int64), np.ones(1)
    history: dict[str, NDArray[Any]] = {
        "token": np.zeros((1, start[1]), dtype=np.int64), "state": np.full((1, start[1]), -1, dtype=np.int64),
        "author": np.zeros((1, start[1]), dtype=np.int64), "behaviour": np.zeros((1, start[1])),
    }  # fmt: skip
    done: list[tuple[dict[str, NDArray[Any]], Array, Any]] = []
    for t in range(start[1], horizon):
        joint_RAV, law_RV, authors = next_token(state_R, t)
        row, author, token = np.nonzero(joint_RAV > 0)
        probability_R = probability_R[row] * joint_RAV[row, author, token]
        grown = {"token": token, "state": state_R[row], "author": np.asarray(authors)[author], "behaviour": law_RV[row, token]}
        history = {name: np.concatenate([history[name][row], column[:, None]], 1) for name, column in grown.items()}
        state_R = world.children[state_R[row], token]
        over = (state_R < 0) | (t == horizon - 1)
        done.append(({name: column[over] for name, column in history.items()}, probability_R[over], token[over] == world.stop))
        history, state_R, probability_R = {name: column[~over] for name, column in history.items()}, state_R[~over], probability_R[~over]
    fill = {"token": 0, "state": -1, "author": 0, "behaviour": 0.0}
    padded = {
        name: np.concatenate([np.pad(part[name], ((0, 0), (0, world.horizon - part[name].shape[1])), constant_values=value) for part, _, _ in done])
        for name, value in fill.items()
    }
    probability = np.concatenate([p for _, p, _ in done])
    rows = len(probability)
    return Law(
        padded["token"], padded["state"], padded["author"], padded["behaviour"], np.concatenate([f for _, _, f in done]),
        np.full(rows, given), probability, np.arange(rows),
    )  # fmt: skip


def mixed(parts: list[tuple[float, Law]]) -> Law:
    """One of several laws, drawn for each sequence."""
    kept = [(share, law) for share, law in parts if share > 0]
    names = ("token_RT", "state_RT", "author_RT", "behaviour_RT", "finished_R", "given_R")
    joined = {name: np.concatenate([getattr(law, name) for _, law in kept]) for name in names}
    probability = np.concatenate([share * law.probability_R for share, law in kept])
    return Law(**joined, probability_R=probability, outcome_R=np.arange(len(probability)), error=max(law.error for _, law in kept))


def grouped(law: Law, size: int) -> Law:
    """Groups of so many independent sequences; members are exchangeable, so each multiset of them stands once with all its orders."""
    sets = np.array(list(combinations_with_replacement(range(len(law)), size)))
    orders = np.array([factorial(size) / np.prod([factorial(int(n)) for n in np.unique(row, return_counts=True)[1]]) for row in sets])
    probability = orders * np.prod(law.probability_R[sets], 1)
    found = law.rows(sets.reshape(-1))
    return replace(found, probability_R=np.repeat(probability, size), outcome_R=np.repeat(np.arange(len(sets)), size))


def together(first: Law, second: Law) -> tuple[Law, Law]:
    """Two independent laws as one: outcome (i, j) of both, in the same order on both sides."""
    n, m = first.outcomes, second.outcomes
    a, b = _by_outcome(first), _by_outcome(second)
    left = np.concatenate([a[i] for i in range(n) for _ in range(m)])
    right = np.concatenate([b[j] for _ in range(n) for j in range(m)])
    both = (first.per_outcome[:, None] * second.per_outcome[None, :]).reshape(-1)
    sizes = len(first) // n, len(second) // m
    sides = []
    for law, index, size in ((first, left, sizes[0]), (second, right, sizes[1])):
        sides.append(replace(law.rows(index), probability_R=np.repeat(both, size), outcome_R=np.repeat(np.arange(n * m), size)))
    return sides[0], sides[1]


def _by_outcome(law: Law) -> list[Ints]:
    order = np.argsort(law.outcome_R, kind="stable")
    return np.split(order, law.outcomes)


def product_of(parts: list[Law]) -> Law:
    """A group whose members have laws of their own."""
    found = parts[0]
    for other in parts[1:]:
        left, right = together(found, other)
        size, more = len(left) // left.outcomes, len(right) // right.outcomes
        order = np.concatenate([[*range(o * size, (o + 1) * size), *(len(left) + np.arange(o * more, (o + 1) * more))] for o in range(left.outcomes)])
        names = ("token_RT", "state_RT", "author_RT", "behaviour_RT", "finished_R", "given_R", "probability_R", "outcome_R")
        joined = {name: np.concatenate([getattr(left, name), getattr(right, name)]) for name in names}
        found = Law(**joined, error=max(left.error, right.error)).rows(order.astype(np.int64))
    return found


def without_authors(law: Law) -> Law:
    """Rows that differ in their authors alone, as one row of the first author; for parts that read none."""
    key = np.concatenate([law.state_RT, law.token_RT, law.given_R[:, None], law.finished_R[:, None]], 1)
    _, first, inverse = np.unique(key, axis=0, return_index=True, return_inverse=True)
    found = law.rows(first)
    probability: Array = np.bincount(inverse.reshape(-1), law.probability_R, minlength=len(first)).astype(np.float64)
    return replace(found, probability_R=probability, outcome_R=np.arange(len(first)))


DATASET, STUDENT = int(Author.DATASET), int(Author.STUDENT)
