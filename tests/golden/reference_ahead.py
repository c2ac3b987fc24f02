"""Cards that look beyond the written tokens: where a token leads, whether both models would go the same way, which tokens a teacher lifts everywhere.

Notation as in `reference_opd_policy`. The fixture's tokens have no future, so these draw one: `laws_ahead` the teacher's law behind each token of each state,
`future_gaps` the distance of the texts that teacher and student would write there.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .fixture import VOCABULARY, Fixture, Loss, Stream, Terms
from .numerics import Array, at_tokens, entropy, kl, log_softmax, sequence_mean, token_mean, top_k
from .reference_direct import nll
from .reference_opd_policy import log_ratio
from .reference_signal_direct import furthest

STOP = 1  # the token that ends a text, behind which nothing stands


def laws_ahead(stream: Stream) -> Array:
    """log pT(. | s_t, v), (B, T, V, V)."""
    random = np.random.RandomState(606)
    return log_softmax(1.5 * random.standard_normal((*stream.mask_BT.shape, VOCABULARY, VOCABULARY)))


def future_gaps(stream: Stream) -> Array:
    """The transport cost between both windows from each state, (B, T)."""
    return np.asarray(np.random.RandomState(607).uniform(size=stream.mask_BT.shape))


def lookahead(stream: Stream, *, k: int, share: float, eps: float) -> Array:
    """(c(y_t) - mean_v c(v)) / (std_v c(v) + eps) in the `share` of a response's states where the student is least sure, else 0, (B, T).

    c the teacher's largest probability one step ahead, v the student's top k. A stop has nothing ahead: no candidate, and 0 where it is written (open).
    """
    log_q = stream.logp("old")
    uncertain_BT = furthest(entropy(log_q), stream.mask_BT, share)
    sure_BTV = np.exp(laws_ahead(stream)).max(axis=-1)
    going = np.where(np.arange(VOCABULARY) == STOP, -np.inf, log_q)
    candidate_BTK = np.take_along_axis(sure_BTV, top_k(going, k), axis=-1)
    score_BT = (at_tokens(sure_BTV, stream.response_BT) - candidate_BTK.mean(axis=-1)) / (candidate_BTK.std(axis=-1) + eps)
    return np.where(uncertain_BT & (stream.response_BT != STOP), score_BT, 0.0)


def lgr(fixture: Fixture, *, gamma: float = 0.5, k: int = 3, share: float = 0.2, eps: float = 1e-6) -> Loss:
    """-mean_t sg[r_t + gamma conf_t] log q(y_t), conf the lookahead score of the token (2605.30833; sign and measure inferred).

    k = 3 (entry: 4). open: gamma, k, the share of uncertain states (a fifth, rounded up), which standard deviation (population), the mean.
    """
    stream = fixture["main"]
    advantage_BT = log_ratio(stream) + gamma * lookahead(stream, k=k, share=share, eps=eps)
    return lambda student: {"policy": token_mean(advantage_BT * nll(stream, student["main"]), stream.mask_BT)}


def topd_nearfuture(fixture: Fixture, *, suspects: float = 0.2, alarms: float = 0.3) -> Loss:
    """mean over t not in F of KL(q || p), F the false alarms: of the fifth of the batch's tokens with the largest gap, the 30 % whose futures are nearest.

    2606.00305, its filter alone (the card's ablation). open: the gap's measure (|r_t|), both roundings (up, down).
    """
    stream = fixture["main"]
    log_p = stream.logp("teacher")
    gap_BT, mask_BT = np.where(stream.mask_BT, np.abs(log_ratio(stream)), -np.inf), stream.mask_BT
    high_BT = gap_BT >= np.sort(gap_BT[mask_BT])[-int(np.ceil(suspects * mask_BT.sum() - 1e-9))]
    dropped = int(alarms * high_BT.sum() + 1e-9)
    near_BT = np.where(high_BT, future_gaps(stream), np.inf)
    kept_BT = mask_BT & (near_BT > (np.sort(near_BT[high_BT])[dropped - 1] if dropped else -np.inf))

    def loss(student: Mapping[str, Array]) -> Terms:
        return {"divergence": token_mean(kl(log_softmax(student["main"]), log_p), kept_BT)}

    return loss


def elected(stream: Stream, *, size: int, top: int) -> list[int]:
    """The tokens that most often rank among the `top` of log pT(v) - log p_base(v); of equal votes the smaller id (open)."""
    gain = (stream.logp("self") - stream.logp("reference"))[stream.mask_BT]
    votes = np.bincount(np.argsort(-gain, axis=-1, kind="stable")[:, :top].ravel(), minlength=VOCABULARY)
    return sorted(sorted(range(VOCABULARY), key=lambda v: (-votes[v], v))[:size])


def safesteer(fixture: Fixture, *, size: int = 3, top: int = 2) -> Loss:
    """(1/T) sum_t sum_{v in S} q(v) log(q(v)/p(v)), raw on a set S that positions and prompts vote on (2606.02530), p the steered self.

    size 3 of votes for 2 (entry: 16 of votes for 8; both open), voted here on the tokens of `main`. open: mean over answers.
    """
    stream = fixture["main"]
    chosen, log_p = elected(stream, size=size, top=top), stream.logp("self")

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q = log_softmax(student["main"])
        return {"divergence": sequence_mean((np.exp(log_q) * (log_q - log_p))[..., chosen].sum(axis=-1), stream.mask_BT)}

    return loss
