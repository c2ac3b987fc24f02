"""Limits, identities and published values of the references on rewards, black boxes and other tokenizers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from . import reference_cross as cross
from . import reference_cross_more as more
from . import reference_outcome_direct as direct
from . import reference_outcome_policy as policy
from .fixture import Fixture, Loss, crowd, six_tokens
from .fixture_cross import OTHERS, STUDENT, TEACHER, TEXTS, crossed
from .list_outcome import OUTCOME_CROWDED
from .loss import Reference
from .numerics import kl, log_softmax, sequence_mean
from .reference_baselines import group_policy
from .reference_bytes import STOP_SYMBOL, next_byte
from .reference_cross_pairs import edits, nearest_columns, same_bytes, same_walk, warped
from .reference_direct import gkd
from .reference_outcome import group_advantage
from .values_outcome import VALUES_CROSSED

SIX, MANY, TWO = six_tokens(), crowd(), crossed()
MAIN = SIX["main"]
EVEN = SIX.with_logits("main", old=MAIN.logits["student"])


def value(build: Callable[[Fixture], Loss], fixture: Fixture = SIX) -> float:
    return Reference(build)(fixture).loss


def test_the_values_across_tokenizers_are_those_that_were_published() -> None:
    found = {name: value(getattr(cross if hasattr(cross, name) else more, name), TWO) for name in VALUES_CROSSED if name != "draft_opd"}
    assert {**found, "draft_opd": OUTCOME_CROWDED["draft_opd"](MANY).loss} == pytest.approx(VALUES_CROSSED, rel=1e-9)


def test_marks_differ_between_judges_and_answers() -> None:
    for stream in (MAIN, MANY["main"]):
        assert len({*policy.mark(stream).tolist(), *policy.mark(stream, 1).tolist()}) == 2 * len(stream.mask_BT)
    gap_B = policy.mark(SIX["theirs"], 0) - policy.mark(SIX["theirs"], 1)
    assert gap_B.min() < 0.0 < gap_B.max(), "the referee finds one prompt hard and the other easy"


def test_a_trust_region_at_one_is_the_plain_ratio() -> None:
    assert value(partial(policy.rlad, alpha=1.0)) == pytest.approx(value(group_policy))
    assert value(partial(policy.rlad, alpha=1.0)) != pytest.approx(value(policy.rlad), rel=1e-2)


def test_bands_shut_some_tokens_out() -> None:
    drift = np.exp(MAIN.sampled("student") - MAIN.sampled("old"))[MAIN.mask_BT]
    for band in ((0.6, 1.5), (0.5, 2.0)):
        assert 0 < ((drift < band[0]) | (drift > band[1])).sum() < 6
    assert value(partial(policy.mopd_mimo, band=(0.0, np.inf))) == value(policy.mopd_mimo)


def test_the_ratio_of_a_teachers_token_is_its_shaped_probability() -> None:
    """Its gradient on a token is -A gamma p / (p + gamma)^2 of the score, over the answers."""
    gradient = Reference(partial(policy.luffy, bonus=0.0)).gradient(SIX)["main"]
    p = np.exp(MAIN.sampled("student"))[1, 0]
    score = np.eye(7)[MAIN.response_BT[1, 0]] - np.exp(MAIN.logp("student"))[1, 0]
    np.testing.assert_allclose(gradient[1, 0], 0.5 * 0.1 * p / (p + 0.1) ** 2 * score / 2.0, atol=1e-9)


def test_the_dense_and_the_later_part_are_the_gradient_of_the_whole_divergence() -> None:
    """Enumerated over both tokens of a short answer: E of the two parts' gradient in the first state is that of KL over sequences."""
    logits, taught = MAIN.logits["student"], MAIN.logits["teacher"]
    log_q, log_p = log_softmax(logits[1, :2]), log_softmax(taught[1, :2])
    q = np.exp(log_q)
    later = kl(log_q[1], log_p[1])  # the second state's law does not depend on the first token here
    exact = q[0] * (log_q[0] - log_p[0] - kl(log_q[0], log_p[0]))
    total = np.zeros(7)
    for first in range(7):
        for second in range(7):
            response_BT = MAIN.response_BT.copy()
            response_BT[1, :2] = first, second
            stream = replace(EVEN["main"], response_BT=response_BT, reward_B=np.ones(2))
            fixture = EVEN.with_stream("main", stream)
            step = Reference(policy.hybrid_il_rl_note).gradient(fixture)["main"][1, 0]
            total += q[0, first] * q[1, second] * step
    assert later > 0.0
    np.testing.assert_allclose(2.0 * total, exact, atol=1e-7)


def test_constant_marks_and_equal_models_leave_nothing() -> None:
    flat = SIX.with_stream("main", replace(MAIN, value_BT=np.zeros_like(MAIN.value_BT)))
    assert value(policy.ovd, flat) == value(policy.ropd, flat) == 0.0
    same = SIX.with_logits("main", teacher=MAIN.logits["student"], self=MAIN.logits["student"], base=MAIN.logits["student"])
    for build in (direct.aligndistil, direct.mad_opd, direct.reverse):
        assert value(build, same) == pytest.approx(0.0, abs=1e-12)


