"""Cells as tasks of a real Ray cluster of two nodes on this machine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_packing import COMPARISON, asked, recorded

from zoo.errors import ZooError
from zoo.harness.board import Board
from zoo.harness.ray_cells import Order, _task, run_on_ray

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install -c constraints.txt ray")
pytestmark = pytest.mark.slow
NODE = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two nodes of one core each."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args=NODE)
    made.add_node(**NODE)
    made.wait_for_nodes()
    yield made
    made.shutdown()


def command(folder: Path, address: str, **changes: Any) -> list[str]:
    return [sys.executable, "-m", "zoo", *asked(folder, **changes), "--tables", str(folder / "tables"), "--engine", "ray", "--address", address]


def test_a_node_killed_in_the_middle_costs_no_cell_and_doubles_none(cluster: Any, tmp_path: Path) -> None:
    arguments = command(tmp_path, cluster.address, budget={"unit": "supervised_tokens", "amount": 12000})
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}) as run:
        began, busy = time.monotonic(), set[Path]()
        while len(busy) < 2 and run.poll() is None and time.monotonic() - began < 300:  # both nodes are at a cell and have saved it
            busy = {file.parent.parent for file in (tmp_path / "results").glob("work/*/*/checkpoint/state.json")}
            time.sleep(0.1)
        assert len(busy) == 2 and run.poll() is None, run.communicate()[0]
        cluster.remove_node(cluster.worker_nodes and next(iter(cluster.worker_nodes)), allow_graceful=False)
        output = run.communicate(timeout=400)[0]
    assert run.returncode == 0, output
    assert recorded(tmp_path) == sorted((method, "success") for method in COMPARISON["methods"])
    assert re.search(r"\(seed 0\): its process or node was lost \(\w+\); taken up again from its checkpoint", output), output
    assert re.search(r"\(seed 0\)  goes on from \d+%", output) and "4 of 4 cells done" in output
    assert not list((tmp_path / "results").glob("work/*.token")) and not list((tmp_path / "results").glob("work/*/*/checkpoint*"))


def test_a_mistake_is_heard_and_the_other_cells_go_on(cluster: Any, tmp_path: Path) -> None:
    said: list[str] = []
    asked(tmp_path, methods=["student", "sft"], budget={"unit": "supervised_tokens", "amount": 300})
    order = Order(str(tmp_path / "packed.yaml"), str(tmp_path / "results"), str(tmp_path / "results" / "work" / "token"))
    board = Board(said.append, cells=2, budget=300)
    with pytest.raises(ZooError, match="method 'dpo' is not part of comparison 'packed'"):
        run_on_ray(order, [("dpo", 0), ("student", 0), ("sft", 0)], board, address=cluster.address, jobs=1)
    assert recorded(tmp_path) == [("sft", "success"), ("student", "success")] and said[-1].startswith("2 of 2 cells done")
    with pytest.raises(ZooError, match="this Ray cluster has no GPU"):
        run_on_ray(Order(order.comparison, order.results, order.token, device="cuda"), [("sft", 0)], board, address=cluster.address)


def test_a_process_that_used_a_gpu_takes_no_second_cell(cluster: Any) -> None:
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        ended = {}
        for device in ("cpu", "cuda"):
            task = _task(ray, device, lambda: os.getpid()).options(num_cpus=1)
            ended[device] = {ray.get(task.remote()) for _ in range(6)}
        assert len(ended["cuda"]) == 6 > len(ended["cpu"])
    finally:
        ray.shutdown()


def test_addresses_that_lead_nowhere_are_refused_with_the_remedy(tmp_path: Path) -> None:
    order = Order("quickstart", str(tmp_path), str(tmp_path / "work" / "token"))
    board = Board(lambda line: None, cells=1, budget=1)
    with pytest.raises(ZooError, match="run the command on a machine of the cluster"):
        run_on_ray(order, [("sft", 0)], board, address="ray://somewhere:10001")
    with pytest.raises(ZooError, match=r"no Ray cluster at --address auto .*start one with `ray start --head`, or give --address local"):
        run_on_ray(order, [("sft", 0)], board)
