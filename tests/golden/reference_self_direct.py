"""Divergences of the student to itself in a context, differentiated directly.

Notation as in `reference_direct`; pT^c the self-teacher with its context (`self`), held fixed; on `main` unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .fixture import TOP_K, Fixture, Loss, Stream, Terms
from .numerics import Array, Mask, entropy, generalized_jsd, kl, log_softmax, pick, sequence_mean, token_mean, top_k
from .reference_direct import Reduce, sum_then_mean


def sdft(fixture: Fixture, *, skip: int = 3, forward: bool = False) -> Loss:
    """Reverse KL(pS || pT^c) over the vocabulary, the first three tokens untrained (2601.19897, audited); mean over the trained tokens (algorithm line).

    Variant `forward`: the direction that a fork of the trainer runs by default. On the six tokens one is trained.
    """
    stream = fixture["main"]
    log_p, kept_BT = stream.logp("self"), stream.mask_BT & (np.arange(stream.mask_BT.shape[1]) >= skip)

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q = log_softmax(student["main"])
        return {"divergence": token_mean(kl(log_p, log_q) if forward else kl(log_q, log_p), kept_BT)}

    return loss


def alone(stream: Stream) -> Mask:
    """Answers in whose group no other one is right: there is no peer to show, (B,)."""
    return np.array([stream.reward_B[stream.group_B == g].sum() - r == 0.0 for r, g in zip(stream.reward_B, stream.group_B, strict=True)])


def with_tail(log_BTK: Array) -> Array:
    """One more entry that holds what is outside the support."""
    return np.concatenate([log_BTK, np.log1p(-np.exp(log_BTK).sum(axis=-1, keepdims=True))], axis=-1)


def sdpo(fixture: Fixture, *, alpha: float = 0.5, k: int = TOP_K, gated: bool = True) -> Loss:
    """JSD on the student's top-k and one entry for the rest (2601.20802, audited): sum M g w l / sum M g, w = min(sg[pS/pOld], 2).

    l = (1 - a) KL(pS || m) + a KL(pT^c || m), m = (1 - a) pS + a pT^c, a = 0.5; g is 0 where the context has nothing to show: here where no other answer
    of the group is right (no feedback text is supposed). `gated` false: a context that is always there (vision_opd 2605.18740, a mean over tokens;
    its crop of the image is the context). k = 3 (100). The weight of an engine's mismatch is 1.
    """
    stream = fixture["main"]
    ids_BTK = top_k(stream.logp("student"), k)
    log_p = with_tail(pick(stream.logp("self"), ids_BTK))
    kept_BT = stream.mask_BT & (~alone(stream)[:, None] if gated else True)
    weight_BT = np.minimum(np.exp(stream.sampled("student") - stream.sampled("old")), 2.0)

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q = with_tail(pick(log_softmax(student["main"]), ids_BTK))
        return {"divergence": token_mean(weight_BT * generalized_jsd(log_p, log_q, alpha), kept_BT)}

    return loss


def opcd(fixture: Fixture, *, k: int = TOP_K, temperature: float = 1.0, reduce: Reduce = token_mean) -> Loss:
    """sum over the student's top-k of pS (log pS - log pT^c), nothing renormalised (2602.12275 and oel 2603.16856, audited); token mean as in the code.

    k = 3 (256). Temperature 1, that of the system-prompt run; the rollout's temperature divides both sides' logits in the maths run: variant `maths` (0.6).
    Variant `paper`: (1/|y|) sum_t. oel's texts go on from recorded states, its context is one text of a round; the loss is the same.
    """
    stream = fixture["main"]
    log_p = log_softmax(stream.logits["self"] / temperature)
    ids_BTK = top_k(stream.logp("student"), k)

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q = pick(log_softmax(student["main"] / temperature), ids_BTK)
        return {"divergence": reduce(kl(log_q, pick(log_p, ids_BTK)), stream.mask_BT)}

    return loss


def sdzero(fixture: Fixture, *, mix: float = 0.5, k: int = TOP_K) -> Loss:
    """Second phase (2604.12002, audited): 0.5 KL(T || S) + 0.5 KL(S || T), both renormalised on the teacher's top-k; mean over the batch's tokens.

    k = 3 (64).
    """
    stream = fixture["main"]
    ids_BTK = top_k(stream.logp("self"), k)
    log_p = log_softmax(pick(stream.logits["self"], ids_BTK))

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q = log_softmax(pick(student["main"], ids_BTK))
        return {"forward": mix * token_mean(kl(log_p, log_q), stream.mask_BT), "reverse": (1.0 - mix) * token_mean(kl(log_q, log_p), stream.mask_BT)}

    return loss


def ssb(fixture: Fixture, *, tau: float = 2.0) -> Loss:
    """tau^2 mean_t KL(softmax(zT/tau) || softmax(zS/tau)) on the hinted self's own text `theirs`, kept where it is right (2512.05105)."""
    stream = fixture["theirs"]
    log_p, kept_BT = log_softmax(stream.logits["self"] / tau), stream.mask_BT & (stream.reward_B > 0.5)[:, None]
    return lambda student: {"divergence": tau**2 * token_mean(kl(log_p, log_softmax(student["theirs"] / tau)), kept_BT)}


