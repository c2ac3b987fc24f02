"""Rewards of whole answers: a verifier's, pure rules on shape and length, and sums and products of others."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from zoo.components.base import Number, component
from zoo.components.rewards.base import Answered, SequenceReward, Verify, on_last
from zoo.statistics import Kl, Statistic, TokenContext


class Verifier(SequenceReward):
    """Rewards that ask the pair's task whether it accepts the decoded answer; `check` names one of the task's checks."""

    check: str = "answer"

    def measure(self, answers: Sequence[Answered], values: Mapping[str, Tensor], verify: Verify) -> Tensor:
        return verify(self.check)


@component("reward")
class Verified(Verifier):
    """1 where the task accepts the decoded answer, else 0."""

    kind: Literal["verifier"] = "verifier"


@component("reward")
class Budget(Verifier):
    """1 or 0 as the task says while the answer's KL(p || q) stays within `limit`, else -(penalty + KL(p || q) at its last state) (CMDP
    2509.22921). The KL is the mean over the answer's tokens, or their `sum`."""

    kind: Literal["budget"] = "budget"
    teacher: str = "teacher"
    limit: float = Field(gt=0)
    penalty: float = Field(10.0, gt=0)
    per: Literal["mean", "sum"] = "mean"

    def scorers(self) -> tuple[str, ...]:
        return ("student", self.teacher)

    def statistics(self) -> tuple[Statistic, ...]:
        return (Kl("student", self.teacher),)

    def verdict(self, measured_B: Tensor, context: TokenContext) -> Tensor:
        mask_BT = context.mask_BT
        cost_BT = torch.where(mask_BT, context.column(Kl("student", self.teacher)), 0.0)
        spent_B = cost_BT.sum(1) / (mask_BT.sum(1).clamp(min=1) if self.per == "mean" else 1.0)
        return torch.where(spent_B <= self.limit, measured_B, -(self.penalty + (cost_BT * on_last(mask_BT)).sum(1)))


@component("reward")
class Structure(SequenceReward):
    """1 where an answer has the asked shape, else 0: its whole text matches the regular expression `pattern`, it has `at_least` and
    `at_most` so many tokens, it ended by itself (`finished`)."""

    kind: Literal["structure"] = "structure"
    pattern: str | None = None
    at_least: Annotated[int, Field(ge=0)] | None = None
    at_most: Annotated[int, Field(ge=1)] | None = None
    finished: bool | None = None

    @model_validator(mode="after")
    def _some(self) -> Structure:
        if all(rule is None for rule in (self.pattern, self.at_least, self.at_most, self.finished)):
            raise ValueError("give at least one of pattern, at_least, at_most, finished")
        try:
            re.compile(self.pattern or "")
        except re.error as error:
            raise ValueError(f"pattern is no regular expression: {error}") from None
        return self

    def holds(self, answer: Answered) -> bool:
        """Whether one answer has the shape."""
        return (
            (self.pattern is None or re.fullmatch(self.pattern, answer.text, re.DOTALL) is not None)
            and (self.at_least is None or answer.tokens >= self.at_least)
            and (self.at_most is None or answer.tokens <= self.at_most)
            and (self.finished is None or answer.finished == self.finished)
        )

    def measure(self, answers: Sequence[Answered], values: Mapping[str, Tensor], verify: Verify) -> Tensor:
        return torch.tensor([float(self.holds(answer)) for answer in answers])


@component("reward")
class Overlong(SequenceReward):
    """0 up to limit - buffer tokens, then falling to -1 at `limit` in a straight line, and -1 beyond (DAPO 2503.14476, equation 13)."""

    kind: Literal["overlong"] = "overlong"
    limit: int = Field(ge=1)
    buffer: int = Field(ge=1)

    @model_validator(mode="after")
    def _inside(self) -> Overlong:
        if self.buffer > self.limit:
            raise ValueError("buffer is the last part of limit, so it cannot be larger")
        return self

    def measure(self, answers: Sequence[Answered], values: Mapping[str, Tensor], verify: Verify) -> Tensor:
        return torch.tensor([min(max((self.limit - self.buffer - answer.tokens) / self.buffer, -1.0), 0.0) for answer in answers])


@component("reward")
class CosineLength(SequenceReward):
    """With h = (1 - cos(pi min(L, longest) / longest)) / 2 and L tokens: best - fall h for a right answer, -worst h for a wrong one, and
    `cut` for one that the length limit cut (TT-OPD 2605.02943). A reward `of` above 1/2 is right."""

    kind: Literal["cosine_length"] = "cosine_length"
    of: str
    longest: int = Field(ge=1)
    best: float = 1.0
    fall: float = Field(0.5, ge=0)
    worst: float = Field(0.5, ge=0)
    cut: float = -1.0

    def reads(self) -> tuple[str, ...]:
        return (self.of,)

    def measure(self, answers: Sequence[Answered], values: Mapping[str, Tensor], verify: Verify) -> Tensor:
        found = []
        for answer, right in zip(answers, (values[self.of] > 0.5).tolist(), strict=True):
            half = 0.5 * (1.0 - math.cos(math.pi * min(answer.tokens, self.longest) / self.longest))
            found.append(self.cut if not answer.finished else self.best - self.fall * half if right else -self.worst * half)
        return torch.tensor(found)


@component("reward")
class Sum(SequenceReward):
    """sum of coefficient * R over named sequence rewards, or prod of R^coefficient of rewards that are at least 0."""

    kind: Literal["sum"] = "sum"
    of: dict[str, Number] = Field(min_length=1)
    how: Literal["sum", "product"] = "sum"

    def reads(self) -> tuple[str, ...]:
        return tuple(self.of)

    def measure(self, answers: Sequence[Answered], values: Mapping[str, Tensor], verify: Verify) -> Tensor:
        parts = [(coefficient, values[name].to(torch.float32)) for name, coefficient in self.of.items()]
        if self.how == "sum":
            return torch.stack([coefficient * value_B for coefficient, value_B in parts]).sum(0)
        return torch.stack([value_B.clamp(min=0.0).pow(coefficient) for coefficient, value_B in parts]).prod(0)
