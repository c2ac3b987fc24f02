"""What a report says about runs: their findings in the order of triage, from committed records, and richer where the logs lie beside them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd

from zoo.errors import ZooError, suggest
from zoo.failures.catalogue import Cause, FailureMode, load_catalogue
from zoo.failures.detecting import detect_all
from zoo.failures.evaluations import evaluation_probe
from zoo.failures.finding import Finding
from zoo.failures.logs import load_logs
from zoo.record_types import Curve, Failures
from zoo.records import Record, comparisons, load_records

CAUSES: tuple[Cause, ...] = get_args(Cause)


@dataclass(frozen=True)
class RunReport:
    """One run: what was found, its curve, and whether its logs were there to be read."""

    record: Record
    findings: tuple[Finding, ...]
    curve: pd.DataFrame
    from_logs: bool

    @property
    def name(self) -> str:
        """Comparison, method and seed."""
        run = self.record.run
        return f"{run.comparison} / {run.method}, seed {run.seed}"

    @property
    def fired(self) -> tuple[Finding, ...]:
        """Those that are red or amber, in the order of triage."""
        return tuple(f for f in self.findings if f.fired)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        run = self.record.run
        return {
            "comparison": run.comparison, "method": run.method, "seed": run.seed, "uuid": run.uuid, "status": run.status, "from_logs": self.from_logs,
            "findings": [as_json(f) for f in self.findings], "curve": json.loads(self.curve.to_json(orient="records")),
        }  # fmt: skip


def as_json(finding: Finding) -> dict[str, Any]:
    """A finding as plain data."""
    evidence = {name: plain(value) for name, value in finding.evidence.items()}
    shown = [{"step": e.step, "stream": e.stream, "rollout": e.rollout, "text": e.text, "note": e.note} for e in finding.examples]
    return {
        "failure_mode": finding.failure_mode, "level": finding.level, "value": plain(finding.value), "first_step": finding.first_step,
        "evidence": evidence, "examples": shown, "reason": finding.reason,
    }  # fmt: skip


def plain(value: Any) -> Any:
    """A number as JSON has it; null for what is none."""
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def in_triage(findings: Iterable[Finding], catalogue: dict[str, FailureMode]) -> tuple[Finding, ...]:
    """Causes before symptoms (catalogue 2.3): harness, tokens, estimator, pair, signal, states, symptoms, costs; red before amber within each."""
    rank = {"red": 0, "amber": 1, "silent": 2, "not_measured": 3}
    last = len(CAUSES)

    def place(finding: Finding) -> tuple[int, int, str]:
        mode = catalogue.get(finding.failure_mode)
        return (last if mode is None else CAUSES.index(mode.cause), rank[finding.level], finding.failure_mode)

    return tuple(sorted(findings, key=place))


def report_on(name: str, results: Path) -> list[RunReport]:
    """The runs that a name means: a comparison, or one run by its uuid (or how it begins), or as COMPARISON/METHOD or COMPARISON/METHOD/UUID.

    Raises:
        ZooError: no such run.
    """
    known = comparisons(results / "records")
    comparison, _, rest = name.partition("/")
    if comparison in known:
        method, _, uuid = rest.partition("/")
        records = load_records(results / "records", comparison)
        found = [r for r in records if method in ("", r.run.method) and r.run.uuid.startswith(uuid)]
        if not found:
            raise ZooError(f"comparison '{comparison}' has no run '{rest}'{suggest(method, {r.run.method for r in records})}")
    else:
        folders = sorted((results / "records").glob(f"*/*/{name}*/run.json")) if len(name) >= 4 else []
        if not folders:
            raise ZooError(f"no comparison and no run '{name}' in {results / 'records'}{suggest(name, known)}")
        found = [r for file in folders for r in load_records(results / "records", file.parts[-4]) if r.run.uuid == file.parts[-2]]
    return [_report(record, results) for record in found if record.withdrawn is None and record.run.budget.spent.get("steps")]


def _report(record: Record, results: Path) -> RunReport:
    run, catalogue = record.run, load_catalogue()
    folder = results / "records" / run.comparison / run.method / run.uuid
    curve = _curve(folder / "curve.json")
    logs = load_logs(results / "logs" / run.comparison / f"{run.method}-s{run.seed}", run.uuid, curve=curve, info=_info(record))
    if not logs.tokens.empty:
        scores = evaluation_probe(record.evals, _base(results, run.comparison))
        return RunReport(record, in_triage(detect_all(replace(logs, probes={**logs.probes, **scores})), catalogue), curve, True)
    return RunReport(record, in_triage(_recorded(folder / "failures.json"), catalogue), curve, False)


def _info(record: Record) -> dict[str, Any]:
    run = record.run
    return {"comparison": run.comparison, "method": run.method, "seed": run.seed, "pair": run.pair, "budget": run.budget.asked}


def _base(results: Path, comparison: str) -> list[Any]:
    """The untrained student's scores."""
    return [each for r in load_records(results / "records", comparison) if r.withdrawn is None for each in r.evals if each.model == "student"]


def _recorded(file: Path) -> list[Finding]:
    if not file.is_file():
        return []
    content = Failures.model_validate_json(file.read_bytes())
    return [Finding(mode, level, value, first, reason=reason) for mode, (level, value, first, reason) in content.findings.items()]


def _curve(file: Path) -> pd.DataFrame:
    if not file.is_file():
        return pd.DataFrame()
    content = Curve.model_validate_json(file.read_bytes())
    return pd.DataFrame(content.points, columns=content.columns).apply(pd.to_numeric)
