"""A whole objective on the six tokens, as the training loop runs it: columns, signals, denominators, loss in chunks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.compat import problems
from zoo.entry import MethodEntry
from zoo.method import Method, Prepared, annotate
from zoo.statistics import Explored, Statistic, TokenContext
from zoo.tensors import Rollout
from zoo.views import LogitView

Models = Mapping[str, Tensor]  # scorer -> logits (B, T, V)


def entry_of(objective: Sequence[Mapping[str, Any]], **sections: Any) -> MethodEntry:
    """An entry around an objective; one external teacher and one student's stream unless told otherwise."""
    usual: dict[str, Any] = {"rollouts": {"main": "student"}, "teachers": {"teacher": "external"}}
    about = {"id": "x", "name": "X", "paper": {}, "evidence": {"level": "inferred", "source": "a test"}, "fixed_point": "none", "anchor": "trained"}
    return MethodEntry.model_validate({**about, **usual, **sections, "objective": tuple(objective)})


def legal(entry: MethodEntry) -> MethodEntry:
    """The entry, which no compatibility rule refuses."""
    assert problems(entry) == []
    return entry


def view_of(method: Method, rollout: Rollout, models: Models, chunk: slice = slice(None), values: Mapping[str, Tensor] | None = None) -> LogitView:
    """The scorers' distributions at a slice of the supervised tokens; the student is the only one with a gradient."""
    mask_BT = rollout.mask_BT
    logits = {name: (lambda at_BTV=at_BTV: at_BTV[mask_BT][chunk]) for name, at_BTV in models.items()}
    critics = {name: (lambda value_BT=value_BT: value_BT[mask_BT][chunk]) for name, value_BT in (values or {}).items()}
    states = {name: (lambda layers, logits_NV=logits_NV: [logits_NV()]) for name, logits_NV in logits.items()}  # logits stand in for hidden states
    return LogitView(rollout.response_BT[mask_BT][chunk], logits, method.targets, critics, states=states)


def contexts_of(
    method: Method, rollouts: Mapping[str, Rollout], models: Models, rewards: Mapping[str, Tensor], values: Mapping[str, Tensor] | None = None
) -> dict[str, TokenContext]:
    """Each stream's columns, without gradient."""
    found = {}
    with torch.no_grad():
        for name, rollout in rollouts.items():
            columns: dict[Statistic, Tensor] = {}
            annotate(method.statistics(name), view_of(method, rollout, models, values=values), rollout.mask_BT, slice(None), columns)
            # Columns about other texts, which no given logits show: the same number for each token, so that they depend on neither place nor order.
            columns |= {each: 0.25 * rollout.mask_BT.to(next(iter(models.values())).dtype) for each in method.statistics(name) if isinstance(each, Explored)}
            turns = dict.fromkeys(method.turn_rewards(name), torch.zeros(rollout.mask_BT.shape))
            found[name] = TokenContext(rollout, columns, rewards, turn_rewards=turns)
    return found


def loss_of(
    method: Method, prepared: Sequence[Prepared], rollouts: Mapping[str, Rollout], models: Models, *, chunk: int = 4, values: Mapping[str, Tensor] | None = None
) -> Tensor:
    """The differentiable loss of one step, `chunk` tokens at a time."""
    total = torch.zeros((), dtype=models["student"].dtype)
    for name, rollout in rollouts.items():
        parts = [part for part in prepared if part.stream == name]
        count = rollout.tokens
        for start in range(0, count if parts else 0, chunk):
            piece = slice(start, start + chunk)
            view = view_of(method, rollout, models, piece, values)
            loss, _ = method.chunk_loss(parts, view, lambda value_BT, piece=piece, rollout=rollout: value_BT[rollout.mask_BT][piece])  # type: ignore[misc]
            total = total + loss
    return total
