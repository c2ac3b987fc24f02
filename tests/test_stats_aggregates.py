"""Aggregates, rankings and contrasts: by hand, against scipy, against rliable where it installs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import stats as scipy_stats

from zoo import stats
from zoo.entry import MethodEntry, load_registry
from zoo.stats.contrasts import Contrast, contrast_difference, contrasts

few = st.lists(st.integers(0, 4), min_size=2, max_size=9)

# --- aggregates


def test_optimality_gap_gives_no_credit_beyond_the_target() -> None:
    assert stats.optimality_gap([0.5, 1.0, 1.7]) == pytest.approx(0.5 / 3)
    assert stats.optimality_gap([[0.5, 1.0], [1.7, 2.0]], target=2.0) == pytest.approx((1.5 + 1 + 0.3) / 4)


def test_iqm_is_scipys_trimmed_mean() -> None:
    values = np.random.default_rng(0).normal(size=41)
    assert stats.iqm(values) == pytest.approx(np.sort(values)[10:31].mean()) == pytest.approx(scipy_stats.trim_mean(values, 0.25))


def test_probability_of_improvement_is_mann_whitneys_u() -> None:
    left, right = np.random.default_rng(0).integers(0, 4, 7), np.random.default_rng(1).integers(0, 4, 5)
    assert stats.probability_of_improvement(left, right) == pytest.approx(scipy_stats.mannwhitneyu(left, right).statistic / 35)


def test_rliable_agrees() -> None:
    metrics = pytest.importorskip("rliable.metrics", reason="rliable isn't on the package index here; the formulas are checked by hand and against scipy")
    score_ST = np.random.default_rng(0).random((6, 3))
    assert stats.iqm(score_ST) == pytest.approx(metrics.aggregate_iqm(score_ST))
    assert stats.optimality_gap(score_ST) == pytest.approx(metrics.aggregate_optimality_gap(score_ST))
    other_ST = np.random.default_rng(1).random((5, 3))
    each = [stats.probability_of_improvement(score_ST[:, task], other_ST[:, task]) for task in range(3)]
    assert np.mean(each) == pytest.approx(metrics.probability_of_improvement(score_ST, other_ST))


def test_gap_closed_is_a_ratio_of_means() -> None:
    student, teacher = np.zeros(8), np.array([1.0, 1, 1, 1, 1, 1, 0, 0])
    method = np.array([1.0, 1, 1, 0, 0, 0, 0, 0])
    found = stats.gap_closed(np.tile(method, (5, 1)), student, teacher)
    assert found.value == pytest.approx(0.5) and found.interval is not None and found.interval[0] < 0.5 < found.interval[1]
    assert found.stderr == pytest.approx(stats.crossed_mean(method, teacher).stderr)
    assert stats.gap_closed(teacher, student, teacher).value == pytest.approx(1) and stats.gap_closed(student, student, teacher).value == 0


def test_gap_closed_with_a_student_for_each_seed() -> None:
    """Each seed's gain is over its own student, the teacher's over their mean."""
    student = np.array([[0.0, 0, 0, 0], [0, 0, 0, 1]])
    found = stats.gap_closed(np.array([[1.0, 0, 0, 0], [1, 1, 0, 1]]), student, np.ones(4))
    assert found.value == pytest.approx((1 + 2) / 2 / 3.5)


def test_gap_closed_refuses_a_gap_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="not above 2 standard errors"):
        stats.gap_closed([1.0, 0, 0, 1], [0.0, 0, 1, 1], [1.0, 0, 1, 1])


def test_win_rate_and_average_rank_by_hand() -> None:
    score_MT = [[3.0, 1.0], [2.0, 1.0], [1.0, 2.0]]
    # task 1: a beats both, b one; task 2: c beats both, a and b tie
    assert_allclose(stats.win_rate(score_MT), [(1 + 0.25) / 2, (0.5 + 0.25) / 2, (0 + 1) / 2])
    assert_allclose(stats.average_rank(score_MT), [(1 + 2.5) / 2, (2 + 2.5) / 2, (3 + 1) / 2])


@given(st.integers(2, 6), st.integers(1, 5), st.integers(0, 99))
def test_win_rate_and_average_rank_say_the_same(methods: int, tasks: int, seed: int) -> None:
    score_MT = np.random.default_rng(seed).integers(0, 3, (methods, tasks))
    assert_allclose((stats.average_rank(score_MT) - 1) / (methods - 1), 1 - stats.win_rate(score_MT))
    assert stats.win_rate(score_MT).mean() == pytest.approx(0.5)


def test_win_rate_of_two_is_a_paired_share() -> None:
    assert_allclose(stats.win_rate([[1.0, 5, 2, 2], [0.0, 6, 1, 2]]), [2.5 / 4, 1.5 / 4])


@pytest.mark.parametrize("function", [stats.win_rate, stats.average_rank])
def test_ranks_fill_nothing_in(function: object) -> None:
    assert callable(function)
    with pytest.raises(ValueError, match="missing"):
        function([[1.0, math.nan], [2.0, 3.0]])
    with pytest.raises(ValueError, match="need two"):
        function([[1.0, 2.0]])


def test_holm_is_that_of_a_test_written_step_by_step() -> None:
    """Reject while p(k) <= level / (m - k + 1): the adjusted p-values say the same at each level."""
    p_values = np.random.default_rng(0).random(9) ** 3
    adjusted = stats.holm(list(p_values))
    for level in (0.01, 0.05, 0.2, 0.6):
        rejected, order = set(), np.argsort(p_values)
        for k, index in enumerate(order):
            if p_values[index] > level / (9 - k):
                break
            rejected.add(int(index))
        assert rejected == {i for i, p in enumerate(adjusted) if p <= level}


# --- rankings


def test_tau_b_and_rho_by_hand() -> None:
    # pairs: (1,2) tie left, (1,3) agree, (1,4) agree, (2,3) agree, (2,4) disagree, (3,4) disagree: 1 / sqrt(5 * 6)
    assert stats.kendall_tau_b([1, 1, 2, 3], [1, 3, 4, 2]) == pytest.approx(1 / math.sqrt(30))
    # ranks 1.5 1.5 3 4 and 1 3 4 2 about 2.5: 1.5 - 0.5 + 0.75 - 0.75 = 1, over sqrt(4.5 * 5)
    assert stats.spearman_rho([1, 1, 2, 3], [1, 3, 4, 2]) == pytest.approx(1 / math.sqrt(22.5))


@given(few, st.integers(0, 99))
def test_scipys_tau_b_and_rho(left: list[int], seed: int) -> None:
    right = np.random.default_rng(seed).integers(0, 4, len(left))
    if len(set(left)) == 1 or len(set(right.tolist())) == 1:
        assert math.isnan(stats.kendall_tau_b(left, right)) and math.isnan(stats.spearman_rho(left, right))
    else:
        assert stats.kendall_tau_b(left, right) == pytest.approx(scipy_stats.kendalltau(left, right, variant="b").statistic)
        assert stats.spearman_rho(left, right) == pytest.approx(scipy_stats.spearmanr(left, right).statistic)


def test_a_published_ordering_beside_ours() -> None:
    published = stats.order_scores(["gkd", ["sft", "seqkd"], "other"])
    assert published["gkd"] > published["sft"] == published["seqkd"] > published["other"]
    found = stats.rank_agreement(published, {"gkd": 0.4, "sft": 0.3, "seqkd": 0.2, "lost": math.nan, "ours": 1.0})
    assert found.methods == ("gkd", "seqkd", "sft")
    assert found.kendall == pytest.approx(2 / math.sqrt(2 * 3))
    # of 6 orders the 4 that put gkd first or last are as far from no correlation
    assert found.p_value == pytest.approx(4 / 6)
    with pytest.raises(ValueError, match="'gkd' is named twice"):
        stats.order_scores(["gkd", ["gkd"]])


def test_exact_p_of_a_full_agreement() -> None:
    scores = {name: float(i) for i, name in enumerate("abcde")}
    assert stats.rank_agreement(scores, scores).p_value == pytest.approx(2 / 120) == pytest.approx(scipy_stats.kendalltau(range(5), range(5)).pvalue)
    assert math.isnan(stats.rank_agreement(scores, {"a": 1.0}).kendall) and math.isnan(stats.rank_agreement(scores, {}).p_value)


def test_random_orders_stand_for_all_of_them() -> None:
    published = {name: float(i) for i, name in enumerate("abcdefgh")}
    measured = dict(zip("abcdefgh", (2.0, 1, 4, 3, 0, 5, 7, 6), strict=True))
    exact = scipy_stats.kendalltau(list(published.values()), list(measured.values()), method="exact").pvalue
    assert stats.rank_agreement(published, measured).p_value == pytest.approx(exact, abs=0.01)


# --- contrasts


@pytest.fixture(scope="module")
def three() -> dict[str, MethodEntry]:
    """Forward KL, reverse KL and JSD on the student's own texts, and two that differ in more."""
    registry = load_registry()
    return {name: registry[name] for name in ("gkd_on_policy_fkl", "gkd_on_policy", "gkd_on_policy_jsd", "minillm", "sft")}


