"""Streams that go on from given text, or change what another stream wrote."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from zoo.components.base import Number, Slot, check_range, component
from zoo.components.rollouts.base import AnyStream, Stream
from zoo.components.rollouts.composed import Dataset, Replay
from zoo.components.rollouts.decoded import Student, Teacher

Supervise = Literal["continuation", "all"]


class Continued(Stream):
    """Streams in which `by` goes on from the first part of a text: a length drawn uniformly from `low`..`high` for each row, as a share of the
    text (its stop token not counted), of its turns (a branch leaves a dialogue at the beginning of a turn), or in tokens, rounded down; and
    writes `window` tokens at most, where that is given."""

    by: str = "student"
    low: Number = 0.0
    high: Number
    unit: Literal["share", "tokens", "turn"] = "share"
    window: int | None = Field(None, ge=1)
    supervise: Supervise

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        check_range("low", self.low, 0.0, None if self.unit == "tokens" else 1.0)
        check_range("high", self.high, 0.0, None if self.unit == "tokens" else 1.0)
        if isinstance(self.low, float) and isinstance(self.high, float) and self.low > self.high:
            raise ValueError(f"low ({self.low:g}) must not exceed high ({self.high:g})")
        return self

    def lengths(self, text_B: Tensor, uniform_B: Tensor) -> Tensor:
        """How much of texts of `text_B` tokens is given, (B,)."""
        low, high = min(self.low, self.high), self.high
        if self.unit == "tokens":
            return torch.minimum((low + uniform_B * (high - low + 1)).floor().long(), text_B)
        # Rounding must not turn 0.6 * 5 into 2 tokens.
        return ((low + uniform_B * (high - low)) * text_B.double() + 1e-9).floor().long()

    def rest(self) -> Stream:
        """The stream that goes on."""
        own: dict[str, Any] = {"temperature": self.temperature, "top_p": self.top_p, "context": self.context}
        return Student(**own) if self.by == "student" else Teacher(teacher=self.by, **own)


@component("rollout")
class Prefix(Continued):
    """`by` goes on from the first part of an answer that the stream `of` gives or writes for it; `supervise` says whether the given part is
    learned too. `context` is that of `by`; the answer's author has its own inside `of`."""

    author: Literal["prefix"] = "prefix"
    of: AnyStream = Dataset()

    @model_validator(mode="after")
    def _plain(self) -> Self:
        if isinstance(self.of, Replay | Continued) or self.of.author == "corpus":
            raise ValueError(f"a prefix can't be taken from author {self.of.author}; name one that answers each prompt afresh")
        if self.of.group != 1:
            raise ValueError("write 'group' at the prefix stream, not inside 'of'")
        return self

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.of.reads, self.by)))

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*super().sources, *self.of.sources)))


@component("rollout")
class Branch(Continued):
    """`by` goes on from a state of each sequence of another stream, `of`, row by row; only what it writes is
    learned. Two branches of one stream with the same bounds leave from the same states."""

    author: Literal["branch"] = "branch"
    of: str
    supervise: Literal["continuation"] = "continuation"

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.by,)

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*super().sources, self.of)))


@component("rollout")
class Edited(Stream):
    """The stream `of`, row by row, each text cut where the pair's word `mark` first stands and ended by the mark and the computed text `put`
    (CaOPD 2604.16830). `supervise: edit` learns only the tokens from the first changed one on.

    Nobody drew the changed tokens, so their probabilities are unknown.
    """

    author: Literal["edited"] = "edited"
    of: str
    put: Annotated[Any, Slot("context")]
    supervise: Literal["edit", "all"]

    @property
    def sources(self) -> tuple[str, ...]:
        parts = [part.stream for part in self.put.alternatives() if part.stream is not None]
        return tuple(dict.fromkeys((self.of, *parts)))


@component("rollout")
class Reread(Stream):
    """The stream `of`, row by row, as the student reads, and is trained on, it in `context` (pi-Distill 2602.04942 learns both readings; the
    anchor of 2606.11627 keeps one). Scorers without a context read what the student reads; one with the template `plain` reads the
    bare prompt. The text is learned a second time and counts so in the budget."""

    author: Literal["reread"] = "reread"
    of: str

    @model_validator(mode="after")
    def _in_context(self) -> Self:
        if self.context is None:
            raise ValueError("a reread stream is one that is read in a context; give it, or read the stream itself with `on`")
        return self

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*super().sources, self.of)))
