"""What a few exact steps along the update lower or raise: the metric that an entry declares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from zoo.components.rewards import Verifier
from zoo.lab import references as ref
from zoo.lab.doubles import Tables
from zoo.lab.engine import Bench
from zoo.lab.exact import COPIES, Weighing
from zoo.lab.laws import Exempt
from zoo.lab.measured import Measured
from zoo.lab.points import teachers_of
from zoo.views import LogitView

STEPS, STEP = 8, 0.05  # exact steps of the descent, and the largest change of a logit in each
Reading = Callable[[Tables], float]


@dataclass(frozen=True)
class Descent:
    """The declared metric before and after a few exact steps; a reward is to rise, everything else to fall."""

    metric: str
    before: float
    after: float
    reason: str | None = None

    @property
    def ok(self) -> bool | None:
        """None where the entry declares no metric."""
        if self.metric == "none":
            return None
        gained = self.after - self.before if self.metric == "expected_reward" else self.before - self.after
        return gained > 1e-12


def descent(bench: Bench, tables: Tables, start: Measured, metric: str, reason: str | None) -> Descent:
    """Take small exact steps along the whole update and read the metric."""
    if metric == "none" or not np.any(start.gradient):
        return Descent("none", 0.0, 0.0, reason or "the update is zero")
    read = {"own_loss": own_loss, "kl_to_teacher": _kl, "expected_reward": _reward}[metric](bench, tables, start)
    at, measured, before = tables, start, read(tables)
    for step in range(STEPS):
        at = at.at(at.student - torch.from_numpy(STEP * measured.gradient / np.abs(measured.gradient).max()))
        if step < STEPS - 1:
            measured = bench.measure(at)
            if not np.any(measured.gradient):
                break
    return Descent(metric, before, read(at), reason)


class _Holding(TorchFunctionMode):
    """While active, what is detached of the student's log-probabilities is what they were before it moved."""

    def __init__(self) -> None:
        super().__init__()
        self.before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.detach and id(args[0]) in self.before:
            return self.before[id(args[0])][1]
        return func(*args, **(kwargs or {}))

    def view(self, moved: LogitView, before: LogitView) -> LogitView:
        """The moved view, of which this mode knows the student's values before."""
        holding = self

        class Held(LogitView):
            def __init__(self) -> None:
                self.__dict__.update(moved.__dict__)

            def logp_NV(self, scorer: str, temperature: float = 1.0) -> Tensor:
                found = moved.logp_NV(scorer, temperature)
                if scorer == "student":
                    holding.before[id(found)] = (found, before.logp_NV(scorer, temperature))
                return found

        return Held()


def own_loss(bench: Bench, tables: Tables, start: Measured) -> Reading:
    """The loss on the first step's law, its advantages, gates, denominators and all that has no gradient held fixed."""
    prepared = start.prepared

    def read(at: Tables) -> float:
        total = 0.0
        with Weighing(), torch.no_grad():
            for part in prepared:
                law = start.laws[part.stream]
                mask_BT = torch.from_numpy(law.state_RT >= 0)
                leaf_NV = at.student.detach()[torch.from_numpy(law.state_RT[law.state_RT >= 0])]
                weight_BT = torch.from_numpy(law.probability_R)[:, None] * COPIES
                weighed = type(part)(part.term, part.stream, part.scale_BT * weight_BT, part.columns, part.value)
                with _Holding() as holding:
                    view = holding.view(bench.view(law, tables, leaf_NV), bench.view(law, tables))
                    loss, _ = bench.method.chunk_loss([weighed], view, lambda v_BT, m_BT=mask_BT: v_BT[m_BT])  # type: ignore[misc]
                total += float(loss)
        return total

    return read


def _kl(bench: Bench, tables: Tables, start: Measured) -> Reading:
    """KL(p || q) to the first teacher, over the states of the first step's streams."""
    names = teachers_of(bench) or ["reference"]
    if names[0] in bench.method.aligned:
        raise Exempt(f"lab_metric: kl_to_teacher compares laws over one vocabulary, and '{names[0]}' has tokens of its own")
    states = len(bench.world.states)
    weight_S = sum((law.visits(states) for law in start.laws.values()), np.zeros(states))

    def read(at: Tables) -> float:
        p_SV, q_SV = (ref.log_softmax(t.numpy()) for t in (at.student.detach(), at.logits(names[0]).detach()))
        return float(weight_S @ (np.exp(p_SV) * (p_SV - q_SV)).sum(-1))

    return read


def _reward(bench: Bench, tables: Tables, start: Measured) -> Reading:
    """The chance that the verifier accepts what the student writes."""
    named = sorted((n for n, r in bench.entry.rewards.items() if r.per_sequence), key=lambda n: not isinstance(bench.entry.rewards[n], Verifier))
    reward_SV = next((found for name in named if (found := bench.text_values(name)) is not None), None)
    if reward_SV is None:
        raise Exempt("lab_metric: expected_reward, but no reward of whole answers that depends on them alone")

    def read(at: Tables) -> float:
        p_SV = np.exp(ref.log_softmax(at.student.detach().numpy()))
        return float((p_SV[0] * ref.action_values(bench.world, p_SV, reward_SV)[0]).sum())

    return read
