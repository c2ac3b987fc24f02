"""The tabular double of everything an entry may read: scorers, contexts, authors, verifiers, value heads; and what has none.

A double is a table with a name of its own, so two scorers are equal exactly where the entry makes them equal. DOUBLES and EXEMPT are
printed by `zoo lab --all`; a kind in neither is reported by name, never skipped in silence.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.components.base import PLAIN, Context
from zoo.components.teachers import Composite, External, LearnedTeacher, SelfTeacher
from zoo.entry import MethodEntry
from zoo.lab.laws import Exempt
from zoo.lab.world import Array, World
from zoo.seeds import seed_for
from zoo.tensors import Prompt

LETTERS = "abcdef"
PROMPT = Prompt("lab", "0", {"solution": "0", "answer": "0", "hint": "0"})
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
    "weights_of.snapshots": "as ema",
    "weights_of.steered": "the first table plus a table for what it is steered toward",
    "support.voted": "each state votes as often as the first table's texts come there",
    "reward.lookahead": "exact: the states behind all tokens are there to be read; 0 in last states",
    "gate.continuation_match": "exact: both tables' greedy texts, two letters being alike or not",
    "context": "a table that is added to the logits of who sees the context, one for each model; made parts show the same to every text",
    "reference": "the student's first table",
    "behaviour": "the exact law of who wrote the token",
    "learner.value_head": "the exact discounted value of the term's own reward, or of what is credited, less a known part (or a test's table)",
    "reward.verifier": "a fair coin for each text and check, drawn once from a named seed",
    "reward": "other rewards of whole answers run as they are, on letters for tokens; coins for checks, judges, reward models and discriminators",
    "learner": "a teacher that is one is a table of its own; what else is trained beside the student does not reach it",
    "learner.discriminator": "the reward that it gives is a fair coin, like a verifier's",
    "teacher.endpoint": "as external, for its texts",
    "teacher.labels": "the given answer, drawn from the data set's law, lies beside each text; its token of an index is the label",
    "alignment": "the teacher has letters and one pair as its tokens, the student other ones: texts are split anew, by longest match, and a table of "
    "its own tokens' prefixes scores them; put at the teacher, the student has its tokens too",
    "prompts": "nothing to draw from: the lab has one prompt",
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
    "rollout.edited": "exact, row by row: the first token is the mark, and the computed text is one token by its size",
    "when": "texts are written all the same: the gate that every term has drops them",
    "rollout.reread": "the source's law; who reads it in a context has that context's table added",
    "verify": "exact: what the verifier accepts in each state",
    "verify.window": "exact: every way to stray, be cut and go on, by the stream's own rule, at T = 4",
    "rollout.switch": "the stream's own rule on a lattice of 4,096 uniforms; the error is printed",
}
EXEMPT = {
    "environment": "turns need an environment that answers",
    "term.representation": "it matches hidden states, and a table has none",
    "weight.continuation_match": "how like each other two texts are is told on their letters, which a table has not",
    "teacher.projected": "a learner carries hidden states over, and a table has none",
    "teacher.byte_law": "byte heads read hidden states, and a table has none",
    "teacher.byte_labels": "byte heads read hidden states, and a table has none",
}
SORTS = {
    "weight.continuation_match": "text only",
    "environment": "environment",
    **dict.fromkeys(("term.representation", "teacher.projected", "teacher.byte_law", "teacher.byte_labels"), "representation"),
}
INITIAL, RECENT, SHIFT, SCALE = "initial", 0.5, 0.8, 1.0


@dataclass
class Tables:
    """Logits (S, V) by name; `student` is the parameter. `pinned` replaces what a scorer would read, to put it where a test wants it.

    `reading` is the context in which the student reads the texts at hand, and with it every scorer that has no context of its own. `held` are
    the tables as which all scorers but the student are read, where only the student moves.
    """

    world: World
    student: Tensor
    entry: MethodEntry
    pinned: dict[str, Tensor] = field(default_factory=dict)
    start: Tensor | None = None
    reading: Context | None = None
    held: Tables | None = None

    def at(self, student: Tensor) -> Tables:
        """The same with another student."""
        return replace(self, student=student, start=self.initial_student if self.start is None else self.start)

    @property
    def initial_student(self) -> Tensor:
        """Where the student stood when frozen copies of it were made."""
        return self.student.detach() if self.start is None else self.start

    def moved(self, student: Tensor) -> Tables:
        """The same with another student, and everybody else as before."""
        return replace(self, student=student, held=self if self.held is None else self.held)

    def read_in(self, context: Context | None) -> Tables:
        """The same where the texts are read in a context."""
        return replace(self, reading=context, held=None if self.held is None else replace(self.held, reading=context))

    def shift(self, model: str = "") -> Tensor | float:
        """What the context of reading adds to the logits of a model."""
        return 0.0 if self.reading is None else self.context_table(self.reading, model)

    def context_table(self, context: Context, model: str = "") -> Tensor:
        """What a context adds to the logits of who sees it: of the student's lineage, or of another model; nothing where it shows the prompt alone."""
        if context.template == PLAIN:
            return torch.zeros(len(self.world.states), self.world.vocabulary, dtype=torch.float64)
        return self.world.table("context:" + _name(context) + (f":{model}" if model else ""), SHIFT)

    def model_of(self, scorer: str) -> str:
        """The name of a scorer's model; empty for the student's lineage."""
        teacher = self.entry.teachers.get(scorer)
        return str(getattr(teacher, "model", getattr(teacher, "learner", "")))

    def given(self, name: str) -> bool:
        """Whether a scorer is given text, not a table."""
        return name in self.entry.teachers and self.entry.teachers[name].given  # type: ignore[attr-defined]

    def data(self, author: str, field: str) -> Array:
        """The log-law (S, V) of given texts."""
        return np.asarray(self.world.table(f"{author}:{field}").log_softmax(-1).numpy())

    def logits(self, scorer: str) -> Tensor:
        """The table behind a scorer's name; the student's carries its gradient, all others do not."""
        if scorer == "student":
            return self.student + self.shift()
        if self.held is not None:
            return self.held.logits(scorer)
        if scorer in self.pinned:
            return self.pinned[scorer] + self.shift()
        if scorer == "reference":
            return self.world.table(INITIAL) + self.shift()
        if scorer not in self.entry.teachers:
            raise Exempt(f"scorer '{scorer}': no such teacher")
        return self._teacher(self.entry.teachers[scorer], self.model_of(scorer))

    def _teacher(self, teacher: Any, model: str) -> Tensor:
        if isinstance(teacher, External):
            found = self.world.table("external:" + teacher.model)
        elif isinstance(teacher, SelfTeacher):
            found = self._weights(teacher.weights)
        elif teacher.carried:
            raise Exempt(f"teacher.{teacher.kind}: {EXEMPT[f'teacher.{teacher.kind}']}", SORTS[f"teacher.{teacher.kind}"])
        elif isinstance(teacher, Composite):
            index_S = torch.zeros(len(self.world.states), dtype=torch.long)
            return teacher.combine(lambda name: self.logits(name).detach().log_softmax(-1), index_S)
        elif isinstance(teacher, LearnedTeacher):
            found = self.world.table("learner:" + teacher.learner)
        else:
            raise Exempt(f"teacher.{teacher.kind}: no table of its own")
        return found + (self.shift(model) if teacher.context is None else self.context_table(teacher.context, model))

    def _weights(self, weights: Any) -> Tensor:
        first = self.world.table(INITIAL)
        if weights.kind == "live":
            return self.student.detach()
        if weights.kind == "initial":
            return first
        if weights.kind == "steered":
            return first + self.context_table(weights.toward)
        if weights.kind in ("ema", "periodic", "gated", "snapshots"):
            return RECENT * first + (1.0 - RECENT) * self.initial_student
        raise Exempt(f"weights_of.{weights.kind}: no double yet")


def verified(world: World, check: object) -> Array:
    """The verdict of a check, or of a reward that the harness is asked for, on each text of a world, in the order of `world.texts`."""
    coin = np.random.Generator(np.random.Philox(key=np.array([seed_for("lab", "verifier", str(check)), 0], dtype=np.uint64)))
    verdict = (coin.random(len(world.texts)) < 0.5).astype(np.float64)
    unfinished = np.array([text[-1] != world.stop for text in world.texts])
    # In a world where hardly any text ends, a rule about endings would leave nothing to reward.
    return np.where(unfinished & (np.arange(len(verdict)) % 2 == 0), 0.0, verdict)


def _name(context: Context) -> str:
    return f"{zlib.crc32(json.dumps(context.model_dump(mode='json', by_alias=True), sort_keys=True).encode()):08x}"
