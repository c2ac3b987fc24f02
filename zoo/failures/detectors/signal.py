"""Detectors of signals that are carried by too little, or reach the wrong tokens."""

from __future__ import annotations

import numpy as np
import pandas as pd

from zoo.failures.detecting import detector
from zoo.failures.finding import Finding, worst
from zoo.failures.levels import Limits, above, below
from zoo.failures.logs import NotMeasured, RunLogs
from zoo.failures.series import examples, sustained, windows


def centred(tokens: pd.DataFrame) -> pd.Series:
    """The signal without the part that the state alone explains: A - b KL(s), b the least-squares slope within [-1, 0] (a plain log-ratio has
    E[A | s] = -KL(s), slope -1; one with a baseline has slope 0)."""
    value, kl = tokens["value"], tokens["kl"]
    spread = float(((kl - kl.mean()) ** 2).sum())
    slope = float(((kl - kl.mean()) * (value - value.mean())).sum()) / spread if spread > 0 else 0.0
    return value - min(max(slope, -1.0), 0.0) * kl


def effective_share(signal: np.ndarray) -> float:
    """(sum |A|)^2 / (n sum A^2), between 1/n (one token carries all) and 1 (all the same); NaN where all are 0."""
    squares = float((signal**2).sum())
    return float(np.abs(signal).sum() ** 2 / (len(signal) * squares)) if squares > 0 else float("nan")


def top_share(signal: np.ndarray, part: float = 0.01) -> float:
    """Share of sum |A| in the largest `part` of the tokens (at least one)."""
    sizes = np.sort(np.abs(signal))[::-1]
    total = float(sizes.sum())
    return float(sizes[: max(1, round(part * len(sizes)))].sum()) / total if total > 0 else float("nan")


@detector("FM05")
def imbalanced_one_token_signal(logs: RunLogs, limits: Limits) -> Finding:
    """Few tokens carry most of the update: effective share of the centred advantages, at undetermined tokens."""
    tokens = logs.tokens
    taken = tokens[(tokens["signal"] == "advantage") & (tokens["entropy_student"] > limits["entropy"]) & (tokens["weight"] != 0)]
    taken = taken.dropna(subset=["value", "kl"])
    if taken.empty:
        raise NotMeasured("no sampled-token signal at undetermined tokens")
    taken = taken.assign(centred=centred(taken) * taken["weight"])
    steps, shares, tops = [], [], []
    for step, window in windows(taken, int(limits["tokens"])):
        signal = window["centred"].to_numpy(float)
        steps.append(step)
        shares.append(effective_share(signal))
        tops.append(top_share(signal))
    levels = [worst((below(share, limits, "ess"), above(top, limits, "top_share"))) for share, top in zip(shares, tops, strict=True)]
    level, first = sustained(steps, levels)
    lowest = int(np.nanargmin(shares)) if not np.all(np.isnan(shares)) else 0
    largest = taken.reindex(taken["centred"].abs().sort_values(ascending=False).index)
    negative = float((taken["centred"] < 0).mean())
    return Finding(
        "FM05",
        level,
        value=shares[lowest],
        first_step=first,
        evidence={"top_share": tops[lowest], "step": steps[lowest], "negative_share": negative, "largest": float(largest["centred"].iloc[0])},
        examples=examples(logs, largest) if level in ("amber", "red") else (),
        reason=f"effective share of tokens {shares[lowest]:.3f}, the largest 1 % carry {tops[lowest]:.0%}",
    )
