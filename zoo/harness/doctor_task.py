"""A task changed on purpose: other prompts, and answers that are read differently before they are checked."""

from __future__ import annotations

import random
import re
import zlib
from functools import cache
from itertools import islice
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from zoo.components.base import Strict
from zoo.errors import ZooError
from zoo.seeds import seed_for
from zoo.tasks import micro
from zoo.tensors import Prompt

SIZES = {"train": 4096, "valid": 512}


class Swapped(Strict):
    """In a `share` of the answers, chosen by their text, `old` is written as `new` before anything checks them."""

    old: str = Field(min_length=1)
    new: str
    share: Annotated[float, Field(gt=0, le=1)]

    def __call__(self, text: str) -> str:
        """The answer as it is seen."""
        return text.replace(self.old, self.new) if zlib.crc32(text.encode()) % 1000 < 1000 * self.share else text


class TaskChanges(Strict):
    """Changes of a pair's task.

    `lengths`: prompts are lists of these lengths in these proportions (`{"1": 0.9, "20": 0.1}`), longer than the task's own if need be, in
    these `splits`. `reads`: regular
    expressions and what to read in their place, before an answer is checked, so that a style of writing does not count as a mistake. `swapped`: part
    of the answers written differently, so that it does. `checks`: a check that stands in for another (`{answer: exact}`).
    """

    lengths: dict[str, Annotated[float, Field(gt=0)]] = {}
    splits: tuple[Literal["train", "valid"], ...] = ("train", "valid")
    reads: tuple[tuple[str, str], ...] = ()
    swapped: Swapped | None = None
    checks: dict[str, str] = {}

    @field_validator("lengths")
    @classmethod
    def _numbers(cls, lengths: dict[str, float]) -> dict[str, float]:
        if wrong := [length for length in lengths if not length.isdigit() or not 1 <= int(length) <= 40]:
            raise ValueError(f"'{wrong[0]}' is no length of a list; give whole numbers from 1 to 40")
        return lengths

    @field_validator("reads")
    @classmethod
    def _patterns(cls, reads: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        for pattern, _ in reads:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"'{pattern}' is no regular expression ({error})") from None
        return reads


class DoctoredTask:
    """A task with changed prompts or a changed reading of answers; all else is the task's own."""

    def __init__(self, task: Any, changes: TaskChanges) -> None:
        self._task, self._changes = task, changes

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._task, name)

    def prompts(self, split: str) -> list[Prompt]:
        """The task's prompts of a split, or lists of the changed lengths."""
        if not self._changes.lengths or (split in SIZES and split not in self._changes.splits):
            return list(self._task.prompts(split))
        if split not in SIZES:
            raise ZooError(f"a task with changed lengths has the splits {', '.join(SIZES)}, not '{split}'")
        return list(_of_lengths(split, tuple(sorted(self._changes.lengths.items()))))

    def verify(self, check: str, text: str, prompt: Prompt) -> float:
        """The task's verdict on the answer as it is read."""
        for pattern, said in self._changes.reads:
            text = re.sub(pattern, said, text)
        check = self._changes.checks.get(check, check)
        return float(self._task.verify(check, self._changes.swapped(text) if self._changes.swapped else text, prompt))


@cache
def _of_lengths(split: str, lengths: tuple[tuple[str, float], ...]) -> tuple[Prompt, ...]:
    """Lists whose lengths come in proportion. Short lists are few, so that all splits share them."""
    rng = random.Random(seed_for("doctor", "lengths", split))
    sizes = rng.choices([int(name) for name, _ in lengths], [share for _, share in lengths], k=SIZES[split])
    contents = ("".join(rng.choice(micro.DIGITS) for _ in range(size)) for size in sizes)
    return tuple(micro.add_prompt(digits, f"{split}-{i:05d}") for i, digits in enumerate(islice(contents, SIZES[split])))
