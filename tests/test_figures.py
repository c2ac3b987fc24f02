"""Figures: their data by hand, what they leave out, the same bytes again, and the check by the digest of their data."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from synthetic_records import IDLE_MODE, write_comparison

from zoo.entry import load_registry
from zoo.errors import ZooError
from zoo.families import FAMILIES, families, family
from zoo.figures import points
from zoo.figures.build import FORMS, KINDS, build_figures, figures, stale_figures
from zoo.figures.data import Board, data_digest, load_board
from zoo.figures.lines import mean_line, over_seeds
from zoo.figures.maps import failure_data, improvement_data
from zoo.figures.points import front, pareto_data, profile_data, taxonomy_data
from zoo.figures.style import DARK, HUES, for_the_dark, spread, thousands

METHODS = ("gkd", "eopd", "opsd", "grpo", "sft", "spin")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("records")
    write_comparison(made, "five", METHODS, range(5), items=40)
    write_comparison(made, "one", METHODS, range(1), items=40)
    return made


@pytest.fixture(scope="module")
def board(root: Path) -> Board:
    registry = load_registry()
    coordinates = {name: entry.coordinates.model_dump(mode="json") for name, entry in registry.items() if entry.coordinates is not None}
    return load_board(root, "five", families(registry), coordinates)


def test_every_entry_with_coordinates_has_one_of_the_families() -> None:
    registry = load_registry()
    found = families(registry)
    assert set(found) == {name for name, entry in registry.items() if entry.coordinates is not None or entry.anchor is not None}
    assert set(found.values()) <= set(FAMILIES)
    named = {name: found[name] for name in ("sft", "gkd", "eopd", "tml_opd", "opsd", "grpo", "spin", "student")}
    assert list(named.values()) == list(FAMILIES[:8])
    assert family(registry["gad"].coordinates) == "Preferences, discriminators"  # type: ignore[arg-type]


def test_lines_over_seeds_by_hand() -> None:
    """Two seeds, one of them measured once more, a point without the quantity: from 12, the later start, to 30, the earlier end.

    At 12 the first seed stands at 1 - 0.5 * 2/20 = 0.95; at 30 the second at 3 - 2.3 * 18/20 = 0.93.
    """
    first = [{"supervised_tokens": 10, "kl": 1.0}, {"supervised_tokens": 20, "kl": None}, {"supervised_tokens": 30, "kl": 0.5}]
    second = [{"supervised_tokens": 12, "kl": 3.0}, {"supervised_tokens": 32, "kl": 0.7}, {"supervised_tokens": 40, "kl": 0.1}]
    line = over_seeds([first, second], ("kl",))
    assert line is not None and line["tokens"] == [12.0, 30.0]
    assert line["low"] == pytest.approx([0.95, 0.5]) and line["high"] == pytest.approx([3.0, 0.93]) and line["mean"] == pytest.approx([1.975, 0.715])
    assert over_seeds([first[:1]], ("kl",)) is None and over_seeds([], ("kl",)) is None
    assert over_seeds([first, [{"supervised_tokens": 50, "kl": 1.0}, {"supervised_tokens": 60, "kl": 1.0}]], ("kl",)) is None


def test_a_line_measured_seldom_does_not_cut_the_mean_of_all() -> None:
    """Half-way up the grid of 25 places from 0 to 240 both lines count; where only one of two reaches, there is no mean."""
    often = {"tokens": [0.0, 60.0, 120.0, 240.0], "mean": [0.0, 6.0, 12.0, 24.0]}
    seldom = {"tokens": [0.0, 120.0], "mean": [2.0, 14.0]}
    mean = mean_line([often, seldom])
    assert mean is not None and mean["tokens"] == [10.0 * place for place in range(13)]
    assert mean["mean"] == pytest.approx([1.0 + place for place in range(13)])
    assert mean_line([]) is None


def test_a_front_by_hand() -> None:
    """b is dearer than a and no better; d is as dear as c and worse; e is dearest and best."""
    scores = {"a": (1.0, 0.5), "b": (2.0, 0.5), "c": (3.0, 0.7), "d": (3.0, 0.6), "e": (9.0, 0.8)}
    points = [{"method": name, "tokens": cost, "score": score} for name, (cost, score) in scores.items()]
    assert front(points, "tokens") == ["a", "c", "e"]


def test_names_are_moved_apart_and_stay_inside() -> None:
    assert spread([0.5], 0.1, 0, 1) == [0.5]
    assert spread([0.5, 0.5], 0.1, 0, 1) == pytest.approx([0.45, 0.55])
    assert spread([0.99, 0.2, 1.0], 0.1, 0, 1) == pytest.approx([0.9, 0.2, 1.0])
    crowded = spread([0.0] * 30, 0.1, 0, 1)
    assert min(crowded) >= 0 and max(crowded) <= 1 + 1e-12 and len(set(crowded)) == 30


def test_a_profile_is_the_share_of_runs_above_a_score(board: Board) -> None:
    runs = {"x": (0.0, 1.0), "y": (0.5, 0.5)}
    data = profile_data(replace(board, methods=("x", "y"), family={"x": FAMILIES[0], "y": FAMILIES[1]}, runs=runs, score=runs))
    assert data is not None
    below = [share for tau, share in data["steps"]["x"] if tau < 0]
    assert below == [1.0] and {share for _, share in data["steps"]["x"]} == {1.0, 0.5, 0.0}
    assert {share for _, share in data["steps"]["y"]} == {1.0, 0.0}
    assert data["medians"] == {"x": 0.5, "y": 0.5}


def test_improvement_of_a_pair_adds_up_to_one(board: Board) -> None:
    data = improvement_data(board)
    assert data is not None
    size = len(data["methods"])
    assert "spin" not in data["methods"]  # one of its seeds diverged: nothing is filled in
    for row in range(size):
        assert math.isnan(data["cells"][row][row])
        for column in range(row):
            assert data["cells"][row][column] + data["cells"][column][row] == pytest.approx(1)
            assert data["clear"][row][column] == data["clear"][column][row]
    assert improvement_data(replace(board, score={method: scores[:3] for method, scores in board.score.items()})) is None


def test_failures_count_the_runs(board: Board) -> None:
    data = failure_data(board)
    assert data is not None
    for method, row in zip(data["methods"], data["cells"], strict=True):
        for mode, counts in zip(data["modes"], row, strict=True):
            assert sum(counts) == (5 if method != "no_op" else mode == IDLE_MODE)
            assert counts[0] == board.findings[method].get(mode, []).count("red")
    assert sum(count for _, count in data["groups"]) == len(data["methods"])
    assert data["groups"][0] == ["Learns nothing", 1] and data["methods"][0] == "no_op" and board.idle_modes() == {IDLE_MODE}


def test_a_method_stands_in_each_row_it_belongs_to(board: Board) -> None:
    data = taxonomy_data(board)
    assert data is not None
    rows = {(axis, value): [item[0] for item in found] for axis, values in data["blocks"] for value, found in values}
    assert "eopd" in rows["estimator", "direct"] and "eopd" in rows["estimator", "pg_immediate"]
    assert rows["teacher_access", "teacher_free"].count("opsd") == 1


def test_one_seed_gets_no_figure_of_spread(root: Path, board: Board) -> None:
    names = {made.kind.name for made in figures(load_board(root, "one", families(load_registry())))}
    assert not names & {"improvement", "profiles"}
    assert {made.kind.name for made in figures(board)} == {kind.name for kind in KINDS}


def test_the_same_bytes_again_and_the_digest_inside(board: Board) -> None:
    made = next(one for one in figures(board) if one.kind.name == "pareto")
    for form in FORMS:
        assert made.file(form) == made.file(form)
    svg = made.file("svg").decode()
    assert f"sha256:{made.digest}" in svg
    assert "<dc:date>" not in svg and "matplotlib" not in svg.split("<defs>")[0].lower().replace("matplotlib.org", "")
    assert "gkd" in re.findall(r">([a-z_]+)</text>", svg)  # text stays text


def test_what_a_machine_s_last_bits_do_does_not_change_the_digest() -> None:
    assert data_digest({"a": 0.1 + 0.2}) == data_digest({"a": 0.3})
    assert data_digest({"a": 0.3}) != data_digest({"a": 0.3001})
    assert data_digest([math.nan]) == data_digest([None])


def test_figures_are_checked_by_their_data(board: Board, tmp_path: Path) -> None:
    few = replace(board, curves={}, findings={}, coordinates={})
    build_figures(few, tmp_path)
    assert stale_figures(few, tmp_path) == []
    names = set(json.loads((tmp_path / "figures.json").read_text())["figures"])
    assert names == {"pareto", "profiles", "improvement"}
    other = replace(few, cost={method: replace(cost, seconds=cost.seconds + 1) for method, cost in few.cost.items()})
    assert stale_figures(other, tmp_path) == ["drawn from other data: pareto.svg", "other data: pareto"]
    assert "missing: failures" in stale_figures(replace(few, findings=board.findings), tmp_path)
    (tmp_path / "pareto.pdf").unlink()
    assert stale_figures(few, tmp_path) == ["missing: pareto.pdf"]
    build_figures(replace(few, cost={}, methods=()), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figures.json"]
    (tmp_path / "figures.json").write_text("{")
    with pytest.raises(ZooError, match="run `zoo figures`"):
        stale_figures(few, tmp_path)


def test_a_comparison_without_scores_has_no_figures(board: Board) -> None:
    nothing = replace(board, score=dict.fromkeys(board.methods, ()), runs=dict.fromkeys(board.methods, ()), curves={}, findings={})
    assert figures(nothing) == []
    assert pareto_data(nothing) is None


def _luminance(colour: str) -> float:
    parts = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_names_of_lines_can_be_read_on_either_ground() -> None:
    """WCAG AA for large and bold signs, 3 to 1, of every colour that names are written in: on white and on the dark page."""
    for colour in HUES:
        assert 1.05 / (_luminance(colour) + 0.05) >= 3, colour
        assert (_luminance(DARK[colour]) + 0.05) / (_luminance("#1b1f23") + 0.05) >= 3, colour


def test_a_picture_for_the_dark_has_no_ground_of_its_own(board: Board) -> None:
    svg = for_the_dark(next(one for one in figures(board) if one.kind.name == "pareto").file("svg")).decode()
    assert "prefers-color-scheme:dark" in svg
    assert re.search(r'<g id="patch_1">\s*<path d="[^"]*"\s*style="fill: none', svg)


@pytest.mark.parametrize("costs", [(120_000, 120_400), (1e5, 9e5)])
def test_ticks_of_costs_differ_even_where_budgets_do_not(costs: tuple[float, float]) -> None:
    axes = Figure().add_subplot()
    axes.set_xscale("log")
    points._decades(axes, costs)
    low, high = axes.get_xlim()
    labels = [thousands(tick) for tick in axes.xaxis.get_majorticklocs() if low <= tick <= high]
    assert len(labels) > 1 and len(set(labels)) == len(labels)
    assert low < min(costs) and high > max(costs)
