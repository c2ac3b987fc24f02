"""What gates remember of earlier steps, as a part of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from zoo.components.gates.remembering import Remembering
from zoo.entry import MethodEntry
from zoo.harness.parts import Part
from zoo.statistics import TokenContext


class Remembered(Part):
    """The states of an entry's gates that remember, one for each such gate on each stream; equal gates on a stream share theirs."""

    def __init__(self, entry: MethodEntry, vocabulary: int) -> None:
        self.vocabulary = vocabulary
        found = [(stream, part) for term in entry.objective for stream, part in term.parts() if isinstance(part, Remembering)]
        self.gates = {(stream, gate.key): gate for stream, gate in found}
        self.states = {key: gate.begin(vocabulary) for key, gate in self.gates.items()}
        self.step: dict[tuple[str, str], dict[str, Tensor]] = {}

    def shown(self, contexts: Mapping[str, TokenContext]) -> dict[str, TokenContext]:
        """The contexts of a step with what their gates remember; what the step itself shows is kept until it is over."""
        measured = {key: gate for key, gate in self.gates.items() if key[0] in contexts and set(gate.statistics()) <= set(contexts[key[0]].columns)}
        self.step = {(stream, key): gate.seen(contexts[stream], self.vocabulary) for (stream, key), gate in measured.items()}
        return {
            name: replace(context, memory={key: self.states[stream, key] for stream, key in self.gates if stream == name}) for name, context in contexts.items()
        }

    def after_step(self, metrics: Mapping[str, float]) -> None:
        for key, seen in self.step.items():
            self.states[key] = self.gates[key].follow(self.states[key], seen, metrics["progress"])
        self.step = {}

    def state_dict(self) -> dict[str, Any]:
        return {f"{i}.{name}": value for i, state in enumerate(self.states.values()) for name, value in state.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for i, own in enumerate(self.states.values()):
            own.update({name: state[f"{i}.{name}"] for name in own})
