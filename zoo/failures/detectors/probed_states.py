"""Detectors that need continuations, forced tokens or gradients: is the signal one at all, and does it point to success?"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from zoo.failures.detecting import detector
from zoo.failures.finding import Finding, Level, first_fired, worst
from zoo.failures.levels import Limits, above, below
from zoo.failures.logs import NotMeasured, RunLogs
from zoo.failures.probes.summaries import Mean, Rescue, clustered, looks, outside, rescue_gain, success_cosine


@detector("FM06")
def divergence_as_advantage(logs: RunLogs, limits: Limits) -> Finding:
    """A policy gradient whose expected value is 0, because its advantage is a function of the state."""
    levels: list[Level] = []
    lowest: tuple[float, float] | None = None
    found = list(looks(logs.probes["slope"]))
    for _, look in found:
        each: list[Level] = []
        for row in look.itertuples():
            slope, stderr = float(row.slope), float(row.stderr)  # type: ignore[arg-type]
            lowest = (slope, stderr) if lowest is None or slope < lowest[0] else lowest
            each.append(_null(slope, stderr, bool(row.static), limits))
        levels.append(worst(each))
    level = worst(levels)
    assert lowest is not None
    slope, stderr = lowest
    if level == "not_measured":
        raise NotMeasured(f"the slope is too uncertain here ({slope:.2f} +- {stderr:.2f}); more answers are needed")
    fired = first_fired((entry[0] for entry in found), levels)
    static = bool(pd.concat([look for _, look in found])["static"].any())
    return Finding("FM06", level, slope, fired, {"stderr": stderr, "static": static},
                   reason=f"slope of the policy gradient on the divergence's own {slope:.2f} +- {stderr:.2f}"
                   + ("; the advantage ignores the written token" if static else ""))  # fmt: skip


def _null(slope: float, stderr: float, static: bool, limits: Limits) -> Level:
    """Below the limit with its whole interval, and not told apart from 0: a bounded reward has a small slope that is one all the same."""
    if static:
        return "red"
    if math.isnan(slope) or stderr > limits["stderr"]:
        return "not_measured"
    return below(slope + 1.96 * stderr, limits, "slope") if slope < 2 * stderr else "silent"


@detector("FM09")
def pass_rate_collapse(logs: RunLogs, limits: Limits) -> Finding:
    """Most supervised tokens stand in answers to prompts that the student always or never solves."""
    found = list(looks(logs.probes["pass_rates"]))
    k = int(found[0][1]["k"].min())
    if k < limits["k"]:
        raise NotMeasured(f"{k} answers a prompt; {limits['k']:.0f} are needed to tell an easy prompt from a lucky one")
    step, first = found[0]
    value = outside(first)
    histogram = {f"passed.{n}": int((first["passed"] == n).sum()) for n in range(k + 1)}
    level = above(value, limits, "outside")
    never = float((first["passed"] == 0).mean())
    return Finding("FM09", level, value, step if level in ("amber", "red") else None, {**histogram, "k": k, "outside_last": outside(found[-1][1])},
                   reason=f"{value:.0%} of the tokens answer prompts that {k} answers solve always or never ({never:.0%} of the prompts never)")  # fmt: skip


@detector("FM11")
def supervision_fidelity(logs: RunLogs, limits: Limits) -> Finding:
    """Behind the student's own failing beginnings the teacher succeeds no more often than the student."""
    seen: list[tuple[int, Rescue]] = []
    reason = "the probe 'rescue' found no failing answers"
    for step, look in looks(logs.probes["rescue"]):
        try:
            found = rescue_gain(look, limits["behind"], limits["gap"])
        except NotMeasured as why:
            reason = str(why)
            continue
        if found.n >= limits["n"]:
            seen.append((step, found))
        else:
            reason = f"{found.n} continuations behind failing beginnings; {limits['n']:.0f} are needed"
    if not seen:
        raise NotMeasured(reason)
    levels = [below(found.gain.high, limits, "gain") for _, found in seen]
    step, lowest = min(seen, key=lambda each: each[1].gain.high)
    fired = first_fired((entry[0] for entry in seen), levels)
    look = dict(looks(logs.probes["rescue"]))[step]
    late = float(look["teacher_entropy"].mean() - look["own_entropy"].mean())
    return Finding(
        "FM11", worst(levels), lowest.gain.value, fired,
        {"upper": lowest.gain.high, "stderr": lowest.gain.stderr, "n": lowest.n, "tokens_behind": lowest.tokens, "gap": lowest.gap, "late_entropy": late},
        reason=f"rescue gain {lowest.gain.value:.2f} (at most {lowest.gain.high:.2f}) of what there is to gain, with {lowest.tokens:.0%} of the tokens to go",
    )  # fmt: skip


