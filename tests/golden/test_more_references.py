"""Limits and identities of the further references, and that the fixture sends tokens down each of their branches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from . import reference_classic as classic
from . import reference_classic_more as more
from . import reference_guided as guided
from . import reference_objective as objective
from .fixture import Fixture, Loss, six_tokens
from .loss import Reference
from .numerics import entropy, kl, sequence_mean, token_mean, top_k
from .reference_direct import gkd, kd, opsd
from .reference_outcome import group_advantage, grpo

SIX = six_tokens()
MAIN = SIX["main"]
EVEN = SIX.with_logits("main", old=MAIN.logits["student"])


def value(build: Callable[[Fixture], Loss], fixture: Fixture = SIX) -> float:
    return Reference(build)(fixture).loss


def test_switched_off_the_classic_losses_are_the_plain_divergences() -> None:
    kd_value, forward = value(kd), value(partial(gkd, divergence="forward_kl"))
    assert value(partial(classic.taid, t=1.0)) == pytest.approx(kd_value)
    assert value(partial(classic.taid, t=0.0)) == pytest.approx(0.0, abs=1e-12)
    assert value(partial(more.delta_kd, a=0.0, lam=0.0)) == pytest.approx(kd_value)
    assert value(partial(classic.selectkd, beta=1.0, reduce=token_mean)) == pytest.approx(forward)
    assert value(partial(classic.offline_opkd, k=7)) == pytest.approx(forward)
    assert value(partial(classic.adakd, c=0.0)) == pytest.approx(kl(SIX["data"].logp("student"), SIX["data"].logp("teacher"))[SIX["data"].mask_BT].mean())
    own = value(partial(classic.abkd, a=1.0, b=1e-6, lm_coef=0.0))
    assert own == pytest.approx(kd_value, rel=1e-4)


def test_the_parts_of_a_divergence_add_up() -> None:
    p, q = np.exp(MAIN.logp("teacher")), np.exp(MAIN.logp("student"))
    accepted = np.minimum(p, q).sum(axis=-1)
    assert value(partial(classic.distillspec, reduce=token_mean)) == pytest.approx(1.0 - accepted[MAIN.mask_BT].mean())
    hellinger = 4.0 * (1.0 - np.sqrt(np.exp(SIX["data"].logp("teacher") + SIX["data"].logp("student"))).sum(axis=-1))
    assert value(partial(classic.abkd, a=0.5, b=0.5, lm_coef=0.0)) == pytest.approx(hellinger[SIX["data"].mask_BT].mean())
    near = 1e-6
    low, high = (value(partial(classic.f_distill, divergence="js", b=b)) for b in (near, 1.0 - near))
    assert low / near == pytest.approx(value(partial(gkd, divergence="reverse_kl")), rel=1e-4)
    assert high / near == pytest.approx(value(partial(classic.f_distill, divergence="kl")), rel=1e-4)


def test_without_its_target_token_the_kl_is_the_identity_of_the_card() -> None:
    stream = SIX["data"]
    easy, hard = (classic.atkd(SIX, lam=lam)(SIX.student_logits())[name] for lam, name in ((1.0, "easy"), (0.0, "hard")))
    p = np.exp(stream.sampled("teacher"))
    chosen_BTV = np.eye(7)[stream.response_BT] > 0
    rest_p, rest_q = (np.where(chosen_BTV, 0.0, np.exp(stream.logp(m))) for m in ("teacher", "student"))
    rest_p, rest_q = (r / r.sum(axis=-1, keepdims=True) for r in (rest_p, rest_q))
    rest_BT = np.where(chosen_BTV, 0.0, rest_p * np.log(np.where(chosen_BTV, 1.0, rest_p) / np.where(chosen_BTV, 1.0, rest_q))).sum(axis=-1)
    target_BT = kl(stream.logp("teacher"), stream.logp("student")) - (1.0 - p) * rest_BT
    easy_BT = stream.mask_BT & (p > np.median(p[stream.mask_BT]))
    assert 0 < easy_BT.sum() < 6
    assert easy == pytest.approx(rest_BT[easy_BT].mean())
    assert hard == pytest.approx((target_BT + rest_BT)[stream.mask_BT & ~easy_BT].mean())


def test_a_ketchup_return_telescopes_along_greedy_tokens() -> None:
    """Where the teacher's argmax was written, Q(s_t, y_t) = max Q(s_t): each return is then that maximum, whatever the stride."""
    stream = replace(MAIN, response_BT=top_k(MAIN.logp("teacher"), 1)[..., 0])
    centred = stream.logits["teacher"] - stream.logits["teacher"].mean(axis=-1, keepdims=True)
    for steps in (1, 2, 3, 9):
        np.testing.assert_allclose(more.ketchup_return(stream, steps=steps)[stream.mask_BT], centred.max(axis=-1)[stream.mask_BT], atol=1e-12)
    one, two = (more.ketchup_return(MAIN, steps=k)[0, 0] for k in (1, 2))
    assert abs(one - two) > 0.1