def test_contrasts_are_pairs_that_differ_in_one_component(three: dict[str, MethodEntry]) -> None:
    found = {(one.place, one.first, one.second): one.pairs for one in contrasts(three)}
    assert found[("objective.divergence", "forward_kl", "reverse_kl")] == (("gkd_on_policy_fkl", "gkd_on_policy"),)
    assert {place for place, _, _ in found} == {"objective.divergence"} and len(found) == 3
    assert contrasts(dict(reversed(three.items()))) == contrasts(three)


def test_contrasts_of_one_change_stand_together(three: dict[str, MethodEntry]) -> None:
    """The same change made in two pairs of entries is one contrast, oriented alike."""

    def weighted(name: str) -> MethodEntry:
        entry = three[name]
        return entry.model_copy(update={"id": f"{name}_2", "objective": tuple(t.model_copy(update={"coefficient": 2.0}) for t in entry.objective)})

    pair = {name: three[name] for name in ("gkd_on_policy_fkl", "gkd_on_policy")}
    found = {one.place: one for one in contrasts(pair | {f"{name}_2": weighted(name) for name in pair})}
    assert found["objective.divergence"].pairs == (("gkd_on_policy_fkl", "gkd_on_policy"), ("gkd_on_policy_fkl_2", "gkd_on_policy_2"))
    assert len(found["objective"].pairs) == 2 and found["objective"].first.endswith("1") and found["objective"].second.endswith("2")


