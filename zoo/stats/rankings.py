"""Whether two orderings agree: Kendall's tau-b and Spearman's rho with ties, and a published ordering beside a measured one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats as distributions

from zoo.stats.estimates import Array, comparable

EXACT = 7  # so many methods have 5,040 orders, all of which are looked at
DRAWS = 9_999


@dataclass(frozen=True)
class Agreement:
    """How well two orderings of the same methods agree; coefficients are NaN below two methods, or where one ordering is all ties."""

    methods: tuple[str, ...]
    kendall: float
    spearman: float
    p_value: float


def kendall_tau_b(left: ArrayLike, right: ArrayLike) -> float:
    """(concordant - discordant) / sqrt((pairs - ties left) (pairs - ties right)). Source: Kendall, Biometrika 33 (1945), 239-251."""
    one, other = (_signs(comparable(values)) for values in (left, right))
    return _ratio(float((one * other).sum()), float((one**2).sum()), float((other**2).sum()))


def spearman_rho(left: ArrayLike, right: ArrayLike) -> float:
    """Pearson's correlation of the ranks, ties sharing the mean of theirs."""
    one, other = (_centred_ranks(comparable(values)) for values in (left, right))
    return _ratio(float((one * other).sum()), float((one**2).sum()), float((other**2).sum()))


def order_scores(groups: Sequence[str | Iterable[str]]) -> dict[str, float]:
    """Scores that stand for an ordering given best first, methods that tie in one group: [["a"], ["b", "c"]] is a above b and c.

    Raises ValueError where a method is named twice.
    """
    found: dict[str, float] = {}
    for place, group in enumerate(groups):
        for name in [group] if isinstance(group, str) else group:
            if name in found:
                raise ValueError(f"'{name}' is named twice in the ordering; name each method once")
            found[name] = -float(place)
    return found


def rank_agreement(published: Mapping[str, float], measured: Mapping[str, float], *, seed: int = 0) -> Agreement:
    """Tau-b and rho between two sets of scores, larger is better in both, over the methods that both have.

    `p_value` is that of |tau-b| under random order, two-sided: over all orders up to 7 methods, else over 9,999 random ones and the
    found one. With three methods it cannot be below 1/3.
    """
    methods = tuple(sorted(name for name in published.keys() & measured.keys() if not math.isnan(published[name]) and not math.isnan(measured[name])))
    left, right = (comparable([scores[name] for name in methods]) for scores in (published, measured))
    tau = kendall_tau_b(left, right)
    return Agreement(methods, tau, spearman_rho(left, right), math.nan if math.isnan(tau) else _permutation_p(left, right, seed))


def tau_interval(tau: float, methods: int, level: float = 0.95) -> tuple[float, float] | None:
    """An interval for Kendall's tau over methods: tanh(atanh tau ± z sqrt(0.437 / (n - 4))); None below five methods and at ±1.

    The methods are taken for a sample of others like them. Source: Fieller, Hartley & Pearson, Biometrika 44 (1957), 470-481; meant for ten
    methods and more and |tau| below 0.8, rough elsewhere.
    """
    if methods < 5 or math.isnan(tau) or abs(tau) >= 1:
        return None
    half = float(distributions.norm.isf((1 - level) / 2)) * math.sqrt(0.437 / (methods - 4))
    return math.tanh(math.atanh(tau) - half), math.tanh(math.atanh(tau) + half)


def _permutation_p(left: Array, right: Array, seed: int) -> float:
    one, other = _signs(left), _signs(right)
    found, random = abs((one * other).sum()), np.random.default_rng(seed)
    exact = len(left) <= EXACT
    orders = permutations(range(len(left))) if exact else (random.permutation(len(left)) for _ in range(DRAWS))
    as_far = [bool(abs((one * other[np.ix_(order, order)]).sum()) >= found) for order in map(list, orders)]
    return sum(as_far) / len(as_far) if exact else (sum(as_far) + 1) / (len(as_far) + 1)


def _signs(values: Array) -> Array:
    return np.asarray(np.sign(values[:, None] - values[None]))


def _centred_ranks(values: Array) -> Array:
    ranks = np.asarray(distributions.rankdata(values), dtype=np.float64)
    return ranks - ranks.mean() if ranks.size else ranks


def _ratio(product: float, one: float, other: float) -> float:
    return product / math.sqrt(one * other) if one > 0 and other > 0 else math.nan
