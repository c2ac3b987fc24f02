"""One of the processes under `accelerate launch`, or a process alone.

Arguments: the pair's YAML file, an output folder, the step at which the second process shall fail (0: never), and methods. Each method
is trained; the main process writes its step rows, what it spent, and its final weights. Then a comparison is run.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import harness_kit as kit
import torch
from safetensors.torch import save_file

from zoo.errors import ZooError
from zoo.harness import run
from zoo.harness.parallel import start_processes
from zoo.harness.plan import Place
from zoo.harness.train import Trainer


def train(pair_file: Path, out: Path, *methods: str) -> None:
    """Train each method and write what came of it."""
    processes = start_processes("cpu")
    pair, told, tensors = kit.read_pair(pair_file), {}, {}
    for method in methods:
        entry, settings = kit.shared_entries()[method]
        trainer = kit.trainer_of(entry, pair, processes, **settings)
        trainer.train(lambda row: None, lambda: None)
        spent = {k: v for k, v in asdict(trainer.spent).items() if k != "seconds"}
        told[method] = {"rows": trainer.rows, "spent": spent, "processes": processes.count}
        tensors |= {f"{method}.{name}": value for name, value in kit.weights(pair.student).items()}
        digests: list[Any] = [None] * processes.count
        if processes.count > 1:
            torch.distributed.all_gather_object(digests, kit.digest(kit.weights(pair.student)))
            assert len(set(digests)) == 1, f"{method}: the processes' students differ"
    if processes.main:
        (out / "steps.json").write_text(json.dumps(told))
        save_file(tensors, out / "weights.safetensors")


def compare(pair_file: Path, results: Path, fatal: int) -> None:
    """Run a comparison of which one method diverges and one perhaps fails."""
    pair, step = kit.read_pair(pair_file), Trainer.step

    def failing(self: Trainer, *arguments: Any) -> Any:
        if self.processes.rank == 1 and self.entry.id == "gkd" and self.spent.steps == fatal > 0:
            raise RuntimeError("the second process broke")
        return step(self, *arguments)

    Trainer.step = failing  # type: ignore[method-assign]
    run.load_pair = lambda *_, **__: pair  # type: ignore[assignment]
    run.evaluate = kit.stub_evaluation  # type: ignore[assignment]
    wild = kit.made("wild", rollout={"author": "student"}, **kit.TEACHER, objective=[{**kit.LOG_RATIO, "coefficient": 1e38}])
    entries = kit.registry(kit.shipped("gkd"), kit.shipped("student"), wild)
    declared = kit.comparison(pair_file, methods=("wild", "gkd", "student"), budget={"amount": 200})
    run.run_comparison(declared, entries, Place(results), device="cpu")


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        train(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[4:])
        compare(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
    except ZooError as problem:
        print(f"ZooError: {problem}", flush=True)
        sys.exit(1)
