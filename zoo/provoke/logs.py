"""What a toy run leaves for the detectors: its step rows, the sequences that were looked at, and its probes, all in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from zoo.failures import RunLogs
from zoo.failures.probes.looking import in_memory, measure
from zoo.failures.probes.names import CHEAP
from zoo.failures.probes.scene import Sizes, scene_of_entry
from zoo.harness.diagnose_files import read_shards
from zoo.harness.train import Trainer


class Watch:
    """The probes of one run: all of them at its start, the cheap ones also at `looks` even parts of it and at its end."""

    def __init__(self, trainer: Trainer, names: Sequence[str], looks: int, sizes: Sizes) -> None:
        self.trainer, self.names, self.looks, self.sizes = trainer, tuple(names), looks, sizes
        self.seen: list[tuple[int, dict[str, pd.DataFrame]]] = []
        self.reasons: dict[str, str] = {}
        self._taken = 0

    def look(self, names: Sequence[str]) -> None:
        """Take some probes now."""
        names = [name for name in names if name not in self.reasons]
        if not names:
            return
        trainer = self.trainer
        scene = scene_of_entry(
            trainer.entry, trainer.bank, trainer.comparison.settings.max_new_tokens, engine=trainer.engine, progress=trainer.progress, sizes=self.sizes
        )
        frames, reasons = measure(scene, names)
        self.reasons |= reasons
        self.seen.append((trainer.spent.steps, frames))

    def after_iteration(self) -> None:
        """The cheap probes, where another part of the run is over."""
        part = int(self.trainer.progress * (self.looks + 1))
        if self._taken < part <= self.looks:
            self._taken = part
            self.last()

    def last(self) -> None:
        """The cheap probes."""
        self.look([name for name in self.names if name in CHEAP])

    def frames(self) -> dict[str, pd.DataFrame]:
        """Each probe's looks, in order."""
        return in_memory(self.seen)


class Kept:
    """A folder that keeps a run's diagnosed sequences until they are read."""

    def __init__(self, trainer: Trainer) -> None:
        self._place = tempfile.TemporaryDirectory(prefix="zoo-provoke-")
        trainer.diagnosis.keep(Path(self._place.name))

    def table(self, name: str) -> pd.DataFrame:
        """`rollouts`, `tokens` or `fixed`."""
        found = read_shards(Path(self._place.name), name)
        return pd.DataFrame() if found is None else found.to_pandas()

    def probes(self) -> dict[str, pd.DataFrame]:
        """The fixed texts, scored again and again."""
        found = self.table("fixed")
        return {} if found.empty else {"fixed": found}

    def drop(self) -> None:
        """Remove the folder."""
        self._place.cleanup()


def logs_of(trainer: Trainer, name: str, kept: Kept, watch: Watch) -> RunLogs:
    """Everything that the detectors read."""
    steps, fixed = pd.DataFrame(trainer.rows), kept.table("fixed")
    probes = {**watch.frames(), **({} if fixed.empty else {"fixed": fixed})}
    return RunLogs(
        steps=steps, rollouts=kept.table("rollouts"), tokens=kept.table("tokens"), curve=curve_of(steps), probes=probes, info=info_of(trainer, name)
    )


def curve_of(steps: pd.DataFrame) -> pd.DataFrame:
    """The evaluations among the steps."""
    return steps[steps["accuracy.valid"].notna()].reset_index(drop=True) if "accuracy.valid" in steps else pd.DataFrame()


def info_of(trainer: Trainer, name: str) -> dict[str, Any]:
    """Plain facts about the run."""
    comparison = trainer.comparison
    return {
        "comparison": comparison.id, "method": name, "seed": trainer.seed, "pair": trainer.pair.spec.id, "stop_ids": list(trainer.pair.stop_ids),
        "budget": comparison.budget.amount, "max_new_tokens": comparison.settings.max_new_tokens,
    }  # fmt: skip
