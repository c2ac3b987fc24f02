"""The learners of an entry that carry hidden states between the student and a teacher, and what they see of a chunk of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.components.alignments import Pairing
from zoo.components.learners import CrossAttention, DualProjector
from zoo.components.teachers import Projected
from zoo.entry import MethodEntry
from zoo.errors import ZooError
from zoo.harness.bank import Bank
from zoo.harness.dual import Attention, Carrier, Crossing, Dual
from zoo.harness.parts import Part


def crossings_of(
    entry: MethodEntry, bank: Bank, token_N: Tensor, hidden: Mapping[str, Any], pairings: Mapping[str, Pairing]
) -> dict[str, tuple[Crossing, str]]:
    """The projected teachers of a chunk by name, each with the space in which it meets the student; those of one learner share a crossing."""
    made: dict[tuple[str, str], Crossing] = {}
    found: dict[str, tuple[Crossing, str]] = {}
    for name, teacher in entry.teachers.items():
        if not isinstance(teacher, Projected) or name not in hidden:
            continue
        key = (teacher.learner, teacher.of)
        if key not in made:
            # Where the student's states are not asked for, what needs them is not either.
            own_NH = hidden.get("student", token_N.new_zeros(len(token_N), 0))
            made[key] = Crossing(bank.projectors[teacher.learner], token_N, own_NH, hidden[teacher.of], pairings.get(teacher.of))
        found[name] = (made[key], teacher.space)
    return found


def fits(crossings: Mapping[str, tuple[Crossing, str]]) -> Tensor | float:
    """The bridges' own losses on a chunk, each once."""
    own = dict.fromkeys(crossing for crossing, _ in crossings.values())
    return sum((crossing.fit() for crossing in own), start=0.0)  # type: ignore[arg-type]


def make_carriers(entry: MethodEntry, bank: Bank, axes: tuple[str | int, ...]) -> dict[str, Part]:
    """The learners of an entry that carry states, registered with the bank.

    Raises:
        ZooError: one serves two teachers.
    """
    found: dict[str, Carrier] = {}
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
