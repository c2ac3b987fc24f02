"""Parts of contexts that are made during the run: what each shows, and when it has nothing to show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from tests.components.six import build
from zoo.components.base import Context
from zoo.components.contexts import Answers
from zoo.tensors import Prompt


class Judge:
    """Right is a text that ends with its prompt's answer."""

    words = {"right": "yes", "wrong": "no", "rate": "{rate:.2f} {percent}", "between": " | "}
    pool = [Prompt(str(i), f"q{i}") for i in range(7)]

    def verify(self, check: str, text: str, prompt: Prompt) -> float:
        return float(text.endswith(prompt.fields[check]))

    def feedback(self, text: str, prompt: Prompt) -> str:
        return f"{len(text)} letters"


PROMPTS = [Prompt("a", "say A long", {"answer": "A", "solution": "one two three A", "part": " long"})] * 4 + [
    Prompt("b", "say B", {"answer": "B", "solution": "B", "part": " long"})
] * 2
TEXTS = ["long A", "no", "A", "oh", "bad", "worse"]
ANSWERS = Answers(PROMPTS, TEXTS, (0, 0, 0, 0, 1, 1))


def made(kind: str, answers: Answers = ANSWERS, **fields: Any) -> Sequence[str | None]:
    return build("context", kind, **fields).texts({None: answers, "other": Answers(PROMPTS, [t.upper() for t in TEXTS], answers.groups)}, Judge())


SHOWN: list[tuple[str, dict[str, Any], list[str | None]]] = [
    ("attempt", {}, TEXTS),
    ("attempt", {"of": "other"}, ["LONG A", "NO", "A", "OH", "BAD", "WORSE"]),
    ("reflection", {"of": "other"}, ["LONG A", "NO", "A", "OH", "BAD", "WORSE"]),
    ("outcome", {}, ["yes", "no", "yes", "no", "no", "no"]),
    ("outcome", {"scope": "group"}, ["0.50 50"] * 4 + ["0.00 0"] * 2),
    ("feedback", {}, ["6 letters", "2 letters", "1 letters", "2 letters", "3 letters", "5 letters"]),
    ("peer_success", {}, ["A", "A", "long A", "long A", None, None]),
    ("peer_success", {"count": 2}, ["A", "A | long A", "long A", "long A | A", None, None]),
    ("peer_success", {"pick": "shortest"}, ["A", "A", "long A", "A", None, None]),
    ("peer_failure", {}, ["no", "oh", "oh", "no", "worse", "bad"]),
    ("peer_success", {"otherwise": {"given": "solution"}}, ["A", "A", "long A", "long A", "B", "B"]),
    ("peer_success", {"otherwise": "feedback"}, ["A", "A", "long A", "long A", "3 letters", "5 letters"]),
    ("partial_solution", {"share": 0.5}, ["one two"] * 4 + ["B"] * 2),
    ("partial_solution", {"share": 0.0}, ["one"] * 4 + ["B"] * 2),
    ("partial_solution", {"share": 1.0}, ["one two three A"] * 4 + ["B"] * 2),
    ("ablated", {"part": "part"}, ["say A"] * 4 + [None] * 2),
    ("given", {"name": "nothing"}, [None] * 6),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "fields", "shown"), SHOWN)
def test_what_each_part_shows(kind: str, fields: dict[str, Any], shown: list[str | None]) -> None:
    assert list(made(kind, **fields)) == shown


def test_a_peer_is_never_the_sequence_itself() -> None:
    alone = Answers(PROMPTS[:2], ["A", "no"], (0, 0))
    assert made("peer_success", alone) == [None, "A"] and made("peer_failure", alone) == ["no", None]


def test_another_prompt_depends_on_the_prompt_alone_and_differs_from_it() -> None:
    answers = Answers(Judge.pool)
    shown = made("other_prompt", answers)
    assert all(other in {p.text for p in Judge.pool} and other != own.text for other, own in zip(shown, Judge.pool, strict=True))
    assert made("other_prompt", Answers(Judge.pool[::-1])) == list(reversed(shown))
    assert made("other_prompt", answers, index=1) != shown


def test_a_context_shows_something_once() -> None:
    with pytest.raises(ValidationError, match="shows something"):
        Context(template="t")
    with pytest.raises(ValidationError, match="'attempt' is there twice"):
        Context(template="t", made=("attempt", {"kind": "attempt", "of": "main"}))
    with pytest.raises(ValidationError, match="share must lie in"):
        build("context", "partial_solution", share=1.5)


def test_parts_that_differ_are_kept_apart() -> None:
    context = Context(template="t", made=({"kind": "peer_success"}, {"kind": "peer_failure"}))
    other = Context(template="u", made=({"kind": "peer_success", "count": 2},))
    keys = [context.key(context.made[0]), context.key(context.made[1]), other.key(other.made[0])]
    assert len(set(keys)) == 3 and all(key.partition("~")[0] in ("peer_success", "peer_failure") for key in keys)


REFERENCES = {
    **{kind: [test_what_each_part_shows] for kind, _, _ in SHOWN},
    "other_prompt": [test_another_prompt_depends_on_the_prompt_alone_and_differs_from_it],
}
