"""For which prompts a further stream is written, where that depends on how the answers of another one fared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from zoo.components.base import component
from zoo.components.rollouts.base import When


@component("when")
class GroupReward(When):
    """Written where the share of answers of the stream `of` that pass a check, among the prompt's group (`scope: sequence`: the answer of the same
    row), is `at_most` or `at_least` so much (HDPO 2603.23871, STaR 2203.14465). It spares text that a gate would drop, and changes no gradient:
    each term that reads the stream has that gate, on a reward of kind elsewhere."""

    kind: Literal["group_reward"] = "group_reward"
    check: str = "answer"
    scope: Literal["group", "sequence"] = "group"
    at_most: float | None = Field(None, ge=0, lt=1)
    at_least: float | None = Field(None, gt=0, le=1)

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError("give exactly one of at_most and at_least")
        return self

    def due(self, passed: Sequence[float], groups: Sequence[int]) -> list[bool]:
        members: dict[int, list[float]] = {}
        for value, group in zip(passed, groups, strict=True):
            members.setdefault(group, []).append(value)
        share = {group: sum(values) / len(values) for group, values in members.items()}
        told = list(passed) if self.scope == "sequence" else [share[group] for group in groups]
        return [value <= self.at_most if self.at_most is not None else value >= (self.at_least or 0.0) for value in told]
