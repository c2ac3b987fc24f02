"""Laws: every text that a stream may hold, who wrote each token, and how probable that is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from math import comb, factorial, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.components.base import Context
from zoo.lab.world import Array, World
from zoo.seeds import seed_for

Ints = NDArray[np.int64]
MOST, DRAWS = 50_000, 20_000  # joint outcomes up to which everything is enumerated, and how many are drawn where there are more


class Exempt(Exception):
    """The lab has no double for a part; the message names it and gives the reason, `sort` is the sort of exemption (`doubles.EXEMPT`)."""

    def __init__(self, text: str, sort: str = "no double") -> None:
        super().__init__(text)
        self.sort = sort


@dataclass(frozen=True)
class Law:
    """R rows, each a text with its authors. `state_RT` is -1 behind the end; `outcome_R` and `member_R` number what happens together
    (the members of a group, the two sides of a pair) and `probability_R` belongs to the outcome, the same in all its rows.

    `behaviour_RT` is NaN where no writer's probability is known. `label_RT` is the given answer's token at each index, where a scorer
    reads it. `reading` is the context in which the student reads the texts. `error` is the largest error of a probability, where the law
    was sampled.
    """

    token_RT: Ints
    state_RT: Ints
    author_RT: Ints
    behaviour_RT: Array
    finished_R: NDArray[np.bool_]
    probability_R: Array
    outcome_R: Ints
    error: float = 0.0
    label_RT: Ints | None = None
    reading: Context | None = None

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

    @property
    def learned(self) -> float:
        """How many sequences of an outcome are expected to hold a token that is learned."""
        return float((self.probability_R * (self.state_RT >= 0).any(1)).sum())

    def visits(self, states: int) -> Array:
        """How often each state is expected among the sequences of one outcome, divided by the number of those that hold a token."""
        found, valid = np.zeros(states), self.state_RT >= 0
        np.add.at(found, self.state_RT[valid], np.broadcast_to(self.probability_R[:, None], self.state_RT.shape)[valid])
        return found / self.learned

    def tokens(self, states: int, vocabulary: int) -> Array:
        """The expected number of times that each token is written in each state, (S, V), per sequence."""
        found, valid = np.zeros((states, vocabulary)), self.state_RT >= 0
        np.add.at(found, (self.state_RT[valid], self.token_RT[valid]), np.broadcast_to(self.probability_R[:, None], self.state_RT.shape)[valid])
        return found / self.learned

    def rows(self, index: Any) -> Law:
        """The same for some of the rows, in the given order."""
        picked = {name: value[index] for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return replace(self, **picked)


NextToken = Callable[[Ints, int], tuple[Array, Array, tuple[int, ...]]]  # states (R,), position -> joint (R, A, V), log law (R, V), authors


def unrolled(world: World, horizon: int, next_token: NextToken, start: tuple[int, int] = (0, 0)) -> Law:
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
        padded["token"], padded["state"], padded["author"], padded["behaviour"], np.concatenate([f for _, _, f in done]), probability, np.arange(rows),
    )  # fmt: skip


def from_texts(world: World, texts: list[tuple[tuple[int, ...], tuple[int, ...], tuple[float, ...], float]]) -> Law:
    """The law of listed texts: tokens, authors, behaviour log-probabilities, probability; equal rows become one."""
    rows = len(texts)
    token, state, author = (np.full((rows, world.horizon), fill, dtype=np.int64) for fill in (0, -1, 0))
    behaviour, index = np.zeros((rows, world.horizon)), {prefix: i for i, prefix in enumerate(world.states)}
    for r, (tokens, authors, logp, _) in enumerate(texts):
        size = len(tokens)
        token[r, :size], author[r, :size], behaviour[r, :size] = tokens, authors, logp
        state[r, :size] = [index[tokens[:t]] for t in range(size)]
    finished = np.array([tokens[-1:] == (world.stop,) for tokens, _, _, _ in texts])
    key = np.concatenate([token, state, author, finished[:, None]], 1)
    _, first, inverse = np.unique(key, axis=0, return_index=True, return_inverse=True)
    mass = np.bincount(inverse.reshape(-1), [m for _, _, _, m in texts], minlength=len(first)).astype(np.float64)
    numbers = np.arange(len(first))
    return Law(token[first], state[first], author[first], behaviour[first], finished[first], mass, numbers)


def mixed(parts: list[tuple[float, Law]]) -> Law:
    """One of several laws, drawn for each sequence."""
    kept = [(share, law) for share, law in parts if share > 0]
    if any(law.label_RT is not None for _, law in kept):
        raise Exempt("teacher.labels: one of several authors drawn for each text")
    names = ("token_RT", "state_RT", "author_RT", "behaviour_RT", "finished_R")
    joined: dict[str, Any] = {name: np.concatenate([getattr(law, name) for _, law in kept]) for name in names}
    probability = np.concatenate([share * law.probability_R for share, law in kept])
    return Law(**joined, probability_R=probability, outcome_R=np.arange(len(probability)), error=max(law.error for _, law in kept))


def grouped(law: Law, size: int) -> Law:
    """Groups of so many independent sequences; members are exchangeable, so each multiset of them stands once with all its orders. Too many
    of them are drawn."""
    if comb(len(law) + size - 1, size) > MOST:
        members, error = _drawn([law.probability_R] * size)
        found = law.rows(np.stack(members, 1).reshape(-1))
        return replace(found, probability_R=np.full(len(found), 1 / DRAWS), outcome_R=np.repeat(np.arange(DRAWS), size), error=max(law.error, error))
    sets = np.array(list(combinations_with_replacement(range(len(law)), size)))
    orders = np.array([factorial(size) / np.prod([factorial(int(n)) for n in np.unique(row, return_counts=True)[1]]) for row in sets])
    probability = orders * np.prod(law.probability_R[sets], 1)
    found = law.rows(sets.reshape(-1))
    return replace(found, probability_R=np.repeat(probability, size), outcome_R=np.repeat(np.arange(len(sets)), size))


def together(*laws: Law) -> tuple[Law, ...]:
    """Independent laws as one: each combination of their outcomes, in the same order on all sides. Too many combinations are drawn."""
    sizes = [law.outcomes for law in laws]
    error = max(law.error for law in laws)
    if prod(sizes) <= MOST:
        chosen = [np.asarray(pick) for pick in np.unravel_index(np.arange(prod(sizes)), sizes)]
        joint = np.prod([law.per_outcome[pick] for law, pick in zip(laws, chosen, strict=True)], 0)
    else:
        chosen, off = _drawn([law.per_outcome for law in laws])
        joint, error = np.full(DRAWS, 1 / DRAWS), max(error, off)
    sides = []
    for law, pick in zip(laws, chosen, strict=True):
        rows = np.stack(_by_outcome(law))[pick]
        numbers = np.repeat(np.arange(len(joint)), rows.shape[1])
        sides.append(replace(law.rows(rows.reshape(-1)), probability_R=joint[numbers], outcome_R=numbers, error=error))
    return tuple(sides)


def _drawn(weights: list[Array]) -> tuple[list[Ints], float]:
    """Independent draws from each of these laws, from a named seed, and the largest error of a share."""
    random = np.random.Generator(np.random.Philox(key=np.array([seed_for("lab", "draws", *map(len, weights)), 0], dtype=np.uint64)))
    found, error = list[Ints](), 0.0
    for weight in weights:
        pick = np.minimum(np.searchsorted(np.cumsum(weight) / weight.sum(), random.random(DRAWS), side="right"), len(weight) - 1)
        found.append(pick)
        error = max(error, float(np.abs(np.bincount(pick, minlength=len(weight)) / DRAWS - weight / weight.sum()).max()))
    return found, error


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
        names = ("token_RT", "state_RT", "author_RT", "behaviour_RT", "finished_R", "probability_R", "outcome_R")
        joined: dict[str, Any] = {name: np.concatenate([getattr(left, name), getattr(right, name)]) for name in names}
        found = Law(**joined, error=max(left.error, right.error)).rows(order.astype(np.int64))
    return found
