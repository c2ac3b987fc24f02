"""Method by failure mode: what the detectors said of a comparison's runs, beside what papers report of the methods."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.entry import MethodEntry
from zoo.errors import ZooError
from zoo.records import Record, digest_bytes
from zoo.score_frame import ANCHORS
from zoo.table_forms import Column, Table, TableCell

FILE = "failures.json"
MARK = {"red": "R", "amber": "A", "silent": "s", "not_measured": ""}
REPORTED = "*"


@dataclass(frozen=True)
class Diagnosis:
    """What one run's detectors said: failure mode → level, first step and reason; with the file it was read from."""

    method: str
    seed: int
    found: Mapping[str, tuple[str, int | None, str]]
    path: str
    sha256: str


def read_diagnoses(root: Path, chosen: Sequence[Record]) -> list[Diagnosis]:
    """The `failures.json` beside each run that has one. Raises ZooError, naming the file, where it is broken."""
    found = []
    for record in chosen:
        run = record.run
        path = root / run.comparison / run.method / run.uuid / FILE
        if path.is_file():
            data = path.read_bytes()
            try:
                modes = {str(mode): _finding(value) for mode, value in sorted(_listed(json.loads(data)["findings"]).items())}
            except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
                raise ZooError(f"{path}: not a record of failure modes ({error!r}); restore the file from version control") from None
            found.append(Diagnosis(run.method, run.seed, modes, path.relative_to(root).as_posix(), digest_bytes(data)))
    return found


def _listed(findings: Any) -> Mapping[str, Any]:
    return findings if isinstance(findings, Mapping) else {item["failure_mode"]: item for item in findings}


def _finding(value: Any) -> tuple[str, int | None, str]:
    level, step, reason = (value["level"], value.get("first_step"), value.get("reason")) if isinstance(value, Mapping) else (value[0], value[2], value[3])
    if level not in MARK:
        raise ValueError(f"the level '{level}'")
    return str(level), step, str(reason or "")


def failures_table(heading: str, diagnoses: Sequence[Diagnosis], registry: Mapping[str, MethodEntry]) -> Table | None:
    """One row per diagnosed method, one column per failure mode that was measured or reported; None where nothing was diagnosed."""
    if not diagnoses:
        return None
    methods = sorted({diagnosis.method for diagnosis in diagnoses}, key=lambda method: (method not in ANCHORS, method))
    reported = {method: registry[method].known_failures if method in registry else () for method in methods}
    looked_for = {mode for diagnosis in diagnoses for mode in diagnosis.found}
    measured = {mode for diagnosis in diagnoses for mode, (level, _, _) in diagnosis.found.items() if level != "not_measured"}
    modes = sorted(measured | {mode for known in reported.values() for mode in known})
    rows = []
    for method in methods:
        runs = [diagnosis for diagnosis in diagnoses if diagnosis.method == method]
        behind = tuple(sorted(diagnosis.sha256 for diagnosis in runs))
        rows.append((TableCell(method, records=behind), TableCell(str(len(runs)), len(runs), records=behind),
                     *(_cell(runs, mode, mode in reported[method], behind) for mode in modes)))  # fmt: skip
    columns = (Column("method", "method", number=False), Column("runs", "runs"), *(Column(mode, mode, number=False) for mode in modes))
    return Table(f"{heading} – failure modes", columns, tuple(rows), _reading(modes, measured, looked_for))


def _cell(runs: Sequence[Diagnosis], mode: str, reported: bool, behind: tuple[str, ...]) -> TableCell:
    levels = [run.found.get(mode, ("not_measured", None, ""))[0] for run in runs]
    star = REPORTED if reported else ""
    for level in ("red", "amber"):
        if level in levels:
            return TableCell(f"{MARK[level]}{levels.count(level)}{star}", records=behind)
    return TableCell((MARK["silent"] if "silent" in levels else "") + star, records=behind)


def _reading(modes: Sequence[str], measured: set[str], looked_for: set[str]) -> tuple[str, ...]:
    titles = _titles()
    remarks = [
        "R2: red in two runs; A1: amber in one run and red in none; s: silent; empty: not measured. A star: the entry's paper, or one about it, reports it.",
        "Whether an alarm can be trusted is measured in `failure_detection`; an empty cell says nothing about the method. Alarms of no_op, "
        "which learns nothing, are the pair's or the task's and no method's.",
    ]
    named = [f"{mode} {titles[mode]}" for mode in modes if mode in titles]
    remarks += [f"{'; '.join(named)}."] if named else []
    blind = sorted(looked_for - measured)
    return (*remarks, *([f"Looked for and measurable in no run here: {', '.join(blind)}."] if blind else []))


def _titles() -> dict[str, str]:
    from zoo.failures.catalogue import load_catalogue

    return {mode: entry.title for mode, entry in load_catalogue().items()}
