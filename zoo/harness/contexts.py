"""Contexts made during the run: texts about what was written, kept with each sequence's prompt until a scorer or an author reads them.

A made text is a field of the sequence's own copy of its prompt, so that it follows the sequence through minibatches, micro-batches
and every later scoring without further bookkeeping.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from zoo.components.base import ABSENT, Context
from zoo.components.contexts import Answers, Lesson
from zoo.errors import ZooError
from zoo.harness.models import LoadedPair
from zoo.tensors import Author, Episode, Prompt, Rollout


class TaskJudge:
    """A pair's task and words, as made parts ask for them."""

    def __init__(self, pair: LoadedPair) -> None:
        self.pair = pair
        self.lessons: list[Lesson] = []  # kept by zoo.harness.experience

    @property
    def words(self) -> Mapping[str, str]:
        """The pair's words."""
        return self.pair.words

    @cached_property
    def pool(self) -> Sequence[Prompt]:
        """All training prompts."""
        return self.pair.task.prompts("train")

    def verify(self, check: str, text: str, prompt: Prompt) -> float:
        """The task's verdict."""
        return self.pair.verify(check, text, prompt)

    def feedback(self, text: str, prompt: Prompt) -> str:
        """What the task says about an answer.

        Raises:
            ZooError: the task gives none.
        """
        tell: Any = getattr(self.pair.task, "feedback", None)
        if tell is None:
            raise ZooError(f"the task of pair '{self.pair.spec.id}' gives no feedback on answers; use a context without feedback, or another pair")
        return str(tell(text, prompt))

    @property
    def turns(self) -> Mapping[str, str]:
        """The pair's turn templates and marks."""
        return self.pair.spec.turns

    def tool(self, name: str, text: str, prompt: Prompt) -> str:
        """What one of the task's tools answers."""
        return str(self._task("tool", "has no tools")(name, text, prompt))

    def user(self, text: str, turn: int, prompt: Prompt) -> str | None:
        """What the task's simulated user says; None where it is content."""
        said = self._task("user", "has no simulated user")(text, turn, prompt)
        return None if said is None else str(said)

    def shards(self, prompt: Prompt, count: int) -> list[str]:
        """The prompt in parts, one a turn."""
        return list(self._task("shards", "does not cut its prompts")(prompt, count))

    def hidden(self, prompt: Prompt) -> str:
        """What only the environment knows."""
        return str(self._task("hidden", "has no hidden state")(prompt))

    def state(self, text: str, prompt: Prompt) -> float:
        """The state of the environment after a turn, in [0, 1]."""
        return float(self._task("state", "has no state")(text, prompt))

    def _task(self, name: str, lack: str) -> Any:
        found = getattr(self.pair.task, name, None)
        if found is None:
            raise ZooError(f"the task of pair '{self.pair.spec.id}' {lack}; use another environment, context or pair")
        return found

    def text(self, ids: Sequence[int]) -> str:
        """Token ids as text, stop tokens left out."""
        return self.pair.decode([i for i in ids if i not in self.pair.stop_ids])

    def texts(self, rollout: Rollout) -> list[str]:
        """What was written, sequence by sequence."""
        return [self.text(ids) for ids in written_ids(rollout)]

    def answers(self, rollout: Rollout) -> Answers:
        """A stream's sequences as texts."""
        return Answers(rollout.prompts, self.texts(rollout), rollout.group_B.tolist(), episodes=episodes_of(rollout, self.text))


def written_ids(rollout: Rollout) -> list[list[int]]:
    """Each response's tokens up to the last supervised one, unsupervised ones before it included. Of a dialogue it is the text that is
    judged: all of it, what the environment said last included, or the writer's last turn."""
    written_BT = rollout.written_BT.to("cpu")
    if rollout.turn_BT is not None:
        if rollout.judged == "all":
            written_BT = written_BT | (rollout.author_BT == int(Author.ENVIRONMENT)).cpu()
        else:
            turn_BT = torch.where(rollout.mask_BT, rollout.turn_BT, -1)
            written_BT = (rollout.mask_BT & (turn_BT == turn_BT.amax(1, keepdim=True))).cpu()
    return [[i for i, m in zip(ids, mask, strict=True) if m] for ids, mask in zip(rollout.response_BT.tolist(), written_BT.tolist(), strict=True)]


