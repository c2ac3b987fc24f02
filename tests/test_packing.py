"""Several cells at once: every cell once, whoever is killed; how many fit."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from zoo import load_registry
from zoo.cli import run
from zoo.errors import ZooError
from zoo.harness import crew, packing
from zoo.harness.mps import CHOICE
from zoo.harness.packing import jobs_for, memory_needed, run_packed, spelled, to_measure
from zoo.harness.parallel import CONTEXT, MEMORY_SHARE, reserve
from zoo.harness.ray_cells import gpu_share
from zoo.harness.report import Listener
from zoo.harness.run_record import first_line
from zoo.records import load_records

COMPARISON: dict[str, Any] = {
    "id": "packed", "title": "Packed", "pair": "micro", "methods": ["student", "sft", "gkd_on_policy", "no_op"], "seeds": [0], "suites": ["micro"],
    "budget": {"unit": "supervised_tokens", "amount": 2000},
    "settings": {"rollouts_per_step": 16, "max_new_tokens": 24, "learning_rate": 1.0e-4, "checkpoint_every": 1},
    "evaluation": {"limit": 4},
}  # fmt: skip


@pytest.mark.parametrize(("device", "number"), [("cuda", 3), ("cuda:1", 1)])
def test_a_share_of_memory_is_set_for_a_numbered_device(device: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The allocator takes no device without its number."""
    seen: list[tuple[float, Any]] = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=10 * CONTEXT))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, device: seen.append((share, device)))
    reserve(torch.device(device), 0.25)
    assert seen == [(pytest.approx(0.15), number)]


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


