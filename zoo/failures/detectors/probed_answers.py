"""Detectors that compare what the student answers before and after: gains, confidence, hidden contexts, doubt, learned scores."""

from __future__ import annotations

import math

import pandas as pd

from zoo.failures.detecting import detector
from zoo.failures.finding import Finding, Level, first_fired, worst
from zoo.failures.levels import Limits, above, below
from zoo.failures.logs import NotMeasured, RunLogs
from zoo.failures.probes.summaries import Mean, Recovery, calibration_of, clustered, correlation, looks, recovery_of


@detector("FM14")
def no_new_knowledge(logs: RunLogs, limits: Limits) -> Finding:
    """After the whole budget the student is no nearer to the teacher, or the teacher has nothing that it lacks."""
    frame = logs.probes["recovery"]
    if "teacher" not in frame or bool(frame["own"].any()):
        raise NotMeasured("the teacher is the student itself in a context, or is not there: no gap between two models")
    seen = list(looks(frame))
    if len(seen) < 2:
        raise NotMeasured("one look: before and after are needed")
    (_, before), (step, after) = seen[0], seen[-1]
    found = recovery_of(before, after)
    level, reason = _recovered(found, limits)
    evidence = {"before": float(before["student"].mean()), "after": float(after["student"].mean()), "teacher": float(before["teacher"].mean()),
                "change": found.change.value, "change_stderr": found.change.stderr, "gap": found.gap.value, "stderr": found.ratio.stderr}  # fmt: skip
    value = found.change.value if math.isnan(found.ratio.value) else found.ratio.value
    kept = {name: number for name, number in evidence.items() if not math.isnan(number)}
    return Finding("FM14", level, value, step if level in ("amber", "red") else None, kept, reason=reason)


def _recovered(found: Recovery, limits: Limits) -> tuple[Level, str]:
    if math.isnan(found.ratio.value):
        said = f"the teacher is {found.gap.value:+.3f} ahead, inside the noise; the student changed by {found.change.value:+.3f}"
        if found.change.high < limits["gain"]:
            return "red", said
        if found.change.low > 0:
            return "silent", said
        return ("amber", said) if found.change.stderr * 1.96 < limits["width"] else ("not_measured", f"undecided: {said}")
    ratio, half = found.ratio, 1.96 * found.ratio.stderr
    said = f"{ratio.value:.2f} of the gap recovered ({ratio.low:.2f} to {ratio.high:.2f})"
    if ratio.low <= 0:
        return ("red", said) if half < limits["width"] or ratio.high < 0 else ("not_measured", f"undecided: {said}; more items are needed")
    return below(ratio.value, limits, "recovered"), said


@detector("FM17")
def overconfidence(logs: RunLogs, limits: Limits) -> Finding:
    """Confidence grew more than accuracy, or no longer tells right from wrong."""
    seen = [(step, calibration_of(look)) for step, look in looks(logs.probes["calibration"]) if look["agreement"].notna().any()]
    start, levels = seen[0][1], list[Level]()
    for _, now in seen:
        # Measured with one measure only: statements that appear during the run are held against the first statements.
        first = next(each for _, each in seen if each.measure == now.measure)
        grown = (now.confidence.value - first.confidence.value) - (now.accuracy.value - first.accuracy.value)
        noise = 2 * math.hypot(now.gap.stderr, first.gap.stderr)
        level = above(grown, limits, "grown") if now.gap.value > limits["gap"] and grown > noise else "silent"
        enough = min(now.right, now.wrong) >= limits["each"]
        blind = below(now.auroc, limits, "auroc") if enough else "silent"
        levels.append(worst([level, blind]))
    last = seen[-1][1]
    fired = first_fired((entry[0] for entry in seen), levels)
    evidence = {"confidence_first": start.confidence.value, "confidence_last": last.confidence.value, "accuracy_first": start.accuracy.value,
                "accuracy_last": last.accuracy.value, "ece": last.ece, "auroc_first": start.auroc, "auroc": last.auroc, "spr": last.spr}  # fmt: skip
    return Finding(
        "FM17", worst(levels), last.gap.value, fired, {k: v for k, v in evidence.items() if not math.isnan(v)},
        reason=f"confidence ({last.measure}) {start.confidence.value:.2f} -> {last.confidence.value:.2f}, accuracy {start.accuracy.value:.2f} -> "
        f"{last.accuracy.value:.2f}, AUROC {last.auroc:.2f}",
    )  # fmt: skip


