"""Means and differences with their standard errors over items, and over seeds and items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Items = Mapping[Any, float]
MIN_SEEDS = 4
ROUNDING = 1e-12  # of sums of scores of order one; what is smaller is no difference and no noise


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error and, with at least four seeds, a 95 % interval."""

    value: float
    stderr: float
    interval: tuple[float, float] | None = None


def mean_stderr(item_I: ArrayLike) -> float:
    """Standard error of the mean of item scores, sample standard deviation / sqrt(I): lm-eval's own; NaN for one item.

    For 0/1 scores of mean p it is sqrt(p (1 - p) / (I - 1)). Source: Miller, arXiv 2411.00640, section 2.1.
    """
    item = np.asarray(item_I, dtype=np.float64)
    return float(item.std(ddof=1) / np.sqrt(item.size)) if item.size > 1 else float("nan")


def binomial_stderr(mean: float, items: int) -> float:
    """`mean_stderr` of 0/1 items from their mean alone; an upper bound for scores in between; NaN outside [0, 1]."""
    return float(np.sqrt(mean * (1 - mean) / (items - 1))) if 0 <= mean <= 1 and items > 1 else float("nan")


def aligned(left: Items, right: Items) -> tuple[Array, Array]:
    """The scores of two evaluations in the same item order. Raises ValueError where their items are not the same."""
    if left.keys() != right.keys():
        raise ValueError(f"not the same items: {len(left.keys() - right.keys())} only here, {len(right.keys() - left.keys())} only there")
    return np.array([left[key] for key in left], dtype=np.float64), np.array([right[key] for key in left], dtype=np.float64)


def aligned_arrays(left_SI: ArrayLike, right_SI: ArrayLike) -> tuple[Array, Array]:
    """Two methods' scores as arrays of one shape (seeds, items); a side of one seed or none stands for a fixed model and is repeated.

    Raises ValueError where the seeds or items are not as many, or a score is missing: nothing is filled in.
    """
    left, right = (np.atleast_2d(np.asarray(side, dtype=np.float64)) for side in (left_SI, right_SI))
    if left.shape[1] != right.shape[1] or (left.shape[0] != right.shape[0] and 1 not in (left.shape[0], right.shape[0])):
        raise ValueError(f"not the same seeds and items: {left.shape} and {right.shape}; give both sides over the same ones")
    if np.isnan(left).any() or np.isnan(right).any():
        raise ValueError("a score is missing (NaN); leave the seed or the item out on both sides")
    both = np.broadcast_arrays(left, right)
    return both[0], both[1]


def paired_difference(left: Items, right: Items) -> Estimate:
    """Mean of `left - right` over the same items and its standard error, from the differences. Source: arXiv 2411.00640, 4.2."""
    left_I, right_I = aligned(left, right)
    return Estimate(float((left_I - right_I).mean()), mean_stderr(left_I - right_I))


def crossed_mean(score_SI: ArrayLike, per_I: ArrayLike | None = None) -> Estimate:
    """mean(score) / mean(per), with the standard error over seeds *and* items; `per` is 1 unless given. No interval.

    Seeds and items are crossed, so var = var(seed means)/S + var(item means)/I - residual/(S I), the usual estimate for two
    crossed random factors (Owen, arXiv 0712.1111), never below either of the first two parts; with one seed only item
    noise is left. A ratio is linearised (delta method): score - ratio * per, over mean(per).
    """
    score = np.atleast_2d(np.asarray(score_SI, dtype=np.float64))
    per = np.ones(score.shape[1]) if per_I is None else np.asarray(per_I, dtype=np.float64)
    seeds, items = score.shape
    value = score.mean() / per.mean()
    deviation = (score - value * per) / per.mean()
    if seeds == 1:
        return Estimate(above_rounding(value), above_rounding(mean_stderr(deviation[0])))
    seed_S, item_I = deviation.mean(axis=1), deviation.mean(axis=0)
    residual = ((deviation - seed_S[:, None] - item_I) ** 2).sum() / ((seeds - 1) * max(items - 1, 1))
    over_seeds = seed_S.var(ddof=1) / seeds
    over_items = item_I.var(ddof=1) / items if items > 1 else 0.0
    error = np.sqrt(max(over_seeds + over_items - residual / (seeds * items), over_seeds, over_items))
    return Estimate(above_rounding(value), above_rounding(error))


def comparable(values: ArrayLike) -> Array:
    """Values to be compared or ranked, to twelve decimals: means of the same scores in another order are a tie, not a win."""
    return np.asarray(np.round(np.asarray(values, dtype=np.float64), 12), dtype=np.float64)


def above_rounding(value: float) -> float:
    """The value, or 0 where it is only what rounding leaves: equal scores that are no binary fractions differ by some 1e-17."""
    return 0.0 if abs(value) < ROUNDING else float(value)
