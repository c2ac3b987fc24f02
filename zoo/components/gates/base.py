"""What every gate is, and the comparison that most of them make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

from pydantic import model_validator
from torch import Tensor

from zoo.components.base import Component, Number
from zoo.statistics import Statistic, TokenContext

Scope = Literal["token", "sequence", "group"]


class Gate(Component):
    """Base of all gates. `outcome` marks those that read a sequence's result; they make a token signal hybrid. `reads_advantage` marks
    those that stand in a policy gradient only."""

    outcome: ClassVar[bool] = False
    reads_advantage: ClassVar[bool] = False

    def scorers(self) -> tuple[str, ...]:
        """Scorers whose probabilities it reads."""
        return ()

    def statistics(self) -> tuple[Statistic, ...]:
        """Columns it reads."""
        return ()

    def keep(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        """Boolean (B, T)."""
        raise NotImplementedError


class Threshold(Gate):
    """Exactly one of above (>), at_least (>=), below (<), at_most (<=)."""

    above: Number | None = None
    at_least: Number | None = None
    below: Number | None = None
    at_most: Number | None = None

    @model_validator(mode="after")
    def _one(self) -> Threshold:
        if sum(x is not None for x in (self.above, self.at_least, self.below, self.at_most)) != 1:
            raise ValueError("give exactly one of above, at_least, below, at_most")
        return self

    def passes(self, value: Tensor, at: Callable[[float], Any] = lambda threshold: threshold) -> Tensor:
        """Where the value meets the threshold, or what `at` makes of it."""
        if self.above is not None:
            return value > at(self.above)
        if self.at_least is not None:
            return value >= at(self.at_least)
        if self.below is not None:
            return value < at(self.below)
        return value <= at(self.at_most or 0.0)
