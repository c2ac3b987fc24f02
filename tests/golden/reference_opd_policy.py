"""Policy gradients on the teacher's sampled log-ratio: floors, weights, horizons, filters, several candidates.

Notation as in `reference_policy`: r_t = log pT(y_t) - log pS(y_t), detached and read at rollout time (`old`, which is the student itself where a
rollout serves one step). `plain` is -sg[A_t] log pS(y_t), to which a surrogate with ratio 1 has the same gradient.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .fixture import TOP_K, Fixture, Loss, Stream, Terms
from .numerics import Array, entropy, kl, log_softmax, per_sequence, pick, sequence_mean, token_mean, top_k
from .reference_direct import Reduce, nll, sum_then_mean


def log_ratio(stream: Stream) -> Array:
    """r_t of the written tokens, (B, T)."""
    return stream.sampled("teacher") - stream.sampled("old")


def plain(fixture: Fixture, advantage_BT: Array, *, reduce: Reduce = token_mean) -> Loss:
    """-A_t log pS(y_t) on `main`."""
    stream = fixture["main"]

    def loss(student: Mapping[str, Array]) -> Terms:
        return {"policy": reduce(advantage_BT * nll(stream, student["main"]), stream.mask_BT)}

    return loss


def clipped(stream: Stream, student_BTV: Array, advantage_BT: Array, low: float = 0.2, high: float | None = None) -> Array:
    """max( -rho A, -clip(rho, 1 - low, 1 + high) A ), (B, T)."""
    rho_BT = np.exp(-nll(stream, student_BTV) - stream.sampled("old"))
    bound_BT = np.clip(rho_BT, 1.0 - low, 1.0 + (low if high is None else high))
    return np.maximum(-rho_BT * advantage_BT, -bound_BT * advantage_BT)


def horizon(fixture: Fixture, *, tokens: int = 4, reduce: Reduce = sum_then_mean) -> Loss:
    """Rollouts that stop at a horizon (prefix_opd 2602.15260, popd, topd_truncated): sum_{t <= H} -sg[r_t] log pS(y_t).

    The horizon cuts what is written, so all of the fixture's tokens lie within it. open: the mean over rollouts of the sum over tokens; taken: so.
    """
    stream = fixture["main"]
    inside_BT = np.arange(stream.mask_BT.shape[1]) < tokens
    return plain(fixture, log_ratio(stream) * inside_BT, reduce=reduce)


def sampled(fixture: Fixture, *, reduce: Reduce = token_mean) -> Loss:
    """The plain sampled log-ratio, all of whose novelty lies in who writes or stops (kat_termination, lightning_opd): -mean_t sg[r_t] log pS(y_t)."""
    return plain(fixture, log_ratio(fixture["main"]), reduce=reduce)


def reopold(fixture: Fixture, *, lam: float = 0.3, beta: float = 0.2, phase: int = 1) -> Loss:
    """A floored log-ratio under two masks (2603.11137, audited): J = (1/sum M) sum_t M_t rho_t max(R_t, c), c = log(lam)/(1 - lam).

    Phase 1: M = 1[R_t >= c]; phase 2: the top beta of the batch's tokens by student entropy, at rollout time.
    open: how beta of six tokens is rounded (up); rho unclipped (the card names no clip).
    """
    stream = fixture["main"]
    floor, reward_BT, h_BT = np.log(lam) / (1.0 - lam), log_ratio(stream), entropy(stream.logp("old"))
    count = int(np.ceil(beta * stream.mask_BT.sum()))
    kept_BT = reward_BT >= floor if phase == 1 else h_BT >= np.sort(h_BT[stream.mask_BT])[-count]
    kept_BT = stream.mask_BT & kept_BT
    old_BT = stream.sampled("old")

    def loss(student: Mapping[str, Array]) -> Terms:
        rho_BT = np.exp(-nll(stream, student["main"]) - old_BT)
        return {"policy": token_mean(-rho_BT * np.maximum(reward_BT, floor), kept_BT)}

    return loss


def rethinking_opd(fixture: Fixture, *, k: int = TOP_K) -> Loss:
    """Each of the student's top-k pushed by its own log-ratio (2604.13016): A(v) = -sg[w(v) (log pS(v) - log pT(v))], w = pS / sum_K pS.

    L = mean_t sum_{v in K} -A(v) log pS(v), the clipped surrogate at ratio 1 (audit: inert, one update a rollout). k = 3 (card: 16).
    """
    stream = fixture["main"]
    ids_BTK = top_k(stream.logp("old"), k)
    log_q = pick(stream.logp("old"), ids_BTK)
    push = np.exp(log_softmax(log_q)) * (log_q - pick(stream.logp("teacher"), ids_BTK))

    def loss(student: Mapping[str, Array]) -> Terms:
        return {"policy": token_mean((push * pick(log_softmax(student["main"]), ids_BTK)).sum(axis=-1), stream.mask_BT)}

    return loss


def stable_opd(fixture: Fixture, *, golden: float = 0.1, beta: float = 0.01) -> Loss:
    """Sampled log-ratio, golden texts, and a differentiated KL(pS || pRef) (2604.08527, audited): token means with 0.1 and 0.01."""
    stream, texts = fixture["main"], fixture["data"]
    reward_BT, log_reference = log_ratio(stream), stream.logp("reference")

    def loss(student: Mapping[str, Array]) -> Terms:
        return {
            "policy": token_mean(reward_BT * nll(stream, student["main"]), stream.mask_BT),
            "golden": golden * token_mean(nll(texts, student["data"]), texts.mask_BT),
            "reference_kl": beta * token_mean(kl(log_softmax(student["main"]), log_reference), stream.mask_BT),
        }

    return loss


def g_opd(fixture: Fixture, *, lam: float = 1.25, clip: float | None = None) -> Loss:
    """Extrapolated log-ratio (2602.12125): A_t = -{ log pOld/pRef - lam log pT/pRef }(y_t), immediate; token mean (open).

    `clip`: PPO's surrogate (list_opd, with lam 1.2 just under the card's cliff: the paper's lambda follows the task's format tokens).
    """
    stream = fixture["main"]
    old_BT, reference_BT = stream.sampled("old"), stream.sampled("reference")
    advantage_BT = -((old_BT - reference_BT) - lam * (stream.sampled("teacher") - reference_BT))
    if clip is None:
        return plain(fixture, advantage_BT)
    return lambda student: {"policy": token_mean(clipped(stream, student["main"], advantage_BT, clip), stream.mask_BT)}


def effopd(fixture: Fixture, *, clip: float = 0.2) -> Loss:
    """Plain OPD with a PPO clip; the paper's novelty moves weights, not tokens (2605.11739). open: the clip range, the mean (token mean)."""
    stream = fixture["main"]
    return lambda student: {"policy": token_mean(clipped(stream, student["main"], log_ratio(stream), clip), stream.mask_BT)}


