"""A whole on-policy distillation step (rollout, teacher scoring, update): ours beside TRL's DistillationTrainer, in one run.

python benchmarks/vs_trl.py STUDENT_DIR TEACHER_DIR [--rollouts 256] [--new 256] [--steps 3] [--perturb 0.02] [--compile on] [--peer-vllm] [--json FILE]
python benchmarks/vs_trl.py --tiny            (random models on a CPU: does it run?)

Same models (student fp32 under bf16 autocast, teacher bf16), prompts, batch and token limit; reverse KL over the whole vocabulary, mean over all
tokens, temperature 1, AdamW, clip 1. First the loss of both on the same rollouts at the same weights, then steps: the first (compilation, capture,
allocation) is reported apart as `first_step_s`. Peak memory counts from an emptied device, all models included.
"""

from __future__ import annotations

import argparse
import copy
import gc
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from step_setup import make_tiny, peak_gib, read_pair, settle, trainer_for
from transformers import AutoTokenizer, TrainerCallback

from zoo.harness.lag import ITERATIONS
from zoo.harness.models import LoadedPair
from zoo.method import Method
from zoo.tensors import Rollout

LOSS = "loss.0.divergence"
FAR = 10**6


def ours(pair: LoadedPair, options: argparse.Namespace) -> tuple[dict[str, Any], Rollout]:
    """Figures of our steps, and the first rollouts, whose loss is `loss_same_rollouts`."""
    trainer = trainer_for(pair, options.rollouts, options.new, micro_tokens=options.micro_tokens, chunk_tokens=options.chunk_tokens, compile=options.compile)
    method = Method(trainer.entry)
    settle()
    began = time.perf_counter()
    streams = trainer.write(method)
    first = streams["main"].to("cpu")
    scored = trainer.judge(method, streams)
    lag = trainer.controls(method, scored)
    loss = trainer.step(method, scored)[LOSS]
    trainer.iteration = ITERATIONS  # from then on runs look at their mismatch no more
    settle()
    found: dict[str, Any] = {"first_step_s": time.perf_counter() - began, "loss_same_rollouts": loss, **lag}
    seconds, before, tokens = [], dict(trainer.phases.seconds), trainer.spent.generated_tokens
    for _ in range(options.steps):
        began = time.perf_counter()
        list(trainer.iterate())
        settle()
        seconds.append(time.perf_counter() - began)
        trainer.iteration += 1
    phases = {name: (trainer.phases.seconds[name] - before[name]) / options.steps for name in before}
    trainer.engine.release()
    written = (trainer.spent.generated_tokens - tokens) / options.steps
    return {**found, **_speed(seconds, written), "phases_s": phases, "peak_gib": peak_gib()}, first


def theirs(
    folder: Path, pair: LoadedPair, first: Rollout | None, options: argparse.Namespace, keep: Callable[[dict[str, Any]], None], **changes: Any
) -> dict[str, Any]:
    """Figures of TRL's steps with the same teacher and texts; `keep` is told them after each step. The first step alone is timed where there is no other."""
    trainer, written = make_trl(folder, pair, options, **changes)
    found: dict[str, Any] = {} if first is None else {"loss_same_rollouts": loss_of_trl(trainer, first, pair.pad_id, options.trl_batch)}

    def figures(ends: Sequence[float]) -> dict[str, Any]:
        seconds = [b - a for a, b in itertools.pairwise(ends)]
        timed = seconds[1:] or seconds
        return {
            **found,
            "first_step_s": seconds[0],
            "timed_steps": len(seconds) - 1,
            **_speed(timed, sum(written[-len(timed) :]) / len(timed)),
            "peak_gib": peak_gib(),
        }

    marks = Marks(lambda ends: keep(figures(ends)))
    trainer.add_callback(marks)
    marks.ends.append(time.perf_counter())
    trainer.train()
    return figures(marks.ends)


class Marks(TrainerCallback):
    """When each optimizer step was over; what is known then is kept, for a run that is cut off."""

    def __init__(self, keep: Callable[[Sequence[float]], None]) -> None:
        self.ends: list[float] = []
        self.keep = keep

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        settle()
        self.ends.append(time.perf_counter())
        self.keep(self.ends)


def make_trl(folder: Path, pair: LoadedPair, options: argparse.Namespace, **changes: Any) -> tuple[Any, list[int]]:
    """TRL's trainer on the same models and texts, and a list to which each rollout adds its number of tokens."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import DistillationConfig, DistillationTrainer

    written: list[int] = []

    class Counted(DistillationTrainer):  # type: ignore[misc]
        def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
            answers = super()._generate_single_turn(*args, **kwargs)
            written.append(sum(map(len, answers)))
            return answers

    on_gpu = torch.cuda.is_available()
    texts = [prompt.text for prompt in pair.task.prompts("train")]
    args = DistillationConfig(
        output_dir=tempfile.mkdtemp(), max_steps=options.trl_steps + 1, per_device_train_batch_size=options.trl_batch,
        gradient_accumulation_steps=options.rollouts // options.trl_batch, learning_rate=1e-6, lr_scheduler_type="constant", max_grad_norm=1.0,
        max_completion_length=options.new, temperature=1.0, top_p=1.0, top_k=0, beta=1.0, bf16=on_gpu, use_cpu=not on_gpu,
        gradient_checkpointing=options.trl_checkpointing, save_strategy="no", report_to=[], disable_tqdm=True, logging_steps=FAR, seed=0, **changes,
    )  # fmt: skip
    trainer = Counted(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        teacher_model=copy.deepcopy(pair.teachers["teacher"]),
        args=args,
        train_dataset=Dataset.from_dict({"prompt": texts}),
        processing_class=AutoTokenizer.from_pretrained(folder, padding_side="left", truncation_side="left"),
    )
    return trainer, written


def loss_of_trl(trainer: Any, rollout: Rollout, pad_id: int, batch: int) -> float:
    """TRL's loss on given rollouts, its own code throughout."""
    device, total = trainer.accelerator.device, 0.0
    trainer.model.train()
    for start in range(0, len(rollout), batch):
        part = rollout.rows(range(start, min(start + batch, len(rollout))))
        inputs = {**_padded(part.prompt_ids, pad_id), "completion_ids": part.response_BT, "completion_mask": part.mask_BT.long()}
        inputs = {name: value.to(device) for name, value in inputs.items()}
        inputs["num_items_in_batch"] = torch.tensor(float(rollout.tokens), device=device)
        with torch.no_grad(), trainer.compute_loss_context_manager():
            total += float(trainer.compute_loss(trainer.model, inputs))
    return total


