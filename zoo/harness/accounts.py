"""What each teacher of a run was asked for: tokens that it scored and tokens that it wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zoo.harness.bank import LABELS, MIX, Bank
from zoo.harness.engine import ReferenceEngine
from zoo.harness.parallel import Processes
from zoo.harness.parts import Part

UNCOUNTED = ("student", "initial")


class Accounts(Part):
    """Totals over all processes by model: a teacher's name in the pair, or the copy of the student that it is. A route asks each of its teachers
    for its own prompts alone, and is charged so; teachers of one model in several contexts share an account."""

    def __init__(self, bank: Bank, engine: ReferenceEngine, processes: Processes) -> None:
        self.bank, self.engine, self.processes = bank, engine, processes
        models = {key.weights for key in bank.keys.values()} - set(UNCOUNTED)
        self.names = sorted(name for name in models if not name.startswith((MIX, LABELS)))
        self.tokens = {name: {"scored_tokens": 0, "written_tokens": 0} for name in self.names}
        if not processes.main:  # before the first step every process has asked the same
            bank.scored.clear()

    def after_step(self, metrics: Mapping[str, float]) -> None:
        wrote = {name: self.bank.explored.get(name, 0) for name in self.names}
        for teacher, tokens in self.engine.wrote.items():
            if (model := self.bank.keys[teacher].weights) in wrote:
                wrote[model] += tokens
        for name in self.names:
            self.tokens[name]["scored_tokens"] += self.processes.total_int(self.bank.scored.get(name, 0))
            self.tokens[name]["written_tokens"] += self.processes.total_int(wrote[name])
        self._settled()

    def _settled(self) -> None:
        for asked in (self.bank.scored, self.bank.explored, self.engine.wrote):
            asked.clear()

    def figures(self) -> dict[str, dict[str, int]]:
        """The accounts of those that were asked for anything."""
        return {name: dict(own) for name, own in self.tokens.items() if any(own.values())}

    def state_dict(self) -> dict[str, Any]:
        return {"tokens": self.tokens}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._settled()  # what is asked again before a run goes on was counted when it began
        self.tokens = {name: dict(own) for name, own in state["tokens"].items()}
