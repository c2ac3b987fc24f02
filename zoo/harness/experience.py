"""Lessons of earlier episodes, kept between iterations: a state that is the same whatever the number of processes, saved with the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from zoo.components.base import walk
from zoo.components.contexts import Experience, Lesson
from zoo.context_rules import all_contexts, parts_of
from zoo.entry import MethodEntry
from zoo.harness.contexts import TaskJudge, written_ids
from zoo.harness.parallel import Processes
from zoo.harness.parts import Part
from zoo.tensors import Prompt, Rollout

CAPACITY = 256


class Lessons(Part):
    """The newest `CAPACITY` judged texts of each check that some context asks for, oldest first. Each process sends its own as numbers, in the
    order of the ranks, which is the order of the batch."""

    def __init__(self, checks: Sequence[str], judge: TaskJudge, processes: Processes, prompts: Sequence[Prompt]) -> None:
        self.checks, self.judge, self.processes, self.prompts = tuple(checks), judge, processes, prompts
        self.place = {prompt.id: index for index, prompt in enumerate(prompts)}
        self.kept: dict[str, list[tuple[int, str, bool]]] = {check: [] for check in self.checks}

    def learn(self, rollouts: Mapping[str, Rollout], progress: float) -> None:
        """Keep what was written in this step."""
        for name in sorted(rollouts):
            rollout = rollouts[name]
            for check in self.checks:
                own = []
                for prompt, ids in zip(rollout.prompts, written_ids(rollout), strict=True):
                    if ids and prompt.id in self.place:
                        right = self.judge.verify(check, self.judge.text(ids), prompt) > 0.5
                        own.append([self.place[prompt.id], int(right), *ids])
                texts = [(row[0], self.judge.text(row[2:]), bool(row[1])) for row in self._gathered(own)]
                self.kept[check] = [*self.kept[check], *texts][-CAPACITY:]

    def after_step(self, metrics: Mapping[str, float]) -> None:
        self._show()

    def _gathered(self, own: list[list[int]]) -> list[list[int]]:
        """All processes' rows, in the order of the ranks."""
        processes = self.processes
        if processes.count == 1:
            return own
        sizes = torch.zeros(processes.count, 2, dtype=torch.int64, device=processes.device)
        sizes[processes.rank] = torch.tensor([len(own), max((len(row) for row in own), default=0)])
        counts, widths = processes.total(sizes).T.tolist()
        table = torch.full((sum(counts), max(widths) + 1), 0, dtype=torch.int64, device=processes.device)
        start = sum(counts[: processes.rank])
        for index, row in enumerate(own):
            table[start + index, 0] = len(row)
            table[start + index, 1 : len(row) + 1] = torch.tensor(row)
        return [row[1 : row[0] + 1] for row in processes.total(table).tolist()]

    def _show(self) -> None:
        lessons = [(check, *item) for check in self.checks for item in self.kept[check]]
        self.judge.lessons = [Lesson(self.prompts[index].text, self.prompts[index].fields, text, check, right) for check, index, text, right in lessons]

    def state_dict(self) -> dict[str, Any]:
        return {"kept": {check: [list(item) for item in items] for check, items in self.kept.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.kept = {check: [(int(index), str(text), bool(right)) for index, text, right in items] for check, items in state["kept"].items()}
        self._show()


def lessons_for(entry: MethodEntry, judge: TaskJudge, processes: Processes, prompts: Sequence[Prompt]) -> dict[str, Part]:
    """The part that keeps an entry's lessons, where one of its contexts shows some. A run begins without any."""
    parts = [part for _, context in all_contexts(entry) for outer in parts_of(context) for part in walk(outer)]
    checks = dict.fromkeys(part.check for part in parts if isinstance(part, Experience))
    judge.lessons = []
    return {"lessons": Lessons(tuple(checks), judge, processes, prompts)} if checks else {}
