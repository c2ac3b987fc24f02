"""Rewards of whole answers that something else gives: a field of the prompt, unit tests, a reward model, a judge, a trained discriminator.

The component says what is asked; the harness has the models, the sandbox and the endpoints (`zoo.harness.asked`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from torch import Tensor

from zoo.components.base import Context, Slot, component
from zoo.components.rewards.base import Answered, SequenceReward, Verify


class Asked(SequenceReward):
    """Rewards that the harness is asked for, as they stand."""

    def measure(self, answers: Sequence[Answered], values: Mapping[str, Tensor], verify: Verify) -> Tensor:
        return verify(self)


@component("reward")
class Match(Asked):
    """1 where the answer is the prompt's `field`, else 0: `exact`, blanks around it left out, or equal as `math` (math-verify, optional extra
    `math`). `extract` is a regular expression whose first group (or whole match) is the answer's part to compare, its last match counting."""

    kind: Literal["match"] = "match"
    field: str = "answer"
    how: Literal["exact", "math"] = "exact"
    extract: str | None = None

    @model_validator(mode="after")
    def _pattern(self) -> Match:
        try:
            re.compile(self.extract or "")
        except re.error as error:
            raise ValueError(f"extract is no regular expression: {error}") from None
        return self

    def part(self, text: str) -> str | None:
        """What is compared; None where the answer has no such part."""
        if self.extract is None:
            return text.strip()
        found = list(re.finditer(self.extract, text))
        return None if not found else (found[-1].group(1) if found[-1].re.groups else found[-1].group(0)).strip()


@component("reward")
class UnitTests(Asked):
    """The share of the prompt's unit tests that the answer's Python code passes, each in a sandbox without network, files or much time
    (`zoo.harness.sandbox`). `field` holds the tests, one paragraph each; `fence: true` takes the code from the last fenced block."""

    kind: Literal["unit_tests"] = "unit_tests"
    field: str = "tests"
    fence: bool = True
    seconds: float = Field(10.0, gt=0, le=600)
    memory_mb: int = Field(512, ge=64)

    def code(self, text: str) -> str:
        """The answer's program."""
        blocks = re.findall(r"```(?:python)?\n(.*?)```", text, re.DOTALL) if self.fence else []
        return blocks[-1] if blocks else text


@component("reward")
class RewardModel(Asked):
    """The score of one of the pair's reward models, a sequence classifier with one output, for prompt and answer in its own chat format."""

    kind: Literal["reward_model"] = "reward_model"
    model: str


@component("reward")
class Judge(Asked):
    """What a judge says of an answer: a teacher, read as it is or asked for text (`kind: endpoint`).

    `likelihood`: the geometric mean of the judge's probabilities of the answer's tokens, exp((1/T) sum log q(y_t)). `verdict`: the probability
    of the pair's word `right` behind the judge's context, against `wrong`: P(right) / (P(right) + P(wrong)). `score`: the expected number
    among 0..`scale` behind it, divided by `scale` (OVD 2601.21968: 9). An endpoint is asked the same in words; it has no likelihood, and its
    answer counts as 0 or 1, or as its number. `context` shows the answer by a part made of it, `attempt`, and whatever else the judge may see.
    An answer that the endpoint does not judge has the mean of its group's others; `failures` is the share of them that a batch may have.
    """

    kind: Literal["judge"] = "judge"
    by: str = "teacher"
    ask: Literal["likelihood", "verdict", "score"] = "verdict"
    context: Context | None = None
    scale: int = Field(9, ge=1, le=9)
    failures: float = Field(0.4, ge=0, le=1)

    @model_validator(mode="after")
    def _shown(self) -> Judge:
        if self.ask != "likelihood" and (self.context is None or not any(part.kind == "attempt" for part in self.context.made)):
            raise ValueError(f"ask: {self.ask} needs a context that shows the answer: made: [attempt] and a template of the pair")
        return self

    def asks(self) -> tuple[str, ...]:
        return (self.by,)


@component("reward")
class Learned(Asked):
    """D(x, y), the score that a discriminator gives the answer as it is now (GAD 2511.10643)."""

    kind: Literal["learner"] = "learner"
    learner: str
    adversarial = True


@component("reward")
class Consensus(Asked):
    """1 where an answer agrees with its group's most frequent one and at least `at_least` members do, else 0 (GATES 2602.20574); of two as
    frequent ones, the first in the group's order. `extract` finds the part that is compared, as in `match`."""

    kind: Literal["consensus"] = "consensus"
    at_least: int = Field(2, ge=2)
    extract: str | None = None

    def part(self, text: str) -> str | None:
        """What is compared; None where the answer has no such part."""
        return Match(extract=self.extract).part(text)


@component("reward")
class Elsewhere(Asked):
    """What `reward` says of the same row of another stream, `on`, or (`scope: group`) its mean over that row's group: how the prompt fared there.
    Hinted text for prompts that failed without the hint (HDPO 2603.23871, STaR 2203.14465), a vote of other texts (GATES 2602.20574), the first
    answers as a baseline of the second (RLTF 2602.02482)."""

    kind: Literal["elsewhere"] = "elsewhere"
    on: str
    reward: Annotated[Any, Slot("reward")]
    scope: Literal["sequence", "group"] = "sequence"

    @model_validator(mode="after")
    def _alone(self) -> Elsewhere:
        inner = self.reward
        if not isinstance(inner, SequenceReward) or inner.reads() or inner.asks() or inner.adversarial or isinstance(inner, Elsewhere):
            raise ValueError("reward is one of whole answers that asks no judge and is made of no others; write a verifier, match, structure or consensus")
        return self
