"""Further signals of survey A beside a verifier's group advantage, and as advantages of their own.

Notation as in `reference_guided` and `reference_signal_direct`; GRPO's clip (0.2), constant and standard deviation are those of `grpo` where a card has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from .fixture import TOP_K, Fixture, Loss, Terms
from .numerics import Array, at_tokens, generalized_jsd, kl, log_softmax, per_sequence, pick, sequence_mean, token_mean, top_k
from .reference_direct import Reduce, nll
from .reference_guided import along, surrogate
from .reference_opd_policy import clipped, plain
from .reference_outcome import group_advantage
from .reference_outcome_policy import mark
from .reference_signal_direct import furthest, sequence_logp


def grpo(fixture: Fixture, *, reduce: Reduce = sequence_mean, eps: float = 1e-4) -> Loss:
    """The clipped surrogate of the verifier's group advantage alone."""
    return surrogate(fixture, along(fixture["main"], group_advantage(fixture["main"], eps=eps)), reduce=reduce)


def visd(fixture: Fixture, *, width: float = 0.2) -> Loss:
    """A_t = A_i clip(exp(sign(A_i) r_t), 1 - w, 1 + w), r_t from the averaged self that read a judge's feedback (2605.06094, weight by analogy with RLSD).

    (1/|y|) sum_t per answer. open: w.
    """
    stream = fixture["main"]
    group_BT = along(stream, group_advantage(stream))
    weight_BT = np.clip(np.exp(np.sign(group_BT) * (stream.sampled("self") - stream.sampled("old"))), 1.0 - width, 1.0 + width)
    return surrogate(fixture, group_BT * weight_BT)


def rlrt(fixture: Fixture, *, lam: float = 0.5, width: float = 0.2) -> Loss:
    """On right answers A_i ((1 - lam) + lam clip((q/p)^sign(A_i), 1 - w, 1 + w)), on wrong ones A_i (2605.10781). open: lam, w (RLSD's), the mean (answers)."""
    stream = fixture["main"]
    group_BT = along(stream, group_advantage(stream))
    against_BT = np.clip(np.exp(-np.sign(group_BT) * (stream.sampled("self") - stream.sampled("old"))), 1.0 - width, 1.0 + width)
    return surrogate(fixture, np.where(along(stream, stream.reward_B) > 0.5, group_BT * (1.0 - lam + lam * against_BT), group_BT))


def trace(fixture: Fixture, *, lam: float = 1.0, w0: float = 1.0, share: float = 0.2) -> Loss:
    """GRPO outside marked tokens, and inside them rho = 1 - lam/w0 of it beside lam (forward KL in right answers, reverse KL in wrong ones) (2605.10194).

    All over |y|. open: w0, mu_F, mu_R (1), t_start (0). Marked (entry): the fifth of a response's tokens where KL(q || p) is largest, rounded up, in place of
    an annotator's spans.
    """
    stream = fixture["main"]
    log_p = stream.logp("self")
    marked_BT = furthest(kl(stream.logp("old"), log_p), stream.mask_BT, share)
    right_BT = along(stream, stream.reward_B) > 0.5
    outside_BT = np.where(marked_BT, 1.0 - lam / w0, 1.0)
    policy = surrogate(fixture, along(stream, group_advantage(stream)) * outside_BT)

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q = log_softmax(student["main"])
        key = lam * sequence_mean(marked_BT * right_BT * kl(log_p, log_q), stream.mask_BT)
        error = lam * sequence_mean(marked_BT * ~right_BT * kl(log_q, log_p), stream.mask_BT)
        return {**policy(student), "key": key, "error": error}

    return loss


def views(fixture: Fixture, names: tuple[str, ...] = ("right", "wrong", "self"), eps: float = 1e-8) -> tuple[Array, Array, Array]:
    """AVSD's consensus A_G, residual J and share lam of every token, each (B, T, V)."""
    stream = fixture["main"]
    log_views = np.stack([stream.logp(name) for name in names])
    gap = log_views - stream.logp("old")
    consensus = gap.mean(axis=0)
    residual = np.log(np.exp(log_views).mean(axis=0)) - log_views.mean(axis=0)
    agreement = np.abs(consensus) / (np.abs(gap).mean(axis=0) + eps)
    return consensus, residual, agreement * np.abs(consensus) / (np.abs(consensus) + residual + eps)


