"""Several workers use a GPU at once: the daemon lives as long as the command, and a fault that strikes all of them costs no record."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from gpu_probes import missing, numbered_from_zero

from zoo import load_registry
from zoo.cli import main as command_line
from zoo.errors import DeviceLost, ZooError
from zoo.harness import crew, device, mps, run
from zoo.harness.comparison import load_comparison
from zoo.harness.forked import start_server
from zoo.harness.mps import CHOICE, CONTROL, LOGS, PIPES, VISIBLE, Service, possible
from zoo.harness.packing import run_packed
from zoo.harness.plan import Place
from zoo.harness.run import run_comparison
from zoo.records import load_records

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No service of the machine's, and no choice of the user's."""
    monkeypatch.setattr(mps, "EVERYONES", tmp_path / "nobody")
    for name in (CHOICE, PIPES, LOGS, VISIBLE):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A program in the place of NVIDIA's, which writes down what it is told."""
    program, told = tmp_path / "bin" / CONTROL, tmp_path / "told.txt"
    program.parent.mkdir()
    words = 'if [ "$1" = -d ]; then words=started; else words=$(cat); fi'
    place = f'${VISIBLE} $(basename "${PIPES}" | cut -c1-5)'
    program.write_text(f'#!/bin/sh\n{words}\necho "$words {place}" >> {told}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setattr(mps, "start_server", lambda: multiprocessing.get_context("spawn"))  # quicker than a server that loads everything first
    return told


def test_a_service_is_for_several_workers_of_a_gpu_where_nobody_else_runs_one(control: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert possible(2, "cuda") and possible(2, "cuda:1") and not possible(1, "cuda") and not possible(2, "cpu") and not possible(49, "cuda")
    for name, value in ((CHOICE, "off"), (PIPES, "/elsewhere")):
        with monkeypatch.context() as changed:
            changed.setenv(name, value)
            assert not possible(2, "cuda")
    with monkeypatch.context() as changed:
        changed.setenv("PATH", str(tmp_path))
        assert not possible(2, "cuda"), "NVIDIA's program is not here"
    monkeypatch.setattr(mps, "EVERYONES", tmp_path)
    assert possible(2, "cuda")
    (tmp_path / "control").touch()
    assert not possible(2, "cuda"), "the machine has one"


def test_a_service_is_started_and_ended_and_its_processes_number_gpus_from_zero(control: Path) -> None:
    service = Service({VISIBLE: "5,7"}, [4, 6], numbered_from_zero)
    assert control.read_text() == "started 5,7 mps-4\n"
    assert service.told.pop(PIPES) == service.told.pop(LOGS) and service.told == {CHOICE: "on", VISIBLE: "0,1"}
    service.close()
    assert control.read_text() == "started 5,7 mps-4\nquit 5,7 mps-4\n"


def test_where_no_gpu_answers_under_it_there_is_no_service(control: Path) -> None:
    service = Service({}, [1], missing)
    assert service.told == {}
    service.close()
    assert control.read_text() == "started  mps-1\nquit  mps-1\n"


def test_a_service_ends_with_a_command_that_is_killed(control: Path) -> None:
    lines = """
import multiprocessing, os, signal, zoo.harness.mps as mps
from gpu_probes import there
mps.start_server = lambda: multiprocessing.get_context("spawn")
mps.Service({}, [2], there)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", lines], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == -signal.SIGKILL
    until = time.monotonic() + 60
    while "quit" not in control.read_text() and time.monotonic() < until:
        time.sleep(0.1)
    assert control.read_text() == "started  mps-2\nquit  mps-2\n"


class Staff:
    """Workers that end with these codes, one after the other, and what they were told; the services they had."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, codes: list[int | None], answering: bool = True) -> None:
        self.codes, self.places, self.said, self.services, self.ended = codes, list[dict[str, str]](), list[str](), list[str](), list[int]()
        self.answering = answering
        monkeypatch.setattr(crew, "start", self.start)
        monkeypatch.setattr(crew, "Service", self.service)
        monkeypatch.setattr(crew, "possible", lambda workers, device: workers > 1)

    def start(self, arguments: Any, number: int, heard: Any, place: dict[str, str]) -> Any:
        code = self.codes.pop(0)
        self.places.append({"number": str(number), **place})
        process = SimpleNamespace(poll=lambda: code, terminate=lambda: self.ended.append(number))
        return SimpleNamespace(
            number=number, join=lambda: -15 if code is None else code, complaints=["why"], cell=None, where=" at gkd (seed 3)", process=process
        )

    def service(self, place: dict[str, str], numbers: list[int]) -> Any:
        self.services.append("open")
        told = {CHOICE: "on", VISIBLE: "0"} if self.answering else {}
        return SimpleNamespace(told=told, close=lambda: self.services.append("close"))

    def work(self, jobs: int) -> list[tuple[str, str | None, str | None]]:
        """The number, GPU and service of each process that was started."""
        run_packed(["run", "any"], jobs, self.said.append, "cuda")
        return [(place["number"], place.get(VISIBLE), place.get(CHOICE)) for place in self.places]


def test_after_a_fault_all_workers_of_the_gpu_go_on_by_turns_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv(VISIBLE, "6,3")
    # Workers 1, 3, 5 are on the first and 2, 4 on the second. Worker 3 has the fault; worker 1 has found no cell left before.
    staff = Staff(monkeypatch, [0, 0, DeviceLost.code, 0, None, 0, 0])
    assert staff.work(5) == [(n, "0", "on") for n in "12345"] + [(n, "6", None) for n in "35"]
    assert staff.ended == [5] and sorted(staff.services) == ["close", "close", "open", "open"]
    assert len(staff.said) == 1 and "a fault on the GPU at gkd (seed 3) ended its 2 workers, which had used it at once" in staff.said[0]


def test_a_worker_that_lost_a_gpu_of_its_own_is_replaced_and_given_up_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    staff = Staff(monkeypatch, [DeviceLost.code, 0])
    assert staff.work(1) == [("1", None, None)] * 2
    assert staff.said == ["[1] lost its GPU at gkd (seed 3); another worker goes on from its checkpoint"]
    with pytest.raises(ZooError, match=r"a worker lost its GPU at gkd .*, and 3 processes had been replaced"):
        Staff(monkeypatch, [DeviceLost.code] * 4).work(1)


def test_where_a_service_does_not_answer_workers_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    staff = Staff(monkeypatch, [0, 0], answering=False)
    assert staff.work(2) == [("1", None, None), ("2", None, None)]
    assert staff.services == ["open", "close"] and "does not answer" in staff.said[0]


COMPARISON: dict[str, Any] = {
    "id": "faulty", "title": "Faulty", "pair": "micro", "methods": ["sft"], "seeds": [0], "suites": ["micro"],
    "budget": {"unit": "supervised_tokens", "amount": 300},
    "settings": {"rollouts_per_step": 8, "max_new_tokens": 8, "learning_rate": 1.0e-4}, "evaluation": {"limit": 2},
}  # fmt: skip


@pytest.mark.parametrize(("choice", "recorded"), [(None, ["error"]), ("on", [])])
def test_a_fault_is_the_cells_own_unless_the_gpu_is_used_by_several(
    choice: str | None, recorded: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_: Any) -> None:
        monkeypatch.setattr(run, "lost", lambda: True)
        monkeypatch.setattr(device, "lost", lambda: True)
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")

    file = tmp_path / "faulty.yaml"
    file.write_text(yaml.safe_dump(COMPARISON))
    monkeypatch.setattr(run, "_train", fault)
    if choice:
        monkeypatch.setenv(CHOICE, choice)
    with pytest.raises(DeviceLost, match=r"^sft \(seed 0\): a fault on the GPU ended this process \(.*illegal memory access was encountered\); "):
        run_comparison(load_comparison(file), load_registry(), Place(tmp_path), device="cpu")
    assert [record.run.status for record in load_records(tmp_path / "records", "faulty")] == recorded


def test_a_command_that_lost_its_gpu_says_so_and_by_its_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fault(*_: Any) -> None:
        raise DeviceLost("sft (seed 0): a fault on the GPU ended this process")

    monkeypatch.setattr("zoo.load_registry", fault)
    monkeypatch.setattr(sys, "argv", ["zoo", "run", "quickstart", "--device", "cpu"])
    with pytest.raises(SystemExit) as end:
        command_line()
    assert end.value.code == DeviceLost.code == 75 and capsys.readouterr().err == "zoo: sft (seed 0): a fault on the GPU ended this process\n"


def test_a_device_that_was_never_used_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not device.lost()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    assert not device.lost()
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: missing())
    assert device.lost()


def use(told: dict[str, str], faulty: bool, line: Any) -> None:
    """In a process of its own: use the GPU, then again when told to; one asks for a place that is not there."""
    os.environ.update(told)
    numbers = torch.arange(4.0, device="cuda")
    torch.cuda.synchronize()
    line.send(device.lost())
    line.recv()
    try:
        found = numbers[torch.tensor([9 if faulty else 1], device="cuda")].tolist()
    except RuntimeError:
        found = None
    line.send((found, device.lost()))


@pytest.mark.gpu
@GPU
@pytest.mark.skipif(not possible(2, "cuda"), reason="no MPS to start here")
def test_on_a_gpu_a_fault_is_seen_by_whose_it_is_and_by_nobody_after_the_service() -> None:
    """Whether it strikes the others as well is the driver's business: they have either the right numbers or a lost GPU."""
    context, service = start_server(), Service({}, [1, 2])
    assert service.told, "NVIDIA's MPS does not answer"

    def begin(told: dict[str, str], faulty: bool) -> tuple[Any, Any]:
        here, line = context.Pipe()
        process = context.Process(target=use, args=(told, faulty, line))  # type: ignore[attr-defined]
        process.start()
        assert here.recv() is False
        return process, here

    def end(process: Any, line: Any) -> tuple[list[float] | None, bool]:
        line.send("go on")
        found: tuple[list[float] | None, bool] = line.recv()
        process.join()
        return found

    faulty, beside = begin(service.told, True), begin(service.told, False)
    assert end(*faulty) == (None, True)
    assert end(*beside) in [([1.0], False), (None, True)]
    service.close()
    assert end(*begin({}, False)) == ([1.0], False)
