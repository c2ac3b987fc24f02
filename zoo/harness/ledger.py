"""What a run has used and what each of its steps left behind."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from zoo.errors import ZooError
from zoo.harness.parallel import Processes
from zoo.method import Method, Prepared
from zoo.statistics import TokenContext


class Diverged(ZooError):
    """The loss or a gradient stopped being finite."""


@dataclass
class Spent:
    """What a run has used so far; tokens are global, over all processes."""

    supervised_tokens: int = 0
    generated_tokens: int = 0
    teacher_tokens: int = 0
    steps: int = 0
    rollouts: int = 0
    seconds: float = 0.0
    flops_estimate: float = 0.0


@dataclass
class Phases:
    """Seconds and tokens by phase."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("rollout", "score", "update"), 0.0))
    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("rollout", "score", "update"), 0))

    def add(self, phase: str, seconds: float, tokens: int) -> None:
        """Count some work; `diagnose` is a phase where anything was looked at, and no part of what the method costs."""
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds
        self.tokens[phase] = self.tokens.get(phase, 0) + tokens


def row_of(
    method: Method, contexts: Mapping[str, TokenContext], values: Mapping[int, Tensor], processes: Processes, device: torch.device, **known: float
) -> dict[str, Any]:
    """A step's row of metrics: what is `known`, each term's loss, each stream's lengths and rewards.

    Raises:
        Diverged: a loss is not finite.
    """
    total = processes.total
    row: dict[str, Any] = dict(known)
    for index, value in values.items():
        row[f"loss.{index}.{method.entry.objective[index].term}"] = float(total(value))
    for name, context in contexts.items():
        rows = total(torch.tensor(float(len(context.rollout)), device=device))
        row[f"length.{name}"] = float(total(context.mask_BT.sum().float()) / rows)
        row[f"truncated.{name}"] = 1.0 - float(total(context.rollout.finished_B.float().sum()) / rows)
        for reward, value_B in context.rewards.items():
            row[f"reward.{reward}.{name}"] = float(total(value_B.float().sum()) / rows)
    losses = [v for k, v in row.items() if k.startswith("loss.")]
    if not all(math.isfinite(v) for v in losses):
        raise Diverged(f"a loss is not finite at step {row['step']}: {losses}")
    return row


def measures_of(
    row: Mapping[str, Any], method: Method, prepared: Sequence[Prepared], contexts: Mapping[str, TokenContext], processes: Processes
) -> dict[str, float]:
    """What a step left behind, by the names that adaptive schedules read. `loss` is what was descended; `loss.N` is one term's own,
    without its coefficient, so that a coefficient may follow it, and is not there where that is 0."""
    measures = {key: float(value) for key, value in row.items() if not key.startswith("loss.")}
    losses = {int(key.split(".")[1]): float(value) for key, value in row.items() if key.startswith("loss.")}
    factors = {index: float(method.entry.objective[index].coefficient) for index in losses}
    measures |= {f"loss.{index}": value / factors[index] for index, value in losses.items() if factors[index] != 0.0}
    if losses:
        measures["loss"] = sum(losses.values())
    for part in prepared:
        tokens = processes.total_int(int(contexts[part.stream].mask_BT.sum()))
        acted = processes.total_int(int((part.scale_BT != 0).sum()))
        measures.setdefault(f"kept.{part.term}", acted / max(tokens, 1))
    return measures