@detector("FM18")
def privileged_leakage(logs: RunLogs, limits: Limits) -> Finding:
    """The teacher's hidden context is one of each prompt's own, which the student cannot know: the divergence stays, and accuracy falls."""
    seen = list(looks(logs.probes["privileged"]))
    true = [clustered(look["kl_true"], look["prompt"]) for _, look in seen]
    right = [clustered(look["correct"], look["prompt"]) for _, look in seen]
    start = seen[0][1]
    if max(true[0].value, float(start["kl_shuffled"].mean())) < limits["nothing"]:
        return Finding("FM18", "silent", true[0].value, reason="the context changes nothing in what the teacher says")
    instance = float(start["kl_true"].mean() / max(start["kl_shuffled"].mean(), limits["nothing"]))
    floor = [now.value / max(true[0].value, limits["nothing"]) for now in true]
    levels: list[Level] = ["silent"]
    for i in range(1, len(seen)):
        fallen = right[0].value - right[i].value > 2 * math.hypot(right[0].stderr, right[i].stderr)
        settled = abs(true[i].value - true[i - 1].value) < 2 * math.hypot(true[i].stderr, true[i - 1].stderr)
        stays = above(floor[i], limits, "floor") if instance < limits["instance"] and settled else "silent"
        level: Level = "amber" if stays == "red" and not fallen else stays
        both = i >= 2 and all(true[j].value < true[j - 1].value and right[j].value < right[j - 1].value for j in (i - 1, i))
        if fallen and instance < limits["instance"] and (both or true[i].high < true[0].low):
            level = "red"
        levels.append(level)
    fired = first_fired((entry[0] for entry in seen), levels)
    evidence = {
        "kl_first": true[0].value,
        "kl_last": true[-1].value,
        "own_over_shuffled": instance,
        "accuracy_first": right[0].value,
        "accuracy_last": right[-1].value,
    }
    return Finding(
        "FM18", worst(levels), floor[-1], fired, evidence,
        reason=f"divergence from the informed teacher at {floor[-1]:.0%} of its start; own context against another's {instance:.2f}; accuracy "
        f"{right[0].value:.2f} -> {right[-1].value:.2f}",
    )  # fmt: skip


@detector("FM19")
def epistemic_suppression(logs: RunLogs, limits: Limits) -> Finding:
    """Words of doubt and checking disappear, and longer prompts suffer."""
    seen = list(looks(logs.probes["markers"]))
    rates = [_per_hundred(look[look["split"] == "usual"]) for _, look in seen]
    if rates[0] < limits["least"]:
        raise NotMeasured(f"the base writes {rates[0]:.2f} such words per 100 tokens; below {limits['least']:g} nothing can be lost")
    longer = [_accuracy(look[look["split"] == "longer"]) for _, look in seen]
    levels: list[Level] = []
    for rate, now in zip(rates, longer, strict=True):
        level, first = below(rate / rates[0], limits, "kept"), longer[0]
        fallen = now is not None and first is not None and first.value - now.value > 2 * math.hypot(first.stderr, now.stderr)
        levels.append("amber" if level == "red" and not fallen else level)
    fired = first_fired((entry[0] for entry in seen), levels)
    evidence = {"per_hundred_first": rates[0], "per_hundred_last": rates[-1]}
    if longer[0] is not None and longer[-1] is not None:
        evidence |= {"longer_first": longer[0].value, "longer_last": longer[-1].value}
    return Finding("FM19", worst(levels), rates[-1] / rates[0], fired, evidence,
                   reason=f"{rates[0]:.2f} such words per 100 tokens at first, {rates[-1]:.2f} at last")  # fmt: skip


def _per_hundred(look: pd.DataFrame) -> float:
    return 100.0 * float(look["markers"].sum()) / max(float(look["tokens"].sum()), 1.0)


def _accuracy(look: pd.DataFrame) -> Mean | None:
    return clustered(look["correct"], look["prompt"]) if len(look) else None


@detector("FM22")
def reward_hacking(logs: RunLogs, limits: Limits) -> Finding:
    """A learned score goes its own way: it no longer goes with the verifier, or goes with the length."""
    frame, best = logs.probes["scores"], None
    for name in sorted(column for column in frame.columns if str(column).startswith("score.")):
        found = _score(frame, name, limits)
        if found is not None and (best is None or worst([found.level, best.level]) != best.level):
            best = found
    if best is None:
        raise NotMeasured("the score, or the verifier, is constant at every look")
    return best


def _score(frame: pd.DataFrame, name: str, limits: Limits) -> Finding | None:
    rows = [(step, correlation(look[name], look["correct"]), correlation(look[name], look["length"])) for step, look in looks(frame)]
    rows = [row for row in rows if not math.isnan(row[1])]
    if not rows:
        return None
    _, early, early_length = rows[0]
    levels: list[Level] = []
    for _, now, length in rows:
        fall = above(early - now, limits, "fall") if early > limits["early"] else "silent"
        grown = abs(length) - abs(early_length) > limits["grown"]
        levels.append(worst([fall, above(abs(length), limits, "length") if grown else "silent"]))
    fired = first_fired((entry[0] for entry in rows), levels)
    last = rows[-1]
    said = f"correlation with the verifier {early:.2f} -> {last[1]:.2f}, with the length {early_length:.2f} -> {last[2]:.2f}"
    return Finding("FM22", worst(levels), last[1], fired, {"early": early, "length_first": early_length, "length_last": last[2]},
                   reason=f"{name[6:]}: {said}")  # fmt: skip
