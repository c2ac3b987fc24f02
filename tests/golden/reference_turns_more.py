"""Further agents: hindsight, canonical contexts, search, and users with wishes.

Notation as in `reference_turns`; reverse and forward KL as in `reference_signal_direct`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .fixture import ROLES, Fixture, Loss, Stream, Terms
from .numerics import Array, Mask, generalized_jsd, kl, log_softmax, sequence_mean, token_mean
from .reference_direct import Reduce, nll, sum_then_mean
from .reference_guided import along, surrogate
from .reference_outcome import group_advantage
from .reference_self_routed import gains
from .reference_signal_direct import divergence, summed
from .reference_turns import pieces, turns_summed


def policy(fixture: Fixture, *, reduce: Reduce = sequence_mean, eps: float = 1e-4) -> Loss:
    """GRPO's clipped surrogate of whole dialogues."""
    stream = fixture["main"]
    return surrogate(fixture, along(stream, group_advantage(stream, eps=eps)), reduce=reduce)


def anchor(fixture: Fixture, weight: float, *, reduce: Reduce = sequence_mean) -> Loss:
    """GRPO's k3 to the initial student, exp(d) - d - 1, d = log p_ref(y_t) - log q(y_t)."""
    stream = fixture["main"]

    def loss(student: Mapping[str, Array]) -> Terms:
        d_BT = stream.sampled("reference") + nll(stream, student["main"])
        return {"start": weight * reduce(np.exp(d_BT) - d_BT - 1.0, stream.mask_BT)}

    return loss


def last_turn(stream: Stream) -> Mask:
    """Tokens of each dialogue's last turn."""
    assert stream.turn_BT is not None
    last_B = np.where(stream.mask_BT, stream.turn_BT, -1).max(axis=1)
    return stream.mask_BT & (stream.turn_BT == last_B[:, None])


def hero(fixture: Fixture) -> Loss:
    """sum_k (1/|a_k|) sum_t KL(q || p(. | h_k, d_k)), the self shown a diagnosis (2606.11559; loss reconstructed). open: over dialogues."""
    stream = fixture["main"]
    log_p = stream.logp("self")
    return lambda student: {"divergence": turns_summed(kl(log_softmax(student["main"]), log_p), stream)}


def hint_sd(fixture: Fixture) -> Loss:
    """Reverse KL (a reconstruction) on the blamed turns of failed dialogues, over the number of their tokens (2605.17873).

    Blamed (entry): turns that brought the environment no nearer, in place of an analyser's choice.
    """
    stream = fixture["main"]
    kept_BT = stream.mask_BT & (gains(stream) <= 0.0) & (stream.reward_B < 0.5)[:, None]
    log_p = stream.logp("self")
    return lambda student: {"divergence": token_mean(kl(log_softmax(student["main"]), log_p), kept_BT)}


def sd_search(fixture: Fixture, *, lam: float = 0.1, start: float = 1e-3) -> Loss:
    """GRPO with its KL to the start + lam mean over query tokens of JSD(p(. | hindsight), q) (2605.18299). open: lam, the KL's weight."""
    stream = fixture["main"]
    calls_BT = stream.mask_BT & (stream.role_BT == ROLES.index("call"))
    log_p = stream.logp("self")

    def queries(student: Mapping[str, Array]) -> Terms:
        return {"queries": lam * token_mean(generalized_jsd(log_p, log_softmax(student["main"]), 0.5), calls_BT)}

    return summed(policy(fixture), queries, anchor(fixture, start))


def tod_proactivity(fixture: Fixture) -> Loss:
    """mean_t KL(p(. | concerns) || q) - sum over turns of (V(s_{k+1}) - V(s_k)) log q(a_k) (2605.22240, reconstructed). open: lambda (1), over dialogues."""
    stream = fixture["main"]
    gain_BT = gains(stream)

    def moves(student: Mapping[str, Array]) -> Terms:
        return {"moves": sum_then_mean(gain_BT * nll(stream, student["main"]), stream.mask_BT)}

    return summed(divergence(fixture, kind="forward"), moves)


