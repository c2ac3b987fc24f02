"""The tabular double of everything an entry may read: scorers, contexts, authors, verifiers, value heads; and what has none.

A double is a table with a name of its own, so two scorers are equal exactly where the entry makes them equal. DOUBLES and EXEMPT are
printed by `zoo lab --all`; a kind in neither is reported by name, never skipped in silence.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.components.base import Strict
from zoo.components.teachers import Composite, External, LearnedTeacher, SelfTeacher
from zoo.entry import MethodEntry
from zoo.lab.laws import Exempt
from zoo.lab.world import Array, World
from zoo.seeds import seed_for

DOUBLES = {
    "teacher.external": "a table of its own for each model name",
    "teacher.student": "the student's table, live or frozen, plus a table for its context",
    "teacher.learner": "a table of its own for each learner",
    "teacher.route": "the first teacher that it names: the lab has one prompt",
    "teacher.ensemble": "its own rule on its members' tables",
    "weights_of.initial": "the student's first table",
    "weights_of.live": "the student's present table, without gradient",
    "weights_of.ema": "half-way between the first table and the student's at the start; frozen",
    "weights_of.periodic": "as ema",
    "weights_of.gated": "as ema",
    "weights_of.steered": "the first table plus a direction of its own",
    "context": "a table that is added to the logits of who sees the context; made parts show the same to every text",
    "reference": "the student's first table",
    "behaviour": "the exact law of who wrote the token",
    "learner.value_head": "the exact discounted value of the term's own reward, or of what is credited, less a known part (or a test's table)",
    "reward.verifier": "a fair coin for each text and check, drawn once from a named seed",
    "reward": "other rewards of whole answers run as they are, on letters for tokens; coins for checks, judges, reward models and discriminators",
    "learner.discriminator": "the reward that it gives is a fair coin, like a verifier's",
    "teacher.endpoint": "as external, for its texts",
    "rollout.student": "exact: the student's table, warped as the stream says",
    "rollout.teacher": "exact: that scorer's table",
    "rollout.dataset": "exact: the law of a table of its own; nobody's probability is known",
    "rollout.corpus": "as dataset, with another table",
    "rollout.mixture": "exact, by token (joint with the author drawn), by sequence or by place in the group",
    "rollout.interleaved": "exact, joint with who wrote the token in the end",
    "rollout.replay": "exact at phi = 1/2: half of `of`, half of `otherwise`; the buffer is as fresh as the student",
    "rollout.blended": "exact, from the stream's own rule on a grid of uniforms and the law it states",
    "rollout.prefix": "exact but for the length of the given part, drawn on 720 even uniforms",
    "rollout.branch": "as prefix, from the law of the stream it leaves",
    "rollout.switch": "the stream's own rule on a lattice of 4,096 uniforms; the error is printed",
}
EXEMPT = {
    "rollout.reread": "what the student reads in a context is another table than its own",
    "teacher.labels": "the token of one index is no function of the state",
    "term.representation": "matches hidden states, and a table has none",
    "alignment": "two tokenizers of one text have no common table",
    "environment": "turns need an environment that answers",
}
INITIAL, RECENT, SHIFT, SCALE = "initial", 0.5, 0.8, 1.0


@dataclass
class Tables:
    """Logits (S, V) by name; `student` is the parameter. `pinned` replaces what a scorer would read, to put it where a test wants it."""

    world: World
    student: Tensor
    entry: MethodEntry
    pinned: dict[str, Tensor] = field(default_factory=dict)
    start: Tensor | None = None

    def at(self, student: Tensor) -> Tables:
        """The same with another student."""
        return replace(self, student=student, start=self.initial_student if self.start is None else self.start)

    @property
    def initial_student(self) -> Tensor:
        """Where the student stood when frozen copies of it were made."""
        return self.student.detach() if self.start is None else self.start

    def context_table(self, context: Any) -> Tensor:
        """What a context adds to the logits of who sees it."""
        return self.world.table("context:" + _name(context), SHIFT)

    def logits(self, scorer: str) -> Tensor:
        """The table behind a scorer's name; the student's carries its gradient, all others do not."""
        if scorer == "student":
            return self.student
        if scorer in self.pinned:
            return self.pinned[scorer]
        if scorer == "reference":
            return self.world.table(INITIAL)
        if scorer not in self.entry.teachers:
            raise Exempt(f"scorer '{scorer}': no such teacher")
        return self._teacher(self.entry.teachers[scorer])

    def _teacher(self, teacher: Any) -> Tensor:
        if isinstance(teacher, External):
            found = self.world.table("external:" + teacher.model)
        elif isinstance(teacher, SelfTeacher):
            found = self._weights(teacher.weights)
        elif isinstance(teacher, Composite):
            index_S = torch.zeros(len(self.world.states), dtype=torch.long)
            found = teacher.combine(lambda name: self.logits(name).detach().log_softmax(-1), index_S)
        elif isinstance(teacher, LearnedTeacher):
            found = self.world.table("learner:" + teacher.learner)
        else:
            kind = f"teacher.{teacher.kind}"
            raise Exempt(f"{kind}: {EXEMPT.get(kind, 'no double yet')}")
        if teacher.context is not None:
            found = found + self.context_table(teacher.context)
        if alignment := getattr(teacher, "alignment", None):
            raise Exempt(f"alignment.{getattr(alignment, 'kind', alignment)}: {EXEMPT['alignment']}")
        return found

    def _weights(self, weights: Any) -> Tensor:
        first = self.world.table(INITIAL)
        if weights.kind == "live":
            return self.student.detach()
        if weights.kind == "initial":
            return first
        if weights.kind == "steered":
            return first + self.context_table(weights.toward)
        if weights.kind in ("ema", "periodic", "gated"):
            return RECENT * first + (1.0 - RECENT) * self.initial_student
        raise Exempt(f"weights_of.{weights.kind}: no double yet")


def verified(world: World, check: object) -> Array:
    """The verdict of a check, or of a reward that the harness is asked for, on each text of a world, in the order of `world.texts`."""
    coin = np.random.Generator(np.random.Philox(key=np.array([seed_for("lab", "verifier", str(check)), 0], dtype=np.uint64)))
    verdict = (coin.random(len(world.texts)) < 0.5).astype(np.float64)
    unfinished = np.array([text[-1] != world.stop for text in world.texts])
    # In a world where hardly any text ends, a rule about endings would leave nothing to reward.
    return np.where(unfinished & (np.arange(len(verdict)) % 2 == 0), 0.0, verdict)


def fitted(value: Any, world: World, group: int) -> tuple[Any, list[str]]:
    """A copy of an entry's parts whose sizes suit the world, and what was changed: k of V or more tokens would truncate nothing."""
    changes: list[str] = []
    return _fitted(value, world, group, changes), list(dict.fromkeys(changes))


