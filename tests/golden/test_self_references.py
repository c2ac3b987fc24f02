"""Limits and identities of the references of self-distillation, and how far the entries' declared choices are from the cards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from . import reference_self_direct as direct
from . import reference_self_policy as policy
from . import reference_self_routed as routed
from . import reference_self_texts as texts
from .fixture import Fixture, Loss, crowd, six_tokens
from .list_self import IN_CONTEXT, SELF, SELF_VARIANTS, UNEVEN, mixed
from .loss import Reference
from .numerics import Array, entropy, generalized_jsd, kl, log_softmax, sequence_mean, token_mean
from .reference_direct import gkd, sft
from .reference_opd_direct import divergence
from .reference_outcome import grpo

SIX, CROWD, MIXED = six_tokens(), crowd(), mixed()
MAIN = SIX["main"]
SEEN = MAIN.mask_BT
EVEN = SIX.with_logits("main", old=MAIN.logits["student"])


def value(build: Callable[[Fixture], Loss], fixture: Fixture = SIX) -> float:
    return Reference(build)(fixture).loss


def slope(build: Callable[[Fixture], Loss], fixture: Fixture = EVEN, stream: str = "main") -> Array:
    return Reference(build, (stream,)).gradient(fixture)[stream]


def test_on_the_whole_vocabulary_supports_do_not_matter() -> None:
    reverse = value(partial(divergence, model="self"))
    assert value(partial(direct.opcd, k=7)) == pytest.approx(reverse)
    half = value(partial(direct.sdzero, k=7, mix=0.0)), value(partial(direct.sdzero, k=7, mix=1.0))
    assert half[0] == pytest.approx(reverse)
    assert half[1] == pytest.approx(kl(MAIN.logp("self"), MAIN.logp("student"))[SEEN].mean())
    full = generalized_jsd(MAIN.logp("self"), MAIN.logp("student"), 0.5)[SEEN].mean()
    assert value(partial(direct.sdpo, k=6, gated=False), EVEN) == pytest.approx(full), "six entries and one for the seventh"
    coarse = value(partial(direct.sdpo, k=2, gated=False), EVEN)
    assert 0.0 < coarse < full, "a bucket hides what differs inside it"


def test_a_head_with_its_tail_is_the_divergence_to_the_cut_teacher() -> None:
    log_p, log_q = MAIN.logp("self"), MAIN.logp("student")
    cut = np.where(np.argsort(np.argsort(-log_p, axis=-1), axis=-1) < 3, np.exp(log_p), 0.0)
    cut = cut / cut.sum(axis=-1, keepdims=True)
    middle, q = (cut + np.exp(log_q)) / 2.0, np.exp(log_q)
    brute = 0.5 * np.where(cut > 0.0, cut * np.log(np.where(cut > 0.0, cut, 1.0) / middle), 0.0).sum(axis=-1) + 0.5 * (q * np.log(q / middle)).sum(axis=-1)
    np.testing.assert_allclose(direct.jsd_against_head(log_p, log_q, 3, tail=True), brute, atol=1e-12)
    assert (direct.jsd_against_head(log_p, log_q, 3, tail=False) < brute).all()


def test_switched_off_the_policies_are_grpo() -> None:
    plain = value(partial(grpo, beta=0.0))
    assert value(partial(policy.ssopd, lam=0.0)) == pytest.approx(plain)
    assert value(partial(policy.vold, beta=0.0)) == pytest.approx(plain)
    open_gate = partial(policy.egrsd, floor=1.0, eps=0.0)
    assert value(open_gate) == pytest.approx(value(partial(grpo, beta=0.0, reduce=token_mean)))
    unweighted = slope(partial(policy.rlsd, lam=0.0))
    np.testing.assert_allclose(unweighted, slope(partial(grpo, beta=0.0)), atol=1e-9)


def test_the_verifier_gives_the_sign_and_the_teacher_the_size() -> None:
    """A token of a right answer that the informed self finds likelier weighs more, and one of a wrong answer less."""
    weighed, plain = (slope(partial(policy.rlsd, lam=lam)) for lam in (1.0, 0.0))
    for i, t in zip(*np.nonzero(SEEN), strict=True):
        size = np.linalg.norm(weighed[i, t]) / np.linalg.norm(plain[i, t])
        d = policy.gain(EVEN["main"])[i, t] * (1.0 if MAIN.reward_B[i] else -1.0)
        assert size == pytest.approx(np.clip(np.exp(d), 0.8, 1.2), rel=1e-6)


def test_a_passing_uncertainty_is_no_lasting_one() -> None:
    ahead, alone = (value(partial(policy.egrsd, window=w, floor=0.0)) for w in (16, None))
    assert ahead != pytest.approx(alone, rel=1e-3)
    flat = SIX.with_logits("main", self=np.tile(MAIN.logits["self"][:, :1], (1, 4, 1)))
    assert value(partial(policy.egrsd, window=16), flat) == pytest.approx(value(policy.egrsd, flat))


def test_groups_of_one_verdict_distil_nothing() -> None:
    for verdict in (np.zeros(2), np.ones(2)):
        pure = SIX.with_stream("main", replace(MAIN, reward_B=verdict))
        assert set(Reference(policy.ssopd)(pure).per_term.values()) == {0.0}
    assert Reference(policy.vold)(SIX.with_stream("main", replace(MAIN, reward_B=np.ones(2)))).per_term["divergence"] == 0.0


def test_the_longest_wrong_answer_of_each_mixed_group_is_shown_the_shortest_right_one() -> None:
    only = slope(lambda fixture: lambda student: {"d": policy.ssopd(fixture)(student)["divergence"]}, CROWD)
    assert np.flatnonzero(np.abs(only).max(axis=(1, 2))).tolist() == [3, 7]


def test_the_direct_term_of_pi_distill_is_the_likelihood_of_its_tokens() -> None:
    """The audit: re-using the teacher's shaped reward for the student would ascend KL(piS || piT)."""
    one_sided = partial(policy.pi_distill, alpha=0.0, beta=1.0)
    quiet = SIX.with_stream("main", replace(MAIN, reward_B=np.ones(2)))
    expected = slope(lambda fixture: texts.chosen(fixture, {"main": None}, reduce=sequence_mean), quiet)
    np.testing.assert_allclose(slope(one_sided, quiet), expected, atol=1e-9)
    own, card = SELF["pi_distill"](MIXED), SELF_VARIANTS["pi_distill"]["card"](MIXED)
    assert own.per_term["kl"] == card.per_term["kl"]
    assert own.per_term["teacher"] != pytest.approx(card.per_term["teacher"], rel=1e-3)


