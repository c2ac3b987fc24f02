"""The micro task in turns: tools, a user with wishes of their own, and prompts handed out in parts.

All of it is in the task's own characters. The calculator and the table finish what a call has begun: a call is a chain of running totals up to
`#`, and the result stands where the answer would.
"""

from __future__ import annotations

import re
from itertools import accumulate, pairwise

from zoo.errors import ZooError, suggest
from zoo.tensors import Prompt

# The pair's turn templates and marks in registry/pairs/micro.yaml.
TURNS = {
    "call": " ",
    "call_end": "#",
    "answer": "#",
    "right": "good",
    "wrong": "bad",
    "result": "{result}",
    "observation": "?{result}?{prompt}",
    "revise": "?{verdict}?{prompt}",
    "critique": "?{feedback}?{prompt}",
    "again": "{prompt}",
    "user": "?{attempt}?{prompt}",
    "message": "?{message}?{prompt}",
}
TOOLS = ("calculator", "lookup", "inspector")
_NUMBER = re.compile(r"[0-9]+")


class MicroTurns:
    """What environments ask of the task."""

    tools = TOOLS

    def feedback(self, text: str, prompt: Prompt) -> str:
        """See `zoo.tasks.micro.MicroTask.feedback`."""
        raise NotImplementedError

    def tool(self, name: str, text: str, prompt: Prompt) -> str:
        """What a tool answers to the text written so far.

        `calculator` adds the digits that are left to the last of the running totals written; `lookup` finds the last total and the next digit
        in a table of sums, one step; `inspector` says what `feedback` says of an action.

        Raises:
            ZooError: no such tool.
        """
        if name == "inspector":
            return self.feedback(text, prompt)
        if name not in TOOLS:
            raise ZooError(f"task micro has no tool '{name}'{suggest(name, TOOLS)}")
        written = [int(number) for number in _NUMBER.findall(text.split("#")[0])]
        digits = [int(digit) for digit in prompt.fields["content"] if digit.isdigit()]
        total, left = (written[-1] if written else 0), digits[len(written) :]
        return str(total + (sum(left) if name == "calculator" else sum(left[:1])))

    def wishes(self, prompt: Prompt) -> list[str]:
        """What the user wants to hear, in order, and does not say: the right running totals and the answer."""
        totals = [str(total) for total in accumulate(int(digit) for digit in prompt.fields["content"] if digit.isdigit())]
        return [*totals, totals[-1]] if totals else []

    def met(self, text: str, prompt: Prompt) -> int:
        """How many wishes a text meets, from the first one on."""
        wishes = self.wishes(prompt)
        said = _NUMBER.findall(text)
        return next((i for i, wish in enumerate(wishes) if i >= len(said) or said[i] != wish), len(wishes))

    def user(self, text: str, turn: int, prompt: Prompt) -> str | None:
        """The scripted user's message: which wish is not met yet, by its number; None, the end, once all are."""
        wishes, met = self.wishes(prompt), self.met(text, prompt)
        return None if met == len(wishes) else f"bad {met + 1}"

    def state(self, text: str, prompt: Prompt) -> float:
        """The user's state after a turn, in [0, 1]: the share of wishes that it meets."""
        return self.met(text, prompt) / max(len(self.wishes(prompt)), 1)

    def hidden(self, prompt: Prompt) -> str:
        """The user's wishes as text, which only the environment knows."""
        return " ".join(self.wishes(prompt))

    def shards(self, prompt: Prompt, count: int) -> list[str]:
        """The prompt's list in `count` parts as even as can be, the last ones longer, each a prompt of its own; empty parts are left out."""
        content = prompt.fields["content"]
        cuts = [len(content) * i // count for i in range(count + 1)]
        return [f"+{content[a:b]}=" for a, b in pairwise(cuts) if b > a]
