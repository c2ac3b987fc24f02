"""Compatibility rules about teachers with another tokenizer; `zoo.compat` runs them.

An alignment by spans says how probable the student's text is to the teacher, and compares laws on common columns; only one that carries the
teacher's law over to the student's vocabulary can stand wherever a law is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from zoo.components.alignments import Alignment, BytePrefix, Event, TextAlignment, Units, WholeResponse
from zoo.components.gates.plain import AgreementGate
from zoo.components.learners import Bridge, ByteHeads, CrossAttention, DualProjector
from zoo.components.routings import Spread
from zoo.components.supports import Full
from zoo.components.teachers import ByteLabels, ByteLaw, Carried, External, Projected
from zoo.components.terms.direct import DivergenceTerm
from zoo.components.terms.policy_gradient import PolicyGradientTerm
from zoo.errors import suggest
from zoo.statistics import LogProb

if TYPE_CHECKING:
    from zoo.entry import MethodEntry

Messages = Iterator[str]


def aligned(entry: MethodEntry) -> dict[str, Alignment]:
    """Alignments by teacher name."""
    return {name: t.alignment for name, t in entry.teachers.items() if isinstance(t, External) and t.alignment is not None}


def carried(entry: MethodEntry) -> dict[str, Alignment]:
    """Those that give no law over the student's vocabulary."""
    return {name: alignment for name, alignment in aligned(entry).items() if not alignment.law}


def columns_needed(entry: MethodEntry) -> Messages:
    """A divergence compares laws on common columns."""
    for i, term in enumerate(entry.objective):
        if not isinstance(term, DivergenceTerm) or (alignment := carried(entry).get(term.teacher)) is None:
            continue
        where, kind = f"objective[{i}]: teachers.{term.teacher}", _kind(alignment)
        if alignment.columns is None:
            yield f"{where} has alignment {kind} without columns, so no entries of the two vocabularies meet; add columns, or read it in a reward"
        if not isinstance(term.support, Full):
            yield f"{where} is compared on the columns of its alignment, so support {_kind(term.support)} has nothing to choose from; drop support"
        if term.divergence.whole or term.divergence.sampled_only:
            yield f"{where} is compared on the columns of its alignment; {_kind(term.divergence)} needs the whole vocabulary or the written token"
        if term.temperature_by is not None:
            yield f"{where} is compared span by span, so a temperature for each token has no place; drop temperature_by"


def whole_sequences(entry: MethodEntry) -> Messages:
    """Transport between positions needs all of them at once."""
    for i, term in enumerate(entry.objective):
        if isinstance(term, DivergenceTerm) and term.divergence.positions:
            alignment = carried(entry).get(term.teacher)
            if alignment is None or not alignment.sequences:
                yield (
                    f"objective[{i}]: {_kind(term.divergence)} compares positions of a sequence; give teachers.{term.teacher} an alignment whose columns read "
                    "whole sequences, such as joint_rank"
                )


def same_text(entry: MethodEntry) -> Messages:
    """What is paired by place or by cost is not the same text."""
    for name, alignment in aligned(entry).items():
        if alignment.written:
            continue
        if isinstance(alignment.columns, Units | Event):
            kind = _kind(alignment.columns)
            yield f"teachers.{name}.alignment {_kind(alignment)} pairs unlike texts, which columns {kind} take for one; use byte_spans or running_text"
        for i, term in enumerate(entry.objective):
            if LogProb(name) in term.statistics(entry.rewards):
                yield f"objective[{i}] reads log-probabilities of '{name}', but alignment {_kind(alignment)} pairs tokens of unlike texts; use byte_spans"


def no_law(entry: MethodEntry) -> Messages:
    """Spans cannot feed what reads a law over the student's vocabulary."""
    spans = carried(entry)
    for i, term in enumerate(entry.objective):
        read = {s: name for s in term.statistics(entry.rewards) if not isinstance(s, LogProb) for name in s.scorers if name in spans}
        for statistic, name in read.items():
            yield f"objective[{i}]: {type(statistic).__name__} reads the law of '{name}' over the student's vocabulary, {_remedy(spans[name])}"
        if isinstance(term, PolicyGradientTerm) and isinstance(term.routing, Spread):
            yield from (
                f"objective[{i}]: routing {_kind(term.routing)} reads the law of '{name}' over the student's vocabulary, {_remedy(spans[name])}"
                for name in term.scorers(entry.rewards)
                if name in spans
            )
    for name, teacher in entry.teachers.items():
        if name in spans and teacher.target is not None:
            yield f"teachers.{name}.target transforms a law over the student's vocabulary, {_remedy(spans[name])}"
        others = (*(() if teacher.carried else teacher.members), *(teacher.target.reads if teacher.target is not None else ()))
        for other in others:
            if other in spans:
                yield f"teachers.{name} is made of the law of '{other}' over the student's vocabulary, {_remedy(spans[other])}"


def closed_teachers(entry: MethodEntry) -> Messages:
    """Texts alone need no alignment."""
    for name in aligned(entry):
        teacher = entry.teachers[name]
        if isinstance(teacher, External) and teacher.access == "black_box":
            yield f"teachers.{name} gives texts only, which need no alignment; drop alignment, or set access: white_box"


