"""The micro task: chain addition written out step by step, copying as the skill to retain, and longer lists out of distribution.

ADD-CHAIN: the prompt `+3572=` lists digits; the answer writes every running total, then `#` and the last total again:
`3 8 15 17#17`. COPY: the prompt `@a9k3=` asks for `a9k3`. Privileged contexts stand before a prompt in the same
characters: `!<solution>!+3572=` and `?<hint>?+3572=`, where the hint is the first half of the running totals.

Every item belongs to one split by the hash of its content (`split_of`), so train, valid and test are disjoint by construction,
whoever draws them and with whatever seed.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import accumulate, islice

from zoo.errors import ZooError, suggest
from zoo.seeds import seed_for
from zoo.tasks.micro_turns import TURNS, MicroTurns
from zoo.tensors import Prompt

__all__ = ["CONTEXTS", "MADE_CONTEXTS", "TURNS", "WORDS", "MicroTask", "MicroTurns", "add_prompt", "copy_prompt", "draw", "held_out", "split_of"]

DIGITS = "0123456789"
LETTERS = "abcdefghijklmnopqrs"
MARKS = "+@=# !?"
CHARACTERS = DIGITS + LETTERS + MARKS

ADD_LENGTHS = range(3, 8)
OOD_LENGTHS = range(8, 10)
COPY_LENGTHS = range(3, 9)

# The formats of the pair's `contexts` in registry/pairs/micro.yaml; pre-training shows both models the same ones.
CONTEXTS = {"solution": "!{solution}!{prompt}", "hint": "?{hint}?{prompt}"}
# Further formats of the pair, for texts made during a run; neither model saw them in pre-training. A right answer of a peer stands where
# the solution would.
MADE_CONTEXTS = {
    "attempt": "?{attempt}?{prompt}",
    "feedback": "?{feedback}?{prompt}",
    "attempt_feedback": "?{attempt}?{feedback}?{prompt}",
    "outcome": "?{outcome}?{prompt}",
    "attempt_outcome": "?{attempt}?{outcome}?{prompt}",
    "solution_outcome": "!{solution}!?{outcome}?{prompt}",
    "peer_success": "!{peer_success}!{prompt}",
    "peer_failure": "?{peer_failure}?{prompt}",
    "peers": "?{peer_failure}?!{peer_success}!{prompt}",
    "peer_success_attempt": "?{attempt}?!{peer_success}!{prompt}",
    "peer_success_reflection": "?{reflection}?!{peer_success}!{prompt}",
    "peer_success_feedback": "?{feedback}?!{peer_success}!{prompt}",
    "reflection": "?{reflection}?{prompt}",
    "attempt_reflection": "?{attempt}?{reflection}?{prompt}",
    "feedback_other": "?{feedback}?{other_prompt}",
    "partial_solution": "?{partial_solution}?{prompt}",
    "ablated": "{ablated}",
    "answer": "?{answer}?{prompt}",
    "explain": "?{domain}?{prompt}",
    "observation": "?{observation}?{prompt}",
    "observation_reflection": "?{reflection}?{observation}?{prompt}",
    "history": "{history}",
    "history_reflect": "?{history}?{prompt}",
    "hidden_state": "?{hidden_state}?{prompt}",
    "experience": "!{experience}!{prompt}",
    "reflection_experience": "?{reflection}?!{experience}!{prompt}",
    "canonical": "+{content}=",
}
WORDS = {"right": "good", "wrong": "bad", "rate": "{percent}", "between": " ", "mark": "@"}

_TRAIN_SIZE, _VALID_SIZE, _TEST_SIZE = 20_000, 512, 256
_WELL_FORMED = re.compile(r"[0-9]+(?: [0-9]+)*#([0-9]+)")
_AFTER_MARK = re.compile(r"#\s*([0-9]+)")


def split_of(kind: str, content: str) -> str:
    """The only split an item may appear in: `test` and `valid` get a tenth of all contents each, `train` the rest.

    `kind` is `add` (lists of any length) or `copy`; `content` is what the prompt lists, without its marks.
    """
    bucket = int.from_bytes(hashlib.sha256(f"{kind}:{content}".encode()).digest()[:4], "big") % 10
    return {0: "test", 1: "valid"}.get(bucket, "train")


def add_prompt(digits: str, id: str = "") -> Prompt:
    """The ADD-CHAIN prompt for a list of digits, with the fields `solution`, `answer`, `hint`, `domain` and `content`, the list itself."""
    return chain_prompt("+", "add", digits, accumulate(int(digit) for digit in digits), id)


def chain_prompt(mark: str, domain: str, digits: str, running: Iterable[int], id: str) -> Prompt:
    """The prompt for a list of digits whose answer is the running results, then `#` and the last of them again."""
    results = [str(result) for result in running]
    fields = {
        "solution": " ".join(results) + "#" + results[-1],
        "answer": results[-1],
        "hint": " ".join(results[: (len(results) + 1) // 2]),
        "domain": domain,
        "content": digits,
    }
    return Prompt(id=id or f"{domain}-{digits}", text=f"{mark}{digits}=", fields=fields)


def copy_prompt(content: str, id: str = "") -> Prompt:
    """The COPY prompt for a string; its solution and answer are the string, its hint the first half of it."""
    fields = {"solution": content, "answer": content, "hint": content[: (len(content) + 1) // 2], "domain": "copy", "content": content}
    return Prompt(id=id or f"copy-{content}", text=f"@{content}=", fields=fields)


def draw(kind: str, split: str, lengths: Sequence[int], rng: random.Random) -> Iterator[str]:
    """Contents of one split without end: length uniform over `lengths`, then characters uniform; repeats are possible."""
    alphabet = DIGITS if kind == "add" else DIGITS + LETTERS
    while True:
        content = "".join(rng.choice(alphabet) for _ in range(rng.choice(lengths)))
        if split_of(kind, content) == split:
            yield content


def distinct(contents: Iterator[str], n: int) -> list[str]:
    """The first `n` different contents of a stream, in order of appearance."""
    seen: dict[str, None] = {}
    while len(seen) < n:
        seen.setdefault(next(contents))
    return list(seen)


@cache
def _prompts(split: str) -> tuple[Prompt, ...]:
    contents = draw("add", split, ADD_LENGTHS, random.Random(seed_for("micro", "prompts", split)))
    chosen = list(islice(contents, _TRAIN_SIZE)) if split == "train" else distinct(contents, _VALID_SIZE)
    return tuple(add_prompt(digits, f"{split}-{i:05d}") for i, digits in enumerate(chosen))


def held_out(name: str) -> list[Prompt]:
    """The 256 different test items of `add` (in distribution), `ood` (longer lists) or `copy` (the skill to retain)."""
    kind, lengths = {"add": ("add", ADD_LENGTHS), "ood": ("add", OOD_LENGTHS), "copy": ("copy", COPY_LENGTHS)}[name]
    contents = distinct(draw(kind, "test", lengths, random.Random(seed_for("micro", "test", name))), _TEST_SIZE)
    make = add_prompt if kind == "add" else copy_prompt
    return [make(content, f"{name}-{i:03d}") for i, content in enumerate(contents)]


def _answer(text: str, prompt: Prompt) -> bool:
    if prompt.fields["domain"] == "copy":
        return text.strip() == prompt.fields["answer"]
    found = _WELL_FORMED.fullmatch(text.strip())
    return found is not None and found.group(1) == prompt.fields["answer"]


def _flexible(text: str, prompt: Prompt) -> bool:
    if prompt.fields["domain"] == "copy":
        return prompt.fields["answer"] in text
    return _AFTER_MARK.findall(text)[-1:] == [prompt.fields["answer"]]


def _exact(text: str, prompt: Prompt) -> bool:
    return text.strip() == prompt.fields["solution"]


def _format(text: str, prompt: Prompt) -> bool:
    return prompt.fields["domain"] == "copy" or _WELL_FORMED.fullmatch(text.strip()) is not None


CHECKS: dict[str, Callable[[str, Prompt], bool]] = {"answer": _answer, "flexible": _flexible, "exact": _exact, "format": _format}


class MicroTask(MicroTurns):
    """ADD-CHAIN prompts and the checks of their answers.

    `answer`: running totals, `#`, and the right number at the very end, whether or not every total is right;
    `exact`: the gold solution, character by character; `format`: well-formed, right or wrong; `flexible`: the number after the
    last `#` is right, whatever stands around it.
    """

    checks = tuple(CHECKS)

    def prompts(self, split: str) -> list[Prompt]:
        """20,000 training prompts (drawn independently, so short lists repeat) or 512 different ones for `valid`."""
        if split not in ("train", "valid"):
            raise ZooError(f"task micro has no split '{split}'{suggest(split, ('train', 'valid'))}")
        return list(_prompts(split))

    def verify(self, check: str, text: str, prompt: Prompt) -> float:
        """1.0 where the answer passes `check`, else 0.0."""
        if check not in CHECKS:
            raise ZooError(f"task micro has no check '{check}'{suggest(check, CHECKS)}")
        return float(CHECKS[check](text, prompt))

    def feedback(self, text: str, prompt: Prompt) -> str:
        """Where an answer goes wrong, in the task's own characters: `good`; `bad 3`, the third running total being wrong or missing;
        `bad #`, all being right but the answer; `form` where nothing can be read."""
        right, said = prompt.fields["solution"].split("#")[0].split(" "), text.strip()
        if CHECKS["exact"](text, prompt):
            return "good"
        if not CHECKS["format"](text, prompt) or prompt.fields["domain"] == "copy":
            return "form"
        written = said.split("#")[0].split(" ")
        off = next((i for i, total in enumerate(right) if i >= len(written) or written[i] != total), len(right))
        return f"bad {off + 1}" if off < max(len(right), len(written)) else "bad #"
