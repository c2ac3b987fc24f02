"""Losses that are differentiated directly: likelihoods and divergences.

Notation of the docstrings: p teacher, q current student, both conditioned on the prefix s_t; KL(a || b) in nats; N the
number of response tokens of the batch. Each function fixes whatever the paper detaches at the fixture's values and
returns the loss as a function of the student's logits, term by term. `open:` marks what the card leaves open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from .fixture import TOP_K, Fixture, Loss, Stream, Terms
from .numerics import Array, Mask, at_tokens, entropy, generalized_jsd, kl, log_mix, log_softmax, pick, sequence_mean, token_mean, top_k

Reduce = Callable[[Array, Mask], float]


def sum_then_mean(values_BT: Array, mask_BT: Mask) -> float:
    """Sum over each sequence's tokens, then the mean over the sequences."""
    return float(np.where(mask_BT, values_BT, 0.0).sum(axis=1).mean())


def nll(stream: Stream, student_BTV: Array) -> Array:
    """-log q(y_t), (B, T)."""
    return -at_tokens(log_softmax(student_BTV), stream.response_BT)


def sft(fixture: Fixture) -> Loss:
    """Likelihood of the data set's responses.

    L = -(1/N) sum_t log q(y_t) on `data`. Normalisation: token mean over the batch (card).
    """
    stream = fixture["data"]

    def loss(student: Mapping[str, Array]) -> Terms:
        return {"likelihood": token_mean(nll(stream, student["data"]), stream.mask_BT)}

    return loss


def kd(fixture: Fixture, *, tau: float = 1.0, a: float = 1.0, teacher_entropy: bool = True) -> Loss:
    """Word-level distillation on the data set's responses (1503.02531).

    L = (1/N) sum_t [ (1 - a) (-log q(y_t)) + a tau^2 KL(p^tau || q^tau) ] on `data`, with the card's tau = 1 and a = 1: the
    likelihood part is then 0. Normalisation: token mean (card, code).
    The value is the KL, as the card writes it; language-model code drops the teacher's entropy (same gradient), which
    is the variant `cross_entropy`.
    """
    stream = fixture["data"]
    log_p = log_softmax(stream.logits["teacher"] / tau)
    constant_BT = 0.0 if teacher_entropy else entropy(log_p)

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q = log_softmax(student["data"] / tau)
        return {
            "divergence": a * tau**2 * token_mean(kl(log_p, log_q) + constant_BT, stream.mask_BT),
            "likelihood": (1.0 - a) * token_mean(nll(stream, student["data"]), stream.mask_BT),
        }

    return loss


def seqkd(fixture: Fixture, *, reduce: Reduce = token_mean) -> Loss:
    """Likelihood of the teacher's responses (1606.07947).

    L = -sum_t log q(y_t) per response on `theirs`.
    open: the objective line sums over a response's tokens and names no mean over the batch; the algorithm line says SFT
    on the teacher's text, and the card's code source trains it with the SFT loss. Taken: token mean over the batch, as
    `sft`. Variant `token_sum`: sum over tokens, mean over responses.
    """
    stream = fixture["theirs"]

    def loss(student: Mapping[str, Array]) -> Terms:
        return {"likelihood": reduce(nll(stream, student["theirs"]), stream.mask_BT)}

    return loss


def gkd(fixture: Fixture, *, divergence: str = "generalized_jsd", beta: float = 0.5, reduce: Reduce = token_mean) -> Loss:
    """Generalised JSD to the teacher on student rollouts (2306.13649), for a batch whose draw fell on the student.

    L = mean of beta KL(p || M) + (1 - beta) KL(q || M), M = beta p + (1 - beta) q, beta = 0.5, on `main`; temperature 1 in
    the loss (audit), q differentiated inside M too.
    Normalisation: mean over the response tokens of the batch (audit, as TRL runs it); the paper averages 1/T per
    sequence first: variant `sequence_mean`. Variants `forward_kl` KL(p || q) and `reverse_kl` KL(q || p) are the ends.
    """
    stream = fixture["main"]
    log_p = stream.logp("teacher")

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q = log_softmax(student["main"])
        values_BT = {
            "generalized_jsd": lambda: generalized_jsd(log_p, log_q, beta),
            "forward_kl": lambda: kl(log_p, log_q),
            "reverse_kl": lambda: kl(log_q, log_p),
        }[divergence]()
        return {"divergence": reduce(values_BT, stream.mask_BT)}

    return loss


def distillm(fixture: Fixture, *, skew: float = 0.1, lm_coef: float = 1.0, reverse: bool = False) -> Loss:
    """Skew forward KL on the batch's sequences, and likelihood of the corpus (2402.03898, script adaptive-sfkl).

    L = (1/N) sum_t KL(p || 0.1 p + 0.9 q) on `main` + 1.0 * (1/N_corpus) sum_t -log q(y_t) on `corpus`.
    Normalisation: token mean for the divergence (card).
    open: the card gives none for the corpus term; taken: token mean over the corpus tokens, its own denominator.
    Variant `skew_reverse_kl` (script adaptive-srkl): KL(q || 0.9 p + 0.1 q), q differentiated inside the mixture too.
    """
    stream, corpus = fixture["main"], fixture["corpus"]
    log_p = stream.logp("teacher")

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q = log_softmax(student["main"])
        skewed_BT = kl(log_q, log_mix(skew, log_q, log_p)) if reverse else kl(log_p, log_mix(skew, log_p, log_q))
        return {
            "divergence": token_mean(skewed_BT, stream.mask_BT),
            "corpus": lm_coef * token_mean(nll(corpus, student["corpus"]), corpus.mask_BT),
        }

    return loss


