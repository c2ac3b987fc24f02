"""How often an interval of 95 % holds the truth, by simulation: runs that vary with their seed, on items that differ in difficulty.

A run of seed s answers item i with probability sigmoid(level + u_s + b_i + v_i): u_s the seed's own shift, normal with the spread that the
grid runs over; b_i the item's difficulty, shared by all models, normal with 1.5; v_i what the item means to this model in particular,
normal. Answers are 0 or 1. The truth, a mean over seeds and items that were never drawn, is an integral over one normal variable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.stats.bootstrap import REPLICATES, resample_counts
from zoo.stats.estimates import Array
from zoo.stats.intervals import half_width, variance_parts

SPREADS = (0.0, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0)
DIFFICULTY = 1.5
OWN = 0.5  # the items' standard deviation that is a model's own
AT_ONCE = 250
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(61)


@dataclass(frozen=True)
class Trials:
    """Many simulated comparisons of one kind: scores and what a ratio is of, trial by trial, and the true value."""

    score_NSI: NDArray[np.float32]
    truth: float
    per_NI: Array | None = None


@dataclass(frozen=True)
class Draws:
    """The size of a simulated comparison, its random numbers and its spread of the seeds."""

    trials: int
    seeds: int
    items: int
    seed_spread: float
    random: np.random.Generator

    def difficulty(self) -> Array:
        """b (trials, items)."""
        return self.random.normal(size=(self.trials, self.items)) * DIFFICULTY

    def answers(self, level: float, difficulty_NI: Array, *, own: float = OWN, fixed: bool = False) -> NDArray[np.float32]:
        """0/1 scores (trials, seeds, items) of a model; of one that is fixed there is one run, without a shift."""
        seeds, spread = (1, 0.0) if fixed else (self.seeds, self.seed_spread)
        shift = self.random.normal(size=(self.trials, seeds, 1)) * spread
        logit = level + shift + (difficulty_NI + self.random.normal(size=difficulty_NI.shape) * own)[:, None]
        return (self.random.random(logit.shape) < _sigmoid(logit)).astype(np.float32)

    def expected(self, level: float, *, own: float = OWN, fixed: bool = False) -> float:
        """The mean score of such a model."""
        spread = 0.0 if fixed else self.seed_spread
        return mean_score(level, spread**2 + DIFFICULTY**2 + own**2)


def mean_score(level: float, variance: float) -> float:
    """E sigmoid(level + sqrt(variance) z) for a standard normal z, by Gauss and Hermite's rule."""
    return float(_sigmoid(level + np.sqrt(variance) * NODES) @ WEIGHTS / WEIGHTS.sum())


def _sigmoid(logit: Any) -> Any:
    return 1 / (1 + np.exp(-logit))


# --- what is compared


def two_methods(draws: Draws, left: float = 0.0, right: float = 0.0, own: float = OWN) -> Trials:
    """Two trained methods, paired by item, whose seeds vary alike and independently."""
    items = draws.difficulty()
    score = draws.answers(left, items, own=own) - draws.answers(right, items, own=own)
    return Trials(score, draws.expected(left, own=own) - draws.expected(right, own=own))


def against_student(draws: Draws, level: float, student: float = -1.0) -> Trials:
    """A trained method less the fixed student on the same items; a high level meets the end of the scale, which skews its seeds."""
    items = draws.difficulty()
    score = draws.answers(level, items) - draws.answers(student, items, fixed=True)
    return Trials(score, draws.expected(level) - draws.expected(student, fixed=True))


def alone(draws: Draws, level: float = 2.0) -> Trials:
    """A trained method's own score, near the end of the scale."""
    return Trials(draws.answers(level, draws.difficulty()), draws.expected(level))


def share_of_gap(draws: Draws, level: float = 1.0, student: float = -1.0, teacher: float = 2.0) -> Trials:
    """The teacher-gap closed: a ratio with the items of all three models in it."""
    items = draws.difficulty()
    below, above = draws.answers(student, items, fixed=True), draws.answers(teacher, items, fixed=True)
    least, most = draws.expected(student, fixed=True), draws.expected(teacher, fixed=True)
    score = draws.answers(level, items) - below
    return Trials(score, (draws.expected(level) - least) / (most - least), np.asarray((above - below)[:, 0], dtype=np.float64))


SETTINGS: dict[str, Callable[[Draws], Trials]] = {
    "equal": two_methods,
    "equal, no item of its own": lambda draws: two_methods(draws, own=0.0),
    "far apart": lambda draws: two_methods(draws, 2.0, -1.0),
    "over student": lambda draws: against_student(draws, 1.0),
    "near the top": lambda draws: against_student(draws, 2.5),
    "gap closed": share_of_gap,
    "one score": alone,
}
RATIOS = ("gap closed",)
UNPAIRED = ("one score",)  # no table gives its interval; here to show what the end of the scale does to one that is not paired
GOAL = (0.92, 0.98)  # for the paired ones


# --- how often


def covered(trials: Trials) -> Array:
    """For each trial whether `crossed_interval` holds the truth: its arithmetic, for all trials at once."""
    score = np.asarray(trials.score_NSI, dtype=np.float64)
    per = np.ones((len(score), score.shape[2])) if trials.per_NI is None else trials.per_NI
    mean_N = per.mean(axis=1)
    value_N = score.mean(axis=(1, 2)) / mean_N
    seeds, items = variance_parts((score - (value_N[:, None] * per)[:, None]) / mean_N[:, None, None])
    return np.asarray(np.abs(value_N - trials.truth) <= half_width(seeds, items, *score.shape[1:]), dtype=np.float64)


def covered_by_percentiles(trials: Trials, random: np.random.Generator, replicates: int = REPLICATES) -> Array:
    """The same for the plain percentile bootstrap over seeds and items, of a difference; all trials share the draws."""
    seed_BS, item_BI = (resample_counts(count, replicates, random).astype(np.float32) for count in trials.score_NSI.shape[1:])
    held = []
    for score_SI in trials.score_NSI:
        mean_B = np.einsum("bi,bi->b", seed_BS @ score_SI, item_BI) / score_SI.size
        low, high = np.quantile(mean_B, [0.025, 0.975])
        held.append(low <= trials.truth <= high)
    return np.array(held, dtype=np.float64)


def coverage(setting: str, seed_spread: float, *, trials: int = 2000, seeds: int = 5, items: int = 200, percentile: bool = False, seed: int = 0) -> float:
    """The share of simulated comparisons whose interval holds the truth; with `percentile`, that of the plain bootstrap (of no ratio)."""
    random = np.random.default_rng([seed, list(SETTINGS).index(setting), round(1000 * seed_spread)])
    held = []
    for start in range(0, trials, AT_ONCE):
        drawn = SETTINGS[setting](Draws(min(AT_ONCE, trials - start), seeds, items, seed_spread, random))
        held.append(covered_by_percentiles(drawn, random) if percentile else covered(drawn))
    return float(np.concatenate(held).mean())


def noise(trials: int) -> float:
    """The standard error of a coverage of 95 % from so many trials."""
    return float(np.sqrt(0.95 * 0.05 / trials))


def coverage_grid(settings: Sequence[str] = tuple(SETTINGS), spreads: Sequence[float] = SPREADS, **size: Any) -> dict[float, dict[str, float]]:
    """spread of the seeds → setting → `coverage`."""
    return {spread: {setting: coverage(setting, spread, **size) for setting in settings} for spread in spreads}
