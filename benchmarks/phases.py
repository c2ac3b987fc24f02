"""Where a step's time goes: measured phase by phase, and drawn from recorded measurements.

python benchmarks/phases.py measure STUDENT_DIR TEACHER_DIR [--rollouts 256] [--new 256] [--steps 2] [--perturb 0.02] [--json FILE] [--trace]
python benchmarks/phases.py draw FILE.json [FILE.json ...] --svg FILE.svg     (one bar a file, in the order given)

The device is waited for at every border between phases, which itself costs: `step_s` is measured without borders, in the same run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from step_setup import make_tiny, peak_gib, read_pair, settle, trainer_for

from zoo.harness.train import Trainer
from zoo.method import Method

PHASES = ("decode", "rollout, host", "teacher", "student forward", "loss forward", "loss backward", "student backward", "optimizer", "other")


class Clock:
    """Seconds by phase; a phase inside another is taken out of it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner = [0.0]

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        settle()
        began = time.perf_counter()
        self._inner.append(0.0)
        yield
        settle()
        whole = time.perf_counter() - began
        self.seconds[name] += whole - self._inner.pop()
        self._inner[-1] += whole

    def around(self, call: Callable[..., Any], name: Callable[..., str]) -> Callable[..., Any]:
        """A function whose calls are a phase."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name(*args)):
                return call(*args, **kwargs)

        return timed


@contextmanager
def watched(trainer: Trainer, clock: Clock) -> Iterator[None]:
    """A trainer whose parts report to the clock."""
    whole = torch.Tensor.backward, Method.chunk_loss
    writers, bank = trainer.engine.writers, trainer.bank
    writers.write = clock.around(writers.write, lambda *_: "decode")  # type: ignore[method-assign]
    bank.hidden = clock.around(bank.hidden, lambda scorer, *_: "student forward" if scorer == "student" else "teacher")  # type: ignore[method-assign]
    trainer._apply = clock.around(trainer._apply, lambda *_: "optimizer")  # type: ignore[method-assign]
    trainer.write = clock.around(trainer.write, lambda *_: "rollout, host")  # type: ignore[method-assign]
    Method.chunk_loss = clock.around(Method.chunk_loss, lambda *_: "loss forward")  # type: ignore[method-assign]
    torch.Tensor.backward = clock.around(torch.Tensor.backward, lambda _, *given: "student backward" if given else "loss backward")  # type: ignore
    try:
        yield
    finally:
        torch.Tensor.backward, Method.chunk_loss = whole  # type: ignore[method-assign]
        for part, name in ((writers, "write"), (bank, "hidden"), (trainer, "_apply"), (trainer, "write")):
            delattr(part, name)


def run_steps(trainer: Trainer, steps: int) -> float:
    """Seconds an iteration."""
    settle()
    began = time.perf_counter()
    for _ in range(steps):
        list(trainer.iterate())
        trainer.iteration += 1
    settle()
    return (time.perf_counter() - began) / steps


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Phases of a step of one pair."""
    device = "cuda" if torch.cuda.is_available() and not options.tiny else "cpu"
    if options.tiny:
        options.student, options.teacher = make_tiny(Path(tempfile.mkdtemp()))
        options.rollouts, options.new = 16, 12
    pair = read_pair(options.student, options.teacher, options.rollouts, device, options.perturb)
    settings = {name: getattr(options, name) for name in ("micro_tokens", "chunk_tokens", "compile", "layers", "activation_checkpointing")}
    trainer = trainer_for(pair, options.rollouts, options.new, **settings)
    first = run_steps(trainer, 2)
    before = trainer.spent.generated_tokens, trainer.spent.supervised_tokens
    plain = run_steps(trainer, options.steps)
    tokens = [(after - b) / options.steps for after, b in zip((trainer.spent.generated_tokens, trainer.spent.supervised_tokens), before, strict=True)]
    clock = Clock()
    with watched(trainer, clock):
        bordered = run_steps(trainer, options.steps)
    seconds = {name: clock.seconds[name] / options.steps for name in PHASES if name in clock.seconds}
    seconds["other"] = bordered - sum(seconds.values())
    if options.trace:
        trace(trainer)
    trainer.engine.release()
    return {
        "student": options.student.name, "teacher": options.teacher.name, "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "rollouts": options.rollouts, "new_tokens": options.new, "generated_tokens": tokens[0], "supervised_tokens": tokens[1],
        "micro_tokens": options.micro_tokens, "layers": options.layers, "compiled": options.compile,
        "activation_checkpointing": options.activation_checkpointing,
        "first_steps_s": first, "step_s": plain, "bordered_step_s": bordered, "phases_s": seconds,
        "peak_gib": peak_gib(),
    }  # fmt: skip


def trace(trainer: Trainer) -> None:
    """Print where one step's device time and host time go, kernel by kernel."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]) as seen:
        run_steps(trainer, 1)
    for key in ("self_device_time_total", "self_cpu_time_total"):
        print(seen.key_averages().table(sort_by=key, row_limit=28, max_name_column_width=70))


def draw(files: list[Path], target: Path) -> None:
    """Stacked bars, one a file."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams.update({"svg.hashsalt": "phases", "svg.fonttype": "none", "font.size": 9})
    records = [json.loads(file.read_text()) for file in files]
    figure, axes = plt.subplots(figsize=(8, 0.9 + 0.5 * len(files)))
    colours = plt.get_cmap("tab10").colors
    for row, record in enumerate(records):
        left = 0.0
        for index, name in enumerate(PHASES):
            width = record["phases_s"].get(name, 0.0)
            axes.barh(row, width, left=left, color=colours[index], label=name if row == 0 else None)
            left += width
        axes.text(left, row, f" {left:.2f} s", va="center")
    axes.set_yticks(range(len(records)), [file.stem.removeprefix("phases-") for file in files])
    axes.invert_yaxis()
    axes.set_xlabel("seconds a step, the device waited for between phases")
    axes.margins(x=0.1)
    figure.legend(*axes.get_legend_handles_labels(), loc="upper center", ncols=5, frameon=False)
    figure.subplots_adjust(top=1 - 0.55 / figure.get_figheight(), bottom=0.45 / figure.get_figheight(), left=0.25, right=0.97)
    figure.savefig(target, metadata={"Date": None}, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ways = parser.add_subparsers(dest="way", required=True)
    one = ways.add_parser("measure")
    one.add_argument("student", nargs="?", type=Path)
    one.add_argument("teacher", nargs="?", type=Path)
    one.add_argument("--tiny", action="store_true", help="random models on a CPU")
    one.add_argument("--trace", action="store_true", help="print a profile of one step")
    one.add_argument("--compile", choices=("auto", "on", "off"), default="auto", help="the setting; auto compiles on a GPU, as in a long run")
    one.add_argument("--layers", choices=("lean", "plain"), default="lean", help="the setting: layers by our kernels, or as transformers has them")
    one.add_argument("--activation-checkpointing", action="store_true", help="layers computed again in the backward pass")
    one.add_argument("--json", type=Path)
    for name, default in (("rollouts", 256), ("new", 256), ("steps", 2), ("micro-tokens", 32768), ("chunk-tokens", 4096)):
        one.add_argument(f"--{name}", type=int, default=default)
    one.add_argument("--perturb", type=float, default=0.0)
    other = ways.add_parser("draw")
    other.add_argument("files", nargs="+", type=Path)
    other.add_argument("--svg", type=Path, required=True)
    options = parser.parse_args()
    if options.way == "draw":
        draw(options.files, options.svg)
        return
    found = measure(options)
    print(json.dumps(found, indent=1))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
