"""Detectors of signals that are carried by too little, or reach the wrong tokens."""

from __future__ import annotations

import numpy as np
import pandas as pd

from zoo.failures.detecting import detector
from zoo.failures.finding import Finding, Level, worst
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


def effective_means(tokens: pd.DataFrame, columns: list[str], least: int) -> pd.DataFrame:
    """Means of columns over windows of at least so many tokens, with each window's last step."""
    rows = [{"step": step, **{column: float(window[column].mean()) for column in columns}} for step, window in windows(tokens, least)]
    return pd.DataFrame(rows, columns=["step", *columns])


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


@detector("FM08")
def log_ratio_tail(logs: RunLogs, limits: Limits) -> Finding:
    """The gradient is noise that comes from the far tail of the advantages, or spikes. Noise alone is no alarm: gentle runs learn below it."""
    logs.require("steps.grad_norm")
    steps = logs.steps
    norms = steps["grad_norm"].to_numpy(float)
    median = steps["grad_norm"].rolling(int(limits["window"]), min_periods=int(limits["least"])).median().shift(1).to_numpy(float)
    spikes = norms > limits["times"] * median
    share = float(spikes.mean()) if spikes.sum() > 1 else 0.0
    levels: list[Level] = [above(share, limits, "spikes")]
    first = [int(steps["step"].to_numpy()[np.argmax(spikes)])] if levels[0] in ("amber", "red") else []
    evidence: dict[str, float] = {"spikes": share}
    tails = logs.columns("steps", "advantage.*.tail")
    heavy = bool(tails) and float(steps[tails].max(axis=1).median()) > limits["heavy"]
    noisy = steps.dropna(subset=["snr"]) if "snr" in steps else steps.head(0)
    for name, frame, columns, judge in (("snr", noisy, ["snr"], below), ("tail", steps, tails, above)):
        if not columns or len(frame) < limits["points"]:
            continue
        smooth = frame[columns].mean(axis=1).rolling(int(limits["points"])).median().dropna()
        evidence[name] = float(smooth.min() if judge is below else smooth.max())
        if name == "tail" or heavy:
            found, at = sustained(frame.loc[smooth.index, "step"].tolist(), [judge(value, limits, name) for value in smooth], 1)
            levels.append(found)
            first += [at] if at is not None else []
    said = ", ".join(f"{name} {value:.3g}" for name, value in evidence.items())
    return Finding("FM08", worst(levels), evidence.get("snr", evidence["spikes"]), min(first, default=None), evidence, reason=said)


@detector("FM16")
def exploration_black_hole(logs: RunLogs, limits: Limits) -> Finding:
    """What negative updates take from a token goes to the student's own favourites: routed share, weighted by |A|, over tokens with A + KL < 0."""
    tokens = logs.tokens
    open_ = (tokens["signal"] == "advantage") & (tokens["weight"] != 0) & (tokens["entropy_student"] > limits["entropy"])
    taken = tokens[open_].dropna(subset=["routed_k4", "kl"])
    taken = taken.assign(ratio=taken["logp_teacher"] - taken["logp_student"])
    taken = taken[(taken["ratio"] + taken["kl"] < 0) & (taken["value"] < 0)]
    if taken.empty:
        raise NotMeasured("no sampled-token signal that is negative beyond the state's KL")
    found = []
    for step, window in windows(taken, int(limits["tokens"])):
        size = window["value"].abs()
        found.append((step, float((window["routed_k4"] * size).sum() / size.sum()) if size.sum() > 0 else float("nan")))
    levels = [below(value, limits, "routed") for _, value in found]
    level, first = sustained([step for step, _ in found], levels)
    lowest = min(value for _, value in found)
    missed = taken.sort_values("routed_k4")
    return Finding(
        "FM16", level, lowest, first, {"share": float(len(taken) / len(tokens))}, examples(logs, missed) if level in ("amber", "red") else (),
        f"{lowest:.0%} of what negative updates take reaches the teacher's best four",
    )  # fmt: skip
