"""What all streams share: how long, how warm, how many answers a prompt, and the protocol of those that are decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Protocol, Self, runtime_checkable

import torch
from pydantic import Field, model_validator
from torch import Tensor

from zoo.components.base import Component, Context, Number, Slot, Strict, check_range
from zoo.tensors import Author

Logits = dict[str, Tensor]
State = Any


class Reuse(Strict):
    """How often a batch of sequences is trained on before fresh ones are written."""

    epochs: int = Field(1, ge=1)
    minibatches: int = Field(1, ge=1)
    refresh_every: int = Field(1, ge=1)


class When(Component):
    """For which rows of a stream there is a text at all, as those of the stream `of` tell, row by row."""

    of: str

    def due(self, passed: Sequence[float], groups: Sequence[int]) -> list[bool]:
        """Whether each row is written; `passed` is what the check says of the other stream's rows, 1 or 0, and `groups` their groups."""
        raise NotImplementedError


class Stream(Component):
    """Fields of every stream. `group` answers are written to each prompt; `max_new_tokens` shortens the horizon of the
    comparison, never lengthens it, and `horizon_share` shortens it to a share, rounded down; `share` is the part of a step's
    prompts that this stream takes. An `environment` answers the author, who then writes again; each turn has the whole horizon, and nobody
    learns from the environment's words. `prompts` draws those of the whole step by the answers to them, `when` leaves rows out. `context` is
    the author's alone: a rollout carries the plain prompt, so what was written with a hint is learned without it."""

    tag: ClassVar[str] = "author"
    in_turns: ClassVar[bool] = False  # whether it can write turn by turn

    author: str
    temperature: Number = 1.0
    top_p: Number = 1.0
    group: int = Field(1, ge=1)
    max_new_tokens: Number | None = None
    horizon_share: Number = 1.0
    context: Context | None = None
    reuse: Reuse = Reuse()
    share: Number = 1.0
    environment: Annotated[Any, Slot("environment")] | None = None
    prompts: Annotated[Any, Slot("prompts")] | None = Field(None, exclude_if=lambda value: value is None)
    when: Annotated[Any, Slot("when")] | None = Field(None, exclude_if=lambda value: value is None)

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        if self.environment is not None and not self.in_turns:
            raise ValueError(f"an environment answers who writes turn by turn, which author {self.author} does not; give it to student, teacher or mixture")
        check_range("temperature", self.temperature, 0.0)
        check_range("top_p", self.top_p, 0.0, 1.0)
        check_range("share", self.share, 0.0, 1.0)
        check_range("horizon_share", self.horizon_share, 0.0, 1.0)
        if self.max_new_tokens is not None:
            check_range("max_new_tokens", self.max_new_tokens, 1.0)
        return self

    def horizon(self, limit: int) -> int:
        """Response tokens at most, given the comparison's own limit; at least one."""
        # Rounding must not turn 0.29 * 100 into 28 tokens.
        part = max(1, int(limit * self.horizon_share + 1e-9))
        return part if self.max_new_tokens is None else min(part, int(self.max_new_tokens))

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the models that this stream decodes with (`student`, or teachers by name)."""
        return ()

    @property
    def contexts(self) -> tuple[Context, ...]:
        """Every context in which one of its authors writes."""
        return () if self.context is None else (self.context,)

    @property
    def sources(self) -> tuple[str, ...]:
        """Streams that have to be written before this one, because its contexts or its text read them."""
        parts = [part for context in self.contexts for outer in context.made for part in outer.alternatives()]
        waits = (self.when.of,) if isinstance(self.when, When) else ()
        return tuple(dict.fromkeys([*(part.stream for part in parts if part.stream is not None), *waits]))


AnyStream = Annotated[Stream, Slot("rollout")]


class TeacherWarp(Stream):
    """Streams in which a teacher writes too. It may be warped differently, left out as the student is; and it may see a context of its own
    while the student sees the stream's."""

    teacher_temperature: Number | None = None
    teacher_top_p: Number | None = None
    teacher_context: Context | None = None

    @property
    def contexts(self) -> tuple[Context, ...]:
        return tuple(context for context in (self.context, self.teacher_context) if context is not None)

    def context_of(self, name: str) -> Context | None:
        """What one author sees beside the prompt."""
        return self.context if name == "student" or self.teacher_context is None else self.teacher_context

    def warp_of(self, name: str) -> tuple[float, float]:
        """Temperature and top-p of one author."""
        if name == "student":
            return self.temperature, self.top_p
        temperature = self.temperature if self.teacher_temperature is None else self.teacher_temperature
        return temperature, self.top_p if self.teacher_top_p is None else self.teacher_top_p


@dataclass(frozen=True)
class Choice:
    """The next token of each row: id, who wrote it, and its log-probability under the law that it was drawn from. Rows in `end_B` end
    before this token, unfinished."""

    token_B: Tensor
    author_B: Tensor
    behaviour_logp_B: Tensor
    end_B: Tensor | None = None


@runtime_checkable
class Policy(Protocol):
    """A pure next-token rule over the logits of the models it `reads`.

    `choose` receives logits (B, V) by model name, unwarped, one per entry of `reads`; `uniform_UB`, U = `draws` independent uniforms a row;
    and the state it returned for the token before (None at first). Rows advance in lock step and never see each other.
    """

    draws: ClassVar[int]

    @property
    def reads(self) -> tuple[str, ...]: ...

    def choose(self, state: State, logits: Logits, uniform_UB: Tensor) -> tuple[Choice, State]: ...


def author_of(name: str) -> Author:
    """The author column's value for a model name."""
    return Author.STUDENT if name == "student" else Author.TEACHER


def constant_author(name: str, like_B: Tensor) -> Tensor:
    """A column in which one model wrote every token."""
    return torch.full_like(like_B, int(author_of(name)), dtype=torch.long)


def in_order(streams: Mapping[str, Stream]) -> list[tuple[str, Stream]]:
    """Streams by name, each behind those that it reads; otherwise as written. Streams that read each other in a circle come last."""
    left, found = dict(streams), dict[str, Stream]()
    while left:
        ready = next((name for name, stream in left.items() if not any(source in left for source in stream.sources)), next(iter(left)))
        found[ready] = left.pop(ready)
    return list(found.items())