def test_routes_are_complements_and_weights_have_mean_one() -> None:
    terms = Reference(partial(routed.srpo, b=0.0, k=6))(MIXED).per_term
    main = MIXED["main"]
    distil_BT = main.mask_BT & ((main.reward_B < 0.5) & ~direct.alone(main))[:, None]
    whole = generalized_jsd(main.logp("self"), main.logp("student"), 0.5)
    assert terms["distil"] == pytest.approx((whole * distil_BT)[main.mask_BT].mean()), "without an entropy weight, a plain mean"
    gradient = np.abs(Reference(partial(routed.srpo, b=0.0)).gradient(MIXED)["main"]).max(axis=(1, 2)) > 0.0
    assert gradient.tolist() == [True, True, True, True, False, False, False, False]
    own, card = SELF["srpo"](CROWD).per_term, SELF_VARIANTS["srpo"]["card"](CROWD).per_term
    assert own["policy"] == card["policy"] and 0.5 < own["distil"] / card["distil"] < 2.0


def test_prompts_that_never_fail_alone_have_no_cliff() -> None:
    rows = np.abs(UNEVEN["hdpo"].gradient(MIXED)["theirs"]).max(axis=(1, 2)) > 0.0
    assert np.flatnonzero(rows).tolist() == [4, 6], "right hinted answers to the prompt that nobody solved"
    tail = slope(partial(routed.hdpo, tail=True), MIXED, "theirs")
    assert np.abs(tail - UNEVEN["hdpo"].gradient(MIXED)["theirs"]).max() > 1e-5


def test_the_first_turns_baseline_leaves_a_signal_where_the_seconds_leaves_none() -> None:
    """2602.02482: where all second answers are right their own mean says nothing, the first answers' does."""
    solved = MIXED.with_stream("data", replace(MIXED["data"], reward_B=np.ones(8)))
    assert not slope(partial(policy.rltf_sd, first_baseline=False), solved, "data").any()
    assert np.abs(slope(policy.rltf_sd, solved, "data")).max() > 1e-3


