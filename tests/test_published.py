"""Published figures and orders beside measured ones."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from golden_records.factory import run_payload, write_run

import zoo
from zoo.entry import MethodEntry
from zoo.entry.fields import Reported
from zoo.published import known_names, orders, orders_table, published_table
from zoo.records import load_records
from zoo.score_frame import score_frame

NAMES = {"GRPO": "grpo", "SFT": "sft", "OPD": "tml_opd"}


@pytest.fixture(scope="module")
def registry() -> dict[str, MethodEntry]:
    """A few entries, without the figures that they have."""
    return {name: entry.model_copy(update={"reported": ()}) for name, entry in zoo.load_registry().items() if name in ("kdrl", "grpo", "sft", "tml_opd", "gkd")}


def reporting(entry: MethodEntry, *figures: tuple[str, str, Any]) -> MethodEntry:
    return entry.model_copy(
        update={"reported": tuple(Reported(setting=setting, metric=metric, value=value, source="the paper") for setting, metric, value in figures)}
    )


def test_names_are_entries() -> None:
    assert set(known_names().values()) <= set(zoo.load_registry())


def test_an_order_is_read_from_a_figure_and_its_brackets(registry: dict[str, MethodEntry]) -> None:
    kdrl = reporting(registry["kdrl"], ("maths", "mean accuracy", "56.8 (SFT 51.5, GRPO 54.6, teacher KL alone 56.1)"), ("alone", "accuracy", 57.2),
                     ("words", "accuracy", "above GRPO"), ("range", "accuracy", "50.0 to 52.2 (GRPO 51.3)"))  # fmt: skip
    [order] = orders({**registry, "kdrl": kdrl}, NAMES)
    assert (order.setting, order.score) == ("maths", {"grpo": 54.6, "kdrl": 56.8, "sft": 51.5})


def test_less_is_better_where_the_metric_says_so(registry: dict[str, MethodEntry]) -> None:
    kdrl = reporting(registry["kdrl"], ("chat", "harmful rate", "1.5 (GRPO 3.75)"))
    [order] = orders({**registry, "kdrl": kdrl}, NAMES)
    assert order.score["kdrl"] > order.score["grpo"]


def test_a_comparison_that_several_papers_methods_were_run_in_is_one_order(registry: dict[str, MethodEntry]) -> None:
    figures = {"kdrl": 40.0, "gkd": "41.0 (OPD 39)"}
    told = {name: reporting(registry[name], ("X's comparison", "average", value)) for name, value in figures.items()}
    apart = {name: reporting(registry[name], ("the same", "average", value)) for name, value in figures.items()}
    assert [order.score for order in orders({**registry, **told}, NAMES)] == [{"gkd": 41.0, "kdrl": 40.0, "tml_opd": 39.0}]
    assert [order.score for order in orders({**registry, **apart}, NAMES)] == [{"gkd": 41.0, "tml_opd": 39.0}]


def test_nothing_inferred_is_in_an_order(registry: dict[str, MethodEntry]) -> None:
    evidence = registry["grpo"].evidence.model_copy(update={"level": "inferred"})
    kdrl = reporting(registry["kdrl"], ("maths", "accuracy", "56.8 (SFT 51.5, GRPO 54.6)"))
    [order] = orders({**registry, "kdrl": kdrl, "grpo": registry["grpo"].model_copy(update={"evidence": evidence})}, NAMES)
    assert set(order.score) == {"kdrl", "sft"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    asked = {"methods": ["sft", "grpo", "kdrl"], "seeds": [0, 1]}
    for method, right in (("student", 3), ("teacher", 9), ("sft", 6), ("grpo", 5), ("kdrl", 8)):
        for seed in (0, 1) if method not in ("student", "teacher") else (0,):
            write_run(tmp_path, run_payload(method, seed, asked=asked), {"sums": [1.0] * right + [0.0] * (10 - right)})
    return tmp_path


def test_our_order_beside_theirs_by_hand(root: Path, registry: dict[str, MethodEntry]) -> None:
    """Theirs kdrl > grpo > sft, ours kdrl > sft > grpo: two pairs of three agree, tau 1/3; of six orders of three methods all have |tau| of 1/3 or 1."""
    told = {**registry, "kdrl": reporting(registry["kdrl"], ("maths", "accuracy", "56.8 (SFT 51.5, GRPO 54.6)"))}
    table = orders_table(score_frame(load_records(root, "toy")), told)
    assert table is not None
    [row, whole] = table.rows
    assert [cell.text for cell in row[3:6]] == ["3", "kdrl > grpo > sft", "kdrl > sft > grpo"]
    assert row[6].value == pytest.approx(1 / 3) and row[6].interval is None and row[7].value == 1.0
    assert whole[4].text == "2 of 3 pairs agree" and whole[6].interval is None
    assert all(cell.records for cell in row)


def test_a_figure_stands_beside_ours_and_settings_are_told_apart(root: Path, registry: dict[str, MethodEntry]) -> None:
    told = {**registry, "kdrl": reporting(registry["kdrl"], ("Qwen 7B", "accuracy", 57.2), ("Tiny-1M on sums", "accuracy", 60))}
    records = load_records(root, "toy")
    resolved = {"pair": {"title": "A pair", "student": {"hub": "somebody/Tiny-1M"}}}
    records = [type(r)(r.run.model_copy(update={"resolved": resolved}), r.evals, r.digests) for r in records]
    table = published_table(score_frame(records), records, told)
    assert table is not None
    keys = [column.key for column in table.columns]
    found = {row[1].text: dict(zip(keys, row, strict=True)) for row in table.rows}
    assert found["Qwen 7B"]["same_setting"].text == "no" and found["Tiny-1M on sums"]["same_setting"].text == "yes"
    assert found["Qwen 7B"]["published"].text == "57.2" and found["Qwen 7B"]["sums.score"].value == pytest.approx(0.8)
    assert math.isclose(found["Qwen 7B"]["sums.gap_closed"].value or 0, 5 / 6)


def test_one_seed_gives_no_order(tmp_path: Path, registry: dict[str, MethodEntry]) -> None:
    told = {**registry, "kdrl": reporting(registry["kdrl"], ("maths", "accuracy", "56.8 (SFT 51.5)"))}
    for method in ("student", "teacher", "sft", "kdrl"):
        write_run(tmp_path, run_payload(method, 0, asked={"methods": ["sft", "kdrl"], "seeds": [0]}), {"sums": [1.0, 0.0]})
    assert orders_table(score_frame(load_records(tmp_path, "toy")), told) is None
