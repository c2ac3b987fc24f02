"""What a step must cost at least: bytes and FLOPs of rollout, scoring and update against measured ceilings of a device.

python benchmarks/roofline.py ceilings [--json FILE]                                    (on the device: memory bandwidth, bf16 product)
python benchmarks/roofline.py bound RECORD.json STUDENT_DIR TEACHER_DIR [--ceilings FILE] [--prompt-tokens 50]
python benchmarks/roofline.py plan [--ceilings FILE] [--write docs/scaling.md]

RECORD.json is what benchmarks/phases.py or vs_trl.py wrote, or a run's run.json. Each piece of work takes at least max(FLOPs / peak, bytes / bandwidth);
pieces follow one another. Weights are read once a decode step; keys and values of the whole context once a token; logits are written and read once,
their gradient too, in fp32; AdamW reads and writes weights, moments and gradients once. Activations are taken to stay on the chip, so a bound is
below what any program reaches.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

H100 = {"device": "NVIDIA H100 80GB HBM3", "bytes_per_s": 3.0e12, "flops_per_s": 7.0e14}  # where nothing was measured
NARROW, WIDE = 2, 4  # bytes of bf16 and fp32
BEGIN, END = "<!-- computed: python benchmarks/roofline.py plan --write docs/scaling.md -->", "<!-- end of what is computed -->"


@dataclass(frozen=True)
class Size:
    """A decoder-only model: what its configuration says about its matrices."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head: int
    inner: int
    vocabulary: int
    tied: bool = True

    @classmethod
    def read(cls, folder: Path) -> Size:
        """From a checkpoint's config.json."""
        config = json.loads((folder / "config.json").read_text())
        heads = config["num_attention_heads"]
        return cls(
            config["num_hidden_layers"], config["hidden_size"], heads, config.get("num_key_value_heads", heads),
            config.get("head_dim") or config["hidden_size"] // heads, config["intermediate_size"], config["vocab_size"],
            config.get("tie_word_embeddings", False),
        )  # fmt: skip

    @property
    def body(self) -> int:
        """Parameters of all layers' matrices."""
        attention = self.hidden * self.head * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.inner)

    @property
    def outer(self) -> int:
        """Parameters of the head."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All of them, the embedding once where it is tied."""
        return self.body + self.outer * (1 if self.tied else 2)

    def attention_flops(self, tokens: float, context: float) -> float:
        """Scores and sums of `tokens` queries over `context` positions each."""
        return 4.0 * tokens * context * self.layers * self.heads * self.head

    def cache_bytes(self, positions: float) -> float:
        """Keys and values of so many positions."""
        return 2.0 * positions * self.layers * self.kv_heads * self.head * NARROW


@dataclass(frozen=True)
class Batch:
    """One step: sequences, mean tokens of a prompt and of an answer, and how many tokens the longest answer has."""

    sequences: float
    prompt: float
    answer: float
    longest: float

    @property
    def written(self) -> float:
        """Answer tokens."""
        return self.sequences * self.answer

    @property
    def read(self) -> float:
        """Prompt and answer tokens."""
        return self.sequences * (self.prompt + self.answer)


@dataclass(frozen=True)
class Work:
    """A piece of work that follows another."""

    name: str
    flops: float
    moved: float  # bytes

    def seconds(self, ceilings: Mapping[str, Any]) -> float:
        """The least it can take."""
        return max(self.flops / ceilings["flops_per_s"], self.moved / ceilings["bytes_per_s"])


def rollout(student: Size, batch: Batch) -> list[Work]:
    """Prefill, and as many decode steps as the longest answer has tokens."""
    positions = batch.written * (batch.prompt + batch.answer / 2)
    prompts = batch.sequences * batch.prompt
    return [
        Work("prefill", 2 * student.body * prompts + student.attention_flops(prompts, batch.prompt / 2), student.body * NARROW),
        Work("decode: weights", 2 * (student.body + student.outer) * batch.written, batch.longest * (student.body + student.outer) * NARROW),
        Work("decode: cache", student.attention_flops(batch.written, batch.prompt + batch.answer / 2), student.cache_bytes(positions)),
        Work("decode: logits", 0.0, 2 * batch.written * student.vocabulary * WIDE),
    ]


def backbone(size: Size, batch: Batch, passes: float) -> float:
    """FLOPs of a backbone over the whole texts; a backward pass counts as two."""
    return passes * (2 * size.body * batch.read + size.attention_flops(batch.read, (batch.prompt + batch.answer) / 2))


def scoring(teacher: Size, batch: Batch) -> list[Work]:
    """The teacher's states; its head belongs to the update, where its logits are used."""
    return [Work("teacher", backbone(teacher, batch, 1), teacher.body * NARROW)]


