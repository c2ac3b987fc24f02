"""Divergences of the OPD cards that are differentiated directly: bridged targets, selected tokens, edited or continued texts, fused teachers.

Notation as in `reference_direct`; what a rollout that serves one step was scored with is `old`, which is then the student.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .fixture import TOP_K, Fixture, Loss, Terms
from .numerics import Array, Mask, entropy, generalized_jsd, kl, log_softmax, per_sequence, pick, sequence_mean, token_mean, top_k
from .reference_direct import Reduce, nll, sum_then_mean


def veto(fixture: Fixture, *, b: float = 0.8, reverse: bool = False) -> Loss:
    """KL to the bridge Q = softmax(zT + b sg[zS]) (2601.07155), forward KL(Q || pS) or reverse KL(pS || Q); token mean; b0 = 0.8 at the start."""
    stream = fixture["main"]
    log_bridge = log_softmax(stream.logits["teacher"] + b * stream.logits["student"])

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q = log_softmax(student["main"])
        return {"divergence": token_mean(kl(log_q, log_bridge) if reverse else kl(log_bridge, log_q), stream.mask_BT)}

    return loss


def paced(fixture: Fixture, *, a: float = 1.0, b: float = 1.0, reverse: bool = False) -> Loss:
    """Divergence weighed by the prompt's pass rate (2603.11178): w = p^a (1 - p)^b over its mean, mean_t of KL(pT || pS), in the second stage KL(pS || pT).

    open: the mean of w (the card's own choice: over prompts); taken: over the batch's tokens (entry). Stage 1 on the student's own text: who writes
    it is not confirmed. In a single group the weight is 1; batches of several groups tell.
    """
    stream = fixture["main"]
    log_p = stream.logp("teacher")
    rate_B = np.array([stream.reward_B[stream.group_B == g].mean() for g in stream.group_B])
    weight_BT = (rate_B**a * (1.0 - rate_B) ** b)[:, None] * stream.mask_BT
    weight_BT = weight_BT / weight_BT[stream.mask_BT].mean()

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q = log_softmax(student["main"])
        return {"divergence": sequence_mean(weight_BT * (kl(log_q, log_p) if reverse else kl(log_p, log_q)), stream.mask_BT)}

    return loss


def tip(fixture: Fixture, *, rho: float = 0.5, reduce: Reduce = token_mean) -> Loss:
    """Reverse KL on the tokens that are uncertain or confidently wrong (2604.14084, audited).

    score = h + d - h d, h student entropy and d = KL(pS || pT), each min-max scaled over the batch; the top floor(rho m) of each rollout's m tokens.
    open: how rollouts are averaged (the card prints one); taken: over the batch's selected tokens. Variant `per_rollout`: 1/|T| in each rollout first.
    """
    stream = fixture["main"]
    log_p, log_old = stream.logp("teacher"), stream.logp("old")

    def scaled(z_BT: Array) -> Array:
        low, high = z_BT[stream.mask_BT].min(), z_BT[stream.mask_BT].max()
        return (z_BT - low) / (high - low)

    h_BT, d_BT = scaled(entropy(log_old)), scaled(kl(log_old, log_p))
    score_BT = np.where(stream.mask_BT, h_BT + d_BT - h_BT * d_BT, -np.inf)
    kept_BT = np.zeros_like(stream.mask_BT)
    for i, length in enumerate(stream.mask_BT.sum(axis=1)):
        kept_BT[i, np.argsort(-score_BT[i])[: max(1, int(rho * length))]] = True

    def loss(student: Mapping[str, Array]) -> Terms:
        return {"divergence": reduce(kl(log_softmax(student["main"]), log_p), kept_BT)}

    return loss


def caopd(fixture: Fixture, *, skip: int = 3) -> Loss:
    """KL(pT^c || pS) on answers whose stated confidence is replaced (2604.16830, audited), the first three tokens untrained.

    Mean over a sequence's trained tokens, then over the sequences that have any: on the six tokens the last one of the first response.
    """
    stream = fixture["main"]
    log_p = stream.logp("self")
    kept_BT = stream.mask_BT & (np.arange(stream.mask_BT.shape[1]) >= skip)
    some_B = kept_BT.any(axis=1)

    def loss(student: Mapping[str, Array]) -> Terms:
        values_BT = kl(log_p, log_softmax(student["main"]))
        return {"divergence": sequence_mean(values_BT[some_B], kept_BT[some_B])}

    return loss


def distil(fixture: Fixture) -> Loss:
    """Imitation of the feedback-shown self and credit for the states a token leads to: sum_t CE_t + sg[G_{t+1}] log pS(y_t), G the later CE's sum.

    CE_t = -sum_v pT^c log pS; the first term's value is the KL, without the teacher's entropy. G centred over the batch's tokens (card: over
    batch or group). open: the mean over responses of their sums.
    """
    stream = fixture["main"]
    log_p = stream.logp("self")
    cross_BT = np.where(stream.mask_BT, -(np.exp(log_p) * stream.logp("old")).sum(axis=-1), 0.0)
    later_BT = cross_BT[:, ::-1].cumsum(axis=1)[:, ::-1] - cross_BT
    later_BT = later_BT - later_BT[stream.mask_BT].mean()

    def loss(student: Mapping[str, Array]) -> Terms:
        return {
            "imitation": sum_then_mean(kl(log_p, log_softmax(student["main"])), stream.mask_BT),
            "credit": sum_then_mean(-later_BT * nll(stream, student["main"]), stream.mask_BT),
        }

    return loss


def todi(fixture: Fixture, *, beta: float = 1.0, tau: float = 2.0, rate: float = 0.5) -> Loss:
    """Entry by entry forward where the student is too low, reverse where too high, and the label (2505.16297, audited), on `data`.

    a_v = sg[sigmoid(beta log(pT/pS))]; L = 0.5 CE + 0.5 mean_t sum_v [a pT log(pT/pS) + (1 - a) pS log(pS/pT)], the divergence at temperature 2, no tau^2.
    """
    stream = fixture["data"]
    log_p = log_softmax(stream.logits["teacher"] / tau)
    forward = 1.0 / (1.0 + np.exp(-beta * (log_p - log_softmax(stream.logits["student"] / tau))))

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q = log_softmax(student["data"] / tau)
        gap = log_p - log_q
        values_BT = (forward * np.exp(log_p) * gap - (1.0 - forward) * np.exp(log_q) * gap).sum(axis=-1)
        label = token_mean(nll(stream, student["data"]), stream.mask_BT)
        return {"divergence": rate * token_mean(values_BT, stream.mask_BT), "likelihood": (1.0 - rate) * label}

    return loss


def likelihood(fixture: Fixture, *, stream_name: str, reduce: Reduce = sequence_mean) -> Loss:
    """-log pS of given tokens: state_view_continuation's (1/|z|) sum over the teacher's part on `theirs`; self_eval_opd's labels and ewc's texts on `data`."""
    stream = fixture[stream_name]
    return lambda student: {"likelihood": reduce(nll(stream, student[stream_name]), stream.mask_BT)}


def jsd(fixture: Fixture, *, stream_name: str = "main", reduce: Reduce = sequence_mean) -> Loss:
    """JSD at 1/2 to the teacher: opd_av's (1/|y|) sum on `main`; trd's on the rewritten answer `theirs`, by tokens (direction and mean open there)."""
    stream = fixture[stream_name]
    log_p = stream.logp("teacher")
    return lambda student: {"divergence": reduce(generalized_jsd(log_p, log_softmax(student[stream_name]), 0.5), stream.mask_BT)}


def divergence(fixture: Fixture, *, forward: bool = False, model: str = "teacher", reduce: Reduce = token_mean, scale: float = 1.0) -> Loss:
    """KL(pS || pT), or forward KL(pT || pS), over the vocabulary, on `main`.

    gkd_on_policy; trb, whose novelty is who writes (mean open: tokens); litegui's first stage (its sampled log-ratio, summed, is this KL's); motab (forward as
    the card reads it, a sum); pgpo at a multiplier `scale` (1 before anything is measured).
    """
    stream = fixture["main"]
    log_p = stream.logp(model)

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q = log_softmax(student["main"])
        return {"divergence": scale * reduce(kl(log_p, log_q) if forward else kl(log_q, log_p), stream.mask_BT)}

    return loss


def gemma2_kd(fixture: Fixture) -> Loss:
    """-sum_v pT log pS on the tokens of a corpus; the value is the KL, without the teacher's entropy. open: the mean (tokens)."""
    stream = fixture["corpus"]
    log_p = stream.logp("teacher")
    return lambda student: {"divergence": token_mean(kl(log_p, log_softmax(student["corpus"])), stream.mask_BT)}


