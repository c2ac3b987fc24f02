"""1,000 cells of 7B students on 64 GPUs, on paper: the tables of docs/scaling.md, from the cost model of roofline.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from roofline import NARROW, WIDE, Batch, Size, Work, bounds, update

STUDENT = Size(28, 3584, 28, 4, 128, 18944, 152064, tied=False)  # Qwen2.5-7B
TEACHER = Size(64, 5120, 40, 8, 128, 27648, 152064, tied=False)  # Qwen2.5-32B
CELLS, GPUS, STEPS = 1000, 64, 200
BATCH = Batch(sequences=256, prompt=200, answer=600, longest=1024)
SHARD = 8  # GPUs of one NVLink island that hold a student in training
NVLINK = 3.0e11  # bytes a second of all-gather and reduce-scatter that each GPU sees
EFFICIENCY = {"rollout": 0.25, "score": 0.40, "update": 0.40}  # of the bound; what a large model can be expected to reach
GIB, HOUR = 2**30, 3600.0


def split_batch() -> Batch:
    """What one GPU of a group has of the batch."""
    return Batch(BATCH.sequences / SHARD, BATCH.prompt, BATCH.answer, BATCH.longest)


def exchange_s(micro_batches: int = 2) -> float:
    """A step's exchanges inside a group, as `zoo.harness.sharding` makes them: weights gathered in fp32 twice a micro-batch (the backward gathers
    again), gradients scattered in fp32 after each, weights gathered once for the decoder; the teacher's gathered in bf16 once a micro-batch."""
    layers = (3 * micro_batches + 1) * STUDENT.body * WIDE + micro_batches * TEACHER.body * NARROW
    outer = 2 * (STUDENT.parameters - STUDENT.body) * WIDE  # embedding and head are whole everywhere: their gradients are added up once
    return (SHARD - 1) / SHARD * (layers + outer) / NVLINK


def step_seconds(ceilings: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """By phase: the bound and what is expected, on one GPU of the group."""
    works: dict[str, list[Work]] = bounds(STUDENT, TEACHER, split_batch())
    works["update"] = update(STUDENT, TEACHER, split_batch(), recomputed=True)
    works["update"] = [part if part.name != "optimizer" else Work(part.name, 0.0, part.moved / SHARD) for part in works["update"]]
    found = {phase: sum(part.seconds(ceilings) for part in parts) for phase, parts in works.items()}
    rows = {phase: (least, least / EFFICIENCY[phase]) for phase, least in found.items()}
    return {**rows, "exchange": (exchange_s(), exchange_s() / 0.8)}


def memory() -> list[tuple[str, float]]:
    """GiB on each GPU of a group at the update's peak."""
    whole = {size: size.parameters - size.body for size in (STUDENT, TEACHER)}  # embedding and head
    held = {size: size.body / SHARD + whole[size] for size in (STUDENT, TEACHER)}
    cache = STUDENT.cache_bytes(split_batch().sequences * (BATCH.prompt + BATCH.longest))
    return [
        ("weights, gradient and two moments in fp32: its part of the layers, embedding and head whole", 4 * held[STUDENT] * WIDE / GIB),
        ("the student's bf16 copy that decodes, whole", STUDENT.parameters * NARROW / GIB),
        ("the teacher's bf16 weights: its part of the layers, embedding and head whole", held[TEACHER] * NARROW / GIB),
        (f"keys and values of {split_batch().sequences:.0f} sequences (freed before the update)", cache / GIB),
        ("activations of a micro-batch of 16,384 tokens, checkpointed: one fp32 state a layer", 16384 * STUDENT.hidden * STUDENT.layers * WIDE / GIB),
        ("ten (tokens, vocabulary) chunks of 256 MiB", 2.5),
    ]


def table(head: str, rows: list[tuple[str, ...]]) -> str:
    """Markdown."""
    names = head.split("|")
    lines = [head, "|".join("---" if i == 0 else "---:" for i in range(len(names))), *("|".join(row) for row in rows)]
    return "\n".join(f"|{line}|" for line in lines)


def tables(ceilings: Mapping[str, Any]) -> str:
    """The page's tables."""
    phases = step_seconds(ceilings)
    expected = sum(value for _, value in phases.values())
    groups = GPUS // SHARD
    cell_h = expected * STEPS / HOUR
    times = [(name, f"{least:.2f}", f"{value:.2f}", f"{100 * value / expected:.0f} %") for name, (least, value) in phases.items()]
    times.append(("step", f"{sum(least for least, _ in phases.values()):.2f}", f"{expected:.2f}", "100 %"))
    rounds = -(-CELLS // groups)
    tokens = BATCH.written * STEPS
    held = memory()
    full = [*held[:3], *held[4:]]
    checkpoint, kept = 3 * STUDENT.parameters * WIDE / GIB, STUDENT.parameters * NARROW / GIB
    facts = [
        ("supervised tokens a cell", f"{tokens / 1e6:.1f} million"),
        ("one cell", f"{cell_h:.1f} hours on {SHARD} GPUs, {cell_h * SHARD:.1f} GPU-hours"),
        ("all cells", f"{rounds} rounds of {groups} at once: {rounds * cell_h / 24:.1f} days, {CELLS * cell_h * SHARD:,.0f} GPU-hours"),
        ("teacher's weights read from disk", f"{TEACHER.parameters * NARROW / GIB:.0f} GiB a group and life of the process, not a cell"),
        ("checkpoint of a cell (weights, moments; fp32)", f"{checkpoint:.0f} GiB; {groups} at once {groups * checkpoint / 1024:.1f} TiB; deleted at the end"),
        ("final students kept in bf16", f"{kept:.0f} GiB each, {CELLS * kept / 1024:.1f} TiB for all: keep those of the tables"),
        ("records (run, evaluation, failures, curve)", f"{CELLS * 20 / 1024:.0f} MiB at 20 KiB a cell"),
    ]  # fmt: skip
    parts = [
        f"Ceilings: {ceilings['device']}, {ceilings['bytes_per_s'] / 1e12:.2f} TB/s, {ceilings['flops_per_s'] / 1e12:.0f} TFLOP/s in bf16.",
        table("phase of a step|bound, s|expected, s|share", times),
        table("what|how much", facts),
        table("on each GPU of a group at the update|GiB", [(name, f"{size:.1f}") for name, size in full] + [("sum", f"{sum(size for _, size in full):.1f}")]),
    ]
    return "\n\n".join(parts)
