"""Which records are behind the rows of the tables of detectors, for the manifest that `zoo trace` reads."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from zoo.provoke.table import COLUMNS, NAMES
from zoo.provoke.verdicts import Toy, load_toys, rows_of

SHORT = 16


def detection_section(records: Path) -> dict[str, Any]:
    """`records`, `sets`, `columns` and `tables` (table → row → set, the same for every column); empty where there are no records.

    A row is called as in print (FM01, all seeds; a set-up), or as in the CSV with its seed: `FM01 · 0`, `fm01-provocation · provocation · 0`.
    """
    toys, _ = load_toys(records)
    if not toys:
        return {}
    modes = sorted({mode for toy in toys for mode in toy.run.findings})
    detection, matrix, alarms = NAMES
    rows: dict[str, dict[str, list[Toy]]] = {name: {} for name in NAMES}
    for row in rows_of(toys):
        both = [toy for toy in (row.provocation, row.control) if toy is not None]
        rows[detection].setdefault(row.mode, []).extend(both)
        rows[detection][f"{row.mode} · {row.seed}"] = both
    for toy in toys:
        rows[matrix].setdefault(toy.run.method, []).append(toy)
        rows[matrix][f"{toy.run.method} · {toy.run.arm} · {toy.run.seed}"] = [toy]
    rows[alarms] = {mode: [toy for toy in toys if toy.run.arm == "healthy"] for mode in modes}
    sets: dict[str, str] = {}
    tables = {name: {label: sets.setdefault(_digests(found), f"s{len(sets)}") for label, found in mine.items()} for name, mine in rows.items()}
    return {
        "columns": {detection: list(COLUMNS), matrix: modes, alarms: ["measured", "amber", "red", "rate", "methods"]},
        "records": {toy.digest[:SHORT]: {"path": f"provocations/{toy.run.method}/{toy.run.uuid}/provocation.json", "sha256": toy.digest} for toy in toys},
        "sets": {name: digests for digests, name in sets.items()},
        "tables": tables,
    }


def _digests(toys: Iterable[Toy]) -> str:
    return " ".join(sorted({toy.digest[:SHORT] for toy in toys}))
