"""Numbers that follow what a run measures, step by step: what a loss is taken at after some steps, not only before the first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def taid_shares(losses: Sequence[float], *, start: float = 0.4, end: float = 1.0, alpha: float = 5e-4, beta: float = 0.99) -> list[float]:
    """TAID's share t after each of the run's N steps (2501.16937).

    delta = (L_{n-1} - L_n)/(L_{n-1} + 1e-15); m <- beta m + (1 - beta) delta; t <- min(end, max(start + (end - start) n/N, t + alpha sigmoid(m) (1 - t))).
    The first step only stores its loss (card). n counts finished steps.
    """
    share, momentum, previous, found = start, 0.0, None, []
    for n, loss in enumerate(losses, start=1):
        if previous is not None:
            momentum = beta * momentum + (1.0 - beta) * (previous - loss) / (previous + 1e-15)
            step = alpha * (1.0 - share) / (1.0 + np.exp(-momentum))
            share = min(end, max(start + (end - start) * n / len(losses), share + step))
        previous = loss
        found.append(float(share))
    return found


def adakd_shares(
    losses: Sequence[float], *, decay: float = 0.97, eps: float = 0.05, delta: float = 0.05, low: float = 0.1, warmup: float = 0.05
) -> list[float]:
    """AdaKD's share r of tokens after each of N steps (2510.11615).

    e = running mean of the loss; e_ref set once `warmup` of the run is over; r starts at 1; where e has fallen by more than eps e_ref,
    r <- max(0.1, r (1 - delta)); where it has risen by as much, r <- min(1, r (1 + delta)); either way e_ref <- e.
    open: the running mean starts at the first loss.
    """
    share, mean, reference, found = 1.0, losses[0], None, []
    for n, loss in enumerate(losses, start=1):
        mean = loss if n == 1 else decay * mean + (1.0 - decay) * loss
        if n / len(losses) >= warmup:
            reference = mean if reference is None else reference
            if reference - mean > eps * reference:
                share, reference = max(low, share * (1.0 - delta)), mean
            elif reference - mean < -eps * reference:
                share, reference = min(1.0, share * (1.0 + delta)), mean
        found.append(float(share))
    return found


def raft_weights(likelihood: Sequence[float], divergence: Sequence[float], *, decay: float = 0.9, eps: float = 1e-8) -> list[float]:
    """RAFT's weight lambda after each step (2606.00147): ema(L_SFT) / (ema(L_KL) + eps). open: the decay, and that the means start at their first losses."""
    top, bottom, found = likelihood[0], divergence[0], []
    for a, b in zip(likelihood, divergence, strict=True):
        top, bottom = decay * top + (1.0 - decay) * a, decay * bottom + (1.0 - decay) * b
        found.append(float(top / (bottom + eps)))
    return found
