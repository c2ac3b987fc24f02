"""A verifier's group advantage beside or inside the signal of a self-teacher: cards of self-distillation with a policy gradient.

Notation as in `reference_guided`: D_t = log pT^c(y_t) - log pS(y_t), A_i the group advantage of `grpo`, all at rollout time (`old`); rho_t alone moves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from .fixture import Fixture, Loss, Stream, Terms
from .numerics import Array, entropy, kl, log_softmax, per_sequence, sequence_mean, token_mean
from .reference_direct import Reduce, nll
from .reference_guided import along
from .reference_opd_policy import clipped, log_ratio, plain
from .reference_outcome import group_advantage
from .reference_outcome_policy import mark


def gain(stream: Stream, model: str = "self") -> Array:
    """D_t of the written tokens, (B, T)."""
    return stream.sampled(model) - stream.sampled("old")


def pass_rate(stream: Stream) -> Array:
    """The share of right answers in each sequence's group, (B,)."""
    return np.array([stream.reward_B[stream.group_B == g].mean() for g in stream.group_B])


def surrogate(fixture: Fixture, advantage_BT: Array, *, high: float = 0.2, reduce: Reduce = token_mean) -> Loss:
    """max( -rho A, -clip(rho, 0.8, 1 + high) A ) on `main`."""
    stream = fixture["main"]
    return lambda student: {"policy": reduce(clipped(stream, student["main"], advantage_BT, 0.2, high), stream.mask_BT)}


def rlsd(fixture: Fixture, *, lam: float = 0.5, eps: float = 0.2) -> Loss:
    """The verifier gives the sign, the self-teacher the size (2604.03128, audited): A_t = A [(1 - lam) + lam clip(exp(sign(A) D_t), 1 - eps, 1 + eps)].

    Clip 0.2 / 0.28, mean per response first; lam falls from 0.5 to 0. open: the std's form and constant (those of `grpo`).
    """
    stream = fixture["main"]
    group_BT = along(stream, group_advantage(stream))
    evidence_BT = np.clip(np.exp(np.sign(group_BT) * gain(stream)), 1.0 - eps, 1.0 + eps)
    return surrogate(fixture, group_BT * (1.0 - lam + lam * evidence_BT), high=0.28, reduce=sequence_mean)


def egrsd(fixture: Fixture, *, floor: float = 0.3, eps: float = 0.2, window: int | None = None) -> Loss:
    """A_i m_t g_t (2605.13255, a reconstruction): m_t = clip(exp(sign(A) D_t), 1 -+ eps), g_t = max(g_min, 1 - H_T / log V_eff); mean over tokens.

    `window` W (cl_egrsd): min(H_T(t), mean of H_T over the next W tokens of the response), the last token having its own.
    open: g_min, V_eff, W, the clip range; taken: 0.3, the vocabulary, 16, 0.2 (entries).
    """
    stream = fixture["main"]
    entropy_BT = entropy(stream.logp("self"))
    for i, length in enumerate(stream.mask_BT.sum(axis=1)):
        own = entropy_BT[i, :length].copy()
        for t in range(length - 1):
            if window is not None:
                entropy_BT[i, t] = min(own[t], own[t + 1 : t + 1 + window].mean())
    group_BT = along(stream, group_advantage(stream))
    evidence_BT = np.clip(np.exp(np.sign(group_BT) * gain(stream)), 1.0 - eps, 1.0 + eps)
    return surrogate(fixture, group_BT * evidence_BT * np.maximum(floor, 1.0 - entropy_BT / np.log(stream.logits["self"].shape[-1])))