def test_beyond_the_better_model_there_is_its_product_with_the_ratio() -> None:
    assert value(partial(direct.aligndistil, strength=1e-12)) > 1e9, "the weight is beta over the strength"
    both = SIX.with_logits("main", base=MAIN.logits["teacher"])
    assert value(direct.aligndistil, both) == pytest.approx(0.1 * value(partial(gkd, divergence="reverse_kl", reduce=sequence_mean)))


def test_a_preference_against_the_present_student_is_that_of_a_coin() -> None:
    even = SIX.with_logits("main", teacher=MAIN.logits["student"]).with_logits("theirs", teacher=SIX["theirs"].logits["student"])
    assert value(partial(direct.dpo, reference="teacher"), even) == pytest.approx(np.log(2.0))
    kept = Reference(partial(direct.dpo, reference="reference", wrong_only=True), ("theirs", "main")).gradient(SIX)
    assert np.abs(kept["main"][0]).max() == 0.0 < np.abs(kept["main"][1]).max()


def test_a_draft_is_accepted_up_to_its_first_miss_and_fades_behind_it() -> None:
    steep = value(partial(direct.draft_opd, g=1e-9), MANY)
    flat = value(partial(direct.draft_opd, g=1.0), MANY)
    assert steep != pytest.approx(flat, rel=1e-2)
    corrected = np.abs(Reference(direct.online_spec_decoding).gradient(SIX)["main"]).max(axis=-1)[MAIN.mask_BT] > 0.0
    assert 0 < corrected.sum() < 6


def test_pairs_of_the_two_texts() -> None:
    first, second = (TEXTS[text] for text in ("abcab", "cbcda"))
    assert same_bytes(*first) == [([0, 1], [0]), ([2, 3], [1]), ([4], [2]), ([5], [3])]
    assert same_bytes(*second) == [([0], [0]), ([1, 2], [1, 2]), ([3], [3]), ([4], [4])]
    assert same_walk(*first) == [([0, 1, 2, 3, 4], [0, 1, 2]), ([5], [3])]
    assert same_walk(*second) == [([0], [0]), ([1, 2, 3], [1, 2, 3]), ([4], [4])]
    assert [edits("abc", "bc"), edits("ca", "a"), edits("cda", "cd"), edits("", "ab")] == [1, 1, 1, 2]


def test_equal_tokenizers_pair_each_token_with_itself() -> None:
    words = TEXTS["cbcda"][0]
    alone = [([t], [t]) for t in range(len(words))]
    assert same_bytes(words, words) == alone and same_walk(words, words) == alone
    q = log_softmax(TWO["data"].logits["student"][1, :5])
    assert warped(q, q, words, words) == [[t] for t in range(5)]
    pairs = nearest_columns(q[0], q[0], STUDENT, STUDENT, k=3, threshold=0.1)
    assert pairs[:3] == pairs[3:] and all(i == j for i, j in pairs)


def test_the_rank_of_probabilities_forgets_which_token_they_are_of() -> None:
    shuffled = OTHERS["data"][0].logp[0][np.array([3, 1, 0, 8, 2, 7, 4, 6, 5])]
    assert cross.l1(OTHERS["data"][0].logp[0], shuffled) == pytest.approx(0.0, abs=1e-15)
    assert len(STUDENT) != len(TEACHER) and 0.0 < cross.l1(TWO["data"].logp("student")[0, 0], shuffled) < 2.0


def test_a_warm_event_tends_to_tau_less_of_its_limit() -> None:
    """tau KL of the two outcomes tends to l_T - l_S + l_T log(l_S / l_T) as tau grows (audit)."""
    found = 1e6 * value(partial(cross.alm, tau=1e6), TWO)
    limits = []
    for row in cross.rows(TWO, "data", TWO["data"].logits["student"]):
        for pair in same_bytes(*row.words):
            own, their = (chance - 1e-6 for chance in row.chance(pair))
            limits.append((their - own) + their * (np.log(-own) - np.log(-their)))
    assert found == pytest.approx(float(np.mean(limits)), rel=1e-3)


def test_group_advantages_of_marks_have_both_signs() -> None:
    advantage_B = policy.standardised(MANY["main"], policy.mark(MANY["main"]))
    assert advantage_B.min() < 0.0 < advantage_B.max()
    np.testing.assert_allclose(policy.standardised(MAIN, MAIN.reward_B), group_advantage(MAIN))


def test_a_byte_has_the_mass_of_all_tokens_that_begin_with_it() -> None:
    log_p = OTHERS["data"][0].logp[0]
    p = dict(zip(TEACHER, np.exp(log_p), strict=True))
    first = next_byte(log_p, [])
    assert first.sum() == pytest.approx(1.0) and first[STOP_SYMBOL] == pytest.approx(p[""])
    assert first[ord("c")] == pytest.approx(p["c"] + p["ca"] + p["cd"])
    second = next_byte(log_p, list(b"c"))
    assert second[ord("d")] == pytest.approx(p["cd"] / (p["c"] + p["ca"] + p["cd"]))
    assert second.sum() == pytest.approx(1.0 - p["c"] / (p["c"] + p["ca"] + p["cd"])), "a token that ends there has a share"
