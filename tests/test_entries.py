"""The shipped entries: complete, consistent with what they run, and readable back from their own JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zoo.components.base import kinds
from zoo.entry import MethodEntry, body, diff, flatten, load_entry, load_registry
from zoo.errors import ZooError
from zoo.paths import data_root

FOLDER = data_root() / "registry" / "methods"
REGISTRY = load_registry()
METHODS = [name for name, entry in REGISTRY.items() if entry.anchor is None and entry.kind == "method"]
SIXTEEN = {
    "sft", "kd", "seqkd", "gkd", "minillm", "distillm", "distillm2", "tml_opd", "vopd", "eopd", "revisiting_opd", "aopd", "opsd", "grpo", "kdrl",
    "orpo_distill",
}  # fmt: skip
LEAVES = {
    "A4.1-fixed-divergence", "A4.2-adaptive-divergence", "A4.3-rl-augmented", "A5.1.1-white-box", "A5.1.1-white-box-same-family",
    "A5.1.1-white-box-cross-family", "A5.1.2-black-box",
    "A5.2.1-self-privileged-information", "A5.2.2-self-pure", "A5.2.3-self-external-feedback", "A6.1-token-and-sample-weighting",
    "A6.2-curriculum", "A6.3-compute", "A7-understanding", "A8-applications",
}  # fmt: skip
each_method = pytest.mark.parametrize("entry", [pytest.param(REGISTRY[name], id=name) for name in METHODS])
each_entry = pytest.mark.parametrize("entry", [pytest.param(entry, id=name) for name, entry in REGISTRY.items()])


def test_every_file_is_an_entry_of_its_name() -> None:
    assert {file.stem for file in FOLDER.glob("*.yaml")} == set(REGISTRY)
    assert set(METHODS) >= SIXTEEN
    assert {entry.anchor for entry in REGISTRY.values()} == {None, "student", "teacher", "trained"}


def test_one_method_of_each_paper_counts() -> None:
    counted = [(entry.paper.arxiv, entry.paper.part) for name in METHODS if (entry := REGISTRY[name]).variant_of is None and entry.paper.arxiv]
    assert len(counted) == len(set(counted))
    assert {name for name in METHODS if REGISTRY[name].variant_of is None} >= SIXTEEN


@each_method
def test_a_method_says_what_the_paper_did_and_what_differs(entry: MethodEntry) -> None:
    assert entry.published and entry.deviations and entry.evidence.source and entry.notes
    assert {deviation.field for deviation in entry.deviations} & {"learning_rate"}
    assert entry.survey_leaf is None or entry.survey_leaf in LEAVES
    assert entry.survey_leaf is None or "A" in entry.surveys
    assert all(1 <= int(failure[2:]) <= 29 for failure in entry.known_failures)


@each_method
def test_a_numeric_deviation_states_the_value_that_runs(entry: MethodEntry) -> None:
    runs = flatten(body(entry))
    for deviation in entry.deviations:
        if deviation.field in runs and isinstance(deviation.ours, int | float):
            assert runs[deviation.field] == deviation.ours, deviation.field


def test_a_wrong_claim_is_refused_with_both_values(tmp_path: Path) -> None:
    text = (FOLDER / "gkd.yaml").read_text(encoding="utf-8")
    assert "estimator: [direct]" in text
    (tmp_path / "gkd.yaml").write_text(text.replace("estimator: [direct]", "estimator: [pg_immediate]"), encoding="utf-8")
    with pytest.raises(ZooError, match=r"coordinates.estimator: claimed \[pg_immediate\], but what runs is \[direct\]"):
        load_entry(tmp_path / "gkd.yaml")


def test_every_kind_of_term_is_used() -> None:
    assert {term.term for entry in REGISTRY.values() for term in entry.objective} == set(kinds("term"))  # type: ignore[attr-defined]


def test_the_difference_of_two_entries_names_what_differs() -> None:
    found = diff(REGISTRY["gkd"], REGISTRY["kd"])
    assert found["rollouts.main.author"] == ("mixture", "dataset")
    assert found["objective[0].divergence.kind"] == ("generalized_jsd", "forward_kl")
    assert found["objective[0].divergence.beta"] == (0.5, None)
    assert "objective[0].term" not in found and "teachers.teacher.kind" not in found
    assert diff(REGISTRY["gkd"], REGISTRY["gkd"]) == {}


@each_entry
def test_an_entry_survives_its_own_json(entry: MethodEntry, tmp_path: Path) -> None:
    file = tmp_path / f"{entry.id}.yaml"
    file.write_text(json.dumps(entry.model_dump(mode="json", by_alias=True)), encoding="utf-8")
    again = load_entry(file)
    assert json.dumps(body(again)) == json.dumps(body(entry))
    assert diff(again, entry) == {}
