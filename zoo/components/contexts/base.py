"""Parts of a context that are made during the run: one text for each sequence, or none where there is nothing to show.

A scorer's context is made after the rollout from the very sequences that it scores; an author's from sequences written before,
which `of` names. A part fills the placeholder of its kind's name in the pair's template: `{attempt}`, `{peer_success}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol

from zoo.components.base import Component
from zoo.tensors import Episode, Prompt

Texts = list[str | None]


@dataclass(frozen=True)
class Lesson:
    """A text of an earlier episode, the prompt it answered, and whether it passed a check."""

    prompt: str
    fields: Mapping[str, str]
    text: str
    check: str
    right: bool


class Judge(Protocol):
    """What parts may ask: the task's checks, feedback and hidden state, the pair's words, the training prompts, and the lessons kept so far."""

    @property
    def words(self) -> Mapping[str, str]: ...

    @property
    def pool(self) -> Sequence[Prompt]: ...

    @property
    def lessons(self) -> Sequence[Lesson]: ...

    def verify(self, check: str, text: str, prompt: Prompt) -> float: ...

    def feedback(self, text: str, prompt: Prompt) -> str: ...

    def hidden(self, prompt: Prompt) -> str: ...


@dataclass(frozen=True)
class Answers:
    """Sequences as texts, side by side: each one's prompt, what was written to it, and its group; of streams with an environment also the
    dialogues, and which `turn` of them the texts are, if they are one."""

    prompts: Sequence[Prompt]
    texts: Sequence[str] = ()
    groups: Sequence[int] = ()
    passed: dict[str, list[bool]] = field(default_factory=dict, compare=False)
    episodes: Sequence[Episode] = ()
    turn: int | None = None

    def at(self, turn: int) -> Answers:
        """The same with one turn's texts, empty where a dialogue has no such turn."""
        texts = [episode.said[turn] if turn < len(episode.said) else "" for episode in self.episodes]
        return replace(self, texts=texts or self.texts, passed={}, turn=turn)

    def right(self, check: str, judge: Judge) -> list[bool]:
        """Whether each text passes a check; asked once."""
        if check not in self.passed:
            self.passed[check] = [judge.verify(check, text, prompt) > 0.5 for text, prompt in zip(self.texts, self.prompts, strict=True)]
        return self.passed[check]


class Part(Component):
    """Base of all parts. `outcome` marks those that tell what a verifier found; `reads_text` those that read what was written."""

    outcome: ClassVar[bool] = False
    reads_text: ClassVar[bool] = False
    needs_group: ClassVar[bool] = False

    def make(self, answers: Answers, judge: Judge) -> Texts:
        """The part's text for each sequence; None where there is none."""
        raise NotImplementedError

    @property
    def stream(self) -> str | None:
        """The stream whose texts are read; None for the one that is scored."""
        return getattr(self, "of", None)

    def alternatives(self) -> tuple[Part, ...]:
        """The part, and what stands in where it has nothing."""
        other = getattr(self, "otherwise", None)
        return (self,) if other is None else (self, *other.alternatives())

    def texts(self, answers_of: Mapping[str | None, Answers], judge: Judge) -> Texts:
        """`make` on the stream that is read, its gaps filled by `otherwise`."""
        found = self.make(answers_of[self.stream], judge)
        for part in self.alternatives()[1:]:
            if None in found:
                found = [mine if mine is not None else other for mine, other in zip(found, part.make(answers_of[part.stream], judge), strict=True)]
        return found


class TextPart(Part):
    """Parts that read the sequences of a stream: those that are scored, or those of the stream that `of` names, row by row."""

    of: str | None = None
    reads_text = True


class Checked(TextPart):
    """Parts that read a verifier's verdict by one of the task's checks."""

    check: str = "answer"
    outcome = True
