"""Detectors of losses and ratios that are not what they seem."""

from __future__ import annotations

import numpy as np
import pandas as pd

from zoo.failures.detecting import detector
from zoo.failures.detectors.signal import effective_means
from zoo.failures.finding import Finding, Level, worst
from zoo.failures.levels import Limits, above, below
from zoo.failures.logs import NotMeasured, RunLogs
from zoo.failures.probes.summaries import looks, recovery_of
from zoo.failures.series import examples, sustained


@detector("FM07")
def truncated_support_leak(logs: RunLogs, limits: Limits) -> Finding:
    """Mass leaves the compared tokens: P_S / Q_S against its value at the start."""
    tokens = logs.tokens[logs.tokens["support_own"].astype(bool)].dropna(subset=["support_student_mass", "support_teacher_mass"])
    if tokens.empty:
        raise NotMeasured("the entry compares no truncated set of tokens")
    found = effective_means(tokens, ["support_student_mass", "support_teacher_mass"], int(limits["tokens"]))
    if len(found) < 3:
        raise NotMeasured(f"{len(found)} measured windows, 3 are needed")
    steps, ratio = found["step"].to_numpy(), (found["support_student_mass"] / found["support_teacher_mass"].clip(lower=1e-9)).to_numpy(float)
    start, levels = ratio[0], list[Level]()
    for at in range(1, len(ratio)):
        near = steps >= steps[at] - limits["window"]
        near[at + 1 :] = False
        slope = np.polyfit(steps[near], ratio[near], 1)[0] if near.sum() > 1 else 0.0
        down = below(ratio[at] / start, limits, "leak") if slope < 0 or ratio[at] < limits["low"] else "silent"
        levels.append(worst([down, above(ratio[at] / max(start, 1.0), limits, "upward")]))
    level, first = sustained(steps[1:].tolist(), levels)
    leaking = tokens.assign(ratio=tokens["support_student_mass"] / tokens["support_teacher_mass"].clip(lower=1e-9)).sort_values("ratio")
    evidence = {"ratio_start": float(start), "ratio_end": float(ratio[-1]), "tenth": float(leaking["ratio"].quantile(0.1))}
    fired = level in ("amber", "red")
    said = f"P_S / Q_S {start:.3f} -> {ratio[-1]:.3f}, {ratio.min():.3f} at least"
    return Finding("FM07", level, float(ratio[-1] / start), first, evidence, examples(logs, leaking[leaking["step"] > steps[0]]) if fired else (), said)


@detector("FM20")
def self_distillation_saturation(logs: RunLogs, limits: Limits) -> Finding:
    """The student has caught up with a teacher that is itself, and little was gained: KL to it, at its highest between refreshes, over the first."""
    tokens = logs.tokens.dropna(subset=["kl_own"])
    if "kl" in tokens and np.allclose(tokens["kl"].fillna(np.inf), tokens["kl_own"]):
        raise NotMeasured("the teacher is not the student itself")
    found = effective_means(tokens, ["kl_own"], int(limits["tokens"]))
    if len(found) < limits["looks"] + 1:
        raise NotMeasured(f"{len(found)} measured windows, {limits['looks'] + 1:.0f} are needed")
    highest = found["kl_own"].rolling(int(limits["looks"]), min_periods=1).max().to_numpy(float)
    start = highest[int(limits["looks"]) - 1]
    if start < limits["signal"]:
        return Finding("FM20", "red", 1.0, int(found["step"].iloc[0]), {"kl_start": float(start)}, reason=f"no signal from the start: KL {start:.1e} nats")
    gained = _gained(logs)
    levels = [below(kl / start, limits, "ratio") for kl in highest[int(limits["looks"]) - 1 :]]
    level, first = sustained(found["step"].tolist()[int(limits["looks"]) - 1 :], levels)
    if level == "red" and not gained < limits["gained"]:
        level = "silent" if gained >= limits["gained"] else "amber"
    elif level == "amber" and gained >= limits["gained"]:
        level = "silent"
    ratio = float(highest[-1] / start)
    said = f"KL to itself {start:.3g} -> {highest[-1]:.3g} nats" + ("" if np.isnan(gained) else f", {gained:.0%} of the gap gained")
    evidence = {"kl_start": float(start), "kl_end": float(highest[-1]), **({} if np.isnan(gained) else {"gained": gained})}
    return Finding("FM20", level, ratio, first if level in ("amber", "red") else None, evidence, reason=said)


