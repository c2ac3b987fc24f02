"""Local models with another tokenizer as authors: each reads and writes in its own tokens, and what it wrote reaches the student as text.

Nobody knows how probable the text was in the student's tokens, so its log-probabilities are NaN, like a closed teacher's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from zoo.components.base import Context
from zoo.components.rollouts.decoded import Teacher
from zoo.components.teachers import External
from zoo.entry import MethodEntry
from zoo.harness.decode import by_length
from zoo.harness.endpoint.texts import columns_of
from zoo.harness.models import LoadedPair, stop_ids_of
from zoo.harness.writers import Writers
from zoo.seeds import uniforms
from zoo.tensors import Prompt


@dataclass(frozen=True)
class Interpreter:
    """One author. `name` is the teacher's name in the entry, `source` the pair's name of the model."""

    pair: LoadedPair
    name: str
    source: str
    writers: Writers

    @property
    def tokenizer(self) -> Any:
        """The author's own."""
        return self.pair.tokenizers[self.source]

    def write(
        self, stream: Teacher, prompts: Sequence[Prompt], context: Context | None, begun: Sequence[str], seeds: Sequence[int], limit: int, draw: int
    ) -> list[tuple[str, bool]]:
        """One text behind each prompt and beginning, of at most `limit` of the author's tokens, and whether it ended by itself. A beginning that ends
        within what would be one of its tokens is shown as it is, in pieces that the author may rarely have seen."""
        rows = [[*self.pair.format_prompt(p, context, self.source), *self._encode(head)] for p, head in zip(prompts, begun, strict=True)]
        found: list[tuple[str, bool]] = [("", False)] * len(rows)
        for chunk in by_length(rows, self.writers.batch(stream)):
            uniform_TUB = torch.stack([uniforms([seeds[i] for i in chunk], limit, stream=draw).T], 1)
            written = self.writers.write(stream, {self.name: [rows[i] for i in chunk]}, uniform_TUB, score_student=False)
            for i, ids, mask, finished in zip(chunk, written.response_BT.tolist(), written.mask_BT.tolist(), written.finished_B.tolist(), strict=True):
                kept = [token for token, m in zip(ids, mask, strict=True) if m]
                found[i] = str(self.tokenizer.decode(kept, skip_special_tokens=True)), bool(finished)
        return found

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False)) if text else []


def foreign(pair: LoadedPair, model: str) -> bool:
    """Whether one of the pair's models has tokens of its own."""
    return model in pair.tokenizers and bool(pair.tokenizers[model].get_vocab() != pair.tokenizer.get_vocab())


def interpreters(entry: MethodEntry, pair: LoadedPair, max_batch: int, native: bool) -> dict[str, Interpreter]:
    """The entry's teachers that have tokens of their own, by name."""
    found = {}
    for name, teacher in entry.teachers.items():
        if not isinstance(teacher, External) or teacher.model not in pair.teachers or not foreign(pair, teacher.model):
            continue
        model, tokenizer = pair.teachers[teacher.model], pair.tokenizers[teacher.model]
        stops = stop_ids_of(model, tokenizer)
        size = min(len(tokenizer), model.get_output_embeddings().weight.shape[0])
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stops[0]
        found[name] = Interpreter(
            pair, name, teacher.model, Writers({name: model}, pad_id=pad, stop_ids=stops, vocab_size=size, max_batch=max_batch, native=native)
        )
    return found


def columns_of_texts(
    texts: Sequence[tuple[str, bool]], encoded: Sequence[Sequence[int]], stops: Sequence[int], limit: int, pad_id: int, device: torch.device
) -> Mapping[str, Any]:
    """A rollout's columns for such texts in the student's tokens. A text ends at the first of `stops` in it, an environment's mark say; one that
    ended by itself ends with `stops[0]`, one that was cut is cut."""
    ids, ended = [], []
    for (_, finished), row in zip(texts, encoded, strict=True):
        mark = next((place for place, token in enumerate(row) if token in stops), None)
        ids.append(list(row[: mark + 1]) if mark is not None else [*row, *([stops[0]] if finished else [])])
        ended.append(finished or mark is not None)
    columns = columns_of(ids, limit, pad_id, device)
    return {**columns, "finished_B": columns["finished_B"] & torch.tensor(ended, device=device)}
