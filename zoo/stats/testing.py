"""Tests of no difference, of one and of many, and what a test can find."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy import stats as distributions

from zoo.stats.estimates import Estimate


def p_value(estimate: Estimate, seeds: int) -> float:
    """Two-sided p of `value = 0` by Student's t with seeds - 1 degrees of freedom: cautious where item noise dominates."""
    if estimate.stderr == 0:
        return 1.0 if estimate.value == 0 else 0.0
    return float(2 * distributions.t.sf(abs(estimate.value) / estimate.stderr, seeds - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment, in the given order: the k-th smallest of m times (m - k + 1), made monotone, at most 1.

    NaN, a comparison that was not tested, stays NaN and is not among the m. Source: Holm, Scandinavian Journal of Statistics 6 (1979), 65-70.
    """
    tested = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    adjusted = [math.nan] * len(p_values)
    running = 0.0
    for rank, (p, index) in enumerate(tested):
        running = max(running, min(1.0, (len(tested) - rank) * p))
        adjusted[index] = running
    return adjusted


def minimum_detectable_effect(stderr: float, seeds: int = 1, level: float = 0.05, power: float = 0.8) -> float:
    """The true difference that a two-sided test at `level` finds with probability `power`: (quantile + quantile) * stderr.

    Normal quantiles for one seed, where `stderr` is item noise alone; Student's t with seeds - 1 degrees of freedom else.
    Source: arXiv 2411.00640, section 5.
    """
    law = distributions.norm if seeds == 1 else distributions.t(seeds - 1)
    return float((law.ppf(1 - level / 2) + law.ppf(power)) * stderr)
