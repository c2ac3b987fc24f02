"""What processes leave behind that were killed in the middle of something."""

from __future__ import annotations

import shutil
from pathlib import Path

from zoo.harness.comparison import Comparison
from zoo.harness.plan import Cell, Place
from zoo.records import PARTIAL


def tidy(comparison: Comparison, place: Place, done: list[Cell]) -> None:
    """Remove what a process left that was killed between its last record and its end."""
    for cell in done:
        shutil.rmtree(place.work(comparison.id, cell.method, cell.seed, cell.run_key), ignore_errors=True)
        for record in (place.records / comparison.id / cell.method).glob("*/run.json"):
            remove_torn(record.parent)


def remove_torn(folder: Path) -> None:
    """Remove half-written records of an attempt that nobody is writing any more."""
    for torn in folder.glob(f".*{PARTIAL}"):
        torn.unlink(missing_ok=True)