def test_whole_paths_without_a_value_square_the_remaining_log_ratio() -> None:
    gap = np.where(MAIN.mask_BT, MAIN.sampled("teacher") - MAIN.sampled("student"), 0.0)
    rest = gap[:, ::-1].cumsum(axis=1)[:, ::-1]
    assert value(partial(more.training_wheels, steps=9, with_value=False)) == pytest.approx((0.5 * rest**2)[MAIN.mask_BT].mean())
    a, b = (-MAIN.value_BT[1, 0] + gap[1, :2].sum(), -MAIN.value_BT[1, 1] + gap[1, 1])
    short = SIX.with_stream("main", replace(MAIN, mask_BT=np.array([[False] * 4, [True, True, False, False]])))
    assert value(more.training_wheels, short) == pytest.approx(0.25 * (a**2 + b**2))


def test_guided_advantages_switched_off_are_the_group_advantage() -> None:
    plain = Reference(partial(grpo, beta=0.0))(SIX).loss
    off = [
        partial(guided.anti_sd, gate=0.0, reduce=sequence_mean),
        partial(guided.direction_adaptive_sd, beta=0.0, reduce=sequence_mean),
        partial(guided.amr_sd, alpha=0.0),
        partial(guided.rlcsd, width=0.0),
        partial(guided.gear, kappa=0.0),
        partial(guided.dgrpo, beta=0.0),
        partial(guided.tgpo, weight=0.0),
        partial(more.cmdp_kd, d=99.0),
    ]
    assert [value(build) for build in off] == pytest.approx([plain] * len(off))
    for build in (guided.anti_sd, guided.direction_adaptive_sd, guided.amr_sd, guided.rlcsd, guided.gear):
        assert abs(value(build) - plain) > 1e-4


def test_a_budget_overrules_the_verdict_and_ranks_what_it_rejects_by_the_last_cost() -> None:
    stream = replace(MAIN, reward_B=np.array([0.0, 1.0]))
    np.testing.assert_allclose(more.budgeted_reward(stream, d=9.0, n=10.0), [0.0, 1.0])
    kept, spent = more.budgeted_reward(stream, d=1.6214, n=10.0)
    last_B = [kl(MAIN.logp("old"), MAIN.logp("teacher"))[i, at] for i, at in enumerate((3, 1))]
    assert kept == 0.0 and spent == pytest.approx(-10.0 - last_B[1])
    np.testing.assert_allclose(more.budgeted_reward(stream, d=0.35, n=10.0), [-10.0 - last_B[0], -10.0 - last_B[1]])


def test_the_pull_of_anti_sd_ascends_the_jensen_shannon_divergence() -> None:
    """Summed over the token drawn from the student, the extra term's gradient is lambda times that of -JSD(pT, pS)."""
    flat = EVEN.with_stream("main", replace(EVEN["main"], reward_B=np.ones(2)))
    extra = Reference(partial(guided.anti_sd, lam=1.0))
    total = np.zeros(7)
    for token, probability in enumerate(np.exp(MAIN.logp("student"))[0, 1]):
        response_BT = MAIN.response_BT.copy()
        response_BT[0, 1] = token
        total += probability * extra.gradient(flat.with_stream("main", replace(flat["main"], response_BT=response_BT)))["main"][0, 1]
    taught = EVEN.with_logits("main", teacher=MAIN.logits["self"])
    np.testing.assert_allclose(total, -Reference(partial(gkd, beta=0.5)).gradient(taught)["main"][0, 1], atol=1e-8)


def test_bayes_credit_telescopes_and_the_anchor_acts() -> None:
    free, anchored = (Reference(partial(guided.oppo_bayes, anchored=a))(EVEN).loss for a in (False, True))
    evidence = np.clip(MAIN.sampled("self") - MAIN.sampled("student"), -2.0, 2.0)
    end = [1.0 / (1.0 + np.exp(-evidence[i, :n].sum())) for i, n in enumerate((4, 2))]
    assert free == pytest.approx(-sum(v - 0.5 for v in end) / 6.0)
    assert abs(free - anchored) > 1e-3


