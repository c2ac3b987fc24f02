"""Compatibility rules about parts that would be ignored where they stand, or that would read what is not there.

Each is a function from an entry to messages, like those of `zoo.compat`, which runs them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from zoo.components.base import walk
from zoo.components.gates import AuthorGate, Gate
from zoo.components.prompts import Draw
from zoo.components.rewards import SequenceReward, measured_in_order
from zoo.components.rollouts import Continued, Corpus, Dataset, Edited, Mixture, Replay, Stream
from zoo.components.terms.policy_gradient import PolicyGradientTerm
from zoo.components.terms.preference import LogProbLossTerm
from zoo.errors import suggest

if TYPE_CHECKING:
    from zoo.entry import MethodEntry

Messages = Iterator[str]


def ignored_shaping(entry: MethodEntry) -> Messages:
    """A shaping acts on the advantage of a policy gradient, or on entries and tokens of a divergence."""
    for i, term in enumerate(entry.objective):
        places = {"policy_gradient": ("advantage",), "divergence": ("entry", "token")}.get(term.term, ())  # type: ignore[attr-defined]
        for shaping in term.shaping:
            if shaping.where not in places:
                remedy = f"set where: {' or '.join(places)}" if places else "remove it"
                yield f"objective[{i}]: shaping {shaping.kind} acts on where: {shaping.where}, which a {term.term} term lacks; {remedy}"  # type: ignore[attr-defined]
            elif shaping.batchwide and shaping.where != "advantage":
                yield f"objective[{i}]: shaping {shaping.kind} reads the whole batch's advantages; use it with where: advantage in a policy_gradient term"


def ignored_gate(entry: MethodEntry) -> Messages:
    """Only a policy gradient has an advantage."""
    for i, term in enumerate(entry.objective):
        if not isinstance(term, PolicyGradientTerm):
            for part in (part for _, part in term.parts() if part.reads_advantage):
                what = "gate" if isinstance(part, Gate) else "weight"
                yield f"objective[{i}]: {what} {part.kind} reads an advantage, and only a policy_gradient term has one; use another {what}"


def ignored_ratio(entry: MethodEntry) -> Messages:
    """Redirected tokens carry no ratio."""
    for i, term in enumerate(entry.objective):
        if isinstance(term, PolicyGradientTerm) and term.ratio and hasattr(term.routing, "teacher"):
            yield f"objective[{i}]: tokens that routing {term.routing.kind} redirects carry no ratio; drop ratio, or use routing: sampled"  # type: ignore[attr-defined]


def sequence_rewards(entry: MethodEntry) -> Messages:
    """A sequence reward is measured once for each answer and read by its name."""
    for i, term in enumerate(entry.objective):
        for own in term.split() if isinstance(term, PolicyGradientTerm) else ():
            if not isinstance(own.reward, str) and own.reward.per_turn:
                yield f"objective[{i}]: reward {own.reward.kind} is measured on the turns of a dialogue; declare it under rewards and name it here"
            if not isinstance(own.reward, str) and own.reward.per_sequence:
                yield f"objective[{i}]: reward {own.reward.kind} is measured on whole answers; declare it under rewards and name it here"
            for part in own.outcomes():
                if not entry.rewards[part.name].per_sequence:
                    yield f"objective[{i}]: {part.kind} reads a sequence's result, but rewards.{part.name} is given per token; name a verifier"
        for _, part in term.parts():
            if getattr(part, "scope", None) == "turn":
                if part.outcome and not entry.rewards[part.name].per_turn:
                    yield f"objective[{i}]: {part.kind} with scope: turn reads a reward of turns; name a turn_state, or drop scope"
            elif part.outcome and not entry.rewards[part.name].per_sequence:
                yield f"objective[{i}]: {part.kind} reads a sequence's result, but rewards.{part.name} is given per token; name a verifier"


def reward_parts(entry: MethodEntry) -> Messages:
    """Rewards made of others name sequence rewards, and never themselves."""
    for name, reward in entry.rewards.items():
        for part in reward.reads() if isinstance(reward, SequenceReward) else ():
            if part not in entry.rewards:
                yield f"rewards.{name}: reward '{part}' is not under rewards{suggest(part, entry.rewards)}"
            elif not entry.rewards[part].per_sequence:
                yield f"rewards.{name}: '{part}' is given per token, and rewards of whole answers are summed here; advantages are summed by `plus`"
    try:
        measured_in_order(tuple(entry.rewards), entry.rewards)
    except ValueError as error:
        yield f"rewards: {error}"


def draws(entry: MethodEntry) -> list[tuple[str, Draw]]:
    """The draws of prompts, with their streams."""
    return [(name, stream.prompts) for name, stream in entry.rollouts.items() if stream.prompts is not None]


def drawn_names(entry: MethodEntry) -> Messages:
    """A draw reads declared rewards and streams."""
    for name, draw in draws(entry):
        if draw.name not in entry.rewards:
            yield f"rollouts.{name}.prompts: reward '{draw.name}' is not under rewards{suggest(draw.name, entry.rewards)}"
        yield from (
            f"rollouts.{name}.prompts: stream '{other}' is not under rollouts{suggest(other, entry.rollouts)}"
            for other in draw.others
            if other not in entry.rollouts
        )


def drawn_prompts(entry: MethodEntry) -> Messages:
    """A step has one draw, by answers to its own prompts."""
    found = draws(entry)
    if len({draw for _, draw in found}) > 1:
        yield f"rollouts.{found[0][0]} and rollouts.{found[1][0]} draw prompts in two ways, and a step has one set of prompts; keep one prompts"
    for name, draw in found:
        if not entry.rewards[draw.name].per_sequence:
            yield f"rollouts.{name}.prompts reads whole answers, but rewards.{draw.name} is given per token; name a verifier"
        for other in (name, *draw.others):
            if isinstance(entry.rollouts[other], Replay | Corpus):
                yield f"rollouts.{name}.prompts: '{other}' does not answer the step's prompts (author {entry.rollouts[other].author}); name another stream"
        if name in draw.others:
            yield f"rollouts.{name}.prompts compares the stream with itself; name another stream"
        if draw.grouped and entry.rollouts[name].group < 2:
            yield f"rollouts.{name}.prompts reads the pass rate of a group, but the stream has group 1; set group to 2 or more"


def group_statistics(entry: MethodEntry) -> Messages:
    """Over a group of one, a pass rate is 0 or 1."""
    for i, term in enumerate(entry.objective):
        for name, part in term.parts():
            if entry.rollouts[name].group < 2 and (part.kind == "pass_rate" or getattr(part, "scope", None) == "group"):
                yield f"objective[{i}]: {part.kind} reads the pass rate of a group, but rollouts.{name} has group 1; set group to 2 or more"


def behaviour_distribution(entry: MethodEntry) -> Messages:
    """Of `behaviour` only the written token's probability is known."""
    for i, term in enumerate(entry.objective):
        if "behaviour" in (*term.update_scorers(), *(s for statistic in term.statistics(entry.rewards) for s in statistic.scorers)):
            yield f"objective[{i}]: of 'behaviour' only the written token's probability is known, which a contrast reward reads; name another scorer here"
    for name, stream in entry.rollouts.items():
        if "behaviour" in stream.reads:
            yield f"rollouts.{name}: 'behaviour' is no model; name the student or a teacher{suggest('', entry.teachers)}"


