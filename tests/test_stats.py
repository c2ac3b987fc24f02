"""Statistics against values worked out by hand, and against properties they must have."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from zoo import stats

finite = st.floats(-10, 10, allow_nan=False)


def test_stderr_of_zero_one_items() -> None:
    items = [1, 1, 1, 0]  # p = 3/4: sqrt(3/4 * 1/4 / 3) = 1/4
    assert stats.mean_stderr(items) == pytest.approx(0.25)
    assert stats.binomial_stderr(0.75, 4) == pytest.approx(0.25)
    assert math.isnan(stats.mean_stderr([1])) and math.isnan(stats.binomial_stderr(55.0, 4))


@given(st.lists(st.integers(0, 1), min_size=2, max_size=50))
def test_binomial_is_the_sample_formula_for_zero_one_items(items: list[int]) -> None:
    assert_allclose(stats.binomial_stderr(float(np.mean(items)), len(items)), stats.mean_stderr(items), atol=1e-12)


def test_paired_difference_uses_the_differences() -> None:
    left = {"a": 1.0, "b": 1.0, "c": 1.0, "d": 0.0}
    right = {"d": 0.0, "c": 1.0, "b": 0.0, "a": 0.0}  # another order; differences by item 1, 1, 0, 0
    found = stats.paired_difference(left, right)
    assert found.value == pytest.approx(0.5)
    assert found.stderr == pytest.approx(math.sqrt(4 * 0.25 / 3) / 2)
    assert stats.paired_difference(left, left).stderr == 0  # unpaired, it would be 0.35


def test_paired_difference_refuses_other_items() -> None:
    with pytest.raises(ValueError, match="not the same items: 1 only here, 1 only there"):
        stats.paired_difference({"a": 1.0, "b": 0.0}, {"a": 1.0, "c": 0.0})


def test_iqm_is_the_mean_of_the_middle_half() -> None:
    assert stats.iqm([100, 1, 2, 3, 4, 5, 6, -100]) == pytest.approx((2 + 3 + 4 + 5) / 4)
    assert stats.iqm([[1.0, 2.0], [3.0, 400.0]]) == pytest.approx(2.5)


@given(st.lists(finite, min_size=1, max_size=30), finite)
def test_iqm_moves_with_its_values_and_stays_among_them(values: list[float], shift: float) -> None:
    assert min(values) - 1e-9 <= stats.iqm(values) <= max(values) + 1e-9
    assert_allclose(stats.iqm([value + shift for value in values]), stats.iqm(values) + shift, atol=1e-9)


def test_probability_of_improvement() -> None:
    assert stats.probability_of_improvement([3, 1], [2, 1]) == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    assert stats.probability_of_improvement([2, 3], [0, 1]) == 1


@given(st.lists(finite, min_size=1, max_size=8), st.lists(finite, min_size=1, max_size=8))
def test_probability_of_improvement_is_complementary(left: list[float], right: list[float]) -> None:
    assert_allclose(stats.probability_of_improvement(left, right) + stats.probability_of_improvement(right, left), 1)


def test_holm_by_hand() -> None:
    # sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1 = 0.04, 0.06, 0.06, 0.04, made monotone
    assert_allclose(stats.holm([0.04, 0.01, 0.03, 0.02]), [0.06, 0.04, 0.06, 0.06])
    assert stats.holm([0.6, 0.7]) == [1.0, 1.0]
    assert stats.holm([]) == []


def test_holm_leaves_out_what_was_not_tested() -> None:
    """Two tests and two without a p: 0.01 * 2, 0.04 * 1; NaN is neither counted nor turned into a p."""
    assert_allclose(stats.holm([math.nan, 0.04, math.nan, 0.01]), [math.nan, 0.04, math.nan, 0.02])
    assert all(math.isnan(p) for p in stats.holm([math.nan, math.nan]))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_order_and_lies_between_raw_and_bonferroni(raw: list[float]) -> None:
    adjusted = stats.holm(raw)
    for p, q in zip(raw, adjusted, strict=True):
        assert p <= q <= min(1.0, 1.0) and q <= max(min(1.0, len(raw) * other) for other in raw)
    order = sorted(range(len(raw)), key=raw.__getitem__)
    assert [adjusted[i] for i in order] == sorted(adjusted)


def test_minimum_detectable_effect() -> None:
    assert stats.minimum_detectable_effect(0.1) == pytest.approx(0.1 * (1.959964 + 0.841621), rel=1e-5)
    assert stats.minimum_detectable_effect(0.1, seeds=5) == pytest.approx(0.1 * (2.776445 + 0.940965), rel=1e-5)


def test_p_value_is_students_t() -> None:
    assert stats.p_value(stats.Estimate(2.776445, 1.0), seeds=5) == pytest.approx(0.05, rel=1e-5)
    assert stats.p_value(stats.Estimate(0.0, 0.0), seeds=5) == 1.0


def test_crossed_mean_by_hand() -> None:
    # seed means 1/2 and 1: variance 1/8, over 2 seeds 1/16; item means 1 and 1/2: the same over 2 items;
    # residuals +-1/4: sum of squares 1/4, over (1)(1), over 4 cells: 1/16. Together 1/16.
    found = stats.crossed_mean([[1, 0], [1, 1]])
    assert found.value == pytest.approx(0.75) and found.stderr == pytest.approx(0.25) and found.interval is None


def test_crossed_mean_of_one_seed_has_only_item_noise() -> None:
    assert stats.crossed_mean([1, 1, 1, 0]).stderr == pytest.approx(0.25)


def test_ratio_of_a_method_to_itself_is_certain() -> None:
    gap = np.array([1.0, 0, 1, 1, 0])
    found = stats.crossed_mean(gap, gap)
    assert found.value == pytest.approx(1) and found.stderr == pytest.approx(0)


def test_ratio_stderr_agrees_with_resampling() -> None:
    random = np.random.default_rng(0)
    part, whole = random.integers(0, 2, 300).astype(float), random.integers(0, 2, 300) * 0.5 + 0.5
    draws = random.integers(0, 300, (4000, 300))
    resampled = part[draws].mean(1) / whole[draws].mean(1)
    assert stats.crossed_mean(part, whole).stderr == pytest.approx(resampled.std(), rel=0.05)


def test_items_shared_by_seeds_do_not_average_out() -> None:
    item = np.array([0.0, 1, 0, 1, 1, 0, 1, 0])
    assert stats.crossed_mean(np.tile(item, (6, 1))).stderr == pytest.approx(stats.mean_stderr(item))


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_no_interval_below_four_seeds(seeds: int) -> None:
    assert stats.bootstrap_t(np.eye(seeds, 9)).interval is None


def test_interval_needs_no_bootstrap_where_nothing_varies() -> None:
    assert stats.bootstrap_t(np.ones((5, 10))).interval is None


@settings(max_examples=10, deadline=None)
@given(st.floats(-3, 3), st.floats(0.1, 5))
def test_interval_moves_and_scales_with_the_scores(shift: float, scale: float) -> None:
    score = np.random.default_rng(1).normal(size=(4, 12))
    base = stats.bootstrap_t(score, replicates=99).interval
    moved = stats.bootstrap_t(score * scale + shift, replicates=99).interval
    assert base is not None and moved is not None and base[0] < score.mean() < base[1]
    assert_allclose(moved, np.array(base) * scale + shift, atol=1e-9)


def test_interval_is_reproducible_and_wider_than_twice_the_stderr_when_seeds_differ() -> None:
    score = np.random.default_rng(2).normal(size=(5, 1)) + np.random.default_rng(3).normal(size=(5, 40)) * 0.1
    first, second = stats.bootstrap_t(score, seed=7), stats.bootstrap_t(score, seed=7)
    assert first == second and first.interval is not None
    assert first.interval[1] - first.interval[0] > 4 * first.stderr


def test_interval_covers_more_than_a_percentile_bootstrap_where_seeds_vary_much() -> None:
    """Over 400 trials with 5 seeds the studentised interval covered 93 %, a percentile bootstrap 84 %."""
    studentised = percentile = 0
    for trial in range(100):
        random = np.random.default_rng(trial)
        score = random.normal(size=(5, 1)) + random.normal(size=60) * 0.5 + random.normal(size=(5, 60))
        low, high = stats.bootstrap_t(score, seed=trial, replicates=199).interval or (np.inf, -np.inf)
        studentised += low <= 0 <= high
        seeds, items = random.integers(0, 5, (199, 5, 1)), random.integers(0, 60, (199, 1, 60))
        low, high = np.quantile(score[seeds, items].mean(axis=(1, 2)), [0.025, 0.975])
        percentile += low <= 0 <= high
    assert studentised >= 86 and studentised >= percentile + 4