def protein_opd(fixture: Fixture, *, experts: tuple[str, ...] = ("teacher", "self"), reduce: Reduce = sequence_mean) -> Loss:
    """JSD at 1/2 to the product of experts softmax(sum_i w_i log p_i), w equal (open). The card sums over a sequence (`token_sum`); taken: its mean (entry)."""
    stream = fixture["main"]
    fused = log_softmax(np.mean([stream.logp(expert) for expert in experts], axis=0))
    return lambda student: {"divergence": reduce(generalized_jsd(fused, log_softmax(student["main"]), 0.5), stream.mask_BT)}


def tts_spec(fixture: Fixture, *, lam: float = 0.1, decay: float = 0.25) -> Loss:
    """Forward KL of the target and, proximally, of the draft before the update (`old`), over the next positions with falling weights.

    KLw = sum_k w_k KL. open: lambda, w, C (not found); taken: 0.1, exp(-k/4), the mean over tokens (entry).
    """
    stream = fixture["main"]
    log_p, log_before = stream.logp("teacher"), stream.logp("old")
    weight_BT = np.exp(-decay * np.arange(stream.mask_BT.shape[1]))[None]

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q = log_softmax(student["main"])
        return {
            "target": token_mean(weight_BT * kl(log_p, log_q), stream.mask_BT),
            "proximal": lam * token_mean(weight_BT * kl(log_before, log_q), stream.mask_BT),
        }

    return loss