def tropd(fixture: Fixture, *, k: int = TOP_K, beta: float = 1e-3) -> Loss:
    """Log-ratio where the teacher would accept the token, top-k forward KL where not, likelihood of its prefix (2606.01249, audited).

    M_t ~ Bernoulli(min(pT/pS, 1)), by the stream's uniform numbers; t > l: -sg[M_t r_t] log pS(y_t) + (1 - sg[M_t]) sum_{v in topk(pT)} pT log(pT/pS), raw;
    t <= l: -beta log pS(y_t). k = 3 (card: 64).
    open: the mean; taken: each part over all tokens of the batch. l is the fixture's half of each response.
    """
    stream = fixture["main"]
    reward_BT, log_p = log_ratio(stream), stream.logp("teacher")
    trusted_BT = stream.uniform_BT < np.minimum(np.exp(reward_BT), 1.0)
    ids_BTK = top_k(log_p, k)
    own_BT = ~stream.given_BT

    def loss(student: Mapping[str, Array]) -> Terms:
        nll_BT = nll(stream, student["main"])
        forward_BT = kl(pick(log_p, ids_BTK), pick(log_softmax(student["main"]), ids_BTK))
        return {
            "policy": token_mean(own_BT * trusted_BT * reward_BT * nll_BT, stream.mask_BT),
            "forward_kl": token_mean(own_BT * ~trusted_BT * forward_BT, stream.mask_BT),
            "prefix": beta * token_mean(stream.given_BT * nll_BT, stream.mask_BT),
        }

    return loss


def opd_plus(fixture: Fixture, *, divergence: str = "forward_kl", cap: float = 6.0) -> Loss:
    """The exact score-function weight of an f-divergence (2606.01039): A_t = w_f(u) = -f(u) + u f'(u), u = pT(y_t)/pS(y_t).

    forward KL: u; JSD: ln((1 + u)/2)/2; reverse KL: ln u - 1. log u clipped to +-6 (a replication's) for the unbounded forward KL.
    """
    log_u = np.clip(log_ratio(fixture["main"]), -cap, cap)
    weight_BT = {"forward_kl": np.exp(log_u), "jsd": 0.5 * np.log((1.0 + np.exp(log_u)) / 2.0), "reverse_kl": log_u - 1.0}[divergence]
    return plain(fixture, weight_BT)


