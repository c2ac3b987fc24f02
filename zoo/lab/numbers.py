"""What anybody needs to reckon a measurement again: the tables of one entry and the update that was found, as plain data."""

from __future__ import annotations

from typing import Any

from zoo.components.rollouts import Corpus, Dataset, Mixture, Stream
from zoo.lab.doubles import Tables
from zoo.lab.engine import Bench
from zoo.lab.measured import Measured
from zoo.lab.writing import read_logits


def numbers_of(bench: Bench, tables: Tables, start: Measured) -> dict[str, Any]:
    """The states in order, logits (S, V) of the student, of scorers, and of who writes each stream (before temperature and top-p), the rewards of
    texts at their last tokens, and the update, minus the gradient, of each term that acts at the `moment`."""
    scorers = ["reference", *(name for name in bench.entry.teachers if name not in bench.method.aligned and not tables.given(name))]
    rewards = {name: bench.text_values(name) for name, reward in bench.entry.rewards.items() if reward.per_sequence}
    return {
        "moment": bench.progress,
        "states": [list(state) for state in bench.world.states],
        "student": tables.student.tolist(),
        "scorers": {name: tables.logits(name).tolist() for name in scorers},
        "writers": {name: _writers(stream, tables) for name, stream in bench.entry.rollouts.items()},
        "rewards": {name: values.tolist() for name, values in rewards.items() if values is not None},
        "update": {str(index): (-gradient).tolist() for index, gradient in start.by_term.items()},
    }


def _writers(stream: Stream, tables: Tables) -> dict[str, Any]:
    found = {name: read_logits(stream, name, tables).tolist() for name in stream.reads if not tables.given(name)}
    parts = [stream, *((stream.part(name) for name in stream.names) if isinstance(stream, Mixture) else ())]
    return found | {part.author: tables.data(part.author, part.field).tolist() for part in parts if isinstance(part, Dataset | Corpus)}
