"""Tune the models of the pair `micro-two`: low-rank modules on the micro student's own weights; `zoo pairs build micro-two` calls `build`.

The student learns a little of both domains, the teacher all of both, and two specialists one each, losing the other on the way. About ten minutes
of one core.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from zoo.errors import ZooError
from zoo.harness.adapters import merged
from zoo.harness.build_micro import Example, Report, accuracy, one_thread, update
from zoo.harness.tuning import examples_of, save_modules, with_modules
from zoo.paths import shipped_model
from zoo.tasks import micro, micro_two
from zoo.tensors import Prompt

BASE = ("micro", "student")
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Recipe:
    """How one model is tuned: warm-up over 20 steps, then a cosine to zero; with a `band` a constant rate, until the valid prompts' accuracy on
    both domains first lies in it (`steps` is then the most allowed)."""

    domains: tuple[str, ...]
    rank: int
    steps: int
    batch: int = 64
    learning_rate: float = 4e-3
    band: tuple[float, float] | None = None
    evaluate_every: int = 10


RECIPES = {
    "student": Recipe(micro_two.DOMAINS, rank=8, steps=600, learning_rate=2e-3, band=(0.3, 0.7)),
    "teacher": Recipe(micro_two.DOMAINS, rank=16, steps=600),
    "add": Recipe(("add",), rank=8, steps=300),
    "times": Recipe(("times",), rank=16, steps=250),
}


def build(out: Path, seed: int = 0, progress: Report = print) -> dict[str, Any]:
    """Tune all four, save their modules under `out/<name>` in bf16, and write and return `out/build.json` with what each answers rightly.

    Raises:
        ZooError: peft is not installed, or the micro pair's student is missing.
    """
    packages = {name: version(name) for name in ("torch", "transformers", "safetensors")}
    report: dict[str, Any] = {"seed": seed, "packages": packages, "base": "/".join(BASE)}
    with one_thread():
        for name, recipe in RECIPES.items():
            began = time.perf_counter()
            loss = _tune(out / name, recipe, seed, lambda line, name=name: progress(f"{name}: {line}"))  # type: ignore[misc]
            seconds = round(time.perf_counter() - began)
            report[name] = {"seconds": seconds, "loss": round(loss, 4), "accuracy": measure(out / name), "recipe": asdict(recipe)}
            progress(f"{name}: saved after {seconds} s; accuracy {report[name]['accuracy']}")
    (out / "build.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def _base() -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = shipped_model(BASE[0], BASE[1])
    if not (folder / "config.json").is_file():
        raise ZooError(f"the pair micro-two starts from the micro student, which is missing at {folder}; run `zoo pairs build micro`")
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)


def _tune(folder: Path, recipe: Recipe, seed: int, report: Report) -> float:
    base, tokenizer = _base()
    model, modules = with_modules(base, recipe.rank, TARGETS, "micro-two", folder.name, seed)
    optimizer = torch.optim.AdamW(modules, betas=(0.9, 0.98), weight_decay=0.01)
    examples, loss = _examples(tokenizer, recipe.domains, seed), math.nan
    for step in range(1, recipe.steps + 1):
        decay = 1.0 if recipe.band else 0.5 + 0.5 * math.cos(math.pi * step / recipe.steps)
        loss = update(model, optimizer, [next(examples) for _ in range(recipe.batch)], recipe.learning_rate * min(1.0, step / 20) * decay)
        if step % 50 == 0:
            report(f"step {step}, loss {loss:.3f}")
        if recipe.band and step % recipe.evaluate_every == 0 and _within(recipe.band, model, tokenizer, report):
            break
    else:
        if recipe.band:
            raise ZooError(f"micro-two {folder.name}: no evaluation within {recipe.band} by step {recipe.steps}; build again with another seed")
    save_modules(model, modules, folder, "/".join(BASE))
    return loss


def _within(band: tuple[float, float], model: Any, tokenizer: Any, report: Report) -> bool:
    """Whether the valid prompts' accuracy lies within the band on both domains."""
    valid = micro_two.MicroTwoTask().prompts("valid")
    shares = [accuracy(model, tokenizer, micro_two.mixed(valid, domain)) for domain in micro_two.DOMAINS]
    report("accuracy on valid " + ", ".join(f"{domain} {share:.3f}" for domain, share in zip(micro_two.DOMAINS, shares, strict=True)))
    return all(band[0] <= share <= band[1] for share in shares)


def _examples(tokenizer: Any, domains: Sequence[str], seed: int) -> Iterator[Example]:
    """Prompt and gold answer of training prompts of some domains, in a seeded order, without end."""
    prompts = [prompt for prompt in micro_two.MicroTwoTask().prompts("train") if prompt.fields["domain"] in domains]

    def example(prompt: Prompt) -> Example:
        return tokenizer.encode(prompt.text), [*tokenizer.encode(prompt.fields["solution"]), tokenizer.eos_token_id]

    return examples_of(prompts, example, "micro-two", "examples", seed)


def write_items(folder: Path) -> None:
    """Write the test list of products to `micro_times.jsonl` for the evaluation suite."""
    rows = [{"id": p.id, "prompt": p.text, **{key: p.fields[key] for key in ("solution", "answer")}} for p in micro_two.held_out_times()]
    (folder / "micro_times.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def measure(folder: Path) -> dict[str, float]:
    """Greedy exact-match accuracy on the test lists of both domains and of copying, of the base with the modules of a folder."""
    base, tokenizer = _base()
    model = merged(base, folder, f"micro-two: {folder.name}")
    lists = {"add": micro.held_out("add"), "times": micro_two.held_out_times(), "copy": micro.held_out("copy")}
    return {name: round(accuracy(model, tokenizer, prompts), 4) for name, prompts in lists.items()}
