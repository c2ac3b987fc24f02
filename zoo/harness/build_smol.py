"""Tune the teachers of the pair `smol`: low-rank modules on the student's own weights, trained on gold answers; `zoo pairs build smol` calls `build`.

One teacher learns both domains of `chores`, two specialists one each. A minute or two on a GPU, an hour or two on a CPU.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from zoo.harness.adapters import merged
from zoo.harness.build_micro import Example, Report, summed_loss
from zoo.harness.models import LoadedPair
from zoo.harness.shadow import decoding_copy
from zoo.harness.tuning import examples_of, save_modules, with_modules
from zoo.harness.writers import Decoder
from zoo.tasks import chores
from zoo.tensors import Prompt

LISTS = ("sums", "lists", "longer_sums", "longer_lists", "facts")
MAX_NEW_TOKENS = 96


@dataclass(frozen=True)
class Recipe:
    """How one teacher is tuned: warm-up over 20 steps, then a cosine to zero."""

    domains: tuple[str, ...]
    rank: int
    steps: int
    batch: int = 32
    learning_rate: float = 2e-3
    targets: tuple[str, ...] = ("q_proj", "v_proj")


RECIPES = {
    "teacher": Recipe(("sums", "lists"), rank=8, steps=500),
    "sums": Recipe(("sums",), rank=4, steps=350),
    "lists": Recipe(("lists",), rank=4, steps=250),
}


def build(out: Path, seed: int, pair: LoadedPair, progress: Report = print) -> dict[str, Any]:
    """Tune the teachers on a loaded student, save their modules under `out/<name>` in bf16, and write and return `out/build.json` with what each
    scores greedily, and the untuned student beside them. `pair.student` is left with the last teacher's modules."""
    packages = {name: version(name) for name in ("torch", "transformers", "peft")}
    report: dict[str, Any] = {"seed": seed, "packages": packages, "student": {"accuracy": measure(pair.student, pair)}}
    progress(f"student: {report['student']['accuracy']}")
    for name, recipe in RECIPES.items():
        began = time.perf_counter()
        loss = _tune(out / name, recipe, pair, seed, lambda line, name=name: progress(f"{name}: {line}"))  # type: ignore[misc]
        report[name] = {"seconds": round(time.perf_counter() - began), "loss": round(loss, 4), "accuracy": _measure_saved(out / name, pair)}
        report[name]["recipe"] = asdict(recipe)
        progress(f"{name}: saved, {report[name]['accuracy']}")
    (out / "build.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def _tune(folder: Path, recipe: Recipe, pair: LoadedPair, seed: int, report: Report) -> float:
    model, modules = with_modules(pair.student, recipe.rank, recipe.targets, "smol", folder.name, seed)
    optimizer = torch.optim.AdamW(modules, lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    examples, loss = _examples(pair, recipe.domains, seed), math.nan
    for step in range(1, recipe.steps + 1):
        rate = recipe.learning_rate * min(1.0, step / 20) * (0.5 + 0.5 * math.cos(math.pi * step / recipe.steps))
        loss = _update(model, modules, optimizer, [next(examples) for _ in range(recipe.batch)], rate)
        if step % 50 == 0:
            report(f"step {step}, loss {loss:.4f}")
    save_modules(model, modules, folder, str(pair.spec.student.hub))
    model.unload()
    return loss


def _examples(pair: LoadedPair, domains: Sequence[str], seed: int) -> Iterator[Example]:
    """Prompt and gold answer of training prompts of some domains, in a seeded order, without end."""
    prompts = [prompt for prompt in pair.task.prompts("train") if prompt.fields["domain"] in domains]

    def example(prompt: Prompt) -> Example:
        return pair.format_prompt(prompt), [*pair.tokenizer.encode(prompt.fields["solution"], add_special_tokens=False), pair.stop_ids[0]]

    return examples_of(prompts, example, "smol", "examples", seed)


def _update(model: Any, modules: Sequence[torch.nn.Parameter], optimizer: torch.optim.Optimizer, batch: Sequence[Example], rate: float) -> float:
    cuda = next(model.parameters()).is_cuda
    with torch.autocast("cuda", dtype=torch.bfloat16) if cuda else nullcontext():
        loss = summed_loss(model, batch) / sum(len(answer) for _, answer in batch)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(modules, 1.0)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    return float(loss.detach())


def _measure_saved(folder: Path, pair: LoadedPair) -> dict[str, float]:
    """What the student with the saved modules scores; its own weights are put back."""
    score = measure(merged(pair.reset_student(), folder, f"smol: {folder.name}"), pair)
    pair.reset_student()
    return score


def measure(model: Any, pair: LoadedPair) -> dict[str, float]:
    """Share of greedy answers that are right on each test list."""
    written = decoding_copy(model, torch.bfloat16) if model.device.type == "cuda" else model
    decoder = Decoder(written, pad_id=pair.pad_id, stop_ids=pair.stop_ids, vocab_size=pair.vocab_size)
    scores = {name: _share(decoder, pair, chores.held_out(name)) for name in LISTS}
    decoder.writers.release()
    return scores


def _share(decoder: Decoder, pair: LoadedPair, prompts: Sequence[Prompt]) -> float:
    answers = decoder.generate([pair.format_prompt(prompt) for prompt in prompts], max_new_tokens=MAX_NEW_TOKENS)
    return round(sum(pair.task.verify("answer", pair.decode(a.ids), p) for a, p in zip(answers, prompts, strict=True)) / len(prompts), 4)
