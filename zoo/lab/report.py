"""One entry in the lab: a world of the right size, every measurement, and what contradicts the entry."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from zoo.components.base import extremes
from zoo.entry import MethodEntry
from zoo.errors import ZooError
from zoo.lab.claims import NULL, Claim, TermReferences, claim_of, parts_of
from zoo.lab.descents import Descent, descent
from zoo.lab.doubles import EXEMPT
from zoo.lab.engine import PROGRESS, Bench
from zoo.lab.laws import Exempt
from zoo.lab.points import FixedPoint, fixed_point
from zoo.lab.references import compare
from zoo.lab.world import World, world_of

GROUP = 4
LAST = 0.99
MOMENTS = (PROGRESS, 0.0, 0.95)


@dataclass(frozen=True)
class TermRun:
    """A term as it runs: cosine of its mean with (a), (b) of the reverse KL to its teacher and with (c); noise per token; growth with T."""

    term: int
    kind: str
    to_state_kl: float | None
    to_sequence_kl: float | None
    to_reward: float | None
    variance: float
    null: bool
    growth: float | None = None


@dataclass
class LabReport:
    """What the lab says about one entry; `exempt` gives the reason where it says nothing."""

    id: str
    exempt: str | None = None
    world: str = ""
    changes: list[str] = field(default_factory=list)
    error: float = 0.0
    claims: list[Claim] = field(default_factory=list)
    runs: list[TermRun] = field(default_factory=list)
    fixed: FixedPoint | None = None
    descent: Descent | None = None
    contradictions: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing contradicts the entry."""
        return not self.contradictions

    def to_json(self) -> dict[str, Any]:
        """Plain data without NaN."""
        found = asdict(self)
        for claim, made in zip(found["claims"], self.claims, strict=True):
            claim["holds"] = made.holds
        if self.fixed is not None:
            found["fixed"] |= {"found": self.fixed.found}
        if self.descent is not None:
            found["descent"] |= {"ok": self.descent.ok}
        return {"ok": self.ok, **_finite(found)}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def world_for(entry: MethodEntry) -> World:
    """V = 4, T = 3 for single sequences; smaller where groups or pairs multiply the outcomes."""
    grouped = [stream for stream in entry.rollouts.values() if stream.group > 1]
    joint = any(len(set(term.streams())) > 1 for term in entry.objective)
    if joint and grouped:
        return world_of(2, 2)
    if any(stream.author not in ("student", "teacher", "dataset", "corpus") for stream in grouped):
        return world_of(2, 2)
    return world_of(3, 2) if grouped or joint else world_of(4, 3)


def idle(entry: MethodEntry) -> bool:
    """Whether every coefficient is 0, as a null test has it."""
    return all(extremes(term.coefficient) == (0.0, 0.0) for term in entry.objective)


def refused(entry: MethodEntry) -> str | None:
    """Why the lab has nothing to measure, or None."""
    if not entry.executable:
        return f"not executable: {entry.blocked_by}"
    if getattr(entry, "stages", ()):
        return "stages: each phase is an entry of its own, which the lab does not chain"
    if not entry.objective:
        return "no objective: evaluated as it is"
    whole = [f"term.{term.term}" for term in entry.objective if f"term.{term.term}" in EXEMPT]  # type: ignore[attr-defined]
    return f"{whole[0]}: {EXEMPT[whole[0]]}" if whole else None


def study(entry: MethodEntry, *, follow: int = 0, full: bool = False) -> LabReport:
    """Measure an entry; `follow` is how many steps its update is followed, `full` adds the growth of the noise with the horizon."""
    found = LabReport(entry.id, exempt=refused(entry))
    if found.exempt:
        return found
    try:
        _measured(entry, found, follow, full)
    except Exempt as reason:
        found.exempt = str(reason)
    except ZooError:
        raise
    except Exception as error:  # a kind that the lab has never met must not end the others' measurements
        found.exempt = f"unmet: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return found


