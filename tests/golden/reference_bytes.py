"""Byte heads beside a teacher's bytes (BLD 2604.07466), on the two texts of `fixture_cross`."""

from __future__ import annotations

from itertools import accumulate

import numpy as np

from .fixture_cross import OTHERS, STOP, STUDENT, TEACHER
from .numerics import Array, log_softmax

STOP_SYMBOL = 256
SYMBOLS = 257


def symbols(piece: str) -> list[int]:
    """The bytes of a token; the stop is a symbol of its own."""
    return [STOP_SYMBOL] if piece == STOP else list(piece.encode())


def next_byte(log_p: Array, begun: list[int]) -> Array:
    """sum of T(v) over tokens that begin with r and x, over those that begin with r, for each x."""
    mass, begins = np.zeros(SYMBOLS), 0.0
    for piece, chance in zip(TEACHER, np.exp(log_p), strict=True):
        spelled = symbols(piece)
        if spelled[: len(begun)] == begun:
            begins += chance
            if len(spelled) > len(begun):
                mass[spelled[len(begun)]] += chance
    return np.asarray(mass / begins)


def bld(name: str, ids: list[list[int]], own: list[Array], head: Array, heads: Array, *, labels: float = 1.0, law: float = 0.1) -> tuple[float, float, float]:
    """CE(token), lambda_b mean_j CE(byte_j, B_j), lambda_kl sum_j KL( P_T(. | b_<j, t_<l) || B_j ), each a mean over the student's tokens.

    The teacher's law of a byte is read behind its last token that ends at or before it. `own` are the last states of each response, `head` (V, d) the
    token head and `heads` (J, d, 257) the byte heads. The law keeps the denominator of the card: tokens that end right where the byte stands have a share.
    """
    token, label, divergence = [], [], []
    for mine, states, other in zip(ids, own, OTHERS[name], strict=True):
        log_q = log_softmax(states @ head.T)
        ends = [0, *accumulate(len(TEACHER[j]) for j in other.ids)]
        text, at = [byte for j in other.ids for byte in symbols(TEACHER[j])], 0
        for row, number in enumerate(mine):
            token.append(-log_q[row, number])
            spelled = symbols(STUDENT[number])[: len(heads)]
            log_b = [log_softmax(states[row] @ heads[j]) for j in range(len(spelled))]
            label.append(np.mean([-log[byte] for log, byte in zip(log_b, spelled, strict=True)]))
            parts = []
            for log in log_b:
                u = max(u for u in range(len(other.ids)) if ends[u] <= at)
                target = next_byte(other.logp[u], text[ends[u] : at])
                some = target > 0.0
                parts.append((target[some] * (np.log(target[some]) - log[some])).sum())
                at += 1
            divergence.append(sum(parts))
    return float(np.mean(token)), labels * float(np.mean(label)), law * float(np.mean(divergence))