def fire_opd(fixture: Fixture, *, alpha: float = 1.0, beta: float = 1.0, percentile: float = 20.0, reduce: Reduce = sequence_mean) -> Loss:
    """Responses that the teacher finds least likely dropped, tokens weighed by certain teacher and uncertain student (audited form).

    keep_i = 1[mean_t log pT(y_t) >= q20 of the batch]; u_t = (1 + alpha (1 - H_T/max H_T)) (1 + beta H_S/max H_S), w_t = u_t / mean(u), max and mean over
    the response; A_t = w_t r_t, ratio 1 (audit: the clip is inert); dropped responses leave the denominator.
    open: mean over kept trajectories (paper) or over kept tokens (the audit's L line); taken: the paper's. Variant `kept_tokens`.
    """
    stream = fixture["main"]
    score_B = per_sequence(stream.sampled("teacher"), stream.mask_BT)
    kept_B = score_B >= np.percentile(score_B, percentile)
    weight_BT = np.zeros_like(stream.sampled("old"))
    for i, inside_T in enumerate(stream.mask_BT):
        teacher, student = entropy(stream.logp("teacher"))[i, inside_T], entropy(stream.logp("old"))[i, inside_T]
        u = (1.0 + alpha * (1.0 - teacher / teacher.max())) * (1.0 + beta * student / student.max())
        weight_BT[i, inside_T] = u / u.mean()
    advantage_BT = weight_BT * log_ratio(stream)

    def loss(student: Mapping[str, Array]) -> Terms:
        return {"policy": reduce((advantage_BT * nll(stream, student["main"]))[kept_B], stream.mask_BT[kept_B])}

    return loss


def released(margin_T: Array, *, segment: int, least: int) -> int:
    """How many tokens stand before the change point of one response's margins; all of them where nothing changes."""
    means = np.array([margin_T[i : i + segment].mean() for i in range(0, len(margin_T), segment)])
    n = len(means)
    cuts = range(least, n - least + 1)
    if len(cuts) == 0:
        return len(margin_T)
    rss = {c: means[:c].var() * c + means[c:].var() * (n - c) for c in cuts}
    best = min(rss, key=lambda c: rss[c])
    bic_0 = n * np.log(means.var() + 1e-12) + np.log(n)
    bic_1 = n * np.log(rss[best] / n + 1e-12) + 3.0 * np.log(n)
    return best * segment if bic_1 < bic_0 and means[best:].mean() < means[:best].mean() else len(margin_T)


def prefix_teach(fixture: Fixture, *, k: int = TOP_K, segment: int = 8, least: int = 2) -> Loss:
    """The sampled log-ratio up to one downward change of the teacher's margin, over the kept tokens (2605.13643, margin and penalty inferred).

    M_t = best less second-best log pT within the student's top-K; BIC of two means against one over segment means; K = 3 (16 suggested).
    open: sentences; taken: windows of eight tokens, of which the six have too few to change. Variant `token_segments`: windows of one.
    """
    stream = fixture["main"]
    ranked = np.sort(pick(stream.logp("teacher"), top_k(stream.logp("old"), k)), axis=-1)
    kept_BT = np.zeros_like(stream.mask_BT)
    for i, length in enumerate(stream.mask_BT.sum(axis=1)):
        kept_BT[i, : released((ranked[..., -1] - ranked[..., -2])[i, :length], segment=segment, least=least)] = True
    reward_BT = log_ratio(stream)

    def loss(student: Mapping[str, Array]) -> Terms:
        return {"policy": token_mean(reward_BT * nll(stream, student["main"]), stream.mask_BT & kept_BT)}

    return loss


def iw_opd(fixture: Fixture, *, gamma: float = 0.5) -> Loss:
    """Early discrepancy weighs more (2606.22600): w_t = 1 + gamma (1 - F_{t-1}), F the share of sum |r| spent before t (denominator + 1e-8); token mean."""
    stream = fixture["main"]
    size_BT = np.where(stream.mask_BT, np.abs(log_ratio(stream)), 0.0)
    before_BT = size_BT.cumsum(axis=1) - size_BT
    weight_BT = 1.0 + gamma * (1.0 - before_BT / (size_BT.sum(axis=1, keepdims=True) + 1e-8))
    return plain(fixture, weight_BT * log_ratio(stream))


def prune_opd(fixture: Fixture, *, k: int = TOP_K, theta: float = 0.5, drop: float = 0.1, base: float = 0.0) -> Loss:
    """Trust that falls with the places where both models' candidates part (2605.07804): w_t = clip(1 - drop C_t, 0, 1) + base.

    C_t = #{j <= t: |topk(pS) n topk(pT)|/k < theta}. k = 3 (16 suggested). open: theta, drop, base (not found), the mean (all tokens).
    """
    stream = fixture["main"]
    theirs, own = top_k(stream.logp("teacher"), k), top_k(stream.logp("old"), k)
    overlap_BT = (theirs[..., :, None] == own[..., None, :]).any(axis=-1).mean(axis=-1)
    drift_BT = np.where(stream.mask_BT, overlap_BT < theta, False).cumsum(axis=1)
    return plain(fixture, (np.clip(1.0 - drop * drift_BT, 0.0, 1.0) + base) * log_ratio(stream))
