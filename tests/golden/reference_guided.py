"""A verifier's group advantage with a dense signal of a self-teacher or teacher inside it.

Notation as in `reference_policy`; everything but rho_t is taken at rollout time (`old`). A_i = (R_i - mean) / (std + 1e-4) within the group unless said
otherwise, sample std and the constant as in `grpo` (no card of this file gives them). Surrogate: max( -rho_t A, -clip(rho_t, 0.8, 1.2) A ).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .fixture import Fixture, Loss, Stream, Terms
from .numerics import Array, entropy, kl, log_softmax, per_sequence, pessimistic, pick, sequence_mean, token_mean, top_k
from .reference_direct import Reduce, nll
from .reference_outcome import group_advantage


def along(stream: Stream, value_B: Array) -> Array:
    """The same number for each token of a sequence, (B, T)."""
    return np.asarray(np.broadcast_to(value_B[:, None], stream.mask_BT.shape), dtype=np.float64)


def surrogate(fixture: Fixture, advantage_BT: Array, *, clip: float = 0.2, reduce: Reduce = sequence_mean) -> Loss:
    """The clipped policy loss of a fixed advantage on `main`."""
    stream = fixture["main"]
    old_BT = stream.sampled("old")

    def loss(student: Mapping[str, Array]) -> Terms:
        ratio_BT = np.exp(-nll(stream, student["main"]) - old_BT)
        return {"policy": reduce(pessimistic(ratio_BT, advantage_BT, clip), stream.mask_BT)}

    return loss


def anti_sd(fixture: Fixture, *, lam: float = 0.5, gate: float = 1.0, reduce: Reduce = token_mean) -> Loss:
    """Group advantage minus a bounded pull to the hinted self: ascent of a Jensen-Shannon divergence (2605.11609).

    u_t = log pT^c(y_t) - log pS(y_t); phi(u) = (softplus(u) - log 2) / 2; A_{i,t} = A_i - lambda g phi(u_t), g the batch's switch (1 while it is open).
    open: lambda (not found; the card knows a re-run with 0.5), the mean over tokens (token mean).
    """
    stream = fixture["main"]
    gain_BT = stream.sampled("self") - stream.sampled("old")
    phi_BT = 0.5 * (np.log1p(np.exp(gain_BT)) - np.log(2.0))
    return surrogate(fixture, along(stream, group_advantage(stream)) - lam * gate * phi_BT, reduce=reduce)


def direction_adaptive_sd(fixture: Fixture, *, rho: float = 0.8, beta: float = 0.1, eps: float = 1e-8, reduce: Reduce = token_mean) -> Loss:
    """Group advantage plus a signed pull: towards the hinted self where the student is sure, away where it is not (2605.22263).

    delta_t = log pT^c(y_t) - log pS(y_t), dbar its z-score within the rollout; omega_t = tanh((tau - H_t) / sigma_H) sigmoid(|dbar_t| - 1), tau the rollout's
    entropy quantile, sigma_H the mean absolute deviation of its entropies; A = A_i + beta omega_t dbar_t.
    open: which quantile rho = 0.2 names (the card leans to the 0.8 quantile: a fifth of the tokens are forks), beta, the mean absolute
    deviation's centre (the mean), the z-score's constants (population variance, 1e-8 inside the root), the reduction.
    """
    stream = fixture["main"]
    delta_BT, entropy_BT = stream.sampled("self") - stream.sampled("old"), entropy(stream.logp("old"))
    pull_BT = np.zeros_like(delta_BT)
    for i, inside_T in enumerate(stream.mask_BT):
        delta, h = delta_BT[i, inside_T], entropy_BT[i, inside_T]
        z = (delta - delta.mean()) / np.sqrt(delta.var() + eps)
        spread = np.abs(h - h.mean()).mean()
        pull_BT[i, inside_T] = np.tanh((np.quantile(h, rho) - h) / spread) / (1.0 + np.exp(1.0 - np.abs(z))) * z
    return surrogate(fixture, along(stream, group_advantage(stream)) + beta * pull_BT, reduce=reduce)


def amr_sd(fixture: Fixture, *, tau: float = 0.5, alpha: float = 1.0, reduce: Reduce = sequence_mean) -> Loss:
    """Group advantage magnified where the reflecting self agrees with its sign by more than a threshold (2605.18529, a reconstruction).

    CIG_t = log pT(y_t | h) - log pS(y_t); A_t = A_i (1 + alpha ReLU( sign(A_i) CIG_t - tau )). open: tau, alpha (not found), the reduction.
    """
    stream = fixture["main"]
    group_BT = along(stream, group_advantage(stream))
    agreed_BT = np.maximum(np.sign(group_BT) * (stream.sampled("self") - stream.sampled("old")) - tau, 0.0)
    return surrogate(fixture, group_BT * (1.0 + alpha * agreed_BT), reduce=reduce)


def oppo_bayes(fixture: Fixture, *, cap: float = 2.0, floor: float = 0.05, anchored: bool = True, reduce: Reduce = token_mean) -> Loss:
    """Credit by a recursion of the odds of success (2605.21851).

    log lambda_t = log p(y_t | y*) - log p(y_t), clipped to +-cap; l_1 = logit(V_0), l_{t+1} = l_t + log lambda_t; A_t = sigmoid(l_{t+1}) - sigmoid(l_t);
    V_0 the group's pass rate, clipped to [floor, 1 - floor]. Anchored: no positive credit on a wrong rollout, no negative one on a right one (set to 0).
    open: the clip, the floor, the anchoring's exact rule (inferred in the card), the reduction.
    """
    stream = fixture["main"]
    prior = np.clip(stream.reward_B.mean(), floor, 1.0 - floor)
    evidence_BT = np.where(stream.mask_BT, np.clip(stream.sampled("self") - stream.sampled("old"), -cap, cap), 0.0)
    after_BT = np.log(prior / (1.0 - prior)) + evidence_BT.cumsum(axis=1)
    value_BT, before_BT = 1.0 / (1.0 + np.exp(-after_BT)), 1.0 / (1.0 + np.exp(-(after_BT - evidence_BT)))
    advantage_BT = value_BT - before_BT
    if anchored:
        right_BT = along(stream, stream.reward_B) > 0.5
        advantage_BT = np.where(right_BT, np.maximum(advantage_BT, 0.0), np.minimum(advantage_BT, 0.0))
    return surrogate(fixture, advantage_BT, reduce=reduce)


def rlcsd(fixture: Fixture, *, width: float = 0.2, additive: float | None = None, reduce: Reduce = sequence_mean) -> Loss:
    """Group advantage weighed by the contrast of the self shown a right and a wrong solution (2606.11709, a reconstruction).

    e_t = log pT(y_t | c+) - log pT(y_t | c-), the student cancels; A_t = A_i clip( exp( sign(A_i) e_t ), 1 - w, 1 + w ).
    Variant `additive`: A_t = A_i + lambda e_t, as the survey describes it. open: w, lambda, the reduction.
    """
    stream = fixture["main"]
    group_BT = along(stream, group_advantage(stream))
    contrast_BT = stream.sampled("right") - stream.sampled("wrong")
    weighed_BT = group_BT * np.clip(np.exp(np.sign(group_BT) * contrast_BT), 1.0 - width, 1.0 + width)
    return surrogate(fixture, weighed_BT if additive is None else group_BT + additive * contrast_BT, reduce=reduce)


def segments(gap_T: Array, entropy_T: Array, tau: float, boundary: float) -> list[int]:
    """For each token the spike whose segment it is in, itself elsewhere: a spike opens a segment, which ends before the next uncertain token."""
    anchor: int | None = None
    owner = []
    for t, (gap, uncertainty) in enumerate(zip(gap_T, entropy_T, strict=True)):
        if uncertainty > boundary:
            anchor = None
        if gap > tau and (anchor is None or gap > gap_T[anchor]):
            anchor = t
        owner.append(t if anchor is None else anchor)
    return owner


def gear(fixture: Fixture, *, tau: float = 1.0, boundary: float = 0.5, kappa: float = 1.0, reduce: Reduce = sequence_mean) -> Loss:
    """Group advantage weighed by segments that open where the truth-shown self departs (2605.11853, a reconstruction).

    d_t = KL(pT^c || pS); a spike d_t > tau opens a segment to the next token with high student entropy; w_t = 1 + kappa norm(d_anchor) in it,
    1 + kappa norm(d_t) elsewhere, then divided by its mean; A_t = A_i w_t.
    open, as the entry has it: the divergence, tau, kappa, the entropy that bounds, norm (d over its maximum in the response), the set whose mean
    is 1 (the response), the reduction; a higher spike inside an open segment becomes its anchor.
    """
    stream = fixture["main"]
    gap_BT, entropy_BT = kl(stream.logp("self"), stream.logp("old")), entropy(stream.logp("old"))
    weight_BT = np.ones_like(gap_BT)
    for i, inside_T in enumerate(stream.mask_BT):
        gap = gap_BT[i, inside_T]
        owner = segments(gap, entropy_BT[i, inside_T], tau, boundary)
        weight = 1.0 + kappa * gap[owner] / gap.max()
        weight_BT[i, inside_T] = weight / weight.mean()
    return surrogate(fixture, along(stream, group_advantage(stream)) * weight_BT, reduce=reduce)


def gndpo(fixture: Fixture, *, cap: float = 5.0, clip: float = 0.2, eps: float = 1e-8, sequence_ratio: bool = False) -> Loss:
    """The clamped log-ratio whitened over the batch, in a clipped loss (2606.09091, text core).

    k_t = clip(log pT(y_t) - log pS(y_t), -5, 5); A_t = (k_t - mean) / sqrt(var + eps) over the batch's valid tokens; token mean.
    The card names a clipped policy loss, and a ratio per sequence in the official scripts. Taken: a ratio per token (the entry says so among its
    deviations). Variant `sequence_ratio`: the exponential of the response's mean log-ratio, whose gradient goes token by token with the token's own
    advantage (GSPO's token form); at ratio 1 both have one gradient. open: the variance (population) and its floor, the clip range.
    """
    stream = fixture["main"]
    old_BT = stream.sampled("old")
    k_BT = np.clip(stream.sampled("teacher") - old_BT, -cap, cap)
    valid = k_BT[stream.mask_BT]
    advantage_BT = (k_BT - valid.mean()) / np.sqrt(valid.var() + eps)
    now_BT = stream.sampled("student")
    sequence_BT = along(stream, np.exp(per_sequence(now_BT - old_BT, stream.mask_BT)))
    scale_BT = sequence_BT * np.exp(old_BT - now_BT) if sequence_ratio else 1.0

    def loss(student: Mapping[str, Array]) -> Terms:
        ratio_BT = scale_BT * np.exp(-nll(stream, student["main"]) - old_BT)
        return {"policy": token_mean(pessimistic(ratio_BT, advantage_BT, clip), stream.mask_BT)}

    return loss


def codistill_grpo(fixture: Fixture, *, alpha: float = 1.0, length: float | None = None, clip: float = 0.2, reduce: Reduce = sequence_mean) -> Loss:
    """The small model's half of a mutual GRPO (2605.08873): the large model's log-ratio, summed and scaled, is part of the reward.

    r~_i = r_i + (alpha / N) sum_t log( p_theta(o_t) / p_phi(o_t) ), theta the large model (`peer`); A_i = r~_i - group mean, no std.
    open: alpha (not found) and N, a length normaliser; taken: alpha 1 and the response's own length in both places, as the card writes one N.
    Variant `constant`: 40 in the reward, the response's own length in the loss.
    """
    stream = fixture["main"]
    gain_BT = np.where(stream.mask_BT, stream.sampled("peer") - stream.sampled("old"), 0.0)
    reward_B = stream.reward_B + alpha * gain_BT.sum(axis=1) / (stream.mask_BT.sum(axis=1) if length is None else length)
    return surrogate(fixture, along(stream, reward_B - reward_B.mean()), clip=clip, reduce=reduce)


def dgrpo(fixture: Fixture, *, beta: float = 0.04, clip: float = 0.2) -> Loss:
    """GRPO whose KL points at the teacher (2605.12227): full KL(pS || pT), per-response means for both. open: beta (not found); taken: 0.04, GRPO's (entry)."""
    stream = fixture["main"]
    log_p = stream.logp("teacher")
    policy = surrogate(fixture, along(stream, group_advantage(stream)), clip=clip)

    def loss(student: Mapping[str, Array]) -> Terms:
        return {**policy(student), "teacher_kl": beta * sequence_mean(kl(log_softmax(student["main"]), log_p), stream.mask_BT)}

    return loss


def tgpo(fixture: Fixture, *, weight: float = 1.0, clip: float = 0.2) -> Loss:
    """GRPO and likelihood of the teacher's argmax on the student's states (2605.13230), at the first step of the fading weight.

    L = L_GRPO + w E (1/|y|) sum_t -log pS(a_t), a_t = argmax pT. open: w_init, delta (not found); L_GRPO as in `grpo`, without its KL to the start.
    """
    stream = fixture["main"]
    best_BT1 = top_k(stream.logp("teacher"), 1)
    policy = surrogate(fixture, along(stream, group_advantage(stream)), clip=clip)

    def loss(student: Mapping[str, Array]) -> Terms:
        guide_BT = -pick(log_softmax(student["main"]), best_BT1)[..., 0]
        return {**policy(student), "guide": weight * sequence_mean(guide_BT, stream.mask_BT)}

    return loss
