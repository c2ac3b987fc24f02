"""Rules about how parameters move and about teachers made of others: each fires with its whole message."""

from __future__ import annotations

from typing import Any

import pytest
from harness_kit import REVERSE_KL, TEACHER, made

from zoo import movement_rules
from zoo.compat import problems

OWN = {"author": "student"}
TWO = {"one": {"kind": "external"}, "two": {"kind": "student", "weights": {"ema": 0.9}}}
MIX = {"kind": "ensemble", "of": {"one": 1.0, "two": 1.0}}
HIDDEN = {"term": "representation", "reduce": "token_mean"}
GRADIENT = {"term": "policy_gradient", "reward": "correct", "credit": "group", "reduce": "sequence_mean"}
SAMPLED = {**GRADIENT, "reward": {"kind": "contrast", "of": {"teacher": 1, "student": -1}}, "credit": "immediate"}
PRIVATE = {"kind": "adamw", "step": {"kind": "dp", "clip": 1.0, "noise": 1.0}}


def taught(all: dict[str, Any] = MIX, rollout: dict[str, Any] = OWN, **term: Any) -> dict[str, Any]:
    return {"rollout": rollout, "teachers": {**TWO, "all": all}, "objective": [{**REVERSE_KL, "teacher": "all", **term}]}


def plain(*objective: dict[str, Any], rollout: dict[str, Any] = OWN, **sections: Any) -> dict[str, Any]:
    return {"rollout": rollout, **TEACHER, "objective": list(objective), **sections}


def taught_by(learner: str, **terms: Any) -> dict[str, Any]:
    mate = {"kind": "peer", "objective": [{**REVERSE_KL, "teacher": "pupil", **terms}]}
    teachers = {"teacher": {"kind": "learner", "learner": learner}}
    return {"rollout": OWN, "teachers": teachers, "learners": {"mate": mate}, "objective": [REVERSE_KL]}


CASES: dict[str, list[tuple[dict[str, Any], str]]] = {
    "unknown_members": [
        (taught({"kind": "ensemble", "of": {"one": 1.0, "tow": 1.0}}), "teachers.all: member 'tow' is not under teachers; did you mean 'two'?"),
        (taught({"kind": "route", "of": {"maths": "one", "code": "all"}}), "teachers.all is made of itself through 'all'; name other teachers"),
    ],
    "remembering_learners": [
        (
            taught_by("mate", teacher="teacher", gates=[{"kind": "persistent", "of": {"kind": "entropy", "of": "student"}}]),
            "learners.mate: gate persistent remembers the student's steps, not a learner's; use it in objective alone",
        ),
    ],
    "learned_teachers": [
        (taught_by("mat"), "teachers.teacher: 'mat' is no learner of kind peer, adapter or soft_prompt; did you mean 'mate'?"),
        (
            taught_by("mate", teacher="pupl"),
            "learners.mate.objective[0]: 'pupl' is not declared; a learner's terms read the entry's parts, itself as student and the entry's student as pupil",
        ),
        (
            taught_by("mate", on="there"),
            "learners.mate.objective[0]: 'there' is not declared; a learner's terms read the entry's parts, itself as student and the entry's student as pupil",
        ),
    ],
    "composite_authors": [
        (taught(rollout={"author": "teacher", "teacher": "all"}), "rollouts.main: 'all' is made of other teachers and can't write; name one of its members"),
    ],
    "measures": [
        (
            plain({**REVERSE_KL, "coefficient": {"schedule": "informed", "measure": "loss.1", "at": 0.5}}),
            "objective: no step leaves a measure 'loss.1'; write loss, loss.N, kept.N, reward.NAME.STREAM, length.STREAM or truncated.STREAM",
        ),
        (
            taught(MIX | {"of": {"one": 1.0, "two": 1.0}}) | {
                "teachers": {**TWO, "all": {"kind": "student", "weights": {"kind": "gated", "measure": "reward.correct.main"}}},
            },
            "teachers.all: no step leaves a measure 'reward.correct.main'; write loss, loss.N, kept.N, reward.NAME.STREAM, length.STREAM or truncated.STREAM",
        ),
    ],
    "private_parts": [
        (
            plain(REVERSE_KL, update=PRIVATE),
            "objective[0]: update.step dp clips each sequence by itself, and a mean over all tokens binds them together; use reduce: sequence_mean",
        ),
        (
            plain(GRADIENT, rollout={**OWN, "group": 4}, rewards={"correct": "verifier"}, update=PRIVATE),
            "objective[0]: update.step dp takes each sequence by itself, and a group's credit compares several; use group: 1",
        ),
    ],
    "matched_term": [
        (
            plain(REVERSE_KL, update={"kind": "adamw", "step": "match_norm"}),
            "update.step match_norm takes the norm of objective[0], which needs to be one of several terms; there are 1",
        ),
        (
            plain(REVERSE_KL, REVERSE_KL, update={"kind": "adamw", "step": {"kind": "match_norm", "to": 2}}),
            "update.step match_norm takes the norm of objective[2], which needs to be one of several terms; there are 2",
        ),
    ],
    "searched_terms": [
        (
            plain(SAMPLED, update="trust_region"),
            "objective[0]: update trust_region searches along the surrogate, which is a ratio times the advantage; add ratio: [importance]",
        ),
        (
            {"rollouts": {"main": {"author": "student"}, "theirs": {"author": "teacher"}}, **TEACHER, "update": "trust_region", "objective": [
                {"term": "log_prob_loss", "loss": {"kind": "orpo", "beta": 0.1}, "chosen": "theirs", "rejected": "main"}]},
            "objective[0]: update trust_region searches along the loss, and a log_prob_loss is known by its slope alone; use update adamw",
        ),
    ],
    "representations": [
        (plain({**HIDDEN, "projector": "bridge"}), "objective[0]: projector 'bridge' is not declared; add learners: {bridge: {kind: projector}}"),
        (
            {**taught(), "objective": [{**HIDDEN, "teacher": "all"}]},
            "objective[0]: 'all' is made of other teachers and has no hidden states; name one of its members",
        ),
        (
            plain(HIDDEN, teachers={"teacher": {"kind": "external", "target": {"kind": "temperature", "tau": 2.0}}}),
            "objective[0]: a target transforms probabilities, and a representation term reads hidden states; drop the target of 'teacher'",
        ),
    ],
}  # fmt: skip
LEGAL = (
    taught(), taught_by("mate"), plain({**REVERSE_KL, "coefficient": {"schedule": "informed", "measure": "kept.0", "at": 0.5}}), plain(HIDDEN),
    plain({**SAMPLED, "ratio": ["importance"]}, update="trust_region"),
    plain({**REVERSE_KL, "reduce": "sequence_mean"}, update=PRIVATE), plain(REVERSE_KL, HIDDEN, update={"kind": "adamw", "step": "match_norm"}),
)  # fmt: skip


@pytest.mark.parametrize(("rule", "body", "message"), [(rule, *case) for rule, cases in CASES.items() for case in cases])
def test_refusals(rule: str, body: dict[str, Any], message: str) -> None:
    entry = made("case", **body)
    assert message in list(getattr(movement_rules, rule)(entry))
    assert message in problems(entry)


def test_what_is_sound_is_not_refused() -> None:
    assert [problems(made("case", **body)) for body in LEGAL] == [[]] * len(LEGAL)


def test_every_rule_is_tested() -> None:
    assert {rule.__name__ for rule in (*movement_rules.NAMES, *movement_rules.RULES)} == set(CASES)
