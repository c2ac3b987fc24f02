"""Cards of self-distillation that send answers or prompts to one of several losses, and sampled log-ratios.

Notation as in `reference_self_policy`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from .fixture import TOP_K, Fixture, Loss, Stream, Terms
from .numerics import Array, entropy, generalized_jsd, kl, log_softmax, pick, sequence_mean, token_mean, top_k
from .reference_direct import Reduce, nll
from .reference_guided import along
from .reference_opd_policy import clipped, plain
from .reference_outcome import group_advantage
from .reference_self_direct import alone, jsd_against_head, with_tail
from .reference_self_policy import gain, pass_rate


def sampled(fixture: Fixture, *, model: str = "self", reduce: Reduce = token_mean) -> Loss:
    """-sg[log pT(y_t) - log pS(y_t)] log pS(y_t): opsdl (2604.17535, a sum over tokens, pT shown the short context), video_opd (2602.02994), vla_opd
    (2603.26666, (1/G) sum_g mean_t), the last two with an external teacher. open: the mean over opsdl's responses."""
    stream = fixture["main"]
    return plain(fixture, gain(stream, model), reduce=reduce)


def srpo(fixture: Fixture, *, k: int = TOP_K, b: float = 1.0, routed: bool = False) -> Loss:
    """Wrong answers with a right sibling distil, all others go to GRPO; one mean over all tokens (2604.02288, audited).

    w_t = |Omega| exp(-b H_T) / sum_Omega exp(-b H_T) over the tokens Omega that distil (`routed`, variant `card`); taken, as the entry declares, the mean of
    exp(-b H_T) over all tokens of the batch in its place. JSD on the student's top-k and a tail entry (the tail is SDPO's); k = 3 (100); at ratio 1 no clip.
    """
    stream = fixture["main"]
    right_B = stream.reward_B >= 0.5
    distil_BT = stream.mask_BT & (~right_B & ~alone(stream))[:, None]
    ids_BTK = top_k(stream.logp("student"), k)
    log_p = with_tail(pick(stream.logp("self"), ids_BTK))
    sure_BT = np.exp(-b * entropy(stream.logp("self")))
    weight_BT = sure_BT / sure_BT[distil_BT if routed else stream.mask_BT].mean()
    policy_BT = along(stream, group_advantage(stream)) * ~distil_BT

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q = with_tail(pick(log_softmax(student["main"]), ids_BTK))
        distil = weight_BT * distil_BT * generalized_jsd(log_p, log_q, 0.5)
        return {"policy": token_mean(policy_BT * nll(stream, student["main"]), stream.mask_BT), "distil": token_mean(distil, stream.mask_BT)}

    return loss


def hdpo(fixture: Fixture, *, lam: float = 0.01, k: int = TOP_K, tail: bool = False) -> Loss:
    """GRPO with a leave-one-out advantage, and a JSD on right hinted answers `theirs` to prompts whose plain answers all failed (2603.23871, audited).

    JSD of the whole student and the hinted self's renormalised top-k, k = 3 (64); token means, the second over the kept answers' tokens; clip 0.2, no KL;
    lam 0.01.
    The entries outside the top-k count P_rest ln 2 / 2 (`tail`, variant `card`); taken, as the entry declares: without those.
    """
    stream, hinted = fixture["main"], fixture["theirs"]
    count_B = np.array([(stream.group_B == g).sum() for g in stream.group_B])
    leave_B = (stream.reward_B - pass_rate(stream)) * count_B / np.maximum(count_B - 1, 1)
    right_B, failed_B = hinted.reward_B > 0.5, np.isin(hinted.group_B, stream.group_B[pass_rate(stream) == 0.0])
    kept_BT = hinted.mask_BT & (right_B & failed_B)[:, None]
    log_p = hinted.logp("self")

    def loss(student: Mapping[str, Array]) -> Terms:
        distance_BT = jsd_against_head(log_p, log_softmax(student["theirs"]), k, tail=tail)
        return {
            "policy": token_mean(clipped(stream, student["main"], along(stream, leave_B), 0.2), stream.mask_BT),
            "divergence": lam * token_mean(distance_BT, kept_BT) if kept_BT.any() else 0.0,
        }

    return loss


