"""Optional trackers: each cell as a run of TensorBoard, Weights & Biases or Trackio, through accelerate. Off unless named; records never depend on them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from zoo.errors import ZooError, suggest
from zoo.harness.report import Listener

log = logging.getLogger(__name__)
KNOWN = ("tensorboard", "trackio", "wandb")


class Tracked(Listener):
    """Every number of every step, under the cell's name. `make(name)` gives one of accelerate's trackers. One that fails is left out from then on,
    with a warning: it must not cost a run."""

    def __init__(self, kind: str, make: Callable[[str], Any]) -> None:
        self.kind, self.make = kind, make
        self.open: dict[tuple[str, int], Any] = {}

    def begin(self, method: str, seed: int, progress: float) -> None:
        with self._guarded(method, seed):
            self.open[method, seed] = self.make(f"{method}-s{seed}")

    def step(self, method: str, seed: int, row: dict[str, Any]) -> None:
        if (tracker := self.open.get((method, seed))) is not None:
            with self._guarded(method, seed):
                tracker.log({key: value for key, value in row.items() if isinstance(value, int | float) and key != "step"}, step=row["step"])

    def end(self, method: str, seed: int, status: str, message: str = "") -> None:
        if (tracker := self.open.pop((method, seed), None)) is not None:
            with self._guarded(method, seed):
                tracker.finish()

    def close(self) -> None:
        for method, seed in list(self.open):
            self.end(method, seed, "cancelled")

    @contextmanager
    def _guarded(self, method: str, seed: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.open.pop((method, seed), None)
            log.warning("tracker %s left out for %s (seed %d): %s: %s", self.kind, method, seed, type(error).__name__, error)


def trackers(names: Iterable[str], results: str | Path, comparison: str) -> list[Listener]:
    """A listener for each named tracker. What they write goes to the results folder's `logs/trackers`, where it goes to files.

    Raises:
        ZooError: no such tracker, or its package is not installed.
    """
    folder, found = Path(results) / "logs" / "trackers", list[Listener]()
    for name in names:
        if name not in KNOWN:
            raise ZooError(f"--tracker '{name}' is none of {', '.join(KNOWN)}{suggest(name, KNOWN)}")
        if find_spec(name) is None:
            raise ZooError(f"--tracker {name} needs the package {name}: pip install {name}")
        found.append(Tracked(name, _maker(name, comparison, folder)))
    return found


def _maker(kind: str, comparison: str, folder: Path) -> Any:
    """One of accelerate's trackers for each cell, all of a comparison in one project."""
    from accelerate import tracking

    def make(name: str) -> Any:
        folder.mkdir(parents=True, exist_ok=True)
        if kind == "tensorboard":
            return _started(tracking.TensorBoardTracker(f"{comparison}/{name}", logging_dir=folder))
        if kind == "wandb":
            return _started(tracking.WandBTracker(comparison, name=name, dir=str(folder), reinit=True))
        return _started(tracking.TrackioTracker(comparison, name=name))

    return make


def _started(tracker: Any) -> Any:
    if hasattr(tracker, "start"):
        tracker.start()
    return tracker
