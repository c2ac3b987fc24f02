"""Limits, expectations and identities of the OPD references, and that the fixture sends tokens down each of their branches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from . import reference_baselines as baselines
from . import reference_opd_direct as direct
from . import reference_opd_more as more
from . import reference_opd_policy as policy
from .fixture import TOP_K, Fixture, Loss, crowd, six_tokens
from .loss import Reference
from .numerics import Array, at_tokens, entropy, kl, sequence_mean, top_k
from .reference_direct import gkd, sum_then_mean

SIX = six_tokens()
MAIN = SIX["main"]
EVEN = SIX.with_logits("main", old=MAIN.logits["student"])
SEEN = MAIN.mask_BT


def value(build: Callable[[Fixture], Loss], fixture: Fixture = SIX) -> float:
    return Reference(build)(fixture).loss


def slope(build: Callable[[Fixture], Loss], fixture: Fixture = EVEN) -> Array:
    return Reference(build).gradient(fixture)["main"]


def expected(build: Callable[[Fixture], Loss], t: int = 1) -> Array:
    """The gradient at position t of the first answer, averaged over its token drawn from the student."""
    total = np.zeros(7)
    for token, probability in enumerate(np.exp(MAIN.logp("student"))[0, t]):
        response_BT = MAIN.response_BT.copy()
        response_BT[0, t] = token
        total += probability * slope(build, EVEN.with_stream("main", replace(EVEN["main"], response_BT=response_BT)))[0, t]
    return total


def test_weights_of_f_divergences_descend_them() -> None:
    """E[w_f(u) grad log pS] is minus the gradient of the divergence: forward KL, JSD, reverse KL."""
    for name, build in (("forward_kl", partial(gkd, divergence="forward_kl")), ("jsd", gkd), ("reverse_kl", partial(gkd, divergence="reverse_kl"))):
        np.testing.assert_allclose(expected(partial(policy.opd_plus, divergence=name, cap=np.inf)), slope(build)[0, 1], atol=1e-7)


@pytest.mark.parametrize("alpha", [0.1, 1.0, 5.0])
def test_the_power_difference_descends_a_beta_divergence(alpha: float) -> None:
    """D = sum p^(a+1)/(a+1) - p q^a + const, whose slope in the logits is p_v (p_v^a - q_v^a - their mean under p)."""
    p, q = (np.exp(MAIN.logp(model))[0, 1] for model in ("student", "teacher"))
    gap = p**alpha - q**alpha
    kept = 4.0  # of the six tokens the two stop tokens are left out
    np.testing.assert_allclose(kept * expected(partial(more.power_opd, alpha=alpha)), p * (gap - (p * gap).sum()), atol=1e-8)


def test_a_rejected_token_gives_to_its_alternatives_and_to_no_others() -> None:
    gradient = 6.0 * slope(more.cr_opd)
    log_p, log_q = MAIN.logp("student"), MAIN.logp("teacher")
    gain = log_q - log_p + kl(log_p, log_q)[..., None]
    advantage = np.clip(at_tokens(gain, MAIN.response_BT), -5.0, 5.0)
    routed = 0
    for i, t in zip(*np.nonzero(SEEN), strict=True):
        y, g = MAIN.response_BT[i, t], gradient[i, t]
        fine = [v for v in range(7) if v != y and np.exp(log_q[i, t, v]) >= 0.05 and np.exp(log_p[i, t, v]) >= 0.02 and gain[i, t, v] > 0]
        if advantage[i, t] < 0.0 and fine:
            routed += 1
            assert g[y] == pytest.approx(-advantage[i, t], abs=1e-7)
            others = [v for v in range(7) if v != y and v not in fine]
            np.testing.assert_allclose(g[others], 0.0, atol=1e-8)
        else:
            score = np.eye(7)[y] - np.exp(log_p[i, t])
            np.testing.assert_allclose(g, -advantage[i, t] * score, atol=1e-7)
    assert 0 < routed < 6
    assert np.abs(slope(partial(more.cr_opd, top=(3, 5))) - slope(more.cr_opd)).max() > 1e-3


def test_each_candidate_pushed_is_the_reverse_kl_where_all_are_candidates() -> None:
    np.testing.assert_allclose(slope(partial(policy.rethinking_opd, k=7)), slope(direct.divergence), atol=1e-8)
    np.testing.assert_allclose(expected(partial(more.async_opd, n=1)), slope(direct.divergence)[0, 1], atol=1e-8)


def test_further_draws_follow_the_student_and_tend_to_the_reverse_kl() -> None:
    seeds = np.random.RandomState(5).randint(-(2**62), 2**62, size=(2, 4))
    uniform = more.splitmix(seeds, 4000)
    assert abs(uniform.mean() - 0.5) < 0.01 and uniform.std() == pytest.approx(12**-0.5, abs=0.01)
    exact, drawn = slope(direct.divergence), slope(partial(more.async_opd, n=20_000))
    assert np.linalg.norm(drawn - exact) < 0.1 * np.linalg.norm(exact)


def test_bridges_and_extrapolations_at_their_ends() -> None:
    assert value(partial(direct.veto, b=0.0)) == pytest.approx(value(partial(gkd, divergence="forward_kl")))
    np.testing.assert_allclose(slope(partial(policy.g_opd, lam=1.0)), slope(policy.sampled), atol=1e-9)
    np.testing.assert_allclose(slope(partial(policy.iw_opd, gamma=0.0)), slope(policy.sampled), atol=1e-9)


@pytest.mark.parametrize("b", [0.0, 0.3, 0.8])
def test_the_reverse_bridge_has_its_published_advantage(b: float) -> None:
    def published(fixture: Fixture) -> Loss:
        return policy.plain(fixture, fixture["main"].sampled("teacher") - (1.0 - b) * fixture["main"].sampled("student"))

    np.testing.assert_allclose(expected(published), slope(partial(direct.veto, b=b, reverse=True))[0, 1], atol=1e-8)


def test_generalised_advantages_at_their_ends() -> None:
    reward = policy.log_ratio(MAIN)
    rest = np.where(SEEN, reward, 0.0)[:, ::-1].cumsum(axis=1)[:, ::-1]
    np.testing.assert_allclose(more.gae(MAIN, reward, 1.0, 1.0)[SEEN], (rest - MAIN.value_BT)[SEEN])
    np.testing.assert_allclose(more.gae(MAIN, reward, 0.0, 0.5)[SEEN], (reward - MAIN.value_BT)[SEEN])
    step = more.gae(MAIN, reward, 1.0, 0.0)
    assert step[0, 0] == pytest.approx(reward[0, 0] + MAIN.value_BT[0, 1] - MAIN.value_BT[0, 0])


def test_trusted_tokens_and_outliers_are_complements() -> None:
    own = ~MAIN.given_BT & SEEN
    trust = EVEN.with_stream("main", replace(EVEN["main"], uniform_BT=np.zeros((2, 4))))
    doubt = EVEN.with_stream("main", replace(EVEN["main"], uniform_BT=np.ones((2, 4))))
    assert Reference(policy.tropd)(trust).per_term["forward_kl"] == 0.0 and Reference(policy.tropd)(doubt).per_term["policy"] == 0.0
    forward = kl(MAIN.logp("teacher"), MAIN.logp("student"))
    assert Reference(partial(policy.tropd, k=7))(doubt).per_term["forward_kl"] == pytest.approx(forward[own].sum() / 6.0)
    accepted = (MAIN.uniform_BT < np.exp(policy.log_ratio(EVEN["main"])))[own]
    assert 0 < accepted.sum() < own.sum() == 3


def test_means_that_shift_end_at_their_margin() -> None:
    """After the shift the right answers' mean log-ratio is the wanted distance above the wrong ones'; a margin already there moves nothing."""
    r = [policy.log_ratio(MAIN)[i, :n].mean() for i, n in enumerate((4, 2))]
    gap = r[0] - r[1]
    unmoved = Reference(partial(more.uni_opd, delta=gap - 0.1))(SIX).loss
    assert unmoved == pytest.approx(Reference(partial(more.uni_opd, delta=gap - 5.0))(SIX).loss)
    assert abs(Reference(partial(more.uni_opd, delta=gap + 2.0))(SIX).loss - unmoved) > 1e-3


def test_baselines_centre_and_follow_their_rewards() -> None:
    assert baselines.centred_reward(SIX)[SEEN].sum() == pytest.approx(0.0, abs=1e-12)
    flat = SIX.with_stream("main", replace(MAIN, reward_B=np.ones(2)))
    assert value(baselines.reinforce, flat) == pytest.approx(0.0, abs=1e-12)
    assert value(baselines.group_policy, flat) == 0.0


def test_credit_for_later_states_is_the_slope_of_the_summed_cross_entropy() -> None:
    """For an answer of two tokens over the drawn first one: the later cross-entropy, which differs by token, enters by its expectation."""
    stream = EVEN["main"]
    terms = direct.distil(EVEN)(EVEN.student_logits())
    later = -(np.exp(stream.logp("self")) * stream.logp("student")).sum(axis=-1)
    rest = np.where(SEEN, later, 0.0)[:, ::-1].cumsum(axis=1)[:, ::-1] - np.where(SEEN, later, 0.0)
    centred = rest - rest[SEEN].mean()
    assert terms["credit"] == pytest.approx(sum_then_mean(centred * stream.sampled("student"), SEEN))
    assert rest[0, 3] == rest[1, 1] == 0.0, "nothing follows the last token"


def test_the_fixture_acts_on_some_tokens_and_spares_others_with_a_margin() -> None:
    reward, floor = policy.log_ratio(MAIN)[SEEN], np.log(0.3) / 0.7
    released = slope(partial(policy.prefix_teach, segment=1, least=1), SIX)
    overlap = (top_k(MAIN.logp("teacher"), TOP_K)[..., None] == top_k(MAIN.logp("old"), TOP_K)[..., None, :]).any(-1).mean(-1)[SEEN]
    for acts in (reward < floor, np.abs(released).max(axis=-1)[SEEN] > 0.0, overlap < 0.5):
        assert 0 < acts.sum() < 6
    assert np.abs(reward - floor).min() > 0.04
    uncertain = np.sort(entropy(MAIN.logp("old"))[SEEN])
    assert uncertain[-2] - uncertain[-3] > 0.02, "two of six are the most uncertain fifth, rounded up"


def test_what_compares_prompts_tells_them_apart_in_a_crowd() -> None:
    many = crowd()
    whole = Reference(partial(direct.divergence, forward=True, reduce=sequence_mean))
    assert abs(Reference(direct.paced)(many).loss - whole(many).loss) > 1e-3
    easy = slope(direct.paced, many)[:2], slope(direct.delta_prompts, many)[:2]
    assert not np.any(easy[0]) and not np.any(easy[1]), "a prompt that is always answered rightly teaches nothing"
    assert Reference(direct.paced)(SIX).loss == pytest.approx(Reference(partial(direct.divergence, forward=True, reduce=sequence_mean))(SIX).loss)
    ratios, differences = (Reference(partial(direct.npd, tails=(0.3, 0.7), difference=d)) for d in (False, True))
    assert np.isfinite([ratios(many).loss, differences(many).loss]).all()


def test_a_sharp_mix_is_a_switch_between_its_two_terms() -> None:
    sharp = Reference(partial(more.eopd_soft, slope=200.0))(SIX).per_term
    shut = entropy(MAIN.logp("teacher")) <= 0.8
    assert 0 < shut[SEEN].sum() < 6
    clipped = policy.clipped(MAIN, MAIN.logits["student"], policy.log_ratio(MAIN))
    assert sharp["policy"] == pytest.approx(sequence_mean(shut * clipped, SEEN), abs=1e-4)
