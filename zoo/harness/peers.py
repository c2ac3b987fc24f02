"""Learners with terms of their own: they learn on the student's sequences, beside it, as if each were the student of an entry of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from zoo.components.learners import Model
from zoo.components.teachers import LiveWeights, SelfTeacher
from zoo.entry import MethodEntry
from zoo.harness.bank import LEARNER, Bank, ScorerKey
from zoo.harness.parallel import Processes
from zoo.harness.parts import Part, load_optimizer_tensors, optimizer_tensors
from zoo.harness.scoring import backward, score
from zoo.method import Method
from zoo.tensors import Rollout

PUPIL = "pupil"


class Learning(Part):
    """A peer, or a model with an adapter: its parameters, optimizer and terms."""

    def __init__(self, name: str, spec: Model, entry: MethodEntry, bank: Bank, processes: Processes, clip_norm: float) -> None:
        self.model, self.processes, self.clip_norm = bank.models[f"{LEARNER}{name}"], processes, clip_norm
        teachers = {**entry.teachers, PUPIL: SelfTeacher(weights=LiveWeights())}
        self.entry = entry.model_copy(update={"objective": spec.objective, "teachers": teachers, "learners": {}})
        keys = {**bank.keys, "student": ScorerKey(f"{LEARNER}{name}"), PUPIL: ScorerKey("student")}
        self.bank = replace(bank, keys=keys, values={}, projectors={}, scored=Counter())
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=spec.learning_rate, weight_decay=0.0)

    def parameters(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def learn(self, rollouts: Mapping[str, Rollout], progress: float) -> None:
        """Gather the gradient of its terms on the sequences of one step, before anyone moves."""
        method = Method(self.entry, progress)
        streams = {name for _, term in method.terms for name in term.streams()} & set(rollouts)
        scored = {name: score(method, self.bank, name, rollouts[name], self.processes.total, others=rollouts) for name in sorted(streams)}
        prepared = method.prepare({name: part.context for name, part in scored.items()})
        for name, part in scored.items():
            if mine := [p for p in prepared if p.stream == name]:
                backward(method, self.bank, part, mine)

    def after_step(self, metrics: Mapping[str, float]) -> None:
        grown = [p for p in self.parameters() if p.grad is not None]
        if grown:
            torch.nn.utils.clip_grad_norm_(grown, self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        own = {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}
        return {**{f"model.{name}": value for name, value in own.items()}, **optimizer_tensors(self.optimizer)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, p in self.model.named_parameters():
            if p.requires_grad:
                p.copy_(state[f"model.{name}"])
        load_optimizer_tensors(self.optimizer, state)


def make_peers(entry: MethodEntry, bank: Bank, processes: Processes, clip_norm: float) -> dict[str, Part]:
    """The learners of an entry that have terms of their own."""
    specs = {name: spec for name, spec in entry.learners.items() if isinstance(spec, Model)}
    return {f"{LEARNER}{name}": Learning(name, spec, entry, bank, processes, clip_norm) for name, spec in specs.items()}
