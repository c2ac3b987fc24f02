"""Compatibility rules about contexts and about streams that read other streams; `zoo.compat` runs them.

A part made during the run needs what it is made of: a group with peers, a stream written before to the same prompts, a check of the task.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from string import Formatter
from typing import TYPE_CHECKING, Any

from zoo.components.base import PLAIN, Context, walk
from zoo.components.baselines import BatchMean, GroupMean
from zoo.components.contexts import Part
from zoo.components.gates import RewardGate
from zoo.components.rewards import Elsewhere, Judge, TurnJudge, Verifier, measured_in_order
from zoo.components.rollouts import Corpus, Edited, GroupReward, Replay, Reread, Stream, in_order
from zoo.components.targets import with_inputs
from zoo.components.teachers import SelfTeacher, SteeredWeights
from zoo.components.terms.policy_gradient import PolicyGradientTerm
from zoo.errors import suggest

if TYPE_CHECKING:
    from zoo.entry import MethodEntry

Messages = Iterator[str]


def parts_of(context: Context) -> list[Part]:
    """Every part of a context, those that stand in included."""
    return [part for outer in context.made for part in outer.alternatives()]


def all_contexts(entry: MethodEntry) -> Iterator[tuple[str, Context]]:
    """Every context of an entry, with its place."""
    yield from ((f"teachers.{name}.context", t.context) for name, t in entry.teachers.items() if t.context is not None)
    for name, teacher in entry.teachers.items():
        if isinstance(teacher, SelfTeacher) and isinstance(teacher.weights, SteeredWeights):
            yield f"teachers.{name}.weights.toward", teacher.weights.toward
    yield from ((f"rewards.{name}.context", r.context) for name, r in entry.rewards.items() if isinstance(r, Judge | TurnJudge) and r.context is not None)
    for name, stream in entry.rollouts.items():
        for inner in (part for part in walk(stream) if isinstance(part, Stream)):
            for context in inner.contexts:
                yield f"rollouts.{name}.{'context' if context is inner.context else 'teacher_context'}", context


def read_streams(entry: MethodEntry) -> set[str]:
    """Streams that another stream or a scorer's context reads."""
    shown = {part.stream for _, context in all_contexts(entry) for part in parts_of(context) if part.stream is not None}
    shown |= {reward.on for reward in entry.rewards.values() if isinstance(reward, Elsewhere)}
    return shown | {source for stream in entry.rollouts.values() for source in stream.sources}


def unknown_sources(entry: MethodEntry) -> Messages:
    """Streams that are read but not declared, or that read each other in a circle."""
    for name, stream in entry.rollouts.items():
        for source in stream.sources:
            if source not in entry.rollouts:
                yield f"rollouts.{name}: stream '{source}' is not under rollouts{suggest(source, entry.rollouts)}"
    for name, teacher in entry.teachers.items():
        for part in parts_of(teacher.context) if teacher.context is not None else ():
            if part.stream is not None and part.stream not in entry.rollouts:
                yield f"teachers.{name}.context: stream '{part.stream}' is not under rollouts{suggest(part.stream, entry.rollouts)}"
    for name, reward in entry.rewards.items():
        if isinstance(reward, Elsewhere) and reward.on not in entry.rollouts:
            yield f"rewards.{name}: stream '{reward.on}' is not under rollouts{suggest(reward.on, entry.rollouts)}"
    order = [name for name, _ in in_order(entry.rollouts)]
    for place, name in enumerate(order):
        if late := [s for s in entry.rollouts[name].sources if s in entry.rollouts and order.index(s) >= place]:
            yield f"rollouts.{name} reads '{late[0]}', which reads it in turn; one of them must be written first"


def spared_texts(entry: MethodEntry) -> Messages:
    """A stream that is written for some rows only spares what a gate drops anyway, so that what it teaches does not depend on it."""
    for name, stream in entry.rollouts.items():
        when = stream.when
        if not isinstance(when, GroupReward):
            continue
        if isinstance(stream, Replay):
            yield f"rollouts.{name}.when: a replayed batch answers other prompts; drop when"
        for i, term in enumerate(entry.objective):
            if name in term.streams() and not any(_same_test(entry, gate, when) for gate in getattr(term, "gates", ())):
                bound = f"at_most: {when.at_most}" if when.at_most is not None else f"at_least: {when.at_least}"
                yield (
                    f"objective[{i}] reads '{name}', which when writes for some rows only; give it the same gate, {{kind: reward, name: ..., {bound}}} on a "
                    f"reward {{kind: elsewhere, on: {when.of}, reward: {{kind: verifier, check: {when.check}}}, scope: {when.scope}}}"
                )


def _same_test(entry: MethodEntry, gate: Any, when: GroupReward) -> bool:
    reward = entry.rewards.get(getattr(gate, "name", ""))
    if not isinstance(gate, RewardGate) or gate.scope != "sequence" or not isinstance(reward, Elsewhere) or not isinstance(reward.reward, Verifier):
        return False
    same = (reward.on, reward.scope, reward.reward.check) == (when.of, when.scope, when.check)
    return same and (gate.at_most, gate.at_least) == (when.at_most, when.at_least)


def author_contexts(entry: MethodEntry) -> Messages:
    """Before a stream is written there is nothing of its own to show."""
    for name, stream in entry.rollouts.items():
        inner = [part for s in walk(stream) if isinstance(s, Stream) for context in s.contexts for part in parts_of(context)]
        for part in inner:
            if part.reads_text and part.stream is None:
                yield f"rollouts.{name}: context {part.kind} reads what was written, and this stream is not written yet; name another one with of"  # type: ignore[attr-defined]