def dail(fixture: Fixture, *, gamma: float = 0.1) -> Loss:
    """sum_t [ KL(pS || M_T) - gamma KL(pS || M_NR) ] (2602.02405): M_T shown the solution (`self`), M_NR a shortcut of it (`wrong`).

    open: gamma (not found; taken: 0.1, entry), the mean over responses of their sums.
    """
    stream = fixture["main"]
    log_p, log_short = stream.logp("self"), stream.logp("wrong")

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q = log_softmax(student["main"])
        return {"imitate": sum_then_mean(kl(log_q, log_p), stream.mask_BT), "avoid": -gamma * sum_then_mean(kl(log_q, log_short), stream.mask_BT)}

    return loss


def gui_sd(fixture: Fixture, *, early: tuple[float, float] = (1.5, 0.5)) -> Loss:
    """(1/|y|) sum_t w(t) KL(pS || pT^c), w = significance times confidence (2605.00642, text core, w a reconstruction).

    Confidence 1 - H_T / log V. Significance falls along the response in place of a coordinate's digits: from 1.5 to 0.5 in a straight line, a token
    standing in the middle of its 1/|y| (entry).
    """
    stream = fixture["main"]
    log_p = stream.logp("self")
    length_B1 = stream.mask_BT.sum(axis=1, keepdims=True)
    place_BT = (np.arange(stream.mask_BT.shape[1]) + 0.5) / length_B1
    weight_BT = (1.0 - entropy(log_p) / np.log(log_p.shape[-1])) * (early[0] + (early[1] - early[0]) * place_BT)
    return lambda student: {"divergence": sequence_mean(weight_BT * kl(log_softmax(student["main"]), log_p), stream.mask_BT)}


def jsd_against_head(log_p: Array, log_q: Array, k: int, *, tail: bool) -> Array:
    """JSD at 1/2 of the whole student and the teacher's renormalised top-k, (B, T); without `tail` the entries outside, P_rest ln 2 / 2, are left out."""
    ids_BTK = top_k(log_p, k)
    head, own = log_softmax(pick(log_p, ids_BTK)), pick(log_q, ids_BTK)
    rest = 1.0 - np.exp(own).sum(axis=-1)
    return generalized_jsd(head, own, 0.5) + (0.5 * np.log(2.0) * rest if tail else 0.0)


def unisd(fixture: Fixture, *, gamma: float = 0.0, contrast: float = 0.0, margin: float = 0.1) -> Loss:
    """The part of UniSD* that reads probabilities (2605.06597, audited): mean over sequences of sum_t w_t KL(pT^c || pS) / max(1, sum_t w_t), and a contrast.

    w_t = max(0.01, 1 / (1 + gamma min(D_t / q95(D), 10))), D_t the variance of log pT(y_t) over further contexts (`right`, `wrong`, `elsewhere`);
    contrast: relu(margin + |log pS - log p_good| - |log pS - log p_bad|)(y_t), p_good `self`, p_bad `wrong`. Published: gamma 0.001, contrast 0.01, margin 0.1.
    The entry leaves the contrast out and says so; variant `published` has both, `weighted` the weight alone. The feature term: `golden_hidden`.
    open: the contrast's mean (tokens), the variance (population), the batch of its quantile.
    """
    stream = fixture["main"]
    log_p = stream.logp("self")
    spread_BT = np.var([stream.sampled(model) for model in ("right", "wrong", "elsewhere")], axis=0)
    level = np.quantile(spread_BT[stream.mask_BT], 0.95)
    weight_BT = np.where(stream.mask_BT, np.maximum(0.01, 1.0 / (1.0 + gamma * np.minimum(spread_BT / level, 10.0))), 0.0)
    good_BT, bad_BT = stream.sampled("self"), stream.sampled("wrong")

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q = log_softmax(student["main"])
        own_BT = np.take_along_axis(log_q, stream.response_BT[..., None], axis=-1)[..., 0]
        gap_BT = np.maximum(margin + np.abs(own_BT - good_BT) - np.abs(own_BT - bad_BT), 0.0)
        per_B = (weight_BT * kl(log_p, log_q)).sum(axis=1) / np.maximum(1.0, weight_BT.sum(axis=1))
        return {"divergence": float(per_B.mean()), **({"contrast": contrast * token_mean(gap_BT, stream.mask_BT)} if contrast else {})}

    return loss