def update(student: Size, teacher: Size, batch: Batch, recomputed: bool = False) -> list[Work]:
    """Forward and backward of the student, both heads, the divergence, the optimizer and the copy that decodes. `recomputed` with activation
    checkpointing, one forward pass more."""
    passes = 4 if recomputed else 3
    logits = batch.written * student.vocabulary * WIDE
    heads = 2 * batch.written * (3 * student.outer + teacher.outer)
    return [
        Work("student", backbone(student, batch, passes), passes * student.body * NARROW),
        Work("heads and divergence", heads, 6 * logits),
        Work("optimizer", 0.0, student.parameters * (7 * WIDE + NARROW)),
    ]


def bounds(student: Size, teacher: Size, batch: Batch) -> dict[str, list[Work]]:
    """All work of a step by phase."""
    return {"rollout": rollout(student, batch), "score": scoring(teacher, batch), "update": update(student, teacher, batch)}


def measured(record: Mapping[str, Any], prompt: float) -> tuple[dict[str, float], Batch]:
    """Seconds a step by phase, and the batch, of any of the records that this reads."""
    if record.get("kind") == "run":
        spent, steps = record["budget"]["spent"], record["budget"]["spent"]["steps"]
        settings = record["asked"]["settings"]
        seconds = {name: record["phases"][name]["seconds"] / steps for name in ("rollout", "score", "update")}
        sequences = spent["rollouts"] / steps
        return seconds, Batch(sequences, prompt, spent["generated_tokens"] / max(spent["rollouts"], 1), settings["max_new_tokens"])
    if "ours" in record:
        own = record["ours"]
        seconds = {name: own["phases_s"][name] for name in ("rollout", "score", "update")}
        return seconds, Batch(record["rollouts"], prompt, own["tokens_per_step"] / record["rollouts"], record["new_tokens"])
    parts = record["phases_s"]
    seconds = {"rollout": parts["decode"] + parts["rollout, host"], "score": parts["teacher"]}
    seconds["update"] = sum(parts.values()) - seconds["rollout"] - seconds["score"]
    return seconds, Batch(record["rollouts"], prompt, record["generated_tokens"] / record["rollouts"], record["new_tokens"])


def report(seconds: Mapping[str, float], works: Mapping[str, Sequence[Work]], ceilings: Mapping[str, Any]) -> list[str]:
    """One line a phase and one for the step."""
    lines, whole = [], 0.0
    for phase, parts in works.items():
        least = {part.name: part.seconds(ceilings) for part in parts}
        whole += sum(least.values())
        detail = ", ".join(f"{name} {1000 * value:.1f}" for name, value in least.items())
        share = 100 * sum(least.values()) / seconds[phase] if seconds[phase] else float("nan")
        lines.append(f"{phase:8s} {seconds[phase]:7.3f} s a step, {share:3.0f} % of the bound ({1000 * sum(least.values()):.1f} ms: {detail})")
    total = sum(seconds[phase] for phase in works)
    return [*lines, f"{'step':8s} {total:7.3f} s, {100 * whole / total:3.0f} % of the bound ({1000 * whole:.1f} ms)"]


def ceilings_here() -> dict[str, Any]:
    """The device's memory bandwidth (a copy of 2 GiB, read and written) and its bf16 matrix product (8192 cubed), the best of several."""
    import torch

    def best(call: Any, repeats: int = 10) -> float:
        call()
        found = float("inf")
        for _ in range(repeats):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            end.record()
            torch.cuda.synchronize()
            found = min(found, begin.elapsed_time(end) / 1000)
        return found

    source = torch.empty(1 << 31, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    left, right = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return {
        "device": torch.cuda.get_device_name(),
        "bytes_per_s": 2 * source.numel() / best(lambda: target.copy_(source)),
        "flops_per_s": 2 * 8192**3 / best(lambda: left @ right),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ways = parser.add_subparsers(dest="way", required=True)
    here = ways.add_parser("ceilings")
    here.add_argument("--json", type=Path)
    bound = ways.add_parser("bound")
    for name in ("record", "student", "teacher"):
        bound.add_argument(name, type=Path)
    bound.add_argument("--prompt-tokens", type=float, default=50)
    bound.add_argument("--ceilings", type=Path)
    plan = ways.add_parser("plan")
    plan.add_argument("--ceilings", type=Path)
    plan.add_argument("--write", type=Path)
    options = parser.parse_args()
    if options.way == "ceilings":
        found = ceilings_here()
        print(json.dumps(found, indent=1))
        if options.json:
            options.json.write_text(json.dumps(found, indent=1))
        return
    ceilings = json.loads(options.ceilings.read_text()) if options.ceilings else H100
    if options.way == "bound":
        seconds, batch = measured(json.loads(options.record.read_text()), options.prompt_tokens)
        works = bounds(Size.read(options.student), Size.read(options.teacher), batch)
        print("\n".join(report(seconds, works, ceilings)))
        return
    from scaling_plan import tables

    text = tables(ceilings)
    if options.write is None:
        print(text)
        return
    page = options.write.read_text()
    before, rest = page.split(BEGIN)
    options.write.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
