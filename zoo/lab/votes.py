"""Supports that are voted on, in a world: every state votes as often as the initial student comes there."""

from __future__ import annotations

import torch

from zoo.components.rollouts import Student
from zoo.components.supports import Voted
from zoo.components.terms.direct import DivergenceTerm
from zoo.entry import MethodEntry
from zoo.lab.doubles import INITIAL, Tables
from zoo.lab.laws import Exempt
from zoo.lab.streams import law_of
from zoo.lab.world import World


def with_votes(entry: MethodEntry, world: World) -> MethodEntry:
    """The entry with the chosen tokens in the place of every such support."""
    found = []
    for term in entry.objective:
        if isinstance(term, DivergenceTerm) and isinstance(term.support, Voted):
            support, tables = term.support, Tables(world, world.table(INITIAL), entry)
            names = (term.teacher, support.base)
            if any(name in entry.teachers and entry.teachers[name].target is not None for name in names):
                raise Exempt("support.voted: no double of a vote on transformed teachers")
            visits_S1 = torch.from_numpy(law_of(Student(), tables).visits(len(world.states)))[:, None]
            q_SV, b_SV = (tables.logits(name).detach().log_softmax(-1) for name in names)
            term = term.elected((visits_S1 * support.votes(q_SV, b_SV)).sum(0))
        found.append(term)
    return entry if all(a is b for a, b in zip(found, entry.objective, strict=True)) else entry.model_copy(update={"objective": tuple(found)})
