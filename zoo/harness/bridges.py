"""The learners of an entry that carry hidden states between the student and a teacher, and what they see of a chunk of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.components.alignments import Pairing
from zoo.components.learners import ByteHeads, CrossAttention, DualProjector
from zoo.components.teachers import ByteLabels, ByteLaw, Projected
from zoo.entry import MethodEntry
from zoo.errors import ZooError
from zoo.harness.bank import Bank
from zoo.harness.dual import Attention, Crossing, Dual
from zoo.harness.parts import Part
from zoo.harness.spelling import Heads, Spelling


def crossings_of(entry: MethodEntry, bank: Bank, token_N: Tensor, hidden: Mapping[str, Any], pairings: Mapping[str, Pairing]) -> dict[str, tuple[Any, str]]:
    """The carried teachers of a chunk by name, each with the space in which it meets the student; those of one learner share a crossing."""
    made: dict[tuple[str, str], Crossing] = {}
    found: dict[str, tuple[Any, str]] = {}
    # Where the student's states are not asked for, what needs them is not either.
    own_NH = hidden.get("student", token_N.new_zeros(len(token_N), 0))
    for name, teacher in entry.teachers.items():
        if isinstance(teacher, ByteLaw | ByteLabels) and name in hidden:
            found[name] = (_spelling(bank, teacher, token_N, own_NH, hidden, pairings), "teacher")
        if not isinstance(teacher, Projected) or name not in hidden:
            continue
        key = (teacher.learner, teacher.of)
        if key not in made:
            made[key] = Crossing(bank.projectors[teacher.learner], token_N, own_NH, hidden[teacher.of], pairings.get(teacher.of))
        found[name] = (made[key], teacher.space)
    return found


def _spelling(
    bank: Bank, teacher: ByteLaw | ByteLabels, token_N: Tensor, own_NH: Tensor, hidden: Mapping[str, Any], pairings: Mapping[str, Pairing]
) -> Spelling:
    """A chunk's tokens as bytes, beside a teacher's law or alone."""
    known = bank.spelled
    states_NH = own_NH[:, : bank.width("student")] if own_NH.shape[1] else own_NH
    shown = (bank.projectors[teacher.learner], token_N, states_NH if states_NH.dtype == torch.float64 else states_NH.float(), known.pieces, known.stop)
    if isinstance(teacher, ByteLabels):
        return Spelling(*shown)
    with bank.precision(), torch.no_grad():
        logits_MW = bank.head(teacher.of)(hidden[teacher.of][:, : bank.width(teacher.of)])[:, : len(pairings[teacher.of].vocabularies.teacher)]
    return Spelling(*shown, pairings[teacher.of], logits_MW if logits_MW.dtype == torch.float64 else logits_MW.float())


def fits(crossings: Mapping[str, tuple[Any, str]]) -> Tensor | float:
    """The bridges' own losses on a chunk, each once."""
    own = dict.fromkeys(crossing for crossing, _ in crossings.values())
    return sum((crossing.fit() for crossing in own), start=0.0)  # type: ignore[arg-type]


def make_carriers(entry: MethodEntry, bank: Bank, axes: tuple[str | int, ...]) -> dict[str, Part]:
    """The learners of an entry that carry states, registered with the bank.

    Raises:
        ZooError: one serves two teachers.
    """
    student = bank.models["student"].get_output_embeddings().weight
    heads = {name: Heads(spec, student.shape[1], _at_least_single(student)) for name, spec in entry.learners.items() if isinstance(spec, ByteHeads)}
    found: dict[str, Part] = dict(heads)
    served: dict[str, str] = {}
    for teacher in entry.teachers.values():
        if not isinstance(teacher, Projected):
            continue
        if served.setdefault(teacher.learner, teacher.of) != teacher.of:
            raise ZooError(
                f"learners.{teacher.learner} carries the states of '{served[teacher.learner]}' and of '{teacher.of}'; give each a learner of its own"
            )
        if teacher.learner in found:
            continue
        spec, key = entry.learners[teacher.learner], bank.keys[teacher.of]
        models = bank.models["student"], bank.models[key.weights]
        known = None if key.alignment is None else bank.vocabularies(teacher.of)
        sizes = (bank.pair.vocab_size, bank.pair.vocab_size if known is None else len(known.teacher))
        if isinstance(spec, DualProjector):
            ids = torch.arange(sizes[0])
            found[teacher.learner] = Dual(spec, *models, (ids, ids) if known is None else known.shared, sizes)
        else:
            assert isinstance(spec, CrossAttention)
            found[teacher.learner] = Attention(spec, *models, sizes, (*axes, "cross_attention", teacher.learner))
    bank.projectors.update(found)
    return {f"carrier:{name}": carrier for name, carrier in found.items()}


def _at_least_single(value: Tensor) -> Tensor:
    return value.detach() if value.dtype == torch.float64 else value.detach().float()
