"""The surveys' tables from the registry: nobody missing, marks and reasons where they belong, the committed files current."""

from __future__ import annotations

import csv
import io
from functools import cache
from pathlib import Path

import pytest

import zoo
from zoo.entry import Registry
from zoo.survey_tables import NAMES, label, survey_files, tree_table, variables

PAPER = Path(__file__).parent.parent / "paper_tables"


@cache
def entries() -> Registry:
    return zoo.load_registry()


@cache
def files() -> dict[str, bytes]:
    return survey_files(entries())


def rows(name: str) -> dict[str, dict[str, str]]:
    return {row["entry"]: row for row in csv.DictReader(io.StringIO(files()[f"{name}.csv"].decode()))}


@pytest.mark.parametrize("name", [f"{name}.{form}" for name in NAMES for form in ("md", "tex", "csv")])
def test_committed_files_are_what_the_registry_gives(name: str) -> None:
    assert (PAPER / name).read_bytes() == files()[name], "run `zoo tables`"


def test_every_method_of_a_survey_has_its_row() -> None:
    registry = entries()
    assert set(rows("survey_a_tree")) == {entry.id for entry in registry.values() if entry.survey_leaf}
    assert set(rows("survey_a_coordinates")) == {entry.id for entry in registry.values() if "A" in entry.survey_coordinates}
    assert set(rows("survey_b_variables")) == {entry.id for entry in registry.values() if "B" in entry.surveys and entry.objective}


def test_printed_and_derived_stand_side_by_side_with_the_reason() -> None:
    table = rows("survey_a_coordinates")
    assert (table["gkd"]["survey_A"], table["gkd"]["agree"]) == ("logit · white_box · token", "yes")
    assert (table["paced"]["here"], table["paced"]["agree"]) == ("logit, outcome · white_box · hybrid", "no")
    reason = entries()["paced"].survey_disagreement["A"]
    assert f"paced: {reason}" in files()["survey_a_coordinates.md"].decode()


def test_variables_are_read_off_the_objective() -> None:
    found = variables(entries()["eopd"])
    assert found["state_source"] == "student" and found["feedback"] == "external"
    assert found["support"].startswith("teacher_topk (k ") and found["comparator"].startswith("forward_kl; contrast")
    assert (found["temporal_credit"], found["routing"]) == ("immediate", "sampled")
    assert "ppo_clip (at 0.2)" in found["shaping"] and found["normalisation"] == "sequence_mean"
    assert variables(entries()["grpo"])["regularisation"] == "k3 to reference"


def test_an_entry_that_does_not_run_says_why() -> None:
    registry = entries()
    blocked = [entry for entry in registry.values() if entry.survey_leaf and not entry.executable and entry.kind == "method"]
    table = tree_table(registry.values())
    assert blocked and {row[2].text for row in table.rows if row[8].text == "no"} == {entry.id for entry in blocked}
    assert all(any(note.startswith(f"{entry.id}: ") for note in table.footnotes) for entry in blocked)


def test_a_label_is_a_kind_with_what_the_entry_sets() -> None:
    term = entries()["tml_opd"].objective[0]
    assert label(term.credit) == "immediate" and label("plain") == "plain"  # type: ignore[attr-defined]
