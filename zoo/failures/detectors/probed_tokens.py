"""Detectors of tokens that end or structure an answer: stop tokens, formats, and extrapolation beyond where the form holds."""

from __future__ import annotations

import math
from collections.abc import Mapping

from zoo.failures.detecting import detector
from zoo.failures.finding import Finding, Level, first_fired, worst
from zoo.failures.levels import Limits, above, below
from zoo.failures.logs import NotMeasured, RunLogs
from zoo.failures.probes.summaries import clustered, looks, stop_mass


@detector("FM03")
def termination_token_mismatch(logs: RunLogs, limits: Limits) -> Finding:
    """Student and teacher end answers with different tokens, or the student forgets to end them."""
    levels: list[Level] = []
    seen = [(step, stop_mass(look, limits["mass"])) for step, look in looks(logs.probes["stops"])]
    start = seen[0][1]
    for step, found in seen:
        level = above(found.mismatch, limits, "mismatch") if step == seen[0][0] else "silent"
        ratio = found.student / start.student if start.student > limits["mass"] else math.nan
        levels.append(worst(each for each in (level, below(ratio, limits, "kept"))))
    last = seen[-1][1]
    said = ", ".join(f"{name} {p:.2g} against {q:.2g}" for name, (p, q) in start.tokens.items())
    evidence = {"student": start.student, "teacher": start.teacher, "student_last": last.student, **{f"p.{n}": p for n, (p, _) in start.tokens.items()},
                **{f"q.{n}": q for n, (_, q) in start.tokens.items()}}  # fmt: skip
    value = None if math.isnan(start.mismatch) else start.mismatch
    kept = "" if len(seen) == 1 or start.student <= limits["mass"] else f"; the student's stop mass went from {start.student:.2f} to {last.student:.2f}"
    if worst(levels) == "not_measured":
        raise NotMeasured(f"too little stop mass at the end of answers to compare tokens (student {start.student:.2f}, teacher {start.teacher:.2f})")
    return _finding("FM03", [step for step, _ in seen], levels, value, evidence, f"student against teacher at the end: {said}{kept}")


@detector("FM04")
def format_mismatch(logs: RunLogs, limits: Limits) -> Finding:
    """The teacher is read in a format or a tokenisation that it was not trained on."""
    step, look = next(looks(logs.probes["template"]))
    gap = look["nll_used"] - look["nll_native"]
    found = clustered(gap.dropna(), look.loc[gap.notna(), "prompt"])
    shared, update, tokens = (float(look[name].iloc[0]) for name in ("aligned_share", "special_update", "special_tokens"))
    ratio = update / tokens if tokens > 0 else math.nan
    special = above(ratio, limits, "special") if update > limits["update"] else "silent"
    # What the interval leaves of the gap, so that a few odd texts do not fire.
    levels = [above(found.low, limits, "gap"), below(shared, limits, "aligned"), special]
    evidence = {"gap": found.value, "gap_stderr": found.stderr, "aligned_share": shared, "special_ratio": ratio, "special_update": update}
    reason = f"own text {found.value:+.3f} nat/token in the format used; {shared:.0%} of token ends shared; special tokens {ratio:.2g} x their share"
    return _finding("FM04", [step], [worst(levels)], None if math.isnan(found.value) else found.value, evidence, reason)


@detector("FM21")
def extrapolation_cliff(logs: RunLogs, limits: Limits) -> Finding:
    """A teacher extrapolated by lambda > 1 breaks the form of answers."""
    frame = logs.probes["parse"]
    planned = float(frame["planned"].max())
    if planned <= 1.0:
        return Finding("FM21", "silent", reason="the method does not extrapolate its teacher (lambda 1)")
    seen = [(step, look[look["law"] == "student"].iloc[0]) for step, look in looks(frame)]
    drawn = frame[frame["law"] == "extrapolated"].sort_values("scale")
    at_one = drawn[drawn["scale"] == 1.0]["valid"]
    reference = float(at_one.iloc[0]) if len(at_one) else 1.0
    lowest = min(reference, float(seen[0][1]["valid"]))  # what the run began with is no harm that it did
    base = lowest if lowest < limits["usual"] else 1.0
    levels: list[Level] = []
    for step, row in seen:
        valid, n = float(row["valid"]), int(row["n"])
        upper = valid + 1.645 * math.sqrt(max(valid * (1 - valid), 1 / n) / n)
        levels.append("silent" if step == seen[0][0] else below(upper / base, limits, "valid"))
    lost = drawn[drawn["valid"] < limits["usual"] * reference]["scale"]
    onset = float(lost.min()) if len(lost) else math.inf
    if planned > limits["onset"] * onset:
        levels[0] = worst([levels[0], "amber"])
    evidence = {
        "planned": planned,
        "reference": reference,
        "onset": onset if math.isfinite(onset) else None,
        "flip": _finite(drawn["flip"].min() if len(drawn) else math.inf),
    }
    last = float(seen[-1][1]["valid"])
    highest = float(drawn["scale"].max()) if len(drawn) else planned
    broken = f"predicted to break at {onset:g}" if math.isfinite(onset) else f"none predicted to break up to {highest:g}"
    return _finding("FM21", [step for step, _ in seen], levels, last, evidence,
                    f"{last:.1%} of answers have the form (lambda {planned:g}; drawn at lambda 1 {reference:.1%}; {broken})")  # fmt: skip


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _finding(mode: str, steps: list[int], levels: list[Level], value: float | None, evidence: Mapping[str, float | None], reason: str) -> Finding:
    level = worst(levels)
    fired = first_fired(steps, levels)
    return Finding(mode, level, value, fired, {k: v for k, v in evidence.items() if v is not None}, reason=reason)
