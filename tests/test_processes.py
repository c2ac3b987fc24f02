"""Two processes under `accelerate launch` on a CPU give the steps, the weights and the records of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from harness_kit import TESTS, process, read_pair, shared_entries, shipped, trainer_of
from processes_driver import train
from safetensors.torch import load_file

from zoo.errors import ZooError
from zoo.harness.parallel import Processes
from zoo.method import Method

LAUNCH = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no",
          "--dynamo_backend", "no", "--main_process_port", "0")  # fmt: skip
METHODS = list(shared_entries())
WHOLE = {("wild", "run"), ("gkd", "run"), ("gkd", "eval"), ("gkd", "curve"), ("gkd", "failures"), ("student", "run"), ("student", "eval")}


def launched(*arguments: str | Path, launch: tuple[str, ...] = LAUNCH) -> tuple[int, str]:
    """Exit status and output of the driver under `accelerate launch`."""
    started = process(*launch, TESTS / "processes_driver.py", *arguments)
    said, _ = started.communicate(timeout=240)
    return started.returncode, said


@pytest.mark.parametrize("methods", [METHODS[::3], pytest.param(METHODS, marks=pytest.mark.slow)], ids=["a third", "all"])
def test_two_processes_give_the_steps_weights_and_records_of_one(methods: list[str], pair_file: Path, tmp_path: Path) -> None:
    """Many methods in one test: the launch takes longer than most of them."""
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    train(pair_file, one, *methods)
    status, said = launched(pair_file, two, "0", *methods)
    assert status == 0, said
    expected, found = (json.loads((folder / "steps.json").read_text()) for folder in (one, two))
    weights, others = (load_file(folder / "weights.safetensors") for folder in (one, two))
    for method in methods:
        assert (expected[method]["processes"], found[method]["processes"]) == (1, 2)
        assert expected[method]["spent"] == found[method]["spent"], method
        for row, other in zip(expected[method]["rows"], found[method]["rows"], strict=True):
            del row["seconds"], other["seconds"]
            # What sampling and training disagree by is rounding itself, some 1e-6 nats: it is held to that size, and everything else is compared.
            rounding = [one.pop(key) for one in (row, other) for key in [k for k in one if k.startswith("lag0.") and k != "lag0.tokens"]]
            assert all(abs(size) < 1e-5 for size in rounding), method
            assert other == pytest.approx(row, rel=1e-5, abs=1e-6, nan_ok=True), method
        mine = [name for name in weights if name.startswith(f"{method}.")]
        assert mine and all(float((weights[name] - others[name]).abs().max()) < 1e-5 for name in mine), method
        assert any(row[key] for row in expected[method]["rows"] for key in row if key.startswith("loss.")), method
    told = records(two)
    assert set(told) == WHOLE and not list(two.glob("work/*/*"))
    assert [told[method, "run"]["status"] for method in ("wild", "gkd", "student")] == ["diverged", "success", "success"]
    assert told["gkd", "run"]["provenance"]["processes"] == 2


def test_minibatches_are_the_same_on_any_number_of_processes() -> None:
    for count, parts in ((8, 1), (8, 2), (7, 3), (3, 2)):
        whole = Processes().places(count, parts)
        for processes in (1, 2, 3, 4):
            shared = [Processes(rank, processes).places(count, parts) for rank in range(processes)]
            assert [sorted(i for each in shared for i in each[part]) for part in range(parts)] == whole
    assert Processes(0, 2).idle(1, 1) and Processes(1, 2).idle(2, 2) and not Processes(0, 2).idle(3, 2) and not Processes(0, 2).idle(2, 1)


def records(results: Path) -> dict[tuple[str, str], dict[str, Any]]:
    files = [json.loads(file.read_text()) for file in results.glob("records/*/*/*/*.json")]
    found = {(record["method"], record["kind"]): record for record in files}
    assert len(found) == len(files)
    return found


@pytest.mark.slow
def test_a_failure_in_one_process_ends_all_and_the_next_launch_goes_on(pair_file: Path, tmp_path: Path) -> None:
    status, said = launched(pair_file, tmp_path, "2")
    assert status != 0 and "ZooError: gkd: process 1 failed (the second process broke); run the same command again to go on" in said
    assert set(records(tmp_path)) == {("wild", "run")}  # divergence is common to all, so it is recorded and the next cell runs
    assert [json.loads(f.read_text())["spent"]["steps"] for f in tmp_path.glob("work/trial/gkd-*/checkpoint/state.json")] == [2]
    status, said = launched(pair_file, tmp_path, "0")
    assert status == 0 and set(records(tmp_path)) == WHOLE, said


@pytest.mark.slow
def test_a_launch_that_starts_one_process_is_refused(pair_file: Path, tmp_path: Path) -> None:
    """`accelerate launch --cpu` ignores the number of processes."""
    one = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2")
    status, said = launched(pair_file, tmp_path, "0", launch=one)
    assert status != 0 and "`accelerate launch --cpu` starts one process, however many are asked for" in said and not records(tmp_path)


def test_too_few_prompts_for_the_processes(pair_file: Path) -> None:
    trainer = trainer_of(shipped("grpo"), read_pair(pair_file), Processes(0, 2), rollouts_per_step=16)
    with pytest.raises(ZooError, match="'grpo' writes 2 x 8 sequences a step, too few for 2 processes; use fewer processes or more rollouts_per_step"):
        trainer.write(Method(trainer.entry))
