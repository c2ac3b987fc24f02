"""Trackers: every number of every step under the cell's name, never needed, and never the end of a run."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from harness_kit import comparison, read_pair, registry, shipped, stub_evaluation

from zoo.errors import ZooError
from zoo.harness import ray_cells, run
from zoo.harness.plan import Place
from zoo.harness.ray_cells import Order
from zoo.harness.run import run_comparison
from zoo.harness.trackers import Tracked, trackers


class Fake:
    """In place of one of accelerate's trackers."""

    made: dict[str, Fake] = {}

    def __init__(self, name: str, broken: bool = False) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.ended, self.broken = 0, broken
        Fake.made[name] = self

    def log(self, values: dict[str, Any], step: int) -> None:
        if self.broken:
            raise ConnectionError("no network")
        self.rows.append((step, values))

    def finish(self) -> None:
        self.ended += 1


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, pair_file: Path) -> None:
    pair = read_pair(pair_file)
    monkeypatch.setattr(run, "load_pair", lambda *_, **__: pair)
    monkeypatch.setattr(run, "evaluate", stub_evaluation)


def test_each_cell_is_a_run_with_every_number_of_every_step(pair_file: Path, tmp_path: Path, quick: None) -> None:
    declared = comparison(pair_file, methods=("gkd", "student"), budget={"amount": 200})
    outcomes = run_comparison(declared, registry(shipped("gkd"), shipped("student")), Place(tmp_path), device="cpu", listeners=[Tracked("fake", Fake)])
    assert [outcome.status for outcome in outcomes] == ["success", "success"]
    gkd, student = Fake.made["gkd-s0"], Fake.made["student-s0"]
    assert [step for step, _ in gkd.rows] == list(range(1, len(gkd.rows) + 1)) and gkd.rows[-1][1]["progress"] == 1.0
    assert {"grad_norm", "learning_rate", "tokens"} <= gkd.rows[0][1].keys() and any(key.startswith("loss.") for key in gkd.rows[0][1])
    assert (gkd.ended, student.ended, student.rows) == (1, 1, [])


def test_a_tracker_that_fails_costs_no_run(pair_file: Path, tmp_path: Path, quick: None, caplog: pytest.LogCaptureFixture) -> None:
    declared = comparison(pair_file, methods=("gkd",), budget={"amount": 200})
    broken = Tracked("fake", lambda name: Fake(name, broken=True))
    with caplog.at_level(logging.WARNING):
        [outcome] = run_comparison(declared, registry(shipped("gkd")), Place(tmp_path), device="cpu", listeners=[broken])
    assert outcome.status == "success" and caplog.text.count("tracker fake left out for gkd (seed 0): ConnectionError: no network") == 1


def test_what_was_interrupted_is_closed() -> None:
    tracked = Tracked("fake", Fake)
    tracked.begin("cut", 0, 0.0)
    tracked.close()
    assert Fake.made["cut-s0"].ended == 1 and not tracked.open


def test_a_cell_of_a_cluster_is_tracked_under_the_comparisons_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not under the path of its file, which is where TensorBoard would write."""
    asked, seen = comparison("micro"), list[Any]()
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(asked.model_dump(mode="json", exclude_none=True)))
    (tmp_path / "token").touch()
    monkeypatch.setattr("zoo.harness.trackers.trackers", lambda *given: seen.append(given) or [])
    monkeypatch.setattr("zoo.run", lambda *_, **__: [SimpleNamespace(status="success")])
    order = Order(str(tmp_path / "mine.yaml"), str(tmp_path), str(tmp_path / "token"), trackers=("tensorboard",))
    assert ray_cells._work(order, "gkd", 0, 0.0, SimpleNamespace(put=SimpleNamespace(remote=print))) == "success"
    assert seen == [(("tensorboard",), str(tmp_path), asked.id)]


def test_unknown_and_absent_trackers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert trackers([], tmp_path, "quickstart") == []
    with pytest.raises(ZooError, match=r"'tensorbord' is none of tensorboard, trackio, wandb.*tensorboard"):
        trackers(["tensorbord"], tmp_path, "quickstart")
    monkeypatch.setattr("zoo.harness.trackers.find_spec", lambda name: None)
    with pytest.raises(ZooError, match="--tracker wandb needs the package wandb: pip install wandb"):
        trackers(["wandb"], tmp_path, "quickstart")


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="TensorBoard is not installed: pip install -c constraints.txt tensorboard")
def test_tensorboard_shows_the_steps(pair_file: Path, tmp_path: Path, quick: None) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    declared = comparison(pair_file, methods=("gkd",), budget={"amount": 200})
    run_comparison(declared, registry(shipped("gkd")), Place(tmp_path), device="cpu", listeners=trackers(["tensorboard"], tmp_path, declared.id))
    events = EventAccumulator(str(tmp_path / "logs" / "trackers" / "trial" / "gkd-s0")).Reload()
    norms = events.Scalars("grad_norm")
    assert [event.step for event in norms] == list(range(1, len(norms) + 1)) and events.Scalars("progress")[-1].value == 1.0
