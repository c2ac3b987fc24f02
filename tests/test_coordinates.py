"""The catalogue's rule for coordinates, row by row, on entries made for it; and what happens when a claim differs."""

from __future__ import annotations

from typing import Any

import pytest

from zoo.compat import problems
from zoo.coordinates import Coordinates, derive_coordinates, derive_tuples, is_anchor
from zoo.entry import MethodEntry, coordinate_problems

CONTRAST = {"kind": "contrast", "of": {"teacher": 1, "student": -1}}
TO_INITIAL = {"kind": "contrast", "of": {"reference": 1, "student": -1}}
HINT = {"fields": ("hint",), "template": "hint"}
GROUP = {"main": {"author": "student", "group": 4}}
CORRECT = {"correct": "verifier"}


def entry(*objective: dict[str, Any], check: bool = True, **sections: Any) -> MethodEntry:
    """An entry that the compatibility rules accept."""
    about = {"id": "x", "name": "X", "paper": {}, "evidence": {"level": "inferred", "source": "a test"}, "fixed_point": "none", "anchor": "trained"}
    usual = {"rollouts": {"main": "student"}, "teachers": {"teacher": "external"}}
    found = MethodEntry.model_validate({**about, **usual, **sections, "objective": objective})
    assert not check or problems(found) == []
    return found


def divergence(**fields: Any) -> dict[str, Any]:
    return {"term": "divergence", "divergence": "forward_kl", "reduce": "token_mean", **fields}


def gradient(**fields: Any) -> dict[str, Any]:
    return {"term": "policy_gradient", "reward": CONTRAST, "credit": "immediate", "reduce": "token_mean", **fields}


def likelihood(**fields: Any) -> dict[str, Any]:
    return {"term": "likelihood", "reduce": "token_mean", **fields}


RIGHT = {"kind": "reward", "name": "correct", "above": 0.5}
GRPO = gradient(reward="correct", credit="group")
PAIRS = {"good": "teacher", "bad": "student"}
ORPO = {"term": "log_prob_loss", "loss": "orpo", "chosen": "good", "rejected": "bad"}

