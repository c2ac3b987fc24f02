"""Compatibility rules about dialogues: parts that read turns need an environment, and the pair must have what it says.

Each is a function from an entry to messages, like those of `zoo.compat`, which runs them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from zoo.components.base import walk
from zoo.components.credits import Credit
from zoo.components.environments import Environment, SimulatedUser, Tool
from zoo.components.gates.turns import RoleGate, TurnGate
from zoo.components.reduces import TurnMean
from zoo.components.rollouts import Branch, Edited, Prefix, Replay, Stream
from zoo.components.targets import with_inputs
from zoo.context_rules import parts_of
from zoo.coordinates import RESERVED
from zoo.errors import suggest

if TYPE_CHECKING:
    from zoo.entry import MethodEntry

Messages = Iterator[str]
REMEDY = "give the stream an environment with turns"


def dialogue(entry: MethodEntry, name: str) -> Environment | None:
    """The environment that answers a stream, or the one that it goes on from."""
    stream = entry.rollouts[name]
    if stream.environment is None and isinstance(stream, Branch) and stream.of in entry.rollouts:
        stream = entry.rollouts[stream.of]
    return stream.environment


def turns_need_an_environment(entry: MethodEntry) -> Messages:
    """Gates, weights, rewards, credits and means of turns, on a stream that nobody answers."""
    for i, term in enumerate(entry.objective):
        alone = [name for name in term.streams() if dialogue(entry, name) is None]
        if not alone:
            continue
        where = f"rollouts.{alone[0]} has no turns; {REMEDY}"
        for part in (part for _, part in term.parts()):
            if isinstance(part, RoleGate | TurnGate) or "turn" in (getattr(part, "scope", None), getattr(part, "among", None)):
                yield f"objective[{i}]: {part.kind} reads turns or roles, but {where}"  # type: ignore[attr-defined]
        if isinstance(getattr(term, "reduce", None), TurnMean):
            yield f"objective[{i}]: reduce turn_mean is sequence_mean where rollouts.{alone[0]} has no turns; write that, or {REMEDY}"
        for credit in (part for part in walk(term) if isinstance(part, Credit)):
            if getattr(credit, "per", "token") == "turn":
                yield f"objective[{i}]: credit per: turn needs turns, but {where}"
        if any(getattr(entry.rewards[name], "per_turn", False) for name in term.reward_names()):
            yield f"objective[{i}]: a reward of turns needs turns, but {where}"


def turn_contexts(entry: MethodEntry) -> Messages:
    """Contexts of turns, and parts that show what an environment said."""
    for i, term in enumerate(entry.objective):
        for scorer in with_inputs(term.scorers(entry.rewards), entry.teachers):
            context = entry.teachers[scorer].context if scorer in entry.teachers else None
            for on in term.streams() if context is not None else ():
                assert context is not None
                told = [part for part in parts_of(context) if part.kind in ("observation", "history")]  # type: ignore[attr-defined]
                if context.per == "turn" and dialogue(entry, on) is None:
                    yield f"objective[{i}]: teachers.{scorer}.context is per: turn, but rollouts.{on} has no turns; {REMEDY}, or drop per"
                for part in told:
                    if entry.rollouts[part.stream or on].environment is None:
                        yield f"objective[{i}]: context {part.kind} shows what an environment said, but rollouts.{part.stream or on} has none; {REMEDY}"  # type: ignore[attr-defined]
    for name, stream in entry.rollouts.items():
        if any(context.per == "turn" for context in stream.contexts):
            yield f"rollouts.{name}: an author has one context for a whole dialogue; drop per, or give it to a scorer"
        for part in (part for context in stream.contexts for part in parts_of(context)):
            if part.kind in ("observation", "history") and part.stream in entry.rollouts and entry.rollouts[part.stream].environment is None:  # type: ignore[attr-defined]
                yield f"rollouts.{name}: context {part.kind} shows what an environment said, but rollouts.{part.stream} has none; {REMEDY}"  # type: ignore[attr-defined]


def whole_dialogues(entry: MethodEntry) -> Messages:
    """Streams that cut or replay texts do so to single answers; a branch may leave a dialogue at a turn."""
    for name, stream in entry.rollouts.items():
        inner = [part for part in walk(stream) if isinstance(part, Stream) and part is not stream]
        if isinstance(stream, Replay | Prefix) and any(part.environment is not None for part in inner):
            yield f"rollouts.{name}: author {stream.author} takes single answers; leave the environment out of it"
        if isinstance(stream, Prefix) and stream.unit == "turn":
            yield f"rollouts.{name}: a prefix is a part of one answer; set unit: share or tokens, or use a branch of a dialogue"
        if isinstance(stream, Edited) and stream.of in entry.rollouts and entry.rollouts[stream.of].environment is not None:
            yield f"rollouts.{name}: only single answers are edited, and rollouts.{stream.of} is a dialogue"
        if isinstance(stream, Branch) and stream.of in entry.rollouts and (entry.rollouts[stream.of].environment is not None) != (stream.unit == "turn"):
            remedy = "set unit: turn, so that it leaves at the beginning of a turn" if stream.unit != "turn" else "use another unit"
            yield f"rollouts.{name}: rollouts.{stream.of} is {'a dialogue' if stream.unit != 'turn' else 'no dialogue'}; {remedy}"


def speakers(entry: MethodEntry) -> Messages:
    """A simulated user is the pair's policy, the student, or a teacher."""
    for name, stream in entry.rollouts.items():
        by = stream.environment.speaker if stream.environment is not None else None
        if by is not None and by != "student" and (by in RESERVED or by not in entry.teachers):
            yield f"rollouts.{name}.environment: '{by}' is no teacher{suggest(by, [*entry.teachers, 'policy', 'student'])}"


def pair_turns(entry: MethodEntry, turns: Collection[str] | None, task: Any, checks: Collection[str] | None) -> Messages:
    """What a pair lacks for an entry's environments: templates and marks, tools, a user, checks."""
    for name, stream in entry.rollouts.items():
        environment, where = stream.environment, f"rollouts.{name}.environment"
        if environment is None:
            continue
        for template in environment.templates():
            if turns is not None and template not in turns:
                yield f"{where} needs the turn template '{template}', which this pair lacks{suggest(template, turns)}; add it to the pair's turns"
        if task is None:
            continue
        tools = getattr(task, "tools", ())
        if isinstance(environment, Tool) and environment.tool not in tools:
            yield f"{where}.tool '{environment.tool}' is not among the task's tools{suggest(environment.tool, tools)}"
        if isinstance(environment, SimulatedUser) and environment.speaker is None and not hasattr(task, "user"):
            yield f"{where}: the task has no simulated user; set by to a model of the pair"
        if getattr(environment, "shards", None) is not None and not hasattr(task, "shards"):
            yield f"{where}: the task does not cut its prompts into shards; use say, or another pair"
        for check in (getattr(environment, "until", None), getattr(environment, "check", None)):
            if check is not None and checks is not None and check not in checks:
                yield f"{where}: check '{check}' is not among the task's checks{suggest(check, checks)}"


RULES = (turns_need_an_environment, turn_contexts, whole_dialogues)
NAMES = (speakers,)