def avsd(fixture: Fixture, *, law: bool = True) -> Loss:
    """-mean_t sg[A(y_t)] log q(y_t) with A = A_G + lam J over three views of the solution (2605.20643, code).

    `law`: A of the normalised target q* ~ exp(mean log q_m + lam J), as the entry has it: less a number of the state, a baseline. open: eps (1e-8).
    """
    consensus, residual, share = views(fixture)
    stream = fixture["main"]
    advantage = consensus + share * residual
    if law:
        advantage = log_softmax(advantage + stream.logp("old")) - stream.logp("old")
    return plain(fixture, at_tokens(advantage, stream.response_BT))


def sampled(fixture: Fixture, *, clip: float | None = None, reduce: Reduce = token_mean) -> Loss:
    """The informed self's log-ratio as an advantage: constitutional_opsd (2606.03089, clipped; group normalisation open, none; clip and mean open) and
    opct (2605.21834, code: -sum_t rho A at ratio 1)."""
    stream = fixture["main"]
    advantage_BT = stream.sampled("self") - stream.sampled("old")
    return plain(fixture, advantage_BT, reduce=reduce) if clip is None else surrogate(fixture, advantage_BT, clip=clip, reduce=reduce)


def sg_opd(fixture: Fixture, *, agree: float = 1.5, differ: float = 0.5) -> Loss:
    """-mean_t sg[g_t r_t] log q(y_t), g_t large where sign(r_t) is the verdict's, small where not (2606.09304, reconstructed). open: both numbers."""
    stream = fixture["main"]
    reward_BT = stream.sampled("teacher") - stream.sampled("old")
    verdict_BT = np.where(along(stream, stream.reward_B) > 0.5, 1.0, -1.0)
    return plain(fixture, reward_BT * np.where(np.sign(reward_BT) == verdict_BT, agree, differ))


def sdpg(fixture: Fixture, *, beta: float = 0.0, alpha: float = 1e-3, cap: float = 20.0) -> Loss:
    """Group advantage, beta(k) min(KL(q || p), 20) to the self with the answer, alpha (log q/p_ref)^2 / 2 (2606.04036, code), token means.

    beta warms up from 0 to 1e-3; the positive-advantage gate is an option, off. Dual clip left out (entry). open: the upper edge (0.2).
    """
    stream = fixture["main"]
    log_p, policy = stream.logp("self"), grpo(fixture, reduce=token_mean)

    def loss(student: Mapping[str, Array]) -> Terms:
        drift_BT = -nll(stream, student["main"]) - stream.sampled("reference")
        capped_BT = np.minimum(kl(log_softmax(student["main"]), log_p), cap)
        return {
            **policy(student),
            "self": beta * token_mean(capped_BT, stream.mask_BT),
            "start": alpha * token_mean(0.5 * drift_BT**2, stream.mask_BT),
        }

    return loss


def ptd_po(fixture: Fixture, *, lam: float = 0.1, k: int = TOP_K, share: float = 0.5) -> Loss:
    """GRPO + lam JSD on the teacher's top-K, both renormalised, at the most informative positions (2606.07000, reconstructed).

    K = 3 (16, open); open: lam (0.1), the positions (half of the response, largest KL(p || q), rounded up), the mean (over them, per response).
    """
    stream = fixture["main"]
    ids_BTK = top_k(stream.logp("self"), k)
    log_p = log_softmax(pick(stream.logp("self"), ids_BTK))
    kept_BT = furthest(kl(stream.logp("self"), stream.logp("old")), stream.mask_BT, share)
    policy = grpo(fixture)

    def loss(student: Mapping[str, Array]) -> Terms:
        value_BT = generalized_jsd(log_p, log_softmax(pick(log_softmax(student["main"]), ids_BTK)), 0.5)
        return {**policy(student), "hinted": lam * sequence_mean(value_BT, kept_BT)}

    return loss


def pbsd_bayes(fixture: Fixture, *, eta: float = 0.5) -> Loss:
    """A + eta z, z the group's standardised evidence b = sum_t log p(y_t | answer) - log p(y_t), one turn an answer (2606.09348; form reconstructed).

    open: eta, the standard deviation (as the reward's), the mean (per answer).
    """
    stream = fixture["main"]
    evidence_B = np.where(stream.mask_BT, stream.sampled("self") - stream.sampled("old"), 0.0).sum(axis=1)
    total_B = group_advantage(stream) + eta * group_advantage(replace(stream, reward_B=evidence_B))
    return surrogate(fixture, along(stream, total_B))


