"""The numbers of the routing table: what one negative update does to each probability, and what all of them do in the mean."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from zoo.lab import references as ref
from zoo.lab.engine import Bench
from zoo.lab.estimators import CONE, clean
from zoo.lab.synthetic import Row, routing_rows
from zoo.lab.world import Array

STUDENT = np.array([0.6, 0.25, 0.1, 0.04, 0.01])  # the worked example of D.9
TEACHER = np.array([0.3, 0.05, 0.35, 0.2, 0.1])
TOP = 2


@dataclass(frozen=True)
class RoutingNumbers:
    """First-order changes per unit of learning rate. `moved` by sampled token: the change of each probability; `reach` the share of the
    mass gained by others that the teacher's best tokens get; `kl` the change of KL(p || q); `cosine` with the gradient of KL(p || q)."""

    row: Row
    moved: dict[int, Array]
    reach: dict[int, float]
    kl: dict[int, float]
    losers: dict[int, int]
    mean_kl: float
    cosine: float
    reach_all: float


@lru_cache(maxsize=1)
def routing_numbers() -> tuple[RoutingNumbers, ...]:
    """Every routing on the worked example."""
    return tuple(_numbers(row) for row in routing_rows())


def change(p_V: Array, update_V: Array) -> Array:
    """First-order change of probabilities when logits move by `update`."""
    found: Array = p_V * (update_V - float(p_V @ update_V))
    return found


def update_after(bench: Bench, token: int | None) -> Array:
    """Minus the gradient when this token is written, or in the mean."""
    tables = bench.tables(torch.from_numpy(np.log(STUDENT)[None].copy()))
    tables.pinned = {"teacher": torch.from_numpy(np.log(TEACHER)[None].copy())}
    laws = bench.laws(tables)
    if token is not None:
        law = laws["main"]
        one = law.rows(np.flatnonzero(law.token_RT[:, 0] == token))
        laws = {"main": type(one)(**{**vars(one), "probability_R": np.ones(1), "outcome_R": np.zeros(1, dtype=np.int64)})}
    found: Array = -bench.measure(tables, laws).gradient[0]
    return found


def _numbers(row: Row) -> RoutingNumbers:
    bench = Bench(row.entry, CONE, fit=False)
    slope_V = np.log(STUDENT / TEACHER)  # of KL(p || q) in the probabilities, up to a constant
    negative = [v for v in range(len(STUDENT)) if TEACHER[v] < STUDENT[v]]
    moved = {v: change(STUDENT, update_after(bench, v)) for v in negative}
    mean_V = update_after(bench, None)
    wanted_V = -ref.field(np.ones(1), STUDENT[None], np.log(TEACHER / STUDENT)[None])[0]
    return RoutingNumbers(
        row,
        moved,
        {v: clean(_reach(m, v)) for v, m in moved.items()},
        {v: clean(float(slope_V @ m)) for v, m in moved.items()},
        {v: int(sum(m[j] < -1e-12 for j in range(len(m)) if j != v)) for v, m in moved.items()},
        clean(float(slope_V @ change(STUDENT, mean_V))),
        clean(ref.compare(mean_V, wanted_V)[1]),
        clean(_reach(sum(STUDENT[v] * m for v, m in moved.items()), -1)),
    )


def _reach(moved_V: Array, token: int) -> float:
    gained_V = np.maximum(moved_V, 0.0)
    if token >= 0:
        gained_V[token] = 0.0
    best = np.argsort(-TEACHER, kind="stable")[:TOP]
    return float(gained_V[best].sum() / gained_V.sum()) if gained_V.sum() > 0 else 0.0
