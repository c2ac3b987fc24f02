"""Limits and identities of the references of further signals, and that their fixtures act on some tokens and spare others."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from . import reference_ahead as ahead
from . import reference_signal_direct as direct
from . import reference_signal_policy as policy
from . import reference_turns_more as more
from .fixture import Loss, crowd, dialogues, six_tokens
from .fixture_cross import crossed
from .list_signal import ELSEWHERE_SIGNAL, SIGNAL, fours, shown, tiers, told
from .loss import Reference
from .numerics import at_tokens, entropy, generalized_jsd, kl, log_softmax, per_sequence, sequence_mean, token_mean
from .reference_cross import rows
from .reference_cross_pairs import same_bytes
from .reference_direct import sum_then_mean
from .reference_guided import along
from .reference_signal_cross import btb, shared_advantage
from .values_signal import VALUES_BEYOND, VALUES_ELSEWHERE

SIX, MANY, TALKS, TWO = six_tokens(), crowd(), dialogues(), crossed()
MAIN = SIX["main"]
EVEN = SIX.with_logits("main", old=MAIN.logits["student"])


def value(build: partial[Loss] | object, fixture: object = SIX) -> float:
    return Reference(build)(fixture).loss  # type: ignore[arg-type]


def slope(build: object, fixture: object = SIX, stream: str = "main", streams: tuple[str, ...] = ("main",)) -> np.ndarray:
    return Reference(build, streams).gradient(fixture)[stream]  # type: ignore[arg-type]


def test_the_values_on_tokens_of_their_own_are_those_that_were_published() -> None:
    assert {name: reference(fixture).loss for name, (reference, fixture) in ELSEWHERE_SIGNAL.items()} == pytest.approx(VALUES_ELSEWHERE, rel=1e-9)
    found = {name: value(getattr(ahead, name), MANY) for name in ("lgr", "topd_nearfuture")}
    assert {**found, "safesteer": value(ahead.safesteer), "btb": value(btb, TWO)} == pytest.approx(VALUES_BEYOND, rel=1e-9)


def test_the_sum_over_pairs_is_a_variance() -> None:
    d = MAIN.logits["student"] - MAIN.logits["teacher"]
    weight = np.exp(MAIN.logp("student"))
    mean = (weight * d).sum(axis=-1, keepdims=True)
    assert value(direct.csd) == pytest.approx(token_mean((weight * (d - mean) ** 2).sum(axis=-1), MAIN.mask_BT))
    moved = SIX.with_logits("main", teacher=MAIN.logits["teacher"] + 3.0)
    assert value(direct.csd, moved) == pytest.approx(value(direct.csd)), "the softmax's constant is free"


def test_two_reverse_kls_are_twice_the_one_to_their_geometric_mean() -> None:
    product = log_softmax(0.5 * (MAIN.logp("right") + MAIN.logp("wrong")))
    apart, one = slope(SIGNAL["it_takes_two"].build), slope(partial(direct.divergence, model="teacher"), SIX.with_logits("main", teacher=product))
    np.testing.assert_allclose(apart, 2.0 * one, atol=1e-8)


def test_a_residual_without_its_bound_is_the_full_view() -> None:
    free = value(partial(direct.ar_opd, clip=np.inf))
    assert free == pytest.approx(value(partial(direct.divergence, model="self")))
    assert value(partial(direct.ar_opd, clip=0.5)) != pytest.approx(free, rel=1e-3)


def test_the_residual_of_three_views_never_turns_the_sign_and_one_view_has_none() -> None:
    consensus, residual, share = policy.views(SIX)
    assert (residual > -1e-12).all() and (share * residual <= np.abs(consensus) + 1e-12).all()
    alone, none, _ = policy.views(SIX, ("self",))
    np.testing.assert_allclose(none, 0.0, atol=1e-12)
    np.testing.assert_allclose(at_tokens(alone, MAIN.response_BT), MAIN.sampled("self") - MAIN.sampled("old"), atol=1e-12)


def test_the_normaliser_of_avsd_is_a_baseline() -> None:
    """The two advantages differ by a number of the state, so their difference is the same for every token of the vocabulary."""
    consensus, residual, share = policy.views(SIX)
    plain = consensus + share * residual
    law = log_softmax(plain + MAIN.logp("old")) - MAIN.logp("old")
    np.testing.assert_allclose((plain - law - (plain - law)[..., :1]), 0.0, atol=1e-12)
    assert value(policy.avsd) != pytest.approx(value(partial(policy.avsd, law=False)), rel=1e-3)


def test_the_bounded_loss_has_the_slope_of_the_card_and_its_sign() -> None:
    d_BT = MAIN.sampled("self") - MAIN.sampled("student")
    rho_B = np.array([1.0, -1.0]) * np.sign(per_sequence(d_BT, MAIN.mask_BT))
    found = at_tokens(slope(direct.sgsd, EVEN), MAIN.response_BT)[MAIN.mask_BT]
    pull = along(MAIN, rho_B / MAIN.mask_BT.sum(axis=1) / 2.0) * d_BT / (1.0 + np.exp(d_BT**2 / 2.0)) * (1.0 - np.exp(MAIN.sampled("student")))
    np.testing.assert_allclose(found, -pull[MAIN.mask_BT], atol=1e-9)
    assert not slope(partial(direct.sgsd, neutral=50.0), EVEN).any()
    assert value(partial(direct.sgsd, cap=1.0), MANY) != pytest.approx(value(direct.sgsd, MANY), rel=1e-3), "a few tokens turn the sign of a mean"


def test_tilted_risks_tend_to_a_plain_difference() -> None:
    gold, own = SIX["data"], SIX["theirs"]
    plain = direct.margin(own, own.logits["student"], "self").mean() - direct.margin(gold, gold.logits["student"], "self").mean()
    assert value(partial(direct.iris, alpha=1e-6)) == pytest.approx(0.1 * plain, rel=1e-4)


def test_positions_by_size_and_by_sign_differ_somewhere() -> None:
    gap = entropy(MANY["main"].logp("self")) - entropy(MANY["main"].logp("old"))
    assert (direct.furthest(np.abs(gap), MANY["main"].mask_BT, 0.2) != direct.furthest(gap, MANY["main"].mask_BT, 0.2)).any()
    whole = value(partial(direct.paint, share=0.0))
    assert value(partial(direct.paint, eta=0.0)) == pytest.approx(whole)
    assert value(direct.paint) != pytest.approx(whole, rel=1e-3)


def test_the_window_of_opsa_acts_where_it_ends() -> None:
    plain = value(partial(direct.divergence, kind="forward", reduce=sum_then_mean))
    assert value(direct.opsa) == pytest.approx(plain), "the fixture's texts are shorter than the window"
    assert value(partial(direct.opsa, window=1.0, fall=2.0)) < plain
    last = slope(partial(direct.opsa, window=0.0, fall=1.0))[0, 3] / slope(partial(direct.divergence, kind="forward", reduce=sum_then_mean))[0, 3]
    np.testing.assert_allclose(last, 0.1, rtol=1e-4)


def test_marked_tokens_leave_the_group_advantage_and_come_back() -> None:
    assert value(partial(policy.trace, lam=0.0)) == pytest.approx(value(policy.grpo))
    terms = Reference(policy.trace)(SIX).per_term
    assert min(abs(terms[name]) for name in ("key", "error")) > 1e-3


def test_a_reversed_teacher_is_heard_in_right_answers_alone() -> None:
    gap = slope(policy.rlrt) - slope(policy.grpo)
    assert np.abs(gap[0]).max() > 1e-3 and not gap[1].any(), "the second answer is wrong"
    assert value(partial(policy.rlrt, width=0.0)) == pytest.approx(value(policy.grpo))
    np.testing.assert_allclose(value(partial(policy.visd, width=0.0)), value(policy.grpo))


def test_signs_that_agree_with_the_verdict_weigh_three_times_the_others() -> None:
    reward = MAIN.sampled("teacher") - MAIN.sampled("old")
    agree = (np.sign(reward) == np.where(along(MAIN, MAIN.reward_B) > 0.5, 1.0, -1.0))[MAIN.mask_BT]
    assert 0 < agree.sum() < 6
    gated, plain = (np.abs(slope(build)).max(axis=-1)[MAIN.mask_BT] for build in (policy.sg_opd, partial(policy.sg_opd, agree=1.0, differ=1.0)))
    np.testing.assert_allclose(gated / plain, np.where(agree, 1.5, 0.5), rtol=1e-6)


def test_candidates_descend_the_kl_of_their_decision() -> None:
    """The gradient is q's share less the target's, for each candidate's own score."""
    fixture = fours()
    main, marks = fixture["main"], policy.mark(fixture["main"])
    found = slope(partial(policy.world_model_pi, text=0.0), fixture.with_logits("main", old=main.logits["student"]))
    logp = direct.sequence_logp(main, main.logits["student"])
    for own in (np.arange(4), np.arange(4, 8)):
        push = np.exp(log_softmax(logp[own])) - np.exp(log_softmax(logp[own] + marks[own] / 0.2))
        score = np.eye(7)[main.response_BT[own, 0]] - np.exp(main.logp("student")[own, 0])
        np.testing.assert_allclose(found[own, 0], push[:, None] * score / 2.0, atol=1e-8)


