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
    ],
)
def test_unknown_names_are_refused_with_those_that_exist(place: tuple[str, str, str], message: str) -> None:
    with pytest.raises(ZooError, match=message):
        trace(MANIFEST, RECORDS, *place)


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
