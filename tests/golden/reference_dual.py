"""DSKD (v2): a teacher seen in the student's output space and the student in the teacher's (2504.11426, audited), on hidden states.

h_S, h_T last hidden states, W_S (V, d_S) and W_T (W, d_T) output heads, P (d_T, d_S) the learned map; D is KL(target || other), both sides at
temperature 2, whose square is no factor:
z_ts = h_T P sg[W_S]^T, z_st = h_S sg[W_S]^T pinv(W_T^T) W_T^T;
L = (1 - k) CE(y) + k [ D(sg softmax(z_ts) || softmax(h_S W_S^T)) + D(teacher || softmax(z_st)) ], and for P alone CE(z_ts, the teacher's best token).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .numerics import Array, Ids, Mask, kl, log_softmax


@dataclass(frozen=True)
class Spaces:
    """Both heads, the ids of the tokens that both vocabularies have, and the map."""

    own: Array
    theirs: Array
    mine: Sequence[int]
    known: Sequence[int]
    bridge: Array

    @property
    def start(self) -> Array:
        """The map at the beginning, W_T^T pinv(W_S^T) of the shared tokens."""
        return np.asarray(self.theirs[list(self.known)].T @ np.linalg.pinv(self.own[list(self.mine)].T))

    @property
    def back(self) -> Array:
        """sg[W_S]^T pinv(W_T^T) of the shared tokens."""
        return np.asarray(self.own[list(self.mine)].T @ np.linalg.pinv(self.theirs[list(self.known)].T))

    def best(self, their_GT: Array) -> Ids:
        """The student's id of the teacher's best token, -1 where it has none, (G,)."""
        names = dict(zip(self.known, self.mine, strict=True))
        return np.array([names.get(int(best), -1) for best in (their_GT @ self.theirs.T).argmax(axis=-1)])

    def seen(self, their_GT: Array) -> Array:
        """z_ts, (G, V)."""
        return np.asarray(their_GT @ self.bridge @ self.own.T)

    def agrees(self, their_GT: Array) -> Mask:
        """Where the projected teacher's best token is the teacher's."""
        return self.seen(their_GT).argmax(axis=-1) == self.best(their_GT)


def losses(own_GS: Array, their_GT: Array, spaces: Spaces, tau: float = 2.0) -> tuple[Array, Array]:
    """L_stu and L_tea of each position, (G,)."""
    here = kl(log_softmax(spaces.seen(their_GT) / tau), log_softmax(own_GS @ spaces.own.T / tau))
    there = kl(log_softmax(their_GT @ spaces.theirs.T / tau), log_softmax(own_GS @ spaces.back @ spaces.theirs.T / tau))
    return here, there


def fit(their_GT: Array, spaces: Spaces, bridge: Array) -> float:
    """sum over positions of CE(z_ts, the teacher's best token), untempered, where the student has that token."""
    best_G = spaces.best(their_GT)
    logp_GV = log_softmax(their_GT @ bridge @ spaces.own.T)
    return float(-sum(logp_GV[g, best] for g, best in enumerate(best_G) if best >= 0))


def mean(values_G: Array, kept_G: Mask) -> float:
    """Over the kept positions; 0 without any."""
    return float(values_G[kept_G].sum() / max(kept_G.sum(), 1))


def dskd(
    given: tuple[Array, Array], own: tuple[Array, Array], likelihood: float, spaces: Spaces, *, k: float = 0.5, across: bool = False
) -> tuple[float, float, float, float, float]:
    """The terms: CE, L_stu and L_tea on given text, L_stu and L_tea on the student's own.

    `given` and `own` hold the paired positions' states, `likelihood` the mean CE of the given text. L_stu counts agreeing tokens on given text, and across
    tokenizers on own text too. Positions whose best token the student lacks leave all losses.
    open: CE of own text (none), and how given and own batches are mixed (half and half, each with its own mean).
    """
    terms = [(1.0 - k) * likelihood]
    for (own_GS, their_GT), gated in ((given, True), (own, across)):
        known_G = spaces.best(their_GT) >= 0
        here_G, there_G = losses(own_GS, their_GT, spaces)
        terms += [k * mean(here_G, known_G & spaces.agrees(their_GT) if gated else known_G), k * mean(there_G, known_G)]
    return terms[0], terms[1], terms[2], terms[3], terms[4]


@dataclass(frozen=True)
class Side:
    """One response on one side: last states, the embeddings of the tokens read and of those predicted, each (n, d)."""

    last: Array
    read: Array
    target: Array


def attention(own: Side, their: Side, query: Array) -> Array:
    """W_q e_S,i . (e_T,j / std) / sqrt(2 d_T), e = [read; target], (n, m). open: std (of all numbers of the response, n - 1)."""
    mine, others = (np.concatenate([side.read, side.target], axis=-1) for side in (own, their))
    return np.asarray((mine @ query) @ (others / others.std(ddof=1)).T / np.sqrt(others.shape[-1]))


def cma_seen(own: Side, their: Side, query: Array, forth: Array, head: Array) -> Array:
    """z_t2s,i = sum_j softmax_j(a)_ij W_t2s (h_T,j / std + e_T,j / std) . W_S of a response, (n, V) (2406.17328)."""
    carried = (their.last / their.last.std(ddof=1) + their.target / their.target.std(ddof=1)) @ forth
    return np.asarray(np.exp(log_softmax(attention(own, their, query))) @ carried @ head.T)


def cma_there(own: Side, their: Side, query: Array, back: Array, head: Array) -> Array:
    """z_s2t,j = sum_i softmax_i(a)_ij W_s2t h_S,i . W_T of a response, (m, W)."""
    return np.asarray(np.exp(log_softmax(attention(own, their, query).T)) @ (own.last @ back) @ head.T)
