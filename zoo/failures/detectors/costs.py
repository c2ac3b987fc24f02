"""Detectors of what is lost beside the target, of losses that buy nothing, and of numbers that depend on how they are read."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from zoo.failures.detecting import detector
from zoo.failures.finding import Example, Finding, Level, worst
from zoo.failures.levels import Limits, above
from zoo.failures.logs import NotMeasured, RunLogs
from zoo.failures.probes.summaries import looks
from zoo.failures.series import EXAMPLES, sustained, windows


@detector("FM24")
def forgetting(logs: RunLogs, limits: Limits) -> Finding:
    """Other abilities go: scores per suite before and after on the same items, and the likelihood of texts of a kind that is not trained on."""
    found: list[tuple[Level, str, float, float, int | None]] = []
    if logs.missing("probes.evaluation.before") is None:
        found += _scores(logs.probes["evaluation"], limits)
    if logs.missing("probes.fixed.logp_student") is None and logs.missing("probes.fixed.domain") is None:
        found += _likelihoods(logs.probes["fixed"], limits)
    if not found:
        raise NotMeasured("no scores of the untrained student on other suites, and no texts of a kind that is not trained on")
    level, name, change, units, first = max(found, key=lambda each: ({"red": 2, "amber": 1}.get(each[0], 0), -each[3]))
    evidence = {f"{each[1]}": each[2] for each in found}
    return Finding("FM24", level, units, first, evidence, reason=f"{name} {change:+.3f} ({units:+.1f} standard errors)")


def _scores(frame: pd.DataFrame, limits: Limits) -> list[tuple[Level, str, float, float, int | None]]:
    """Paired changes in standard errors, the limits widened for the number of suites (Bonferroni)."""
    others = frame[frame["family"] != "in_distribution"]
    count = max(others["task"].nunique(), 1)
    found: list[tuple[Level, str, float, float, int | None]] = []
    for task, part in others.groupby("task"):
        change = (part["after"] - part["before"]).to_numpy(float)
        stderr = float(change.std(ddof=1) / math.sqrt(len(change))) if len(change) > 1 else math.nan
        units = float(change.mean()) / stderr if stderr and not math.isnan(stderr) else 0.0
        wide = {f"units.{name}": _wider(limits[f"units.{name}"], count) for name in ("amber", "red")}
        found.append((above(-units, wide, "units"), str(task), float(change.mean()), units, None))
    return found


def _wider(units: float, count: int) -> float:
    """The one-sided limit whose chance is `1 / count` of that of so many standard errors."""
    from scipy.stats import norm

    return float(norm.isf(norm.sf(units) / count))


def _likelihoods(fixed: pd.DataFrame, limits: Limits) -> list[tuple[Level, str, float, float, int | None]]:
    """-log p of each text of another kind, against the first look, in nats per token."""
    trained = fixed["domain"].iloc[0]
    others = fixed[fixed["domain"] != trained]
    found: list[tuple[Level, str, float, float, int | None]] = []
    for domain, part in others.groupby("domain"):
        loss = -part.groupby(["step", "rollout"])["logp_student"].mean().unstack("rollout")
        change = loss - loss.iloc[0]
        mean, stderr = change.mean(axis=1), change.std(axis=1, ddof=1) / math.sqrt(change.shape[1])
        levels = [above(m, limits, "nats") if m > 2 * s else "silent" for m, s in zip(mean.iloc[1:], stderr.iloc[1:], strict=True)]
        if len(levels):
            level, first = sustained([int(step) for step in loss.index[1:]], levels, min(2, len(levels)))
            last = float(stderr.iloc[-1])
            found.append((level, f"-log p of {domain}", -float(mean.iloc[-1]), -float(mean.iloc[-1]) / last if last > 0 else 0.0, first))
    return found


@detector("FM25")
def rock_tokens(logs: RunLogs, limits: Limits) -> Finding:
    """Positions of fixed texts whose KL stays high however long the run is: above the first look's 90th percentile in most later looks."""
    fixed = logs.probes["fixed"]
    fixed = fixed[fixed["domain"] == fixed["domain"].iloc[0]].dropna(subset=["kl"])
    table = fixed.pivot_table(index=["rollout", "position"], columns="step", values="kl")
    if table.shape[1] < limits["looks"]:
        raise NotMeasured(f"{table.shape[1]} looks at the fixed texts, {limits['looks']:.0f} are needed")
    bound = float(table.iloc[:, 0].quantile(0.9))
    late = table.iloc[:, 1:]
    rock = (late > max(bound, limits["nats"])).mean(axis=1) > limits["persistent"]
    share, total = float(rock.mean()), float(late.to_numpy().sum())
    carried = float(late[rock].to_numpy().sum()) / total if total > 0 else 0.0
    # What stays is only told from what is not learned yet once the rest has been learned.
    rest = table[~rock]
    left = float(rest.iloc[:, -1].mean() / max(rest.iloc[:, 0].mean(), 1e-12)) if len(rest) else 1.0
    level: Level = above(share, limits, "share") if left < limits["learned"] else "silent"
    first = int(table.columns[max(1, round(limits["persistent"] * (table.shape[1] - 1)))]) if level in ("amber", "red") else None
    shown = late[rock].mean(axis=1).sort_values(ascending=False).head(EXAMPLES)
    places = tuple(Example(int(table.columns[-1]), "fixed", int(row), "", f"position {place}: KL {kl:.2f} nats") for (row, place), kl in shown.items())
    evidence = {"bound": bound, "share_of_kl": carried, "positions": len(table), "left_elsewhere": left}
    return Finding("FM25", level, share, first, evidence, places, f"{share:.1%} of positions keep a KL above {bound:.2g} nats, {carried:.0%} of all KL")


