"""Several cells at once: every cell once, whoever is killed; how many fit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from zoo.errors import ZooError
from zoo.harness import packing
from zoo.harness.packing import jobs_for, run_packed, spelled
from zoo.records import load_records

COMPARISON: dict[str, Any] = {
    "id": "packed", "title": "Packed", "pair": "micro", "methods": ["student", "sft", "gkd_on_policy", "no_op"], "seeds": [0], "suites": ["micro"],
    "budget": {"unit": "supervised_tokens", "amount": 2000},
    "settings": {"rollouts_per_step": 16, "max_new_tokens": 24, "learning_rate": 1.0e-4, "checkpoint_every": 1},
    "evaluation": {"limit": 4},
}  # fmt: skip


def asked(folder: Path, **changes: Any) -> list[str]:
    (folder / "packed.yaml").write_text(yaml.safe_dump({**COMPARISON, **changes}))
    return ["run", str(folder / "packed.yaml"), "--results", str(folder / "results"), "--device", "cpu"]


def recorded(folder: Path) -> list[tuple[str, str]]:
    return sorted((record.run.method, record.run.status) for record in load_records(folder / "results" / "records", "packed"))


def test_workers_share_the_cells_and_each_is_recorded_once(tmp_path: Path) -> None:
    said: list[str] = []
    run_packed(asked(tmp_path, methods=["student", "sft"], budget={"unit": "supervised_tokens", "amount": 300}), 2, said.append)
    assert recorded(tmp_path) == [("sft", "success"), ("student", "success")]
    started = [line for line in said if "(seed 0)" in line]
    assert sorted(line.split("] ")[1] for line in started) == ["sft (seed 0)", "student (seed 0)"]
    assert {line[:3] for line in said} <= {"[1]", "[2]"}


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_no_cell_is_lost_or_doubled(tmp_path: Path) -> None:
    arguments = asked(tmp_path, budget={"unit": "supervised_tokens", "amount": 20000})
    command = [sys.executable, "-m", "zoo", *arguments, "--tables", str(tmp_path / "tables"), "--jobs", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        victim = None
        while victim is None and run.poll() is None:
            children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
            busy = list((tmp_path / "results").glob("work/**/checkpoint*"))
            victim = int(children[0]) if len(children) == 2 and busy else None
            time.sleep(0.2)
        assert victim is not None
        os.kill(victim, signal.SIGKILL)
        output = run.communicate(timeout=400)[0]
    assert run.returncode == 0 and "was killed by signal 9" in output
    assert recorded(tmp_path) == sorted((method, "success") for method in COMPARISON["methods"])


def test_a_worker_that_refuses_its_input_is_heard(tmp_path: Path) -> None:
    with pytest.raises(ZooError, match="no_such_method"):
        run_packed(asked(tmp_path, methods=["no_such_method"]), 1, lambda line: None)


def test_a_worker_killed_again_and_again_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    def dying(arguments: Any, number: int, say: Any) -> Any:
        started.append(number)
        return SimpleNamespace(number=number, join=lambda: -9, complaints=[])

    monkeypatch.setattr(packing, "start", dying)
    with pytest.raises(ZooError, match="exit code -9"):
        run_packed([], 2, lambda line: None)
    assert len(started) == 2 + packing.RESTARTS


def test_how_many_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing.os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 4, 5, 6, 7})
    monkeypatch.setattr(packing.torch.cuda, "mem_get_info", lambda _: (80 << 30, 80 << 30))
    run = SimpleNamespace(status="success", budget=SimpleNamespace(spent={"peak_memory_bytes": 20 << 30}))
    records: Any = [SimpleNamespace(run=run)]
    assert [jobs_for("3", "cpu", 2, []), jobs_for("3", "cpu", 9, []), jobs_for("auto", "cpu", 9, []), jobs_for("auto", "cpu", 0, [])] == [2, 3, 8, 1]
    assert [jobs_for("auto", "cuda", 9, []), jobs_for("auto", "cuda", 9, records), jobs_for("auto", "cuda", 2, records)] == [1, 3, 2]
    for wrong in ("0", "-1", "many"):
        with pytest.raises(ZooError, match="at least 1, or auto"):
            jobs_for(wrong, "cpu", 1, [])


def test_options_are_spelled_as_they_were_given() -> None:
    given = [("--method", ["a", "b"]), ("--data", None), ("--device", "cpu"), ("--registry", [Path("x")])]
    assert spelled(given, [("--trust-remote-code", False), ("--untrusted-code", True)]) == [
        "--method", "a", "--method", "b", "--device", "cpu", "--registry", "x", "--untrusted-code"
    ]  # fmt: skip