def pi_distill(fixture: Fixture, *, alpha: float = 0.5, beta: float = 0.25, inside: bool = False, pessimistic: bool = False) -> Loss:
    """One network read with the privileged prompt (`theirs`, where `self` is the bare view) and without it (`main`, where `self` wrote) (2602.04942, audited).

    teacher: alpha, the advantage of R - beta mean_t(log piT - log piS); student: 1 - alpha, A of R alone with the ratio piS / sg piT;
    kl: (1 - alpha) beta mean_t(log sg piT - log piS), whose value is taken without the fixed log piT. alpha 0.5, beta 0.25; means per response.
    The card normalises the shaped reward within the group (`inside`) and clips the student's ratio to 0.8 and 1.2 on the pessimistic side
    (`pessimistic`): variant `card`. Taken, as the entry declares: beta times the centred mean beside R's own advantage, and a ratio of at most 1.2.
    """
    told, seen = fixture["main"], fixture["theirs"]
    gap_B = per_sequence(seen.sampled("old") - seen.sampled("self"), seen.mask_BT)
    if inside:
        teacher_B = group_advantage(replace(seen, reward_B=seen.reward_B - beta * gap_B))
    else:
        teacher_B = group_advantage(seen) - beta * (gap_B - np.array([gap_B[seen.group_B == g].mean() for g in seen.group_B]))
    student_BT = along(told, group_advantage(told))

    def loss(student: Mapping[str, Array]) -> Terms:
        ratio_BT = np.exp(-nll(seen, student["theirs"]) - seen.sampled("old"))
        rho_BT = np.exp(-nll(told, student["main"]) - told.sampled("self"))
        bound_BT = -np.clip(rho_BT, 0.8, 1.2) * student_BT
        policy_BT = np.maximum(-rho_BT * student_BT, bound_BT) if pessimistic else -np.minimum(rho_BT, 1.2) * student_BT
        return {
            "teacher": alpha * sequence_mean(-ratio_BT * along(seen, teacher_B), seen.mask_BT),
            "student": (1.0 - alpha) * sequence_mean(policy_BT, told.mask_BT),
            "kl": (1.0 - alpha) * beta * sequence_mean(nll(told, student["main"]), told.mask_BT),
        }

    return loss


def ssopd(fixture: Fixture, *, lam: float = 0.5, first: int = 16, cap: float = 0.05) -> Loss:
    """GRPO, and the longest wrong answer of a mixed group against the initial self shown the shortest right one (2605.17497).

    + lam 4 p (1 - p) (1/K) sum_{t <= K} sum_v min(D_v, cap), D forward KL(p0^c || pS), K at most |y-|.
    open: K and the cap (taken: 16, OPSD's 0.05), the clip of GRPO (0.2), and the mean over groups; taken: over the mixed ones, which alone count.
    """
    stream = fixture["main"]
    log_p, rate_B = stream.logp("self"), pass_rate(stream)
    kept_BT = np.zeros_like(stream.mask_BT)
    for group in np.unique(stream.group_B):
        wrong = np.flatnonzero((stream.group_B == group) & (stream.reward_B < 0.5))
        if 0 < len(wrong) < (stream.group_B == group).sum():
            longest = wrong[np.argmax(stream.mask_BT[wrong].sum(axis=1))]
            kept_BT[longest, :first] = stream.mask_BT[longest, :first]
    some_B, policy = kept_BT.any(axis=1), surrogate(fixture, along(stream, group_advantage(stream)), reduce=sequence_mean)
    weight_B1 = (4.0 * rate_B * (1.0 - rate_B))[:, None]

    def loss(student: Mapping[str, Array]) -> Terms:
        entry = np.minimum(np.exp(log_p) * (log_p - log_softmax(student["main"])), cap)
        distance = sequence_mean((weight_B1 * entry.sum(axis=-1))[some_B], kept_BT[some_B]) if some_B.any() else 0.0
        return {**policy(student), "divergence": lam * distance}

    return loss


def rltf_sd(fixture: Fixture, *, first_baseline: bool = True) -> Loss:
    """GRPO on both turns, and the second answer learned from the bare prompt by its advantage (2602.02482): L_SD = -E[A log pS(y1 | x0)], no ratio.

    `main` holds first answers, `theirs` second ones read in their context, `data` the same read bare. A = R(y1) - mean_j R(y0_j). `first_baseline`
    false: the second answers' own mean, which the card says kills the signal. open: all means (per response), GRPO's form on a dialogue (each turn by
    itself, entry).
    """
    first, read, bare = fixture["main"], fixture["theirs"], fixture["data"]
    centre_B = pass_rate(first) if first_baseline else pass_rate(bare)

    def loss(student: Mapping[str, Array]) -> Terms:
        return {
            "first": sequence_mean(along(first, group_advantage(first)) * nll(first, student["main"]), first.mask_BT),
            "second": sequence_mean(along(read, group_advantage(read)) * nll(read, student["theirs"]), read.mask_BT),
            "distil": sequence_mean(along(bare, bare.reward_B - centre_B) * nll(bare, student["data"]), bare.mask_BT),
        }

    return loss