@detector("FM26")
def distillation_traps(logs: RunLogs, limits: Limits) -> Finding:
    """The loss stands on the teacher's tail: share of forward KL on vocabulary entries with q < 1e-3, where there is a loss at all."""
    tokens = logs.tokens.dropna(subset=["tail_share", "kl_forward"])
    tokens = tokens.assign(tail=tokens["tail_share"] * tokens["kl_forward"].clip(lower=0))
    steps, shares, sizes = [], [], []
    for step, window in windows(tokens, int(limits["tokens"])):
        whole = float(window["kl_forward"].clip(lower=0).mean())
        steps.append(step)
        sizes.append(float(window["tail"].mean()))
        shares.append(sizes[-1] / whole if whole > 0 else 0.0)
    levels = [above(share, limits, "share") if size > limits["nats"] else "silent" for share, size in zip(shares, sizes, strict=True)]
    level, first = sustained(steps, levels)
    high = int(np.argmax(shares))
    return Finding("FM26", level, shares[high], first, {"tail_nats": sizes[high], "step": steps[high]},
                   reason=f"{shares[high]:.0%} of forward KL on entries with q < 0.001 ({sizes[high]:.2g} nats a token)")  # fmt: skip


@detector("FM29")
def harness_artefacts(logs: RunLogs, limits: Limits) -> Finding:
    """Answers that cannot be read, and answers that one parser takes and another does not, near the end of the run."""
    levels, evidence = list[Level](), dict[str, float]()
    own = logs.rollouts[logs.rollouts["author"] == "student"]
    if own.empty:
        raise NotMeasured("no answers of the student's own")
    if logs.missing("probes.parse.valid") is None:
        frame = logs.probes["parse"]
        seen = [(step, float(1 - look["valid"].iloc[0]), int(look["n"].iloc[0])) for step, look in looks(frame[frame["law"] == "student"])]
        step, failing, count = seen[-1]
    else:
        logs.require("rollouts.parsed")
        ended = own[~own["cut"].astype(bool)].dropna(subset=["parsed"])
        late = ended[ended["step"] > ended["step"].quantile(1 - limits["late"])]
        early = ended[ended["step"] < ended["step"].quantile(limits["late"])]
        evidence["unread_start"] = float(1 - early["parsed"].mean()) if len(early) else 0.0
        step, failing, count = int(own["step"].max()), float(1 - late["parsed"].mean()), len(late)
    if count < limits["answers"]:
        raise NotMeasured(f"{count} answers at the end, {limits['answers']:.0f} are needed")
    stderr = math.sqrt(max(failing * (1 - failing), 1e-12) / count)
    levels.append(above(failing - stderr - evidence.get("unread_start", 0.0), limits, "unread"))
    evidence["unread"] = failing
    if logs.missing("rollouts.correct_flexible") is None:
        late = own[own["step"] > own["step"].quantile(1 - limits["late"])].dropna(subset=["correct", "correct_flexible"])
        apart = (late["correct_flexible"] - late["correct"]).to_numpy(float)
        evidence["parsers"] = float(abs(apart.mean()))
        levels.append(above(evidence["parsers"] - float(apart.std() / math.sqrt(max(len(apart), 1))), limits, "parsers"))
    level = worst(levels)
    said = f"{failing:.1%} of {count} ended answers cannot be read" + (f", parsers differ by {evidence['parsers']:.1%}" if "parsers" in evidence else "")
    return Finding("FM29", level, failing, step if level in ("amber", "red") else None, evidence, reason=said)
