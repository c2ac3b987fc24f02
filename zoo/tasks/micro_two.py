"""The micro task in two domains, `add` and `times`, for several teachers: each prompt's field `domain` says which one serves it.

TIMES-CHAIN: the prompt `#3672=` lists digits; the answer writes the last digit of every running product, then `#` and the final one again:
`3 8 6 2#2`. Neither 0 nor 5 is among the digits, so that no product ends in 0. ADD-CHAIN is that of `zoo.tasks.micro`.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import accumulate, islice

from zoo.errors import ZooError, suggest
from zoo.seeds import seed_for
from zoo.tasks import micro
from zoo.tensors import Prompt

FACTORS = "12346789"
DOMAINS = ("add", "times")
_SIZE = {"train": 20_000, "valid": 512, "test": 256}


def times_prompt(digits: str, id: str = "") -> Prompt:
    """The TIMES-CHAIN prompt for a list of digits, with the same fields as an ADD-CHAIN prompt."""
    return micro.chain_prompt("#", "times", digits, accumulate((int(digit) for digit in digits), lambda a, b: a * b % 10), id)


def draw_times(split: str, rng: random.Random) -> Iterator[str]:
    """Lists of one split without end, of the lengths of ADD-CHAIN; repeats are possible."""
    while True:
        content = "".join(rng.choice(FACTORS) for _ in range(rng.choice(micro.ADD_LENGTHS)))
        if micro.split_of("times", content) == split:
            yield content


@cache
def _prompts(split: str) -> tuple[Prompt, ...]:
    half = _SIZE[split] // 2
    add = micro.MicroTask().prompts(split)[:half]
    drawn = draw_times(split, random.Random(seed_for("micro-two", "prompts", split)))
    contents = list(islice(drawn, half)) if split == "train" else micro.distinct(drawn, half)
    times = [times_prompt(content, f"{split}-times-{i:05d}") for i, content in enumerate(contents)]
    return tuple(prompt for both in zip(add, times, strict=True) for prompt in both)


def held_out_times() -> list[Prompt]:
    """The 256 different test items of `times`."""
    contents = micro.distinct(draw_times("test", random.Random(seed_for("micro-two", "test", "times"))), _SIZE["test"])
    return [times_prompt(content, f"times-{i:03d}") for i, content in enumerate(contents)]


class MicroTwoTask(micro.MicroTask):
    """ADD-CHAIN and TIMES-CHAIN prompts in turn; the checks are those of the micro task."""

    def prompts(self, split: str) -> list[Prompt]:
        """20,000 training prompts or 512 different ones for `valid`, half of each domain."""
        if split not in ("train", "valid"):
            raise ZooError(f"task micro-two has no split '{split}'{suggest(split, ('train', 'valid'))}")
        return list(_prompts(split))

    def tool(self, name: str, text: str, prompt: Prompt) -> str:
        """As in the micro task; calculator and table multiply where the prompt does."""
        if prompt.fields["domain"] != "times" or name not in ("calculator", "lookup"):
            return super().tool(name, text, prompt)
        written = [int(number) for number in re.findall("[0-9]+", text.split("#")[0])]
        left = [int(digit) for digit in prompt.fields["content"]][len(written) :]
        return str(math.prod(left if name == "calculator" else left[:1], start=written[-1] if written else 1) % 10)

    def wishes(self, prompt: Prompt) -> list[str]:
        """The right running results and the answer."""
        return prompt.fields["solution"].replace("#", " ").split() if prompt.fields["domain"] == "times" else super().wishes(prompt)

    def shards(self, prompt: Prompt, count: int) -> list[str]:
        """The prompt's list in parts, each a prompt of its own in the prompt's domain."""
        return [prompt.text[0] + part[1:] for part in super().shards(prompt, count)]


def mixed(prompts: Sequence[Prompt], domain: str) -> list[Prompt]:
    """The prompts of one domain."""
    return [prompt for prompt in prompts if prompt.fields["domain"] == domain]