def test_a_helped_text_is_learned_where_no_plain_one_was_right() -> None:
    both, streams = tiers(), ("main", "theirs", "data")
    plain, helped = (np.abs(slope(direct.brts, both, name, streams)).max(axis=(1, 2)) > 0.0 for name in ("theirs", "data"))
    assert direct.chosen(both["data"]).sum() == 3 and helped.nonzero()[0].tolist() == [3]
    assert both["theirs"].group_B[plain].tolist() == [0, 2], "none of the second prompt is right"


def test_fixtures_of_their_own_keep_some_and_drop_others() -> None:
    assert direct.chosen(told()["data"]).tolist() == [True, False] and direct.chosen(told()["theirs"]).sum() == 1
    kept = np.abs(slope(policy.vpg_ea, shown(), "theirs", ("main", "theirs"))).max(axis=(1, 2)) > 0.0
    assert kept.tolist() == [False, True, True, False, True, False, False, True], "wrong answers, and one that nobody would write unread"
    assert (np.abs(slope(direct.opcod, MANY)).max(axis=(1, 2)) > 0.0).tolist() == [False, False, *[True] * 6]


def test_hindsight_finds_few_turns_and_searching_alternates() -> None:
    blamed = np.abs(slope(more.hint_sd, TALKS)).max(axis=-1) > 0.0
    main = TALKS["main"]
    assert 0 < blamed.sum() < (main.mask_BT & (main.reward_B < 0.5)[:, None]).sum()
    answered = np.abs(slope(more.canonical_ctx_opd, TALKS)).max(axis=-1) > 0.0
    assert answered.sum(axis=1).tolist() == [2, 1, 1, 0, 1, 2]
    assert value(more.search_e1, TALKS) != pytest.approx(value(partial(more.search_e1, distilling=True), TALKS), rel=1e-2)