def distillm2(fixture: Fixture, *, skew: float = 0.1, b: float = 1.0) -> Loss:
    """Skew forward KL on the teacher's response and skew reverse KL on the student's, per prompt (2503.07067).

    L = mean over pairs of (2 - b) mean_t KL(p || a p + (1 - a) q) on `theirs` + b mean_t KL(q || (1 - a) p + a sg[q]) on `main`;
    a = 0.1 in both, b = 1 (both curricula off). The q inside the reverse mixture is detached (card and audit), the one in
    the forward mixture is not.
    Normalisation: mean over each response's own tokens, then over the pairs of the batch (card: per-response mean).
    No factor 1/2 for the two responses of a pair: none in the card.
    """
    theirs, own = fixture["theirs"], fixture["main"]
    log_p_theirs, log_p_own = theirs.logp("teacher"), own.logp("teacher")
    log_mixture_own = log_mix(1.0 - skew, log_p_own, own.logp("student"))

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q_theirs, log_q_own = log_softmax(student["theirs"]), log_softmax(student["main"])
        forward_BT = kl(log_p_theirs, log_mix(skew, log_p_theirs, log_q_theirs))
        return {
            "skew_forward_kl": (2.0 - b) * sequence_mean(forward_BT, theirs.mask_BT),
            "skew_reverse_kl": b * sequence_mean(kl(log_q_own, log_mixture_own), own.mask_BT),
        }

    return loss


def revisiting_opd(fixture: Fixture, *, k: int = TOP_K) -> Loss:
    """Reverse KL on the teacher's top-K, both sides renormalised there (Revisiting OPD).

    L = (1/N) sum_t sum_{v in S_t} q'(v) (log q'(v) - log p'(v)) on `main`; S_t the teacher's top-K, q' and p' the softmax of the
    logits on S_t alone. K = 3 (card: 32). Coefficient 1, clamp off, special-token mask off (audit).
    Normalisation: token mean over the masked tokens (card: mean_t m'_t).
    open: the entropy mask is optional (`entropy_top_ratio` below 1 only in an example); taken: off, every response token.
    """
    stream = fixture["main"]
    support_BTK = top_k(stream.logp("teacher"), k)
    log_p = log_softmax(pick(stream.logits["teacher"], support_BTK))

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q = log_softmax(pick(student["main"], support_BTK))
        return {"divergence": token_mean(kl(log_q, log_p), stream.mask_BT)}

    return loss


def truncated_reverse_kl(fixture: Fixture, *, mass: str, k: int = TOP_K) -> Loss:
    """Reverse KL on the student's own top-K, by what happens to the mass outside (variants of Revisiting OPD; catalogue D.11).

    raw: sum_S q (log q - log p), differentiated as it stands; detach: sum_S q sg[log q - log p]; renormalise: both sides made to sum to 1 on S;
    tail: one more entry holds what is outside S, on both sides. Token mean; S chosen without gradient. K = 3 (16).
    """
    stream = fixture["main"]
    ids_BTK = top_k(stream.logp("old"), k)
    log_p = pick(stream.logp("teacher"), ids_BTK)
    held = pick(stream.logp("student"), ids_BTK) - log_p

    def with_tail(log_BTK: Array) -> Array:
        return np.concatenate([log_BTK, np.log1p(-np.exp(log_BTK).sum(axis=-1, keepdims=True))], axis=-1)

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q = pick(log_softmax(student["main"]), ids_BTK)
        values_BT = {
            "raw": lambda: kl(log_q, log_p),
            "detach": lambda: (np.exp(log_q) * held).sum(axis=-1),
            "renormalise": lambda: kl(log_softmax(log_q), log_softmax(log_p)),
            "tail": lambda: kl(with_tail(log_q), with_tail(log_p)),
        }[mass]()
        return {"divergence": token_mean(values_BT, stream.mask_BT)}

    return loss


def opsd(fixture: Fixture, *, beta: float = 0.0, cap: float = 0.05, temperature: float = 1.1) -> Loss:
    """Forward KL to the initial student with privileged context, every vocabulary entry capped (2601.18734, revised release).

    L = (1/N) sum_t sum_v min( D_v(t), c ) on `main`, teacher `self`, D_v = p(v) (log p(v) - log q(v)) for beta = 0, c = 0.05. An entry may
    be negative; only its upper side is capped, before the sum over v; a capped entry has no gradient.
    Normalisation: all valid completion tokens of the batch (audit; it replaces the card's 1/|y|).
    The temperature 1.1 divides the logits of both sides: the card says so, the audit leaves that line standing, and the public
    trainer does pass its sampling temperature to the loss. Variant `temperature_1` leaves the logits as they are.
    `opsd_jsd`: beta = 0.5 (D_v of the JSD, beta on the teacher), no cap, same temperature; `opsd_uncapped`: no cap.
    """
    stream = fixture["main"]
    log_p = log_softmax(stream.logits["self"] / temperature)

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q = log_softmax(student["main"] / temperature)
        log_m = log_mix(beta, log_p, log_q)
        entry_BTV = beta * np.exp(log_p) * (log_p - log_m) + (1.0 - beta) * np.exp(log_q) * (log_q - log_m)
        if beta == 0.0:
            entry_BTV = np.exp(log_p) * (log_p - log_q)
        return {"divergence": token_mean(np.minimum(entry_BTV, cap).sum(axis=-1), stream.mask_BT)}

    return loss
