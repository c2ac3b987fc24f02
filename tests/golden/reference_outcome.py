"""Losses that need a verifier: group-relative policy gradients and the odds-ratio preference.

Notation as in `reference_policy`; R_i the verifier's reward of sequence i, |y_i| its number of response tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .fixture import Fixture, Loss, Stream, Terms
from .numerics import Array, per_sequence, pessimistic, sequence_mean, token_mean
from .reference_direct import Reduce, nll


def group_advantage(stream: Stream, *, ddof: int = 1, eps: float = 1e-4) -> Array:
    """(R_i - mean_j R_j) / (std_j R_j + eps) within each group, (B,)."""
    advantage_B = np.zeros_like(stream.reward_B)
    for group in np.unique(stream.group_B):
        members = stream.group_B == group
        rewards = stream.reward_B[members]
        advantage_B[members] = (rewards - rewards.mean()) / (rewards.std(ddof=ddof) + eps)
    return advantage_B


def grpo(fixture: Fixture, *, beta: float = 0.04, clip: float = 0.2, ddof: int = 1, reduce: Reduce = sequence_mean) -> Loss:
    """Group-relative policy optimisation with a KL to the initial student (2402.03300).

    A_i = (R_i - mean_j R_j) / (std_j R_j + 1e-4) over the group; L = mean over sequences of (1/|y_i|) sum_t
    [ max( -rho_t A_i, -clip(rho_t, 0.8, 1.2) A_i ) + 0.04 k3_t ], k3_t = exp(d_t) - d_t - 1 with d_t = log pRef(y_t) - log pS(y_t),
    differentiated, no ratio on it; on `main`.
    Normalisation: per-sequence mean, then the mean over the G samples and over the groups of the batch (card and audit: the
    loss type `grpo`). Variant `token_mean` (loss type `dapo`).
    open: which std; taken: sample std (ddof 1), as the audited trainer computes it. Variant `population_std`.
    """
    stream = fixture["main"]
    old_BT, reference_BT = stream.sampled("old"), stream.sampled("reference")
    advantage_BT = np.broadcast_to(group_advantage(stream, ddof=ddof)[:, None], old_BT.shape)

    def loss(student: Mapping[str, Array]) -> Terms:
        logp_BT = -nll(stream, student["main"])
        log_ratio_BT = reference_BT - logp_BT
        k3_BT = np.exp(log_ratio_BT) - log_ratio_BT - 1.0
        return {
            "policy": reduce(pessimistic(np.exp(logp_BT - old_BT), advantage_BT, clip), stream.mask_BT),
            "reference_kl": beta * reduce(k3_BT, stream.mask_BT),
        }

    return loss


def kdrl(fixture: Fixture, *, beta: float = 2e-3, clip: float = 0.2, ddof: int = 1, reduce: Reduce = token_mean) -> Loss:
    """GRPO and a differentiated k2 estimate of the KL to the teacher, as a joint loss (2506.02208).

    L = -J_GRPO + 0.002 mean_t 0.5 (log pS(y_t) - log pT(y_t))^2 on `main`; A_i as in `grpo`, clip 0.2, no KL to the initial student
    (the teacher takes its place); k2 with the current student, neither weighted by rho_t nor clipped (audit).
    Normalisation: token mean over all response tokens for both terms. The card supports it for k2 (second reading: mean_t);
    for J_GRPO it says only GRPO.
    open: the reduction of J_GRPO. Both terms need the same one for the advantage form A_i + beta sg[d_t] that the audit calls
    equal in expectation, and public summaries of the paper print 1 / sum_i |y_i|. Variant `sequence_mean`: both as in `grpo`.
    open: clip range, std and its 1e-4 are taken over from the `grpo` card.
    """
    stream = fixture["main"]
    old_BT, teacher_BT = stream.sampled("old"), stream.sampled("teacher")
    advantage_BT = np.broadcast_to(group_advantage(stream, ddof=ddof)[:, None], old_BT.shape)

    def loss(student: Mapping[str, Array]) -> Terms:
        logp_BT = -nll(stream, student["main"])
        return {
            "policy": reduce(pessimistic(np.exp(logp_BT - old_BT), advantage_BT, clip), stream.mask_BT),
            "teacher_kl": beta * reduce(0.5 * (logp_BT - teacher_BT) ** 2, stream.mask_BT),
        }

    return loss


def orpo_distill(fixture: Fixture, *, weight: float = 0.1, over_kept: bool = True) -> Loss:
    """Odds-ratio preference of right teacher text over wrong student text, per prompt (2509.25100).

    P(y) = exp( (1/|y|) sum_t log pS(y_t) ), odds = P / (1 - P);
    L = mean over pairs of -(1/|y+|) log pS(y+)  [chosen]  - 0.1 log sigmoid( log odds(y+) - log odds(y-) )  [odds_ratio];
    y+ sequence i of `theirs`, y- sequence i of `main`; a pair is kept only where y+ is right and y- is wrong.
    Normalisation: per-token mean inside a response, then the mean over the kept pairs, the chosen likelihood on kept pairs
    only (card: filter, then pair, then step). On this fixture one of two pairs is kept (the second).
    open: the denominator where pairs are dropped; variant `over_all_prompts` divides by the number of prompts (half).
    open: the weight: the paper's is not found, 0.1 is ORPO's default (audit).
    """
    theirs, own = fixture["theirs"], fixture["main"]
    kept_B = (theirs.reward_B > 0.5) & (own.reward_B < 0.5)
    divisor = float(kept_B.sum() if over_kept else kept_B.size)

    def log_odds(mean_logp_B: Array) -> Array:
        return np.asarray(mean_logp_B - np.log1p(-np.exp(mean_logp_B)), dtype=np.float64)

    def loss(student: Mapping[str, Array]) -> Terms:
        chosen_B = -per_sequence(nll(theirs, student["theirs"]), theirs.mask_BT)
        rejected_B = -per_sequence(nll(own, student["main"]), own.mask_BT)
        margin_B = log_odds(chosen_B) - log_odds(rejected_B)
        return {
            "chosen": float(-chosen_B[kept_B].sum() / divisor),
            "odds_ratio": weight * float(np.log1p(np.exp(-margin_B[kept_B])).sum() / divisor),
        }

    return loss