@detector("FM27")
def counteraction(logs: RunLogs, limits: Limits) -> Finding:
    """Several teachers pull the student in opposite directions, or calls break in late turns."""
    parts = [part for part in (_teachers(logs, limits), _turns(logs, limits)) if part is not None]
    if not parts:
        raise NotMeasured("neither several teachers nor turns with calls were probed")
    level = worst(part.level for part in parts)
    return next(part for part in parts if part.level == level)


def _teachers(logs: RunLogs, limits: Limits) -> Finding | None:
    if "conflict" not in logs.probes or logs.probes["conflict"].empty:
        return None
    values, levels = list[float](), list[Level]()
    found = list(looks(logs.probes["conflict"]))
    for _, look in found:
        own = look[look["left"] == look["right"]].set_index("left")["cosine"]
        apart = look[look["left"] != look["right"]]
        both = apart["left"].map(own) * apart["right"].map(own)
        told = (apart["left"].map(own) > limits["own"]) & (apart["right"].map(own) > limits["own"])
        values.append(float((apart["cosine"] / both.clip(lower=1e-12).pow(0.5))[told].mean()))
        levels.append(below(values[-1], limits, "cosine"))
    level = worst(levels)
    if level == "not_measured":
        return Finding("FM27", level, reason="a teacher's gradient does not agree with itself between halves of the answers; nothing can be compared")
    fired = first_fired((entry[0] for entry in found), levels)
    lowest = float(np.nanmin(values))
    return Finding("FM27", level, lowest, fired, {"first": values[0], "last": values[-1]},
                   reason=f"cosine between the teachers' gradients {lowest:.2f} at its lowest, 1 being that of a teacher with itself")  # fmt: skip


def _turns(logs: RunLogs, limits: Limits) -> Finding | None:
    if "turns" not in logs.probes or logs.probes["turns"].empty:
        return None
    frame = logs.probes["turns"]
    late = frame[frame["turn"] >= max(1.0, float(frame["turn"].max()) / 2)]
    rates = [(step, clustered(look["valid"].astype(float), look["stream"] + look["dialogue"].astype(str))) for step, look in looks(late)]
    if not rates:
        return Finding("FM27", "not_measured", reason="no dialogue has a second turn")
    start: Mean = rates[0][1]
    levels = [_fallen(start, rate, limits) for _, rate in rates]
    fired = first_fired((entry[0] for entry in rates), levels)
    last = rates[-1][1]
    return Finding("FM27", worst(levels), last.value - start.value, fired, {"first": start.value, "last": last.value},
                   reason=f"readable calls in late turns: {start.value:.0%} at first, {last.value:.0%} at last")  # fmt: skip


def _fallen(start: Mean, now: Mean, limits: Limits) -> Level:
    fall = start.value - now.value
    return above(fall, limits, "late_calls") if fall > 2 * math.hypot(start.stderr, now.stderr) else "silent"


@detector("FM28")
def correct_rollout_noise(logs: RunLogs, limits: Limits) -> Finding:
    """Most of the update stands on answers that are right, where the signal says nothing about success."""
    found = []
    for step, look in looks(logs.probes["forced"]):
        cosine = success_cosine(look, True)
        if cosine.n >= limits["states"]:
            found.append((step, cosine, success_cosine(look, False), float(look["update_correct"].iloc[0])))
    if not found:
        raise NotMeasured("too few states of right answers in which the student is unsure")
    measured = update_on_right(logs)
    levels: list[Level] = []
    for _, cosine, _, share in found:
        flat = cosine.high <= limits["cosine"]
        levels.append(above(share if measured is None else measured, limits, "update") if flat else "silent")
    at = max(range(len(found)), key=lambda i: (("silent", "amber", "red").index(levels[i]), -found[i][1].high))
    step, cosine, wrong, share = found[at]
    share = share if measured is None else measured
    fired = first_fired((entry[0] for entry in found), levels)
    return Finding(
        "FM28", worst(levels), cosine.value, fired,
        {"upper": cosine.high, "stderr": cosine.stderr, "cosine_wrong": wrong.value, "cosine_wrong_stderr": wrong.stderr, "update_correct": share,
         "states": cosine.n},
        reason=f"on right answers the signal's cosine with success is {cosine.value:.2f} (at most {cosine.high:.2f}); {share:.0%} of the update stands there",
    )  # fmt: skip


def update_on_right(logs: RunLogs) -> float | None:
    """Share of sum |weight * value| on answers that the verifier accepts, over the diagnosed sequences; None where that was not logged."""
    needs = ("tokens.value", "tokens.weight", "rollouts.correct")
    if any(logs.missing(need) for need in needs):
        return None
    keys = ["step", "stream", "rollout"]
    both = logs.tokens[[*keys, "value", "weight"]].merge(logs.rollouts[[*keys, "correct"]], on=keys).dropna()
    size = (both["value"] * both["weight"]).abs()
    return float(size[both["correct"] > 0.5].sum() / size.sum()) if size.sum() > 0 else None
