"""The taxonomy as a matrix: how many methods stand in each cell, and which empty cells are open.

A cell is open where a minimal entry can be composed that no compatibility rule refuses and whose derived coordinates are the cell's:
nobody in the registry has published it, and nothing forbids it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from typing import Any, get_args

from pydantic import ValidationError

from zoo.compat import problems
from zoo.components.base import Component, Slot, kinds
from zoo.coordinates import Access, Estimator, Granularity, Routing, Signal, derive_coordinates, derive_tuples
from zoo.entry import MethodEntry
from zoo.entry.totals import counts_as

AXES: dict[str, tuple[str, ...]] = {
    "signal": get_args(Signal), "access": get_args(Access), "granularity": get_args(Granularity), "estimator": get_args(Estimator),
    "routing": get_args(Routing),
}  # fmt: skip
Place = Mapping[str, str]
# What a required field of a kind gets where a minimal entry is composed.
USUAL: dict[str, Any] = {
    "k": 4, "top_p": 0.9, "gamma": 0.5, "lambda": 0.9, "mass": "tail_bucket", "at": 0.2, "ids": (0, 1), "first": 2,
    "teacher": "teacher", "name": "correct", "of": "teacher",
}  # fmt: skip
ALSO: dict[str, tuple[str, ...]] = {"fixed_set": ("first",)}  # kinds that need one of several optional fields
TEACHERS: dict[str, dict[str, Any]] = {
    "external": {"kind": "external"},
    "external, texts only": {"kind": "external", "access": "black_box"},
    "self with a context": {"kind": "student", "context": {"fields": ("solution",), "template": "solution"}},
}


@dataclass
class Cell:
    """One combination: the methods there, and, where there are none, a composition that is legal or why those tried are refused."""

    methods: list[str] = field(default_factory=list)
    composition: str | None = None
    refusal: str | None = None

    @property
    def state(self) -> str:
        """published, open, refused, or none where no term has both coordinates."""
        if self.methods:
            return "published"
        return "open" if self.composition else "refused" if self.refusal else "none"


@dataclass(frozen=True)
class Matrix:
    """Cells by (row, column); `tuples` is how many different whole tuples of coordinates the methods have."""

    rows: tuple[str, str]
    cells: Mapping[tuple[str, str], Cell]
    tuples: int

    def to_json(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        cells = [
            {"row": row, "column": column, "state": cell.state, "count": len(cell.methods), "methods": cell.methods, "composition": cell.composition,
             "refusal": None if cell.composition else cell.refusal}
            for (row, column), cell in self.cells.items()
        ]  # fmt: skip
        return {"by": list(self.rows), "tuples": self.tuples, "cells": cells}


def matrix(registry: Mapping[str, MethodEntry], rows: str = "estimator", columns: str = "routing") -> Matrix:
    """Methods counted by two coordinates, once in each cell that one of their terms is in; variants and identical cores are not counted.

    Every empty cell says whether it is open.
    """
    cells = {(row, column): Cell() for row, column in product(AXES[rows], AXES[columns])}
    found: set[tuple[str, ...]] = set()
    for entry in registry.values():
        if counts_as(entry) != "methods" or not entry.objective:
            continue
        found |= {tuple(place.values()) for place in places(entry)}
        for key in dict.fromkeys((place[rows], place[columns]) for place in places(entry)):
            cells[key].methods.append(entry.id)
    for composed in compositions():
        for place in composed.places:
            cell = cells[place[rows], place[columns]]
            if composed.refusal is None:
                cell.composition = cell.composition or composed.text
            else:
                cell.refusal = cell.refusal or composed.refusal
    return Matrix((rows, columns), cells, len(found))


def places(entry: MethodEntry) -> list[Place]:
    """The whole tuples of an entry: one for each signal of each term, with the access that all its parts need together."""
    access = derive_coordinates(entry).teacher_access
    return [
        {"signal": signal, "access": access, "granularity": term.granularity, "estimator": term.estimator, "routing": term.routing}
        for term in derive_tuples(entry)
        for signal in term.signals
    ]


# --- minimal entries


@dataclass(frozen=True)
class Composed:
    """A minimal entry of one term in words, where it stands, and why it is refused, if it is."""

    text: str
    places: tuple[Place, ...]
    refusal: str | None


@cache
def compositions() -> tuple[Composed, ...]:
    """A minimal entry for each way to fill the parts that coordinates are derived from, refused ones with their reason."""
    return tuple(made for term, parts in _terms() for teacher in TEACHERS for made in _composed(term, parts, teacher))


def _terms() -> Iterator[tuple[dict[str, Any], str]]:
    """Minimal terms, and how each is named."""
    for support, name in product(_minimal("support"), ("forward_kl", "reverse_kl", "k2")):
        yield {"term": "divergence", "divergence": name, "support": support, "reduce": "token_mean"}, f"divergence {name} on {_name(support)}"
    contrast = {"kind": "contrast", "of": {"teacher": 1.0, "student": -1.0}}
    for credit, routing, reward in product(_minimal("credit"), _minimal("routing"), (contrast, "correct")):
        text = f"policy_gradient, {'contrast' if reward is contrast else 'verifier'} reward, {_name(credit)} credit, {_name(routing)} routing"
        term = {"term": "policy_gradient", "reward": reward, "credit": credit, "routing": routing, "reduce": "token_mean"}
        yield term, text
        yield {**term, "weights": ({"kind": "pass_rate", "name": "correct"},)}, f"{text}, weighted by the pass rate"
    told = {"term": "policy_gradient", "reward": "told", "credit": "group", "routing": "sampled", "reduce": "token_mean"}
    yield told, "policy_gradient, discriminator's reward, group credit, sampled routing"
    for extra in ((), ({"kind": "pass_rate", "name": "correct"},)):
        yield {"term": "likelihood", "weights": extra, "reduce": "token_mean"}, "likelihood" + (", weighted by the pass rate" if extra else "")
    yield {"term": "representation", "reduce": "token_mean"}, "representation"
    yield {"term": "log_prob_loss", "loss": "dpo", "chosen": "main", "rejected": "other"}, "log_prob_loss dpo"


def _composed(term: dict[str, Any], parts: str, teacher: str) -> Iterator[Composed]:
    """The term with one teacher, on the student's own text or on the teacher's; parts that nothing reads are left out."""
    for author in ("student", "teacher"):
        stream = {"author": author, "group": 2, "reuse": {"minibatches": 2}}
        data: dict[str, Any] = {
            "id": "minimal", "name": "minimal", "paper": {}, "evidence": {"level": "inferred", "source": "composed"}, "fixed_point": "none",
            "anchor": "trained", "teachers": {"teacher": TEACHERS[teacher]},
            "rollouts": {"main": stream, "other": {**stream, "author": "teacher" if term.get("reward") == "told" else "student"}},
            "rewards": {"correct": {"kind": "verifier"}, "told": {"kind": "learner", "learner": "critic"}},
            "learners": {"value": {"kind": "value_head"}, "critic": {"kind": "discriminator", "real": "other", "fake": "main"}}, "objective": (term,),
        }  # fmt: skip
        try:
            entry, found = _pruned(data)
        except ValidationError:
            return
        try:
            where = tuple(places(entry))
            if found and data["teachers"]["teacher"].get("access") == "black_box":  # what was asked for; what is refused would need more
                where = tuple({**place, "access": "black_box"} for place in where)
        except (AttributeError, KeyError, NotImplementedError):  # derived from a part that the rules refuse
            continue
        uses = f"{teacher} teacher" if entry.teachers else "no teacher"
        yield Composed(f"{parts}; {uses}; {author} writes", where, found[0].removeprefix("objective[0]: ") if found else None)


def _pruned(data: dict[str, Any]) -> tuple[MethodEntry, list[str]]:
    """The entry without what nothing reads, and what the rules say of it."""
    while True:
        entry = MethodEntry.model_validate(data)
        found = problems(entry)
        idle = [message.split(" is ")[0].split(".") for message in found if "remove it" in message and message.split(".")[0] in data]
        if not idle:
            return entry, found
        for section, name in idle:
            data = {**data, section: {key: value for key, value in data[section].items() if key != name}}


def _minimal(slot: str) -> list[Component]:
    """One component of each kind, its required fields at usual values; a kind that has none of these is left out."""
    made = []
    for kind, cls in kinds(slot).items():
        wanted = {item.alias or name for name, item in cls.model_fields.items() if item.is_required() or name in ("mass", *ALSO.get(kind, ()))}
        wanted -= {cls.tag}
        if wanted <= USUAL.keys():
            try:
                made.append(Slot(slot).validate({cls.tag: kind, **{name: USUAL[name] for name in wanted}}))
            except (ValidationError, ValueError):
                continue
    return made


def _name(part: Component) -> str:
    return str(getattr(part, part.tag))
