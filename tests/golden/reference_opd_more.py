"""Policy gradients that shift, bound, credit or route the log-ratio, and those whose signal or states are mixed with others.

Notation as in `reference_opd_policy`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .fixture import TOP_K, Fixture, Loss, Stream, Terms
from .numerics import Array, at_tokens, entropy, kl, log_softmax, per_sequence, pick, token_mean, top_k
from .reference_direct import nll
from .reference_opd_policy import clipped, log_ratio


def uni_opd(fixture: Fixture, *, delta: float = 0.4, outlier: float = 10.0) -> Loss:
    """Right and wrong responses of a group moved apart until their mean log-ratios differ by delta (2605.03677, audited): half of the shift each.

    Groups without both outcomes are left; |r_t| >= 10 masked (audit: of the current student; taken: at rollout time); clip 0.2 / 0.28; token mean (open).
    The random mask of the more frequent outcome is idle where both are as many.
    """
    stream = fixture["main"]
    advantage_BT = log_ratio(stream)
    mean_B, right_B = per_sequence(advantage_BT, stream.mask_BT), stream.reward_B > 0.5
    shift_B = np.zeros(len(mean_B))
    for group in np.unique(stream.group_B):
        right, wrong = (stream.group_B == group) & right_B, (stream.group_B == group) & ~right_B
        if right.any() and wrong.any():
            shift = max(delta - (mean_B[right].mean() - mean_B[wrong].mean()), 0.0)
            shift_B[right], shift_B[wrong] = shift / 2.0, -shift / 2.0
    near_BT = np.abs(advantage_BT) < outlier
    shifted_BT = advantage_BT + shift_B[:, None]

    def loss(student: Mapping[str, Array]) -> Terms:
        return {"policy": token_mean(near_BT * clipped(stream, student["main"], shifted_BT, 0.2, 0.28), stream.mask_BT)}

    return loss


def power_opd(fixture: Fixture, *, alpha: float = 5.0) -> Loss:
    """A_t = pT(y_t)^alpha - pS(y_t)^alpha, undivided (2606.17199, audited); the final stop token masked. open: whether it is counted; taken: not."""
    stream = fixture["main"]
    advantage_BT = np.exp(alpha * stream.sampled("teacher")) - np.exp(alpha * stream.sampled("old"))
    kept_BT = stream.mask_BT & (np.arange(stream.mask_BT.shape[1]) < stream.mask_BT.sum(axis=1, keepdims=True) - 1)

    def loss(student: Mapping[str, Array]) -> Terms:
        return {"policy": token_mean(advantage_BT * nll(stream, student["main"]), kept_BT)}

    return loss


def gae_opd(fixture: Fixture, *, gamma: float = 1.0, lam: float = 0.95, clip: float = 0.2) -> Loss:
    """Generalised advantages of the log-ratio (a reconstruction), clipped surrogate; the critic's own loss is not the student's.

    delta_t = r_t + gamma V_{t+1} - V_t, A_t = sum_l (gamma lambda)^l delta_{t+l}, V 0 after the end. open: gamma, lambda (suggestions); taken: 1, 0.95.
    """
    stream = fixture["main"]
    advantage_BT = gae(stream, log_ratio(stream), gamma, lam)
    return lambda student: {"policy": token_mean(clipped(stream, student["main"], advantage_BT, clip), stream.mask_BT)}


def gae(stream: Stream, reward_BT: Array, gamma: float, lam: float) -> Array:
    """GAE row by row with the fixture's values, (B, T)."""
    advantage_BT = np.zeros_like(reward_BT)
    for i, length in enumerate(stream.mask_BT.sum(axis=1)):
        value = np.append(stream.value_BT[i, :length], 0.0)
        delta = reward_BT[i, :length] + gamma * value[1:] - value[:-1]
        for t in range(length):
            advantage_BT[i, t] = ((gamma * lam) ** np.arange(length - t) * delta[t:]).sum()
    return advantage_BT


