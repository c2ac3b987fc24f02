"""Several cells at once: every cell once, whoever is killed; how many fit."""

from __future__ import annotations

import os
import re
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
from zoo.harness.ray_cells import gpu_share
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
    assert sorted(line for line in said if line.endswith("(seed 0)")) == ["sft (seed 0)", "student (seed 0)"]
    assert sorted(line.split("  success")[0] for line in said if "  success in " in line) == ["sft (seed 0)", "student (seed 0)"]


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
    assert run.returncode == 0 and re.search(r"\[\d\] was killed by signal 9 at \w+ \(seed 0\); another worker goes on from its checkpoint", output)
    assert re.search(r"\(seed 0\)  goes on from \d+%", output) and "4 of 4 cells done" in output
    assert recorded(tmp_path) == sorted((method, "success") for method in COMPARISON["methods"])


def test_a_worker_that_refuses_its_input_is_heard(tmp_path: Path) -> None:
    with pytest.raises(ZooError, match="no_such_method"):
        run_packed(asked(tmp_path, methods=["no_such_method"]), 1, lambda line: None)


def test_a_worker_killed_again_and_again_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    def dying(arguments: Any, number: int, follow: Any, share: float) -> Any:
        started.append(number)
        return SimpleNamespace(number=number, join=lambda: -9, complaints=[], cell=("gkd", 3), process=SimpleNamespace(poll=lambda: -9))

    monkeypatch.setattr(packing, "start", dying)
    with pytest.raises(
        ZooError, match=r"signal 9 at gkd \(seed 3\), and 3 workers had been replaced .* the last checkpoint: zoo run 'my file.yaml'"
    ):
        run_packed(["run", "my file.yaml"], 2, lambda line: None)
    assert len(started) == 2 + packing.RESTARTS


def measured(gib: float, method: str = "gkd", device: str = "cuda", gpu: int = 80) -> Any:
    """A finished run with such a peak of memory."""
    spent = {"peak_memory_bytes": int(gib * (1 << 30))}
    provenance = {"device": device, "hardware": {"gpus": [{"name": "any", "memory_bytes": gpu << 30}]}}
    return SimpleNamespace(run=SimpleNamespace(status="success", method=method, budget=SimpleNamespace(spent=spent), provenance=provenance))


def test_how_many_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing.os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 4, 5, 6, 7})
    monkeypatch.setattr(packing.torch.cuda, "mem_get_info", lambda _: (80 << 30, 80 << 30))
    assert [jobs_for("3", "cpu", 2, []), jobs_for("3", "cpu", 9, []), jobs_for("auto", "cpu", 9, []), jobs_for("auto", "cpu", 0, [])] == [2, 3, 8, 1]
    records = [measured(20)]  # 25 GiB each with what the allocator keeps and CUDA takes
    assert [jobs_for("auto", "cuda", 9, []), jobs_for("auto", "cuda", 9, records), jobs_for("auto", "cuda", 2, records)] == [1, 3, 2]
    assert jobs_for("auto", "cuda", 99, [measured(0.1)]) == 8  # a process needs a core
    assert jobs_for("auto", "cuda", 9, [measured(20, device="cpu")]) == 1  # what a CPU took says nothing
    for wrong in ("0", "-1", "many"):
        with pytest.raises(ZooError, match="at least 1, or auto"):
            jobs_for(wrong, "cpu", 1, [])


def test_the_part_of_a_gpu_follows_the_methods_own_peak_and_the_smallest_gpu() -> None:
    records = [measured(20), measured(5, "sft", gpu=40)]
    assert (gpu_share(records, "sft"), gpu_share([measured(20)], "gkd"), gpu_share([measured(20)], "unknown")) == (0.18, 0.32, 0.32)
    assert gpu_share([], "gkd") == 1.0 and gpu_share([measured(40)], "gkd") == 1.0


def test_options_are_spelled_as_they_were_given() -> None:
    given = [("--method", ["a", "b"]), ("--data", None), ("--device", "cpu"), ("--registry", [Path("x")])]
    assert spelled(given, [("--trust-remote-code", False), ("--untrusted-code", True)]) == [
        "--method", "a", "--method", "b", "--device", "cpu", "--registry", "x", "--untrusted-code"
    ]  # fmt: skip
