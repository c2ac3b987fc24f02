"""Hidden states of chosen layers: which ones each model gives, and the learned maps between models of unequal width.

States travel as columns behind those of the last layer, so that everything that picks rows of them need not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from zoo.components.learners import CrossAttention, Projector
from zoo.components.teachers import Projected
from zoo.components.terms.representation import RepresentationTerm
from zoo.entry import MethodEntry
from zoo.errors import ZooError
from zoo.harness.parts import Part, load_optimizer_tensors, optimizer_tensors
from zoo.seeds import seed_for


def chosen(layers: str, depth: int) -> list[int]:
    """Numbers of the chosen blocks of a model, from 1 to its depth."""
    first, step = {"all": (1, 1), "odd": (1, 2), "even": (2, 2), "last": (depth, 1)}[layers]
    return list(range(first, depth + 1, step))


@dataclass(frozen=True)
class Layers:
    """Which blocks' states are read: `union` the student's, in order, `wanted` by weights those of each model (others at like depth)."""

    depth: int = 0
    union: tuple[int, ...] = ()
    wanted: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def split(self, states_NH: Tensor, layers: str, width: int) -> list[Tensor]:
        """The states (N, width) of the chosen layers, out of all columns."""
        places = [self.union.index(number) + 1 for number in chosen(layers, self.depth)]
        return [states_NH[:, place * width : (place + 1) * width] for place in places]


def layers_of(entry: MethodEntry, models: Mapping[str, Any], weights: Mapping[str, str]) -> Layers:
    """What the representation terms of an entry read; `weights` gives the models' keys by scorer name.

    Raises:
        ZooError: student and teacher differ in width and no projector is named.
    """
    terms = [term for term in entry.objective if isinstance(term, RepresentationTerm)]
    attended = [t.of for t in entry.teachers.values() if isinstance(t, Projected) and isinstance(entry.learners.get(t.learner), CrossAttention)]
    if not terms and not attended:
        return Layers()
    depth, width = models["student"].config.num_hidden_layers, models["student"].config.hidden_size
    # In front of the first block, as layer 0, stand the embeddings of the tokens read.
    inputs = (0,) if attended else ()
    union = tuple(sorted({*inputs, *(number for term in terms for number in chosen(term.layers, depth))}))
    wanted = {"student": union, **{weights[name]: inputs for name in attended}}
    for term in terms:
        model = models[weights[term.teacher]]
        wanted[weights[term.teacher]] = tuple(max(min(number, 1), round(number * model.config.num_hidden_layers / depth)) for number in union)
        if model.config.hidden_size != width and term.projector is None:
            raise ZooError(
                f"method '{entry.id}': the student's states are {width} wide and those of '{term.teacher}' {model.config.hidden_size}; "
                "name a projector in the term and declare it: learners: {bridge: {kind: projector}}"
            )
    return Layers(depth, union, wanted)


class Projection(Part):
    """Linear maps of the student's states to a teacher's width, one for each layer, with an optimizer of their own."""

    def __init__(self, maps: list[nn.Parameter], learning_rate: float) -> None:
        self.maps = maps
        self.optimizer = torch.optim.AdamW(maps, lr=learning_rate, weight_decay=0.0)

    def __call__(self, states_NH: Tensor, place: int) -> Tensor:
        """States in the teacher's space, of the layer at this place."""
        return states_NH @ self.maps[place]

    def parameters(self) -> list[nn.Parameter]:
        return self.maps

    def after_step(self, metrics: Mapping[str, float]) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        return {**{f"map.{i}": m.detach() for i, m in enumerate(self.maps)}, **optimizer_tensors(self.optimizer)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for i, m in enumerate(self.maps):
            m.copy_(state[f"map.{i}"])
        load_optimizer_tensors(self.optimizer, state)


def make_projectors(entry: MethodEntry, models: Mapping[str, Any], weights: Mapping[str, str], axes: tuple[str | int, ...]) -> dict[str, Projection]:
    """The projectors that an entry's representation terms name, at seeded normal values of variance 1 / width."""
    found = {}
    for term in entry.objective:
        if not isinstance(term, RepresentationTerm) or term.projector is None or term.projector in found:
            continue
        spec, student = entry.learners[term.projector], models["student"]
        assert isinstance(spec, Projector)
        wide, narrow = models[weights[term.teacher]].config.hidden_size, student.config.hidden_size
        generator = torch.Generator().manual_seed(seed_for(*axes, "projector", term.projector))
        count = len(chosen(term.layers, student.config.num_hidden_layers))
        drawn = [torch.randn(narrow, wide, generator=generator, dtype=torch.float64) / narrow**0.5 for _ in range(count)]
        found[term.projector] = Projection([nn.Parameter(m.to(student.device, next(student.parameters()).dtype)) for m in drawn], spec.learning_rate)
    return found