def cr_opd(fixture: Fixture, *, cap: float = 5.0, tau: tuple[float, float] = (0.05, 0.02), top: tuple[int, int] | None = None) -> Loss:
    """What a rejected token loses goes to named alternatives (a reconstruction, audited): A_t = clip(r_t + KL(pS || pT), -5, 5).

    A >= 0: -A log pS(y). A < 0: |A| (log pS(y) - sum_C q log pS(v)), q prop. to pT on C; empty C: the plain push.
    C: by the derivation D.10, {v != y: pT >= 0.05, pS >= 0.02, log pT/pS + KL > 0} (entry's choice). Variant `card`: the teacher's top K in the
    student's top M with pT(v) > pT(y) (`top`; 3 and 5 of 7 here).
    """
    stream = fixture["main"]
    log_p, log_old = stream.logp("teacher"), stream.logp("old")
    gain = log_p - log_old + kl(log_old, log_p)[..., None]
    advantage_BT = np.clip(at_tokens(gain, stream.response_BT), -cap, cap)
    other = np.arange(log_p.shape[-1]) != stream.response_BT[..., None]
    if top is None:
        chosen = other & (np.exp(log_p) >= tau[0]) & (np.exp(log_old) >= tau[1]) & (gain > 0.0)
    else:
        ranks = [np.argsort(np.argsort(-log, axis=-1, kind="stable"), axis=-1, kind="stable") for log in (log_p, log_old)]
        chosen = other & (ranks[0] < top[0]) & (ranks[1] < top[1]) & (log_p > stream.sampled("teacher")[..., None])
    weight = np.where(chosen, np.exp(log_p), 0.0)
    receiver = weight / np.maximum(weight.sum(axis=-1, keepdims=True), 1e-300)
    routed_BT = (advantage_BT < 0.0) & chosen.any(axis=-1)

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q = log_softmax(student["main"])
        logp_BT = at_tokens(log_q, stream.response_BT)
        to_others_BT = np.abs(advantage_BT) * (logp_BT - (receiver * log_q).sum(axis=-1))
        return {"policy": token_mean(np.where(routed_BT, to_others_BT, -advantage_BT * logp_BT), stream.mask_BT)}

    return loss


def scope(fixture: Fixture, *, tau: float = 1.0, clip: float = 0.2) -> Loss:
    """Right answers imitated, wrong ones corrected, each weighed against its peers of the same verdict (2604.10688, audited).

    wS_i = PPL_S^(1/tau), wT_i = PPL_T^(-1/tau), each over its mean in the group's right, or wrong, answers; perplexities at rollout time;
    L = mean over right answers' tokens of -wS log pS(y_t) + mean over ALL tokens of the clipped surrogate of A = wT r_t on wrong answers, 0 on right ones.
    """
    stream = fixture["main"]
    right_B = stream.reward_B > 0.5
    surprise = {model: -per_sequence(stream.sampled(model), stream.mask_BT) for model in ("old", "teacher")}
    value_B = np.where(right_B, np.exp(surprise["old"] / tau), np.exp(-surprise["teacher"] / tau))
    weight_B = np.array([value_B[i] / value_B[(stream.group_B == stream.group_B[i]) & (right_B == right_B[i])].mean() for i in range(len(value_B))])
    right_BT = stream.mask_BT & right_B[:, None]
    advantage_BT = np.where(right_BT, 0.0, weight_B[:, None] * log_ratio(stream))

    def loss(student: Mapping[str, Array]) -> Terms:
        return {
            "likelihood": token_mean(weight_B[:, None] * nll(stream, student["main"]), right_BT),
            "policy": token_mean(clipped(stream, student["main"], advantage_BT, clip), stream.mask_BT),
        }

    return loss


def eopd_soft(fixture: Fixture, *, k: int = TOP_K, slope: float = 4.0, tau: float = 0.8) -> Loss:
    """Survey A's soft mix of eopd's two terms: (1 - a) reverse KL by samples, a forward KL on the teacher's top-k, renormalised there for the teacher alone.

    open: a's form; taken: sigmoid(4 (H_T - 0.8)) (entry). Means and clip as in `eopd`.
    """
    stream = fixture["main"]
    log_p = stream.logp("teacher")
    mix_BT = 1.0 / (1.0 + np.exp(-slope * (entropy(log_p) - tau)))
    ids_BTK = top_k(log_p, k)
    on_support = log_softmax(pick(log_p, ids_BTK))

    def mean(values_BT: Array) -> float:
        return float(per_sequence(values_BT, stream.mask_BT).mean())

    def loss(student: Mapping[str, Array]) -> Terms:
        forward_BT = kl(on_support, pick(log_softmax(student["main"]), ids_BTK))
        return {"policy": mean((1.0 - mix_BT) * clipped(stream, student["main"], log_ratio(stream), 0.2)), "forward_kl": mean(mix_BT * forward_BT)}

    return loss


