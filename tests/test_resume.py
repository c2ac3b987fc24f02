"""Killed with -9 at any point, the same command goes on and ends with the weights of an uninterrupted run, bit for bit."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from harness_kit import TESTS, process, stateful_entries

from zoo.harness.checkpoint import load_checkpoint, save_checkpoint

ANSWER = "=> "
SETTINGS: dict[str, Any] = {"rollouts_per_step": 8, "max_new_tokens": 6, "budget": {"amount": 170}, "checkpoint_every": 1, "validate_every": 1,
                            "diagnose_every": 1, "evaluate_every": 2}  # fmt: skip
MOVING = ("foreseeing", "private", "anchored", "following", "copied", "bridged", "carried", "mates", "drawing", "adapted")
LONGER = {
    "minillm": {"rollouts_per_step": 4, "budget": {"amount": 800}},  # takes 16 steps on each batch of sequences
    "critic": {"budget": {"amount": 400}},
    "replay": {"budget": {"amount": 300}},
    **{name: {"budget": {"amount": 300}} for name in MOVING},
}
METHODS = [entry.id for entry in stateful_entries()]


class Server:
    """Runs cells in processes of their own."""

    def __init__(self, pair: Path) -> None:
        self.pair, self.process = str(pair), process(TESTS / "resume_driver.py", pair)
        self.answer()

    def run(self, method: str, results: Path, **death: Any) -> dict[str, Any]:
        request = {"pair": self.pair, "method": method, "results": str(results), "settings": SETTINGS | LONGER.get(method, {}), **death}
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return json.loads(self.answer())

    def answer(self) -> str:
        """Its next answer; whatever else it prints is shown where a test fails."""
        assert self.process.stdout is not None
        while not (line := self.process.stdout.readline()).startswith(ANSWER):
            assert line, "the server has ended"
            print(line, end="")
        return line.removeprefix(ANSWER)


@pytest.fixture(scope="module")
def server(pair_file: Path) -> Iterator[Server]:
    server = Server(pair_file)
    yield server
    server.process.stdin.close()
    server.process.wait()


def records(results: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted(results.glob("records/*/*/*/*.json"))]


def ending(results: Path) -> tuple[str, dict[str, Any], dict[str, Any], Any]:
    """Digest of the final weights, last row, what was spent, and all that was logged, of the only attempt."""
    curve, evaluation, failures, run = records(results)
    assert (curve["kind"], evaluation["kind"], failures["kind"], run["kind"], run["status"]) == ("curve", "eval", "failures", "run", "success")
    assert not list(results.glob("records/**/*.partial")) and not list(results.glob("work/*/*"))
    spent = {k: v for k, v in run["budget"]["spent"].items() if k not in ("seconds", "peak_memory_bytes")}
    return evaluation["tasks"]["micro_add"]["weights"], run["final"], spent, {**logged(results), "failures": failures["findings"]}


def logged(results: Path) -> dict[str, Any]:
    """The rows of every log by its name, but for the clock: none may be lost or doubled."""
    found = {}
    for file in results.glob("logs/*/*/*.parquet"):
        frame = pd.read_parquet(file).drop(columns="seconds", errors="ignore")
        found[file.stem.split("-")[-1]] = json.loads(frame.to_json(orient="records", double_precision=12))
    assert {"steps", "rollouts", "tokens"} <= set(found)
    return found


class Uninterrupted(dict[str, tuple[Any, int]]):
    """How each method ends when nobody disturbs it, and how many changes to files that takes; found out when first asked for."""

    def __init__(self, server: Server, factory: pytest.TempPathFactory) -> None:
        self.server, self.factory = server, factory

    def __missing__(self, method: str) -> tuple[Any, int]:
        results = self.factory.mktemp(method)
        said = self.server.run(method, results)
        assert not said["killed"] and said["error"] == ""
        self[method] = (ending(results), said["events"])
        return self[method]


@pytest.fixture(scope="module")
def uninterrupted(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Uninterrupted:
    return Uninterrupted(server, tmp_path_factory)


def assert_same_end(results: Path, whole: tuple[Any, int]) -> None:
    assert ending(results) == whole[0]


def survive(server: Server, method: str, results: Path, event: int) -> None:
    """Die before one change to a file, then run again."""
    assert server.run(method, results, event=event)["killed"]
    said = server.run(method, results)
    assert not said["killed"] and said["error"] == ""


@pytest.mark.parametrize("share", [0.02, 0.2, 0.3, 0.45, 0.6, 0.72, 0.8, 0.88, 0.93, 0.96, 0.98, 1.0])
def test_killed_between_two_changes_to_files(server: Server, uninterrupted: Uninterrupted, tmp_path: Path, share: float) -> None:
    whole = uninterrupted["gkd"]
    survive(server, "gkd", tmp_path, max(1, round(share * whole[1])))
    assert_same_end(tmp_path, whole)


@pytest.mark.slow
def test_killed_before_every_single_change_to_files(server: Server, uninterrupted: Uninterrupted, tmp_path: Path) -> None:
    whole = uninterrupted["gkd"]
    for event in range(1, whole[1] + 1):
        (tmp_path / str(event)).mkdir()
        survive(server, "gkd", tmp_path / str(event), event)
        assert_same_end(tmp_path / str(event), whole)


@pytest.mark.parametrize("method", [method for method in METHODS if method != "gkd"])
def test_buffers_averages_critics_and_reuse_go_on_exactly(server: Server, uninterrupted: Uninterrupted, tmp_path: Path, method: str) -> None:
    """Killed twice, each time after a checkpoint, with at least two iterations to come."""
    for iteration in (1, 2):
        assert server.run(method, tmp_path, checkpoints=1)["killed"]
        [state] = tmp_path.glob("work/trial/*/checkpoint/state.json")
        assert json.loads(state.read_text())["iteration"] == iteration
    said = server.run(method, tmp_path)
    assert not said["killed"] and said["error"] == "" and said["iterations"] >= 2
    assert_same_end(tmp_path, uninterrupted[method])


def test_killed_by_the_clock_again_and_again(server: Server, uninterrupted: Uninterrupted, tmp_path: Path) -> None:
    chance = random.Random(5)
    deaths = [server.run("gkd", tmp_path, seconds=chance.uniform(0.05, 0.1 * attempt))["killed"] for attempt in range(1, 7)]
    assert deaths[0]
    assert server.run("gkd", tmp_path)["error"] == ""
    assert_same_end(tmp_path, uninterrupted["gkd"])


def test_running_again_computes_nothing(server: Server, uninterrupted: Uninterrupted, tmp_path: Path) -> None:
    server.run("gkd", tmp_path)
    before = records(tmp_path)
    assert server.run("gkd", tmp_path)["events"] == 0 and records(tmp_path) == before


def half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize(
    ("name", "damage"),
    [("student.safetensors", half), ("optimizer.safetensors", Path.unlink), ("state.json", half), ("state.json", lambda f: f.write_text("[]"))],
)
def test_a_damaged_checkpoint_is_named_with_the_remedy(server: Server, uninterrupted: Uninterrupted, tmp_path: Path, name: str, damage: Any) -> None:
    assert server.run("gkd", tmp_path, event=round(0.6 * uninterrupted["gkd"][1]))["killed"]
    [folder] = tmp_path.glob("work/trial/*/checkpoint")
    damage(folder / name)
    said = server.run("gkd", tmp_path)
    assert f"checkpoint {folder} is damaged" in said["error"] and "delete that folder" in said["error"] and "\n" not in said["error"]
    assert not records(tmp_path)
    shutil.rmtree(folder)  # the remedy
    assert server.run("gkd", tmp_path)["error"] == ""
    assert_same_end(tmp_path, uninterrupted["gkd"])


# --- the checkpoint folder alone: every change to it, from every state that a kill can leave --------------------------------------


class Killed(BaseException):
    """What a kill looks like from inside."""


class Fuse:
    """Raises before the n-th change to a file or folder under a path."""

    path, left = "", 0


def _burn(event: str, arguments: tuple[Any, ...]) -> None:
    changes = event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir") or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR))
    if Fuse.path and changes and (Fuse.path in str(arguments[0]) or (event in ("os.remove", "os.rmdir") and arguments[1] != -1)):
        Fuse.left -= 1
        if Fuse.left == 0:
            raise Killed


sys.addaudithook(_burn)


def saved(folder: Path, number: int) -> None:
    save_checkpoint(folder, {"number": number}, {"student": {"w": torch.full((3,), float(number))}, "optimizer": {}})


def loaded(folder: Path) -> int | None:
    found = load_checkpoint(folder)
    if found is None:
        return None
    state, tensors = found
    assert tensors["student"]["w"].tolist() == [state["number"]] * 3
    return int(state["number"])


def broken_off(folder: Path, number: int, change: int) -> bool:
    """Save, killed before some change; False where there are fewer changes."""
    Fuse.path, Fuse.left = str(folder.parent), change
    try:
        saved(folder, number)
        return False
    except Killed:
        return True
    finally:
        Fuse.path = ""


def test_a_checkpoint_survives_any_two_kills(tmp_path: Path) -> None:
    tried = 0
    for first in range(1, 30):
        for second in range(1, 30):
            folder = tmp_path / f"{first}-{second}" / "checkpoint"
            saved(folder, 1)
            if not broken_off(folder, 2, first):
                assert loaded(folder) == 2
                return
            before = loaded(folder)
            assert before in (1, 2)
            killed = broken_off(folder, 3, second)
            assert loaded(folder) in ((before, 3) if killed else (3,))
            saved(folder, 4)
            assert loaded(folder) == 4 and [path.name for path in folder.parent.iterdir()] == ["checkpoint"]
            tried += 1
            if not killed:
                break
    raise AssertionError(f"a save makes more than 29 changes, or {tried} kills were not enough")


def test_the_first_checkpoint_survives_a_kill(tmp_path: Path) -> None:
    for change in range(1, 30):
        folder = tmp_path / str(change) / "checkpoint"
        if not broken_off(folder, 1, change):
            break
        assert loaded(folder) in (None, 1)
        saved(folder, 2)
        assert loaded(folder) == 2
    assert change > 4
