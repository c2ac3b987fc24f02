"""The reporting checklist and the table of failure modes, from records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from golden_records.factory import run_payload, write_run

import zoo
from zoo.checklist import ITEMS, checklist_table
from zoo.entry import body
from zoo.errors import ZooError
from zoo.records import Record, load_records
from zoo.score_frame import score_frame, select
from zoo.table_contrasts import contrasts_table
from zoo.table_failures import failures_table, read_diagnoses
from zoo.table_forms import Table

REGISTRY = dict(zoo.load_registry())
SETTINGS = {"rollouts_per_step": 32, "max_new_tokens": 40, "learning_rate": 0.001, "schedule": "linear", "warmup": 0.05, "clip_norm": 1.0}


def write(root: Path, *methods: str, seeds: int = 2, **asked: Any) -> list[Record]:
    declared = {"methods": list(methods), "seeds": list(range(seeds)), "settings": SETTINGS, "selection": "last", **asked}
    for place, method in enumerate(("student", "teacher", "no_op", *methods)):
        for seed in range(seeds if method in methods else 1):
            resolved = {"body": body(REGISTRY[method]), "learning_rate": 0.001 + 0.001 * (method == "gkd")} if method in methods else {}
            run = run_payload(method, seed, asked=declared, resolved=resolved, evidence={"level": "code", "source": "x"})
            right = {"student": 4, "no_op": 4, "teacher": 18}.get(method, 8 + place + seed)
            write_run(root, run, {"sums": [1.0] * right + [0.0] * (20 - right), "copy": [1.0] * (20 - right) + [0.0] * right})
    return [cell.record for cell in select(load_records(root, "toy")) if cell.record]


def answers(table: Table | None) -> dict[str, tuple[str, str, str]]:
    assert table is not None
    return {row[0].text if row[0].text != "models" else row[1].text.split(":")[0].split(",")[0]: (row[2].text, row[3].text, row[4].text) for row in table.rows}


def test_every_field_is_answered_from_the_records(tmp_path: Path) -> None:
    chosen = write(tmp_path, "gkd", "kd", "grpo")
    table = checklist_table(score_frame(load_records(tmp_path, "toy")), chosen, REGISTRY, [])
    found = answers(table)
    assert table is not None and len(table.rows) == len(ITEMS) == 25
    assert "generalized jsd 1" in found["signal"][1] and found["signal"][0] == "stated"
    assert "learning rate 0.001 to 0.002" in found["optimiser"][1] and "gradient clip 1.0" in found["optimiser"][1]
    assert "2 seeds (0, 1)" in found["seeds"][1] and "too few" in found["seeds"][2] and found["seeds"][0] == "in part"
    assert found["calibration"] == ("missing", "", "no task asks for a confidence") and found["alarms"][0] == "missing"
    assert "reinforcement with outcomes alone: grpo" in found["controls"][1] and "supervised on texts" in found["controls"][2]
    assert "one learning rate for all, from no sweep" in found["selection"][1]
    assert "code 3" in found["evidence"][1] and "3 of 3 methods lose" in found["loss statement"][1]
    for status, known, missing in found.values():
        assert status == ("missing" if not known else "in part" if missing else "stated")


def test_a_sweep_is_said(tmp_path: Path) -> None:
    chosen = write(tmp_path, "gkd", sweep={"learning_rates": [1e-4, 1e-3], "seeds": [100, 101], "suite": "micro-valid"})
    found = answers(checklist_table(score_frame(load_records(tmp_path, "toy")), chosen, REGISTRY, []))
    assert "best of 2 (0.0001, 0.001) for every method on seeds 100, 101, which are not reported; suite micro-valid" in found["selection"][1]


def test_records_that_say_nothing_make_a_checklist_too(tmp_path: Path) -> None:
    write_run(tmp_path, run_payload("unknown", status="error", error={"type": "E", "message": "no"}))
    chosen = [cell.record for cell in select(load_records(tmp_path, "toy")) if cell.record]
    found = answers(checklist_table(score_frame(load_records(tmp_path, "toy")), chosen, {}, []))
    assert found["signal"] == ("missing", "", "the records hold no bodies") and found["evaluation"][0] == "missing"


# --- failure modes


def diagnose(root: Path, records: list[Record], **levels: dict[str, str]) -> None:
    for record in records:
        found = {mode: [level, 0.5, 7, "seen"] for mode, level in levels.get(f"{record.run.method}_{record.run.seed}", {}).items()}
        if found:
            content = {"schema": 1, "kind": "failures", "uuid": record.run.uuid, "findings": found}
            (root / "toy" / record.run.method / record.run.uuid / "failures.json").write_text(json.dumps(content))


def test_failure_modes_by_method_by_hand(tmp_path: Path) -> None:
    """gkd: FM01 red in both runs, FM02 amber in one; kd: FM01 silent; a star where the entry reports the mode."""
    chosen = write(tmp_path, "gkd", "kd")
    known = {**REGISTRY, "gkd": REGISTRY["gkd"].model_copy(update={"known_failures": ("FM01", "FM09")}), "kd": REGISTRY["kd"].model_copy(
        update={"known_failures": ()})}  # fmt: skip
    levels = {"gkd_0": {"FM01": "red", "FM02": "amber", "FM29": "not_measured"}, "gkd_1": {"FM01": "red", "FM02": "silent"}, "kd_0": {"FM01": "silent"}}
    diagnose(tmp_path, chosen, **levels)
    table = failures_table("toy", read_diagnoses(tmp_path, chosen), known)
    assert table is not None
    keys = [column.key for column in table.columns]
    rows = {row[0].text: dict(zip(keys, (cell.text for cell in row), strict=True)) for row in table.rows}
    assert rows == {
        "gkd": {"method": "gkd", "runs": "2", "FM01": "R2*", "FM02": "A1", "FM09": "*"},
        "kd": {"method": "kd", "runs": "1", "FM01": "s", "FM02": "", "FM09": ""},
    }
    assert any("measurable in no run here: FM29" in remark for remark in table.remarks)
    found = answers(checklist_table(score_frame(load_records(tmp_path, "toy")), chosen, known, read_diagnoses(tmp_path, chosen)))
    assert "over 3 runs: red 2, silent 2, amber 1, not measured 1" in found["alarms"][1] and "1 runs without a diagnosis" in found["alarms"][2]


def test_no_diagnosis_no_table_and_a_broken_one_is_named(tmp_path: Path) -> None:
    chosen = write(tmp_path, "gkd", seeds=1)
    assert failures_table("toy", read_diagnoses(tmp_path, chosen), REGISTRY) is None
    diagnose(tmp_path, chosen, gkd_0={"FM01": "purple"})
    with pytest.raises(ZooError, match=r"gkd-0/failures.json: not a record of failure modes"):
        read_diagnoses(tmp_path, chosen)


# --- contrasts


def test_methods_whose_recorded_bodies_differ_in_one_component(tmp_path: Path) -> None:
    """gkd on its own samples with another divergence: one component; the learning rates differ and are shown."""
    chosen = write(tmp_path, "gkd", "kd")
    first = next(record for record in chosen if record.run.method == "gkd")
    other = json.loads(json.dumps(first.run.resolved["body"]))
    other["objective"][0]["divergence"] = {"kind": "reverse_kl"}
    changed = [
        type(r)(r.run.model_copy(update={"resolved": {**r.run.resolved, "body": other}}) if r.run.method == "kd" else r.run, r.evals, r.digests) for r in chosen
    ]
    table = contrasts_table(score_frame(load_records(tmp_path, "toy")), changed)
    assert table is not None
    [row] = table.rows
    assert [cell.text for cell in row[:5]] == ["objective.divergence", "generalized_jsd", "reverse_kl", "gkd", "kd"]
    assert row[5].value == pytest.approx(1 / 20) and row[-1].text == "0.002 → 0.001" and row[5].records