def episodes_of(rollout: Rollout, decode: Callable[[list[int]], str]) -> list[Episode]:
    """The dialogues of a rollout as text, none where nobody answers; `decode` turns token ids into text, stop tokens left out."""
    found: list[Episode] = []
    if rollout.turn_BT is None:
        return found
    turns_BT, reply_BT = rollout.turns_BT.tolist(), (rollout.author_BT == int(Author.ENVIRONMENT)).tolist()
    for b, prompt in enumerate(rollout.prompts):
        ids, turns, replies = rollout.response_BT[b].tolist(), turns_BT[b], reply_BT[b]
        own = rollout.mask_BT[b].tolist()
        count = 1 + max((turn for turn, m in zip(turns, own, strict=True) if m), default=-1)
        said = [decode([i for i, t, m in zip(ids, turns, own, strict=True) if m and t == k]) for k in range(count)]
        heard = [[i for i, t, r in zip(ids, turns, replies, strict=True) if r and t == k] for k in range(count)]
        found.append(Episode(prompt.text, tuple(said), tuple(decode(reply) if reply else None for reply in heard)))
    return found


def made_prompts(
    prompts: Sequence[Prompt], named: Iterable[tuple[Context, Context]], answers_of: Mapping[str | None, Answers], judge: TaskJudge
) -> tuple[Prompt, ...]:
    """One prompt for each sequence, with the texts of all made parts among its fields.

    `named` pairs each context with itself as of now, its schedules resolved; `answers_of` holds the sequences of the streams that
    parts read, under None those that the context is for.
    """
    fields: list[dict[str, str]] = [{} for _ in prompts]

    def keep(key: str, texts: Sequence[str | None]) -> None:
        for own, text in zip(fields, texts, strict=True):
            own[key] = ABSENT if text is None else text

    for declared, now in named:
        for part, resolved in zip(declared.made, now.made, strict=True):
            if declared.per == "sequence":
                keep(declared.key(part), resolved.texts(answers_of, judge))
                continue
            for turn in range(max((len(episode.said) for episode in answers_of[None].episodes), default=1)):
                at = {name: answers.at(turn) if answers.episodes else answers for name, answers in answers_of.items()}
                keep(turn_key(declared, part, turn), resolved.texts(at, judge))
    return tuple(replace(prompt, fields={**prompt.fields, **own}) if own else prompt for prompt, own in zip(prompts, fields, strict=True))


def turn_key(context: Context, part: Any, turn: int) -> str:
    """The field under which the text of a made part is kept for one turn."""
    return f"{context.key(part)}#{turn}"


def lacks(prompt: Prompt, context: Context | None, turn: int | None = None) -> bool:
    """Whether a part of the context has nothing to show for this sequence, or for one of its turns."""
    if context is not None and turn is not None:
        return any(prompt.fields.get(turn_key(context, part, turn)) == ABSENT for part in context.made)
    return context is not None and any(prompt.fields.get(context.key(part)) == ABSENT for part in context.made)


def absent(rollout: Rollout, context: Context | None) -> Tensor | None:
    """Sequences (B,), or tokens (B, T) where each turn has a context, that a scorer must leave out; None where it leaves none out by its
    nature."""
    if context is None or not context.made or context.absent == "plain":
        return None
    if context.per == "turn":
        return torch.stack([
            torch.isin(turn_T, torch.tensor([k for k in range(int(turn_T.max()) + 1) if lacks(prompt, context, k)], device=turn_T.device, dtype=turn_T.dtype))
            for prompt, turn_T in zip(rollout.prompts, rollout.turns_BT, strict=True)
        ])  # fmt: skip
    return torch.tensor([lacks(prompt, context) for prompt in rollout.prompts], device=rollout.mask_BT.device)