def test_middle_turns_of_maigo_weigh_less_where_the_clean_view_disagrees() -> None:
    terms = Reference(more.maigo)(TALKS).per_term
    main = TALKS["main"]
    middle = main.mask_BT & ~more.last_turn(main)
    log_q, clean = main.logp("student"), main.logp("self")
    plain = more.turns_summed(middle * generalized_jsd(clean, log_q, 0.5), main)
    assert 0.0 < terms["middle"] < plain and kl(log_q, clean)[middle].min() > 0.0


def test_looking_ahead_has_clear_candidates_and_false_alarms() -> None:
    main = MANY["main"]
    log_q = np.sort(np.where(np.arange(7) == ahead.STOP, -np.inf, main.logp("old")), axis=-1)[..., ::-1]
    here = ahead.lookahead(main, k=3, share=0.2, eps=1e-6) != 0.0
    assert here.sum() > 4 and (log_q[..., 2] - log_q[..., 3])[here].min() > 1e-3
    even = MANY.with_logits("main", old=main.logits["student"])
    assert value(ahead.topd_nearfuture, even) != pytest.approx(value(partial(ahead.topd_nearfuture, alarms=0.0), even), rel=1e-4)
    assert value(partial(ahead.topd_nearfuture, alarms=0.0), even) == pytest.approx(value(partial(direct.divergence, model="teacher"), even))


def test_the_advantages_of_a_chunk_add_up_to_its_log_ratio() -> None:
    stream, advantage_BT = TWO["main"], shared_advantage(TWO)
    for i, row in enumerate(rows(TWO, "main", stream.logits["old"])):
        chunks = same_bytes(*row.words)
        assert max(len(mine) for mine, _ in chunks) > 1
        for pair in chunks:
            own, their = row.chance(pair)
            assert abs(their - own) < 10.0 and advantage_BT[i, pair[0]].sum() == pytest.approx(their - own)
    assert not shared_advantage(TWO, longest=0).any()


def test_a_voted_set_is_small_and_the_whole_vocabulary_is_a_divergence() -> None:
    assert len(ahead.elected(MAIN, size=3, top=2)) == 3
    assert value(partial(ahead.safesteer, size=7)) == pytest.approx(value(partial(direct.divergence, reduce=sequence_mean)))
    lifted = (MAIN.logp("self") - MAIN.logp("reference"))[MAIN.mask_BT]
    assert ahead.elected(MAIN, size=1, top=1) == [int(np.bincount(lifted.argmax(axis=-1)).argmax())]
