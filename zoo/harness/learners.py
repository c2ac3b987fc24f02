"""What is trained beside the student with an optimizer of its own: critics and projectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.components.learners import ValueHead
from zoo.entry import MethodEntry
from zoo.harness.layers import make_projectors
from zoo.harness.parts import Part, load_optimizer_tensors, optimizer_tensors
from zoo.harness.scoring import Bank


class Critic(Part):
    """A linear value of the student's last hidden state; starts at 0, so that its first baseline changes nothing."""

    def __init__(self, hidden: int, learning_rate: float, device: torch.device) -> None:
        self.weight_H, self.bias = nn.Parameter(torch.zeros(hidden, device=device)), nn.Parameter(torch.zeros((), device=device))
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=learning_rate, weight_decay=0.0)

    def parameters(self) -> list[nn.Parameter]:
        return [self.weight_H, self.bias]

    def __call__(self, hidden_NH: Tensor) -> Tensor:
        """Values (N,)."""
        return hidden_NH @ self.weight_H + self.bias

    def after_step(self, metrics: Mapping[str, float]) -> None:
        """Take the optimizer step on the gradients gathered during the student's update."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        return {"weight_H": self.weight_H.detach(), "bias": self.bias.detach(), **optimizer_tensors(self.optimizer)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.weight_H.copy_(state["weight_H"])
        self.bias.copy_(state["bias"])
        load_optimizer_tensors(self.optimizer, state)


def make_critics(entry: MethodEntry, bank: Bank) -> dict[str, Part]:
    """The value heads an entry declares, registered with the bank."""
    size = bank.models["student"].get_output_embeddings().weight.shape[1]
    found = {name: Critic(size, spec.learning_rate, bank.device) for name, spec in entry.learners.items() if isinstance(spec, ValueHead)}
    bank.values.update(found)
    return {f"critic:{name}": critic for name, critic in found.items()}


def make_bridges(entry: MethodEntry, bank: Bank, axes: tuple[str | int, ...]) -> dict[str, Part]:
    """The projectors an entry declares, registered with the bank."""
    found = make_projectors(entry, bank.models, {name: key.weights for name, key in bank.keys.items()}, axes)
    bank.projectors.update(found)
    return {f"projector:{name}": projection for name, projection in found.items()}
