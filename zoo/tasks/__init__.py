"""Tasks: where prompts come from and how an answer is judged."""

from __future__ import annotations

from typing import Protocol

from zoo.tensors import Prompt


class Task(Protocol):
    """A source of prompts with verifiers for the answers to them."""

    def prompts(self, split: str) -> list[Prompt]:
        """The prompts of `train` or `valid`, in a fixed order; `ZooError` for another split."""
        ...

    def verify(self, check: str, text: str, prompt: Prompt) -> float:
        """1.0 where `text` (the decoded answer without its stop token) passes `check`, else 0.0; `ZooError` for an unknown check."""
        ...
