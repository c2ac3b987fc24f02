"""Which prompts a step reads."""

from __future__ import annotations

import torch

from zoo.seeds import seed_for


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
