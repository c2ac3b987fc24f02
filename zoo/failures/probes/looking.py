"""Taking probes: one by name, and those of a run at its start, at its evaluations and at its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch

from zoo.failures.logs import NotMeasured
from zoo.failures.probes import answers, cliff, ends, forced, gradients, judged, privileged, rescue, slope
from zoo.failures.probes.names import CHEAP, NAMES
from zoo.failures.probes.scene import Scene, Sizes, scene_of_entry

if TYPE_CHECKING:
    from zoo.harness.train import Trainer

PROBES: Mapping[str, Callable[[Scene], pd.DataFrame]] = {
    "stops": ends.stops, "template": ends.template, "pass_rates": answers.pass_rates, "calibration": answers.calibration,
    "recovery": answers.recovery, "markers": answers.hesitation, "parse": cliff.parse, "rescue": rescue.rescue, "forced": forced.forced,
    "slope": slope.slope, "conflict": gradients.conflict, "privileged": privileged.privileged, "scores": judged.scores, "turns": judged.turns,
}  # fmt: skip


def measure(scene: Scene, names: Sequence[str]) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """The frames of the probes that can be taken here, and of the others why not."""
    frames, reasons = {}, {}
    with undisturbed(scene):
        for name in names:
            try:
                frames[name] = PROBES[name](scene)
            except NotMeasured as reason:
                reasons[name] = str(reason)
    return frames, reasons


@contextmanager
def undisturbed(scene: Scene) -> Iterator[None]:
    """Models in evaluation mode, the global random state and all gradients as they were; what decoding held is freed."""
    models = [reader.model for reader in (scene.student, scene.teacher) if reader is not None]
    training, state = [model.training for model in models], torch.random.get_rng_state()
    for model in models:
        model.eval()
    try:
        yield
    finally:
        scene.release()
        torch.random.set_rng_state(state)
        for model, was in zip(models, training, strict=True):
            model.train(was)


@dataclass
class Looks:
    """The probes of one run. Every look is kept in `folder` at once, so that a run that was cut off has its first look all the same."""

    names: tuple[str, ...]
    trainer: Trainer
    folder: Path
    sizes: Sizes = field(default_factory=Sizes)
    seconds: float = 0.0
    reasons: dict[str, str] = field(default_factory=dict)

    def look(self, every: bool = True) -> None:
        """Take the run's probes (`every` false: only the cheap ones), unless this step has been looked at."""
        step = self.trainer.spent.steps
        names = [name for name in self.names if (every or name in CHEAP) and name not in self.reasons and not self._file(name, step).is_file()]
        if not names:
            return
        began = time.perf_counter()
        frames, reasons = measure(self._scene(), names)
        self.reasons |= reasons
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, frame in frames.items():
            frame.insert(0, "step", step)
            partial = self._file(name, step).with_suffix(".partial")
            frame.to_parquet(partial)
            partial.rename(self._file(name, step))
        self.seconds += time.perf_counter() - began

    def _file(self, name: str, step: int) -> Path:
        return self.folder / f"{name}-{step:08d}.parquet"

    def _scene(self) -> Scene:
        trainer = self.trainer
        return scene_of_entry(
            trainer.entry, trainer.bank, trainer.comparison.settings.max_new_tokens, engine=trainer.engine, progress=trainer.progress, sizes=self.sizes
        )

    def frames(self) -> dict[str, pd.DataFrame]:
        """Each probe's looks under one another, in order of steps."""
        found = {}
        for name in self.names:
            files = sorted(self.folder.glob(f"{name}-????????.parquet"))
            if files:
                found[name] = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
        return found

    def write(self, folder: Path, uuid: str) -> None:
        """`<uuid>-probe-<name>.parquet` beside the other logs of the run."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, frame in self.frames().items():
            frame.to_parquet(folder / f"{uuid}-probe-{name}.parquet")


def in_memory(looks: Sequence[tuple[int, Mapping[str, pd.DataFrame]]]) -> dict[str, pd.DataFrame]:
    """Frames by probe from looks (step, frames)."""
    found: dict[str, list[pd.DataFrame]] = {}
    for step, frames in looks:
        for name, frame in frames.items():
            found.setdefault(name, []).append(frame.assign(step=step))
    return {name: pd.concat(parts, ignore_index=True) for name, parts in found.items()}


__all__ = ["NAMES", "PROBES", "Looks", "in_memory", "measure", "undisturbed"]
