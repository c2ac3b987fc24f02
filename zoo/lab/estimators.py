"""The numbers of the estimator boundary table and of the truncation table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from zoo.lab import references as ref
from zoo.lab.claims import TermReferences
from zoo.lab.engine import Bench
from zoo.lab.synthetic import Row, estimator_rows, truncation_rows
from zoo.lab.world import Array, World, world_of

HORIZONS = (2, 3, 4, 5)
SMALL = 1e-9  # below it a number is rounding, and printed as 0


@dataclass(frozen=True)
class EstimatorNumbers:
    """Bias and cosine against (a) and (b); trace of the covariance of one sequence's gradient by horizon, and how it grows."""

    row: Row
    state: tuple[float, float]
    sequence: tuple[float, float]
    variance: tuple[float, ...]
    tokens: float
    growth: float | None
    null: bool

    @property
    def per_token(self) -> float:
        """At the longest horizon, per token."""
        return self.variance[-1] / self.tokens


def clean(value: float) -> float:
    """A number whose rounding errors are 0."""
    return 0.0 if abs(value) < SMALL else value


@lru_cache(maxsize=1)
def estimator_numbers() -> tuple[EstimatorNumbers, ...]:
    """All rows; the same numbers on every machine up to the last digits, which are not printed."""
    return tuple(_numbers(row) for row in estimator_rows())


def _numbers(row: Row) -> EstimatorNumbers:
    world = world_of(3, 2) if row.group else world_of(4, 3)
    bench = Bench(row.entry, world)
    tables = bench.tables()
    found = bench.measure(tables)
    at = TermReferences(bench, tables, 0, found.laws["main"])
    q_SV = np.exp(at.logp("teacher"))
    of_states = ref.divergence_field(ref.visits(world, at.p), at.p, q_SV, row.divergence, {})
    of_sequences = at.reverse_kl("sequence")
    if of_states is None or of_sequences is None:
        raise ValueError("a row of the table compares with a divergence to a teacher")
    state, sequence = ref.compare(found.gradient, of_states), ref.compare(found.gradient, of_sequences)
    size = float(np.linalg.norm(found.gradient))
    null = size <= 1e-10 * math.sqrt(found.second[0])
    variance, tokens = [], 0.0
    for horizon in HORIZONS:
        longer = Bench(row.entry, world_of(2 if row.group else 3, horizon))
        measured = longer.measure(longer.tables())
        size_of_group = 4 if row.group else 1
        variance.append(clean(max(measured.variance(0), 0.0) * size_of_group))
        tokens = measured.tokens / size_of_group
    growth = math.log(variance[-1] / variance[0]) / math.log(HORIZONS[-1] / HORIZONS[0]) if min(variance) > 0 else None
    return EstimatorNumbers(row, _cleaned(state), _cleaned(sequence), tuple(variance), tokens, growth, null)


def _cleaned(pair: tuple[float, float]) -> tuple[float, float]:
    return clean(pair[0]), clean(pair[1])


@dataclass(frozen=True)
class TruncationNumbers:
    """Where the student's mass on the support comes to rest from two starts, and how far its shape there is from the teacher's."""

    row: Row
    student: tuple[float, float]
    teacher: float
    shape: float
    rest: float


CONE = World(5, 1)
TEACHER = np.log(np.array([0.45, 0.25, 0.15, 0.1, 0.05]))
STARTS = (np.log(np.array([0.3, 0.3, 0.2, 0.1, 0.1])), np.log(np.array([0.1, 0.1, 0.2, 0.3, 0.3])))


@lru_cache(maxsize=1)
def truncation_numbers() -> tuple[TruncationNumbers, ...]:
    """Every mass handling, followed to its rest in one state of five tokens with the teacher's two best as the support."""
    return tuple(_truncated(row) for row in truncation_rows())


def _truncated(row: Row, steps: int = 400, rate: float = 4.0) -> TruncationNumbers:
    bench, found, rest, shape = Bench(row.entry, CONE, fit=False), [], 0.0, 0.0
    teacher_1V = torch.from_numpy(TEACHER[None].copy())
    for start in STARTS:
        tables = bench.tables(torch.from_numpy(start[None].copy()))
        tables.pinned = {"teacher": teacher_1V}
        for _ in range(steps):
            gradient = bench.measure(tables).gradient
            rest = float(np.abs(gradient).max())
            if rest < 1e-12:
                break
            tables = tables.at(tables.student - rate * torch.from_numpy(gradient))
        p_V: Array = np.exp(ref.log_softmax(tables.student.numpy()))[0]
        found.append(float(p_V[:2].sum()))
        q_V = np.exp(TEACHER[:2])
        shape = max(shape, float(np.abs(p_V[:2] / p_V[:2].sum() - q_V / q_V.sum()).max()))
    return TruncationNumbers(row, (found[0], found[1]), float(np.exp(TEACHER[:2]).sum()), shape, rest)
