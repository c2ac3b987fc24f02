"""Steered targets, weighted positions and selected tokens: survey A's objective axis and token weighting.

Notation as in `reference_policy`; quantities of a rollout that serves one step are taken from `old`, which is then the student.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .fixture import TOP_K, Fixture, Loss, Stream, Terms
from .numerics import Array, Mask, kl, log_softmax, per_sequence, pick, sequence_mean, token_mean, token_sum, top_k
from .reference_classic_more import sequence_logp
from .reference_direct import Reduce, nll, sum_then_mean


def spot(fixture: Fixture, *, beta: float = 0.1) -> Loss:
    """Two binary labels against the reference (2603.01683): edited text `theirs` is good, the student's own wrong text `main` bad.

    s(y) = sum_t log pS(y_t) - log pRef(y_t); L = mean over pairs of -log sigmoid(beta s(y+)) - log sigmoid(-beta s(y-)), beta = 0.1, no running mean
    (the card: current TRL subtracts none). Only pairs whose own answer is wrong and whose edit is right count, here the second.
    """
    chosen, rejected = fixture["theirs"], fixture["main"]
    at_chosen, at_rejected = (sequence_logp(stream, stream.logits["reference"]) for stream in (chosen, rejected))
    kept_B = (chosen.reward_B > 0.5) & (rejected.reward_B < 0.5)

    def loss(student: Mapping[str, Array]) -> Terms:
        good_B = sequence_logp(chosen, student["theirs"]) - at_chosen
        bad_B = sequence_logp(rejected, student["main"]) - at_rejected
        return {"preference": float((np.log1p(np.exp(-beta * good_B)) + np.log1p(np.exp(beta * bad_B)))[kept_B].mean())}

    return loss


def credit_pmi(fixture: Fixture, *, lam: float = 0.5, k: int = TOP_K, renormalise: bool = True) -> Loss:
    """Reverse-KL update towards a product of experts: the feedback-shown self against itself under another prompt (2605.11613).

    R_t(v) = log pT(v | x, z) - lambda log pT(v | x', z) - log pS(v), C = 1 other prompt; for every candidate v of the student's top-k (SDPO's routing):
    L = -(1/N) sum_t sum_{v in S_t} sg[ w_v R_t(v) ] log pS(v), w the student's probability, renormalised on S_t.
    open: lambda, C (not found), k, the mass outside.
    """
    stream = fixture["main"]
    log_old = stream.logp("old")
    ids_BTK = top_k(log_old, k)
    reward = pick(stream.logp("self") - lam * stream.logp("elsewhere") - log_old, ids_BTK)
    log_weight = pick(log_old, ids_BTK)
    weight = np.exp(log_softmax(log_weight) if renormalise else log_weight)

    def loss(student: Mapping[str, Array]) -> Terms:
        return {"policy": token_mean(-(weight * reward * pick(log_softmax(student["main"]), ids_BTK)).sum(axis=-1), stream.mask_BT)}

    return loss


def ogls_sd(fixture: Fixture, *, lam: float = 1.0, forward: bool = False, horizon: int = 1024, tail: float = 0.1, tail_from: float = 0.8) -> Loss:
    """Distillation of wrong answers towards logits steered from wrong peers to right ones (2605.12400).

    pT = softmax( z0 + lambda (z_right - z_wrong) ), z0 the unhinted initial student; L = sum_j 1[r_j = 0] sum_{t <= 1024} KL(pS || pT) [v1], and a
    likelihood of the tail of right answers [v2]. Variant `forward`: KL(pT || pS), a reading of v2.
    open, as the entry has it: lambda 1, the KL's direction, the sum over wrong answers as their mean, the tail (0.1, the last fifth by (t - 1/2)/|y|).
    """
    stream = fixture["main"]
    target = log_softmax(stream.logits["reference"] + lam * (stream.logits["right"] - stream.logits["wrong"]))
    wrong_B = stream.reward_B < 0.5
    near_BT = stream.mask_BT & wrong_B[:, None] & (np.arange(4) < horizon)
    fraction_BT = (np.arange(4) + 0.5) / stream.mask_BT.sum(axis=1)[:, None]
    tail_BT = stream.mask_BT & ~wrong_B[:, None] & (fraction_BT >= tail_from)

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q = log_softmax(student["main"])
        values_BT = kl(target, log_q) if forward else kl(log_q, target)
        return {"divergence": token_sum(values_BT, near_BT) / wrong_B.sum(), "tail": tail * token_mean(nll(stream, student["main"]), tail_BT)}

    return loss


def pw_opsd(fixture: Fixture, *, w_min: float = 0.25, tau: float = 0.3, s: float = 0.1, kappa: float = 0.05, temperature: float = 1.1) -> Loss:
    """OPSD's capped forward KL, weighed up along the response (2605.21606).

    d_t = sum_v min( pT^c(v) (log pT^c(v) - log pS(v)), 0.05 ), both tempered by 1.1; frac_t = (t - 0.5)/|y|, t from 1;
    w_t = 0.25 + 0.75 sigmoid((frac_t - 0.3)/0.1); L = mean over responses of (1/|y|) sum_t w_t d_t (card). The weights are not renormalised.
    """
    stream = fixture["main"]
    log_p = log_softmax(stream.logits["self"] / temperature)
    fraction_BT = (np.arange(4) + 0.5) / stream.mask_BT.sum(axis=1)[:, None]
    weight_BT = w_min + (1.0 - w_min) / (1.0 + np.exp(-(fraction_BT - tau) / s))

    def loss(student: Mapping[str, Array]) -> Terms:
        entry_BTV = np.exp(log_p) * (log_p - log_softmax(student["main"] / temperature))
        return {"divergence": sequence_mean(weight_BT * np.minimum(entry_BTV, kappa).sum(axis=-1), stream.mask_BT)}

    return loss


def teachable(stream: Stream, *, k: int, rho: float) -> Mask:
    """Tokens kept by TA-OPD: the top `rho` of the batch (at least one) by disagreement times compatibility, both scaled between batch quantiles."""
    log_p, log_q = stream.logp("teacher"), stream.logp("old")
    ids_BTK = top_k(log_p, k)
    disagreement_BT = kl(pick(log_p, ids_BTK), pick(log_q, ids_BTK))
    compatible_BT = pick(np.exp(log_p), top_k(log_q, k)).sum(axis=-1)

    def scaled(z_BT: Array) -> Array:
        low, high = np.quantile(z_BT[stream.mask_BT], [0.05, 0.95])
        return np.asarray(np.clip((z_BT - low) / (high - low), 0.0, 1.0), dtype=np.float64)

    score_BT = scaled(disagreement_BT) * scaled(compatible_BT)
    kept = max(1, int(np.ceil(rho * stream.mask_BT.sum())))
    return np.asarray(stream.mask_BT & (score_BT >= np.sort(score_BT[stream.mask_BT])[-kept]))


def ta_opd(fixture: Fixture, *, k: int = TOP_K, rho: float = 0.05) -> Loss:
    """The sampled log-ratio on the few tokens that differ and can be taught (2605.26844).

    D_t = sum_{v in teacher top-k} pT (log pT - log pS), raw; C_t the teacher's mass on the student's top-k; N(z) between the batch's 0.05 and 0.95 quantiles;
    score N(D) N(C), the top 5 % kept; L = -(1/#kept) sum_kept sg[r_t] log pS(y_t). k = 3 (card: 16). open: how a share of six tokens is rounded (up).
    """
    stream = fixture["main"]
    kept_BT = teachable(stream, k=k, rho=rho)
    reward_BT = stream.sampled("teacher") - stream.sampled("old")

    def loss(student: Mapping[str, Array]) -> Terms:
        return {"policy": token_mean(reward_BT * nll(stream, student["main"]), kept_BT)}

    return loss


def raft_domain(fixture: Fixture, *, k: int = TOP_K, temperature: float = 2.0, lam: float = 1.0) -> Loss:
    """Likelihood of rewritten answers `theirs`, and the answer-shown original's top-k on them (2606.00147), before the first balance of the two.

    L = L_SFT + lambda (T^2/N) sum_t KL(pT' || pS'), both renormalised on the teacher's top-k at temperature T; lambda 1 until losses have been seen.
    k = 3. open: k, T (not found); taken: T = 2 (entry).
    """
    stream = fixture["theirs"]
    ids_BTK = top_k(stream.logp("self"), k)
    log_p = log_softmax(pick(stream.logits["self"], ids_BTK) / temperature)

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q = log_softmax(pick(student["theirs"], ids_BTK) / temperature)
        return {
            "likelihood": token_mean(nll(stream, student["theirs"]), stream.mask_BT),
            "divergence": lam * temperature**2 * token_mean(kl(log_p, log_q), stream.mask_BT),
        }

    return loss


def rwopd(fixture: Fixture, *, failed: float = 0.1) -> Loss:
    """Forward cross-entropy per answer, weighed by the verifier and normalised within the prompt (2605.13501).

    L = sum_y w(y) (1/R) sum_t KL(pT || pS) / sum_y w(y): the card's cross-entropy without the teacher's entropy (same gradient, another value).
    w = 1 where right, `failed` where wrong. open: w (not found). One vocabulary, so V_min is all of it.
    """
    stream = fixture["main"]
    log_p = stream.logp("teacher")
    weight_B = np.where(stream.reward_B > 0.5, 1.0, failed)

    def loss(student: Mapping[str, Array]) -> Terms:
        per_B = per_sequence(kl(log_p, log_softmax(student["main"])), stream.mask_BT)
        return {"divergence": float((weight_B * per_B).sum() / weight_B.sum())}

    return loss


def mopd_peer(fixture: Fixture, *, model: str = "teacher") -> Loss:
    """Reverse KL to a model that sees the other rollouts (2605.12652): (1/N) sum_i sum_t KL(pS || q_phi(. | C_i)), for mathematics; a sum over tokens."""
    stream = fixture["main"]
    log_p = stream.logp(model)

    def loss(student: Mapping[str, Array]) -> Terms:
        return {"divergence": sum_then_mean(kl(log_softmax(student["main"]), log_p), stream.mask_BT)}

    return loss


def decomposed_opd(fixture: Fixture, *, gamma: float = 1.0, lam: float = 0.1) -> Loss:
    """The sampled log-ratio, and again the part of it that hangs on a removable context (2606.00564, text core, a reconstruction).

    std: -sg[r_t] log pS(y_t); vis: -gamma sg[D_T - D_S] log pS(y_t), D_M = log p_M(y_t) - log p_M(y_t | without); the step's rescaling eta is the
    update's. The language-preservation term reads the student without the context, which the six tokens do not hold for a live student: see the entry.
    """
    stream = fixture["main"]
    reward_BT = stream.sampled("teacher") - stream.sampled("old")
    context_BT = (stream.sampled("teacher") - stream.sampled("teacher_blind")) - (stream.sampled("old") - stream.sampled("blind"))

    def loss(student: Mapping[str, Array]) -> Terms:
        nll_BT = nll(stream, student["main"])
        return {"std": token_mean(reward_BT * nll_BT, stream.mask_BT), "vis": gamma * token_mean(context_BT * nll_BT, stream.mask_BT)}

    return loss


def va_opd(fixture: Fixture, *, level: float = 0.8, pooled: bool = False) -> Loss:
    """Reverse KL averaged apart over the tokens that need the removable context and over the others (2605.21924, text core).

    VA_t = log pT(y_t) - log pT(y_t | without); H: tokens at or above the batch's `level` quantile of VA, Lo the others;
    L = (1/B) sum_i W_i [ mean_{t in H of i} KL(pS || pT) + mean_{t in Lo of i} KL(pS || pT) ], an empty set counting 0.
    The card writes both means inside the sum over rollouts. Variant `pooled`: both over the batch's tokens, W_i inside.
    open: the KL's direction, the split (entry: the top fifth), W's form (entry: 2 sigmoid of the rollout's mean VA), the mean over rollouts.
    """
    stream = fixture["main"]
    log_p = stream.logp("teacher")
    gain_BT = stream.sampled("teacher") - stream.sampled("teacher_blind")
    high_BT = stream.mask_BT & (gain_BT >= np.quantile(gain_BT[stream.mask_BT], level))
    weight_B = 2.0 / (1.0 + np.exp(-per_sequence(gain_BT, stream.mask_BT)))

    def apart(value_BT: Array, inside_BT: Mask) -> float:
        if pooled:
            return token_mean(value_BT, inside_BT)
        return float((np.where(inside_BT, value_BT, 0.0).sum(axis=1) / np.maximum(inside_BT.sum(axis=1), 1)).mean())

    def loss(student: Mapping[str, Array]) -> Terms:
        value_BT = weight_B[:, None] * kl(log_softmax(student["main"]), log_p)
        return {"high": apart(value_BT, high_BT), "low": apart(value_BT, stream.mask_BT & ~high_BT)}

    return loss


def esr(fixture: Fixture, *, horizon: int = 100, reduce: Reduce = sum_then_mean) -> Loss:
    """The sampled log-ratio on rollouts that stop after N = 100 tokens (2605.27028): -sum_t sg[r_t] log pS(y_t); the fixture's texts are shorter.

    open: the mean over the batch's responses; taken: over responses, sum over tokens.
    """
    stream = fixture["main"]
    reward_BT = stream.sampled("teacher") - stream.sampled("old")
    written_BT = stream.mask_BT & (np.arange(4) < horizon)

    def loss(student: Mapping[str, Array]) -> Terms:
        return {"policy": reduce(reward_BT * nll(stream, student["main"]), written_BT)}

    return loss
