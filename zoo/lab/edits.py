"""Texts that are changed after they were written, and texts beside which a given answer lies."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from zoo.components.contexts import Answers, Lesson
from zoo.components.rollouts import Dataset, Edited, Mixture, Stream
from zoo.components.rollouts.base import author_of
from zoo.lab.doubles import LETTERS, PROMPT, Tables, verified
from zoo.lab.laws import Exempt, Ints, Law, unrolled
from zoo.lab.world import Array, World
from zoo.lab.writing import warped
from zoo.tensors import Author, Prompt

MARK = 0  # the token that stands for the pair's mark
WORDS = {"right": "1", "wrong": "0", "rate": "{rate}", "between": "", "mark": LETTERS[MARK]}


@dataclass(frozen=True)
class LabJudge:
    """The task in the lab: fair coins for checks; a share in digits for every word."""

    world: World
    pool: Sequence[Prompt] = (PROMPT,)
    lessons: Sequence[Lesson] = ()

    @property
    def words(self) -> Mapping[str, str]:
        """The pair's words."""
        return WORDS

    @cached_property
    def places(self) -> dict[str, int]:
        """The number of each text in the world."""
        return {spelled(text, self.world): i for i, text in enumerate(self.world.texts)}

    def verify(self, check: str, text: str, prompt: Prompt) -> float:
        """The coin of a text; one that is cut before the world's horizon fails."""
        return float(verified(self.world, check)[self.places[text]]) if text in self.places else 0.0

    def feedback(self, text: str, prompt: Prompt) -> str:
        """The verdict of the answer's check."""
        return WORDS["right" if self.verify("answer", text, prompt) > 0.5 else "wrong"]

    def hidden(self, prompt: Prompt) -> str:
        """The given answer."""
        return prompt.fields["answer"]


def spelled(tokens: Sequence[int], world: World) -> str:
    """A text in letters, a full stop for the stop token."""
    return "".join("." if token == world.stop else LETTERS[token] for token in tokens)


def written_as(said: str, world: World) -> int:
    """The one token that stands for a computed text: a share between 0 and 1 by its size, anything else by its bytes."""
    try:
        share = float(said)
    except ValueError:
        return zlib.crc32(said.encode()) % world.stop
    return min(int(share * world.stop), world.stop - 1)


def edited(stream: Edited, source: Law, tables: Tables) -> Law:
    """Each row of the source up to the first mark, the mark, the token of the computed text, and the stop."""
    world = tables.world
    if others := [name for name in stream.sources if name != stream.of]:
        raise Exempt(f"rollout.edited: its text is computed from another stream, '{others[0]}'")
    size_R = (source.state_RT >= 0).sum(1)
    texts = [tuple(row[:n].tolist()) for row, n in zip(source.token_RT, size_R, strict=True)]
    answers = Answers((PROMPT,) * len(source), [spelled(text, world) for text in texts], source.outcome_R.tolist())
    put = stream.put.texts({None: answers, stream.of: answers}, LabJudge(world))
    index = {prefix: i for i, prefix in enumerate(world.states)}
    columns = {name: getattr(source, name).copy() for name in ("token_RT", "state_RT", "author_RT", "behaviour_RT", "finished_R")}
    for row, (text, said) in enumerate(zip(texts, put, strict=True)):
        body = text[:-1] if text[-1:] == (world.stop,) else text
        kept = body[: body.index(MARK)] if MARK in body else body
        tokens = text if said is None else (*kept, MARK, written_as(said, world), world.stop)[: world.horizon]
        same = next((t for t, (old, new) in enumerate(zip(text, tokens, strict=False)) if old != new), min(len(text), len(tokens)))
        learned = range(0) if said is None else range(0 if stream.supervise == "all" else same, len(tokens))
        columns["state_RT"][row] = [index[tokens[:t]] if t in learned else -1 for t in range(world.horizon)]
        columns["token_RT"][row] = [*tokens, *[0] * (world.horizon - len(tokens))]
        columns["author_RT"][row, same:], columns["behaviour_RT"][row, same:] = int(Author.COMPUTED), np.nan
        columns["finished_R"][row] = tokens[-1] == world.stop
    return replace(source, **columns)


def gold_texts(tables: Tables) -> list[tuple[tuple[int, ...], float]]:
    """The given answer: every text of the data set with its probability."""
    fields = {teacher.field for teacher in tables.entry.teachers.values() if teacher.given}  # type: ignore[attr-defined]
    if len(fields) != 1:
        raise Exempt("teacher.labels: two fields of one prompt as labels")
    logp_SV = tables.data("dataset", fields.pop())
    law = unrolled(tables.world, tables.world.horizon, lambda s, t: (np.exp(logp_SV[s])[:, None], logp_SV[s], (int(Author.DATASET),)))
    return [(tuple(row[state >= 0].tolist()), float(m)) for row, state, m in zip(law.token_RT, law.state_RT, law.probability_R, strict=True)]


def _labels(text: tuple[int, ...], width: int) -> list[int]:
    """The label at each index: the stop token from the answer's end on."""
    return [text[min(t, len(text) - 1)] for t in range(width)]


def labelled(stream: Stream, tables: Tables, horizon: int) -> Law:
    """A stream in which the given answer writes too: for each given answer all that may be written, with the answer beside it."""
    shares = np.array(stream.shares) if isinstance(stream, Mixture) else np.ones(1)
    laws = {name: warped(stream, name, tables) for name in stream.reads if not tables.given(name)}
    authors = tuple(int(author_of(name)) for name in stream.reads)
    parts = []
    for text, mass in gold_texts(tables):
        label_T = _labels(text, tables.world.horizon)

        def next_token(s: Ints, t: int, label_T: list[int] = label_T) -> tuple[Array, Array, tuple[int, ...]]:
            sure_RV = np.tile(np.eye(tables.world.vocabulary)[label_T[t]], (len(s), 1))
            joint_RAV = shares[:, None] * np.stack([np.exp(laws[name][s]) if name in laws else sure_RV for name in stream.reads], 1)
            with np.errstate(divide="ignore"):
                return joint_RAV, np.log(joint_RAV.sum(1)), authors

        law = unrolled(tables.world, horizon, next_token)
        parts.append(replace(law, probability_R=mass * law.probability_R, label_RT=np.tile(label_T, (len(law), 1))))
    return _joined(parts)


def beside_labels(law: Law, stream: Stream, tables: Tables) -> Law:
    """A law with a given answer beside each outcome: independent of what was written, or that very text where it is the data set's."""
    gold = gold_texts(tables)
    if isinstance(stream, Dataset) and any(stream.field == getattr(t, "field", None) for t in tables.entry.teachers.values()):
        size_R = (law.state_RT >= 0).sum(1)
        return replace(law, label_RT=np.array([_labels(tuple(row[:n]), law.token_RT.shape[1]) for row, n in zip(law.token_RT, size_R, strict=True)]))
    width = law.token_RT.shape[1]
    return _joined([replace(law, probability_R=m * law.probability_R, label_RT=np.tile(_labels(text, width), (len(law), 1))) for text, m in gold])


def _joined(parts: list[Law]) -> Law:
    """Alternatives as one law; their probabilities add up to 1."""
    names = ("token_RT", "state_RT", "author_RT", "behaviour_RT", "finished_R", "probability_R", "label_RT")
    joined: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    starts = np.cumsum([0, *[part.outcomes for part in parts[:-1]]])
    outcome_R = np.concatenate([part.outcome_R + start for part, start in zip(parts, starts, strict=True)])
    return replace(parts[0], **joined, outcome_R=outcome_R)
