"""The two small records that a run's diagnostics leave: what every detector says, and the run's curve."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from zoo.failures import Finding, detect_all, load_logs
from zoo.failures.evaluations import evaluation_probe
from zoo.harness.diagnose_files import gather
from zoo.harness.plan import Cell
from zoo.harness.run_record import log_folder
from zoo.record_types import Eval
from zoo.records import write_record

if TYPE_CHECKING:
    from zoo.harness.run import Session
    from zoo.harness.train import Trainer

POINTS = 40
DIGITS = 4  # significant, in both records
REASON = 72  # characters
FAILURES, CURVE = "failures.json", "curve.json"


def write_diagnoses(session: Session, cell: Cell, uuid: str, trainer: Trainer | None, folder: Path) -> None:
    """Put the logs of diagnosed sequences together, then write `failures.json` and `curve.json`, of a cell that trained something with diagnostics on
    and unless an attempt that was cut off did."""
    if trainer is None or not trainer.rows or trainer.comparison.settings.diagnose_every == 0:
        return
    logs = log_folder(session, cell)
    if trainer.diagnosis.folder is not None:
        gather(trainer.diagnosis.folder, logs, uuid)
    known = {"schema": 1, "uuid": uuid, "run_key": cell.run_key, "comparison": session.comparison.id, "method": cell.method, "seed": cell.seed}
    points = curve_of(trainer.rows)
    if not (folder / CURVE).exists():
        write_record(folder, CURVE, {**known, "kind": "curve", **points})
    if not (folder / FAILURES).exists():
        read = load_logs(logs, uuid, curve=pd.DataFrame(points["points"], columns=points["columns"]), info=info_of(session, cell, trainer))
        findings = detect_all(replace(read, probes={**read.probes, **_scores(session, folder)}))
        write_record(folder, FAILURES, {**known, "kind": "failures", "findings": {f.failure_mode: compact(f) for f in findings}})


def _scores(session: Session, folder: Path) -> dict[str, pd.DataFrame]:
    """This run's scores beside those of the untrained student, where it was evaluated in the same comparison before."""
    base = [name for name in session.comparison.methods if session.registry[name].anchor == "student"]
    files = [file for name in base for file in sorted((session.place.records / session.comparison.id / name).glob("*/eval-*.json"))]
    own, before = ([Eval.model_validate_json(file.read_bytes()) for file in each] for each in (sorted(folder.glob("eval-*.json")), files))
    return evaluation_probe(own, before)


def info_of(session: Session, cell: Cell, trainer: Trainer) -> dict[str, Any]:
    """The plain facts of a run that detectors may read."""
    settings = session.comparison.settings
    return {
        "comparison": session.comparison.id, "method": cell.method, "seed": cell.seed, "pair": session.pair.spec.id, "budget": session.comparison.budget.amount,
        "max_new_tokens": settings.max_new_tokens, "rollouts_per_step": settings.rollouts_per_step, "diagnose_every": settings.diagnose_every,
        "stop_ids": list(session.pair.stop_ids), "vocab_size": session.pair.vocab_size,
    }  # fmt: skip


def compact(finding: Finding) -> list[Any]:
    """A finding as it is recorded, [level, value, first step, reason]: without evidence and examples, which lie in the logs."""
    value = None if finding.value is None else rounded(finding.value)
    reason = finding.reason if len(finding.reason) <= REASON else finding.reason[: REASON - 1] + "…"
    return [finding.level, value, finding.first_step, reason]


CURVE_COLUMNS = {
    "step": "step", "supervised_tokens": "supervised_tokens", "generated_tokens": "generated_tokens", "seconds": "seconds", "loss": "loss.*",
    "grad_norm": "grad_norm", "length": "length.*", "truncated": "truncated.*", "entropy": "seen.*.entropy_student", "kl": "seen.*.kl",
    "repeat_share": "seen.*.repeats", "accuracy": "accuracy.valid",
}  # fmt: skip
SUMMED = ("loss",)


def curve_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """At most 40 of a run's steps, the first and the last among them: columns, and one list of numbers for each point. Steps at which something was
    measured go before others. Streams are averaged, the losses of terms summed; what was not measured at a step is null."""
    frame = pd.DataFrame(list(rows))
    table = pd.DataFrame({name: _merged(frame, pattern, name) for name, pattern in CURVE_COLUMNS.items()})
    known = table["entropy"].notna() | table["accuracy"].notna() | (table.index == 0) | (table.index == len(table) - 1)
    measured, others = np.flatnonzero(known).tolist(), np.flatnonzero(~known).tolist()
    places = _even(measured, POINTS)
    places = sorted([*places, *_even(others, POINTS - len(places))])
    chosen = table.iloc[places].dropna(axis=1, how="all")
    values = [[rounded(v) for v in row] for row in chosen.to_numpy(float).tolist()]
    return {"columns": list(chosen.columns), "points": values}


def _even(items: Sequence[int], count: int) -> list[int]:
    return [items[i] for i in np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)] if items and count > 0 else []


def _merged(frame: pd.DataFrame, pattern: str, name: str) -> pd.Series:
    before, _, after = pattern.partition("*")
    if "*" not in pattern:
        return frame[pattern] if pattern in frame else pd.Series(math.nan, index=frame.index)
    found = frame[[c for c in frame if str(c).startswith(before) and str(c).endswith(after) and len(str(c)) > len(before + after)]]
    return found.sum(axis=1, min_count=1) if name in SUMMED else found.mean(axis=1)


def rounded(value: float) -> float | int | None:
    """Four significant digits, whole numbers as they are; null for what is no number."""
    if not math.isfinite(value):
        return None
    if float(value).is_integer():
        return int(value)
    return float(f"{value:.{DIGITS}g}")
