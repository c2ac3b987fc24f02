"""Peak memory of an update with a divergence over the whole vocabulary, beside one with cross-entropy alone, at several chunk sizes.

python benchmarks/memory.py STUDENT_DIR TEACHER_DIR [--rollouts 64] [--new 256] [--chunks 256,1024,4096] [--perturb 0.02] [--json FILE]

Both updates on the same rollouts, models and micro-batches; `resident` is what lies on the device before the update (weights of both models, the
optimizer's moments, gradients not yet made), `peak` the most during it.
"""

from __future__ import annotations

import argparse
import gc
import json
from pathlib import Path
from typing import Any

import torch
from step_setup import read_pair, trainer_for

from zoo.entry import MethodEntry
from zoo.harness.scoring import bank_for
from zoo.method import Method

LIKELIHOOD = {"term": "likelihood", "reduce": "token_mean"}


def peak_of(trainer: Any, entry: MethodEntry, streams: Any, chunk_tokens: int, micro_tokens: int) -> dict[str, float]:
    """GiB before and at the peak of one update."""
    trainer.bank = bank_for(entry, trainer.pair, micro_tokens=micro_tokens, chunk_tokens=chunk_tokens)
    method = Method(entry)
    scored = trainer.judge(method, streams)
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    trainer.step(method, scored)
    return {"resident": before / 2**30, "peak": torch.cuda.max_memory_allocated() / 2**30, "tokens_per_chunk": trainer.bank.chunk_tokens}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("student", type=Path)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("--rollouts", type=int, default=64)
    parser.add_argument("--new", type=int, default=256)
    parser.add_argument("--chunks", default="256,1024,4096")
    parser.add_argument("--micro-tokens", type=int, default=8192)
    parser.add_argument("--perturb", type=float, default=0.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    pair = read_pair(options.student, options.teacher, options.rollouts, "cuda", options.perturb)
    trainer = trainer_for(pair, options.rollouts, options.new, micro_tokens=options.micro_tokens)
    divergence = trainer.entry
    likelihood = divergence.model_copy(update={"objective": MethodEntry.model_validate({
        "id": "likelihood", "name": "likelihood", "paper": {}, "evidence": {"level": "inferred", "source": "a benchmark"}, "fixed_point": "none",
        "anchor": "trained", "rollouts": {"main": {"author": "student"}}, "objective": (LIKELIHOOD,)}).objective, "teachers": {}})  # fmt: skip
    streams = trainer.write(Method(divergence))
    trainer.engine.release()
    found: dict[str, Any] = {"student": options.student.name, "vocabulary": pair.vocab_size, "tokens": streams["main"].tokens}
    peak_of(trainer, divergence, streams, 256, options.micro_tokens)  # the optimizer's moments are made here
    for chunk in map(int, options.chunks.split(",")):
        for name, entry in (("divergence", divergence), ("cross_entropy", likelihood)):
            found[f"{name}.{chunk}"] = peak_of(trainer, entry, streams, chunk, options.micro_tokens)
        found[f"ratio.{chunk}"] = found[f"divergence.{chunk}"]["peak"] / found[f"cross_entropy.{chunk}"]["peak"]
        print(chunk, json.dumps({k: v for k, v in found.items() if k.endswith(f".{chunk}")}), flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