def side_by_side(entry: MethodEntry) -> Messages:
    """Streams read row by row need the same prompts, groups and order."""
    pairs = [(name, source) for name, stream in entry.rollouts.items() for source in stream.sources]
    for term in entry.objective:
        read = measured_in_order(term.reward_names(), entry.rewards).values()
        pairs += [(on, reward.on) for on in term.streams() for reward in read if isinstance(reward, Elsewhere)]
        for scorer in with_inputs(term.scorers(entry.rewards), entry.teachers):
            context = entry.teachers[scorer].context if scorer in entry.teachers else None
            pairs += [(on, part.stream) for on in term.streams() for part in (parts_of(context) if context else ()) if part.stream is not None]
    for name, source in dict.fromkeys(pairs):
        one, other = entry.rollouts[name], entry.rollouts[source]
        if name != source and (isinstance(one, Replay) or isinstance(other, Replay)):
            yield f"rollouts.{name} and rollouts.{source} are read row by row, but a replayed batch answers other prompts; use a plain author"
        elif (one.group, one.share) != (other.group, other.share):
            yield f"rollouts.{name} and rollouts.{source} are read row by row; give both the same group and share"
        elif isinstance(other, Corpus):
            yield f"rollouts.{source} is a corpus, which answers no prompt; read another stream"


def peers(entry: MethodEntry) -> Messages:
    """A group of one has no peers."""
    for term in entry.objective:
        for scorer in with_inputs(term.scorers(entry.rewards), entry.teachers):
            context = entry.teachers[scorer].context if scorer in entry.teachers else None
            for part in parts_of(context) if context is not None else ():
                for on in term.streams() if part.stream is None else (part.stream,):
                    yield from _too_few(entry, f"teachers.{scorer}.context", part, on)
    for name, stream in entry.rollouts.items():
        for context in stream.contexts:
            for part in parts_of(context):
                if part.stream is not None:
                    yield from _too_few(entry, f"rollouts.{name}.context", part, part.stream)
        if isinstance(stream, Edited):
            yield from _too_few(entry, f"rollouts.{name}.put", stream.put, stream.put.stream or stream.of)


def _too_few(entry: MethodEntry, where: str, part: Any, on: str) -> Messages:
    if (part.needs_group or getattr(part, "scope", None) == "group") and entry.rollouts[on].group < 2:
        yield f"{where}: {part.kind} reads a group, but rollouts.{on} has group 1; set group to 2 or more"


def absent_in_batch(entry: MethodEntry) -> Messages:
    """Sequences without a context have no advantage, which a statistic of the whole batch would count all the same."""
    for i, term in enumerate(entry.objective):
        if not isinstance(term, PolicyGradientTerm):
            continue
        batchwide = any(shaping.batchwide for shaping in term.shaping) or isinstance(term.baseline, BatchMean | GroupMean)
        for scorer in with_inputs(term.scorers(entry.rewards), entry.teachers) if batchwide else ():
            context = entry.teachers[scorer].context if scorer in entry.teachers else None
            if context is not None and context.absent == "skip" and any(_may_lack(part) for part in context.made):
                yield (
                    f"objective[{i}]: teachers.{scorer} says nothing about sequences without its context, but the batch's mean counts them; "
                    "set absent: plain, or drop the statistic of the batch"
                )


def _may_lack(part: Any) -> bool:
    return bool(part.needs_group) or part.kind in ("ablated", "other_prompt", "given", "partial_solution")


def sees_nothing(entry: MethodEntry, teacher: Any) -> bool:
    """Whether a scorer reads what the student reads: no context, or the plain one where no stream is read in another."""
    reread = any(isinstance(stream, Reread) for stream in entry.rollouts.values())
    return teacher.context is None or (teacher.context.template == PLAIN and not reread)


def pair_contexts(entry: MethodEntry, templates: Collection[str], fields: Collection[str] | None, checks: Collection[str] | None) -> Messages:
    """What a pair lacks for an entry's contexts: prompt fields, templates and their places, checks."""
    for where, context in all_contexts(entry):
        given = [*context.fields, *(p.name for p in parts_of(context) if hasattr(p, "name")), *(p.part for p in parts_of(context) if hasattr(p, "part"))]
        for field in given:
            if fields is not None and field not in fields:
                yield f"{where} needs the prompt field '{field}', which this pair's prompts lack{suggest(field, fields)}"
        if context.template != PLAIN and context.template not in templates:
            yield f"{where}.template '{context.template}' is not among the pair's contexts{suggest(context.template, templates)}"
        elif context.template != PLAIN and isinstance(templates, Mapping):
            shown = ["prompt", *context.fields, *(part.kind for part in context.made)]
            for _, place, _, _ in Formatter().parse(templates[context.template]):
                if place and place not in shown:
                    yield f"{where}.template '{context.template}' has a place for '{place}', which the context does not fill; add it to fields or made"
    parts = [(where, part) for where, context in all_contexts(entry) for part in parts_of(context)]
    parts += [(f"rollouts.{name}.put", part) for name, s in entry.rollouts.items() if isinstance(s, Edited) for part in s.put.alternatives()]
    for where, part in parts:
        check = getattr(part, "check", None)
        if check is not None and checks is not None and check not in checks:
            yield f"{where}: check '{check}' is not among the task's checks{suggest(check, checks)}"


NAMES = (unknown_sources,)
RULES = (spared_texts, author_contexts, side_by_side, peers, absent_in_batch)