def _padded(prompts: Sequence[Sequence[int]], pad_id: int) -> dict[str, torch.Tensor]:
    width = max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    return {"prompt_ids": ids, "prompt_mask": torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])}


def _speed(seconds: Sequence[float], tokens: float) -> dict[str, Any]:
    mean = sum(seconds) / len(seconds)
    return {"step_s": mean, "steps_s": list(seconds), "tokens_per_step": tokens, "tokens_per_s": tokens / mean}


def emptied() -> None:
    """A device without leftovers, compiled graphs among them, its peak counted anew."""
    torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("student", nargs="?", type=Path)
    parser.add_argument("teacher", nargs="?", type=Path)
    parser.add_argument("--tiny", action="store_true", help="random models on a CPU")
    parser.add_argument("--rollouts", type=int, default=256)
    parser.add_argument("--new", type=int, default=256)
    parser.add_argument("--steps", type=int, default=3, help="timed steps, after one that is not")
    parser.add_argument("--trl-steps", type=int, default=2, help="the same for TRL")
    parser.add_argument("--perturb", type=float, default=0.0, help="relative noise on the teacher's weights, where it is the student's own checkpoint")
    parser.add_argument("--micro-tokens", type=int, default=32768)
    parser.add_argument("--chunk-tokens", type=int, default=4096)
    parser.add_argument("--trl-batch", type=int, default=32, help="sequences a forward pass of TRL")
    parser.add_argument("--trl-checkpointing", action="store_true", help="TRL's default, slower and smaller")
    parser.add_argument("--trl-cache", help="TRL's cache_implementation, such as static")
    parser.add_argument("--peer-vllm", action="store_true", help="TRL with vLLM in the same process as well")
    parser.add_argument("--only", choices=("ours", "trl"))
    parser.add_argument("--compile", choices=("on", "off"), default="off", help="the setting; runs compile by themselves from 20 million tokens on")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not options.tiny and (options.student is None or options.teacher is None):
        parser.error("name the folders of the student and of the teacher, or --tiny")
    return options


def main() -> None:
    options = parsed()
    if options.tiny:
        options.student, options.teacher = make_tiny(Path(tempfile.mkdtemp()))
        options.rollouts, options.new, options.trl_batch = 16, 12, 8
    device = "cuda" if torch.cuda.is_available() and not options.tiny else "cpu"
    result: dict[str, Any] = {
        "student": options.student.name, "teacher": options.teacher.name, "rollouts": options.rollouts, "new_tokens": options.new,
        "perturb": options.perturb, "device": torch.cuda.get_device_name() if device == "cuda" else "cpu", "torch": torch.__version__,
        "transformers": version("transformers"), "trl_batch": options.trl_batch, "trl_checkpointing": options.trl_checkpointing,
        "micro_tokens": options.micro_tokens, "compiled": options.compile,
    }  # fmt: skip
    first: Rollout | None = None
    if options.only != "trl":
        emptied()
        pair = read_pair(options.student, options.teacher, options.rollouts, device, options.perturb)
        found, first = ours(pair, options)
        note(result, options, "ours", found)
        del pair
    peers: dict[str, dict[str, Any]] = {} if options.only == "ours" else {"trl": {"cache_implementation": options.trl_cache}}
    if peers:
        result["trl_version"] = version("trl")
        if options.peer_vllm:
            peers["trl_vllm"] = {"use_vllm": True, "vllm_mode": "colocate", "vllm_gpu_memory_utilization": 0.3, "vllm_max_model_length": 1024}
    for name, changes in peers.items():
        emptied()
        pair = read_pair(options.student, options.teacher, options.rollouts, device, options.perturb)
        pair.student = None
        pair.initial.clear()
        note(result, options, name, theirs(options.student, pair, first, options, partial(note, result, options, name), **changes))
        del pair


def note(result: dict[str, Any], options: argparse.Namespace, name: str, found: dict[str, Any]) -> None:
    """Print what one side has done so far, and write it with all that is known."""
    result[name] = found
    print(name, json.dumps(found), flush=True)
    if name != "ours" and "ours" in result:
        compare(result, name)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


def compare(result: dict[str, Any], peer: str) -> None:
    """Ratios of a peer's figures to ours, and the difference of the losses."""
    mine, other = result["ours"], result[peer]
    result[f"vs_{peer}"] = found = {
        "times_faster": other["step_s"] / mine["step_s"], "times_faster_per_token": mine["tokens_per_s"] / other["tokens_per_s"],
        "loss_difference": abs(mine["loss_same_rollouts"] - other["loss_same_rollouts"]),
        "peak_memory_ratio": mine["peak_gib"] / other["peak_gib"] if other["peak_gib"] else None,
    }  # fmt: skip
    print(f"vs_{peer}", json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
