"""Killed with -9 at any point, the same command goes on and ends with the weights of an uninterrupted run, bit for bit."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness_kit import TESTS, process, stateful_entries

ANSWER = "=> "
SETTINGS = {"rollouts_per_step": 8, "max_new_tokens": 6, "budget": {"amount": 170}, "checkpoint_every": 1, "validate_every": 1}
LONGER = {"minillm": {"rollouts_per_step": 4, "budget": {"amount": 500}}}  # takes 16 steps on each batch of sequences
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


def ending(results: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Digest of the final weights, last row, and what was spent, of the only attempt."""
    evaluation, run = records(results)
    assert (evaluation["kind"], run["kind"], run["status"]) == ("eval", "run", "success")
    assert not list(results.glob("records/**/*.partial")) and not list(results.glob("work/*/*"))
    spent = {k: v for k, v in run["budget"]["spent"].items() if k not in ("seconds", "peak_memory_bytes")}
    return evaluation["tasks"]["micro_add"]["weights"], run["final"], spent


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
    """Killed twice, each time after a checkpoint."""
    whole = uninterrupted[method]
    assert server.run(method, tmp_path, event=round(0.5 * whole[1]))["killed"]
    survive(server, method, tmp_path, round(0.35 * whole[1]))
    assert_same_end(tmp_path, whole)


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
