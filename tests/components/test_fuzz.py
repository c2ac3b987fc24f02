"""Random entries drawn from the grammar's own JSON Schema: each is refused with a message, or it loads, derives and trains.

What passes the rules is then run on the six tokens, and its loss and gradient must be numbers: nothing that the rules let
through may fail only once GPU time is spent.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from zoo.compat import pair_problems, problems
from zoo.components.base import walk
from zoo.components.rollouts import Corpus, Dataset, Mixture, Stream
from zoo.entry import MethodEntry, body, coordinate_problems, diff
from zoo.method import Method
from zoo.schema import json_schema
from zoo.tensors import Rollout

from .compose import contexts_of, loss_of
from .six import LOGITS, rollout, tensor

SCHEMA = json_schema()
NAMES = {
    "on": ("main", "theirs"), "chosen": ("main", "theirs"), "rejected": ("main", "theirs"), "name": ("correct", "ratio"), "value": ("value", "critic"),
    "reward": ("correct", "ratio"),
    "teacher": ("teacher", "self", "closed", "reference", "student", "behaviour"), "field": ("solution",), "model": ("teacher",),
    "template": ("hint",), "check": ("answer",), "fields": ("hint",),
}  # fmt: skip
OTHERS = ("of", "by", "first", "then", "to", "minus", "plus", "part", "given", "otherwise", "target", "among", "draft", "under", "base")
NAMES |= {**dict.fromkeys(OTHERS, NAMES["teacher"]), "measure": ("loss",), "projector": ("value",)}
ANY = ("teacher", "student", "main", "correct", "value", "solution")  # what a field of text that is not listed above may name
NUMBERS = (0, 1e-6, 0.3, 0.5, 0.9, 1, 1.5, -1)
COUNT = 300


class Writer:
    """Draws values that the schema allows."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def draw(self, node: dict[str, Any], key: str = "", depth: int = 0) -> Any:
        """One value for a schema node; `key` is the property that it fills."""
        if "$ref" in node:
            return self.draw(SCHEMA["$defs"][node["$ref"].rsplit("/", 1)[-1]], key, depth + 1)
        if "anyOf" in node:
            forms = [form for form in node["anyOf"] if depth < 12 or "$ref" not in form] or node["anyOf"]
            return self.draw(self.random.choice(forms), key, depth)
        if "const" in node:
            return node["const"]
        if "enum" in node:
            return self.random.choice(node["enum"])
        return getattr(self, node["type"])(node, key, depth)

    def number(self, node: dict[str, Any], key: str, depth: int) -> float:
        return self.random.choice(NUMBERS)

    def integer(self, node: dict[str, Any], key: str, depth: int) -> int:
        return self.random.choice((1, 2, 3, 9))

    def boolean(self, node: dict[str, Any], key: str, depth: int) -> bool:
        return self.random.random() < 0.5

    def null(self, node: dict[str, Any], key: str, depth: int) -> None:
        return None

    def string(self, node: dict[str, Any], key: str, depth: int) -> str:
        return self.random.choice(NAMES.get(key, ANY))

    def array(self, node: dict[str, Any], key: str, depth: int) -> tuple[Any, ...]:
        if "prefixItems" in node:
            return tuple(sorted(self.draw(item, key, depth) for item in node["prefixItems"]))
        return tuple(self.draw(node["items"], key, depth) for _ in range(self.random.choice((1, 1, 2))))

    def object(self, node: dict[str, Any], key: str, depth: int) -> dict[str, Any]:
        if "properties" not in node:
            names = self.random.sample(NAMES.get(key, ("a", "b")), 2)
            return {name: self.draw(node["additionalProperties"], key, depth) for name in names}
        chosen = [name for name in node["properties"] if name in node.get("required", ()) or self.random.random() < 0.08]
        return {name: self.draw(node["properties"][name], name, depth + 1) for name in chosen}

    def slot(self, name: str) -> Any:
        return self.draw({"$ref": f"#/$defs/slot-{name}"})

    def often(self, usual: Any, slot: str) -> Any:
        """The usual value two times of three: most parts that are drawn blindly are refused, and the rest of the entry with them."""
        return usual if self.random.random() < 2 / 3 else self.slot(slot)

    def entry(self) -> dict[str, Any]:
        """A whole entry: two streams, three teachers, two rewards, up to two terms."""
        streams = {"main": self.random.choice(({"author": "student", "group": 2, "reuse": {"minibatches": 2}}, "student", self.slot("rollout")))}
        return {
            "id": "x", "name": "X", "paper": {}, "evidence": {"level": "inferred", "source": "chance"}, "fixed_point": "none", "anchor": "trained",
            "rollouts": {**streams, "theirs": self.often("student", "rollout")},
            "teachers": {"teacher": "external", "self": self.often({"kind": "student"}, "teacher"), "closed": {"kind": "external", "access": "black_box"}},
            "rewards": {"correct": "verifier", "ratio": self.often("verifier", "reward")},
            "learners": {"value": "value_head"},
            "objective": tuple(self.slot("term") for _ in range(self.random.choice((1, 1, 2)))),
        }  # fmt: skip


