"""Chores: two small domains in plain English for instruction-tuned models of some hundred million parameters, made by us.

`sums`: a word problem of one or two steps; the answer writes each step as an equation and ends with `The answer is 28.` `lists`: words to put
into alphabetical order; the answer is the words with commas. Out of distribution: more steps, longer lists. What tuning
may cost is asked as plain questions (`facts`), which are in no prompt of a distillation.

Every item belongs to one split by the hash of its content (`split_of`), so train, valid and test are disjoint by construction.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache

from zoo.errors import ZooError, suggest
from zoo.seeds import seed_for
from zoo.tasks.chores_words import FACTS, NAMES, STORIES, THINGS, WORDS
from zoo.tensors import Prompt

__all__ = ["ChoresTask", "held_out", "list_prompt", "names_fact", "said_number", "split_of", "sum_prompt", "written_list"]

SUM_STEPS, LONGER_SUM_STEPS = (1, 2), (3, 4)
LIST_LENGTHS, LONGER_LIST_LENGTHS = (2, 3, 4), (5, 6)
LARGEST = 99
_TRAIN_SIZE, _VALID_SIZE, _TEST_SIZE = 8000, 256, 128
_SAID = re.compile(r"[Tt]he answer is:?\s*\$?(-?[0-9]+)")
_NUMBER = re.compile(r"[0-9]+")
_WORD = re.compile(r"[a-z]+")


def split_of(content: str) -> str:
    """The one split that an item belongs to: 80 % train, 10 % valid, 10 % test."""
    share = int.from_bytes(hashlib.sha256(f"chores {content}".encode()).digest()[:4], "big") % 10
    return "valid" if share == 8 else "test" if share == 9 else "train"


def sum_prompt(name: str, thing: str, start: int, changes: Sequence[tuple[int, str]], id: str = "") -> Prompt:
    """A word problem: so many things, then gains and losses, each with the sentence that tells it."""
    told, steps, total = [], [], start
    for change, sentence in changes:
        told.append(sentence.format(name=name, thing=thing, n=abs(change)))
        steps.append(f"{total} {'+' if change > 0 else '-'} {abs(change)} = {total + change}.")
        total += change
    text = f"{name} has {start} {thing}. {' '.join(told)} How many {thing} does {name} have now? End with: The answer is N."
    fields = {
        "domain": "sums",
        "content": text,
        "solution": f"{' '.join(steps)} The answer is {total}.",
        "answer": str(total),
        "hint": steps[0],
    }
    return Prompt(id=id, text=text, fields=fields)


def list_prompt(words: Sequence[str], id: str = "") -> Prompt:
    """Words to put into alphabetical order."""
    text = f"Sort these words alphabetically: {', '.join(words)}. Answer with the sorted words only, separated by commas."
    right = ", ".join(sorted(words))
    fields = {"domain": "lists", "content": text, "solution": right, "answer": right, "hint": f"{sorted(words)[0]} comes first."}
    return Prompt(id=id, text=text, fields=fields)


def _draw_sum(rng: random.Random, lengths: Sequence[int]) -> Prompt:
    total = start = rng.randint(10, 60)
    changes = []
    for _ in range(rng.choice(lengths)):
        gain = rng.random() < 0.5 if 5 < total < LARGEST - 5 else total <= 5
        size = rng.randint(2, min(40, LARGEST - total) if gain else min(40, total - 1))
        changes.append((size if gain else -size, rng.choice(STORIES["gain" if gain else "loss"])))
        total += changes[-1][0]
    return sum_prompt(rng.choice(NAMES), rng.choice(THINGS), start, changes)


def _draw_list(rng: random.Random, lengths: Sequence[int]) -> Prompt:
    return list_prompt(rng.sample(WORDS, rng.choice(lengths)))


_DRAWS: dict[str, tuple[Callable[[random.Random, Sequence[int]], Prompt], Sequence[int]]] = {
    "sums": (_draw_sum, SUM_STEPS),
    "lists": (_draw_list, LIST_LENGTHS),
    "longer_sums": (_draw_sum, LONGER_SUM_STEPS),
    "longer_lists": (_draw_list, LONGER_LIST_LENGTHS),
}


def _stream(name: str, split: str) -> Iterator[Prompt]:
    """Different items of one kind and one split, without end."""
    draw, lengths = _DRAWS[name]
    rng, seen = random.Random(seed_for("chores", name, split)), set()
    while True:
        prompt = draw(rng, lengths)
        if prompt.text not in seen and split_of(prompt.text) == split:
            seen.add(prompt.text)
            yield prompt


def _numbered(prompts: Sequence[Prompt], split: str) -> list[Prompt]:
    return [Prompt(id=f"{split}-{i:05d}", text=prompt.text, fields=prompt.fields) for i, prompt in enumerate(prompts)]


@cache
def _prompts(split: str) -> tuple[Prompt, ...]:
    """Sums and lists in turn."""
    size = (_TRAIN_SIZE if split == "train" else _VALID_SIZE) // 2
    streams = [_stream(name, split) for name in ("sums", "lists")]
    return tuple(_numbered([next(stream) for _ in range(size) for stream in streams], split))


def held_out(name: str) -> list[Prompt]:
    """The test items of `sums`, `lists`, `longer_sums`, `longer_lists` (128 each) or `facts`."""
    if name == "facts":
        return [
            Prompt(id=f"facts-{i:03d}", text=f"{question} Answer in a few words.", fields={"domain": "facts", "solution": answer, "answer": answer})
            for i, (question, answer) in enumerate(FACTS)
        ]
    stream = _stream(name, "test")
    return _numbered([next(stream) for _ in range(_TEST_SIZE)], name)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def said_number(text: str) -> str | None:
    """The number behind the last `The answer is`."""
    return next(iter(_SAID.findall(text)[-1:]), None)


def written_list(text: str) -> str:
    """A bare list of words as the gold answer writes it: lower case, no full stop."""
    return text.strip().rstrip(".").lower()


def names_fact(text: str, answer: str) -> bool:
    """Whether one of the accepted names (`seven|7`) stands in a text as a word of its own."""
    return any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE) for name in answer.split("|"))


def _answer(text: str, prompt: Prompt) -> bool:
    if prompt.fields["domain"] == "facts":
        return names_fact(text, prompt.fields["answer"])
    if prompt.fields["domain"] == "lists":
        return written_list(text) == prompt.fields["answer"]
    return said_number(text) == prompt.fields["answer"]


def _flexible(text: str, prompt: Prompt) -> bool:
    if prompt.fields["domain"] == "lists":
        return _words(text)[-len(_words(prompt.fields["answer"])) :] == _words(prompt.fields["answer"])
    return _NUMBER.findall(text)[-1:] == [prompt.fields["answer"]]


def _format(text: str, prompt: Prompt) -> bool:
    if prompt.fields["domain"] == "lists":
        return re.fullmatch(r"[a-z]+(, [a-z]+)*", written_list(text)) is not None
    return said_number(text) is not None


CHECKS: dict[str, Callable[[str, Prompt], bool]] = {
    "answer": _answer,
    "flexible": _flexible,
    "exact": lambda text, prompt: text.strip() == prompt.fields["solution"],
    "format": _format,
}


class ChoresTask:
    """Sums and lists, and the checks of their answers.

    `answer`: the last `The answer is N` is right, or exactly the sorted words are there; `flexible`: the last number, or the last words,
    are right; `exact`: the gold solution, character by character; `format`: an answer in the form asked for, right or wrong.
    """

    checks = tuple(CHECKS)

    def prompts(self, split: str) -> list[Prompt]:
        """8,000 training prompts or 256 for `valid`, the two domains in turn."""
        if split not in ("train", "valid"):
            raise ZooError(f"task chores has no split '{split}'{suggest(split, ('train', 'valid'))}")
        return list(_prompts(split))

    def verify(self, check: str, text: str, prompt: Prompt) -> float:
        """1.0 where the answer passes `check`, else 0.0."""
        if check not in CHECKS:
            raise ZooError(f"task chores has no check '{check}'{suggest(check, CHECKS)}")
        return float(CHECKS[check](text, prompt))

    def feedback(self, text: str, prompt: Prompt) -> str:
        """Whether an answer is right, and otherwise its first step that is not, without giving the right one away."""
        if _answer(text, prompt):
            return "The answer is right."
        if prompt.fields["domain"] == "lists":
            missing = set(_words(prompt.fields["answer"])) - set(_words(text))
            return f"The word {min(missing)} is missing." if missing else "The order is wrong, or something else than the words is there."
        if not _format(text, prompt):
            return "No final answer was found; end with: The answer is N."
        steps = prompt.fields["solution"].split(". ")[:-1]
        wrong = next((i for i, step in enumerate(steps, start=1) if step not in text), None)
        return "Every step is there, but the final answer is wrong." if wrong is None else f"Step {wrong} is missing or wrong."