def _measured(entry: MethodEntry, found: LabReport, follow: int, full: bool) -> None:
    world = world_for(entry)
    bench = next((b for b in (Bench(entry, world, group=GROUP, progress=at) for at in MOMENTS) if b.terms), None)
    if bench is None:
        raise Exempt("no term is active at any moment that the lab looks at")
    tables = bench.tables()
    start = bench.measure(tables)
    found.world, found.changes, found.error = f"V={world.vocabulary}, T={world.horizon}", bench.changes, start.error
    if not all(np.isfinite(g).all() for g in start.by_term.values()):
        found.contradictions.append("the expected update is not finite")
        return
    for index in bench.terms:
        for part in range(parts_of(bench, index)):
            claim = claim_of(bench, tables, index, part)
            found.claims.append(claim)
            if claim.holds is False and claim.against != "null" and start.error == 0.0:
                text = f"objective[{index}]: {claim.estimator} claims {claim.says}, but bias is {claim.bias:.1e}, cosine {claim.cosine:.6f}"
                found.contradictions.append(text)
        found.runs.append(_run(bench, start, index, tables, full, entry))
        if found.runs[-1].null and extremes(entry.objective[index].coefficient) != (0.0, 0.0):
            found.contradictions.append(f"objective[{index}]: the expected update is zero and only noise is left; no baseline can be a reward (D.6)")
    found.fixed = _rest(entry, world, bench, tables, start, follow)
    if found.fixed.contradiction and not idle(entry):
        found.contradictions.append(found.fixed.contradiction)
    found.descent = descent(bench, tables, start, getattr(entry, "lab_metric", "own_loss"), getattr(entry, "lab_reason", None))
    if found.descent.ok is False:
        found.contradictions.append(f"lab_metric: {found.descent.metric} went from {found.descent.before:.6g} to {found.descent.after:.6g} over exact steps")


def _rest(entry: MethodEntry, world: World, bench: Bench, tables: Any, start: Any, follow: int) -> FixedPoint:
    """The fixed point of the last phase, where terms act in phases."""
    if any(getattr(reward, "context", None) is not None for reward in entry.rewards.values()):
        return FixedPoint(None, None, None)  # a judge that compares texts is a coin here, whose verdict does not follow their quality
    if len(bench.terms) == len(entry.objective):
        return fixed_point(bench, tables, start, follow=follow)
    last = Bench(entry, world, group=GROUP, progress=LAST)
    if not last.terms:
        return FixedPoint(entry.fixed_point, None, None)
    placed = last.tables()
    return fixed_point(last, placed, last.measure(placed), follow=follow)


def _run(bench: Bench, start: Any, index: int, tables: Any, full: bool, entry: MethodEntry) -> TermRun:
    term, mean = bench.entry.objective[index], start.by_term[index]
    law = start.laws[term.streams()[0]]
    at = TermReferences(bench, tables, index, law)
    cosines = [
        None if wanted is None else _rounded(compare(mean, wanted)[1]) for wanted in (at.reverse_kl("state"), at.reverse_kl("sequence"), at.expected_reward())
    ]
    length = float((law.probability_R * (law.state_RT >= 0).sum(1)).sum())
    size = float(np.linalg.norm(mean))
    null = start.second[index] > 0 and size <= NULL * math.sqrt(start.second[index])
    growth = _growth(entry, index) if full else None
    return TermRun(index, term.term, cosines[0], cosines[1], cosines[2], max(start.variance(index), 0.0) * length, bool(null), growth)


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else value


def _growth(entry: MethodEntry, index: int) -> float | None:
    """The exponent with which the variance of one outcome's core gradient grows from T = 2 to T = 4."""
    from zoo.lab.claims import core_of

    vocabulary = 2 if world_for(entry).horizon == 2 else 3
    values = []
    for horizon in (2, 4):
        bench = Bench(entry, world_of(vocabulary, horizon), group=GROUP)
        if index not in bench.terms:
            return None
        core = core_of(bench, index)
        values.append(core.measure(core.tables()).variance(index))
    return math.log2(values[1] / values[0]) if min(values) > 1e-15 else None