def unknown_probabilities(entry: MethodEntry) -> Messages:
    """Nobody's probability is known for given text, and the student's at writing only where it took part."""
    for i, term in enumerate(entry.objective):
        if not isinstance(term, PolicyGradientTerm) or any(isinstance(gate, AuthorGate) and gate.wrote == "student" for gate in term.gates):
            continue
        stream = entry.rollouts[term.on]
        given, absent = _holds_given_text(stream), not _student_takes_part(stream)
        for ratio in term.ratio:
            reads = ratio.reads
            if "behaviour" in reads and given:
                yield (
                    f"objective[{i}]: ratio {ratio.kind} divides by the writer's probability, which is unknown for the given texts of rollouts.{term.on}; "  # type: ignore[attr-defined]
                    "use ratio shaped (behaviour: one), or a gate author: student"
                )
            elif "student" in reads and absent:
                yield (
                    f"objective[{i}]: ratio {ratio.kind} reads the student's probability at writing, but it did not take part in all of rollouts.{term.on}; "  # type: ignore[attr-defined]
                    "use ratio importance, or a gate author: student"
                )
        if given and any("behaviour" in own.resolved_reward(entry.rewards).scorers() for own in term.advantages()):
            yield f"objective[{i}]: the reward reads 'behaviour', unknown for the given texts of rollouts.{term.on}; use student, or another stream"


def pairs_of_streams(entry: MethodEntry) -> Messages:
    """A preference compares answers one to one."""
    for i, term in enumerate(entry.objective):
        if not isinstance(term, LogProbLossTerm):
            continue
        chosen, rejected = entry.rollouts[term.chosen], entry.rollouts[term.rejected]
        if term.chosen == term.rejected:
            yield f"objective[{i}]: chosen and rejected are both '{term.chosen}', so every preference is 0; name two streams"
        elif (chosen.group, chosen.share) != (rejected.group, rejected.share):
            yield f"objective[{i}]: '{term.chosen}' and '{term.rejected}' are compared one to one; give rollouts.{term.rejected} the same group and share"


def _holds_given_text(stream: Stream) -> bool:
    if isinstance(stream, Continued) and stream.supervise == "continuation":
        return False
    streams = [part for part in walk(stream) if isinstance(part, Stream)]
    return any(isinstance(s, Dataset | Corpus | Edited) or (isinstance(s, Mixture) and {"dataset", "corpus"}.intersection(s.names)) for s in streams)


def _student_takes_part(stream: Stream) -> bool:
    if stream.context is not None or "student" not in stream.reads or _holds_given_text(stream):
        return False
    if isinstance(stream, Continued):
        return stream.by == "student" and (stream.supervise == "continuation" or _student_takes_part(stream.of))  # type: ignore[attr-defined]
    return len(stream.reads) == 1 or getattr(stream, "per", "token") == "token"


NAMES = (reward_parts, drawn_names)
RULES = (
    ignored_shaping, ignored_gate, ignored_ratio, sequence_rewards, drawn_prompts, group_statistics, behaviour_distribution, unknown_probabilities,
    pairs_of_streams,
)  # fmt: skip
