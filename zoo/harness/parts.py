"""What outlives a step beside the student's weights: one small protocol, kept by everything that a resumed run needs back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.harness.sharding import like
from zoo.tensors import Rollout

VALIDATION_LOSS = "validation_loss"


class Part:
    """Something with a state of its own. `after_step` reads what the step left behind: its number `step`, `progress`, and the measures
    that `zoo.components.schedules.Adaptive` lists; a part that `watches` a costly measure makes the run take it now and then."""

    watches: ClassVar[tuple[str, ...]] = ()

    def parameters(self) -> list[nn.Parameter]:
        """Parameters of its own, whose gradients are summed over processes before `after_step`."""
        return []

    def learn(self, rollouts: Mapping[str, Rollout], progress: float) -> None:
        """Gather a gradient of its own from the sequences of a step."""

    def after_step(self, metrics: Mapping[str, float]) -> None:
        """Take its own step."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and JSON values, by name."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's state as a flat mapping of tensors, for safetensors."""
    return {f"optimizer.{i}.{name}": value for i, entry in optimizer.state_dict()["state"].items() for name, value in entry.items()}


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Any]) -> None:
    """Restore what `optimizer_tensors` gave; other names are ignored."""
    state: dict[int, dict[str, Tensor]] = {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            state.setdefault(int(index), {})[name] = like(value, parameters[int(index)]) if value.ndim else value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
