"""One entry in the lab: a world of the right size, every measurement, and what contradicts the entry."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from zoo.components.base import extremes
from zoo.components.rollouts import Edited, WindowVerify
from zoo.entry import MethodEntry
from zoo.errors import ZooError
from zoo.lab.claims import NULL, Claim, Compared, TermReferences, claim_of, parts_of
from zoo.lab.descents import Descent, descent
from zoo.lab.doubles import EXEMPT, SORTS, Tables
from zoo.lab.engine import PROGRESS, Bench
from zoo.lab.joint import root_of
from zoo.lab.laws import Exempt
from zoo.lab.measured import Measured
from zoo.lab.numbers import numbers_of
from zoo.lab.points import FixedPoint, fixed_point
from zoo.lab.world import World, world_of

GROUP = 4
LAST = 0.99
MOMENTS = (PROGRESS, 0.0, 0.95, *(round(0.01 * k, 2) for k in range(1, 100)))


@dataclass(frozen=True)
class TermRun:
    """A term as it runs, gates and denominator included: its mean against (a), (b) and (c); noise per token; growth with T. `moment` is
    the share of the run at which it was looked at."""

    term: int
    kind: str
    state: Compared | None
    sequence: Compared | None
    reward: Compared | None
    variance: float
    null: bool
    moment: float = PROGRESS
    growth: float | None = None


@dataclass
class LabReport:
    """What the lab says about one entry; where it says nothing, `exempt` gives the reason and `sort` its sort. `outcomes` counts what may
    happen in one step; `error` is that of a probability where the outcomes were drawn."""

    id: str
    exempt: str | None = None
    sort: str | None = None
    world: str = ""
    outcomes: int = 0
    changes: list[str] = field(default_factory=list)
    error: float = 0.0
    claims: list[Claim] = field(default_factory=list)
    runs: list[TermRun] = field(default_factory=list)
    fixed: FixedPoint | None = None
    descent: Descent | None = None
    contradictions: list[str] = field(default_factory=list)
    numbers: dict[str, Any] | None = None

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
    """V = 4, T = 3 for single sequences; smaller where groups or pairs multiply the outcomes, longer where a stretch must stray."""
    streams = [entry.rollouts[root_of(entry, name)] for term in entry.objective for name in term.streams()]
    grouped = [stream for stream in streams if stream.group > 1]
    joint = any(len({root_of(entry, name) for name in term.streams()}) > 1 for term in entry.objective)
    if joint and grouped:
        return world_of(2, 2)
    if any(stream.author not in ("student", "teacher", "dataset", "corpus") for stream in grouped):
        return world_of(2, 2)
    if not (grouped or joint) and any(isinstance(stream, Edited) for stream in entry.rollouts.values()):
        return world_of(3, 3)
    if any(isinstance(getattr(stream, "verify", None), WindowVerify) for stream in streams):
        return world_of(3, 4)
    return world_of(3, 2) if grouped or joint else world_of(4, 3)


def idle(entry: MethodEntry) -> bool:
    """Whether every coefficient is 0, as a null test has it."""
    return all(extremes(term.coefficient) == (0.0, 0.0) for term in entry.objective)


def refused(entry: MethodEntry) -> tuple[str, str] | None:
    """Why the lab has nothing to measure and of what sort that is, or None."""
    if not entry.executable:
        return f"not executable: {entry.blocked_by}", "not executable"
    if not entry.objective:
        return "no objective: evaluated as it is", "no objective"
    parts = [f"teacher.{teacher.kind}" for teacher in entry.teachers.values()]  # type: ignore[attr-defined]
    if found := next((part for part in parts if part in EXEMPT), None):
        return f"{found}: {EXEMPT[found]}", SORTS[found]
    without = [f"term.{term.term}" for term in entry.objective if f"term.{term.term}" in EXEMPT]  # type: ignore[attr-defined]
    return (f"{without[0]}: {EXEMPT[without[0]]}", SORTS[without[0]]) if len(without) == len(entry.objective) else None


def study(entry: MethodEntry, *, follow: int = 0, full: bool = False, numbers: bool = False) -> LabReport:
    """Measure an entry; `follow` is how many steps its update is followed, `full` adds the growth of the noise with the horizon, `numbers`
    the tables and the updates themselves."""
    found, reason = LabReport(entry.id), refused(entry)
    if reason is not None:
        found.exempt, found.sort = reason
        return found
    try:
        _measured(entry, found, follow, full, numbers)
    except Exempt as none:
        found.exempt, found.sort = str(none), none.sort
    except ZooError:
        raise
    except Exception as error:  # a kind that the lab has never met must not end the others' measurements
        found.exempt, found.sort = f"unmet: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}", "unmet"
    return found


def benches(entry: MethodEntry, world: World) -> list[Bench]:
    """The entry at moments at which, taken together, each of its terms acts; the first one is the usual moment where any term acts there."""
    found: list[Bench] = []
    left = {i for i, term in enumerate(entry.objective) if f"term.{term.term}" not in EXEMPT}  # type: ignore[attr-defined]
    for moment in MOMENTS:
        acting = {i for i in left if entry.objective[i].active(moment)}
        if acting:
            found.append(Bench(entry, world, group=GROUP, progress=moment))
            left -= acting
    return found


def _measured(entry: MethodEntry, found: LabReport, follow: int, full: bool, numbers: bool) -> None:
    world = world_for(entry)
    found.world = f"V={world.vocabulary}, T={world.horizon}"
    without = [f"objective[{i}] left out, term.{t.term}: {EXEMPT[f'term.{t.term}']}" for i, t in enumerate(entry.objective) if f"term.{t.term}" in EXEMPT]  # type: ignore[attr-defined]
    every = benches(entry, world)
    if not every:
        raise Exempt("no term is active at any moment that the lab looks at")
    found.changes = [*every[0].changes, *without]
    known: set[int] = set()
    for bench in every:
        tables = bench.tables()
        start = bench.measure(tables)
        found.error, found.outcomes = max(found.error, start.error), max(found.outcomes, *(law.outcomes for law in start.laws.values()))
        if not all(np.isfinite(g).all() for g in start.by_term.values()):
            found.contradictions.append("the expected update is not finite")
            return
        for index in bench.terms:
            if index not in known:
                _term(entry, bench, tables, start, index, found, full)
        known |= set(bench.terms)
        if bench is every[0] or entry.lab_metric == "own_loss":  # other metrics are the whole method's, not each phase's
            _fall(found, descent(bench, tables, start, entry.lab_metric, entry.lab_reason))
        if bench is every[0]:
            found.numbers = numbers_of(bench, tables, start) if numbers else None
            found.fixed = _rest(entry, world, bench, tables, start, follow)
    found.claims.sort(key=lambda claim: claim.term)
    found.runs.sort(key=lambda run: run.term)
    whole = not without or entry.fixed_point == "teacher"  # where a term is missing, the teacher may rest although the entry does not
    if found.fixed is not None and found.fixed.contradiction and whole and not idle(entry):
        found.contradictions.append(found.fixed.contradiction)


def _fall(found: LabReport, fallen: Descent) -> None:
    found.descent = fallen if found.descent is None else found.descent
    if fallen.ok is False:
        found.contradictions.append(f"lab_metric: {fallen.metric} went from {fallen.before:.6g} to {fallen.after:.6g} over exact steps")


def _term(entry: MethodEntry, bench: Bench, tables: Tables, start: Measured, index: int, found: LabReport, full: bool) -> None:
    for part in range(parts_of(bench, index)):
        claim = claim_of(bench, tables, index, part)
        found.claims.append(claim)
        if claim.holds is False and claim.against != "null" and start.error == 0.0:
            text = f"objective[{index}]: {claim.estimator} claims {claim.says}, but bias is {claim.bias:.1e}, cosine {claim.cosine:.6f}"
            found.contradictions.append(text)
    found.runs.append(_run(bench, start, index, tables, full, entry))
    if found.runs[-1].null and extremes(entry.objective[index].coefficient) != (0.0, 0.0):
        found.contradictions.append(f"objective[{index}]: the expected update is zero and only noise is left; no baseline can be a reward (D.6)")


def _rest(entry: MethodEntry, world: World, bench: Bench, tables: Any, start: Any, follow: int) -> FixedPoint:
    """The fixed point of the last phase, where terms act in phases."""
    if any(getattr(reward, "context", None) is not None for reward in entry.rewards.values()):
        return FixedPoint(None, None, None)  # a judge that compares texts is a coin here, whose verdict does not follow their quality
    if len(bench.terms) == sum(f"term.{term.term}" not in EXEMPT for term in entry.objective):  # type: ignore[attr-defined]
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
    length = float((law.probability_R * (law.state_RT >= 0).sum(1)).sum())
    size = float(np.linalg.norm(mean))
    null = start.second[index] > 0 and size <= NULL * math.sqrt(start.second[index])
    growth = _growth(entry, index, bench.progress) if full else None
    return TermRun(index, term.term, **at.three(mean), variance=max(start.variance(index), 0.0) * length, null=bool(null), moment=bench.progress, growth=growth)


def _growth(entry: MethodEntry, index: int, moment: float) -> float | None:
    """The exponent with which the variance of one outcome's core gradient grows from T = 2 to T = 4."""
    from zoo.lab.claims import core_of

    small = world_for(entry).horizon == 2 or any(entry.rollouts[name].group > 1 for name in entry.objective[index].streams())
    values = []
    for horizon in (2, 4):
        bench = Bench(entry, world_of(2 if small else 3, horizon), group=GROUP, progress=moment)
        core = core_of(bench, index)
        values.append(core.measure(core.tables()).variance(index))
    return math.log2(values[1] / values[0]) if min(values) > 1e-15 else None
