"""Compatibility rules about what models are run for beside the streams: columns about other texts than the written one, and votes.

Each is a function from an entry to messages, like those of `zoo.compat`, which runs them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from zoo.components.base import walk
from zoo.components.gates import ContinuationMatch, Gate, Remembering
from zoo.components.rewards import Lookahead
from zoo.components.supports import Voted
from zoo.components.teachers import External, LearnedTeacher, SelfTeacher
from zoo.components.terms.direct import DivergenceTerm
from zoo.components.weights import ContinuationSupport

if TYPE_CHECKING:
    from zoo.entry import MethodEntry

Messages = Iterator[str]


Exploring = Lookahead | ContinuationMatch | ContinuationSupport


def explorers(entry: MethodEntry) -> Iterator[tuple[str, str, Exploring]]:
    """Every such part, with where it stands and the stream that it reads."""
    for i, term in enumerate(entry.objective):
        named = [entry.rewards[name] for name in term.reward_names() if name in entry.rewards]
        sides = {"keep_chosen": "chosen", "keep_rejected": "rejected"}
        for name in type(term).model_fields:
            stream = getattr(term, sides[name]) if name in sides else term.on
            for part in walk(getattr(term, name)):
                if isinstance(part, Exploring):
                    yield f"objective[{i}]", stream, part
        yield from ((f"objective[{i}]", term.on, part) for reward in named for part in walk(reward) if isinstance(part, Lookahead))


def plain_models(entry: MethodEntry) -> Messages:
    """Whom such a part asks is one model, with the student's tokenizer, read as it is."""
    for where, stream, part in explorers(entry):
        start, teacher = f"{where}: {_slot(part)} {part.kind}", entry.teachers.get(part.teacher)
        if part.teacher == "behaviour" or (teacher is not None and not isinstance(teacher, External | SelfTeacher | LearnedTeacher)):
            yield f"{start} runs '{part.teacher}' further, which is no single model; name an external model, a learner or the student's lineage"
        elif teacher is not None and teacher.target is not None:
            yield f"{start} reads '{part.teacher}' as it is, without its target; drop the target, or name a teacher without one"
        elif getattr(teacher, "alignment", None) is not None:
            yield f"{start} puts the student's tokens to '{part.teacher}', which has another tokenizer; name a teacher without an alignment"
        elif teacher is not None and teacher.context is not None and teacher.context.per == "turn":
            yield f"{start} reads whole texts, and '{part.teacher}' reads turn by turn; set per: sequence"
        if entry.rollouts[stream].environment is not None:
            yield f"{start} goes on from states of a text, and rollouts.{stream} is a dialogue, in which an environment answers; drop the environment"


def measured_gates(entry: MethodEntry) -> Messages:
    """The gate inside is asked before anything is known but probabilities and the text."""
    for where, _, part in explorers(entry):
        for inner in walk(part.within):
            if not isinstance(inner, Gate):
                continue
            if inner.outcome or inner.reads_advantage or hasattr(inner, "name") or isinstance(inner, Remembering | ContinuationMatch):
                yield f"{where}: gate {_kind(inner)} can't choose the tokens of {_slot(part)} {part.kind}; use one that compares a measure of the token"


def behind_itself(entry: MethodEntry) -> Messages:
    """Two models that are one go the same way."""
    for where, _, part in explorers(entry):
        if isinstance(part, ContinuationMatch) and part.teacher == "student":
            yield f"{where}: gate continuation_match compares the student's future with its own, which is no distance; name another teacher"


def votes(entry: MethodEntry) -> Messages:
    """A vote is on two laws over the student's vocabulary, before anything is written."""
    for i, term in enumerate(entry.objective):
        if not isinstance(term, DivergenceTerm) or not isinstance(term.support, Voted):
            continue
        for name in (term.teacher, term.support.base):
            teacher = entry.teachers.get(name)
            if name == "behaviour":
                yield f"objective[{i}]: support voted compares two scorers, and 'behaviour' has no law; use base: reference"
            elif getattr(teacher, "alignment", None) is not None:
                yield f"objective[{i}]: support voted is on the student's vocabulary, and '{name}' has another tokenizer; name a teacher without an alignment"
            elif teacher is not None and teacher.context is not None and teacher.context.made:
                yield f"objective[{i}]: support voted is chosen before anything is written, and '{name}' is shown made parts; show it fields alone"
        if term.support.base == term.teacher:
            yield f"objective[{i}]: support voted compares '{term.teacher}' with itself; set base to another scorer, such as reference"


def _slot(part: Exploring) -> str:
    return "gate" if isinstance(part, Gate) else "weight" if isinstance(part, ContinuationSupport) else "reward"


def _kind(component: Any) -> str:
    return str(component.kind)


RULES = (plain_models, measured_gates, behind_itself, votes)