def sdpo_user(fixture: Fixture) -> Loss:
    """The hindsight log-ratio, centred by its mean over the reply, in a clipped surrogate (2603.12273, the online form); a mean per reply.

    A reply that nobody answers has no hindsight and is not learned from: here the right ones. open: the clip (0.2), the mean over replies (answered ones).
    """
    stream = fixture["main"]
    heard_B = stream.reward_B < 0.5
    centred_BT = gain(stream) - per_sequence(gain(stream), stream.mask_BT)[:, None]
    return lambda student: {"policy": sequence_mean(clipped(stream, student["main"], centred_BT, 0.2)[heard_B], stream.mask_BT[heard_B])}


def x_opd(fixture: Fixture, *, lam: float = 0.5) -> Loss:
    """lam L_im + (1 - lam) L_cm, each -mean_t rho_t A_t with the teacher's log-ratio (2603.24596, text core): `main` read plain, `theirs` the other rendering.

    The first at ratio 1, as -A log pS(y_t).
    """

    same, cross = fixture["main"], fixture["theirs"]

    def loss(student: Mapping[str, Array]) -> Terms:
        rho_BT = np.exp(-nll(cross, student["theirs"]) - cross.sampled("old"))
        return {
            "same": lam * token_mean(log_ratio(same) * nll(same, student["main"]), same.mask_BT),
            "cross": (1.0 - lam) * token_mean(-rho_BT * log_ratio(cross), cross.mask_BT),
        }

    return loss


def cord(fixture: Fixture, *, share: float = 0.2) -> Loss:
    """Reverse KL to the same model's other modality, and GRPO on a judge's consistency (2601.16547, text core).

    w_t = 2 on the tokens of the largest KL, times a fall from 2 at the first to 1 at the last token. open: the mean (per response).
    Taken: a fifth of each response for the card's 20 tokens, rounded up, and a token in the middle of its 1/|y| (entry); GRPO without clip or KL.
    """
    stream = fixture["main"]
    log_p = stream.logp("self")
    gap_BT = np.where(stream.mask_BT, kl(stream.logp("old"), log_p), -np.inf)
    length_B1 = stream.mask_BT.sum(axis=1, keepdims=True)
    rank_BT = np.argsort(np.argsort(-gap_BT, axis=1, kind="stable"), axis=1, kind="stable")
    weight_BT = np.where(rank_BT < np.ceil(share * length_B1), 2.0, 1.0) * (2.0 - (np.arange(gap_BT.shape[1]) + 0.5) / length_B1)
    policy = plain(fixture, along(stream, group_advantage(replace(stream, reward_B=mark(stream)))), reduce=sequence_mean)

    def loss(student: Mapping[str, Array]) -> Terms:
        return {"divergence": sequence_mean(weight_BT * kl(log_softmax(student["main"]), log_p), stream.mask_BT), **policy(student)}

    return loss


def vold(fixture: Fixture, *, beta: float = 0.1, forward: bool = False) -> Loss:
    """GRPO + beta E[(1 - r) (1/|y|) sum_t KL(pS || pT)] (2510.23497): wrong answers alone distil.

    open: beta (0.1), the direction (reverse; variant `forward`), GRPO's clip (0.2).
    """
    stream = fixture["main"]
    log_p, wrong_BT = stream.logp("teacher"), along(stream, 1.0 - stream.reward_B)
    policy = surrogate(fixture, along(stream, group_advantage(stream)), reduce=sequence_mean)

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q = log_softmax(student["main"])
        return {**policy(student), "divergence": beta * sequence_mean(wrong_BT * (kl(log_p, log_q) if forward else kl(log_q, log_p)), stream.mask_BT)}

    return loss
