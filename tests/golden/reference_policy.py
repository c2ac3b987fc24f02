"""Policy gradients on the teacher's log-ratio, alone or beside a divergence.

Notation of the docstrings: pS current student, pOld student at rollout time, pT teacher; r_t = log pT(y_t|s_t) - log pS(y_t|s_t);
sg[.] detached (held at the fixture's values in the gradients); rho_t = pS(y_t) / pOld(y_t), differentiated. The value of a
policy-gradient term is that of its surrogate, so it says little alone: compare the gradients. `open:` marks what the
card leaves open.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .fixture import TOP_K, Fixture, Loss, Stream, Terms
from .numerics import Array, at_tokens, entropy, kl, log_softmax, pessimistic, pick, sequence_mean, token_mean, top_k
from .reference_direct import Reduce, nll


def length_normalised_return(reward_BT: Array, length_B: Array, gamma: float, *, first: int, discount_from: int) -> Array:
    """sum_{t' >= t + first} gamma^(t' - t - discount_from) reward_t' / (number of tokens summed); 0 where none is left.

    `first` 1 leaves out the token's own reward (paper), 0 includes it (code).
    """
    out_BT = np.zeros_like(reward_BT)
    for i, length in enumerate(length_B.astype(int)):
        for t in range(length - first):
            later = np.arange(t + first, length)
            out_BT[i, t] = (gamma ** (later - t - discount_from) * reward_BT[i, later]).sum() / len(later)
    return out_BT


def minillm_advantage(
    stream: Stream, *, gamma: float, reward_scaling: float, reward_cap: float, first: int, discount_from: int, ddof: int, eps: float = 1e-8
) -> Array:
    """The whitened return of `minillm`, (B, T); 0 under the padding."""
    reward_BT = np.clip((stream.sampled("teacher") - stream.sampled("old")) / reward_scaling, -reward_cap, reward_cap)
    return_BT = length_normalised_return(reward_BT, stream.mask_BT.sum(axis=1), gamma, first=first, discount_from=discount_from)
    valid = return_BT[stream.mask_BT]
    return np.where(stream.mask_BT, (return_BT - valid.mean()) / np.sqrt(valid.var(ddof=ddof) + eps), 0.0)


def minillm(
    fixture: Fixture,
    *,
    alpha: float = 0.2,
    gamma: float = 0.95,
    reward_scaling: float = 0.5,
    first: int = 1,
    discount_from: int = 1,
    ddof: int = 0,
    kd_ratio: float = 0.0,
) -> Loss:
    """Sequence reverse KL by policy gradient, exact one-step part, corpus likelihood (2306.08543), in the paper's form.

    reward_t = clip( (log pT(y_t) - log pOld(y_t)) / 0.5, -100, 100 ), scaled first and then clipped;
    R_t = sum_{t' > t} 0.95^(t' - t - 1) reward_t' / (T - t), T the response's own length and t counted from 1; 0 at the last token;
    A_t = (R_t - mean) / sqrt(var + 1e-8), mean and population variance (ddof 0) over the valid tokens of the batch, the zeros of
      last tokens among them, no padding; detached;
    w_t = pOld(y_t) / ( 0.8 pOld(y_t) + 0.2 pT(y_t) ), detached, at rollout time; the PPO ratio is the product w_t rho_t;
    L = (1/N) sum_t max( -A_t w_t rho_t, -A_t clip(w_t rho_t, 0.8, 1.2) )   [policy, `main`]
      + (1/N) sum_t KL(pS || pT), full vocabulary, unweighted              [one_step, `main`]
      + 1.0 (1/N_corpus) sum_t -log pS(y_t)                               [corpus, `corpus`]
    Normalisation: token mean, each term over its own stream (card; the corpus term's by the release).
    open: whether the discount of a return that starts at t + 1 counts from t or from t + 1 (card: R_{t+1}, so from t + 1): a
      constant factor, which whitening removes (variant `discount_from_t` agrees to the variance's 1e-8).
    open: the variance of the whitening (card silent; the release divides by the count: ddof 0; variant `sample_std`). The
      release also whitens over padding; the card's audit reports that, and it is not followed here.
    Variant `code_return`: the return includes the token's own reward and divides by T - t + 1. `kd_ratio` k (0.5 in the code): the corpus term is
      (1 - k) of the likelihood and k of the teacher's cross-entropy there, whose value is taken as KL(pT || pS), without the teacher's entropy.
    """
    stream, corpus = fixture["main"], fixture["corpus"]
    old_BT, log_p = stream.sampled("old"), stream.logp("teacher")
    advantage_BT = minillm_advantage(stream, gamma=gamma, reward_scaling=reward_scaling, reward_cap=100.0, first=first, discount_from=discount_from, ddof=ddof)
    p_old_BT, p_teacher_BT = np.exp(old_BT), np.exp(stream.sampled("teacher"))
    mixture_weight_BT = p_old_BT / ((1.0 - alpha) * p_old_BT + alpha * p_teacher_BT)

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q = log_softmax(student["main"])
        ratio_BT = mixture_weight_BT * np.exp(at_tokens(log_q, stream.response_BT) - old_BT)
        return {
            "policy": token_mean(pessimistic(ratio_BT, advantage_BT, 0.2), stream.mask_BT),
            "one_step": token_mean(kl(log_q, log_p), stream.mask_BT),
            "corpus": (1.0 - kd_ratio) * token_mean(nll(corpus, student["corpus"]), corpus.mask_BT),
            **({"corpus_kd": kd_ratio * token_mean(kl(corpus.logp("teacher"), log_softmax(student["corpus"])), corpus.mask_BT)} if kd_ratio else {}),
        }

    return loss


def minillm_trl(fixture: Fixture) -> Loss:
    """The form in TRL, at its discount of 0: the detached sampled log-ratio, and the one-step reverse KL; no mixture, no corpus (minillm's notes).

    L = (1/N) sum_t [ -sg[r_t] log pS(y_t) + KL(pS || pT) ]. TRL leaves the log-ratio undetached, which at ratio 1 means r_t - 1 (audit: unbiased, more
    variance); taken: detached, as everywhere else, and no verifier's advantage beside it.
    """
    stream = fixture["main"]
    log_p = stream.logp("teacher")
    reward_BT = stream.sampled("teacher") - stream.sampled("old")

    def loss(student: Mapping[str, Array]) -> Terms:
        return {
            "policy": token_mean(reward_BT * nll(stream, student["main"]), stream.mask_BT),
            "one_step": token_mean(kl(log_softmax(student["main"]), log_p), stream.mask_BT),
        }

    return loss


def tml_opd(fixture: Fixture, *, reduce: Reduce = token_mean) -> Loss:
    """Sampled log-ratio as a policy gradient with importance weights (Thinking Machines recipe).

    A_t = sg[log pT(y_t) - log pOld(y_t)], the sampler's own log-probability; L = -sum_t rho_t A_t on `main`; coefficient 1, discount 0,
    no clipping, no whitening, no environment reward.
    Normalisation: the card SUMS over the tokens of the batch (audit agrees): variant `token_sum`. The value here is the
    token mean, the sum divided by N = 6; an entry with token_mean therefore owes a line in its deviations.
    """
    stream = fixture["main"]
    old_BT = stream.sampled("old")
    advantage_BT = stream.sampled("teacher") - old_BT

    def loss(student: Mapping[str, Array]) -> Terms:
        ratio_BT = np.exp(-nll(stream, student["main"]) - old_BT)
        return {"policy": reduce(-ratio_BT * advantage_BT, stream.mask_BT)}

    return loss


def vopd(fixture: Fixture, *, scored_by: str = "student") -> Loss:
    """Sampled log-ratio with the closed-form value as control variate (2605.07865).

    A_t = sg[ r_t + KL(pS || pT) ], full vocabulary; L = -(1/N) sum_t A_t log pS(y_t) on `main`.
    Normalisation: token mean over the global batch (audit: the release's loss type).
    open: the card writes r_t and the KL with the current student and no ratio, and notes a ratio surrogate in code; with one
    update per rollout they agree. Taken: the card's line. Variant `rollout_scored`: A_t from pOld, and -rho_t A_t in place of
    -A_t log pS(y_t), unclipped.
    """
    stream = fixture["main"]
    advantage_BT = stream.sampled("teacher") - stream.sampled(scored_by) + kl(stream.logp(scored_by), stream.logp("teacher"))
    old_BT = stream.sampled("old")

    def loss(student: Mapping[str, Array]) -> Terms:
        logp_BT = -nll(stream, student["main"])
        action_BT = logp_BT if scored_by == "student" else np.exp(logp_BT - old_BT)
        return {"policy": token_mean(-advantage_BT * action_BT, stream.mask_BT)}

    return loss


def eopd(fixture: Fixture, *, k: int = TOP_K, threshold: float = 0.8, alpha: float = 1.0, reduce: Reduce = sequence_mean) -> Loss:
    """Sampled log-ratio everywhere, and a top-k forward KL where the teacher is uncertain (2603.07079, audited form).

    A_t = sg[log pT(y_t) - log pOld(y_t)]; policy_t = max( -rho_t A_t, -clip(rho_t, 0.8, 1.2) A_t ) on every token;
    forward_t = 1[H_T(s_t) > 0.8] sum_{v in S_t} p'(v) (log p'(v) - log pS(v)): S_t the teacher's top-k, p' the TEACHER renormalised
    on it, the student with its full softmax (not renormalised); H_T over the full vocabulary in nats; alpha = 1; on `main`.
    K = 3 (card: 16). The gated-off tokens stay in the denominator.
    Normalisation: 1/|y| sum_t per rollout (audit). open: the mean over rollouts is not spelled out; taken: over the
    sequences of the batch. Variant `token_mean`: both terms over all tokens of the batch.
    """
    stream = fixture["main"]
    old_BT, log_p = stream.sampled("old"), stream.logp("teacher")
    advantage_BT = stream.sampled("teacher") - old_BT
    gate_BT = (entropy(log_p) > threshold).astype(np.float64)
    support_BTK = top_k(log_p, k)
    log_p_support = log_softmax(pick(log_p, support_BTK))

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q = log_softmax(student["main"])
        ratio_BT = np.exp(at_tokens(log_q, stream.response_BT) - old_BT)
        forward_BT = gate_BT * kl(log_p_support, pick(log_q, support_BTK))
        return {
            "policy": reduce(pessimistic(ratio_BT, advantage_BT, 0.2), stream.mask_BT),
            "forward_kl": alpha * reduce(forward_BT, stream.mask_BT),
        }

    return loss


def aopd(fixture: Fixture, *, k: int = TOP_K, tau: float = 0.0, scored_by: str = "student", reduce: Reduce = sequence_mean) -> Loss:
    """Policy gradient on tokens the teacher likes better, local imitation on the others (2605.06387).

    G_t = 1[ pT(y_t) - pS(y_t) <= 0 ], detached; where 0: -sg[r_t] log pS(y_t); where 1: sum_{v in S_t} pT(v) (log pT(v) - log pS(v)),
    S_t the teacher's top-K, neither side renormalised there; on `main`. K = 3 (card: not found).
    Normalisation: 1/|y| sum_t over all tokens, gated or not (card; the audit could not check it). open: the expectation over
    rollouts; taken: mean over the sequences of the batch. Variant `token_mean`.
    open: the card writes gate and r_t with the student, not with its rollout-time copy, and names no ratio; taken: current
    student, no ratio. Variant `rollout_scored`: both from pOld, still no ratio.
    """
    stream = fixture["main"]
    log_p = stream.logp("teacher")
    scored_BT = stream.sampled(scored_by)
    advantage_BT = stream.sampled("teacher") - scored_BT
    gate_BT = (np.exp(stream.sampled("teacher")) - np.exp(scored_BT) <= tau).astype(np.float64)
    support_BTK = top_k(log_p, k)
    log_p_support = pick(log_p, support_BTK)

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q = log_softmax(student["main"])
        policy_BT = -advantage_BT * at_tokens(log_q, stream.response_BT)
        return {
            "policy": reduce((1.0 - gate_BT) * policy_BT, stream.mask_BT),
            "forward_kl": reduce(gate_BT * kl(log_p_support, pick(log_q, support_BTK)), stream.mask_BT),
        }

    return loss
