"""Which prompts a step reads: all in turn, or drawn by what earlier answers to them showed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.components.prompts import Draw, ranked
from zoo.components.rollouts import Stream
from zoo.entry import MethodEntry
from zoo.harness.parallel import Processes
from zoo.harness.parts import Part
from zoo.seeds import seed_for, uniforms
from zoo.statistics import TokenContext
from zoo.tensors import Prompt


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


class Drawn(Part):
    """The numbers that an entry's draws remember of each prompt, and the draws; equal ones on several streams share theirs. `axes` name the run."""

    def __init__(self, entry: MethodEntry, prompts: Sequence[Prompt], axes: tuple[str | int, ...], processes: Processes) -> None:
        self.place = {prompt.id: index for index, prompt in enumerate(prompts)}
        self.axes, self.processes = axes, processes
        self.rules: dict[str, Draw] = {name: stream.prompts for name, stream in entry.rollouts.items() if stream.prompts is not None}
        self.values = {rule: torch.full((len(prompts),), float("nan"), dtype=torch.float64) for rule in self.rules.values()}

    def orders(self, streams: Mapping[str, Stream], counts: Mapping[str, int], iteration: int) -> dict[str, list[int]]:
        """Indices of the prompts that each stream reads in an iteration, as many as its `counts`; drawn ones are the same for all."""
        rule = next((self.rules[name] for name in streams if name in self.rules), None)
        if rule is None:
            return {name: prompt_order(len(self.place), range(iteration * n, (iteration + 1) * n), self.axes) for name, n in counts.items()}
        most, known = max(counts.values()), len(self.place)
        pool = torch.tensor(prompt_order(known, range(min(max(rule.pool or known, most), known)), self.axes))
        uniform_P = uniforms([seed_for(*self.axes, "prompts drawn", iteration)], len(pool))[0]
        drawn = pool[ranked(rule.weights(self.values[rule][pool]), uniform_P)].tolist()
        return {name: (drawn * -(-n // len(drawn)))[:n] for name, n in counts.items()}

    def observe(self, contexts: Mapping[str, TokenContext]) -> None:
        """Remember what the answers of an iteration show."""
        for name, rule in self.rules.items():
            if name in contexts:
                value_P = rule.value(*(self._means(contexts[stream], rule.name) for stream in (name, *rule.others)))
                self.values[rule] = torch.where(value_P.isnan(), self.values[rule], value_P)

    def _means(self, context: TokenContext, reward: str) -> Tensor:
        """The mean reward of the answers to each prompt, (P,), over all processes; NaN where there is none."""
        reward_B = context.rewards[reward].double()
        at_B = torch.tensor([self.place[prompt.id] for prompt in context.rollout.prompts], device=reward_B.device)
        sums_2P = torch.zeros(2, len(self.place), dtype=torch.float64, device=reward_B.device)
        sums_2P.index_add_(1, at_B, torch.stack([reward_B, torch.ones_like(reward_B)]))
        total_P, count_P = self.processes.total(sums_2P).cpu()
        return torch.where(count_P > 0, total_P / count_P, float("nan"))

    def state_dict(self) -> dict[str, Any]:
        return {str(i): value_P for i, value_P in enumerate(self.values.values())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.values = {rule: state[str(i)] for i, rule in enumerate(self.values)}
