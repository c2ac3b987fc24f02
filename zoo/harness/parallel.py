"""Several processes, one result: prompts are shared out, sums and gradients are added up.

Losses carry global denominators, so gradients are summed, not averaged, and any number of processes gives the same step.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from zoo.errors import ZooError

T = TypeVar("T")
MEMORY_SHARE = "ZOO_MEMORY_SHARE"  # environment variable: the part of a GPU that a process may take beside others
KEPT = "ZOO_KEPT_BYTES"  # environment variable: bytes of that GPU that the teachers take which its processes share, and what keeps them
CONTEXT = 1 << 30  # bytes of a GPU that a process takes for CUDA itself, its libraries and captured graphs
PATIENCE = timedelta(hours=12)  # the others wait while the first process evaluates


@dataclass(frozen=True)
class Processes:
    """This process's rank among `count`. `accelerate launch` (or torchrun) sets them up."""

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def main(self) -> bool:
        """Whether this process writes records and talks."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """This process's contiguous part of the items."""
        return list(items[len(items) * self.rank // self.count : len(items) * (self.rank + 1) // self.count])

    def places(self, count: int, parts: int) -> list[list[int]]:
        """This process's places among `count` in a row, for each of `parts` consecutive minibatches. Each minibatch is shared out by
        itself, so it holds the same items whatever the number of processes."""
        return [self.share(range(count * i // parts, count * (i + 1) // parts)) for i in range(parts)]

    def idle(self, count: int, parts: int) -> bool:
        """Whether some process would have no place among `count` in any minibatch."""
        return any(not any(replace(self, rank=rank).places(count, parts)) for rank in range(self.count))

    def total(self, value: Tensor) -> Tensor:
        """The sum of a number over all processes; without gradient."""
        if self.count == 1:
            return value
        summed = value.detach().clone()
        dist.all_reduce(summed)
        return summed

    def total_int(self, value: int) -> int:
        """The same for a count."""
        return value if self.count == 1 else int(self.total(torch.tensor(value, dtype=torch.int64, device=self.device)))

    def largest(self, value: int) -> int:
        """The largest of a count over all processes."""
        if self.count == 1:
            return value
        found = torch.tensor(value, dtype=torch.int64, device=self.device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Add up every parameter's gradient over the processes, in one exchange for each type."""
        parameters = [parameter for parameter in parameters if not is_split(parameter)]  # FSDP2 has summed those already
        if self.count == 1 or not parameters:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        dist.all_reduce(flat)
        for parameter, piece in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = piece.view_as(parameter)

    def wait(self) -> None:
        """Let all processes arrive here."""
        if self.count > 1:
            dist.barrier()


def is_split(tensor: Any) -> bool:
    """Whether a tensor is one process's part of a larger one (`zoo.harness.sharding`)."""
    return hasattr(tensor, "full_tensor")


def reserve(device: torch.device, share: float, kept: int = 0) -> None:
    """Let this process take at most this share of a GPU's memory, but for the bytes that are `kept` for all, CUDA's own part in it. Before it fails at
    the limit the allocator gives back what it only keeps; so no process can starve those beside it."""
    total = torch.cuda.get_device_properties(device).total_memory
    number = torch.cuda.current_device() if device.index is None else device.index  # a bare `cuda` is refused here
    torch.cuda.set_per_process_memory_fraction(max(share - (CONTEXT + share * kept) / total, share / 2), number)


def start_processes(device: str | None = None) -> Processes:
    """Join the process group that `accelerate launch` (or torchrun) announced, or be alone.

    Raises:
        ZooError: accelerate was asked for several processes and started one, as it does with `--cpu`.
    """
    from accelerate import PartialState

    state = PartialState(cpu=(device or "cpu") == "cpu", timeout=PATIENCE)
    if state.num_processes == 1 and "MASTER_ADDR" in os.environ and os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true":
        raise ZooError("`accelerate launch --cpu` starts one process, however many are asked for; for several on a CPU use "
                       "`accelerate launch --multi_gpu --num_processes N -m zoo run ... --device cpu`")  # fmt: skip
    chosen = torch.device(device) if device and state.num_processes == 1 else state.device
    if chosen.type == "cuda" and MEMORY_SHARE in os.environ:
        reserve(chosen, float(os.environ[MEMORY_SHARE]), int(os.environ.get(KEPT, 0)))
    return Processes(state.process_index, state.num_processes, chosen)


def end_processes() -> None:
    """Leave the process group, where there is one: NCCL warns of leaks otherwise."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