def test_gates_open_by_the_tutors_votes() -> None:
    """On the third prompt, where the student is never right, and not on the second one, on which its tutors do not agree."""
    signal = slope(partial(routed.gates, weights=(0.0, 1.0, 0.0)), MIXED)
    assert (np.abs(signal).max(axis=(1, 2)) > 0.0).tolist() == [True, True, False, False, True, True, True, True]


def test_foreign_tokens_are_learned_less_than_ones_own() -> None:
    stream = SIX["data"]
    likelihood = value(lambda fixture: texts.ddt(fixture, bounds=(0.0, 0.0)))
    assert likelihood == pytest.approx(value(sft)), "no power, no weight"
    square = -(np.exp(stream.sampled("student")) * stream.sampled("student"))[stream.mask_BT].mean()
    assert value(partial(texts.ddt, bounds=(1.0, 1.0))) == pytest.approx(square)
    surprise = stream.sampled("student") + entropy(stream.logp("student"))
    expected = (np.exp(stream.logp("student")) * (stream.logp("student") + entropy(stream.logp("student"))[..., None])).sum(axis=-1)
    np.testing.assert_allclose(expected, 0.0, atol=1e-12)
    power = np.clip(np.exp(-surprise), 0.1, 2.0)[stream.mask_BT]
    assert (power == 2.0).any() and (power < 2.0).any()


def test_preferences_rise_with_the_gap_that_was_there() -> None:
    for name, (winner, loser) in {"pbsd": ("theirs", "main"), "spin": ("data", "theirs")}.items():
        same = SIX
        for stream in (winner, loser):
            same = same.with_logits(stream, self=SIX[stream].logits["student"])
        assert SELF[name](same).loss == pytest.approx(np.log(2.0)), "at the opponent itself a coin is thrown"
        raised = SELF[name].gradient(SIX)
        at = SIX[winner].response_BT[0, 0]
        assert raised[winner][0, 0, at] < 0.0 < raised[loser][0, 0, SIX[loser].response_BT[0, 0]]


def test_pooled_texts_are_two_means_by_their_numbers() -> None:
    """star's card has one set: the entry's two means weighed by the tokens of each kind."""
    own, card = SELF["star"](MIXED), SELF_VARIANTS["star"]["card"](MIXED)
    rows = [np.abs(SELF["star"].gradient(MIXED)[name]).max(axis=(1, 2)) > 0.0 for name in ("main", "theirs")]
    assert np.flatnonzero(rows[1]).tolist() == [4, 6], "failed without the hint, right with it"
    tokens = np.array([MIXED[name].mask_BT[kept].sum() for name, kept in zip(("main", "theirs"), rows, strict=True)])
    assert card.loss == pytest.approx((tokens * np.array(list(own.per_term.values()))).sum() / tokens.sum())


def test_what_unisd_leaves_out_is_a_hundredth() -> None:
    plain, published = (SELF_VARIANTS["unisd"][name](SIX) for name in ("plain", "published"))
    assert plain.loss == pytest.approx(value(partial(gkd, divergence="forward_kl", reduce=sequence_mean), SIX.with_logits("main", teacher=MAIN.logits["self"])))
    assert published.per_term["divergence"] == pytest.approx(plain.loss, rel=1e-3), "weights between 0.99 and 1, normalised"
    assert 0.0 < published.per_term["contrast"] < 0.05
    strong = Reference(partial(direct.unisd, gamma=1.0))(SIX).per_term["divergence"]
    assert abs(strong - plain.loss) > 1e-3


def test_contexts_are_read_by_responses_or_by_tokens() -> None:
    assert IN_CONTEXT(SIX).loss != pytest.approx(value(partial(divergence, model="self")), rel=1e-3)
    mean, largest = SELF["dail"](SIX).per_term, kl(MAIN.logp("student"), MAIN.logp("wrong"))
    assert mean["avoid"] == pytest.approx(-0.1 * np.where(SEEN, largest, 0.0).sum(axis=1).mean())
    warm = log_softmax(SIX["theirs"].logits["self"] / 2.0), log_softmax(SIX["theirs"].logits["student"] / 2.0)
    assert SELF["ssb"](SIX).loss == pytest.approx(4.0 * kl(*warm)[SIX["theirs"].mask_BT].mean())
