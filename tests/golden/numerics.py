"""Plain float64 numpy pieces that the reference losses share; the shape letters are those of `zoo/tensors.py`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]


def log_softmax(logits: Array) -> Array:
    """Log-probabilities over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), dtype=np.float64)


def at_tokens(logp_BTV: Array, ids_BT: Ids) -> Array:
    """The entry of each position's own token, (B, T)."""
    return np.take_along_axis(logp_BTV, ids_BT[..., None], axis=-1)[..., 0]


def kl(log_a: Array, log_b: Array) -> Array:
    """KL(a || b) in nats over the last axis, from normalised log-probabilities."""
    return np.asarray((np.exp(log_a) * (log_a - log_b)).sum(axis=-1), dtype=np.float64)


def log_mix(weight: float, log_a: Array, log_b: Array) -> Array:
    """log( weight * a + (1 - weight) * b ), entry by entry."""
    return np.asarray(np.log(weight * np.exp(log_a) + (1.0 - weight) * np.exp(log_b)), dtype=np.float64)


def generalized_jsd(log_p: Array, log_q: Array, beta: float) -> Array:
    """beta KL(p || M) + (1 - beta) KL(q || M) with M = beta p + (1 - beta) q; beta weighs the teacher p."""
    log_m = log_mix(beta, log_p, log_q)
    return beta * kl(log_p, log_m) + (1.0 - beta) * kl(log_q, log_m)


def total_variation(log_a: Array, log_b: Array) -> Array:
    """Half the L1 distance over the last axis."""
    return np.asarray(0.5 * np.abs(np.exp(log_a) - np.exp(log_b)).sum(axis=-1), dtype=np.float64)


def entropy(logp: Array) -> Array:
    """Entropy in nats over the last axis."""
    return np.asarray(-(np.exp(logp) * logp).sum(axis=-1), dtype=np.float64)


def top_k(logp_BTV: Array, k: int) -> Ids:
    """Ids of the k most probable entries of each position, (B, T, k), most probable first."""
    return np.asarray(np.argsort(-logp_BTV, axis=-1, kind="stable")[..., :k], dtype=np.int64)


def pick(values_BTV: Array, ids_BTK: Ids) -> Array:
    """The listed entries of each position, (B, T, K)."""
    return np.take_along_axis(values_BTV, ids_BTK, axis=-1)


def token_sum(values_BT: Array, mask_BT: Mask) -> float:
    """Sum over the batch's response tokens."""
    return float(values_BT[mask_BT].sum())


def token_mean(values_BT: Array, mask_BT: Mask) -> float:
    """Sum over all response tokens of the batch divided by their number."""
    return float(values_BT[mask_BT].sum() / mask_BT.sum())


def per_sequence(values_BT: Array, mask_BT: Mask) -> Array:
    """Mean over each sequence's own response tokens, (B,)."""
    return np.asarray(np.where(mask_BT, values_BT, 0.0).sum(axis=1) / mask_BT.sum(axis=1), dtype=np.float64)


def sequence_mean(values_BT: Array, mask_BT: Mask) -> float:
    """Mean over each sequence's tokens first, then over the sequences of the batch."""
    return float(per_sequence(values_BT, mask_BT).mean())


def pessimistic(ratio_BT: Array, advantage_BT: Array, eps: float) -> Array:
    """PPO's clipped surrogate as a loss: max( -ratio A, -clip(ratio, 1 - eps, 1 + eps) A )."""
    return np.maximum(-ratio_BT * advantage_BT, -np.clip(ratio_BT, 1.0 - eps, 1.0 + eps) * advantage_BT)
