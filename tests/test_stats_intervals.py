"""Intervals over seeds and items: by hand, against scipy, against their own test and power, and how often they hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import stats as scipy_stats

from zoo import stats
from zoo.stats import coverage as simulated
from zoo.stats.intervals import half_width, variance_parts


def random_scores(seed: int, seeds: int = 5, items: int = 40, spread: float = 1.0) -> stats.Array:
    random = np.random.default_rng(seed)
    return random.normal(size=(seeds, 1)) * spread + random.normal(size=items) * 0.5 + random.normal(size=(seeds, items))


# --- the parts


def test_parts_by_hand() -> None:
    # seed means 1/2 and 1, item means 1 and 1/2: 1/16 over seeds and over items; residuals ±1/4: 1/4 / (1)(1) / 4 cells = 1/16
    seeds, items = variance_parts(np.array([[1.0, 0], [1, 1]]))
    assert float(seeds) == pytest.approx(0) and float(items) == pytest.approx(1 / 16)
    # seed means 0 and 4, item means 1 and 3, nothing beside: 8 / 2 seeds, 2 / 2 items
    seeds, items = variance_parts(np.array([[-1.0, 1], [3, 5]]))
    assert float(seeds) == pytest.approx(4) and float(items) == pytest.approx(1)


def test_parts_are_those_of_an_analysis_of_variance() -> None:
    """Mean squares written out cell by cell; together, where none is floored, they are the square of `crossed_mean`'s standard error."""
    score = random_scores(0)
    count_S, count_I = score.shape
    of_seed = count_I * sum((row.mean() - score.mean()) ** 2 for row in score) / (count_S - 1)
    of_item = count_S * sum((column.mean() - score.mean()) ** 2 for column in score.T) / (count_I - 1)
    rest = sum((score[s, i] - score[s].mean() - score[:, i].mean() + score.mean()) ** 2 for s in range(count_S) for i in range(count_I))
    rest /= (count_S - 1) * (count_I - 1)
    found = stats.spread(score)
    assert found.seeds == pytest.approx((of_seed - rest) / score.size) and found.items == pytest.approx(of_item / score.size)
    assert found.stderr == pytest.approx(stats.crossed_mean(score).stderr)


def test_parts_of_many_trials_at_once_are_those_of_each() -> None:
    many = np.stack([random_scores(seed) for seed in range(4)])
    seeds, items = variance_parts(many)
    assert_allclose(np.stack([seeds, items]).T, [[stats.spread(score).seeds, stats.spread(score).items] for score in many])


def test_parts_of_one_seed_or_one_item() -> None:
    one = stats.spread([1, 1, 1, 0])
    assert one.seeds == 0 and one.stderr == pytest.approx(0.25)
    item = stats.spread([[1.0], [2], [3], [4], [5]])
    assert item.items == 0 and item.stderr == pytest.approx(math.sqrt(2.5 / 5))


# --- the interval


def test_only_seeds_vary() -> None:
    """Then it is Student's interval of the seed means, with one degree of freedom less than scipy's."""
    seed_S = np.array([0.1, 0.4, 0.2, 0.9, 0.4])
    found = stats.crossed_interval(np.repeat(seed_S[:, None], 30, axis=1))
    expected = scipy_stats.t.interval(0.95, 3, loc=seed_S.mean(), scale=scipy_stats.sem(seed_S))
    assert found.value == pytest.approx(0.4) and found.interval == pytest.approx(expected)


def test_only_items_vary() -> None:
    """Then it is Student's interval of the item scores, however many seeds repeat them."""
    item_I = np.array([0.0, 1, 0, 1, 1, 0, 1, 0, 0.5])
    found = stats.crossed_interval(np.tile(item_I, (5, 1)))
    expected = scipy_stats.ttest_1samp(item_I, 0).confidence_interval(0.95)
    assert found.interval == pytest.approx((expected.low, expected.high))


def test_both_vary_by_hand() -> None:
    # t(3) = 3.182446, t(199) = 1.971957
    assert float(half_width(0.04, 0.01, 5, 200)) == pytest.approx(math.sqrt(3.182446**2 * 0.04 + 1.971957**2 * 0.01), rel=1e-6)


