"""Refusals about dialogues, with their whole messages; each rule has a case."""

from __future__ import annotations

from typing import Any

import pytest

from tests.harness_kit import REVERSE_KL, made
from zoo import turn_rules
from zoo.compat import problems
from zoo.entry import MethodEntry

CALLS = {"kind": "tool", "tool": "calculator"}
DIALOGUE = {"author": "student", "environment": CALLS}
REMEDY = "give the stream an environment with turns"
SELF = {"kind": "student", "weights": "initial"}
BRANCH = {"author": "branch", "of": "main", "by": "teacher", "high": 1.0, "supervise": "continuation"}
PLAIN = {"author": "student"}
TOLD = {"made": [{"kind": "observation", "of": "main"}], "template": "observation"}
MADE = {"made": ["feedback"], "template": "feedback"}


def entry(rollouts: dict[str, Any] | None = None, context: dict[str, Any] | None = None, **term: Any) -> MethodEntry:
    streams = {"main": DIALOGUE, **(rollouts or {})}
    teachers = {"teacher": {"kind": "external"}, "self": {**SELF, "context": context or MADE}}
    own = {**REVERSE_KL, "teacher": "self", "divergence": "forward_kl", "reduce": "token_mean", **term}
    others = [{"term": "likelihood", "on": name, "reduce": "token_mean"} for name in streams if name != own.get("on", "main")]
    rewards = {"progress": {"kind": "turn_state"}} if "progress" in str(term) else {}
    return made("made", rollouts=streams, teachers=teachers, objective=[own, *others], rewards=rewards)


CASES: dict[str, list[tuple[dict[str, Any], str]]] = {
    "turns_need_an_environment": [
        ({"rollouts": {"main": PLAIN}, "gates": [{"kind": "role", "is": "call"}]},
         f"objective[0]: role reads turns or roles, but rollouts.main has no turns; {REMEDY}"),
        ({"rollouts": {"main": PLAIN}, "reduce": "turn_mean"},
         f"objective[0]: reduce turn_mean is sequence_mean where rollouts.main has no turns; write that, or {REMEDY}"),
        ({"rollouts": {"main": PLAIN}, "weights": [{"kind": "reward", "name": "progress", "scope": "turn"}]},
         f"objective[0]: a reward of turns needs turns, but rollouts.main has no turns; {REMEDY}"),
    ],
    "turn_contexts": [
        ({"rollouts": {"main": PLAIN}, "context": {**MADE, "per": "turn"}},
         f"objective[0]: teachers.self.context is per: turn, but rollouts.main has no turns; {REMEDY}, or drop per"),
        ({"rollouts": {"main": PLAIN}, "context": {"made": ["history"], "template": "history"}},
         f"objective[0]: context history shows what an environment said, but rollouts.main has none; {REMEDY}"),
        ({"rollouts": {"other": {"author": "student", "context": {**TOLD, "per": "turn"}}}},
         "rollouts.other: an author has one context for a whole dialogue; drop per, or give it to a scorer"),
        ({"rollouts": {"main": PLAIN, "other": {"author": "student", "context": TOLD}}},
         f"rollouts.other: context observation shows what an environment said, but rollouts.main has none; {REMEDY}"),
    ],
    "whole_dialogues": [
        ({"rollouts": {"other": {"author": "replay", "of": DIALOGUE}}}, "rollouts.other: author replay takes single answers; leave the environment out of it"),
        ({"rollouts": {"other": {"author": "prefix", "high": 1.0, "unit": "turn", "supervise": "all"}}},
         "rollouts.other: a prefix is a part of one answer; set unit: share or tokens, or use a branch of a dialogue"),
        ({"rollouts": {"other": {"author": "edited", "of": "main", "put": "outcome", "supervise": "edit"}}},
         "rollouts.other: only single answers are edited, and rollouts.main is a dialogue"),
        ({"rollouts": {"other": BRANCH}}, "rollouts.other: rollouts.main is a dialogue; set unit: turn, so that it leaves at the beginning of a turn"),
        ({"rollouts": {"main": PLAIN, "other": {**BRANCH, "unit": "turn"}}}, "rollouts.other: rollouts.main is no dialogue; use another unit"),
    ],
    "speakers": [
        ({"rollouts": {"main": {"author": "student", "environment": {"kind": "simulated_user", "by": "techer"}}}},
         "rollouts.main.environment: 'techer' is no teacher; did you mean 'teacher'?"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("rule", "changes", "message"), [(rule, *case) for rule, cases in CASES.items() for case in cases])
def test_rule(rule: str, changes: dict[str, Any], message: str) -> None:
    found = entry(**changes)
    own = next(function for function in (*turn_rules.NAMES, *turn_rules.RULES) if function.__name__ == rule)
    assert message in list(own(found))
    assert message in problems(found)
    assert list(own(entry())) == []


def test_every_rule_is_tested() -> None:
    assert {rule.__name__ for rule in (*turn_rules.NAMES, *turn_rules.RULES)} == set(CASES)


def test_a_credit_of_turns_needs_turns() -> None:
    term = {"term": "policy_gradient", "reward": "correct", "credit": {"kind": "return_to_go", "per": "turn"}, "reduce": "token_mean"}
    alone = made("made", rollouts={"main": PLAIN}, rewards={"correct": "verifier"}, objective=[term])
    assert f"objective[0]: credit per: turn needs turns, but rollouts.main has no turns; {REMEDY}" in problems(alone)
    assert problems(made("made", rollouts={"main": DIALOGUE}, rewards={"correct": "verifier"}, objective=[term])) == []
