"""Agents: losses on dialogues of several turns, by turns, spans between replies, and whole dialogues.

Notation as in `reference_guided`. A turn k is what the student writes before the environment replies; replies are never learned, and no sum or mean counts
them. `main` is that of `fixture.dialogues`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from .fixture import Fixture, Loss, Stream, Terms
from .numerics import Array, Mask, kl, log_softmax, sequence_mean, token_mean
from .reference_direct import nll, sum_then_mean
from .reference_guided import along, surrogate
from .reference_opd_policy import clipped, log_ratio
from .reference_outcome import group_advantage


def pieces(stream: Stream) -> list[tuple[int, Mask]]:
    """Each turn of the batch: the dialogue's row and the turn's own tokens, (T,)."""
    assert stream.turn_BT is not None
    found = []
    for i, (inside_T, turn_T) in enumerate(zip(stream.mask_BT, stream.turn_BT, strict=True)):
        found += [(i, inside_T & (turn_T == k)) for k in np.unique(turn_T[inside_T])]
    return found


def turn_mean(values_BT: Array, stream: Stream) -> float:
    """Mean over each turn's tokens, then over all turns of the batch."""
    return float(np.mean([values_BT[i, own_T].mean() for i, own_T in pieces(stream)]))


def turns_summed(values_BT: Array, stream: Stream) -> float:
    """Mean over each turn's tokens, summed over a dialogue's turns; mean over the dialogues."""
    return float(np.sum([values_BT[i, own_T].mean() for i, own_T in pieces(stream)]) / len(values_BT))


def step_weight(stream: Stream, gap_BT: Array, delta: float, eps: float) -> Array:
    """SOD's w_k on the tokens of step k: 1, then the running product of (d_u + eps) / (d_{u+1} + eps), each bounded by 1 + delta but not the product itself."""
    weight_BT = np.ones_like(gap_BT)
    for i, inside_T in enumerate(stream.mask_BT):
        edges = np.flatnonzero(np.diff(np.concatenate([[False], inside_T, [False]]).astype(int)))
        product, before = 1.0, None
        for start, end in edges.reshape(-1, 2):
            d = gap_BT[i, start:end].mean()
            product = product if before is None else product * (before + eps) / (d + eps)
            weight_BT[i, start:end] = 1.0 if before is None else min(product, 1.0 + delta)
            before = d
    return weight_BT


def sod(fixture: Fixture, *, delta: float = 0.2, eps: float = 1e-6) -> Loss:
    """Group advantage and the sampled log-ratio, the latter weighed step by step (2605.07725, audited): A_t = A_i + w_k(t) r_t, clip 0.2 / 0.28, token mean.

    Steps are the student's spans between replies, d_k = mean_k |r_t|, w_1 = 1. delta 0.2 is the script's. open: the constant beside the group's deviation
    (taken: eps too).
    """
    stream = fixture["main"]
    reward_BT = log_ratio(stream)
    weight_BT = step_weight(stream, np.abs(reward_BT), delta, eps)
    advantage_BT = along(stream, group_advantage(stream, eps=eps)) + weight_BT * reward_BT
    return lambda student: {"policy": token_mean(clipped(stream, student["main"], advantage_BT, 0.2, 0.28), stream.mask_BT)}


def tcod(fixture: Fixture, *, clip: float = 0.2) -> Loss:
    """The sampled log-ratio on the turns that the curriculum lets the student act (2604.24005, audited): PPO's surrogate, a turn being one row, mean over
    a turn's tokens and then over turns. Who acts when is the stream's. open: the clip range."""
    stream = fixture["main"]
    return lambda student: {"policy": turn_mean(clipped(stream, student["main"], log_ratio(stream), clip), stream)}


def step_opsd(fixture: Fixture, *, alpha: float = 0.2, lam: float = 0.5) -> Loss:
    """Hindsight moves the outcome's advantage between the tokens of one step (2605.27140, a reconstruction).

    delta_t = log pT(y_t | hindsight) - log pS(y_t); w_t = clip(exp(sign(A_i) delta_t), 1 - alpha, 1 + alpha), divided by its mean over the step;
    A_t = A_i ((1 - lam) + lam w_t). open: alpha, lam, the GRPO loss's clip (0.2) and mean (tokens, as in the entry).
    """
    stream = fixture["main"]
    group_BT = along(stream, group_advantage(stream))
    weight_BT = np.clip(np.exp(np.sign(group_BT) * (stream.sampled("self") - stream.sampled("old"))), 1.0 - alpha, 1.0 + alpha)
    for i, own_T in pieces(stream):
        weight_BT[i, own_T] /= weight_BT[i, own_T].mean()
    return surrogate(fixture, group_BT * (1.0 - lam + lam * weight_BT), reduce=token_mean)


