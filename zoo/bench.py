"""Where an entry is tried: the micro pair in memory, and cells of a run on it that nobody records."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from zoo.components.teachers import External
from zoo.entry import MethodEntry
from zoo.harness.cell import make_trainer
from zoo.harness.comparison import Budget, Comparison, Settings
from zoo.harness.models import LoadedPair, load_pair, load_pair_spec
from zoo.harness.parallel import Processes
from zoo.harness.train import Trainer
from zoo.tasks import Task
from zoo.tensors import Prompt

BUDGET = 1_000_000  # tokens, so that two steps leave the schedules where they began
ROLLOUTS, NEW_TOKENS = 16, 40
BATCHES = 4  # how many batches may pass before a signal is declared absent: rewards of one batch may all be equal
WHOLE, SPLIT = (16384, 1024), (1, 7)  # micro_tokens and chunk_tokens: all at once; row by row and seven tokens at a time
SCALE = 1e9  # a bound on the gradient norm that never clips


@dataclass(frozen=True)
class Place:
    """A moment of a run: how much of the budget is spent, and which batch is written."""

    progress: float = 0.0
    iteration: int = 0


START = Place()


class FewPrompts:
    """A task cut to what a few steps need; a trainer names each prompt of its task, 20,000 of them on the micro pair."""

    def __init__(self, task: Task) -> None:
        self.task, self.checks = task, task.checks

    def prompts(self, split: str) -> list[Prompt]:
        """The first ones."""
        return self.task.prompts(split)[: BATCHES * ROLLOUTS * 4]

    def verify(self, check: str, text: str, prompt: Prompt) -> float:
        """As the task does."""
        return self.task.verify(check, text, prompt)

    def __getattr__(self, name: str) -> Any:
        """Feedback, tools and all else that the task has."""
        return getattr(self.task, name)


@dataclass
class Bench:
    """The micro pair, loaded when first needed and shared by all entries of one call; `rollouts` and `new_tokens` size a batch."""

    paths: Mapping[str, Path] = field(default_factory=dict)
    rollouts: int = ROLLOUTS
    new_tokens: int = NEW_TOKENS

    @cached_property
    def pair(self) -> LoadedPair:
        """Student and teacher in memory, with a few prompts."""
        pair = load_pair(load_pair_spec("micro"), paths=self.paths)
        return replace(pair, task=FewPrompts(pair.task))

    def suited(self, entry: MethodEntry) -> Bench:
        """The bench of an entry: with the micro pair of two tokenizers where a teacher has an alignment, with that of two specialists where one is named."""
        if any(getattr(teacher, "alignment", None) is not None for teacher in entry.teachers.values()):
            return self.cross
        named = {teacher.model for teacher in entry.teachers.values() if isinstance(teacher, External)} - self.pair.teachers.keys()
        return self.two if named and named <= load_pair_spec("micro-two").teachers.keys() else self

    @cached_property
    def two(self) -> Bench:
        """The same with two domains and a specialist for each."""
        return self._other("micro-two")

    @cached_property
    def cross(self) -> Bench:
        """The same with a teacher that has another tokenizer."""
        return self._other("micro-cross")

    def _other(self, name: str) -> Bench:
        other = Bench({}, self.rollouts, self.new_tokens)
        pair = load_pair(load_pair_spec(name))
        other.pair = replace(pair, task=FewPrompts(pair.task))
        return other

    def sized(self, rollouts: int, new_tokens: int) -> Bench:
        """The same pair with batches of another size."""
        other = Bench(self.paths, rollouts, new_tokens)
        other.pair = self.pair
        return other

    def trainer(self, entry: MethodEntry, at: Place = START, split: tuple[int, int] = WHOLE) -> Trainer:
        """A cell with the student at its initial weights, as if it had come to a place of its run."""
        micro_tokens, chunk_tokens = split
        group = math.lcm(*(stream.group for stream in entry.rollouts.values()))
        settings = Settings(
            rollouts_per_step=group * math.ceil(self.rollouts / group), max_new_tokens=self.new_tokens, learning_rate=1e-3, clip_norm=SCALE,
            micro_tokens=micro_tokens, chunk_tokens=chunk_tokens,
        )  # fmt: skip
        comparison = Comparison(
            id="check", title="Two steps", pair="micro", methods=(entry.id,), seeds=(0,), suites=("micro",), budget=Budget(amount=BUDGET), settings=settings
        )
        trainer = make_trainer(entry, comparison, 0, self.pair, Processes())
        trainer.iteration, trainer.spent.supervised_tokens = at.iteration, int(at.progress * BUDGET)
        return trainer