def _fitted(value: Any, world: World, group: int, changes: list[str]) -> Any:
    if isinstance(value, Strict):
        wanted = _sizes(value, world, group)
        changes += [
            f"{getattr(value, 'kind', getattr(value, 'author', type(value).__name__))}.{name} {getattr(value, name)} -> {new}" for name, new in wanted.items()
        ]
        inner = {name: _fitted(getattr(value, name), world, group, changes) for name in type(value).model_fields if name not in wanted}
        return value.model_copy(update={**inner, **wanted})
    if isinstance(value, tuple):
        return tuple(_fitted(item, world, group, changes) for item in value)
    if isinstance(value, dict):
        return {key: _fitted(item, world, group, changes) for key, item in value.items()}
    return value


def _sizes(part: Any, world: World, group: int) -> dict[str, Any]:
    """The fields of one component that have to shrink."""
    names, kind, found = set(type(part).model_fields), getattr(part, "kind", None), dict[str, Any]()
    few = max(1, world.vocabulary // 2)
    for name in ("k", "top_k", "at_most", "tail_k"):
        value = getattr(part, name, None) if name in names else None
        if kind in ("k_step",):
            if name == "k" and value is not None and value >= world.horizon > 1:
                found["k"] = max(world.horizon - 1, 1)
        elif isinstance(value, int) and not isinstance(value, bool) and value >= world.vocabulary:
            found[name] = few
    if "high" in names and kind == "position" and isinstance(part.high, int) and part.high >= world.horizon:
        found |= {"high": world.horizon - 1, "low": min(part.low, world.horizon - 1)}
    if "window" in names and isinstance(part.window, int) and part.window >= world.horizon:
        found["window"] = 1
    if "segment" in names and isinstance(part.segment, int) and part.segment > 1:
        found["segment"] = 1
    if "group" in names and isinstance(part.group, int) and part.group > group:
        found["group"] = group
        if getattr(part, "per", None) == "group_member":
            found["of"] = _counts(part.of, group)
    return found


def _counts(of: Mapping[str, float], group: int) -> dict[str, float]:
    """Members by author for a smaller group: one at least for each, the rest to the largest."""
    named = [name for name, count in of.items() if count > 0]
    found = dict.fromkeys(named[:group], 1.0)
    largest = max(found, key=lambda name: of[name])
    found[largest] += group - len(found)
    return found


def _name(context: Any) -> str:
    return f"{zlib.crc32(json.dumps(context.model_dump(mode='json', by_alias=True), sort_keys=True).encode()):08x}"
