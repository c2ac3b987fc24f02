"""Refusals about teachers with another tokenizer: reason and remedy."""

from __future__ import annotations

from typing import Any

import pytest

from tests.harness_kit import REVERSE_KL, made
from zoo import alignment_rules
from zoo.compat import pair_problems, problems

SHARED = {"kind": "byte_spans", "columns": "shared"}
CONTRAST = {"kind": "contrast", "of": {"teacher": 1, "student": -1}}
GRADIENT = {"term": "policy_gradient", "reward": CONTRAST, "credit": "immediate", "reduce": "token_mean"}
KL = {"term": "divergence", "divergence": "reverse_kl", "reduce": "token_mean"}
OF = "the law of 'teacher'"
LAW = f"{OF} over the student's vocabulary, which alignment byte_spans does not give; use prefix_cover, or a divergence on columns"


def entry(alignment: Any, *objective: dict[str, Any], **teacher: Any) -> Any:
    return {"rollouts": {"main": {"author": "student"}}, "teachers": {"teacher": {"kind": "external", "alignment": alignment, **teacher}},
            "objective": list(objective) or [REVERSE_KL]}  # fmt: skip


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "columns_needed": (
        entry("byte_spans"),
        "objective[0]: teachers.teacher has alignment byte_spans without columns, so no entries of the two vocabularies meet; add columns, "
        "or read it in a reward",
    ),
    "columns_needed: support": (
        entry(SHARED, {**KL, "support": {"kind": "student_topk", "k": 4, "mass": "tail_bucket"}}),
        "objective[0]: teachers.teacher is compared on the columns of its alignment, so support student_topk has nothing to choose from; drop support",
    ),
    "whole_sequences": (
        entry(SHARED, {**KL, "divergence": "sinkhorn"}),
        "objective[0]: sinkhorn compares positions of a sequence; give teachers.teacher an alignment whose columns read whole sequences, such as joint_rank",
    ),
    "same_text": (
        entry({"kind": "positions", "columns": "units"}),
        "teachers.teacher.alignment positions pairs unlike texts, which columns units take for one; use byte_spans or running_text",
    ),
    "same_text: log-probabilities": (
        entry("positions", GRADIENT),
        "objective[0] reads log-probabilities of 'teacher', but alignment positions pairs tokens of unlike texts; use byte_spans",
    ),
    "no_law": (entry(SHARED, {**KL, "gates": [{"kind": "teacher_entropy", "above": 0.8}]}), f"objective[0]: Entropy reads {LAW}"),
    "no_law: target": (entry(SHARED, target={"kind": "temperature", "tau": 2.0}), f"teachers.teacher.target transforms a law{LAW.removeprefix(OF)}"),
    "closed_teachers": (
        entry("byte_spans", {"term": "likelihood", "reduce": "token_mean", "on": "main"}, access="black_box"),
        "teachers.teacher gives texts only, which need no alignment; drop alignment, or set access: white_box",
    ),
    "carried_pairs": (
        {**entry("byte_spans", {**KL, "teacher": "seen"}), "learners": {"bridge": {"kind": "dual_projector"}}, "teachers": {
            "teacher": {"kind": "external", "alignment": "byte_spans"}, "seen": {"kind": "projected", "learner": "bridge"}}},
        "teachers.seen: dual_projector pairs single tokens; set teachers.teacher.alignment to byte_spans or running_text with only: single",
    ),
    "apart": (
        {**entry(None, {**KL, "teacher": "there", "temperature_by": {"kind": "perplexity"}}), "learners": {"bridge": {"kind": "dual_projector"}}, "teachers": {
            "teacher": {"kind": "external"}, "there": {"kind": "projected", "learner": "bridge", "space": "teacher"}}},
        "objective[0]: 'there' is compared position by position at one temperature; drop temperature_by, or choose another divergence",
    ),
    "attended": (
        entry("whole_response", {"term": "likelihood", "reduce": "token_mean"}),
        "teachers.teacher.alignment whole_response pairs everything with everything; read it through a teacher of kind projected",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_refusal_names_reason_and_remedy(case: str) -> None:
    data, message = CASES[case]
    with pytest.raises(Exception, match=r".") as caught:
        raise ValueError("\n".join(problems(made(**data))))
    assert message in str(caught.value)


def test_every_rule_is_tested() -> None:
    assert {case.split(":")[0] for case in CASES} == {rule.__name__ for rule in alignment_rules.RULES}


@pytest.mark.parametrize("alignment", ["prefix_cover", {"kind": "prefix_cover"}])
def test_a_law_over_the_students_vocabulary_may_feed_anything(alignment: Any) -> None:
    gated = {**KL, "support": {"kind": "teacher_topk", "k": 4, "mass": "tail_bucket"}, "gates": [{"kind": "teacher_entropy", "above": 0.8}]}
    assert problems(made(**entry(alignment, gated, GRADIENT))) == []


def test_a_pair_of_two_tokenizers() -> None:
    wanted = {"templates": {}, "fields": None, "teachers": ["teacher"], "checks": None, "same_vocabulary": False}
    assert pair_problems(made(**entry(SHARED)), **wanted) == []
    [message] = pair_problems(made(**entry(None)), **wanted)
    assert message.endswith("so an alignment is needed; set teachers.teacher.alignment, or choose a pair with one tokenizer")
    written = {**entry(SHARED), "rollouts": {"main": {"author": "teacher"}}}
    [message] = pair_problems(made(**written), **wanted)
    assert message == "rollouts.main is written by 'teacher' in tokens that the student does not have; use author: dataset, or a pair with one tokenizer"
