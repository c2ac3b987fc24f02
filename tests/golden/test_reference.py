"""The references themselves: limits, invariances and analytic gradients, and that the fixture exercises every branch."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from .fixture import TOP_K, Fixture, six_tokens
from .numerics import Array, Ids, Mask, at_tokens, entropy, kl, log_softmax, sequence_mean, top_k
from .reference import REFERENCES, VARIANTS, Reference
from .reference_direct import distillm, gkd, kd, opsd, revisiting_opd, sft
from .reference_outcome import group_advantage, grpo, kdrl, orpo_distill
from .reference_policy import aopd, eopd, minillm, minillm_advantage, tml_opd, vopd
from .values import VALUES
from .values_opd import VALUES_OPD
from .values_outcome import VALUES_OUTCOME
from .values_self import VALUES_SELF
from .values_signal import VALUES_SIGNAL

SIX = six_tokens()
MAIN = SIX["main"]
EVERY = [(name, "", reference) for name, reference in REFERENCES.items()]
EVERY += [(name, variant, reference) for name, variants in VARIANTS.items() for variant, reference in variants.items()]
EACH = pytest.mark.parametrize("reference", [pytest.param(r, id=f"{name}-{variant}".rstrip("-")) for name, variant, r in EVERY])


def onehot(ids_BT: Ids) -> Array:
    return np.asarray(np.eye(7)[ids_BT], dtype=np.float64)


def on_policy(fixture: Fixture) -> Fixture:
    """The same fixture with the rollout-time student equal to the current one: every ratio is 1."""
    return fixture.with_logits("main", old=fixture["main"].logits["student"])


def expected_gradient(reference: Reference, fixture: Fixture, t: int) -> Array:
    """The gradient at position t of the first sequence, averaged over that token drawn from the student."""
    stream, total = fixture["main"], np.zeros(7)
    for token, probability in enumerate(np.exp(stream.logp("student"))[0, t]):
        response_BT = stream.response_BT.copy()
        response_BT[0, t] = token
        moved = fixture.with_stream("main", replace(stream, response_BT=response_BT))
        total += probability * reference.gradient(moved)["main"][0, t]
    return total


def reverse_kl_gradient(fixture: Fixture, t: int) -> Array:
    return 6.0 * Reference(partial(gkd, divergence="reverse_kl")).gradient(fixture)["main"][0, t]


def test_the_values_are_those_that_were_published() -> None:
    published = VALUES | VALUES_OPD | VALUES_SELF | VALUES_OUTCOME | VALUES_SIGNAL
    assert {name: reference(SIX).loss for name, reference in REFERENCES.items()} == pytest.approx(published, rel=1e-9)


@EACH
def test_terms_add_up_and_are_finite(reference: Reference) -> None:
    result = reference(SIX)
    assert np.isfinite(result.loss)
    assert sum(result.per_term.values()) == pytest.approx(result.loss, abs=1e-15)


@EACH
def test_gradients_stay_on_response_tokens_and_ignore_a_shift_of_the_logits(reference: Reference) -> None:
    for name, gradient_BTV in reference.gradient(SIX).items():
        assert np.all(gradient_BTV[~SIX[name].mask_BT] == 0.0)
        assert np.abs(gradient_BTV).max() > 1e-3
        np.testing.assert_allclose(gradient_BTV.sum(axis=-1), 0.0, atol=1e-9)


@EACH
def test_padding_and_unread_streams_do_not_matter(reference: Reference) -> None:
    moved = SIX
    for name, stream in SIX.streams.items():
        off_BT = ~stream.mask_BT if name in reference.streams else np.ones_like(stream.mask_BT)
        logits = {model: values + 5.0 * np.sin(np.arange(7)) * off_BT[..., None] for model, values in stream.logits.items()}
        tokens_BT = np.where(off_BT, 3, stream.response_BT)
        moved = moved.with_stream(name, replace(stream, logits=logits, response_BT=tokens_BT))
    assert reference(moved).loss == pytest.approx(reference(SIX).loss, abs=1e-14)


def test_the_fixture_acts_on_some_tokens_and_spares_others_with_a_margin() -> None:
    p, q, old = (np.exp(MAIN.sampled(model))[MAIN.mask_BT] for model in ("teacher", "student", "old"))
    ratio, mixed = q / old, q / (0.8 * old + 0.2 * p)
    group = np.broadcast_to(group_advantage(MAIN)[:, None], MAIN.mask_BT.shape)[MAIN.mask_BT]
    whitened = minillm_advantage(MAIN, gamma=0.95, reward_scaling=0.5, reward_cap=100.0, first=1, discount_from=1, ddof=0)[MAIN.mask_BT]

    def binds(r: Array, a: Array) -> Mask:
        return ((a > 0) & (r > 1.2)) | ((a < 0) & (r < 0.8))

    uncertain = entropy(MAIN.logp("teacher"))[MAIN.mask_BT]
    in_support = (top_k(MAIN.logp("teacher"), TOP_K) == MAIN.response_BT[..., None]).any(axis=-1)[MAIN.mask_BT]
    for acts in (uncertain > 0.8, p <= q, binds(ratio, np.log(p / old)), binds(ratio, group), binds(mixed, whitened), in_support):
        assert 0 < acts.sum() < 6
    ranked = -np.sort(-MAIN.logits["teacher"], axis=-1)[MAIN.mask_BT]
    assert np.abs(uncertain - 0.8).min() > 0.05 and np.abs(p - q).min() > 0.02 and (ranked[:, 2] - ranked[:, 3]).min() > 0.05
    assert min(np.abs(r - edge).min() for r in (ratio, mixed) for edge in (0.8, 1.2)) > 0.01
    for temperature in (1.0, 1.1):
        log_p, log_q = (log_softmax(MAIN.logits[model] / temperature)[MAIN.mask_BT] for model in ("self", "student"))
        entries = np.exp(log_p) * (log_p - log_q)
        assert 0 < (entries > 0.05).sum() < 20 and np.abs(entries - 0.05).min() > 1e-4


def test_likelihood_and_distillation_have_their_textbook_gradients() -> None:
    stream = SIX["data"]
    q, mask_BT1 = np.exp(stream.logp("student")), stream.mask_BT[..., None]
    expected = (q - onehot(stream.response_BT)) * mask_BT1 / 6.0
    np.testing.assert_allclose(Reference(sft, ("data",)).gradient(SIX)["data"], expected, atol=1e-9)
    for tau in (1.0, 2.0):
        p_tau, q_tau = (np.exp(log_softmax(stream.logits[model] / tau)) for model in ("teacher", "student"))
        found = Reference(partial(kd, tau=tau), ("data",)).gradient(SIX)["data"]
        np.testing.assert_allclose(found, tau * (q_tau - p_tau) * mask_BT1 / 6.0, atol=1e-9)
    cross_entropy = VARIANTS["kd"]["cross_entropy"].gradient(SIX)["data"]
    np.testing.assert_allclose(cross_entropy, REFERENCES["kd"].gradient(SIX)["data"], atol=1e-9)


def test_the_jsd_vanishes_at_both_ends_and_tends_to_the_two_kls_when_rescaled() -> None:
    forward, reverse = (VARIANTS["gkd"][name](SIX).loss for name in ("forward_kl", "reverse_kl"))
    near = 1e-6
    low, high = (Reference(partial(gkd, beta=beta))(SIX).loss for beta in (near, 1.0 - near))
    assert low < 1e-5 and high < 1e-5
    assert low / near == pytest.approx(forward, rel=1e-4)
    assert high / near == pytest.approx(reverse, rel=1e-4)
    assert 0.0 < REFERENCES["gkd"](SIX).loss < np.log(2.0)


def test_skew_divergences_reach_the_plain_kls_and_only_distillm2_detaches_its_mixture() -> None:
    loss = distillm(SIX, skew=0.0)(SIX.student_logits())["divergence"]
    assert loss == pytest.approx(VARIANTS["gkd"]["forward_kl"](SIX).loss)
    attached = VARIANTS["distillm"]["skew_reverse_kl"].gradient(SIX)["main"][0] / (1 / 6)
    detached = REFERENCES["distillm2"].gradient(SIX)["main"][0] / (1 / 8)
    gap = np.linalg.norm(detached - attached) / np.linalg.norm(attached)
    assert 0.02 < gap < 0.5


@pytest.mark.parametrize("name", ["gkd", "distillm2", "revisiting_opd", "kd"])
def test_a_divergence_is_zero_with_zero_gradient_where_student_and_teacher_agree(name: str) -> None:
    same = SIX
    for stream in ("main", "theirs", "data"):
        same = same.with_logits(stream, teacher=SIX[stream].logits["student"])
    assert REFERENCES[name](same).loss == pytest.approx(0.0, abs=1e-12)
    assert max(np.abs(g).max() for g in REFERENCES[name].gradient(same).values()) < 1e-8


def test_top_k_losses_reach_the_full_kls_at_k_equal_to_the_vocabulary() -> None:
    assert Reference(partial(revisiting_opd, k=7))(SIX).loss == pytest.approx(VARIANTS["gkd"]["reverse_kl"](SIX).loss)
    forward = Reference(partial(gkd, divergence="forward_kl", reduce=sequence_mean))
    open_gate = eopd(SIX, k=7, threshold=-1.0)(SIX.student_logits())["forward_kl"]
    assert open_gate == pytest.approx(forward(SIX).loss)
    assert Reference(partial(aopd, k=7, tau=1.0))(SIX).loss == pytest.approx(forward(SIX).loss)


def test_immediate_credit_descends_the_per_state_reverse_kl() -> None:
    even = on_policy(SIX)
    for t in range(4):
        exact = reverse_kl_gradient(even, t)
        for reference, scale in ((Reference(tml_opd), 6.0), (Reference(vopd), 6.0), (Reference(partial(aopd, tau=-1.0)), 8.0)):
            np.testing.assert_allclose(scale * expected_gradient(reference, even, t), exact, atol=1e-8)
        flat = even.with_stream("main", replace(even["main"], reward_B=np.ones(2)))
        np.testing.assert_allclose(6.0 * expected_gradient(Reference(partial(kdrl, beta=1.0)), flat, t), exact, atol=1e-8)


def test_the_closed_form_value_is_the_mean_log_ratio() -> None:
    centred = MAIN.logp("teacher") - MAIN.logp("student") + kl(MAIN.logp("student"), MAIN.logp("teacher"))[..., None]
    np.testing.assert_allclose((np.exp(MAIN.logp("student")) * centred).sum(axis=-1), 0.0, atol=1e-12)
    per_token = at_tokens(REFERENCES["vopd"].gradient(SIX)["main"], MAIN.response_BT)
    q_BT = np.exp(MAIN.sampled("student"))
    expected = -at_tokens(centred, MAIN.response_BT) * (1.0 - q_BT) / 6.0
    np.testing.assert_allclose(per_token[MAIN.mask_BT], expected[MAIN.mask_BT], atol=1e-8)


def test_tml_sum_is_six_times_the_token_mean() -> None:
    total, mean = VARIANTS["tml_opd"]["token_sum"], REFERENCES["tml_opd"]
    assert total(SIX).loss == pytest.approx(6.0 * mean(SIX).loss)
    np.testing.assert_allclose(total.gradient(SIX)["main"], 6.0 * mean.gradient(SIX)["main"], atol=1e-8)


def test_minillm_whitens_valid_tokens_and_forgets_what_whitening_removes() -> None:
    whitened = partial(minillm_advantage, MAIN, gamma=0.95, reward_cap=100.0, first=1, ddof=0)
    advantage = whitened(reward_scaling=0.5, discount_from=1)[MAIN.mask_BT]
    assert advantage.mean() == pytest.approx(0.0, abs=1e-12) and advantage.var() == pytest.approx(1.0, abs=1e-6)
    assert advantage[3] == advantage[5], "the last token of each response has return 0"
    rescaled = whitened(reward_scaling=1.0, discount_from=0)[MAIN.mask_BT]
    np.testing.assert_allclose(advantage, rescaled, atol=1e-6)
    assert REFERENCES["minillm"](SIX).loss == pytest.approx(VARIANTS["minillm"]["discount_from_t"](SIX).loss, abs=1e-7)


def test_minillm_return_by_hand_and_its_unit_weight_without_mixture() -> None:
    stream = replace(MAIN, mask_BT=np.array([[True, True, True, False], [True, False, False, False]]))
    r = 2.0 * (stream.sampled("teacher") - stream.sampled("old"))[0]
    returns = np.array([(r[1] + 0.95 * r[2]) / 2.0, r[2], 0.0, 0.0])
    found = minillm_advantage(stream, gamma=0.95, reward_scaling=0.5, reward_cap=100.0, first=1, discount_from=1, ddof=0)
    np.testing.assert_allclose(found[stream.mask_BT], (returns - returns.mean()) / np.sqrt(returns.var() + 1e-8), atol=1e-12)
    even = on_policy(SIX)
    unmixed = minillm(even, alpha=0.0)(even.student_logits())["policy"]
    assert unmixed == pytest.approx(0.0, abs=1e-12), "ratio 1 times advantages of mean 0"


def test_aopd_and_eopd_gates_split_as_stated() -> None:
    opd_only, imitation = (Reference(partial(aopd, tau=tau))(SIX).per_term for tau in (-1.0, 1.0))
    assert opd_only["forward_kl"] == 0.0 and imitation["policy"] == 0.0
    shut = Reference(partial(eopd, threshold=2.0))(SIX).per_term
    assert shut["forward_kl"] == 0.0 and shut["policy"] == REFERENCES["eopd"](SIX).per_term["policy"]


def test_opsd_cap_only_lowers_and_its_absence_is_the_forward_kl() -> None:
    free = Reference(partial(opsd, cap=np.inf, temperature=1.0))(SIX).loss
    assert free == pytest.approx(kl(MAIN.logp("self"), MAIN.logp("student"))[MAIN.mask_BT].mean())
    assert VARIANTS["opsd"]["temperature_1"](SIX).loss < free


def test_group_rewards_that_agree_carry_no_policy_signal() -> None:
    flat = SIX.with_stream("main", replace(MAIN, reward_B=np.ones(2)))
    for name in ("grpo", "kdrl"):
        assert REFERENCES[name](flat).per_term["policy"] == 0.0
    np.testing.assert_allclose(group_advantage(MAIN), np.array([0.5, -0.5]) / (np.sqrt(0.5) + 1e-4))
    at_reference = SIX.with_logits("main", reference=MAIN.logits["student"])
    assert REFERENCES["grpo"](at_reference).per_term["reference_kl"] == pytest.approx(0.0, abs=1e-15)


def test_a_clipped_token_has_no_gradient_and_an_unclipped_one_its_score() -> None:
    gradient_BTV = Reference(partial(grpo, beta=0.0)).gradient(SIX)["main"]
    ratio_BT = np.exp(MAIN.sampled("student") - MAIN.sampled("old"))
    advantage_B = group_advantage(MAIN)
    score_BTV = onehot(MAIN.response_BT) - np.exp(MAIN.logp("student"))
    for i, t in zip(*np.nonzero(MAIN.mask_BT), strict=True):
        clipped = ratio_BT[i, t] > 1.2 if advantage_B[i] > 0 else ratio_BT[i, t] < 0.8
        weight = 0.0 if clipped else ratio_BT[i, t] * advantage_B[i] / MAIN.mask_BT[i].sum() / 2.0
        np.testing.assert_allclose(gradient_BTV[i, t], -weight * score_BTV[i, t], atol=1e-9)


def test_orpo_keeps_the_pair_of_right_teacher_and_wrong_student_text() -> None:
    gradients = REFERENCES["orpo_distill"].gradient(SIX)
    for stream in ("theirs", "main"):
        assert np.all(gradients[stream][0] == 0.0) and np.abs(gradients[stream][1]).max() > 1e-3
    swapped = SIX.with_stream("theirs", replace(MAIN, reward_B=np.array([1.0, 1.0])))
    assert orpo_distill(swapped)(swapped.student_logits())["odds_ratio"] == pytest.approx(0.1 * np.log(2.0)), "equal odds"
    assert VARIANTS["orpo_distill"]["over_all_prompts"](SIX).loss == pytest.approx(REFERENCES["orpo_distill"](SIX).loss / 2.0)
