"""Refusals about judges and discriminators: reason and remedy."""

from __future__ import annotations

from typing import Any

import pytest

from tests.test_compat import changed
from zoo import asked_rules
from zoo.compat import problems

CRITIC = {"kind": "discriminator", "real": "theirs", "fake": "main"}
JUDGE = {"kind": "judge", "by": "teacher", "ask": "verdict", "context": {"made": ["attempt"], "template": "attempt"}}
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown_asked": ({"rewards.correct": {**JUDGE, "by": "techer"}}, "rewards.correct: judge 'techer' is not under teachers; did you mean 'teacher'?"),
    "unknown_asked: learner": (
        {"rewards.correct": {"kind": "learner", "learner": "value"}},
        "rewards.correct: 'value' is no learner of kind discriminator",
    ),
    "unknown_asked: stream": (
        {"learners.critic": {**CRITIC, "real": "thers"}},
        "learners.critic: stream 'thers' is not under rollouts; did you mean 'theirs'?",
    ),
    "judges": (
        {"rewards.correct": {**JUDGE, "ask": "likelihood"}, "teachers.teacher": {"kind": "endpoint"}},
        "rewards.correct: an endpoint gives no probabilities of an answer; ask: verdict or score, or name a teacher of kind external",
    ),
    "judges: composite": (
        {"rewards.correct": {**JUDGE, "by": "both"}, "teachers.both": {"kind": "ensemble", "of": {"teacher": 1, "reference": 1}}},
        "rewards.correct: 'both' is made of other teachers; name one of its members as the judge",
    ),
    "paired_texts": (
        {"learners.critic": CRITIC, "rollouts.theirs.group": 3},
        "learners.critic: 'theirs' and 'main' answer different numbers of prompts; give rollouts.theirs a group that divides 4 and the share "
        "group / 4 of that of 'main'",
    ),
    "paired_texts: corpus": (
        {"learners.critic": CRITIC, "rollouts.theirs": {"author": "corpus"}},
        "learners.critic: a replayed batch or a corpus answers other prompts; compare streams of plain authors",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_rule(case: str) -> None:
    changes, message = CASES[case]
    own = next(rule for rule in (*asked_rules.NAMES, *asked_rules.RULES) if rule.__name__ == case.split(":")[0])
    found = changed(changes)
    assert [text for text in own(found) if message in text], list(own(found))
    assert [text for text in problems(found) if message in text]
    assert list(own(changed({}))) == []


def test_every_rule_is_tested() -> None:
    assert {case.split(":")[0] for case in CASES} == {rule.__name__ for rule in (*asked_rules.NAMES, *asked_rules.RULES)}
