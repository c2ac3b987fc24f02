"""Likelihoods, preferences and divergences of the cards on black boxes, several teachers, system reports and draft models.

Notation as in `reference_direct`; `mark` and what is routed as in `reference_outcome_policy`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .fixture import Fixture, Loss, Terms
from .numerics import Array, at_tokens, generalized_jsd, kl, log_softmax, sequence_mean, token_mean
from .reference_direct import Reduce, nll, sum_then_mean
from .reference_outcome_policy import mark, routed


def lion(fixture: Fixture, *, gap: float = 0.0) -> Loss:
    """Likelihood of the teacher's answers to the prompts that the referee finds hard (2305.12870, audited): score(y_T) - score(y_S) >= gap; token mean.

    open: the gap on a scale of 1 (card: 1 of 10; entry: 0). The prompts that are left out are in no pool, so they are not counted.
    """
    stream = fixture["theirs"]
    hard_BT = stream.mask_BT & (mark(stream, 0) - mark(stream, 1) >= gap)[:, None]
    return lambda student: {"likelihood": token_mean(nll(stream, student["theirs"]), hard_BT)}


def dpo(fixture: Fixture, *, reference: str, wrong_only: bool = False, beta: float = 0.1) -> Loss:
    """-log sigmoid( beta [ log pS/pR (y+) - log pS/pR (y-) ] ), sums over tokens, y+ of `theirs` and y- of `main`, mean over the kept pairs.

    dpkd (2406.19774, inferred): R the teacher; all pairs; open: beta (0.1), the division by lengths "in practice" (none).
    supercorrect's second stage (2410.09008): R the student after the first; pairs of a right correction and a wrong own one.
    """
    theirs, own = fixture["theirs"], fixture["main"]
    kept_B = (theirs.reward_B > 0.5) & (own.reward_B < 0.5) if wrong_only else np.ones(len(own.reward_B), dtype=bool)

    def loss(student: Mapping[str, Array]) -> Terms:
        gain = [
            np.where(stream.mask_BT, -nll(stream, student[name]) - stream.sampled(reference), 0.0).sum(axis=1)
            for name, stream in (("theirs", theirs), ("main", own))
        ]
        return {"preference": float(np.log1p(np.exp(-beta * (gain[0] - gain[1])))[kept_B].mean())}

    return loss


def aligndistil(fixture: Fixture, *, strength: float | None = 1.0, lam: float = 15.0, beta: float = 0.1) -> Loss:
    """Reverse KL to logits beyond the better of two models (2503.02832, audited): softmax(z+ + w (z+ - z-)), weighed by beta / w; per-response means.

    w_t = 15 sum_v |p+ - p-| + 1e-3 (variant `adaptive`); the entry runs w = 1 and says so. p+ is the `teacher`, p- the `base`.
    """
    stream = fixture["main"]
    good, bad = stream.logp("teacher"), stream.logp("base")
    adaptive_BT = lam * np.abs(np.exp(good) - np.exp(bad)).sum(axis=-1) + 1e-3
    w_BT = adaptive_BT if strength is None else np.full_like(adaptive_BT, strength)
    log_p = log_softmax(good + w_BT[..., None] * (good - bad))
    return lambda student: {"divergence": sequence_mean(beta / w_BT * kl(log_softmax(student["main"]), log_p), stream.mask_BT)}


def mad_opd(fixture: Fixture, *, models: tuple[str, ...] = ("teacher", "self"), temperature: float = 0.7, beta: float = 0.5) -> Loss:
    """sum_k w_k mean_t JSD_0.5(T_k, pS), logits of both sides over 0.7, w the softmax of equal confidences (2605.01347, audited). open: mean over responses."""
    stream = fixture["main"]

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q = log_softmax(student["main"] / temperature)
        return {
            f"teacher_{k}": sequence_mean(generalized_jsd(log_softmax(stream.logits[model] / temperature), log_q, beta), stream.mask_BT) / len(models)
            for k, model in enumerate(models)
        }

    return loss


def reverse(fixture: Fixture, *, members: tuple[str, ...] = ("teacher",), reduce: Reduce = sum_then_mean) -> Loss:
    """KL(pS || pT) on `main`: hy_embodied (direction inferred) and deepseek_v4_opd (to each prompt's own expert), sums over tokens; the second phases of
    qwen3_s2w (direction open, mean over tokens) and sparse_to_dense (sum_t in the card, token mean in the entry)."""
    stream = fixture["main"]
    log_p = routed(stream, members)
    return lambda student: {"divergence": reduce(kl(log_softmax(student["main"]), log_p), stream.mask_BT)}


def forward_on_theirs(fixture: Fixture, *, cap: float = np.inf, reduce: Reduce = token_mean) -> Loss:
    """KL(pT || pS) on the teacher's text: the bridge of sparse_to_dense (2605.12483; sum_t in the card, token mean in the entry); the fusion of baichuan_m3
    (2602.06570), sum_t min(KL, c), form inferred, c 5 (entry)."""
    stream = fixture["theirs"]
    log_p = stream.logp("teacher")
    return lambda student: {"divergence": reduce(np.minimum(kl(log_p, log_softmax(student["theirs"])), cap), stream.mask_BT)}


def on_theirs(fixture: Fixture) -> Loss:
    """-log pS of the teacher's text, token mean: the first phases of gad, supercorrect and qwen3_s2w."""
    stream = fixture["theirs"]
    return lambda student: {"likelihood": token_mean(nll(stream, student["theirs"]), stream.mask_BT)}


def routed_log_ratio(fixture: Fixture, *, members: tuple[str, ...] = ("self", "teacher")) -> Loss:
    """A_t = sg[log pT_k(y_t) - log pS(y_t)] with each prompt's expert, immediate, token mean (open): the last stage of baichuan_m3."""
    stream = fixture["main"]
    advantage_BT = at_tokens(routed(stream, members), stream.response_BT) - stream.sampled("old")
    return lambda student: {"policy": token_mean(advantage_BT * nll(stream, student["main"]), stream.mask_BT)}


def draft_opd(fixture: Fixture, *, g: float = 0.8) -> Loss:
    """A draft is accepted up to the first place where its favourite is not the target's (2605.29343).

    L = (L_acc + L_rej) / 2, L_acc = mean_acc KL(pT || pS), L_rej = sum_rej g^k KL(pS || pT) / sum_rej g^k, k the place in the block, from 0.
    """
    stream = fixture["main"]
    log_p, log_old = stream.logp("teacher"), stream.logp("old")
    agreed_BT = log_p.argmax(axis=-1) == log_old.argmax(axis=-1)
    accepted_BT = agreed_BT.cumprod(axis=1).astype(bool)
    fade_BT = np.where(stream.mask_BT & ~accepted_BT, g ** np.arange(stream.mask_BT.shape[1]), 0.0)

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q = log_softmax(student["main"])
        return {
            "accepted": 0.5 * token_mean(kl(log_p, log_q), stream.mask_BT & accepted_BT),
            "rejected": 0.5 * float((fade_BT * kl(log_q, log_p)).sum() / fade_BT.sum()),
        }

    return loss


def online_spec_decoding(fixture: Fixture) -> Loss:
    """KL(pT || pS) at the positions that the target corrected (2310.07177, an abstract), their mean; corrected is where the favourites of both part."""
    stream = fixture["main"]
    log_p = stream.logp("teacher")
    corrected_BT = stream.mask_BT & (log_p.argmax(axis=-1) != stream.logp("old").argmax(axis=-1))
    return lambda student: {"divergence": token_mean(kl(log_p, log_softmax(student["main"])), corrected_BT)}
