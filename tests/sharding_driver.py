"""One of the processes over which models are sharded.

Arguments: the pair's YAML file, a folder, the device, and methods. Each method is trained; the main process writes its step rows and its final weights. A
checkpoint of an unsharded run, if the folder holds one, is gone on from, and one of a sharded run is left there. Then a comparison is run.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import harness_kit as kit
import torch
from safetensors.torch import save_file

from zoo.harness import run
from zoo.harness.checkpoint import restore, save
from zoo.harness.models import LoadedPair
from zoo.harness.parallel import Processes, is_split, start_processes
from zoo.harness.plan import Place
from zoo.harness.sharding import gathered, is_sharded, shard, whole

CUT, AGAIN = "sft", "cut"  # the method of the checkpoints, and the name of what goes on from one
RECOMPUTED = ("gkd", "own")


def methods() -> dict[str, Any]:
    """A teacher beside the student, the student's own past and present as teachers, given text, rewards of groups, several steps on one batch."""
    hint = {"fields": ["solution"], "template": "solution"}
    past = {"before": {"kind": "student", "weights": "initial"}, "now": {"kind": "student", "weights": "live", "context": hint}}
    own = kit.made("own", rollout={"author": "student", "reuse": {"epochs": 2}}, teachers=past, objective=[
        {**kit.REVERSE_KL, "teacher": "before"}, {**kit.REVERSE_KL, "teacher": "now", "coefficient": 0.5}])  # fmt: skip
    return {"gkd": kit.shipped("gkd"), "own": own, "sft": kit.shipped("sft"), "grpo": kit.shipped("grpo")}


def sharded(pair: LoadedPair, processes: Processes) -> LoadedPair:
    """A pair in memory, split."""
    for model in (pair.student, *pair.teachers.values()):
        shard(model, processes)
    return replace(pair, initial={k: v.detach().clone() for k, v in pair.student.state_dict().items()}, split=processes)


def train(pair: LoadedPair, processes: Processes, folder: Path, names: list[str], device: str = "cpu") -> tuple[dict[str, Any], dict[str, Any]]:
    """Rows and weights of every method; behind them those of a run that goes on from another's checkpoint."""
    told, tensors = {}, {}
    for name in [*names, AGAIN]:
        # Of a model that is split, what a layer keeps is computed again as well, which must change nothing.
        settings = {"rollouts_per_step": 32, "budget": {"amount": 1200}, "activation_checkpointing": is_sharded(pair.student) and name in RECOMPUTED}
        trainer = kit.trainer_of(methods()[CUT if name == AGAIN else name], pair, processes, **settings)
        if name == AGAIN:
            restore(trainer, folder / "unsharded")
            assert not (folder / "unsharded").exists() or trainer.rows

        def halfway(trainer: Any = trainer, name: str = name) -> None:
            if name == CUT and trainer.iteration == 2 and (processes.main or is_sharded(pair.student)):
                save(trainer, folder / ("sharded" if is_sharded(pair.student) else "unsharded"))

        trainer.train(lambda row: None, halfway)
        told[name] = trainer.rows
        tensors |= {f"{name}.{key}": value.clone().cpu() for key, value in gathered({k: v.detach() for k, v in pair.student.named_parameters()}, True).items()}
    return told, tensors


def main(pair_file: Path, folder: Path, device: str, names: list[str]) -> None:
    processes = start_processes(device)
    exact = torch.float64 if device == "cpu" else torch.float32  # in float64 rounding does not grow under Adam
    pair = sharded(kit.read_pair(pair_file, exact), processes)
    for model in (pair.student, *pair.teachers.values()):
        layers = list(model.base_model.layers.parameters())
        held = sum(p.to_local().numel() for p in layers)
        assert all(map(is_split, layers)) and processes.total_int(held) == sum(p.numel() for p in layers) and held < 0.6 * sum(p.numel() for p in layers)
    told, tensors = train(pair, processes, folder, names, device)
    if processes.main:
        (folder / "steps.json").write_text(json.dumps(told))
        save_file(tensors, folder / "weights.safetensors")
    run.load_pair = lambda *_, **__: pair  # type: ignore[assignment]
    run.evaluate = kit.stub_evaluation  # type: ignore[assignment]
    entries = kit.registry(kit.shipped("gkd"), kit.shipped("student"), kit.shipped("teacher"))
    declared = kit.comparison(pair_file, methods=("gkd", "student", "teacher"), budget={"amount": 200}, sharding="fsdp2")
    run.run_comparison(declared, entries, Place(folder), device=device)
    last = {name: whole(value.detach()) for name, value in pair.student.named_parameters()}
    if processes.main:
        (folder / "student.digest").write_text(kit.digest({name: value.cpu() for name, value in last.items()}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4:])
