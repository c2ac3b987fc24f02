"""Compatibility rules about how parameters move and about teachers made of others.

Each is a function from an entry to messages, like those of `zoo.compat`, which runs them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from zoo.components.base import walk
from zoo.components.gates import Remembering
from zoo.components.learners import Model, Peer, Projector, SoftPrompt
from zoo.components.schedules import Adaptive
from zoo.components.teachers import Composite, GatedWeights, LearnedTeacher, Route
from zoo.components.terms.policy_gradient import PolicyGradientTerm
from zoo.components.terms.preference import LogProbLossTerm
from zoo.components.terms.representation import RepresentationTerm
from zoo.components.updates import Extrapolate, MatchNorm, Merge, PrivateStep, TrustRegion
from zoo.errors import suggest

if TYPE_CHECKING:
    from zoo.entry import MethodEntry

Messages = Iterator[str]


def unknown_members(entry: MethodEntry) -> Messages:
    """Teachers that a composite one names but the entry does not declare, and circles."""
    for name, teacher in entry.teachers.items():
        for member in teacher.members:
            if member not in entry.teachers and member not in ("student", "reference"):
                yield f"teachers.{name}: member '{member}' is not under teachers{suggest(member, entry.teachers)}"
            elif name in _reached(entry, member):
                yield f"teachers.{name} is made of itself through '{member}'; name other teachers"


def _reached(entry: MethodEntry, start: str) -> set[str]:
    found, todo = set(), [start]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += entry.teachers[name].members if name in entry.teachers else ()
    return found


def composite_authors(entry: MethodEntry) -> Messages:
    """A scorer made of others has no weights to write with."""
    for name, stream in entry.rollouts.items():
        for model in stream.reads:
            if isinstance(entry.teachers.get(model), Composite):
                yield f"rollouts.{name}: '{model}' is made of other teachers and can't write; name one of its members"


def measures(entry: MethodEntry) -> Messages:
    """A measure names a term, a stream or a reward of the entry."""
    asked = [(f"teachers.{n}", m) for n, t in entry.teachers.items() for part in walk(t) if isinstance(part, GatedWeights) for m in (part.measure, part.tail)]
    asked += [(f"{field}", m) for field in ("rollouts", "teachers", "rewards", "objective") for part in walk(getattr(entry, field))
              if isinstance(part, Adaptive) for m in part.measures()]  # fmt: skip
    for where, measure in asked:
        if measure is None:
            continue
        kind, *rest = measure.split(".")
        term = kind in ("loss", "kept") and len(rest) == 1 and re.fullmatch(r"\d+", rest[0]) and int(rest[0]) < len(entry.objective)
        reward = kind == "reward" and len(rest) == 2 and rest[0] in entry.rewards and rest[1] in entry.rollouts
        stream = kind in ("length", "truncated") and len(rest) == 1 and rest[0] in entry.rollouts
        if not (measure in ("loss", "grad_norm") or term or reward or stream):
            yield f"{where}: no step leaves a measure '{measure}'; write loss, loss.N, kept.N, reward.NAME.STREAM, length.STREAM or truncated.STREAM"


def private_parts(entry: MethodEntry) -> Messages:
    """The gradient of one sequence must be a function of that sequence."""
    step = getattr(entry.update, "step", None)
    if not isinstance(step, PrivateStep):
        return
    for i, term in enumerate(entry.objective):
        if (reduce := getattr(term, "reduce", None)) is None or reduce.kind == "token_mean":
            yield f"objective[{i}]: update.step dp clips each sequence by itself, and a mean over all tokens binds them together; use reduce: sequence_mean"
        if isinstance(term, PolicyGradientTerm) and not term.credit.local and entry.rollouts[term.on].group > 1:
            yield f"objective[{i}]: update.step dp takes each sequence by itself, and a group's credit compares several; use group: 1"


def matched_term(entry: MethodEntry) -> Messages:
    """The part whose norm is taken must be one of several."""
    step = getattr(entry.update, "step", None)
    if isinstance(step, MatchNorm) and not step.to < len(entry.objective) > 1:
        yield f"update.step match_norm takes the norm of objective[{step.to}], which needs to be one of several terms; there are {len(entry.objective)}"


def searched_terms(entry: MethodEntry) -> Messages:
    """A search along a loss needs its value, not its slope alone."""
    if not isinstance(entry.update, TrustRegion):
        return
    for i, term in enumerate(entry.objective):
        if isinstance(term, PolicyGradientTerm) and all(ratio.frozen for ratio in term.ratio):
            yield f"objective[{i}]: update trust_region searches along the surrogate, which is a ratio times the advantage; add ratio: [importance]"
        if isinstance(term, LogProbLossTerm):
            yield f"objective[{i}]: update trust_region searches along the loss, and a log_prob_loss is known by its slope alone; use update adamw"


def representations(entry: MethodEntry) -> Messages:
    """A representation term reads one model's states, through a declared projector or none."""
    for i, term in enumerate(entry.objective):
        if not isinstance(term, RepresentationTerm):
            continue
        if term.projector is not None and not isinstance(entry.learners.get(term.projector), Projector):
            yield f"objective[{i}]: projector '{term.projector}' is not declared; add learners: {{{term.projector}: {{kind: projector}}}}"
        if isinstance(entry.teachers.get(term.teacher), Composite):
            yield f"objective[{i}]: '{term.teacher}' is made of other teachers and has no hidden states; name one of its members"
        teacher = entry.teachers.get(term.teacher)
        if teacher is not None and teacher.target is not None:
            yield f"objective[{i}]: a target transforms probabilities, and a representation term reads hidden states; drop the target of '{term.teacher}'"


