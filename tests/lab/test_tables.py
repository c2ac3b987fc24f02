"""The lab's generated files: current, the same each time, and with the numbers that the statements have."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from zoo.cli import app
from zoo.lab.tables import FILES, lab_files
from zoo.paths import data_root
from zoo.tables import check_tables

PAPER = data_root() / "paper_tables"


def rows(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(lab_files()[name].decode())))


@pytest.mark.parametrize("name", FILES)
def test_the_committed_files_are_current(name: str) -> None:
    assert (PAPER / name).read_bytes() == lab_files()[name]


@pytest.mark.slow
def test_another_process_with_other_threads_writes_the_same_bytes(tmp_path: Path) -> None:
    program = "import sys; from pathlib import Path; from zoo.lab.tables import write_lab_files; write_lab_files(Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, env={**os.environ, "OMP_NUM_THREADS": "2", "PYTHONHASHSEED": "7"})
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == lab_files()


def test_the_estimator_table_says_what_is_so() -> None:
    found = {row["estimator"]: row for row in rows("estimators.csv")}
    for name in ("immediate, sampled token", "immediate − KL baseline", "direct, full vocabulary"):
        assert found[name]["bias_a"] == "0" and float(found[name]["bias_b"]) > 0.1
    for name in ("return-to-go", "return-to-go − value", "GAE, γ = 1, λ = 0.95", "leave one out of 4"):
        assert found[name]["bias_b"] == "0" and float(found[name]["bias_a"]) > 0.1
    assert float(found["group of 4, mean only"]["bias_b"]) == 0.25 and found["group of 4, mean only"]["cosine_b"] == "1"
    assert found["GAE, γ = 0.9, λ = 0.95"]["bias_b"] == found["discounted, γ = 0.9"]["bias_b"]
    assert found["−KL(s) as the advantage"]["cosine_a"] == "–" and "zero" in found["−KL(s) as the advantage"]["notes"]
    assert found["w_f advantage, forward KL"]["bias_a"] == "0"
    assert float(found["return-to-go − value"]["variance_per_token"]) < float(found["return-to-go"]["variance_per_token"])


def test_a_stale_file_is_found(tmp_path: Path) -> None:
    stale = {name: data for name, data in lab_files().items() if name != "routing.md"}
    for name, data in stale.items():
        (tmp_path / name).write_bytes(data + b" " * (name == "estimators.csv"))
    assert check_tables(tmp_path / "none", tmp_path, lab_files()) == ["changed: estimators.csv", "missing: routing.md"]


def test_the_command_prints_and_refuses(tmp_path: Path) -> None:
    run, vopd = CliRunner().invoke, str(data_root() / "registry" / "methods" / "vopd.yaml")
    found = json.loads(run(app, ["lab", vopd, "--quick", "--json"]).stdout)
    assert found["measured"] == 1 and found["entries"][0]["claims"][0]["holds"] is True
    assert found["entries"][0]["fixed"]["claimed"] == "teacher" and len(found["doubles"]) > 15
    shown = run(app, ["lab", vopd, "--quick"]).stdout
    assert "pg_immediate" in shown and "fixed point: stated teacher" in shown
    written = json.loads(run(app, ["lab", "--tables", "--out", str(tmp_path / "t"), "--json"]).stdout)["files"]
    assert sorted(Path(file).name for file in written) == sorted(FILES)
    assert run(app, ["lab"]).exit_code == 2 and run(app, ["lab", "vopd", "--all"]).exit_code == 2
