"""The matrix of coordinates, the cells that are open in it, and which entries are one component apart."""

from __future__ import annotations

from typing import Any

import pytest

from tests.components.compose import entry_of
from zoo.entry import MethodEntry, diff, load_registry
from zoo.entry.totals import counts_as
from zoo.relatives import changes, relatives
from zoo.taxonomy import AXES, Cell, compositions, matrix, places

REGISTRY = load_registry()
METHODS = [name for name, entry in REGISTRY.items() if counts_as(entry) == "methods" and entry.objective]


@pytest.mark.parametrize(("rows", "columns"), [("estimator", "routing"), ("signal", "access"), ("granularity", "signal")])
def test_every_method_is_in_the_cells_of_its_own_terms_and_no_variant_is(rows: str, columns: str) -> None:
    found = matrix(REGISTRY, rows, columns)
    assert set(found.cells) == {(row, column) for row in AXES[rows] for column in AXES[columns]}
    for name in METHODS:
        own = {(place[rows], place[columns]) for place in places(REGISTRY[name])}
        assert {key for key, cell in found.cells.items() if name in cell.methods} == own
    assert {name for cell in found.cells.values() for name in cell.methods} == set(METHODS)


def test_a_method_of_two_terms_is_in_two_cells() -> None:
    cells = matrix(REGISTRY).cells
    assert "eopd" in cells["pg_immediate", "sampled_token"].methods and "eopd" in cells["direct", "teacher_topk"].methods
    assert "eopd" not in cells["direct", "sampled_token"].methods


def test_what_is_published_can_be_composed_too() -> None:
    """Else an empty cell would be called closed only because the compositions miss it; the parts that they leave out are few."""
    cells = matrix(REGISTRY).cells
    assert [key for key, cell in cells.items() if cell.methods and cell.composition is None] == []


def test_open_cells_are_legal_and_empty() -> None:
    cells = matrix(REGISTRY).cells
    opened = {key: cell for key, cell in cells.items() if cell.state == "open"}
    assert opened and all(not cell.methods for cell in opened.values())
    legal = {made.text: made for made in compositions() if made.refusal is None}
    for (estimator, routing), cell in opened.items():
        assert cell.composition is not None
        assert any((place["estimator"], place["routing"]) == (estimator, routing) for place in legal[cell.composition].places)


def test_a_black_box_teacher_closes_the_cells_of_probabilities() -> None:
    wanted = ("white_box", "black_box")
    cells = matrix({}, "access", "estimator").cells
    assert [cells[access, "direct"].state for access in wanted] == ["open", "refused"]
    assert [cells[access, "mle"].state for access in wanted] == ["none", "open"]
    assert "black-box teacher that gives only texts" in str(cells["black_box", "direct"].refusal)


def test_the_states_of_a_cell() -> None:
    assert [Cell().state, Cell(refusal="why").state, Cell(refusal="why", composition="so").state, Cell(["x"], "so").state] == [
        "none", "refused", "open", "published",
    ]  # fmt: skip


# --- relatives


def one(**term: Any) -> MethodEntry:
    return entry_of([{"term": "divergence", "divergence": "reverse_kl", "reduce": "token_mean", **term}])


@pytest.mark.parametrize(
    ("term", "told"),
    [
        ({"divergence": "forward_kl"}, ["objective[0].divergence: reverse_kl → forward_kl"]),
        ({"coefficient": 0.5, "temperature": 2.0}, ["objective[0]: coefficient 1, temperature 1 → coefficient 0.5, temperature 2"]),
        ({"gates": ({"kind": "student_entropy", "above": 1.0},)}, ["objective[0].gates[0]: none → student_entropy"]),
        (
            {"divergence": "forward_kl", "support": {"kind": "teacher_topk", "k": 4, "mass": "raw"}},
            ["objective[0].divergence: reverse_kl → forward_kl", "objective[0].support: full → teacher_topk"],
        ),
        ({}, []),
    ],
)
def test_differences_are_told_by_component(term: dict[str, Any], told: list[str]) -> None:
    found = changes(one(), one(**term))
    assert sorted(map(str, found)) == sorted(told) and sum(change.size for change in found) == len(told)
    assert bool(found) == bool(diff(one(), one(**term)))


def test_a_setting_inside_a_support_is_one_difference() -> None:
    supports = [{"kind": "teacher_topk", "k": k, "mass": "raw"} for k in (4, 8)]
    [change] = changes(one(support=supports[0]), one(support=supports[1]))
    assert str(change) == "objective[0].support: k 4 → k 8"


def test_of_a_mapping_only_what_differs_is_told() -> None:
    streams = [{"main": {"author": "student", "reuse": {"minibatches": count}}} for count in (1, 4)]
    terms = [{"term": "likelihood", "reduce": "token_mean"}]
    [change] = changes(*(entry_of(terms, rollouts=rollouts) for rollouts in streams))
    assert str(change) == "rollouts.main: reuse.minibatches 1 → reuse.minibatches 4"


def test_a_term_more_counts_all_that_it_is_made_of() -> None:
    terms = [{"term": "divergence", "divergence": name, "reduce": "token_mean"} for name in ("reverse_kl", "forward_kl")]
    [change] = changes(entry_of(terms[:1]), entry_of(terms))
    assert (change.path, change.first, change.second, change.size) == ("objective[1]", "none", "divergence", 4)
    [change] = changes(entry_of(terms[1:]), entry_of(terms))
    assert change.path == "objective[0]", "the term that both have is found, wherever it stands"


@pytest.mark.parametrize("name", METHODS)
def test_relatives_differ_where_diff_says(name: str) -> None:
    entry = REGISTRY[name]
    found = relatives(entry, REGISTRY)
    assert found and all(relative.id != name for relative in found)
    assert [relative.distance for relative in found] == sorted(relative.distance for relative in found)
    for relative in found:
        paths = diff(entry, REGISTRY[relative.id])
        assert bool(paths) == bool(relative.changes)
        assert {change.path.split(".")[0].split("[")[0] for change in relative.changes} == {path.split(".")[0].split("[")[0] for path in paths}


def test_relatives_of_entries_that_nobody_trains() -> None:
    assert relatives(REGISTRY["student"], REGISTRY) == []
