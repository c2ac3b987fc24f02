"""The table of detectors from made-up records whose answers are known."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest

from zoo.errors import ZooError
from zoo.provoke.table import COLUMNS, detection_files
from zoo.provoke.verdicts import drop_step, load_toys, rows_of, wilson

FALLING = [[0, 0.4], [5, 0.42], [10, 0.36], [15, 0.2]]


def put(root: Path, arm: str, seed: int, findings: dict[str, Any], mode: str | None = "FM01", created: str = "2026-01-01T00:00:00+00:00", **more: Any) -> None:
    method = f"healthy-{more.pop('method', 'gkd')}" if mode is None else f"{mode.lower()}-{arm}"
    uuid = f"{method}-{seed}-{created[:10]}"
    record = {
        "schema": 1, "kind": "provocation", "uuid": uuid, "run_key": "v1-x", "created": created, "comparison": "provocations", "method": method,
        "failure_mode": mode, "arm": arm, "seed": seed, "pair": "micro", "summary": f"{arm} of it", "status": "success", "error": None, "accuracy": FALLING,
        "prompts": 100, "spent": {"steps": 15}, "seconds": 1.0, "findings": findings, "provenance": {}, **more,
    }  # fmt: skip
    folder = root / "provocations" / method / uuid
    folder.mkdir(parents=True)
    (folder / "provocation.json").write_text(json.dumps(record))


def said(level: str, step: int | None = None) -> list[Any]:
    return [level, 1.0, step, ""]


def table(root: Path) -> list[dict[str, str]]:
    text = detection_files(root)["failure_detection.csv"].decode()
    assert text.splitlines()[0] == ",".join(COLUMNS)
    return list(csv.DictReader(io.StringIO(text)))


def both(root: Path, mode: str, up: list[str], down: list[str], step: int | None = 7) -> None:
    for seed, (one, other) in enumerate(zip(up, down, strict=True)):
        put(root, "provocation", seed, {mode: said(one, step if one in ("amber", "red") else None)}, mode)
        put(root, "control", seed, {mode: said(other)}, mode)


def test_rows_and_verdicts(tmp_path: Path) -> None:
    both(tmp_path, "FM01", ["red", "amber", "red"], ["silent"] * 3)
    both(tmp_path, "FM02", ["red", "silent", "red"], ["silent"] * 3)
    both(tmp_path, "FM03", ["red"] * 3, ["silent", "amber", "silent"])
    both(tmp_path, "FM04", ["red"] * 3, ["silent", "not_measured", "silent"])
    both(tmp_path, "FM05", ["not_measured"] * 3, ["silent"] * 3)
    found = {(row["failure_mode"], row["seed"]): row for row in table(tmp_path)}
    assert len(found) == 15
    assert [found[f"FM0{mode}", "0"]["validated"] for mode in range(1, 6)] == ["yes", "no", "no", "no", "no"]
    assert found["FM01", "1"] == {
        "failure_mode": "FM01", "provocation": "provocation of it", "control": "control of it", "seed": "1", "fired_on_provocation": "yes",
        "fired_on_control": "no", "first_alarm_step": "7", "accuracy_drop_step": "15", "validated": "yes",
    }  # fmt: skip
    assert found["FM02", "1"]["fired_on_provocation"] == "no" and found["FM02", "1"]["first_alarm_step"] == ""
    assert found["FM03", "1"]["fired_on_control"] == "yes" and found["FM04", "1"]["fired_on_control"] == "not measured"


def test_two_seeds_or_a_missing_control_validate_nothing(tmp_path: Path) -> None:
    both(tmp_path, "FM01", ["red"] * 2, ["silent"] * 2)
    put(tmp_path, "provocation", 2, {"FM01": said("red", 3)}, "FM01")
    rows = table(tmp_path)
    assert [row["validated"] for row in rows] == ["no"] * 3 and rows[2]["fired_on_control"] == "not run"


def test_the_newest_record_counts_and_tuning_seeds_do_not(tmp_path: Path) -> None:
    both(tmp_path, "FM01", ["silent"] * 3, ["silent"] * 3)
    for seed in range(3):
        put(tmp_path, "provocation", seed, {"FM01": said("red", 2)}, "FM01", created="2026-01-02T00:00:00+00:00")
    put(tmp_path, "control", 100, {"FM01": said("red", 2)}, "FM01")
    assert [row["validated"] for row in table(tmp_path)] == ["yes"] * 3
    toys, aside = load_toys(tmp_path)
    assert aside == 3 and {toy.run.seed for toy in toys} == {0, 1, 2}
    assert len(rows_of(toys)) == 3
    assert b"3 older records" in detection_files(tmp_path)["failure_detection.md"]


def test_matrix_and_false_alarms(tmp_path: Path) -> None:
    both(tmp_path, "FM01", ["red", "amber", "red"], ["silent"] * 3)
    for seed, level in enumerate(["silent", "amber", "not_measured"]):
        put(tmp_path, "healthy", seed, {"FM01": said(level)}, None)
        put(tmp_path, "healthy", seed, {"FM01": said("silent")}, None, method="kd")
    files = detection_files(tmp_path)
    matrix = list(csv.DictReader(io.StringIO(files["failure_matrix.csv"].decode())))
    assert len(matrix) == 12 and matrix[0].keys() == {"set_up", "arm", "seed", "FM01"}
    assert {(row["set_up"], row["seed"]): row["FM01"] for row in matrix}["healthy-gkd", "2"] == "not measured"
    assert "R2a1" in files["failure_matrix.md"].decode()
    [alarm] = csv.DictReader(io.StringIO(files["failure_false_alarms.csv"].decode()))
    assert (alarm["measured"], alarm["amber"], alarm["red"], alarm["methods"]) == ("5", "1", "0", "gkd")
    assert float(alarm["rate"]) == pytest.approx(0.2)
    assert (float(alarm["rate_low"]), float(alarm["rate_high"])) == pytest.approx(wilson(1, 5))


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    both(tmp_path, "FM01", ["red"] * 3, ["silent"] * 3)
    assert detection_files(tmp_path) == detection_files(tmp_path)
    assert set(detection_files(tmp_path)) == {f"failure_{name}.{form}" for name in ("detection", "matrix", "false_alarms") for form in ("csv", "md", "tex")}
    assert detection_files(tmp_path / "nothing") == {}


def test_a_broken_record_is_named(tmp_path: Path) -> None:
    put(tmp_path, "control", 0, {"FM01": ["purple", None, None, ""]})
    with pytest.raises(ZooError, match="fm01-control"):
        load_toys(tmp_path)


def test_when_accuracy_fell() -> None:
    # best 0.42, now 0.36: 0.06 against 2.58 sqrt((.2436 + .2304) / 100) = 0.178; now 0.2: 0.22 against 2.58 sqrt((.2436 + .16) / 100) = 0.164.
    assert 2.58 * math.sqrt((0.42 * 0.58 + 0.2 * 0.8) / 100) == pytest.approx(0.1639, abs=1e-4)
    assert drop_step([(step, share) for step, share in FALLING], 100) == 15  # type: ignore[misc]
    assert drop_step([(0, 0.4), (5, 0.3), (10, 0.5)], 100) is None
    assert drop_step([(0, 0.1), (5, 0.9), (10, 0.7)], 100) == 10
    assert drop_step([(0, 1.0), (5, 0.99)], 100) is None
    assert drop_step([], 100) is None


def test_wilson_by_hand() -> None:
    # p = .5, n = 4, z = 1.96: centre .5, half 1.96 sqrt(.25/4 + 3.8416/64) / 1.9604
    assert wilson(2, 4) == pytest.approx((0.15, 0.85), abs=1e-3)
    assert wilson(0, 0) == (0.0, 1.0) and wilson(0, 30)[0] == 0.0