def pair_tokenizers(entry: MethodEntry, same_vocabulary: bool) -> Messages:
    """What a pair with two tokenizers lacks for an entry."""
    for name, teacher in entry.teachers.items():
        if same_vocabulary or not isinstance(teacher, External):
            continue
        if teacher.access == "white_box" and teacher.alignment is None:
            yield (
                f"teachers.{name}: student and teacher have different vocabularies, so an alignment is needed; set teachers.{name}.alignment, or "
                "choose a pair with one tokenizer"
            )
        for stream, spec in entry.rollouts.items():
            if name in spec.reads and teacher.access == "white_box":
                yield f"rollouts.{stream} is written by '{name}' in tokens that the student does not have; use author: dataset, or a pair with one tokenizer"


def projected(entry: MethodEntry) -> dict[str, Projected]:
    """Teachers that a learner carries over, by name."""
    return {name: teacher for name, teacher in entry.teachers.items() if isinstance(teacher, Projected)}


def carriers(entry: MethodEntry) -> Messages:
    """A carried teacher is another model's states, or given text, through a learner that can carry them."""
    for name, teacher in entry.teachers.items():
        if not isinstance(teacher, Carried):
            continue
        wanted, kind = (Bridge, "dual_projector") if isinstance(teacher, Projected) else (ByteHeads, "byte_heads")
        if not isinstance(entry.learners.get(teacher.learner), wanted):
            yield (
                f"teachers.{name}: '{teacher.learner}' is no learner that carries states for kind {_kind(teacher)}{suggest(teacher.learner, entry.learners)}; "
                f"declare it: learners: {{{teacher.learner}: {{kind: {kind}}}}}"
            )
        if isinstance(teacher, ByteLabels):
            continue
        assert isinstance(teacher, Projected | ByteLaw)
        other = entry.teachers.get(teacher.of)
        if not isinstance(other, External) or other.access == "black_box":
            yield f"teachers.{name} carries the hidden states of '{teacher.of}', which is no other model with open weights; name an external white-box teacher"
    for i, term in enumerate(entry.objective):
        for _, part in term.parts():
            if isinstance(part, AgreementGate) and not isinstance(entry.teachers.get(part.of), Projected):
                yield f"objective[{i}]: gate agreement compares a projected teacher with itself; name one with kind: projected, not '{part.of}'"


def carried_pairs(entry: MethodEntry) -> Messages:
    """What each kind of carrier can pair, and what a comparison in the teacher's space can be."""
    for name, teacher in projected(entry).items():
        other, learner = entry.teachers[teacher.of], entry.learners[teacher.learner]
        alignment = getattr(other, "alignment", None)
        if isinstance(learner, CrossAttention) and not isinstance(alignment, WholeResponse):
            yield f"teachers.{name}: cross_attention reads whole responses; set teachers.{teacher.of}.alignment: whole_response"
        if isinstance(learner, DualProjector) and alignment is not None and not (isinstance(alignment, TextAlignment) and alignment.only == "single"):
            yield (
                f"teachers.{name}: dual_projector pairs single tokens; set teachers.{teacher.of}.alignment to byte_spans or running_text with only: single, or "
                "to none where both have one tokenizer"
            )
    for name, other in entry.teachers.items():
        if isinstance(other, ByteLaw) and not isinstance(getattr(entry.teachers[other.of], "alignment", None), BytePrefix):
            yield f"teachers.{name}: a law over bytes is read behind a token's beginning; set teachers.{other.of}.alignment: byte_prefix"


def apart(entry: MethodEntry) -> Messages:
    """What meets the student outside its vocabulary is for a plain divergence alone."""
    for name, teacher in entry.teachers.items():
        if not teacher.carried or getattr(teacher, "space", "teacher") == "student":
            continue
        for i, term in enumerate(entry.objective):
            if any(name in statistic.scorers for statistic in term.statistics(entry.rewards)):
                yield f"objective[{i}] reads the law of '{name}' over the student's vocabulary, and it meets the student in its own; set space: student"
            if name not in term.update_scorers():
                continue
            if not isinstance(term, DivergenceTerm) or not isinstance(term.support, Full) or term.divergence.whole or term.divergence.sampled_only:
                yield f"objective[{i}]: '{name}' is compared over the teacher's vocabulary, which a plain divergence with support: full can do"
            elif isinstance(teacher, ByteLaw | ByteLabels) and term.temperature != 1.0:
                yield f"objective[{i}]: byte heads have laws of their own, which no temperature bends; drop temperature"
            elif term.temperature_by is not None or term.divergence.positions:
                yield f"objective[{i}]: '{name}' is compared position by position at one temperature; drop temperature_by, or choose another divergence"
        if teacher.target is not None:
            yield f"teachers.{name}.target transforms a law over the student's vocabulary, and it meets the student in its own; drop target"


def attended(entry: MethodEntry) -> Messages:
    """Whole responses are for attention, bytes for byte heads."""
    read = {teacher.of for teacher in projected(entry).values()}
    spelled = {teacher.of for teacher in entry.teachers.values() if isinstance(teacher, ByteLaw)}
    for name, alignment in aligned(entry).items():
        if isinstance(alignment, BytePrefix) and name not in spelled:
            yield f"teachers.{name}.alignment byte_prefix gives laws over bytes; read them through a teacher of kind byte_law"
        if isinstance(alignment, WholeResponse) and name not in read:
            yield f"teachers.{name}.alignment whole_response pairs everything with everything; read it through a teacher of kind projected"


def _remedy(alignment: Alignment) -> str:
    return f"which alignment {_kind(alignment)} does not give; use prefix_cover, or a divergence on columns"


def _kind(component: Any) -> str:
    return str(component.kind)


NAMES = (carriers,)
RULES = (columns_needed, whole_sequences, same_text, no_law, closed_teachers, carried_pairs, apart, attended)
