"""A student's own chunks, reinforced by how often a teacher would have written the like (OmniOPD 2606.01476)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .fixture import Fixture, Loss, Stream, Terms
from .numerics import Array, entropy, kl, log_softmax
from .reference_direct import nll, sum_then_mean

SAMPLES = 10


def likeness(stream: Stream) -> Array:
    """sum over the teacher's 10 continuations of phi, were a chunk to begin at a token: some number of each in [0, 10], (B, T)."""
    return SAMPLES / (1.0 + np.exp(-stream.value_BT))


def audited(entropy_T: Array, *, count: int, size: int) -> list[int]:
    """Where chunks begin: from the highest entropy down, none over another, none past the end."""
    found: list[int] = []
    for t in np.argsort(-entropy_T, kind="stable"):
        if len(found) < count and t + size <= len(entropy_T) and not any(abs(t - u) < size for u in found):
            found.append(int(t))
    return found


def omniopd(fixture: Fixture, *, count: int = 10, size: int = 8, alpha: float = 1.0, beta: float = 0.1) -> Loss:
    """-sum_c pi_hat(c) sum_{t in c} log pS(y_t) + 0.1 sum_{t not audited} KL(pRef || pS), sums over tokens, mean over responses.

    pi_hat = sg[ (k_sem + alpha pi_bar) / (N + alpha) ], pi_bar = exp(mean_{t in c} log pS(y_t)), N = 10 continuations, k_sem their summed likeness; chunks of C
    tokens anchored at the M highest entropies, without overlap. open: C (card: 50; entry: 8).
    """
    stream = fixture["main"]
    h_BT, log_old, log_reference = entropy(stream.logp("old")), stream.sampled("old"), stream.logp("reference")
    weight_BT, rest_BT = np.zeros_like(h_BT), stream.mask_BT.copy()
    for i, length in enumerate(stream.mask_BT.sum(axis=1)):
        for anchor in audited(h_BT[i, :length], count=count, size=size):
            chunk = slice(anchor, anchor + size)
            own = float(np.exp(log_old[i, chunk].mean()))
            weight_BT[i, chunk] = (likeness(stream)[i, anchor] + alpha * own) / (SAMPLES + alpha)
            rest_BT[i, chunk] = False

    def loss(student: Mapping[str, Array]) -> Terms:
        anchored_BT = np.where(rest_BT, kl(log_reference, log_softmax(student["main"])), 0.0)
        return {
            "chunks": sum_then_mean(weight_BT * nll(stream, student["main"]), stream.mask_BT),
            "reference_kl": beta * sum_then_mean(anchored_BT, stream.mask_BT),
        }

    return loss