def delta_prompts(fixture: Fixture) -> Loss:
    """Reverse KL on prompts where the answers differ: those that the student does not always answer rightly, the teacher taken to be right (entry's reading).

    delta(x), the total variation of answer histograms, is then the share of wrong answers; delta 0 is dropped. open: the mean (over kept tokens).
    """
    stream = fixture["main"]
    log_p = stream.logp("teacher")
    rate_B = np.array([stream.reward_B[stream.group_B == g].mean() for g in stream.group_B])
    kept_BT = stream.mask_BT & (rate_B < 1.0)[:, None]
    return lambda student: {"divergence": token_mean(kl(log_softmax(student["main"]), log_p), kept_BT)}


def miniplm(fixture: Fixture, *, share: float = 0.5) -> Loss:
    """Likelihood of the corpus texts that the teacher finds likelier than a small reference does: the top half by mean log pT(y_t) - log pRef(y_t).

    The card selects from the whole corpus beforehand; here within the batch. open: the mean (over kept tokens).
    """
    stream = fixture["corpus"]
    score_B = per_sequence(stream.sampled("teacher") - stream.sampled("reference"), stream.mask_BT)
    kept_B = score_B >= np.sort(score_B)[-int(np.ceil(share * len(score_B)))]
    return lambda student: {"likelihood": token_mean(nll(stream, student["corpus"]), stream.mask_BT & kept_B[:, None])}


def npd(fixture: Fixture, *, lam: float = 0.5, k: int = TOP_K, tails: tuple[float, float] = (0.05, 0.95), difference: bool = True) -> Loss:
    """Likelihood of the student's own text and a top-k forward KL, on samples that help neither model unusually.

    IFD_M = ppl_M(y | x) / ppl_M(y | bare prompt); dropped: the extremes of IFD_S - IFD_T (a reconstruction);
    L = (1 - lam) CE + lam sum_{v in topk(pT)} pT log(pT/pS).
    open: lam, k, where an extreme begins; taken: a half, 16 (3 here), the batch's 0.05 and 0.95 quantiles, raw truncation, means over kept tokens (entry).
    `difference` false: the extremes of IFD_S / IFD_T, whose logarithm is a mean of log-ratios.
    """
    stream = fixture["main"]
    log_p = stream.logp("teacher")
    ids_BTK = top_k(log_p, k)

    def difficulty(model: str, bare: str) -> Array:
        return np.asarray(np.exp(per_sequence(stream.sampled(bare) - stream.sampled(model), stream.mask_BT)))

    own_B, theirs_B = difficulty("old", "blind"), difficulty("teacher", "teacher_blind")
    score_B = own_B - theirs_B if difference else np.log(own_B / theirs_B)
    low, high = np.quantile(score_B, tails)
    kept_BT = stream.mask_BT & ((score_B > low) & (score_B < high))[:, None]

    def loss(student: Mapping[str, Array]) -> Terms:
        forward_BT = kl(pick(log_p, ids_BTK), pick(log_softmax(student["main"]), ids_BTK))
        return {"likelihood": (1.0 - lam) * token_mean(nll(stream, student["main"]), kept_BT), "divergence": lam * token_mean(forward_BT, kept_BT)}

    return loss


def oprd(student_LBTH: Array, teacher_LBTH: Array, map_LHH: Array, mask_BT: Mask) -> float:
    """Hidden states drawn together (2606.06021, its code's form): mean over layers and tokens of |h/|h| - t/|t||^2.

    h is the student's state mapped to the teacher's width.
    No logits, so the six tokens are given states. open: the mean over tokens of the batch; a learned map for unequal widths (the paper: also a PCA basis).
    """
    total = 0.0
    for student_BTH, teacher_BTH, map_HH in zip(student_LBTH, teacher_LBTH, map_LHH, strict=True):
        mapped = student_BTH @ map_HH.T
        unit, target = (h / np.sqrt((h**2).sum(axis=-1, keepdims=True)) for h in (mapped, teacher_BTH))
        total += token_mean(((unit - target) ** 2).sum(axis=-1), mask_BT)
    return total / len(map_LHH)