def test_the_difference_of_a_contrast_is_paired_and_over_its_pairs() -> None:
    random = np.random.default_rng(0)
    score = {name: random.random((5, 20)) for name in "abcd"}
    contrast = Contrast("objective.divergence", "x", "y", (("a", "b"), ("c", "d"), ("a", "lost")))
    found = contrast_difference(contrast, score)
    assert found == stats.crossed_interval((score["b"] - score["a"] + score["d"] - score["c"]) / 2)
    assert contrast_difference(contrast, {name: score[name] for name in "ab"}) == stats.paired_interval(score["b"], score["a"])
    with pytest.raises(ValueError, match="no pair has scores"):
        contrast_difference(contrast, {"a": score["a"]})


def test_an_interval_for_tau_by_hand_and_where_there_is_none() -> None:
    """Ten methods, tau 0.5: atanh 0.5 = 0.549306, half width 1.959964 sqrt(0.437 / 6) = 0.528949."""
    low, high = stats.tau_interval(0.5, 10) or (0.0, 0.0)
    assert (low, high) == pytest.approx((np.tanh(0.549306 - 0.528949), np.tanh(0.549306 + 0.528949)), abs=1e-5)
    assert stats.tau_interval(-0.5, 10) == pytest.approx((-high, -low))
    assert [stats.tau_interval(tau, methods) for tau, methods in ((0.5, 4), (1.0, 10), (float("nan"), 10))] == [None] * 3


def test_the_interval_for_tau_covers_about_what_it_says() -> None:
    """Twelve methods whose two scores are normal with correlation 0.6: tau is 2/pi arcsin 0.6."""
    random, truth, held = np.random.default_rng(0), 2 / np.pi * np.arcsin(0.6), 0
    for _ in range(600):
        left = random.normal(size=12)
        right = 0.6 * left + 0.8 * random.normal(size=12)
        interval = stats.tau_interval(stats.kendall_tau_b(left, right), 12)
        held += interval is not None and interval[0] <= truth <= interval[1]
    assert 0.92 <= held / 600 <= 0.98


def test_means_of_the_same_scores_in_another_order_tie() -> None:
    """(0.1 + 0.2 + 0.3) / 3 and 0.2 differ in their last bit; as ranks, wins, orders and probabilities they are equal."""
    one, same, below = (0.1 + 0.2 + 0.3) / 3, 0.2, 0.1
    assert one != same
    assert stats.average_rank([one, same, below]).tolist() == [1.5, 1.5, 3.0] and stats.win_rate([one, same, below]).tolist() == [0.75, 0.75, 0.0]
    assert stats.probability_of_improvement([one], [same]) == 0.5
    assert stats.kendall_tau_b([one, same, below], [1, 2, 0]) == stats.kendall_tau_b([1, 1, 0], [1, 2, 0])
    assert stats.spearman_rho([one, same, below], [1, 2, 0]) == stats.spearman_rho([1, 1, 0], [1, 2, 0])
    agreed = stats.rank_agreement({"a": one, "b": same, "c": below}, {"a": 1, "b": 2, "c": 0})
    assert agreed == stats.rank_agreement({"a": 1, "b": 1, "c": 0}, {"a": 1, "b": 2, "c": 0})