def visual_sdpo(fixture: Fixture) -> Loss:
    """GRPO + mean over answers of omega (1/|y|) sum_t KL(q || p(. | rendering)) (2606.10334, reconstructed), omega a judge's, its mean 1.

    One statement an answer, coefficient 1 (entry).
    """
    stream = fixture["main"]
    log_p, policy = stream.logp("self"), grpo(fixture)
    omega_B = mark(stream) / mark(stream).mean()

    def loss(student: Mapping[str, Array]) -> Terms:
        return {**policy(student), "self": float((omega_B * per_sequence(kl(log_softmax(student["main"]), log_p), stream.mask_BT)).mean())}

    return loss


def prism(fixture: Fixture, *, aligned: bool = False, alpha: float = 0.5) -> Loss:
    """Supervision on the teacher's text, then group advantage of alpha D_v + (1 - alpha) D_r (2604.28123, code), no KL.

    `aligned`: the second phase. open: the clip, the mean (per answer); the discriminators' own losses are theirs.
    """
    if not aligned:
        texts = fixture["theirs"]
        return lambda student: {"likelihood": token_mean(nll(texts, student["theirs"]), texts.mask_BT)}
    stream = fixture["main"]
    return grpo(fixture.with_stream("main", replace(stream, reward_B=alpha * mark(stream) + (1.0 - alpha) * mark(stream, 1))))


def vpg_ea(fixture: Fixture, *, longest: int = 1024, plausible: float = -1.0) -> Loss:
    """GRPO on useful answers, and the answer-shown self's own useful text imitated where it is plausible unshown (2605.11019, reconstructed).

    useful = right * (1 - (1/4)(1 - cos(pi L/longest))); on `theirs`, written with the answer in view: forward KL, mean over the tokens of texts that are useful
    and whose mean log q - log p is at least -1. open: nearly all; taken as the entry has it.
    """
    shown = fixture["theirs"]

    def useful(name: str) -> Array:
        stream = fixture[name]
        return (stream.reward_B > 0.5) * (1.0 - 0.25 * (1.0 - np.cos(np.pi * stream.mask_BT.sum(axis=1) / longest)))

    gap_B = per_sequence(shown.sampled("old") - shown.sampled("self"), shown.mask_BT)
    kept_BT = shown.mask_BT & ((useful("theirs") > 0.0) & (gap_B >= plausible))[:, None]
    log_p = shown.logp("self")
    policy = grpo(fixture.with_stream("main", replace(fixture["main"], reward_B=useful("main"))))
    return lambda student: {**policy(student), "posterior": token_mean(kl(log_p, log_softmax(student["theirs"])), kept_BT)}


def world_model_pi(fixture: Fixture, *, tau: float = 0.2, text: float = 0.1) -> Loss:
    """KL(sg[q*] || p) among the candidates of a decision, q* ~ p exp(value / tau), and their weighted likelihood (2606.03603, tilt reconstructed).

    p: the candidates' probabilities, normalised among them; weights: values over their sum. Means over decisions. open: tau, the second term's weight.
    """
    stream = fixture["main"]
    members = [np.flatnonzero(stream.group_B == g) for g in np.unique(stream.group_B)]
    value_B = mark(stream)
    start_B = sequence_logp(stream, stream.logits["old"])
    log_target = [log_softmax(start_B[own] + value_B[own] / tau) for own in members]

    def loss(student: Mapping[str, Array]) -> Terms:
        logp_B = sequence_logp(stream, student["main"])
        disc = [kl(target, log_softmax(logp_B[own])) for target, own in zip(log_target, members, strict=True)]
        told = [-(value_B[own] * logp_B[own]).sum() / value_B[own].sum() for own in members]
        return {"candidates": float(np.mean(disc)), "text": text * float(np.mean(told))}

    return loss


def copd(fixture: Fixture, *, mutual: bool = False, beta: float = 1.0) -> Loss:
    """GRPO, and while branches teach each other beta (log p_sibling - log q) besides, each in a surrogate clipped at 0.2 / 0.28 (2604.27083).

    The native batch keeps its reward while cross batches are learned. open: beta (1), the means (tokens), one batch for both (entry).
    """
    stream = fixture["main"]
    advantage_BT = along(stream, group_advantage(stream))
    taught_BT = beta * (stream.sampled("peer") - stream.sampled("old"))

    def loss(student: Mapping[str, Array]) -> Terms:
        terms = {"policy": token_mean(clipped(stream, student["main"], advantage_BT, 0.2, 0.28), stream.mask_BT)}
        if mutual:
            terms["sibling"] = token_mean(clipped(stream, student["main"], taught_BT, 0.2, 0.28), stream.mask_BT)
        return terms

    return loss