def f_opd(fixture: Fixture, *, a: float = 1.0, beta: float = 0.01) -> Loss:
    """Stale rollouts weighed by freshness, anchored at their writer (a reconstruction): f_i = exp(-a mean_t |log pS(y_t) - log p_behav(y_t)|).

    L = sum_i f_i L_OPD(i) / sum_i f_i + beta KL(pS || p_behav). All sequences of a batch have one age, so b cancels. Log-ratios by the student as it last
    scored the text (`old`), the writer being the `reference`. open: a, beta, and both means; taken: L_OPD(i) a sum over tokens, the second
    sum by tokens too; the KL as the sampled log-ratio's policy gradient, its own token mean.
    """
    stream = fixture["main"]
    drift_BT = stream.sampled("old") - stream.sampled("reference")
    fresh_BT = np.exp(-a * per_sequence(np.abs(drift_BT), stream.mask_BT))[:, None] * stream.mask_BT
    weight_BT = fresh_BT / fresh_BT[stream.mask_BT].mean()

    def loss(student: Mapping[str, Array]) -> Terms:
        nll_BT = nll(stream, student["main"])
        return {
            "policy": token_mean(weight_BT * log_ratio(stream) * nll_BT, stream.mask_BT),
            "behaviour_kl": beta * token_mean(-drift_BT * nll_BT, stream.mask_BT),
        }

    return loss


def camopd(fixture: Fixture, *, teacher: str = "teacher", keep: float = 0.5) -> Loss:
    """One teacher a phase, on the samples with the largest mean |log-ratio| (the absolute value is the card's reading); sampled log-ratio.

    The `teacher` of the general phases, the specialised start itself (`reference`) in the domain phases.
    open: the share kept (a half, rounded up), and whether dropped samples count in the mean; taken: the mean is that of the kept ones.
    """
    stream = fixture["main"]
    reward_BT = stream.sampled(teacher) - stream.sampled("old")
    gap_B = per_sequence(np.abs(reward_BT), stream.mask_BT)
    kept_B = gap_B >= np.sort(gap_B)[-int(np.ceil(keep * len(gap_B)))]

    def loss(student: Mapping[str, Array]) -> Terms:
        return {"policy": token_mean(reward_BT * nll(stream, student["main"]), kept_B[:, None] & stream.mask_BT)}

    return loss


def splitmix(seed_BT: np.ndarray, count: int) -> Array:
    """`count` uniform numbers in [0, 1) of each 64-bit seed by splitmix64, (B, T, count)."""
    with np.errstate(over="ignore"):
        state = seed_BT.astype(np.int64).view(np.uint64)[..., None] + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray((state ^ (state >> np.uint64(31))) >> np.uint64(11), dtype=np.float64) / 2.0**53


def async_opd(fixture: Fixture, *, n: int = 64) -> Loss:
    """The written token by its ratio and n - 1 further draws, each with its own advantage of the CURRENT student (2606.24143).

    L = -mean_t (1/n) [ rho_t A_1 + sum_{i > 1} A_i log pS(v_i) ], A_i = sg[log pT(v_i) - log pS(v_i)], no clip (1e6).
    The card draws v_i from the old student with a ratio each; taken: from the current one at ratio 1, the same expectation (entry says so).
    """
    stream = fixture["main"]
    log_now, old_BT = stream.logp("student"), stream.sampled("old")
    uniform = splitmix(stream.seed_BT, n - 1)
    mass = np.exp(log_now).cumsum(axis=-1)
    drawn = np.minimum((mass[..., None, :] <= (uniform * mass[..., -1:])[..., None]).sum(axis=-1), log_now.shape[-1] - 1)
    gain = stream.logp("teacher") - log_now
    own_BT, others = at_tokens(gain, stream.response_BT), pick(gain, drawn)

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q = log_softmax(student["main"])
        rho_BT = np.exp(at_tokens(log_q, stream.response_BT) - old_BT)
        return {"policy": token_mean(-(rho_BT * own_BT + (others * pick(log_q, drawn)).sum(axis=-1)) / n, stream.mask_BT)}

    return loss


def orbit_modes(fixture: Fixture, *, experts: tuple[str, ...] = ("reference", "teacher")) -> Loss:
    """The sampled log-ratio to the expert of each prompt's mode; sequence i has expert i modulo their number. open: sum over tokens, mean over samples."""
    stream = fixture["main"]
    expert_BT = np.stack([stream.sampled(experts[i % len(experts)])[i] for i in range(len(stream.mask_BT))])
    reward_BT = expert_BT - stream.sampled("old")

    def loss(student: Mapping[str, Array]) -> Terms:
        return {"policy": float(np.where(stream.mask_BT, reward_BT * nll(stream, student["main"]), 0.0).sum(axis=1).mean())}

    return loss
