"""Tasks: where prompts come from and how an answer is judged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from zoo.errors import ZooError, suggest
from zoo.tensors import Prompt

__all__ = ["Task", "make_task"]


class Task(Protocol):
    """A source of prompts with verifiers for the answers to them; `checks` names the verifiers."""

    checks: tuple[str, ...]

    def prompts(self, split: str) -> list[Prompt]:
        """The prompts of `train` or `valid`, in a fixed order; `ZooError` for another split."""
        ...

    def verify(self, check: str, text: str, prompt: Prompt) -> float:
        """1.0 where `text` (the decoded answer without its stop token) passes `check`, else 0.0; `ZooError` for an unknown check."""
        ...

    def feedback(self, text: str, prompt: Prompt) -> str:
        """What can be said about an answer without giving the right one away; empty for none."""
        ...


def make_task(kind: str, folder: Path | None = None, hub: str | None = None) -> Task:
    """The task of a pair: `micro`, `micro-two` or `chores` (made by us, need no data) or `gsm8k` (read from `folder`, else from the hub's data set)."""
    from zoo.tasks.chores import ChoresTask
    from zoo.tasks.gsm8k import HUB
    from zoo.tasks.gsm8k_feedback import Gsm8kWithFeedback
    from zoo.tasks.micro import MicroTask
    from zoo.tasks.micro_two import MicroTwoTask

    made: dict[str, Callable[[], Task]] = {"micro": MicroTask, "micro-two": MicroTwoTask, "chores": ChoresTask}
    made["gsm8k"] = lambda: Gsm8kWithFeedback(folder, hub or HUB)
    if kind not in made:
        raise ZooError(f"no task '{kind}'{suggest(kind, made)}")
    return made[kind]()