def test_pairing() -> None:
    """Items that both methods find hard cancel; a side without seeds is a fixed model."""
    hard = np.random.default_rng(0).normal(size=50) * 10
    left, right = random_scores(1, items=50) + hard, random_scores(2, items=50) + hard
    paired, alone = stats.paired_interval(left, right), stats.crossed_interval(left)
    assert paired == stats.crossed_interval(left - right) and paired.stderr < alone.stderr / 2
    assert stats.paired_interval(left, hard) == stats.crossed_interval(left - hard)


@pytest.mark.parametrize(("left", "right"), [((5, 9), (4, 9)), ((5, 9), (5, 8)), ((5, 9), (2, 9))])
def test_pairing_refuses_other_seeds_or_items(left: tuple[int, int], right: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="not the same seeds and items"):
        stats.paired_interval(np.zeros(left), np.zeros(right))


def test_pairing_refuses_a_missing_score() -> None:
    score = random_scores(0)
    score[2, 3] = math.nan
    with pytest.raises(ValueError, match="missing"):
        stats.paired_interval(score, random_scores(1))


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_no_interval_and_no_test_below_four_seeds(seeds: int) -> None:
    score = random_scores(0, seeds=seeds)
    assert stats.crossed_interval(score).interval is None
    assert math.isnan(stats.crossed_p_value(score)) and math.isnan(stats.crossed_detectable(score))


@settings(max_examples=20, deadline=None)
@given(st.floats(-3, 3), st.floats(0.1, 5), st.permutations(range(5)))
def test_interval_moves_and_scales_and_knows_no_order(shift: float, scale: float, order: list[int]) -> None:
    score = random_scores(3)
    base, moved = stats.crossed_interval(score).interval, stats.crossed_interval(score[order] * scale + shift).interval
    assert base is not None and moved is not None
    assert_allclose(moved, np.array(base) * scale + shift, atol=1e-9)


# --- its test and its power


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 50), st.floats(-3, 3), st.floats(0.5, 0.999))
def test_the_test_rejects_exactly_what_the_interval_leaves_out(seed: int, shift: float, level: float) -> None:
    score = random_scores(seed) + shift
    interval = stats.crossed_interval(score, level=level).interval
    assert interval is not None
    assert (stats.crossed_p_value(score) > 1 - level) == (interval[0] <= 0 <= interval[1])


def test_p_value_where_only_items_vary_is_scipys() -> None:
    item_I = np.array([0.0, 1, 0, 1, 1, 0, 1, 0, 0.5])
    assert stats.crossed_p_value(np.tile(item_I, (5, 1))) == pytest.approx(scipy_stats.ttest_1samp(item_I, 0).pvalue, rel=1e-9)


def test_p_value_at_the_ends() -> None:
    assert stats.crossed_p_value(np.zeros((5, 9))) == 1.0 and stats.crossed_p_value(np.ones((5, 9))) == 0.0
    score = random_scores(4)
    assert stats.crossed_p_value(score - score.mean()) == pytest.approx(1, abs=1e-6)


def test_what_only_rounding_leaves_is_neither_noise_nor_a_difference() -> None:
    """0.6 - 0.5, 0.7 - 0.6 and 0.2 - 0.1 differ in their last bits; so do 0.3 and 0.1 + 0.2."""
    tenths = np.tile(np.array([0.6, 0.7, 0.2]) - np.array([0.5, 0.6, 0.1]), (5, 1))
    assert tenths.std() > 0
    found = stats.crossed_interval(tenths)
    assert (found.stderr, found.interval) == (0.0, None) and found.value == pytest.approx(0.1)
    nothing = np.tile(np.array([0.3, 0.7, 0.2]) - np.array([0.1 + 0.2, 0.7, 0.2]), (5, 1))
    assert nothing.any() and stats.crossed_interval(nothing) == stats.Estimate(0.0, 0.0) and stats.crossed_p_value(nothing) == 1.0


def test_where_nothing_varies_no_detectable_effect_is_claimed() -> None:
    assert math.isnan(stats.crossed_detectable(np.ones((5, 9)))) and math.isnan(stats.crossed_detectable(np.zeros((5, 9))))