def gates(fixture: Fixture, *, weights: tuple[float, float, float] = (1.0, 0.1, 0.02), cap: float = 5.0) -> Loss:
    """Likelihood of the tutor's agreeing texts `theirs`, the clipped log-ratio on the student's own, and a KL to the initial student (2602.20574).

    Off: mean over kept texts of (1/|y|) sum -log pS, kept being those that agree with their group's consensus; on: -A log pS, A = clip(D_t, -5, 5), over the
    answers to questions on which the tutors agree; 0.02 KL(pS || pRef), its form open. A verdict of the fixture stands for the vote.
    open: the second mean (per response, then over kept ones).
    """
    stream, tutor = fixture["main"], fixture["theirs"]
    kept_B = tutor.reward_B > 0.5
    open_B = np.isin(stream.group_B, tutor.group_B[kept_B])
    advantage_BT, log_reference = np.clip(gain(stream), -cap, cap), stream.logp("reference")

    def loss(student: Mapping[str, Array]) -> Terms:
        off_BT, on_BT = nll(tutor, student["theirs"]), advantage_BT * nll(stream, student["main"])
        return {
            "off": weights[0] * sequence_mean(off_BT[kept_B], tutor.mask_BT[kept_B]),
            "on": weights[1] * sequence_mean(on_BT[open_B], stream.mask_BT[open_B]),
            "reference_kl": weights[2] * sequence_mean(kl(log_softmax(student["main"]), log_reference), stream.mask_BT),
        }

    return loss


def dapo(fixture: Fixture, *, limit: int = 20480, buffer: int = 4096) -> Loss:
    """Token-mean surrogate with clip 0.2 / 0.28 on mixed groups, no KL (2503.14476, audited): R = +-1 plus the soft penalty of length.

    0 up to limit - buffer, then (limit - buffer - |y|) / buffer, -1 beyond the limit. Groups all right or all wrong leave the sum and its denominator.
    open: the std's form and constant (those of `grpo`).
    """
    stream = fixture["main"]
    length_B, rate_B = stream.mask_BT.sum(axis=1), pass_rate(stream)
    penalty_B = np.where(length_B > limit, -1.0, np.minimum((limit - buffer - length_B) / buffer, 0.0))
    advantage_B = group_advantage(replace(stream, reward_B=2.0 * stream.reward_B - 1.0 + penalty_B))
    kept_BT = stream.mask_BT & ((rate_B > 0.0) & (rate_B < 1.0))[:, None]
    return lambda student: {"policy": token_mean(clipped(stream, student["main"], along(stream, advantage_B), 0.2, 0.28), kept_BT)}


def gains(stream: Stream) -> Array:
    """How the verdict of a dialogue changes with each turn, at the tokens of the turn, in {-1, 0, 1}: 0 before the first, at the end the answer's own."""
    assert stream.turn_BT is not None
    found_BT = np.zeros(stream.mask_BT.shape)
    for i, inside_T in enumerate(stream.mask_BT):
        last = stream.turn_BT[i, inside_T].max()
        after = [float((i + k) % 2) for k in range(last)] + [stream.reward_B[i]]
        found_BT[i] = np.diff([0.0, *after])[np.minimum(stream.turn_BT[i], last)]
    return found_BT


def openclaw_rl(fixture: Fixture) -> Loss:
    """A_t = r + log pT(a_t | hint) - log pOld(a_t), r that of the token's turn, in a surrogate clipped at 0.2 / 0.28; mean over tokens (2603.10165, code).

    The printed sum: both parts live in a sample (in the shipped loss one of them). r in {-1, 0, 1}: here how the verdict of a dialogue changes with its turns.
    """
    stream = fixture["main"]
    advantage_BT = gains(stream) + gain(stream)
    return lambda student: {"policy": token_mean(clipped(stream, student["main"], advantage_BT, 0.2, 0.28), stream.mask_BT)}
