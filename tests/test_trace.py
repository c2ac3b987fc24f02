"""From a cell to its records."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import pytest

from zoo.errors import ZooError
from zoo.trace import trace

ROOT = Path(__file__).parent.parent
MANIFEST, RECORDS = ROOT / "paper_tables" / "MANIFEST.json", ROOT / "results" / "records"


def test_a_cell_leads_to_the_records_that_hold_its_number() -> None:
    found = trace(MANIFEST, RECORDS, "quickstart", "gkd", "micro_add.score")
    assert [Path(source.path).name for source in found] == ["eval-micro.json", "run.json"]
    assert {source.state for source in found} == {"unchanged"} and all("/gkd/" in source.path for source in found)
    content = json.loads((RECORDS / found[0].path).read_text())
    with (ROOT / "paper_tables" / "quickstart" / "main.csv").open(encoding="utf-8", newline="") as file:
        [row] = [row for row in csv.DictReader(file) if row["method"] == "gkd"]
    assert float(row["micro_add.score"]) == content["tasks"]["micro_add"]["metrics"]["exact_match,strict"]


def test_another_table_of_the_comparison() -> None:
    assert trace(MANIFEST, RECORDS, "quickstart/costs", "gkd", "steps")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (("quickstar", "gkd", "steps"), "no comparison 'quickstar'; did you mean 'quickstart'"),
        (("quickstart/cost", "gkd", "steps"), "no table of quickstart 'cost'"),
        (("quickstart", "gkdd", "steps"), "no row 'gkdd'; did you mean 'gkd'"),
        (("quickstart", "gkd", "step"), "no column 'step'"),
        (("quickstart/published", "kd", "published"), "no row 'kd'; there are: kd · [^,]*, [^·]* · [^,]*, kd · "),
        (("failure_detection", "FM77", "validated"), "no row 'FM77'; did you mean 'FM"),
        (("failure_detection", "FM07", "validate"), "no column 'validate'; did you mean 'validated'"),
        (("survey_a_tree", "gkd", "evidence"), "no record is behind survey_a_tree: it is a function of the registry's entries"),
        (("truncation", "k = 1", "bias"), "no record is behind truncation: it is a function of the lab's code"),
    ],
)
def test_unknown_names_are_refused_with_those_that_exist(place: tuple[str, str, str], message: str) -> None:
    with pytest.raises(ZooError, match=message):
        trace(MANIFEST, RECORDS, *place)


def test_tables_of_detectors_lead_to_the_runs_they_are_from() -> None:
    """Every row of their CSVs, and the rows of print, which hold all seeds."""
    labels = {"failure_detection": ("failure_mode", "seed"), "failure_matrix": ("set_up", "arm", "seed"), "failure_false_alarms": ("failure_mode",)}
    for name, columns in labels.items():
        with (MANIFEST.parent / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert rows
        for row in rows[::7]:
            found = trace(MANIFEST, RECORDS, name, " · ".join(row[column] for column in columns), list(row)[-2 if name == "failure_false_alarms" else -1])
            assert found and {source.state for source in found} == {"unchanged"}, (name, row)
    one = trace(MANIFEST, RECORDS, "failure_detection", "FM07 · 1", "validated")
    assert [json.loads((RECORDS / source.path).read_text())["seed"] for source in one] == [1, 1]
    assert len(trace(MANIFEST, RECORDS, "failure_detection", "FM07", "validated")) == 6 and "fm07-control" in one[0].path
    assert len(trace(MANIFEST, RECORDS, "failure_matrix", "fm07-control", "FM01")) == 3


def test_records_that_changed_or_went_are_named_so(tmp_path: Path) -> None:
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("same", "other", "gone")}
    (tmp_path / "same").write_text("same")
    (tmp_path / "other").write_text("altered")
    section = {"records": {d[:16]: {"path": name, "sha256": d} for name, d in digests.items()}, "sets": {"s0": " ".join(
        d[:16] for d in digests.values())}, "tables": {"main": {"m": {"score": "s0"}}}}  # fmt: skip
    (tmp_path / "MANIFEST.json").write_text(json.dumps({"comparisons": {"c": section}}))
    found = trace(tmp_path / "MANIFEST.json", tmp_path, "c", "m", "score")
    assert {source.path: source.state for source in found} == {"same": "unchanged", "other": "changed", "gone": "missing"}
    with pytest.raises(ZooError, match="no manifest"):
        trace(tmp_path / "nowhere.json", tmp_path, "c", "m", "score")
