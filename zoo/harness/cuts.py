"""How a batch is cut: rows of like length into micro-batches, their tokens into chunks."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.harness.alignment import Foreign
from zoo.tensors import Rollout


def micro_batches(rollout: Rollout, micro_tokens: int, prompts: Sequence[Sequence[int]] | None = None, asked: Container[int] | None = None) -> list[list[int]]:
    """Row indices in groups of like length whose padded size stays within `micro_tokens` (one row at least); `prompts` where a scorer
    reads others than the student, `asked` where not all rows are wanted."""
    before = rollout.prompt_ids if prompts is None else prompts
    size = [len(p) + int(n) for p, n in zip(before, rollout.written_BT.sum(1).tolist(), strict=True)]
    wanted = range(len(rollout)) if asked is None else [i for i in range(len(rollout)) if i in asked]
    read = rollout.mask_BT.any(1).tolist()
    order = sorted((i for i in wanted if read[i]), key=lambda i: (-size[i], i))
    groups: list[list[int]] = []
    for i in order:
        if groups and (len(groups[-1]) + 1) * size[groups[-1][0]] <= micro_tokens:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


@dataclass(frozen=True)
class Supervised:
    """A batch with its N supervised tokens as the host knows them, so that a loop over pieces of it never waits for the device.

    `rollout` is on the CPU; `place_N` are the tokens' places in the flattened (B, T), sequence by sequence, `count_B` how many each has.
    """

    rollout: Rollout
    place_N: Tensor
    count_B: tuple[int, ...]

    @classmethod
    def of(cls, rollout: Rollout) -> Supervised:
        """Bring a batch to the host, once."""
        host = rollout.to("cpu")
        return cls(host, host.mask_BT.flatten().nonzero()[:, 0], tuple(host.mask_BT.sum(1).tolist()))

    def rows_of(self, index: Sequence[int]) -> Tensor:
        """Which of the N tokens belong to some of the sequences, in their order."""
        ends = torch.tensor(self.count_B).cumsum(0).tolist()
        return torch.cat([torch.arange(ends[i] - self.count_B[i], ends[i]) for i in index]) if len(index) else torch.zeros(0, dtype=torch.long)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on a device. Through pinned memory, so that the host goes on at once."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def chunks_of(count: int, size: int, hidden: Mapping[str, Any]) -> Iterator[slice]:
    """The same, none of which cuts a stretch that a teacher with another tokenizer sees as one; a longer stretch is a chunk of its own."""
    breaks = [states.breaks_N for states in hidden.values() if isinstance(states, Foreign)]
    if not breaks:
        yield from chunks(count, size)
        return
    ends, start = [*torch.stack(breaks).all(0).nonzero()[:, 0].tolist(), count], 0
    while start < count:
        within = [end for end in ends if start < end <= start + size]
        end = max(within) if within else min(end for end in ends if end > start)
        yield slice(start, end)
        start = end


def chunks(count: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most `size`."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