# name: (entry, (signals, access, granularity, estimators, routings))
ROWS: dict[str, tuple[MethodEntry, tuple[set[str], str, str, set[str], set[str]]]] = {
    "external, full vocabulary": (entry(divergence()), ({"logit"}, "white_box", "token", {"direct"}, {"full_vocab"})),
    "self-teacher with a hint": (
        entry(divergence(teacher="self"), teachers={"self": {"kind": "student", "context": HINT}}),
        ({"self_play"}, "teacher_free", "token", {"direct"}, {"full_vocab"}),
    ),
    "averaged self-teacher": (
        entry(divergence(teacher="mean"), teachers={"mean": {"kind": "student", "weights": {"ema": 0.99}}}),
        ({"self_play"}, "teacher_free", "token", {"direct"}, {"full_vocab"}),
    ),
    "external with a hint is still external": (
        entry(divergence(), teachers={"teacher": {"kind": "external", "context": HINT}}),
        ({"logit"}, "white_box", "token", {"direct"}, {"full_vocab"}),
    ),
    "the student with a hint of its own": (
        entry(divergence(teacher="student"), teachers={"student": {"kind": "student", "weights": "live", "context": HINT}}),
        ({"self_play"}, "teacher_free", "token", {"direct"}, {"full_vocab"}),
    ),
    "both teachers": (
        entry(divergence(), divergence(teacher="self"), teachers={"teacher": "external", "self": {"kind": "student", "context": HINT}}),
        ({"logit", "self_play"}, "white_box", "token", {"direct"}, {"full_vocab"}),
    ),
    "likelihood of a data set": (
        entry(likelihood(), rollouts={"main": "dataset"}, teachers={}), ({"label"}, "teacher_free", "token", {"mle"}, {"sampled_token"}),
    ),
    "likelihood of a teacher's texts": (entry(likelihood(), rollouts={"main": "teacher"}), ({"label"}, "black_box", "token", {"mle"}, {"sampled_token"})),
    "likelihood of a corpus alone": (
        entry(likelihood(), rollouts={"main": "corpus"}, teachers={}), ({"label"}, "teacher_free", "token", {"mle"}, {"sampled_token"}),
    ),
    "likelihood of answers that a verifier accepts": (
        entry(likelihood(gates=(RIGHT,)), teachers={}, rewards=CORRECT),
        ({"outcome"}, "teacher_free", "hybrid", {"mle"}, {"sampled_token"}),
    ),
    "texts by several authors": (
        entry(likelihood(), rollouts={"main": {"author": "mixture", "of": {"student": 1, "teacher": 1}, "per": "sequence"}}),
        ({"label"}, "black_box", "token", {"mle"}, {"sampled_token"}),
    ),
    "tokens by several authors": (
        entry(likelihood(), rollouts={"main": {"author": "mixture", "of": {"student": 1, "teacher": 1}, "per": "token"}}),
        ({"label"}, "white_box", "token", {"mle"}, {"sampled_token"}),
    ),
    "a student's beginnings that a teacher ends": (
        entry(likelihood(), rollouts={"main": {"author": "prefix", "of": {"author": "student"}, "by": "teacher", "high": 1, "supervise": "continuation"}}),
        ({"label"}, "black_box", "token", {"mle"}, {"sampled_token"}),
    ),
    "texts kept in a buffer": (
        entry(likelihood(), rollouts={"main": {"author": "replay", "of": {"author": "teacher"}}}),
        ({"label"}, "black_box", "token", {"mle"}, {"sampled_token"}),
    ),
    "tokens by several authors kept in a buffer": (
        entry(likelihood(), rollouts={"main": {"author": "replay", "of": {"author": "interleaved", "verify": {"kind": "rank", "at_most": 5}}}}),
        ({"label"}, "white_box", "token", {"mle"}, {"sampled_token"}),
    ),
    "verifier": (entry(GRPO, rollouts=GROUP, rewards=CORRECT, teachers={}), ({"outcome"}, "teacher_free", "sequence", {"pg_group"}, {"sampled_token"})),
    "verifier, immediate credit on the last token": (
        entry({**GRPO, "credit": "immediate"}, rewards=CORRECT, teachers={}),
        ({"outcome"}, "teacher_free", "sequence", {"pg_immediate"}, {"sampled_token"}),
    ),
    "verifier times a teacher's mask": (
        entry({**GRPO, "gates": ({"kind": "probability_gap", "above": 0},)}, rollouts=GROUP, rewards=CORRECT),
        ({"logit", "outcome"}, "white_box", "hybrid", {"pg_group"}, {"sampled_token"}),
    ),
    "verifier times a weight from a hinted student": (
        entry({**GRPO, "weights": ({"kind": "evidence_ratio", "of": {"kind": "log_ratio", "of": {"self": 1, "student": -1}}},)}, rollouts=GROUP,
              rewards=CORRECT, teachers={"self": {"kind": "student", "weights": "live", "context": HINT}}),
        ({"outcome", "self_play"}, "teacher_free", "hybrid", {"pg_group"}, {"sampled_token"}),
    ),
    "verifier times the student's own entropy": (
        entry({**GRPO, "gates": ({"kind": "share", "of": "entropy", "share": 0.2},)}, rollouts=GROUP, rewards=CORRECT, teachers={}),
        ({"outcome"}, "teacher_free", "sequence", {"pg_group"}, {"sampled_token"}),
    ),
    "outcome gate inside a weight on a token signal": (
        entry(divergence(weights=({"kind": "soft_gate", "gate": RIGHT, "outside": 0.5},)), rewards=CORRECT),
        ({"logit", "outcome"}, "white_box", "hybrid", {"direct"}, {"full_vocab"}),
    ),
    "outcome gate on a token signal": (
        entry(divergence(gates=(RIGHT,)), rewards=CORRECT), ({"logit", "outcome"}, "white_box", "hybrid", {"direct"}, {"full_vocab"}),
    ),
    "outcome weight on a token signal": (
        entry(divergence(weights=({"kind": "pass_rate", "name": "correct"},)), rewards=CORRECT, rollouts=GROUP),
        ({"logit", "outcome"}, "white_box", "hybrid", {"direct"}, {"full_vocab"}),
    ),
    "a token gate leaves a token signal": (
        entry(divergence(gates=({"kind": "teacher_entropy", "above": 1},))), ({"logit"}, "white_box", "token", {"direct"}, {"full_vocab"}),
    ),
    "batch statistics leave a token signal": (
        entry(gradient(shaping=("whiten",), weights=("perplexity",))), ({"logit"}, "white_box", "token", {"pg_immediate"}, {"sampled_token"}),
    ),
    "terms of both kinds": (
        entry(GRPO, divergence(support="sampled", divergence="k2"), rollouts=GROUP, rewards=CORRECT),
        ({"logit", "outcome"}, "white_box", "hybrid", {"pg_group", "direct"}, {"sampled_token"}),
    ),
    "preference": (
        entry(ORPO, rollouts=PAIRS), ({"self_play"}, "black_box", "sequence", {"preference"}, {"none"}),
    ),
    "preference for what a verifier accepts": (
        entry({**ORPO, "keep_chosen": (RIGHT,)}, rollouts=PAIRS, rewards=CORRECT), ({"outcome"}, "black_box", "sequence", {"preference"}, {"none"}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_row(name: str) -> None:
    found, (signals, access, granularity, estimators, routings) = derive_coordinates(ROWS[name][0]), ROWS[name][1]
    assert set(found.feedback_signal) == signals
    assert found.teacher_access == access
    assert found.loss_granularity == granularity
    assert set(found.estimator) == estimators
    assert set(found.routing) == routings


@pytest.mark.parametrize(
    ("credit", "granularity", "estimator"),
    [
        ("immediate", "token", "pg_immediate"),
        ({"kind": "discounted", "gamma": 0}, "token", "pg_immediate"),
        ({"kind": "discounted", "gamma": 0.5}, "sequence", "pg_discounted"),
        ({"kind": "discounted", "gamma": 1}, "sequence", "pg_return_to_go"),
        ({"kind": "discounted", "gamma": {"schedule": "linear", "start": 0, "end": 1}}, "sequence", "pg_discounted"),
        ("return_to_go", "sequence", "pg_return_to_go"),
        ({"kind": "k_step", "k": 1}, "token", "pg_immediate"),
        ({"kind": "k_step", "k": 3}, "sequence", "pg_kstep"),
        ("gae", "sequence", "pg_gae"),
        ("group", "sequence", "pg_group"),
        ("leave_one_out", "sequence", "pg_group"),
    ],
)
def test_credit(credit: Any, granularity: str, estimator: str) -> None:
    learners: dict[str, Any] = {"learners": {"value": "value_head"}} if credit == "gae" else {}
    found = derive_coordinates(entry(gradient(credit=credit), rollouts=GROUP, **learners))
    assert (found.loss_granularity, found.estimator) == (granularity, (estimator,))


@pytest.mark.parametrize(
    ("support", "routing"),
    [
        ("full", "full_vocab"),
        *(({"kind": kind, "k": 4, "mass": "raw"}, kind) for kind in ("teacher_topk", "student_topk", "union_topk", "overlap_topk")),
    ],
)
def test_routing_of_a_direct_loss(support: Any, routing: str) -> None:
    assert derive_coordinates(entry(divergence(support=support))).routing == (routing,)


@pytest.mark.parametrize(
    ("routing", "expected"),
    [("sampled", "sampled_token"), ("teacher", "full_vocab"), ({"kind": "teacher_topk", "k": 4}, "teacher_topk"), ("counterfactual", "counterfactual")],
)
def test_routing_of_a_policy_gradient(routing: Any, expected: str) -> None:
    assert derive_coordinates(entry(gradient(routing=routing))).routing == (expected,)


ANCHORS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "divergence to the initial student": (divergence(teacher="reference"), {}),
    "k3 to the initial student": (divergence(teacher="reference", divergence="k3", support="sampled"), {}),
    "log-ratio to the initial student": (gradient(reward=TO_INITIAL), {}),
    "the initial student by another name": (divergence(teacher="start"), {"teachers": {"teacher": "external", "start": "student"}}),
    "likelihood of a data set beside another signal": (likelihood(on="data"), {"rollouts": {"main": "student", "data": "dataset"}}),
    "likelihood of a corpus": (likelihood(on="corpus"), {"rollouts": {"main": "student", "corpus": "corpus"}}),
    "divergence on a corpus": (divergence(on="corpus", teacher="teacher"), {"rollouts": {"main": "student", "corpus": "corpus"}}),
    "by role": (divergence(teacher="teacher", role="anchor"), {}),
}


@pytest.mark.parametrize("name", ANCHORS)
def test_anchors_never_count(name: str) -> None:
    anchor, sections = ANCHORS[name]
    signal = gradient(credit="return_to_go")
    found = entry(signal, anchor, **sections)
    assert [is_anchor(found, term) for term in found.objective] == [False, True]
    assert [row.term for row in derive_tuples(found)] == [0]
    assert derive_coordinates(found) == derive_coordinates(entry(signal))


def test_what_is_no_anchor() -> None:
    hinted = {"reference": {"kind": "student", "weights": "initial", "context": HINT}, "teacher": "external"}
    cases = [
        (entry(gradient(), divergence(teacher="reference"), teachers=hinted), "another context is another teacher"),
        (entry(gradient(), likelihood(gates=(RIGHT,)), rewards=CORRECT), "the student's own accepted answers are a signal"),
        (entry(likelihood(), divergence(teacher="reference"), rollouts={"main": "dataset"}, teachers={}), "a pull to the start is no signal beside the labels"),
    ]
    assert [is_anchor(found, found.objective[1]) for found, _ in cases] == [False, False, True]
    assert not is_anchor(cases[2][0], cases[2][0].objective[0]), cases[2][1]
    assert derive_coordinates(cases[2][0]).feedback_signal == ("label",)


def test_an_anchor_that_reads_an_external_model_still_needs_it() -> None:
    found = derive_coordinates(entry(GRPO, divergence(role="anchor"), rollouts=GROUP, rewards=CORRECT))
    assert (found.feedback_signal, found.teacher_access) == (("outcome",), "white_box")


def test_tuples_say_which_term_says_what() -> None:
    first, second = derive_tuples(entry(GRPO, divergence(), rollouts=GROUP, rewards=CORRECT))
    assert (first.term, first.signals, first.granularity, first.estimator, first.routing) == (0, ("outcome",), "sequence", "pg_group", "sampled_token")
    assert (second.term, second.signals, second.granularity, second.estimator, second.routing) == (1, ("logit",), "token", "direct", "full_vocab")


CLAIM: dict[str, Any] = {
    "feedback_signal": ("logit",), "teacher_access": "white_box", "loss_granularity": "token", "estimator": ("pg_immediate", "direct"),
    "routing": ("sampled_token", "full_vocab"),
}  # fmt: skip


def claimed(**sections: Any) -> MethodEntry:
    return entry(gradient(), divergence(), **{"coordinates": CLAIM, **sections})


def test_a_true_claim_in_any_order() -> None:
    assert coordinate_problems(claimed()) == []
    assert coordinate_problems(claimed(coordinates={**CLAIM, "estimator": ("direct", "pg_immediate"), "routing": ("full_vocab", "sampled_token")})) == []


def test_a_false_claim_shows_both() -> None:
    found = coordinate_problems(claimed(coordinates={**CLAIM, "loss_granularity": "sequence", "estimator": ("direct",)}))
    assert found == [
        "coordinates.loss_granularity: claimed sequence, but what runs is token; correct the claim or the objective",
        "coordinates.estimator: claimed [direct], but what runs is [pg_immediate, direct]; correct the claim or the objective",
    ]


def test_a_survey_that_differs_needs_a_reason() -> None:
    printed = {"A": {"feedback_signal": "outcome", "teacher_access": "white_box", "loss_granularity": "sequence"}}
    [message] = coordinate_problems(claimed(survey_coordinates=printed))
    assert message == (
        "survey_coordinates.A differs from what runs (feedback_signal outcome against [logit], loss_granularity sequence against token); "
        "give the reason under survey_disagreement.A"
    )
    assert coordinate_problems(claimed(survey_coordinates=printed, survey_disagreement={"A": "the survey reads the abstract"})) == []


def test_a_survey_that_names_one_of_two_signals_differs() -> None:
    both = entry(GRPO, divergence(), rollouts=GROUP, rewards=CORRECT)
    claim = derive_coordinates(both).model_dump()
    found = entry(GRPO, divergence(), rollouts=GROUP, rewards=CORRECT, coordinates=claim, survey_coordinates={"B": {"feedback_signal": "logit"}})
    assert "feedback_signal logit against [outcome, logit]" in coordinate_problems(found)[0]


@pytest.mark.parametrize("printed", [{"A": {"feedback_signal": "logit", "loss_granularity": "token"}}, {"A": {}}, {}])
def test_a_needless_reason_is_refused(printed: dict[str, Any]) -> None:
    found = coordinate_problems(claimed(survey_coordinates=printed, survey_disagreement={"A": "they disagree"}))
    assert found == ["survey_disagreement.A explains a difference that does not exist; remove it"]


def test_what_a_survey_left_out_is_no_difference() -> None:
    assert coordinate_problems(claimed(survey_coordinates={"A": {"teacher_access": "white_box"}})) == []


def test_every_value_of_the_vocabulary_that_components_can_give_is_legal() -> None:
    for found, _ in ROWS.values():
        assert Coordinates.model_validate(derive_coordinates(found).model_dump()) == derive_coordinates(found)
