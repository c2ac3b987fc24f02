"""The task `chores`: its items, its splits, its checks, and the shipped test lists."""

from __future__ import annotations

import json
import random

import pytest

from zoo.errors import ZooError
from zoo.harness.suites import load_suite
from zoo.paths import data_root
from zoo.tasks import make_task
from zoo.tasks.chores import ChoresTask, held_out, list_prompt, names_fact, split_of, sum_prompt

TASK = ChoresTask()
SUM = sum_prompt("Ivy", "shells", 12, [(5, "{name} finds {n} more."), (-9, "{name} gives away {n}.")])
LIST = list_prompt(["pear", "fig", "apple"])
LISTS = ("sums", "lists", "longer_sums", "longer_lists", "facts")


def test_gold_solutions_pass_every_check_and_are_right() -> None:
    for prompt in TASK.prompts("train")[:400] + TASK.prompts("valid"):
        assert all(TASK.verify(check, prompt.fields["solution"], prompt) == 1.0 for check in TASK.checks)
        assert TASK.feedback(prompt.fields["solution"], prompt) == "The answer is right."
    assert SUM.fields["solution"] == "12 + 5 = 17. 17 - 9 = 8. The answer is 8."
    assert SUM.text.startswith("Ivy has 12 shells. Ivy finds 5 more. Ivy gives away 9. How many shells")
    assert LIST.fields["answer"] == "apple, fig, pear"


@pytest.mark.parametrize(
    ("text", "answer", "flexible", "shape"),
    [
        ("12 + 5 = 17. The answer is 8.", 1, 1, 1),
        ("The answer is 7. No: the answer is 8", 1, 1, 1),
        ("The answer is 80.", 0, 0, 1),
        ("so 8", 0, 1, 0),
        ("The answer is 8. Checked 3 times.", 1, 0, 1),
        ("The answer is -8.", 0, 1, 1),
        ("", 0, 0, 0),
    ],
)
def test_checks_of_a_sum(text: str, answer: int, flexible: int, shape: int) -> None:
    assert [TASK.verify(check, text, SUM) for check in ("answer", "flexible", "format")] == [answer, flexible, shape]


@pytest.mark.parametrize(
    ("text", "answer", "flexible", "shape"),
    [
        ("apple, fig, pear", 1, 1, 1),
        (" Apple, fig, pear.\n", 1, 1, 1),
        ("Sorted: apple, fig, pear", 0, 1, 0),
        ("apple, pear, fig", 0, 0, 1),
        ("apple fig pear", 0, 1, 0),
        ("fig, pear", 0, 0, 1),
    ],
)
def test_checks_of_a_list(text: str, answer: int, flexible: int, shape: int) -> None:
    assert [TASK.verify(check, text, LIST) for check in ("answer", "flexible", "format")] == [answer, flexible, shape]


def test_feedback_names_the_first_step_that_is_wrong_and_not_the_answer() -> None:
    assert TASK.feedback("12 + 5 = 16. 16 - 9 = 7. The answer is 7.", SUM) == "Step 1 is missing or wrong."
    assert TASK.feedback("12 + 5 = 17. 17 - 9 = 7. The answer is 7.", SUM) == "Step 2 is missing or wrong."
    assert TASK.feedback("12 + 5 = 17. 17 - 9 = 8. The answer is 9.", SUM) == "Every step is there, but the final answer is wrong."
    assert TASK.feedback("eight", SUM).startswith("No final answer")
    assert TASK.feedback("apple, pear", LIST) == "The word fig is missing."


def test_splits_are_disjoint_and_totals_stay_in_range() -> None:
    train, valid = TASK.prompts("train"), TASK.prompts("valid")
    texts = [{prompt.text for prompt in prompts} for prompts in (train, valid, [p for name in LISTS[:4] for p in held_out(name)])]
    assert [len(found) for found in texts] == [8000, 256, 512]
    assert not (texts[0] & texts[1] or texts[0] & texts[2] or texts[1] & texts[2])
    assert {split_of(prompt.text) for prompt in train} == {"train"}
    assert all(0 <= int(p.fields["answer"]) <= 99 for p in [*train, *held_out("longer_sums")] if p.fields["domain"] in ("sums",))
    assert [p.fields["domain"] for p in train[:4]] == ["sums", "lists", "sums", "lists"]


def test_a_fact_is_a_word_of_its_own() -> None:
    assert names_fact("It has eight legs.", "eight|8") and names_fact("8", "eight|8")
    assert not names_fact("18 legs", "eight|8") and not names_fact("romeo", "Rome")


def test_shipped_lists_are_those_of_the_task() -> None:
    for name in LISTS:
        lines = (data_root() / "suites" / "tasks" / "data" / f"chores_{name}.jsonl").read_text(encoding="utf-8").splitlines()
        made = [{"id": p.id, "prompt": p.text, "domain": p.fields["domain"], "answer": p.fields["answer"]} for p in held_out(name)]
        assert [json.loads(line) for line in lines] == made
    assert [task.task for task in load_suite("chores").tasks] == [f"chores_{name}" for name in LISTS]


def test_unknown_names_are_refused() -> None:
    assert isinstance(make_task("chores"), ChoresTask)
    for wrong in (lambda: TASK.prompts("test"), lambda: TASK.verify("bleu", "", SUM), lambda: make_task("chore")):
        with pytest.raises(ZooError, match=r"no split|no check|did you mean"):
            wrong()


def test_other_random_states_change_no_list() -> None:
    before = [p.text for p in held_out("sums")]
    random.seed(5)
    assert [p.text for p in held_out("sums")] == before
