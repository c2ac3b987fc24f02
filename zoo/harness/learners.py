"""What is trained beside the student, and other state that outlives a step: critics and averaged teachers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zoo.components.learners import ValueHead
from zoo.components.teachers import SelfTeacher
from zoo.entry import MethodEntry
from zoo.harness.scoring import Bank
from zoo.seeds import seed_for


class Critic(nn.Module):
    """A linear value of the student's last hidden state; starts at 0, so that its first baseline changes nothing."""

    def __init__(self, hidden: int, learning_rate: float) -> None:
        super().__init__()
        self.weight_H, self.bias = nn.Parameter(torch.zeros(hidden)), nn.Parameter(torch.zeros(()))
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=learning_rate, weight_decay=0.0)

    def forward(self, hidden_NH: Tensor) -> Tensor:
        """Values (N,)."""
        return hidden_NH @ self.weight_H + self.bias

    def after_step(self) -> None:
        """Take the optimizer step on the gradients gathered during the student's update."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def make_critics(entry: MethodEntry, bank: Bank) -> dict[str, Critic]:
    """The value heads an entry declares, registered with the bank."""
    size = bank.models["student"].get_output_embeddings().weight.shape[1]
    found = {n: Critic(size, s.learning_rate).to(bank.device) for n, s in entry.learners.items() if isinstance(s, ValueHead)}
    bank.values.update(found)
    return found


@torch.no_grad()
def move_averages(entry: MethodEntry, bank: Bank) -> None:
    """Every EMA teacher takes its step towards the student."""
    for name, teacher in entry.teachers.items():
        average = bank.models.get(f"ema:{name}")
        if isinstance(teacher, SelfTeacher) and average is not None:
            decay = teacher.weights.decay  # type: ignore[attr-defined]
            for kept, live in zip(average.parameters(), bank.models["student"].parameters(), strict=True):
                kept.lerp_(live.to(kept.dtype), 1.0 - decay)


def extra_state(bank: Bank) -> dict[str, dict[str, Any]]:
    """Tensors to checkpoint beside the student: averaged teachers and critics with their optimizers."""
    state = {name: dict(model.state_dict()) for name, model in bank.models.items() if name.startswith("ema:")}
    for name, critic in bank.values.items():
        state[f"critic:{name}"] = dict(critic.state_dict()) | optimizer_tensors(critic.optimizer)
    return state


def load_extra_state(bank: Bank, state: dict[str, dict[str, Tensor]]) -> None:
    """Restore what `extra_state` gave."""
    for name, tensors in state.items():
        if name.startswith("ema:"):
            bank.models[name].load_state_dict(tensors, strict=False)
        else:
            critic = bank.values[name.removeprefix("critic:")]
            critic.load_state_dict({k: v for k, v in tensors.items() if not k.startswith("optimizer.")})
            load_optimizer_tensors(critic.optimizer, tensors)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's state as a flat mapping of tensors, for safetensors."""
    return {f"optimizer.{i}.{name}": value for i, entry in optimizer.state_dict()["state"].items() for name, value in entry.items()}


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restore what `optimizer_tensors` gave; other names are ignored."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def prompts_written(rollouts: int, share: float, group: int) -> int:
    """How many prompts a stream answers in one iteration of `rollouts` sequences, over all processes."""
    return max(1, round(rollouts * share / group))


def prompt_order(count: int, wanted: range, axes: tuple[str | int, ...]) -> list[int]:
    """Indices of the prompts number `wanted` of an endless shuffled reading of `count` prompts, a fresh order each pass."""
    found: list[int] = []
    for epoch in range(wanted.start // count, (wanted.stop - 1) // count + 1):
        generator = torch.Generator().manual_seed(seed_for(*axes, "prompts", epoch))
        order = torch.randperm(count, generator=generator).tolist()
        first, last = max(wanted.start - epoch * count, 0), min(wanted.stop - epoch * count, count)
        found += order[first:last]
    return found
