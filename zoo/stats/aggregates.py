"""One number for many runs: middle, gap, share of wins."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats as distributions

from zoo.stats.estimates import Array, Estimate, aligned_arrays, comparable, mean_stderr
from zoo.stats.intervals import crossed_interval


def iqm(values: ArrayLike) -> float:
    """Interquartile mean: the mean of the middle half. Source: Agarwal et al., arXiv 2108.13264, section 4.3."""
    return float(distributions.trim_mean(np.asarray(values, dtype=np.float64).ravel(), 0.25))


def probability_of_improvement(left: ArrayLike, right: ArrayLike) -> float:
    """P(left > right) for one run of each, ties counted half: Mann-Whitney's U over the number of pairs. Source: arXiv 2108.13264, 4.3."""
    left_S, right_S = comparable(left), comparable(right)
    return float(np.mean(np.sign(left_S[:, None] - right_S) / 2 + 0.5))


def optimality_gap(values: ArrayLike, target: float = 1.0) -> float:
    """mean(max(target - value, 0)): how far runs stay below the target, without credit for passing it. Source: arXiv 2108.13264, 4.3."""
    return float(np.maximum(target - np.asarray(values, dtype=np.float64), 0.0).mean())


def gap_closed(method_SI: ArrayLike, student_SI: ArrayLike, teacher_I: ArrayLike, *, level: float = 0.95) -> Estimate:
    """(method - student) / (teacher - student) over the same items, with the interval of `crossed_interval` from four seeds on.

    A ratio of means, not a mean of ratios. The student is fixed (items) or has one evaluation per seed; the teacher's gain is over the mean
    student. Raises ValueError where teacher - student isn't above two standard errors: the share of nothing is no number.
    """
    method, student = aligned_arrays(method_SI, student_SI)
    whole_I = np.asarray(teacher_I, dtype=np.float64) - student.mean(axis=0)
    whole, error = float(whole_I.mean()), mean_stderr(whole_I)
    if not whole > 2 * error:
        raise ValueError(f"teacher - student is {whole:.3f} ± {error:.3f}, not above 2 standard errors")
    return crossed_interval(method - student, whole_I, level=level)


def win_rate(score_MT: ArrayLike) -> Array:
    """For each of M methods the share of its comparisons with another method on a task that it wins, ties counted half; larger is better.

    The mean over the M - 1 others and the T tasks. Raises ValueError for fewer than two methods or a missing score.
    """
    score = _complete(score_MT)
    wins_MT = (np.sign(score[:, None] - score[None]) / 2 + 0.5).sum(axis=1) - 0.5  # each beats itself by half
    return np.asarray(wins_MT.mean(axis=1) / (len(score) - 1))


def average_rank(score_MT: ArrayLike) -> Array:
    """For each of M methods its rank on a task, 1 for the largest score, ties sharing the mean of their ranks; the mean over T tasks.

    (average rank - 1) / (M - 1) = 1 - `win_rate`. Raises ValueError for fewer than two methods or a missing score.
    """
    return np.asarray(distributions.rankdata(-_complete(score_MT), axis=0).mean(axis=1))


def _complete(score_MT: ArrayLike) -> Array:
    score = comparable(score_MT)
    score = score[:, None] if score.ndim == 1 else score
    if len(score) < 2:
        raise ValueError(f"{len(score)} methods; wins and ranks need two")
    if np.isnan(score).any():
        raise ValueError("a score is missing (NaN); compare on the tasks that every method has, or leave the method out")
    return score