def _gained(logs: RunLogs) -> float:
    """Share of the gap to the teacher, in its own context, that was closed; to perfection where no teacher was asked; NaN where nothing is known."""
    if logs.missing("probes.recovery.teacher") is None:
        seen = list(looks(logs.probes["recovery"]))
        if len(seen) > 1:
            return float(recovery_of(seen[0][1], seen[-1][1]).ratio.value)
    if logs.missing("steps.accuracy.start") is None and logs.missing("steps.accuracy.valid") is None:
        start, end = float(logs.steps["accuracy.start"].dropna().iloc[0]), float(logs.steps["accuracy.valid"].dropna().iloc[-1])
        return (end - start) / (1.0 - start) if start < 1.0 else float("nan")
    return float("nan")


@detector("FM23")
def stale_rollouts(logs: RunLogs, limits: Limits) -> Finding:
    """What sampling recorded is not what training computes under the same weights, or the ratios between both are far from 1."""
    steps = logs.steps
    found: dict[str, tuple[Level, int | None, float]] = {}
    gaps = _at_lag_zero(steps)
    if len(gaps):
        levels = [above(gap, limits, "mismatch") for gap in gaps["gap"]]
        found["mismatch"] = (*sustained(gaps["step"].tolist(), levels, min(2, len(gaps))), float(gaps["gap"].max()))
    for name, pattern, judge in (("ess", "ratio.*.ess", below), ("far", "ratio.*.far", above)):
        columns = logs.columns("steps", pattern)
        seen = steps.dropna(subset=columns, how="all") if columns else steps.head(0)
        if len(seen) < 2:
            continue
        worst_stream = seen[columns].min(axis=1) if judge is below else seen[columns].max(axis=1)
        level, first = sustained(seen["step"].tolist(), [judge(value, limits, name) for value in worst_stream])
        found[name] = (level, first, float(worst_stream.min() if judge is below else worst_stream.max()))
    if not found:
        raise NotMeasured("no tokens of the student's own with recorded probabilities")
    values = {name: value for name, (_, _, value) in found.items()}
    lags = logs.columns("steps", "lag.*")
    lag = float(np.nanmax(steps[lags].to_numpy(float))) if lags else float("nan")
    firsts = [first for _, first, _ in found.values() if first is not None]
    said = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
    level = worst([level for level, _, _ in found.values()])
    return Finding("FM23", level, next(iter(values.values())), min(firsts, default=None), values | ({} if np.isnan(lag) else {"lag": lag}), reason=said)


def _at_lag_zero(steps: pd.DataFrame) -> pd.DataFrame:
    """Mean |log p_train - log p_sampled| wherever no step lies between: the control of the first iterations, and diagnosed ones."""
    rows = [(int(row["step"]), float(row["lag0.mean"])) for _, row in steps.iterrows() if "lag0.mean" in steps and pd.notna(row["lag0.mean"])]
    for column in [c for c in steps if str(c).startswith("seen.") and str(c).endswith(".drift")]:
        lag = steps.get("lag." + str(column).split(".")[1])
        if lag is not None:
            at = steps[steps[column].notna() & (lag == 0)]
            rows += [(int(s), float(v)) for s, v in zip(at["step"], at[column], strict=True)]
    return pd.DataFrame(sorted(rows), columns=["step", "gap"]).groupby("step", as_index=False).max()