def learned_teachers(entry: MethodEntry) -> Messages:
    """A learned teacher is a declared learner with terms of its own, which read what there is."""
    for name, teacher in entry.teachers.items():
        if isinstance(teacher, LearnedTeacher) and not isinstance(entry.learners.get(teacher.learner), Model):
            yield f"teachers.{name}: '{teacher.learner}' is no learner of kind peer, adapter or soft_prompt{suggest(teacher.learner, entry.learners)}"
    soft = {name for name, t in entry.teachers.items() if isinstance(t, LearnedTeacher) and isinstance(entry.learners.get(t.learner), SoftPrompt)}
    for name, stream in entry.rollouts.items():
        for who in soft & {*stream.reads}:
            yield f"rollouts.{name} is written by '{who}', a soft prompt, which scores and does not write; use a peer or an adapter"
    step = getattr(entry.update, "step", None)
    for other in step.of if isinstance(step, Merge) else ():
        branch = entry.learners.get(other)
        if not isinstance(branch, Peer) or branch.model != "student":
            yield f"update.step merge: '{other}' is no peer with model: student, so there is no mean of weights{suggest(other, entry.learners)}"
    for name, spec in entry.learners.items():
        for i, term in enumerate(spec.objective if isinstance(spec, Model) else ()):
            known = {"student", "pupil", "reference", "behaviour", *entry.teachers}
            lacking = [s for s in (*term.streams(),) if s not in entry.rollouts] + [s for s in term.reward_names() if s not in entry.rewards]
            lacking += [] if lacking else [s for s in term.scorers(entry.rewards) if s not in known]
            yield from (f"learners.{name}.objective[{i}]: '{what}' is not declared; a learner's terms read the entry's parts, itself as "
                        "student and the entry's student as pupil" for what in lacking)  # fmt: skip


def pair_fields(entry: MethodEntry, fields: Collection[str] | None, checks: Collection[str] | None) -> Messages:
    """What a pair's prompts lack for a route, and its task's checks for a foreseeing step."""
    for name, teacher in entry.teachers.items():
        if isinstance(teacher, Route) and fields is not None and teacher.by not in fields:
            yield f"teachers.{name} chooses by the prompt field '{teacher.by}', which this pair's prompts lack{suggest(teacher.by, fields)}"
    step = getattr(entry.update, "step", None)
    if isinstance(step, Extrapolate) and checks is not None and step.check not in checks:
        yield f"update.step.check '{step.check}' is not among the task's checks{suggest(step.check, checks)}"


def remembering_learners(entry: MethodEntry) -> Messages:
    """Only the student's own steps are remembered."""
    for name, learner in entry.learners.items():
        for part in walk(learner):
            if isinstance(part, Remembering):
                yield f"learners.{name}: gate {part.kind} remembers the student's steps, not a learner's; use it in objective alone"  # type: ignore[attr-defined]


NAMES = (unknown_members, learned_teachers)
RULES = (composite_authors, measures, private_parts, matched_term, searched_terms, representations, remembering_learners)
