"""What every gate is, and the comparison that most of them make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from pydantic import model_validator
from torch import Tensor

from zoo.components.base import Number, TokenPart
from zoo.statistics import TokenContext

Scope = Literal["token", "sequence", "group"]


class Gate(TokenPart):
    """Base of all gates."""

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