def search_e1(fixture: Fixture, *, distilling: bool = False) -> Loss:
    """Rounds of plain GRPO, then of mean_t KL(p(. | an efficient sibling) || q) (2605.22511)."""
    return divergence(fixture, kind="forward") if distilling else policy(fixture)


def maigo(fixture: Fixture) -> Loss:
    """JSD to the self without its own replies on middle turns, weighed by exp(-mean KL(q || p)), and to the self with the whole prompt on the last turn
    (2605.27186, weights reconstructed); means over a turn's tokens, summed over turns, mean over dialogues (open). `self` is the clean view, `right` the whole.
    """
    stream = fixture["main"]
    clean, whole, final_BT = stream.logp("self"), stream.logp("right"), last_turn(stream)
    weight_BT = np.zeros(stream.mask_BT.shape)
    for i, own_T in pieces(stream):
        weight_BT[i, own_T] = np.exp(-kl(stream.logp("old"), clean)[i, own_T].mean())

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q = log_softmax(student["main"])
        return {
            "middle": turns_summed(~final_BT * weight_BT * generalized_jsd(clean, log_q, 0.5), stream),
            "answer": turns_summed(final_BT * generalized_jsd(whole, log_q, 0.5), stream),
        }

    return loss


def canonical_ctx_opd(fixture: Fixture) -> Loss:
    """(1/|T_ans|) sum over the tokens of the final answer of KL(q || p_0(. | canonical prompt)) (2605.30251); dialogues without one are no part of the mean."""
    stream = fixture["main"]
    answer_BT = last_turn(stream) & (stream.role_BT == ROLES.index("answer"))
    some_B, log_p = answer_BT.any(axis=1), stream.logp("self")
    return lambda student: {"divergence": sequence_mean(kl(log_softmax(student["main"]), log_p)[some_B], answer_BT[some_B])}


def pi_play(fixture: Fixture, *, lam: float = 0.1, beta: float = 1e-3) -> Loss:
    """Per dialogue, a clipped surrogate summed over tokens, a KL to the start, and lam (1/|y|) sum_t KL(q || p(. | path)) (2604.14054).

    open: lam, beta, the KL's estimator (GRPO's k3) and its mean (a sum, as the surrogate's).
    """
    path = divergence(fixture, reduce=sequence_mean, scale=lam)
    return summed(policy(fixture, reduce=sum_then_mean), anchor(fixture, beta, reduce=sum_then_mean), path)


def resd(fixture: Fixture, *, bound: float = 0.5) -> Loss:
    """sum_t sum_v of reverse-KL entries q log(q/p(. | reflection, lessons)), each bounded (2605.12741).

    The card bounds the ratio p/q by numbers that were not found. Taken (entry): each entry within 0.5 in size, without gradient beyond.
    """
    stream = fixture["main"]
    log_p = stream.logp("self")

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q = log_softmax(student["main"])
        return {"divergence": sum_then_mean(np.clip(np.exp(log_q) * (log_q - log_p), -bound, bound).sum(axis=-1), stream.mask_BT)}

    return loss


def sdar(fixture: Fixture, *, beta: float = 5.0, coef: float = 0.01, start: float = 0.01) -> Loss:
    """GRPO + coef mean_t g_t (log p(y_t) - log q(y_t)), g = sigmoid(beta r_t), + 0.01 k3 to the start (2605.15155, code).

    open: GRPO's constant (1e-6), clip and mean (per dialogue).
    """
    stream = fixture["main"]
    taught_BT = stream.sampled("self")
    gate_BT = 1.0 / (1.0 + np.exp(-beta * (taught_BT - stream.sampled("old"))))

    def gated(student: Mapping[str, Array]) -> Terms:
        return {"skills": coef * token_mean(gate_BT * (taught_BT + nll(stream, student["main"])), stream.mask_BT)}

    return summed(policy(fixture, eps=1e-6), gated, anchor(fixture, start))