def cei(fixture: Fixture) -> Loss:
    """sum_t KL(pT^e || pS) on episodes written with the experience in view, those that succeeded (2606.04703): rejected ones are no part of the mean."""
    stream = fixture["main"]
    log_p, kept_B = stream.logp("self"), stream.reward_B > 0.5
    return lambda student: {"divergence": sum_then_mean(kl(log_p, log_softmax(student["main"]))[kept_B], stream.mask_BT[kept_B])}


def skill_sd(fixture: Fixture, *, lam: float = 0.1, current: bool = False) -> Loss:
    """GRPO and a k3 to the student shown skills (2604.10674): + lam (1/N) sum rho_t (exp(-l_t) - 1 + l_t), l_t = log pS(y_t) - log pT(y_t | skills).

    open: whether rho_t is differentiated (the card derives what it does when stopped; taken: stopped), lam (0.1), and when it is read. Taken: when the batch
    is scored, where it is 1. `current`: at each step, the current policy over the rollout's.
    """
    stream = fixture["main"]
    taught_BT = stream.sampled("self")
    rho_BT = np.exp(stream.sampled("student") - stream.sampled("old")) if current else 1.0
    policy = surrogate(fixture, along(stream, group_advantage(stream)))

    def loss(student: Mapping[str, Array]) -> Terms:
        l_BT = -nll(stream, student["main"]) - taught_BT
        return {**policy(student), "skills": lam * token_mean(rho_BT * (np.exp(-l_BT) - 1.0 + l_BT), stream.mask_BT)}

    return loss


def dagger_llm(fixture: Fixture) -> Loss:
    """Likelihood of the teacher's action in visited states (2605.12913), of labels that succeeded; `main` stands for the labels.

    The card sums over the aggregated set. Taken: the mean over its tokens (entry), rejected labels being no part of it.
    """
    stream = fixture["main"]
    kept_B = stream.reward_B > 0.5
    return lambda student: {"likelihood": token_mean(nll(stream, student["main"])[kept_B], stream.mask_BT[kept_B])}


def hypereyes(fixture: Fixture, *, frugal: float = 0.2, kd: float = 1.0) -> Loss:
    """Group advantage of accuracy and frugality, and the teacher's log-ratio on failed dialogues, before one clip (2605.07177, text core).

    A_t = A_i + 1[R_acc = 0] r_t (the code's form), each dialogue's mean over its action tokens. open: the tool-cost reward and its share (0.2), the clip.
    """
    stream = fixture["main"]
    total = replace(stream, reward_B=stream.reward_B + frugal * stream.shape_B)
    failed_B = stream.reward_B < 0.5
    return surrogate(fixture, along(stream, group_advantage(total)) + kd * failed_B[:, None] * log_ratio(stream))


def tt_opd(fixture: Fixture, *, lam: float = 4.0, longest: int = 40, best: float = 1.0, fall: float = 0.5, worst: float = 0.5, cut: float = -1.0) -> Loss:
    """GRPO on a reward that falls with length, and a reverse KL to the outcome-told average of the student, turn by turn (2605.02943).

    R: right best - (fall/2)(1 - cos(pi L/longest)), wrong -(worst/2)(1 - cos), cut `cut`; + 4 sum_k mean_{t in k} KL(pS || pT+). open: its bounds and
    `longest`, the clip, and the mean of L_GRPO (per dialogue).
    """
    stream = fixture["main"]
    assert stream.finished_B is not None
    fallen_B = 0.5 * (1.0 - np.cos(np.pi * stream.mask_BT.sum(axis=1) / longest))
    reward_B = np.where(stream.reward_B > 0.5, best - fall * fallen_B, -worst * fallen_B)
    shaped = replace(stream, reward_B=np.where(stream.finished_B, reward_B, cut))
    policy, log_p = surrogate(fixture, along(stream, group_advantage(shaped)), reduce=sequence_mean), stream.logp("self")

    def loss(student: Mapping[str, Array]) -> Terms:
        return {**policy(student), "turns": lam * turns_summed(kl(log_softmax(student["main"]), log_p), stream)}

    return loss
