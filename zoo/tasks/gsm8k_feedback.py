"""What can be said about an answer to a GSM8K problem. Apart from `gsm8k`, whose text is part of the suite's digest."""

from __future__ import annotations

from zoo.tasks.gsm8k import CHECKS, Gsm8kTask
from zoo.tasks.numbers import boxed_number
from zoo.tensors import Prompt


class Gsm8kWithFeedback(Gsm8kTask):
    """The task, and remarks on answers."""

    def feedback(self, text: str, prompt: Prompt) -> str:
        """Whether the answer is right, and otherwise whether one was found at all."""
        if CHECKS["answer"](text, prompt):
            return "The final answer is right."
        return "No final answer was found in a box." if boxed_number(text) is None else "The final answer is wrong."