def test_detectable_effect_is_the_existing_formula_where_one_part_is_alone() -> None:
    item_I = np.array([0.0, 1, 0, 1, 1, 0, 1, 0, 0.5])
    found = stats.crossed_detectable(np.tile(item_I, (5, 1)))
    assert found == pytest.approx(stats.minimum_detectable_effect(stats.mean_stderr(item_I), seeds=9))


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_a_detectable_effect_is_detected(spread: float) -> None:
    """At the effect that is called detectable on average, power is 80 % or above; at half of it, far below."""
    random = np.random.default_rng(0)
    noise = [random.normal(size=(8, 1)) * spread + random.normal(size=30) + random.normal(size=(8, 30)) for _ in range(300)]
    effect = float(np.mean([stats.crossed_detectable(score) for score in noise]))
    powers = [np.mean([stats.crossed_p_value(score + share * effect) < 0.05 for score in noise]) for share in (1.0, 0.5)]
    assert 0.75 <= powers[0] <= 0.93 and powers[1] <= 0.5


# --- resampling


def test_bootstrap_replicates_have_the_mean_and_spread_of_the_resampling() -> None:
    """Var* = var(seeds)(S-1)/S^2 + var(items)(I-1)/I^2 + residual terms: here against drawing the indices one by one."""
    left, right = random_scores(1), random_scores(2)
    draws, difference, random = stats.paired_bootstrap(left, right, seed=3, replicates=4000), left - right, np.random.default_rng(4)
    by_index = [difference[np.ix_(random.integers(0, 5, 5), random.integers(0, 40, 40))].mean() for _ in range(4000)]
    assert draws.shape == (4000,) and draws.mean() == pytest.approx(difference.mean(), abs=0.03)
    assert draws.std() == pytest.approx(np.std(by_index), rel=0.06)
    assert_allclose(stats.paired_bootstrap(left, right, seed=3, replicates=9), stats.paired_bootstrap(left, right, seed=3, replicates=9))


def test_bootstrap_of_a_method_against_itself_is_certain() -> None:
    assert_allclose(stats.paired_bootstrap(random_scores(1), random_scores(1)), 0)


def test_scipys_bootstrap_of_items_agrees() -> None:
    item_I = np.random.default_rng(0).normal(size=60)
    ours = stats.paired_bootstrap(item_I, np.zeros(60), replicates=4000)
    theirs = scipy_stats.bootstrap((item_I,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1)).confidence_interval
    assert np.quantile(ours, [0.025, 0.975]) == pytest.approx((theirs.low, theirs.high), abs=0.03)


# --- coverage


@pytest.mark.parametrize("setting", simulated.SETTINGS)
def test_the_stated_truth_is_the_mean_of_what_is_drawn(setting: str) -> None:
    random = np.random.default_rng(0)
    trials = simulated.SETTINGS[setting](simulated.Draws(400, 5, 100, 1.5, random))
    per = 1.0 if trials.per_NI is None else trials.per_NI.mean(axis=1)
    value_N = np.asarray(trials.score_NSI, dtype=np.float64).mean(axis=(1, 2)) / per
    assert value_N.mean() == pytest.approx(trials.truth, abs=float(4 * value_N.std() / 20 + 0.005))


@pytest.mark.parametrize("setting", ["far apart", "gap closed"])
def test_what_is_simulated_is_the_interval_of_the_tables(setting: str) -> None:
    trials = simulated.SETTINGS[setting](simulated.Draws(30, 5, 60, 2.0, np.random.default_rng(1)))
    held = []
    for n, score_SI in enumerate(trials.score_NSI):
        interval = stats.crossed_interval(score_SI, None if trials.per_NI is None else trials.per_NI[n]).interval
        assert interval is not None
        held.append(interval[0] <= trials.truth <= interval[1])
    assert held == simulated.covered(trials).astype(bool).tolist()


def test_coverage_of_a_few() -> None:
    """Within four standard errors of the goal; the whole grid is the slow test's and benchmarks/coverage.md."""
    slack = 4 * simulated.noise(1000)
    for setting in ("equal", "gap closed"):
        for seed_spread in (0.0, 0.25, 2.0):
            assert 0.92 - slack <= simulated.coverage(setting, seed_spread, trials=1000) <= min(0.98 + slack, 0.995)
    assert simulated.coverage("equal", 2.0, trials=250, percentile=True) < 0.90


@pytest.mark.slow
@pytest.mark.parametrize("seed_spread", [0.0, 0.25, 1.0, 2.0])
def test_coverage_of_every_paired_setting(seed_spread: float) -> None:
    low, high = simulated.GOAL
    for setting in simulated.SETTINGS:
        if setting not in simulated.UNPAIRED:
            assert low - 2 * simulated.noise(4000) <= simulated.coverage(setting, seed_spread, trials=4000, seed=1) <= high, setting
