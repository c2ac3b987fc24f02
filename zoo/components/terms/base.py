"""What every term shares: the stream it reads, its gates, weights, shaping, coefficient and denominator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from zoo.components.base import Component, Number, Slot, walk
from zoo.components.gates import Gate
from zoo.components.weights import Weight
from zoo.statistics import Statistic, TokenContext, View


@dataclass(frozen=True)
class Signal:
    """What a term does to one stream: per-token weights and columns, all without gradient.

    `kept_BT` marks tokens the gates let through; `weight_BT` is coefficient * gates * weights. `value` is the term's loss
    where it is known before the update; `reduced` says that the weights already contain the denominator.
    """

    stream: str
    kept_BT: Tensor
    weight_BT: Tensor
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    value: Tensor | None = None
    reduced: bool = False


def once(rounds: int) -> bool:
    """Whether a window comes but once, as it does unless an entry says otherwise."""
    return rounds == 1


class Term(Component):
    """Base of all terms. `live` terms need the student's log-probabilities as of each optimizer step. A term acts `during` a window of the
    run, or of each of `rounds` equal parts of it."""

    tag: ClassVar[str] = "term"
    live: ClassVar[bool] = False

    on: str = "main"
    coefficient: Number = 1.0
    role: Literal["signal", "anchor"] = "signal"
    shaping: tuple[Annotated[Any, Slot("shaping")], ...] = ()
    gates: tuple[Annotated[Any, Slot("gate")], ...] = ()
    weights: tuple[Annotated[Any, Slot("weight")], ...] = ()
    during: tuple[float, float] | None = None
    rounds: int = Field(1, ge=1, exclude_if=once)

    @model_validator(mode="after")
    def _window(self) -> Term:
        if self.during is not None and not 0.0 <= self.during[0] < self.during[1] <= 1.0:
            raise ValueError("during must be two increasing shares of the run, each in [0, 1]")
        return self

    def streams(self) -> tuple[str, ...]:
        """Names of the streams it reads."""
        return (self.on,)

    def parts(self) -> tuple[tuple[str, Any], ...]:
        """Every gate and weight, also those inside others, with the stream whose tokens it reads."""
        return tuple((self.on, part) for part in gates_and_weights((*self.gates, *self.weights)))

    def reward_names(self) -> tuple[str, ...]:
        """Names under `rewards` that the term or one of its parts reads."""
        return tuple(part.name for _, part in self.parts() if hasattr(part, "name"))

    def scorers(self, rewards: Mapping[str, Any]) -> tuple[str, ...]:
        """All scorers whose probabilities the term reads, `student` and `behaviour` included."""
        inner = [name for _, part in self.parts() for name in part.scorers()]
        return unique([*inner, *self.update_scorers()])

    def statistics(self, rewards: Mapping[str, Any]) -> tuple[Statistic, ...]:
        """Columns needed before the update, on each of its streams."""
        return unique(s for _, part in self.parts() for s in part.statistics())

    def update_scorers(self) -> tuple[str, ...]:
        """Scorers, beside the student, whose distributions the differentiated loss reads."""
        return ()

    def prepare(self, contexts: Mapping[str, TokenContext], rewards: Mapping[str, Any]) -> tuple[Signal, ...]:
        """One signal per stream."""
        context = contexts[self.on]
        return (self.gated(context, None, {}),)

    def token_loss(self, view: View, columns_N: Mapping[str, Tensor]) -> Tensor:
        """Loss of each of the view's N tokens, differentiable in the student."""
        raise NotImplementedError

    def gated(self, context: TokenContext, advantage_BT: Tensor | None, columns: Mapping[str, Tensor]) -> Signal:
        """Apply gates, then weights, in the stated order."""
        kept_BT = context.mask_BT
        for gate in self.gates:
            kept_BT = kept_BT & gate.keep(context, advantage_BT)
        weight_BT = self.coefficient * kept_BT.to(torch.float32)
        for weight in self.weights:
            weight_BT = weight_BT * weight.weight(context, advantage_BT)
        return Signal(self.on, kept_BT, weight_BT, columns)

    def active(self, progress: float) -> bool:
        """Whether the term acts at this share of the run."""
        if self.during is None:
            return True
        place = progress if progress == 1.0 else progress * self.rounds % 1.0
        return self.during[0] <= place < self.during[1] or place == self.during[1] == 1.0


class TokenTerm(Term):
    """A term whose per-token losses are reduced by a named rule, which is never implicit."""

    reduce: Annotated[Any, Slot("reduce")] = Field()


def gates_and_weights(parts: Iterable[Any]) -> tuple[Any, ...]:
    """The parts and the gates and weights that they are made of."""
    return tuple(inner for part in parts for inner in walk(part) if isinstance(inner, Gate | Weight))


def unique(items: Iterable[Any]) -> tuple[Any, ...]:
    """The items without repetition, in order."""
    return tuple(dict.fromkeys(items))