def test_a_product_of_experts_without_its_contrast_is_reverse_kl() -> None:
    plain = Reference(partial(objective.credit_pmi, lam=0.0, k=7)).gradient(EVEN)["main"]
    taught = EVEN.with_logits("main", teacher=MAIN.logits["self"])
    np.testing.assert_allclose(plain, Reference(partial(gkd, divergence="reverse_kl")).gradient(taught)["main"], atol=1e-8)


def test_position_weights_of_one_leave_opsd() -> None:
    flat = value(partial(objective.pw_opsd, w_min=1.0, kappa=np.inf))
    per_T = (kl(*(log for log in _tempered(1.1))) * MAIN.mask_BT).sum(axis=1) / MAIN.mask_BT.sum(axis=1)
    assert flat == pytest.approx(per_T.mean())
    assert value(opsd) != pytest.approx(value(objective.pw_opsd), rel=1e-3)


def _tempered(temperature: float) -> list[np.ndarray]:
    from .numerics import log_softmax

    return [log_softmax(MAIN.logits[model] / temperature) for model in ("self", "student")]


def test_steering_by_equal_peers_is_distillation_to_the_start() -> None:
    same = SIX.with_logits("main", wrong=MAIN.logits["right"])
    per_token = kl(MAIN.logp("student"), MAIN.logp("reference"))
    assert Reference(partial(objective.ogls_sd, tail=0.0))(same).loss == pytest.approx(per_token[1, :2].sum()), "only the second answer is wrong"


def test_pooled_and_separate_means_of_va_opd_differ_where_a_rollout_has_several_tokens() -> None:
    apart, pooled = (Reference(partial(objective.va_opd, pooled=p))(SIX).per_term for p in (False, True))
    assert all(np.isfinite(v) for v in (*apart.values(), *pooled.values()))
    assert abs(apart["low"] - pooled["low"]) > 1e-2


def test_selected_tokens_are_some_and_not_all_with_a_margin() -> None:
    accepted = (top_k(MAIN.logp("teacher"), 3) == top_k(MAIN.logp("student"), 1)).any(axis=-1)[MAIN.mask_BT]
    opened = more.opener(MAIN, 0.5)[MAIN.mask_BT]
    kept = objective.teachable(MAIN, k=3, rho=0.5)[MAIN.mask_BT]
    spikes = (kl(MAIN.logp("self"), MAIN.logp("old")) > 0.9)[MAIN.mask_BT]
    bounds = (entropy(MAIN.logp("old")) > 1.6)[MAIN.mask_BT]
    assert guided.segments(kl(MAIN.logp("self"), MAIN.logp("old"))[0], entropy(MAIN.logp("old"))[0], 0.9, 1.6) == [0, 1, 2, 2]
    for acts in (accepted, opened, kept, spikes, bounds):
        assert 0 < acts.sum() < 6
    cost = [kl(MAIN.logp("old"), MAIN.logp("teacher"))[i, :n].mean() for i, n in enumerate((4, 2))]
    assert min(abs(c - 0.35) for c in cost) > 0.05
    assert group_advantage(MAIN)[0] > 0 > group_advantage(MAIN)[1]


def test_mutual_grpo_without_its_bonus_is_the_centred_reward() -> None:
    ratio = np.exp(MAIN.sampled("student") - MAIN.sampled("old"))
    clipped = [np.maximum(-ratio[i, :n] * a, -np.clip(ratio[i, :n], 0.8, 1.2) * a).mean() for i, (n, a) in enumerate(((4, 0.5), (2, -0.5)))]
    assert value(partial(guided.codistill_grpo, alpha=0.0)) == pytest.approx(np.mean(clipped))


def test_whitened_log_ratios_have_mean_zero_and_a_sequence_ratio_reaches_each_token() -> None:
    assert value(guided.gndpo, EVEN) == pytest.approx(0.0, abs=1e-12)
    k = np.clip(MAIN.sampled("teacher") - MAIN.sampled("student"), -5.0, 5.0)[MAIN.mask_BT]
    z = (k - k.mean()) / k.std()
    found = Reference(partial(guided.gndpo, sequence_ratio=True)).gradient(EVEN)["main"][MAIN.mask_BT]
    np.testing.assert_allclose(Reference(guided.gndpo).gradient(EVEN)["main"][MAIN.mask_BT], found, atol=1e-8)
    score = np.eye(7)[MAIN.response_BT[MAIN.mask_BT]] - np.exp(MAIN.logp("student")[MAIN.mask_BT])
    np.testing.assert_allclose(found, -z[:, None] * score / 6.0, atol=1e-7)
