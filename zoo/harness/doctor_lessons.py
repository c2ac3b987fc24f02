"""Short lessons: a model trained for seconds on texts of a stated style, where a change of its logits would not do."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import count
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from zoo.components.base import Strict
from zoo.harness.build_micro import Example, update
from zoo.seeds import seed_for
from zoo.tasks import micro
from zoo.tensors import Prompt

Text = Callable[[Prompt, random.Random], str]
ROOM = 39  # tokens of an answer, its stop token left out


def _totals(prompt: Prompt) -> list[str]:
    return prompt.fields["solution"].split("#")[0].split(" ")


def gold(prompt: Prompt, rng: random.Random) -> str:
    """The task's own solution."""
    return prompt.fields["solution"]


def looped(prompt: Prompt, rng: random.Random) -> str:
    """A chain that repeats one of its totals until there is no more room."""
    totals = _totals(prompt)
    at = rng.randrange(len(totals))
    return (" ".join(totals[: at + 1]) + f" {totals[at]}" * ROOM)[:ROOM]


def corrupted(prompt: Prompt, rng: random.Random) -> str:
    """A chain with one total off by 1 to 5 and everything behind it consistent with that."""
    digits, at, off = [int(digit) for digit in prompt.fields["content"]], rng.randrange(len(prompt.fields["content"])), rng.randrange(1, 6)
    totals = [str(sum(digits[: i + 1]) + (off if i >= at else 0)) for i in range(len(digits))]
    return " ".join(totals) + "#" + totals[-1]


def checked(prompt: Prompt, rng: random.Random) -> str:
    """A chain in which a fifth of the totals, at least one, are checked: `15?15`."""
    totals = _totals(prompt)
    asked = set(rng.sample(range(len(totals)), max(1, round(len(totals) / 5))))
    return " ".join(f"{total}?{total}" if i in asked else total for i, total in enumerate(totals)) + "#" + totals[-1]


def reversed_digits(prompt: Prompt, rng: random.Random) -> str:
    """A chain whose totals are written from their last digit on; the answer is plain."""
    return " ".join(total[::-1] for total in _totals(prompt)) + "#" + prompt.fields["answer"]


def skipping(prompt: Prompt, rng: random.Random) -> str:
    """A chain of every second total, the last one among them."""
    totals = _totals(prompt)
    return " ".join(totals[(len(totals) + 1) % 2 :: 2]) + "#" + totals[-1]


def two_styles(prompt: Prompt, rng: random.Random) -> str:
    """Half of the answers in a hurry (`skipping`), half in full."""
    return (skipping if rng.random() < 0.5 else gold)(prompt, rng)


def filled(prompt: Prompt, rng: random.Random) -> str:
    """The solution, and behind it letters at random up to 12 of them."""
    return prompt.fields["solution"] + "".join(rng.choice(micro.LETTERS) for _ in range(12))


STYLES: dict[str, Text] = {
    "gold": gold,
    "looped": looped,
    "corrupted": corrupted,
    "checked": checked,
    "reversed": reversed_digits,
    "skipping": skipping,
    "two_styles": two_styles,
    "filled": filled,
}
Style = Literal["gold", "looped", "corrupted", "checked", "reversed", "skipping", "two_styles", "filled"]


class Lesson(Strict):
    """`steps` AdamW steps on batches of texts, their styles in the proportions of `texts`; `stop` ends each text, `context` is a template of the pair that
    its prompts are shown in (a share `in_context` of them). The same lesson gives the same weights."""

    texts: dict[Style, Annotated[float, Field(gt=0)]] = Field(min_length=1)
    steps: int = Field(ge=1, le=2000)
    batch: int = Field(32, ge=4)
    learning_rate: float = Field(1e-3, gt=0)
    stop: str = "<e1>"
    in_context: dict[Literal["solution", "hint"], Annotated[float, Field(gt=0, le=1)]] = {}

    def examples(self, tokenizer: Any) -> Iterator[Example]:
        """Prompt and response ids without end, of the task's train split."""
        rng = random.Random(seed_for("doctor", "lesson", self.model_dump_json()))
        lists, names = micro.draw("add", "train", micro.ADD_LENGTHS, rng), list(self.texts)
        stop = tokenizer.convert_tokens_to_ids(self.stop)
        for _ in count():
            prompt = micro.add_prompt(next(lists))
            style = rng.choices(names, [self.texts[name] for name in names])[0]
            shown = next((name for name, share in self.in_context.items() if rng.random() < share), None)
            text = micro.CONTEXTS.get(shown or "", "{prompt}").format(prompt=prompt.text, **prompt.fields)
            said = STYLES[style](prompt, rng)
            yield tokenizer.encode(text), [*tokenizer.encode(said), *([stop] if len(said) < ROOM else [])]


def teach(model: Any, lesson: Lesson, tokenizer: Any) -> None:
    """Train a model in place; its parameters' need of gradients is left as it was."""
    wanted = [p.requires_grad for p in model.parameters()]
    model.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    examples = lesson.examples(tokenizer)
    for step in range(lesson.steps):
        warm = min(1.0, (step + 1) / max(lesson.steps // 10, 1))
        update(model, optimizer, [next(examples) for _ in range(lesson.batch)], lesson.learning_rate * warm * (1 - step / lesson.steps))
    for parameter, want in zip(model.parameters(), wanted, strict=True):
        parameter.requires_grad_(want)
        parameter.grad = None
