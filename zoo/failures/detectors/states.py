"""Detectors of states in which the teacher has nothing useful to say."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from zoo.failures.detecting import detector
from zoo.failures.detectors.signal import effective_means
from zoo.failures.finding import Finding, Level
from zoo.failures.levels import Limits, below
from zoo.failures.logs import NotMeasured, RunLogs
from zoo.failures.series import examples, windows

KEYS = ["step", "stream", "rollout"]
BINS = 20  # of a sequence's length


@detector("FM10")
def agreement_trap(logs: RunLogs, limits: Limits) -> Finding:
    """The teacher agrees with failing answers as much as with right ones: KL on both, at the same positions."""
    own = logs.rollouts[logs.rollouts["author"] == "student"]
    judged = own.dropna(subset=["correct"])[[*KEYS, "correct"]]
    tokens = logs.tokens[[*KEYS, "position", "kl"]].dropna(subset=["kl"]).merge(judged, on=KEYS, how="inner")
    late = tokens[tokens["step"] >= judged["step"].median()]
    second = judged[judged["step"] >= judged["step"].median()]
    wrong, right = second[second["correct"] <= 0.5], second[second["correct"] > 0.5]
    if min(len(wrong), len(right)) < limits["rollouts"]:
        raise NotMeasured(f"{len(wrong)} failing and {len(right)} right answers in the second half, {limits['rollouts']:.0f} of each are needed")
    ratio, failing, stderr = _matched(late, int(limits["bin"]))
    success = len(right) / (len(right) + len(wrong))
    start = float(tokens.loc[tokens["step"] <= tokens["step"].min(), "kl"].mean())
    teacher = float(logs.info.get("teacher_accuracy", 1.0))
    open_gap = success < teacher - limits["gap"]
    level: Level = below(ratio + 2 * stderr, limits, "ratio") if open_gap else "silent"
    last = int(tokens["step"].max())
    quiet = wrong.merge(late.groupby(KEYS, as_index=False)["kl"].mean(), on=KEYS).sort_values("kl")
    said = f"KL on failing over right answers {ratio:.2f} ± {stderr:.2f}, {success:.0%} right"
    evidence = {"kl_failing": failing, "kl_start": start, "success": success, "stderr": stderr}
    fired = level in ("amber", "red")
    return Finding("FM10", level, ratio, last if fired else None, evidence, examples(logs, quiet) if fired else (), said)


def _matched(tokens: pd.DataFrame, size: int) -> tuple[float, float, float]:
    """Mean KL on failing over right answers with both weighted alike over bins of positions, the failing mean, and the ratio's standard error by
    leaving out one tenth of the sequences at a time."""
    tokens = tokens.assign(bin=tokens["position"] // size, fold=tokens.groupby(KEYS, sort=False).ngroup() % 10)

    def ratio(part: pd.DataFrame) -> tuple[float, float]:
        mean = part.pivot_table(index="bin", columns=part["correct"] > 0.5, values="kl", aggfunc="mean")
        count = part.pivot_table(index="bin", columns=part["correct"] > 0.5, values="kl", aggfunc="count")
        weight = count.min(axis=1).where(mean.notna().all(axis=1), 0.0)
        failing, fine = ((mean[side].fillna(0.0) * weight).sum() / max(weight.sum(), 1e-9) for side in (False, True))
        return float(failing / max(fine, 1e-9)), float(failing)

    whole, failing = ratio(tokens)
    left = [ratio(tokens[tokens["fold"] != fold])[0] for fold in range(10)]
    return whole, failing, math.sqrt(9 / 10 * float(np.sum((np.array(left) - np.mean(left)) ** 2)))


@detector("FM12")
def local_teachability_collapse(logs: RunLogs, limits: Limits) -> Finding:
    """Late tokens give the teacher nothing to choose between: a downward change of its margin along the answer, chosen by BIC."""
    tokens = logs.tokens.dropna(subset=["margin"])
    longest = tokens.groupby(KEYS)["position"].transform("max")
    tokens = tokens[longest >= limits["length"]]
    whole = tokens.groupby(KEYS).ngroups
    if whole < limits["rollouts"]:
        raise NotMeasured(f"{whole} answers of {limits['length']:.0f} tokens and more, {limits['rollouts']:.0f} are needed")
    found = []
    for step, window in _by_rollouts(tokens, int(limits["rollouts"])):
        place = window["position"] / (window.groupby(KEYS)["position"].transform("max") + 1)
        curve = window["margin"].clip(upper=limits["cap"]).groupby((place * BINS).astype(int)).mean()
        found.append((step, *_change(curve.to_numpy(float))))
    levels: list[Level] = [below(ratio, limits, "ratio") if early is not None else "silent" for _, early, ratio in found]
    ranked = {"silent": 0, "amber": 1, "red": 2}
    worst_at = max(range(len(levels)), key=lambda i: (ranked[levels[i]], -found[i][2]))
    level, (step, change, ratio) = levels[worst_at], found[worst_at]
    first = next((found[i][0] for i, each in enumerate(levels) if each in ("amber", "red")), None)
    said = "no downward change of the teacher's margin" if change is None else f"margin falls to {ratio:.0%} from {change / BINS:.0%} of the answer on"
    return Finding("FM12", level, ratio, first, {"change_point": None if change is None else change / BINS, "step": step}, reason=said)


def _by_rollouts(tokens: pd.DataFrame, least: int) -> list[tuple[int, pd.DataFrame]]:
    heads = tokens.drop_duplicates(KEYS)[KEYS]
    return [(step, window.merge(tokens, on=KEYS)) for step, window in windows(heads, least)]


def _change(curve: np.ndarray) -> tuple[int | None, float]:
    """Where a step down describes the curve better than a constant by BIC (n log(RSS / n) + parameters log n), and after over before; the last bin,
    where answers end, is left out."""
    curve = curve[:-1]
    n, floor = len(curve), 1e-12
    plain = n * math.log(max(float(((curve - curve.mean()) ** 2).sum()) / n, floor)) + math.log(n)
    best, at = math.inf, 0
    for k in range(2, n - 1):
        spread = float(((curve[:k] - curve[:k].mean()) ** 2).sum() + ((curve[k:] - curve[k:].mean()) ** 2).sum())
        score = n * math.log(max(spread / n, floor)) + 3 * math.log(n)
        if score < best:
            best, at = score, k
    ratio = float(curve[at:].mean() / max(curve[:at].mean(), 1e-9)) if at else 1.0
    return (at, ratio) if at and best < plain and ratio < 1 else (None, 1.0)


@detector("FM13")
def thinking_pattern_mismatch(logs: RunLogs, limits: Limits) -> Finding:
    """Student and teacher put their mass on different tokens in the same states, and training does not bring them together."""
    tokens = logs.tokens.dropna(subset=["overlap_k4", "best_agree"])
    tokens = tokens.assign(foreign=tokens["best_of_teacher_student"])
    found = effective_means(tokens, ["overlap_k4", "best_agree", "foreign"], int(limits["tokens"]))
    if len(found) < 2:
        raise NotMeasured(f"{len(found)} measured windows, 2 are needed")
    mass, steps = found["foreign"].to_numpy(float), found["step"].to_numpy()
    early = steps <= steps[0] + limits["steps"]
    half = max(int(early.sum()) // 2, 1)
    rise = float(mass[early][half:].mean() - mass[early][:half].mean()) if early.sum() > 1 else 0.0
    late = float(mass[early][half:].mean()) if early.sum() > 1 else float(mass[0])
    level: Level = below(late, limits, "shared") if rise < limits["rise"] else "silent"
    said = f"the teacher's favourite has {late:.0%} of the student's mass, {rise:+.1%} over the first {int(steps[early][-1])} steps"
    fired = level in ("amber", "red")
    last = found.iloc[-1]
    evidence = {"overlap_k4": float(last["overlap_k4"]), "best_agree": float(last["best_agree"]), "rise": rise, "shared_end": float(mass[-1])}
    shown = tokens.sort_values("foreign")
    return Finding("FM13", level, late, int(steps[early][-1]) if fired else None, evidence, examples(logs, shown) if fired else (), said)
