"""Parts about texts of the run as wholes: attempts, verdicts, peers, and pieces of the prompts."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from zoo.components.base import Number, Slot, check_range, component
from zoo.components.contexts.base import Answers, Checked, Judge, Part, TextPart, Texts
from zoo.tensors import Prompt


@component("context")
class Attempt(TextPart):
    """The text of the sequence itself, or of the same row of another stream."""

    kind: Literal["attempt"] = "attempt"

    def make(self, answers: Answers, judge: Judge) -> Texts:
        return list(answers.texts)


@component("context")
class Reflection(TextPart):
    """What the model wrote about its attempt: the text of a stream that was asked for it, `of` (AMR-SD 2605.18529)."""

    kind: Literal["reflection"] = "reflection"
    of: str

    def make(self, answers: Answers, judge: Judge) -> Texts:
        return list(answers.texts)


@component("context")
class Outcome(Checked):
    """Whether the attempt passes a check, in the pair's words `right` and `wrong`; `scope: group` gives the group's share of passes as
    the pair's word `rate` writes it (CaOPD 2604.16830)."""

    kind: Literal["outcome"] = "outcome"
    scope: Literal["sequence", "group"] = "sequence"

    def make(self, answers: Answers, judge: Judge) -> Texts:
        right = answers.right(self.check, judge)
        if self.scope == "sequence":
            return [judge.words["right" if passed else "wrong"] for passed in right]
        return [rate_text(share, judge) for share in pass_rates(answers, right)]


@component("context")
class Feedback(TextPart):
    """What the pair's task says about the attempt."""

    kind: Literal["feedback"] = "feedback"
    outcome = True

    def make(self, answers: Answers, judge: Judge) -> Texts:
        return [judge.feedback(text, prompt) for text, prompt in zip(answers.texts, answers.prompts, strict=True)]


class Peer(Checked):
    """Other members of the sequence's group with one verdict, never the sequence itself: at most `count` of them, the next ones in the
    group's order, cyclically, or the shortest. Without any, `otherwise` is asked, and without that the sequence has no context."""

    count: int = Field(1, ge=1)
    pick: Literal["next", "shortest"] = "next"
    otherwise: Annotated[Part, Slot("context")] | None = None
    needs_group = True
    wanted: ClassVar[bool] = True

    def make(self, answers: Answers, judge: Judge) -> Texts:
        right = answers.right(self.check, judge)
        members: dict[int, list[int]] = {}
        for row, group in enumerate(answers.groups):
            members.setdefault(group, []).append(row)
        found: Texts = []
        for row, group in enumerate(answers.groups):
            place = members[group].index(row)
            others = [i for i in members[group][place + 1 :] + members[group][:place] if right[i] == self.wanted]
            if self.pick == "shortest":
                others.sort(key=lambda i: len(answers.texts[i]))
            found.append(judge.words["between"].join(answers.texts[i] for i in others[: self.count]) if others else None)
        return found


@component("context")
class PeerSuccess(Peer):
    """A right answer of the same group (SDPO 2601.20802)."""

    kind: Literal["peer_success"] = "peer_success"


@component("context")
class PeerFailure(Peer):
    """A wrong answer of the same group (RLCSD 2606.11709)."""

    kind: Literal["peer_failure"] = "peer_failure"
    wanted = False


@component("context")
class GivenField(Part):
    """A field of the prompt, to stand in where another part has nothing."""

    kind: Literal["given"] = "given"
    shorthand = "name"
    name: str

    def make(self, answers: Answers, judge: Judge) -> Texts:
        return [prompt.fields.get(self.name) for prompt in answers.prompts]


@component("context")
class PartialSolution(Part):
    """The first `share` of a field's words, rounded up, at least one."""

    kind: Literal["partial_solution"] = "partial_solution"
    share: Number
    name: str = "solution"

    @model_validator(mode="after")
    def _range(self) -> PartialSolution:
        check_range("share", self.share, 0.0, 1.0)
        return self

    def make(self, answers: Answers, judge: Judge) -> Texts:
        words = [prompt.fields[self.name].split(" ") if self.name in prompt.fields else None for prompt in answers.prompts]
        # Rounding must not turn 0.6 * 5 into 4 words.
        return [None if w is None else " ".join(w[: max(1, math.ceil(self.share * len(w) - 1e-9))]) for w in words]


@component("context")
class Ablated(Part):
    """The prompt's text without the first occurrence of the field `part`; no context where the text does not hold it."""

    kind: Literal["ablated"] = "ablated"
    part: str

    def make(self, answers: Answers, judge: Judge) -> Texts:
        removed = [prompt.fields.get(self.part) for prompt in answers.prompts]
        return [p.text.replace(gone, "", 1) if gone and gone in p.text else None for p, gone in zip(answers.prompts, removed, strict=True)]


@component("context")
class OtherPrompt(Part):
    """The text of another training prompt, number `index` of those that a prompt's own text picks, so that neither batch nor order
    matters (the contrast of CREDIT 2605.11613, which takes prompts of the batch)."""

    kind: Literal["other_prompt"] = "other_prompt"
    index: int = Field(0, ge=0)

    def make(self, answers: Answers, judge: Judge) -> Texts:
        return [self._other(prompt.text, judge.pool) for prompt in answers.prompts]

    def _other(self, text: str, pool: Sequence[Prompt]) -> str | None:
        start = int.from_bytes(hashlib.sha256(f"{self.index}:{text}".encode()).digest()[:8], "big")
        return next((other for step in range(len(pool)) if (other := pool[(start + step) % len(pool)].text) != text), None)


def pass_rates(answers: Answers, right: Sequence[bool]) -> list[float]:
    """For each sequence the share of its group's members that are right, itself included."""
    by_group: dict[int, list[bool]] = {}
    for group, passed in zip(answers.groups, right, strict=True):
        by_group.setdefault(group, []).append(passed)
    return [sum(by_group[group]) / len(by_group[group]) for group in answers.groups]


def rate_text(share: float, judge: Judge) -> str:
    """A share in the pair's word `rate`, which may hold `{rate}` (0 to 1) or `{percent}` (a whole number)."""
    return judge.words["rate"].format(rate=share, percent=round(100 * share))
