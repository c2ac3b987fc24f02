"""Refusals about contexts made during the run and about streams that read other streams: reason and remedy."""

from __future__ import annotations

from typing import Any

import pytest

from tests.harness_kit import REVERSE_KL, TEACHER, made
from zoo import context_rules
from zoo.compat import pair_problems, problems
from zoo.coordinates import derive_coordinates, derive_tuples

SELF_KL = {**REVERSE_KL, "teacher": "self"}


def own(context: dict[str, Any], group: int = 4, **streams: Any) -> dict[str, Any]:
    teacher = {"kind": "student", "weights": "live", "context": {"template": "attempt", **context}}
    return {"rollouts": {"main": {"author": "student", "group": group}, **streams}, "teachers": {"self": teacher}, "objective": [SELF_KL]}


def external(**streams: Any) -> dict[str, Any]:
    on = next(iter(streams))
    return {"rollouts": streams, **TEACHER, "objective": [{**REVERSE_KL, "on": on}]}


ATTEMPT_OF = {"template": "attempt", "made": [{"kind": "attempt", "of": "main"}]}
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "the plain template shows the student's own prompt": (
        own({"template": "plain"}),
        "teachers.self is the live student in the student's own context, so its signal is 0; give it a context, other weights or a target",
    ),
    "peers need a group": (
        own({"made": ["peer_success"]}, group=1),
        "teachers.self.context: peer_success reads a group, but rollouts.main has group 1; set group to 2 or more",
    ),
    "a rate needs a group": (
        external(edited={"author": "edited", "of": "main", "put": {"kind": "outcome", "scope": "group"}, "supervise": "all"}, main={"author": "student"}),
        "rollouts.edited.put: outcome reads a group, but rollouts.main has group 1; set group to 2 or more",
    ),
    "nothing is written yet": (
        external(main={"author": "teacher", "context": {"template": "attempt", "made": ["attempt"]}}),
        "rollouts.main: context attempt reads what was written, and this stream is not written yet; name another one with of",
    ),
    "unlike groups": (
        external(refined={"author": "teacher", "context": ATTEMPT_OF}, main={"author": "student", "group": 2}),
        "rollouts.refined and rollouts.main are read row by row; give both the same group and share",
    ),
    "replayed": (
        external(refined={"author": "teacher", "context": ATTEMPT_OF}, main={"author": "replay"}),
        "rollouts.refined and rollouts.main are read row by row, but a replayed batch answers other prompts; use a plain author",
    ),
    "corpus": (
        external(refined={"author": "teacher", "context": ATTEMPT_OF}, main={"author": "corpus"}),
        "rollouts.main is a corpus, which answers no prompt; read another stream",
    ),
    "unknown stream": (
        external(refined={"author": "teacher", "context": {"template": "attempt", "made": [{"kind": "attempt", "of": "mian"}]}}, main={"author": "student"}),
        "rollouts.refined: stream 'mian' is not under rollouts; did you mean 'main'?",
    ),
    "unknown stream of a scorer": (
        own({"made": [{"kind": "attempt", "of": "mian"}]}),
        "teachers.self.context: stream 'mian' is not under rollouts; did you mean 'main'?",
    ),
    "circle": (
        external(
            one={"author": "student", "context": {"template": "attempt", "made": [{"kind": "attempt", "of": "two"}]}},
            two={"author": "student", "context": {"template": "attempt", "made": [{"kind": "attempt", "of": "one"}]}},
        ),
        "rollouts.one reads 'two', which reads it in turn; one of them must be written first",
    ),
    "texts that are written for some rows and learned from all": (
        {
            "rollouts": {"main": {"author": "student", "group": 2}, "helped": {"author": "teacher", "when": {
                "kind": "group_reward", "of": "main", "check": "answer", "at_most": 0.0}}},
            **TEACHER, "objective": [{**REVERSE_KL, "on": "main"}, {"term": "likelihood", "on": "helped", "reduce": "token_mean"}],
        },
        "objective[1] reads 'helped', which when writes for some rows only; give it the same gate, {kind: reward, name: ..., at_most: 0.0} on a reward "
        "{kind: elsewhere, on: main, reward: {kind: verifier, check: answer}, scope: group}",
    ),
    "a mean over silent sequences": (
        {
            **own({"made": ["peer_success"]}),
            "objective": [
                {"term": "policy_gradient", "reward": {"kind": "contrast", "of": {"self": 1, "student": -1}}, "credit": "immediate",
                 "shaping": [{"kind": "whiten"}], "reduce": "token_mean"}
            ],
        },
        "objective[0]: teachers.self says nothing about sequences without its context, but the batch's mean counts them; "
        "set absent: plain, or drop the statistic of the batch",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_refusals(name: str) -> None:
    body, message = CASES[name]
    assert message in problems(made("case", **body))


def test_every_rule_is_tested() -> None:
    for rule in context_rules.NAMES:
        assert any(message in rule(made("case", **body)) for body, message in CASES.values()), rule.__name__
    sound = [(made("case", **body), message) for body, message in CASES.values() if not list(context_rules.unknown_sources(made("case", **body)))]
    for rule in context_rules.RULES:
        assert any(message in rule(entry) for entry, message in sound), rule.__name__


def test_what_is_shown_counts_as_read() -> None:
    refined = external(refined={"author": "teacher", "context": ATTEMPT_OF}, main={"author": "student"})
    assert problems(made("case", **refined)) == []
    assert problems(made("case", **own({"made": ["peer_success", "attempt"]}))) == []


PAIR: dict[str, Any] = {"templates": {"attempt": "?{attempt}?{prompt}"}, "fields": ["solution"], "teachers": ["teacher"], "checks": ["answer"],
                        "same_vocabulary": True}  # fmt: skip


@pytest.mark.parametrize(("context", "message"), [
    ({"made": ["attempt"], "template": "attemt"}, "teachers.self.context.template 'attemt' is not among the pair's contexts; did you mean 'attempt'?"),
    ({"made": ["feedback"]}, "teachers.self.context.template 'attempt' has a place for 'attempt', which the context does not fill; add it to fields or made"),
    ({"made": ["attempt", {"kind": "peer_success", "check": "anser"}]}, "teachers.self.context: check 'anser' is not among the task's checks; "
     "did you mean 'answer'?"),
    ({"made": ["attempt", {"kind": "partial_solution", "share": 0.5, "name": "solutoin"}]}, "teachers.self.context needs the prompt field 'solutoin', which "
     "this pair's prompts lack; did you mean 'solution'?"),
])  # fmt: skip
def test_what_a_pair_lacks(context: dict[str, Any], message: str) -> None:
    assert pair_problems(made("case", **own({"made": ["attempt"]})), **PAIR) == []
    assert pair_problems(made("case", **own(context)), **PAIR) == [message]


def test_a_verdict_that_a_teacher_sees_is_an_outcome() -> None:
    for part, signals in (("attempt", ("self_play",)), ("feedback", ("outcome", "self_play")), ("peer_failure", ("outcome", "self_play"))):
        assert derive_tuples(made("case", **own({"made": [part]})))[0].signals == signals
    prefix = external(main={"author": "prefix", "of": "teacher", "high": 0.5, "supervise": "continuation"})
    likelihood = {**prefix, "objective": [{"term": "likelihood", "reduce": "token_mean"}]}
    assert derive_coordinates(made("case", **likelihood)).teacher_access == "black_box"


PG = {"term": "policy_gradient", "reward": {"kind": "contrast", "of": {"teacher": 1, "student": -1}}, "credit": "immediate", "reduce": "token_mean"}


@pytest.mark.parametrize(("stream", "foreign"), [
    ({"author": "prefix", "high": 0.5, "supervise": "continuation"}, False), ({"author": "prefix", "high": 0.5, "supervise": "all"}, True),
    ({"author": "prefix", "high": 0.5, "by": "teacher", "supervise": "continuation"}, True),
    ({"author": "switch", "when": {"kind": "divergence_drop", "below": 0.1}, "stop": True}, False),
    ({"author": "blended", "how": "geometric", "budget": 0.1}, True)])  # fmt: skip
def test_whose_tokens_a_policy_gradient_moves(stream: dict[str, Any], foreign: bool) -> None:
    found = problems(made("case", rollout=stream, **TEACHER, objective=[PG]))
    assert any("holds tokens that the student did not write" in message for message in found) == foreign
    ratio = problems(made("case", rollout=stream, **TEACHER, objective=[{**PG, "ratio": ["importance"]}]))
    assert any("which is unknown for the given texts" in message for message in ratio) == (stream.get("supervise") == "all")
