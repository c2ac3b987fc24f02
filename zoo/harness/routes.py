"""Which teacher serves which sequence, where a scorer is one of several by a field of the prompt."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.components.targets import with_inputs
from zoo.components.teachers import Composite, External, Route
from zoo.entry import MethodEntry
from zoo.tensors import Rollout


@dataclass(frozen=True)
class Routes:
    """`mixes` are the scorers made of others; `partial` are teachers that only routes read, with those routes: they score no other rows."""

    mixes: dict[str, Composite]
    partial: dict[str, tuple[Route, ...]]

    def rows(self, scorer: str, rollout: Rollout) -> set[int]:
        """The sequences that a scorer is asked about."""
        routes = self.partial.get(scorer)
        return {i for i, p in enumerate(rollout.prompts) if routes is None or any(route.chosen(p.fields) == scorer for route in routes)}

    def index_N(self, scorer: str, rollout: Rollout) -> Tensor:
        """For each supervised token, the place of its teacher among the members of a scorer; 0 where all of them speak."""
        mix = self.mixes[scorer]
        place = [mix.members.index(mix.chosen(p.fields)) if isinstance(mix, Route) else 0 for p in rollout.prompts]
        return torch.tensor(place, device=rollout.mask_BT.device)[rollout.mask_BT.nonzero()[:, 0]]


def with_specialists(entry: MethodEntry, models: Collection[str]) -> MethodEntry:
    """The entry with the specialists of a pair that has these models: under each route that asks for them, the models that no teacher of the entry
    names, each for the value that it is called by."""
    wanting = {name: t for name, t in entry.teachers.items() if isinstance(t, Route) and t.specialists}
    named = {teacher.model for teacher in entry.teachers.values() if isinstance(teacher, External)}
    added = {model: f"specialist_{model}" for model in models if model not in named}
    if not wanting or not added:
        return entry
    routes = {name: route.model_copy(update={"of": {**route.of, **added}}) for name, route in wanting.items()}
    specialists = {name: External(model=model) for model, name in added.items()}
    return entry.model_copy(update={"teachers": {**entry.teachers, **specialists, **routes}})


def routes_of(entry: MethodEntry) -> Routes:
    """The scorers of an entry that are made of others."""
    mixes = {name: teacher for name, teacher in entry.teachers.items() if isinstance(teacher, Composite)}
    routes = {name: mix for name, mix in mixes.items() if isinstance(mix, Route)}
    named = {scorer for term in entry.objective for scorer in term.scorers(entry.rewards)}
    # What is read as a whole: named by a term, read by a target, or a member of an ensemble.
    whole = set(named)
    for name in with_inputs(named, entry.teachers):
        teacher = entry.teachers.get(name)
        whole.update(teacher.target.reads if teacher is not None and teacher.target is not None else ())
        whole.update(teacher.members if teacher is not None and name not in routes else ())
    members = {member for route in routes.values() for member in route.members} - whole
    return Routes(mixes, {member: tuple(route for route in routes.values() if member in route.members) for member in members})