def pruned(data: dict[str, Any]) -> tuple[MethodEntry | None, list[str]]:
    """The entry without what nothing reads, and the problems that remain; None where the schema's types refuse it."""
    while True:
        try:
            entry = MethodEntry.model_validate(data)
        except ValidationError as error:
            assert all(item["msg"] for item in error.errors())
            return None, []
        found = problems(entry)
        idle = [message.split(" is ")[0].split(".") for message in found if "remove it" in message and "shaping" not in message]
        if not idle:
            return entry, found
        for section, name in idle:
            data = {**data, section: {key: value for key, value in data[section].items() if key != name}}


def written(stream: Stream, whole: Rollout | None = None) -> Rollout:
    """A batch, the six tokens unless told otherwise, as a stream's; NaN where nobody knows a probability."""
    whole = whole or rollout()
    inner = [part for part in walk(stream) if isinstance(part, Stream)]
    given = any(isinstance(part, Dataset | Corpus) or (isinstance(part, Mixture) and {"dataset", "corpus"} & set(part.of)) for part in inner)
    unknown = torch.full_like(whole.behaviour_logp_BT, math.nan)
    own = "student" in stream.reads and not given and stream.context is None
    return replace(
        whole,
        behaviour_logp_BT=unknown if given else whole.behaviour_logp_BT,
        student_logp_BT=whole.student_logp_BT if own else unknown,
        author_BT=torch.full_like(whole.author_BT, 2 if given else 0),
    )


def train(entry: MethodEntry) -> None:
    """One step's loss and gradient at the start, in the middle and at the end."""
    streams = {name: written(stream) for name, stream in entry.rollouts.items()}
    models = {name: tensor(LOGITS[name if name in LOGITS else "teacher"]).float() for name in ("student", "reference", *entry.teachers)}
    rewards = dict.fromkeys(entry.rewards, torch.tensor([1.0, 0.0]))
    values = {name: torch.ones(2, 4) for name in entry.learners}
    for progress in (0.0, 0.5, 1.0):
        method = Method(entry, progress)
        read = {name for stream in streams for name in (*method.update_scorers(stream), *method.annotation_scorers(stream))}
        student = models["student"].clone().requires_grad_()
        prepared = method.prepare(contexts_of(method, streams, {n: models[n] for n in {*read, "student"}}, rewards, values))
        loss = loss_of(method, prepared, streams, {**{n: models[n] for n in read}, "student": student}, values=values)
        if loss.requires_grad:
            [slopes] = torch.autograd.grad(loss, student)
            assert torch.isfinite(slopes).all()
        assert torch.isfinite(loss)


@pytest.mark.parametrize("block", range(5))
def test_random_entries(block: int) -> None:
    outcomes: Counter[str] = Counter()
    for seed in range(block * COUNT, (block + 1) * COUNT):
        data = Writer(seed).entry()
        try:
            entry, found = pruned(data)
            if entry is None or found:
                outcomes["refused"] += 1
                continue
            assert coordinate_problems(entry.model_copy(update={"coordinates": None})) == []
            pair_problems(entry, templates=(), fields=(), teachers=(), checks=(), same_vocabulary=False)
            assert diff(entry, entry) == {}
            assert body(entry)
            train(entry)
            outcomes["trained"] += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}: {data}") from error
    assert outcomes["trained"] >= COUNT // 40, outcomes
    assert outcomes["refused"] >= COUNT // 40, outcomes
