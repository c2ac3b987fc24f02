"""The checklist's fields about what methods do: states, signal, estimator, gates; from the bodies that the records say were run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from zoo.checklist_facts import Answer, Facts, counted, joined, kind

UNRECORDED = "the records hold no bodies"


def teacher(facts: Facts) -> Answer:
    """Access, contexts, refresh, and the teacher's own scores."""
    access = facts.coordinates("teacher_access")
    scorers = [(name, part) for body in facts.bodies.values() for name, part in (body.get("teachers") or {}).items() if isinstance(part, Mapping)]
    kinds = counted(f"{kind(part)}{' in a context' if part.get('context') else ''}" for _, part in scorers)
    missing = [task.name for task in facts.study.tasks if not any(row["method"] == "teacher" and row["items"] for row in task.of(facts.study.rows))]
    scores = "its own scores: in the main table" if facts.study.tasks and not missing else ""
    lacking = joined(f"no score of the teacher on {', '.join(missing)}" if missing else "", "scores with a context")
    return Answer(joined(f"access: {access}" if access else "", f"scorers: {kinds}" if kinds else "", scores), lacking)


def init(facts: Facts) -> Answer:
    """The student's scores before training, and where it comes from."""
    scored = any(row["method"] == "student" and row["items"] for row in facts.study.rows)
    note = facts.newest.run.weights_note
    known = joined("the untrained student's scores: in the main table" if scored else "", f"weights: {note}" if note else "")
    return Answer(known, joined("" if scored else "no score of the untrained student", "data and length of the student's own training"))


def states(facts: Facts) -> Answer:
    """Prompts, who writes, and how."""
    settings = facts.asked.get("settings") or {}
    streams = [stream for body in facts.bodies.values() for stream in (body.get("rollouts") or {}).values() if isinstance(stream, Mapping)]
    authors, groups = counted(kind(stream) for stream in streams), counted(f"group of {stream.get('group', 1)}" for stream in streams)
    heats = counted(f"temperature {stream.get('temperature', '?')}" for stream in streams)
    reuse = counted(_reuse(stream.get("reuse") or {}) for stream in streams)
    task = (facts.pair.get("task") or {}).get("kind")
    sizes = f"{settings['rollouts_per_step']} rollouts a step, {settings['max_new_tokens']} tokens" if "max_new_tokens" in settings else ""
    known = joined(f"prompts of {task}" if task else "", f"written by: {authors}" if authors else "", heats, groups, reuse, sizes)
    return Answer(known, joined("" if streams else UNRECORDED, "overlap of the prompts with what the teacher was trained on"))


def _reuse(reuse: Mapping[str, Any]) -> str:
    passes = int(reuse.get("epochs", 1)) * int(reuse.get("minibatches", 1))
    stale = int(reuse.get("refresh_every", 1))
    return f"{passes} update{'' if passes == 1 else 's'} a batch" + ("" if stale == 1 else f", new ones every {stale}")


def signal(facts: Facts) -> Answer:
    """Divergences and supports, by name; arguments are (teacher, student) as docs/kinds.md writes them."""
    divergences = counted(kind(term["divergence"]) for term in facts.terms() if term.get("divergence"))
    supports = counted(_support(term["support"]) for term in facts.terms() if term.get("support"))
    rewards = counted(kind(term["reward"]) for term in facts.terms() if term.get("reward"))
    known = joined(f"divergences: {divergences}" if divergences else "", f"supports: {supports}" if supports else "",
                   f"rewards: {rewards}" if rewards else "", "formulas with their argument order: docs/kinds.md" if facts.bodies else "")  # fmt: skip
    return Answer(known, "" if facts.bodies else UNRECORDED)


def _support(support: Any) -> str:
    if not isinstance(support, Mapping):
        return str(support)
    mass, size = support.get("mass"), support.get("k")
    side = f" {mass['side']}" if isinstance(mass, Mapping) and mass.get("side") else ""
    return kind(support) + (f" k {size}" if isinstance(size, int) else "") + (f" (mass {kind(mass)}{side})" if mass is not None else "")


def estimator(facts: Facts) -> Answer:
    """Estimators by coordinate, credits and baselines by kind."""
    estimators = facts.coordinates("estimator")
    credits = counted(kind(term["credit"]) for term in facts.terms() if term.get("credit"))
    baselines = counted(kind(term["baseline"]) for term in facts.terms() if term.get("baseline"))
    return Answer(
        joined(estimators, f"credit: {credits}" if credits else "", f"baseline: {baselines}" if baselines else ""), "" if facts.bodies else UNRECORDED
    )


def gates(facts: Facts) -> Answer:
    """Routing, gates and weights; the share of tokens that passed them, where it was logged."""
    found = counted(kind(part) for term in facts.terms() for part in (*(term.get("gates") or ()), *(term.get("weights") or ())))
    routing = facts.coordinates("routing")
    kept = any(name.startswith("kept") for record in facts.trained for name in record.run.final)
    known = joined(f"routing: {routing}" if routing else "", f"gates and weights: {found}" if found else "no gates" if facts.bodies else "")
    return Answer(known, "" if kept or not found else "share of tokens kept")


def shaping(facts: Facts) -> Answer:
    """Shapings and clipped ratios."""
    found = counted(kind(part) for term in facts.terms() for part in (*(term.get("shaping") or ()), *(term.get("ratio") or ())))
    known = found or ("none" if facts.bodies else "")
    return Answer(known, "share of tokens affected" if found else "" if facts.bodies else UNRECORDED)


def regularisers(facts: Facts) -> Answer:
    """Terms that only hold the student in place, and pulls of the update."""
    terms = Counter(f"{kind(term.get('divergence') or term)} to {term.get('teacher', 'texts')}, {term.get('coefficient')}" for term in facts.terms()
                    if term.get("role") == "anchor")  # fmt: skip
    pulls = Counter(kind(body["update"]["anchor"]) for body in facts.bodies.values() if (body.get("update") or {}).get("anchor"))
    return Answer(counted(terms + pulls) or ("none" if facts.bodies else ""), "" if facts.bodies else UNRECORDED)


def reduction(facts: Facts) -> Answer:
    """How losses are averaged."""
    found = counted(kind(term["reduce"]) for term in facts.terms() if term.get("reduce"))
    said = "denominators over the whole batch, fixed before the backward pass, so the split over micro-batches and devices is of no matter"
    return Answer(joined(found, said) if found else "", "" if found else UNRECORDED)
