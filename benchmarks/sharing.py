"""What it saves that workers of one GPU share a teacher: device memory, the time to have it, and whether they read the same.

python benchmarks/sharing.py MODEL_DIR [--processes 8] [--json FILE]

Each process makes its CUDA context before anything is measured; then each loads a copy of its own in bf16, or asks the keeper of
`zoo.harness.shared_teachers`, whose own context is among what is measured. Memory is the device's, by the driver.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from zoo.harness.forked import start_server
from zoo.harness.models import load_pair_spec, load_teachers
from zoo.harness.shared_teachers import Keeper, Sharing, borrowed


def hold(told: Mapping[str, str], folder: Path, line: Any) -> None:
    """In a process of its own: have the teacher, say how long that took and what it says to a few tokens, and keep it until told otherwise."""
    os.environ.update(told)
    torch.zeros(1, device="cuda")
    line.send("ready")
    line.recv()
    began = time.perf_counter()
    lent = borrowed(lambda reason: print(reason, flush=True))
    teacher = (lent or load_teachers(load_pair_spec("micro"), {"teacher": folder}, torch.device("cuda")))["teacher"]
    torch.cuda.synchronize()
    line.send({"seconds": time.perf_counter() - began, "lent": lent is not None, "own_bytes": torch.cuda.memory_allocated()})
    line.recv()
    with torch.no_grad():
        logits = teacher(torch.arange(10, 42, device="cuda")[None]).logits.float().cpu().numpy()
    line.send(hashlib.sha256(logits.tobytes()).hexdigest())
    line.recv()


def used() -> int:
    """Bytes of the device that are taken."""
    free, total = torch.cuda.mem_get_info()
    return total - free


def measured(folder: Path, count: int, sharing: Sharing | None) -> dict[str, Any]:
    """So many processes with the teacher, shared or not."""
    context: Any = start_server()
    before, workers = used(), []
    keeper = None if sharing is None else Keeper(sharing, "cuda", {}, range(1, count + 1))
    for _ in range(count):
        here, there = context.Pipe()
        process = context.Process(target=hold, args=(keeper.told if keeper else {}, folder, there))
        process.start()
        workers.append((process, here))

    def told(word: str) -> list[Any]:
        for _, here in workers:
            here.send(word)
        return [here.recv() for _, here in workers]

    for _, here in workers:
        here.recv()
    found = told("load")
    taken, digests = used() - before, told("compute")
    for process, here in workers:
        here.send("end")
        process.join()
    if keeper is not None:
        keeper.close()
    return {"shared": sharing is not None, "bytes": taken, "cells": found, "digests": digests}


def main() -> None:
    """Measure both ways and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    folder = given.model.resolve()
    sharing = Sharing(load_pair_spec("micro"), {"teacher": folder}, chosen="on")
    torch.zeros(1, device="cuda")
    rows = [measured(folder, given.processes, each) for each in (None, sharing)]
    for row in rows:
        seconds = [cell["seconds"] for cell in row["cells"]]
        print(f"{'one for all' if row['shared'] else 'a copy each'}: {row['bytes'] / 2**20:,.0f} MiB of the device, {min(seconds):.2f} to {max(seconds):.2f} s "
              f"to have it, lent to {sum(cell['lent'] for cell in row['cells'])} of {given.processes}")  # fmt: skip
    same = len({digest for row in rows for digest in row["digests"]}) == 1
    rule = Sharing(sharing.spec, sharing.paths).pays(given.processes, "cuda")
    print(
        f"{'the same' if same else 'OTHER'} logits everywhere; the teacher has {sharing.size / 2**20:,.0f} MiB; auto {'shares' if rule else 'does not share'}"
    )
    if given.json:
        told = {"model": folder.name, "device": torch.cuda.get_device_name(), "torch": torch.__version__, "teacher_bytes": sharing.size,
                "same_logits": same, "auto_shares": rule, "rows": rows}  # fmt: skip
        given.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
