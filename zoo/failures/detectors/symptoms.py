"""Detectors of what is seen from outside: answers that grow, repeat, or become all the same."""

from __future__ import annotations

import numpy as np
import pandas as pd

from zoo.failures.detecting import detector
from zoo.failures.detectors.signal import effective_means
from zoo.failures.finding import Finding, Level, worst
from zoo.failures.levels import Limits, above, below
from zoo.failures.logs import NotMeasured, RunLogs
from zoo.failures.series import examples, sustained, windows

LEAST = 64  # characters, below which a text has no compression ratio (docs/logs.md)


@detector("FM01")
def length_inflation(logs: RunLogs, limits: Limits) -> Finding:
    """Answers grow until most are cut by the budget: means over ten steps, against 20 and 30 steps before and against the start."""
    window, steps = int(limits["window"]), logs.steps["step"].to_numpy()
    if len(steps) < 2 * window:
        raise NotMeasured(f"{len(steps)} steps, {2 * window} are needed")
    cut = logs.steps[logs.columns("steps", "truncated.*")].mean(axis=1).rolling(window).mean().to_numpy(float)
    length = logs.steps[logs.columns("steps", "length.*")].mean(axis=1).rolling(window).mean().to_numpy(float)
    start = window - 1
    levels, rises = list[Level](), list[float]()
    for at in range(2 * window - 1, len(steps)):
        soon, late = (cut[at] - cut[max(at - lag, start)] for lag in (20, 30))
        rises.append(max(soon, late))
        full = above(cut[at], limits, "truncated") if cut[at] > cut[start] + limits["over_start"] else "silent"
        grown = above(length[at] / max(length[start], 1e-9), limits, "length")
        levels.append(worst([above(soon, {"rise.amber": limits["rise.amber"]}, "rise"), above(late, {"rise.red": limits["rise.red"]}, "rise"), full, grown]))
    level, first = sustained(steps[2 * window - 1 :].tolist(), levels, 2)
    evidence = {"truncated_start": cut[start], "truncated_end": cut[-1], "length_start": length[start], "length_end": length[-1], "rise": max(rises)}
    said = f"{cut[start]:.0%} of answers cut at the start, {np.nanmax(cut):.0%} at most; length {length[start]:.3g} -> {length[-1]:.3g}"
    shown = logs.rollouts[logs.rollouts["cut"].astype(bool)].iloc[::-1] if level in ("amber", "red") and "cut" in logs.rollouts else pd.DataFrame()
    return Finding("FM01", level, float(np.nanmax(cut)), first, {k: float(v) for k, v in evidence.items()}, examples(logs, shown), said)


@detector("FM02")
def repetition_saturation(logs: RunLogs, limits: Limits) -> Finding:
    """Tails repeat: share of texts whose last 128 characters compress more than threefold, and what repeated tokens get of the update."""
    packed, long = logs.rollouts.get("zlib_ratio"), logs.rollouts["tail"].str.len() >= LEAST
    if packed is None or (packed.isna().all() and long.any()):
        raise NotMeasured("rollouts.zlib_ratio is empty")
    rollouts = logs.rollouts.assign(loops=packed > limits["compression"])  # a text that is too short to loop has no ratio
    rates = [(step, float(window["loops"].mean())) for step, window in windows(rollouts, int(limits["rollouts"]))]
    level, first = sustained([step for step, _ in rates], [above(rate, limits, "rate") for _, rate in rates])
    evidence = {"rate": max(rate for _, rate in rates)}
    if logs.missing("tokens.value") is None and logs.missing("tokens.repeats") is None:
        ratio, share = _paid(logs.tokens, limits)
        evidence |= {"paid": ratio, "repeated_share": share}
        level = worst([level, above(ratio, limits, "paid") if share > limits["repeated"] else "silent"])
    shown = examples(logs, rollouts[rollouts["loops"]].iloc[::-1]) if level in ("amber", "red") else ()
    known = {name: value for name, value in evidence.items() if np.isfinite(value)}
    return Finding("FM02", level, evidence["rate"], first, known, shown, f"at most {evidence['rate']:.0%} of texts loop")


def _paid(tokens: pd.DataFrame, limits: Limits) -> tuple[float, float]:
    """The repeated tokens' share of the update over their share of the tokens, and the latter; over the last half of what was seen."""
    late = tokens[tokens["step"] >= tokens["step"].median()].dropna(subset=["value"])
    size = (late["value"] * late["weight"]).abs()
    share = float(late["repeats"].mean()) if len(late) else 0.0
    total = float(size.sum())
    return (float(size[late["repeats"].astype(bool)].sum()) / total / share if share > 0 and total > 0 else float("nan")), share


@detector("FM15")
def entropy_collapse(logs: RunLogs, limits: Limits) -> Finding:
    """The student's distributions are far sharper than the teacher's in the same states, and than they were."""
    tokens = logs.tokens.dropna(subset=["entropy_student", "entropy_teacher"])
    found = effective_means(tokens, ["entropy_student", "entropy_teacher"], int(limits["tokens"]))
    if len(found) < 2:
        raise NotMeasured(f"{len(found)} measured windows, 2 are needed")
    own, other = found["entropy_student"].to_numpy(float), found["entropy_teacher"].to_numpy(float)
    if other.max() < limits["open"]:
        return Finding("FM15", "silent", float(own[-1]), reason=f"the teacher is certain everywhere ({other.max():.3f} nats at most): nothing to lose")
    ratio = np.where(other >= limits["open"], own / np.maximum(other, 1e-9), np.nan)
    kept = own / max(own[0], 1e-9)
    levels: list[Level] = []
    for one, two in zip(ratio, kept, strict=True):
        both = (below(one, limits, "ratio"), below(two, limits, "kept"))
        levels.append("silent" if {"silent", "not_measured"} & set(both) else "red" if both == ("red", "red") else "amber")
    level, first = sustained(found["step"].tolist(), levels)
    said = f"entropy {own[0]:.3g} -> {own[-1]:.3g} nats, teacher's in the same states {other[-1]:.3g}"
    lowest = float(np.nanmin(ratio))
    return Finding("FM15", level, lowest, first, {"entropy_start": own[0], "entropy_end": own[-1], "teacher_end": other[-1]}, reason=said)
