"""Cards whose signal is a judge's, a discriminator's or a verifier's number for each answer, alone or beside a teacher's tokens.

Notation as in `reference_outcome`; v_i is what someone who is asked says of answer i, in [0, 1] (`mark`; several may be asked), and `Stream.shape_B` what a
rule of form says. Groups, clips and epsilons that no card gives are those of `grpo`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from .fixture import Fixture, Loss, Stream, Terms
from .numerics import Array, at_tokens, entropy, generalized_jsd, kl, log_softmax, pessimistic, sequence_mean, token_mean
from .reference_baselines import centred_reward
from .reference_direct import Reduce, nll, sum_then_mean
from .reference_opd_policy import clipped, log_ratio
from .reference_outcome import group_advantage


def mark(stream: Stream, number: int = 0) -> Array:
    """What the `number`-th judge, or a discriminator, says of each answer, in [0, 1], (B,): some number of each of them."""
    rows = np.arange(len(stream.value_BT))
    return np.round(64.0 / (1.0 + np.exp(-stream.value_BT[rows, (number + 2 * rows) % 4]))) / 64.0


def along(stream: Stream, value_B: Array) -> Array:
    """The same number for each token of a sequence, (B, T)."""
    return np.asarray(np.broadcast_to(value_B[:, None], stream.mask_BT.shape), dtype=np.float64)


def centred(stream: Stream, reward_B: Array) -> Array:
    """R_i - mean_j R_j of each group, (B,)."""
    return np.array([reward_B[i] - reward_B[stream.group_B == group].mean() for i, group in enumerate(stream.group_B)])


def group_loss(fixture: Fixture, advantage_B: Array, *, reduce: Reduce = sequence_mean, clip: float = 0.2) -> Loss:
    """The clipped surrogate of one advantage for each answer of `main`."""
    stream = fixture["main"]
    advantage_BT = along(stream, advantage_B)
    return lambda student: {"policy": reduce(clipped(stream, student["main"], advantage_BT, clip), stream.mask_BT)}


def standardised(stream: Stream, reward_B: Array, eps: float = 1e-4) -> Array:
    """(R_i - mean_j R_j) / (std_j R_j + eps) of each group, (B,)."""
    return group_advantage(replace(stream, reward_B=reward_B), eps=eps)


def gad(fixture: Fixture, *, beta: float = 1e-3) -> Loss:
    """The student's half after the warm-up: GRPO on the discriminator's score and 1e-3 k3 to the start (2511.10643, audited).

    R_i = D(x, y_i), A_i = (R_i - mean) / std; k3 differentiated, per-response means for both.
    open: the means over tokens; taken: grpo's. The warm-up is likelihood of the teacher's text, by tokens.
    """
    stream = fixture["main"]
    policy = group_loss(fixture, standardised(stream, mark(stream)))

    def loss(student: Mapping[str, Array]) -> Terms:
        gap_BT = stream.sampled("reference") + nll(stream, student["main"])
        return {**policy(student), "reference_kl": beta * sequence_mean(np.exp(gap_BT) - gap_BT - 1.0, stream.mask_BT)}

    return loss


def ovd(fixture: Fixture) -> Loss:
    """The simplest faithful instance (2601.21968, a reconstruction): R_i = v_i / 9, A_i = (R_i - mean) / (std + 1e-6), clipped, per-response means."""
    stream = fixture["main"]
    return group_loss(fixture, standardised(stream, mark(stream), eps=1e-6))


def ropd(fixture: Fixture) -> Loss:
    """R_i = sum_k w_k v_ik / sum_k w_k, A_i = R_i - mean, no deviation, clipped, no KL (2605.07396, audited), two criteria of equal weight; token mean."""
    stream = fixture["main"]
    return group_loss(fixture, centred(stream, 0.5 * (mark(stream, 0) + mark(stream, 1))), reduce=token_mean)


def rlkd(fixture: Fixture) -> Loss:
    """GRPO on 15 right + 10 form + 10 tags + 15 structure (2505.16142, audited), the structure one judgement (entry); per-response means (open)."""
    stream = fixture["main"]
    reward_B = 15.0 * stream.reward_B + 10.0 * stream.shape_B + 10.0 * stream.shape_B + 15.0 * mark(stream)
    return group_loss(fixture, standardised(stream, reward_B))


def signal_reshaping_grpo(fixture: Fixture) -> Loss:
    """Layered reward in the group, process score outside it: A = A_i w(p_i) (2605.07276, an abstract).

    Rollouts that failed for other causes have no part in the mean. open, as the entry has them: 0.3 and 0.7 for the layers, w the score over its mean in
    the group, the lost rollouts' share in the group's statistics (they have one), the means.
    """
    stream = fixture["main"]
    group_B = standardised(stream, 0.3 * stream.shape_B + 0.7 * stream.reward_B)
    process_B = mark(stream)
    weight_B = np.array([process_B[i] / process_B[stream.group_B == group].mean() for i, group in enumerate(stream.group_B)])
    kept_B = np.ones(len(group_B), dtype=bool) if stream.finished_B is None else stream.finished_B
    advantage_BT = along(stream, group_B)

    def loss(student: Mapping[str, Array]) -> Terms:
        values_BT = along(stream, weight_B) * clipped(stream, student["main"], advantage_BT, 0.2)
        return {"policy": sequence_mean(values_BT[kept_B], stream.mask_BT[kept_B])}

    return loss


def luffy(fixture: Fixture, *, gamma: float = 0.1, bonus: float = 1e-3) -> Loss:
    """A group with one answer of the teacher's: its probability, shaped, is the ratio (2504.14945, audited).

    J = (1/Z) [ sum_student rho_t A_i + sum_teacher f(pS(y_t)) A_j ], f(p) = p / (p + 0.1), A_i = R_i - mean over the whole group, nothing clipped; an entropy
    bonus 1e-3 by tokens. The last member of each group is the teacher's. Z: the number of answers (entry; the release's constant is a length).
    """
    stream = fixture["main"]
    theirs_B = np.array([not (stream.group_B[i + 1 :] == group).any() for i, group in enumerate(stream.group_B)])
    advantage_BT = along(stream, centred(stream, stream.reward_B))

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q = log_softmax(student["main"])
        logp_BT = at_tokens(log_q, stream.response_BT)
        shaped_BT = np.exp(logp_BT) / (np.exp(logp_BT) + gamma)
        rho_BT = np.exp(logp_BT - stream.sampled("old"))
        return {
            "own": sum_then_mean(np.where(theirs_B[:, None], 0.0, -rho_BT * advantage_BT), stream.mask_BT),
            "theirs": sum_then_mean(np.where(theirs_B[:, None], -shaped_BT * advantage_BT, 0.0), stream.mask_BT),
            "entropy": -bonus * token_mean(entropy(log_q), stream.mask_BT),
        }

    return loss


def rlad(fixture: Fixture, *, alpha: float = 0.5, clip: float = 0.2) -> Loss:
    """GRPO whose ratio is anchored between the old student and the teacher (2602.22495, audited).

    rho_t = pS(y_t) / ( pOld(y_t)^alpha pT(y_t)^(1 - alpha) ), gradient through pS alone; mean_i mean_t of the clipped surrogate. open: alpha (0.5 "a safe
    start"), the optional KL (none).
    """
    stream = fixture["main"]
    anchor_BT = alpha * stream.sampled("old") + (1.0 - alpha) * stream.sampled("teacher")
    advantage_BT = along(stream, group_advantage(stream))

    def loss(student: Mapping[str, Array]) -> Terms:
        rho_BT = np.exp(-nll(stream, student["main"]) - anchor_BT)
        return {"policy": sequence_mean(pessimistic(rho_BT, advantage_BT, clip), stream.mask_BT)}

    return loss


def kepo(fixture: Fixture, *, tau: float = 1.0, beta: float = 0.5) -> Loss:
    """GRPO at ratio 1 and, on answers with R_i >= tau, the JSD to the teacher by their tokens (2602.00400): R = right + form, no KL (beta_rl 0).

    open: the mean of GRPO; taken: per response. The value is that of -A log pS(y_t).
    """
    stream = fixture["main"]
    reward_B = stream.reward_B + stream.shape_B
    advantage_BT, log_p = along(stream, standardised(stream, reward_B)), stream.logp("teacher")
    kept_BT = stream.mask_BT & (reward_B >= tau)[:, None]

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q = log_softmax(student["main"])
        return {
            "policy": sequence_mean(-advantage_BT * at_tokens(log_q, stream.response_BT), stream.mask_BT),
            "divergence": token_mean(generalized_jsd(log_p, log_q, beta), kept_BT),
        }

    return loss


def hybrid_il_rl_note(fixture: Fixture, *, gamma: float = 1.0, lam: float = 1.0) -> Loss:
    """The exact gradient of sum_t log pS/pT - lambda R (2512.23097): the present divergence, and ( sum_{k > t} gamma^(k-t) c_k - lambda R ) log pS(y_t).

    c_k = log pS(y_k) - log pT(y_k). open: gamma 1, lambda 1, the baseline of R (the batch's mean over tokens); sums over tokens, mean over answers.
    """
    stream = fixture["main"]
    log_p, cost_BT = stream.logp("teacher"), np.where(stream.mask_BT, -log_ratio(stream), 0.0)
    later_BT = np.zeros_like(cost_BT)
    for t in range(cost_BT.shape[1]):
        later_BT[:, t] = sum((gamma ** (k - t) * cost_BT[:, k] for k in range(t + 1, cost_BT.shape[1])), np.zeros(len(cost_BT)))
    reward_BT = centred_reward(fixture)

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q = log_softmax(student["main"])
        logp_BT = at_tokens(log_q, stream.response_BT)
        return {
            "dense": sum_then_mean(kl(log_q, log_p), stream.mask_BT),
            "later": sum_then_mean(later_BT * logp_BT, stream.mask_BT),
            "reward": sum_then_mean(-lam * reward_BT * logp_BT, stream.mask_BT),
        }

    return loss


def opd_then_rl(fixture: Fixture, *, clip: float = 0.2) -> Loss:
    """The first phase: min(rho d_t, clip(rho) d_t), d_t = log pT - log pS, 0.2; after it GRPO in the same surrogate. open: the mean; taken: tokens."""
    stream = fixture["main"]
    return lambda student: {"policy": token_mean(clipped(stream, student["main"], log_ratio(stream), clip), stream.mask_BT)}


def routed(stream: Stream, members: tuple[str, ...]) -> Array:
    """Log-probabilities of the one teacher of each prompt; sequence i has member i modulo their number, (B, T, V)."""
    return np.stack([stream.logp(members[i % len(members)])[i] for i in range(len(stream.mask_BT))])


def mopd_mimo(fixture: Fixture, *, band: tuple[float, float] = (0.2, 5.0), members: tuple[str, ...] = ("self", "teacher")) -> Loss:
    """The log-ratio to each prompt's expert, weighed by a ratio that is 0 outside its band (2601.02780, audited): -(1/|y|) sum_t w_t A_t log pS(y_t).

    w_t = sg[pS / mu](y_t) inside the band, mu who wrote; A_t = sg[log pT - log pS]; alpha 0. The value is that of -w_t A_t with w differentiated inside the
    band, which has the same gradient.
    open: whether A_t is read at rollout time (taken) or at the update; the band, of open recipes.
    """
    stream = fixture["main"]
    advantage_BT = at_tokens(routed(stream, members), stream.response_BT) - stream.sampled("old")
    drift_BT = np.exp(stream.sampled("student") - stream.sampled("old"))
    inside_BT = (drift_BT >= band[0]) & (drift_BT <= band[1])

    def loss(student: Mapping[str, Array]) -> Terms:
        ratio_BT = np.exp(-nll(stream, student["main"]) - stream.sampled("old"))
        return {"policy": sequence_mean(inside_BT * -ratio_BT * advantage_BT, stream.mask_BT)}

    return loss


def glm5_cross_stage(fixture: Fixture, *, band: tuple[float, float] = (0.5, 2.0), members: tuple[str, ...] = ("self", "teacher")) -> Loss:
    """The clipped surrogate of the log-ratio to each prompt's stage, tokens outside a band zeroed (2602.15763), per-response means.

    pop(rho) keeps rho = pOld_train / pOld_infer, which is 1 on one engine. open: clip (0.2 / 0.28) and band, which the entry takes of the present ratio.
    """
    stream = fixture["main"]
    advantage_BT = at_tokens(routed(stream, members), stream.response_BT) - stream.sampled("old")
    drift_BT = np.exp(stream.sampled("student") - stream.sampled("old"))
    inside_BT = (drift_BT >= band[0]) & (drift_BT <= band[1])
    return lambda student: {"policy": sequence_mean(inside_BT * clipped(stream, student["main"], advantage_BT, 0.2, 0.28), stream.mask_BT)}
