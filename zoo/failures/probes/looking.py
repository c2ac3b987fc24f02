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


def measure(scene: Scene, names: Sequence[str], strict: bool = True) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """The frames of the probes that can be taken here, and of the others why not; unless `strict`, an error in a probe is such a reason."""
    frames, reasons = {}, {}
    with undisturbed(scene):
        for name in names:
            try:
                frames[name] = PROBES[name](scene)
            except NotMeasured as reason:
                reasons[name] = str(reason)
            except Exception as error:
                if strict:
                    raise
                reasons[name] = f"the probe failed ({type(error).__name__}: {next(iter(str(error).splitlines()), '')})"[:200]
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
    """The probes of one run (`settings.probes`): all of them at its start and its end, the cheap ones at each of its evaluations as well. The main
    process takes them; nothing that the run does depends on them.

    With a folder that the run's diagnosis keeps, every look is written there at once, so that a run that was cut off has its first look all the same.
    """

    trainer: Trainer
    sizes: Sizes = field(default_factory=Sizes)
    reasons: dict[str, str] = field(default_factory=dict)
    seen: dict[tuple[str, int], pd.DataFrame] = field(default_factory=dict, repr=False)

    def start(self) -> None:
        """The look before the first step."""
        if self.trainer.iteration == 0:
            self.look(self.trainer.comparison.settings.probes)

    def after_iteration(self) -> None:
        """The cheap probes where the run is evaluated."""
        settings = self.trainer.comparison.settings
        if settings.evaluate_every and self.trainer.spent.steps % settings.evaluate_every == 0 and not self.trainer.done:
            self.look([name for name in settings.probes if name in CHEAP])

    def end(self) -> None:
        """The look at the end of the budget."""
        self.look(self.trainer.comparison.settings.probes)

    def look(self, names: Sequence[str]) -> None:
        """Take these probes, unless this step has been looked at."""
        trainer, step = self.trainer, self.trainer.spent.steps
        names = [name for name in names if name not in self.reasons and not self._known(name, step)]
        if not names or not trainer.processes.main or trainer.pair.split is not None:
            return
        began = time.perf_counter()
        scene = scene_of_entry(
            trainer.entry, trainer.bank, trainer.comparison.settings.max_new_tokens, engine=trainer.engine, progress=trainer.progress, sizes=self.sizes
        )
        frames, reasons = measure(scene, names, strict=False)
        self.reasons |= reasons
        for name, frame in frames.items():
            self._keep(name, step, frame.assign(step=step))
        trainer.phases.add("diagnose", time.perf_counter() - began, 0)

    def _known(self, name: str, step: int) -> bool:
        file = self._file(name, step)
        return (name, step) in self.seen or (file is not None and file.is_file())

    def _keep(self, name: str, step: int, frame: pd.DataFrame) -> None:
        self.seen[name, step] = frame
        file = self._file(name, step)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_suffix(".partial")
            frame.to_parquet(partial)
            partial.replace(file)

    def _file(self, name: str, step: int) -> Path | None:
        folder = self.trainer.diagnosis.folder
        return None if folder is None else folder / "probes" / f"{name}-{step:08d}.parquet"

    def frames(self) -> dict[str, pd.DataFrame]:
        """Each probe's looks under one another, in order of steps, those of earlier parts of a resumed run among them."""
        found = dict(self.seen)
        folder = self.trainer.diagnosis.folder
        for file in sorted((folder / "probes").glob("*-????????.parquet")) if folder is not None else ():
            name, _, step = file.stem.rpartition("-")
            found.setdefault((name, int(step)), pd.read_parquet(file))
        names = dict.fromkeys(name for name, _ in sorted(found))
        return {name: pd.concat([found[key] for key in sorted(found) if key[0] == name], ignore_index=True) for name in names}

    def write(self, folder: Path, uuid: str) -> None:
        """`<uuid>-probe-<name>.parquet` beside the other logs of the run."""
        for name, frame in self.frames().items():
            folder.mkdir(parents=True, exist_ok=True)
            frame.to_parquet(folder / f"{uuid}-probe-{name}.parquet")


def in_memory(looks: Sequence[tuple[int, Mapping[str, pd.DataFrame]]]) -> dict[str, pd.DataFrame]:
    """Frames by probe from looks (step, frames)."""
    found: dict[str, list[pd.DataFrame]] = {}
    for step, frames in looks:
        for name, frame in frames.items():
            found.setdefault(name, []).append(frame.assign(step=step))
    return {name: pd.concat(parts, ignore_index=True) for name, parts in found.items()}


__all__ = ["NAMES", "PROBES", "Looks", "in_memory", "measure", "undisturbed"]