def children(process: int) -> list[int]:
    """Processes whose parent this one is; none of one that has ended."""
    try:
        return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_no_cell_is_lost_or_doubled(tmp_path: Path) -> None:
    methods = ["sft", "gkd_on_policy", "no_op", "student"]
    arguments = asked(tmp_path, methods=methods, budget={"unit": "supervised_tokens", "amount": 20000})
    command = [sys.executable, "-m", "zoo", *arguments, "--tables", str(tmp_path / "tables"), "--jobs", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        victim = None
        while victim is None and process.poll() is None:
            workers = [worker for child in children(process.pid) for worker in children(child)]  # a server's, from which they were forked
            busy = list((tmp_path / "results").glob("work/*/*/checkpoint/state.json"))
            victim = workers[0] if len(workers) == len(busy) == 2 else None  # both are at a cell and have saved it
            time.sleep(0.2)
        assert victim is not None
        os.kill(victim, signal.SIGKILL)
        output = process.communicate(timeout=400)[0]
    assert process.returncode == 0 and re.search(r"\[\d\] was killed by signal 9 at \w+ \(seed 0\); another worker goes on from its checkpoint", output)
    assert re.search(r"\(seed 0\)  goes on from \d+%", output) and "4 of 4 cells done" in output
    assert recorded(tmp_path) == sorted((method, "success") for method in methods)


def test_a_worker_that_refuses_its_input_is_heard(tmp_path: Path) -> None:
    with pytest.raises(ZooError, match="no_such_method"):
        run_packed(asked(tmp_path, methods=["no_such_method"]), 1, lambda line: None)


def test_a_worker_killed_again_and_again_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    def dying(arguments: Any, number: int, follow: Any, place: Any) -> Any:
        started.append(number)
        return SimpleNamespace(
            number=number, join=lambda: -9, complaints=[], cell=("gkd", 3), where=" at gkd (seed 3)", process=SimpleNamespace(poll=lambda: -9)
        )

    monkeypatch.setattr(crew, "start", dying)
    with pytest.raises(ZooError, match=r"signal 9 at gkd \(seed 3\), and 3 processes had been replaced .* the last checkpoint: zoo run 'my file.yaml'"):
        run_packed(["run", "my file.yaml"], 2, lambda line: None)
    assert len(started) == 2 + crew.RESTARTS


class Made:
    """A process that ends at once, with the next of these codes."""

    codes: list[int]
    environments: list[dict[str, str]]
    stdout = stderr = ()

    def __init__(self, arguments: list[str], environment: dict[str, str]) -> None:
        self.environments.append(environment)
        self.code = self.codes.pop(0) if self.codes else 0

    def poll(self) -> int:
        return self.code

    wait = poll


def places(monkeypatch: pytest.MonkeyPatch, device: str | None, jobs: int, count: int, codes: tuple[int, ...] = ()) -> list[tuple[str | None, str | None]]:
    """What each process that is started sees of `count` GPUs, and its part of the memory of one."""
    monkeypatch.setattr(packing.torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(crew, "Command", Made)
    monkeypatch.setenv(CHOICE, "off")
    monkeypatch.setattr(Made, "environments", [], raising=False)
    monkeypatch.setattr(Made, "codes", list(codes), raising=False)
    run_packed(["run", "any"], jobs, lambda line: None, device)
    return [(environment.get("CUDA_VISIBLE_DEVICES"), environment.get(MEMORY_SHARE)) for environment in Made.environments]


def test_workers_are_spread_over_all_visible_gpus_and_those_of_one_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    two = [("0", "0.3333"), ("1", "0.5000"), ("0", "0.3333"), ("1", "0.5000"), ("0", "0.3333")]
    assert places(monkeypatch, "cuda", 5, 2) == two
    assert places(monkeypatch, None, 5, 2) == two  # cuda is the default where there is one
    assert places(monkeypatch, "cuda", 4, 3) == [("0", "0.5000"), ("1", None), ("2", None), ("0", "0.5000")]
    assert places(monkeypatch, "cuda", 2, 8) == [("0", None), ("1", None)]


@pytest.mark.parametrize(("device", "count"), [("cuda:1", 4), ("cuda", 1), ("cuda", 0), ("cpu", 4)])
def test_workers_stay_where_the_device_is_one(device: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert places(monkeypatch, device, 3, count) == [(None, "0.3333")] * 3
    assert places(monkeypatch, device, 1, count) == [(None, None)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7,6,4")
    assert places(monkeypatch, device, 3, count) == [("5,7,6,4", "0.3333")] * 3


@pytest.mark.parametrize("chosen", ["6,3", "6, 3", "GPU-8932f937-d72c,GPU-9a1b", "MIG-1,MIG-0"])
def test_workers_take_turns_among_the_gpus_that_the_user_chose(chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = chosen.replace(" ", "").split(",")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert places(monkeypatch, "cuda", 3, 2) == [(first, "0.5000"), (second, None), (first, "0.5000")]


def test_the_successor_of_a_killed_worker_has_its_gpu_and_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,2")
    assert places(monkeypatch, "cuda", 3, 2, codes=(0, -9, 0))[3:] == [("2", None)]
    assert places(monkeypatch, "cuda", 3, 2, codes=(0, 0, -9))[3:] == [("4", "0.5000")]


def measured(gib: float, method: str = "gkd", device: str = "cuda", gpu: int = 80, tokens: int = 2000) -> Any:
    """A finished run with such a peak of memory, which was supervised on so many tokens."""
    spent = {"peak_memory_bytes": int(gib * (1 << 30)), "supervised_tokens": tokens}
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


def test_how_many_fit_on_all_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"cuda:0": 80, "cuda:1": 30, "cuda:2": 20, "cuda:3": 55}
    monkeypatch.setattr(packing.os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(packing.torch.cuda, "device_count", lambda: len(free))
    monkeypatch.setattr(packing.torch.cuda, "mem_get_info", lambda device: (free[device] << 30, 80 << 30))
    records = [measured(20)]  # 25 GiB each
    assert jobs_for("auto", "cuda", 99, records) == 3 + 1 + 0 + 2
    assert [jobs_for("auto", f"cuda:{number}", 99, records) for number in range(4)] == [3, 1, 1, 2]  # one is tried where none fits
    assert jobs_for("auto", "cuda", 5, records) == 5
    assert jobs_for("auto", "cuda", 99, [measured(1)]) == 16  # a process needs a core
    assert [jobs_for("auto", "cuda", cells, []) for cells in (99, 2)] == [4, 2]  # not measured: a whole GPU each


@pytest.mark.parametrize(("device", "workers", "again"), [("cuda", 2, 0), ("cuda", 3, 1), (None, 2, 0), (None, 3, 1), ("cuda:1", 2, 1), ("cpu", 2, 1)])
def test_a_cell_without_memory_is_run_again_alone_unless_each_worker_had_a_whole_gpu(
    device: str | None, workers: int, again: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[list[str], int]] = []

    def run_out(arguments: list[str], jobs: int, board: Listener, given: str | None, sharing: None) -> None:
        assert given == device
        ran.append((arguments[2:4], jobs))
        board.end("gkd", 1, "oom")
        board.end("sft", 1, "success")

    monkeypatch.setattr(packing.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(packing, "run_packed", run_out)
    monkeypatch.setattr(run, "_board", lambda *_: Listener())
    run._packed("any", None, [1, 2], [("--device", device)], [], (workers, None), lambda: (1, None), [("gkd", 1), ("sft", 1)], False)
    assert ran == [(["--seed", "1"], workers)] + [(["--method", "gkd"], 1)] * again


def test_where_nothing_was_measured_on_a_gpu_one_cell_runs_alone_and_the_others_are_packed_by_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cells = [("gkd", 0), ("gkd", 1)]
    assert to_measure("cuda", cells, []) == to_measure("cuda:0", cells, [measured(3, device="cpu"), measured(1, "student", tokens=0)]) == ("gkd", 0)
    for device, left, records in (("cpu", cells, []), ("cuda", cells[:1], []), ("cuda", [], []), ("cuda", cells, [measured(3)])):
        assert to_measure(device, left, records) is None
    ran: list[tuple[list[str], int]] = []
    monkeypatch.setattr(packing, "run_packed", lambda arguments, workers, board, device, sharing: ran.append((arguments[2:], workers)))
    monkeypatch.setattr(run, "_board", lambda *_: Listener())
    run._packed("any", ["gkd", "sft"], None, [("--device", "cuda")], [], (1, ("sft", 3)), lambda: (5, None), cells, False)
    assert ran == [(["--method", "sft", "--seed", "3", "--device", "cuda"], 1), (["--method", "gkd", "--method", "sft", "--device", "cuda"], 5)]


def test_the_cell_that_measures_is_one_that_trains(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(packing.torch.cuda, "mem_get_info", lambda _: (80 << 30, 80 << 30))
    (tmp_path / "packed.yaml").write_text(yaml.safe_dump({**COMPARISON, "seeds": [4, 5]}))
    where = {"results": tmp_path, "registry": load_registry(), "methods": None, "pair_paths": {}, "data": None}
    assert run._workers("auto", str(tmp_path / "packed.yaml"), [5], "cuda", where) == (1, ("sft", 5))
    assert run._workers("2", str(tmp_path / "packed.yaml"), None, "cuda", where) == (2, None)


def test_cells_are_not_packed_by_each_process_of_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for processes, refused in (("1", False), ("2", True)):
        monkeypatch.setenv("WORLD_SIZE", processes)
        run._refuse_both_ways(None, "here")
        run._refuse_both_ways("1", "here")
        for jobs, engine in (("auto", "here"), ("2", "here"), (None, "ray")):
            with pytest.raises(ZooError, match="`accelerate launch` spreads each cell") if refused else nullcontext():
                run._refuse_both_ways(jobs, engine)


def test_the_part_of_a_gpu_follows_the_methods_own_peak_and_the_smallest_gpu() -> None:
    records = [measured(20), measured(5, "sft", gpu=40)]
    assert (gpu_share(records, "sft"), gpu_share([measured(20)], "gkd"), gpu_share([measured(20)], "unknown")) == (0.18, 0.32, 0.32)
    assert gpu_share([], "gkd") == 1.0 and gpu_share([measured(40)], "gkd") == 1.0


def test_a_run_that_only_evaluates_says_nothing_of_those_that_train(monkeypatch: pytest.MonkeyPatch) -> None:
    untrained, trained = measured(1, "student", tokens=0), measured(0.5, "sft")
    assert gpu_share([untrained], "gkd") == 1.0 and gpu_share([untrained], "student") == 0.03
    assert gpu_share([untrained, trained], "gkd") == gpu_share([trained], "gkd") == 0.02  # the untrained peak is higher, and none of those that train
    monkeypatch.setattr(packing.torch.cuda, "mem_get_info", lambda _: (80 << 30, 80 << 30))
    assert jobs_for("auto", "cuda", 9, [untrained]) == 1 and memory_needed([untrained]) == 0


@pytest.mark.parametrize(("device", "known", "order"), [("cuda", 0, "gkd student sft"), ("cuda", 2000, "student gkd sft"), ("cpu", 0, "student gkd sft")])
def test_on_ray_a_cell_that_trains_comes_first_where_nothing_was_measured(
    device: str, known: int, order: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each of the first asks for a whole GPU, and the others for what they took."""
    submitted: list[str] = []
    monkeypatch.setattr("zoo.harness.ray_cells.run_on_ray", lambda order, cells, *_, **__: submitted.extend(method for method, _ in cells))
    monkeypatch.setattr("zoo.records.load_records", lambda *_: [measured(1, tokens=known)])
    monkeypatch.setattr(run, "_left", lambda *_: [(method, 0) for method in ("student", "gkd", "sft")])
    cells = {"registry": load_registry(), "results": tmp_path, "pair_paths": {}, "data": None}
    run._on_ray("quickstart", None, cells, {}, device, (), (), ("auto", "auto", True))
    assert submitted == order.split()


def test_of_a_gpu_without_memory_a_reader_is_told_what_was_asked_for_and_what_there_is() -> None:
    told = (
        "CUDA out of memory. Tried to allocate 384.00 MiB. GPU 0 has a total capacity of 79.18 GiB of which 237.44 MiB is free. "
        "{}Including non-PyTorch memory, this process has 13.17 GiB memory in use. {}"
    )
    others = "Process 922 has 34.36 GiB memory in use. Process 923 has 10.14 GiB memory in use. "
    advice = "Of the allocated memory 11.85 GiB is allocated by PyTorch, and 507.21 MiB is reserved. Try PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True."
    assert first_line(torch.OutOfMemoryError(told.format(others, advice))) == told.format("", "").strip()
    assert first_line(torch.OutOfMemoryError(told.format(others, f"15.00 GiB allowed; {advice}"))) == told.format("", "15.00 GiB allowed")
    assert first_line(RuntimeError(f"{others}{advice}\nmore")) == others + advice and first_line(torch.OutOfMemoryError()) == "OutOfMemoryError"


def test_options_are_spelled_as_they_were_given() -> None:
    given = [("--method", ["a", "b"]), ("--data", None), ("--device", "cpu"), ("--registry", [Path("x")])]
    assert spelled(given, [("--trust-remote-code", False), ("--untrusted-code", True)]) == [
        "--method", "a", "--method", "b", "--device", "cpu", "--registry", "x", "--untrusted-code"
    ]  # fmt: skip
