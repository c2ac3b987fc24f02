"""Numbers of the OPD cards that follow a run or a state: a multiplier, a horizon, a copy of the weights, a blend within a budget."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .numerics import Array, kl, log_softmax


def pgpo_multiplier(information: float, *, kappa: float = 5.0, reference: float = 0.05, cap: float = 2.0) -> float:
    """min(exp(kappa (I - I_ref)), cap), I here the mean log-ratio in expectation, a KL (a reconstruction; kappa, I_ref, cap not found)."""
    return float(min(np.exp(kappa * (information - reference)), cap))


def prune_horizons(hits: Sequence[float], *, low: float = 0.25, high: float = 1.0, most: float = 0.5, grow: float = 1.1, shrink: float = 0.9) -> list[float]:
    """The share of the full length that is written after each step: more where most rollouts reached the horizon, else less. open: all constants."""
    share, found = high, []
    for hit in hits:
        share = min(high, share * grow) if hit >= most else max(low, share * shrink)
        found.append(share)
    return found


def refreshes(rewards: Sequence[float], tails: Sequence[float], *, every: int = 10, smooth: float = 0.9, margin: float = 0.0, limit: float = 0.3) -> list[int]:
    """The steps (from 1) after which the teacher is replaced (2606.03532): isolation, ratchet and length tail all hold.

    Smoothed reward from the first one on; its best is that of the last copy; before the first copy the ratchet is open. open: all constants.
    """
    mean, best, last, found = rewards[0], -np.inf, 0, []
    for step, (reward, tail) in enumerate(zip(rewards, tails, strict=True), start=1):
        mean = smooth * mean + (1.0 - smooth) * reward
        if step - last >= every and mean > best + margin and tail <= limit:
            best, last = mean, step
            found.append(step)
    return found


def within_budget(log_p: Array, log_q: Array, budget: float) -> Array:
    """Log-probabilities of mu prop. to p^(1-b) q^b with the largest b in [0, 1] whose KL(mu || p) keeps the budget (2605.31159); it grows with b."""
    shares = np.linspace(0.0, 1.0, 200_001)[:, None]
    blends = log_softmax((1.0 - shares) * log_p + shares * log_q)
    return np.asarray(blends[np.flatnonzero(kl(blends, log_p[None]) <= budget + 1e-15)[-1]])
