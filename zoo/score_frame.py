"""Records to scores: one tidy row per method, seed, task and metric. Failed and missing runs are rows too; nothing is filled in."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd

from zoo.errors import ZooError, suggest
from zoo.record_types import Eval, Run, TaskResult
from zoo.records import Record, comparisons, load_records
from zoo.stats import binomial_stderr, crossed_mean, mean_stderr, paired_difference

ANCHORS = ("student", "teacher", "no_op")
FAMILIES = ("in_distribution", "out_of_distribution", "retention")
COSTS = ("supervised_tokens", "steps", "generated_tokens", "teacher_tokens", "seconds", "rollouts", "peak_memory_bytes", "flops_estimate")
PHASES = ("rollout", "score", "update", "evaluate")
PHASE_COSTS = tuple(f"{phase}_{amount}" for phase in PHASES for amount in ("seconds", "tokens"))
NOT_RUN = "not_run"
WITHDRAWN = "withdrawn"
COLUMNS = (
    *("comparison", "title", "pair", "method", "seed", "suite", "task", "family", "metric", "headline", "status", "reason"),
    *("score", "stderr", "n", "truncated_share", "mean_length", "items"),
    *("difference", "difference_stderr", "gap_closed", "gap_closed_stderr", "gap_reason"),
    *(*COSTS, *PHASE_COSTS, "processes", "device", "gpu_seconds", "listed"),
    *("budget_unit", "budget_asked", "evidence", "weights_note", "notes", "suite_digest", "lm_eval_version", "uuid", "run_key", "records"),
)
NUMBERS = (
    *("score", "stderr", "n", "truncated_share", "mean_length", "difference", "difference_stderr", "gap_closed", "gap_closed_stderr"),
    *(*COSTS, *PHASE_COSTS, "processes", "gpu_seconds", "listed"),
)
TEXTS = (
    *("pair", "suite", "task", "family", "metric", "gap_reason", "device", "budget_unit", "evidence", "weights_note"),
    *("suite_digest", "lm_eval_version", "uuid", "run_key"),
)


@dataclass(frozen=True)
class Cell:
    """What stands for one method and seed: the chosen attempt, or why there is none."""

    method: str
    seed: int
    status: str
    reason: str
    record: Record | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measure:
    """One metric of one task, and what its task says about it."""

    suite: str
    task: str
    family: str
    metric: str
    headline: bool


def scores(root: Path, comparison: str) -> pd.DataFrame:
    """Every score of a comparison below the records root, one row per method, seed, task and metric.

    `score` with `stderr` (over items; NaN where there is no score), `n`, `truncated_share`; `status` with `reason`;
    `difference` to the untrained student over the same items (retention is this); `gap_closed`, the share of the way from
    student to teacher, or NaN with `gap_reason`; what the run spent, also by phase; `items` (headline only); `records`, the digests of
    the files the row was read from. Raises ZooError where the comparison has no records or mixes pairs.
    """
    records = load_records(root, comparison)
    if not records:
        hint = suggest(comparison, comparisons(root)) or f"; `zoo run {comparison}` makes them"
        raise ZooError(f"{root}: no records of comparison '{comparison}'{hint}")
    return score_frame(records)


def score_frame(records: Sequence[Record]) -> pd.DataFrame:
    """`scores` from records already read, all of one comparison."""
    pairs = sorted({record.run.pair for record in records if record.withdrawn is None})
    comparison = records[0].run.comparison
    if len(pairs) > 1:
        raise ZooError(f"comparison '{comparison}' has records of the pairs {', '.join(pairs)}; it can have one: invalidate the others by events")
    cells = select(records)
    measures = _measures(cell.record for cell in cells if cell.record)
    rows = [row for cell in cells for row in _rows(cell, measures, comparison)]
    title, listed = str(_newest(records).run.asked.get("title", "")), _listed(records)
    anchors = [row for row in rows if row["method"] in ANCHORS]
    for row in rows:
        row["title"], row["listed"] = title, listed.get(row["method"], math.nan)
        row.update(_against_anchors(row, anchors))
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(dict.fromkeys(NUMBERS, "float64"))


# --- which attempt counts


def select(records: Sequence[Record]) -> list[Cell]:
    """One cell per method and seed that was declared or run, anchors first, then by name.

    Of several attempts with one run key the earliest success counts, never the best; without a success the latest failure.
    Of several run keys (the settings were changed) the one that was tried first most recently counts, and a note says so.
    """
    attempts: dict[tuple[str, int], list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: (record.run.created, record.run.uuid)):
        attempts[record.run.method, record.run.seed].append(record)
    declared = {(method, seed) for method, seed in _declared(records) if (method, seed) not in attempts}
    cells = [_choose(*key, tried) for key, tried in attempts.items()]
    cells += [Cell(method, seed, NOT_RUN, "not run") for method, seed in declared]
    return sorted(cells, key=lambda cell: (_rank(cell.method), cell.method, cell.seed))


def _newest(records: Sequence[Record]) -> Record:
    return max(records, key=lambda record: (record.run.created, record.run.uuid))


def _rank(method: str) -> int:
    return ANCHORS.index(method) if method in ANCHORS else len(ANCHORS)


def _declared(records: Sequence[Record]) -> set[tuple[str, int]]:
    """Methods and seeds of the newest declaration among the records, and the anchors that every comparison needs."""
    newest = _newest(records).run
    seeds = [seed for seed in newest.asked.get("seeds", [newest.seed]) if isinstance(seed, int)] or [newest.seed]
    methods = [method for method in _listed(records) if method not in ANCHORS]
    fixed = {record.run.method for record in records} & set(ANCHORS)  # a fixed model needs one seed only
    return {(method, seed) for method in methods for seed in seeds} | {(anchor, seeds[0]) for anchor in ANCHORS if anchor not in fixed}


def _listed(records: Sequence[Record]) -> dict[str, float]:
    """The methods of the newest declaration with their places in it."""
    listed = [item.get("id") if isinstance(item, Mapping) else item for item in _newest(records).run.asked.get("methods", [])]
    return {str(method): float(place) for place, method in enumerate(listed) if method}


def _choose(method: str, seed: int, tried: Sequence[Record]) -> Cell:
    usable = [record for record in tried if record.withdrawn is None]
    if not usable:
        return Cell(method, seed, WITHDRAWN, tried[-1].withdrawn or "")
    keys = list(dict.fromkeys(record.run.run_key for record in usable))
    same_key = [record for record in usable if record.run.run_key == keys[-1]]
    succeeded = [record for record in same_key if record.run.status == "success"]
    record = succeeded[0] if succeeded else same_key[-1]
    notes = [f"{method}: {note}" for note in record.notes]
    if len(keys) > 1:
        notes.append(f"{method}, seed {seed}: records under {len(keys)} different settings; the newest settings are shown")
    if len(succeeded) > 1:
        notes.append(f"{method}, seed {seed}: {len(succeeded)} successful attempts with the same settings; the earliest is shown")
    failure = record.run.error
    reason = "" if succeeded else f"{record.run.status}: {failure.message}" if failure else record.run.status
    return Cell(method, seed, record.run.status, reason, record, tuple(notes))


# --- rows


def _measures(records: Iterable[Record]) -> list[Measure]:
    """Every metric that any record has; standard errors are columns, not metrics."""
    found = {
        Measure(evaluation.suite, task, result.family, metric, metric == result.headline)
        for record in records
        for evaluation in record.evals
        for task, result in evaluation.tasks.items()
        for metric in result.metrics
        if not _is_stderr(metric)
    }
    return sorted(found, key=lambda m: (FAMILIES.index(m.family), m.suite, m.task, not m.headline, m.metric))


def _is_stderr(metric: str) -> bool:
    return metric.partition(",")[0].endswith("_stderr")


def _rows(cell: Cell, measures: Sequence[Measure], comparison: str) -> list[dict[str, Any]]:
    base: dict[str, Any] = dict.fromkeys(TEXTS, "") | dict.fromkeys(NUMBERS, math.nan) | {"headline": True, "items": {}, "records": ()}
    base |= {"comparison": comparison, "method": cell.method, "seed": cell.seed, "status": cell.status, "reason": cell.reason}
    base |= {"notes": cell.notes} | (_of_run(cell.record) if cell.record else {})
    return [base | _of_measure(cell, measure) for measure in measures] or [base]


def _of_run(record: Record) -> dict[str, Any]:
    run = record.run
    return {
        "pair": run.pair,
        **{name: _or_nan(run.budget.spent.get(name)) for name in COSTS},
        **{f"{phase}_{amount}": _or_nan(run.phases.get(phase, {}).get(amount)) for phase in PHASES for amount in ("seconds", "tokens")},
        "processes": _or_nan(run.provenance.get("processes")),
        "device": device(run.provenance),
        "gpu_seconds": _gpu_seconds(run),
        "budget_unit": run.budget.unit,
        "budget_asked": run.budget.asked,
        "evidence": run.evidence.level if run.evidence else "",
        "weights_note": run.weights_note or "",
        "uuid": run.uuid,
        "run_key": run.run_key,
        "records": tuple(digest for path, digest in record.digests.items() if not Path(path).name.startswith("eval-")),
    }


def _of_measure(cell: Cell, measure: Measure) -> dict[str, Any]:
    named = {"suite": measure.suite, "task": measure.task, "family": measure.family, "metric": measure.metric, "headline": measure.headline}
    if cell.record is None or cell.status != "success":
        return named
    evaluation = next((e for e in cell.record.evals if e.suite == measure.suite), None)
    result = evaluation.tasks.get(measure.task) if evaluation else None
    value = result.metrics.get(measure.metric) if result else None
    if evaluation is None or result is None or value is None:
        return named | {"reason": f"no evaluation of {measure.task}, {measure.metric}"}
    return named | _of_result(cell.record, evaluation, result, measure.metric, value)


def _of_result(record: Record, evaluation: Eval, result: TaskResult, metric: str, value: float) -> dict[str, Any]:
    is_headline = metric == result.headline
    name, _, wanted = metric.partition(",")
    stated = result.metrics.get(f"{name}_stderr,{wanted}")
    stderr = binomial_stderr(value, result.n) if stated is None else stated
    files = (digest for path, digest in record.digests.items() if not Path(path).name.startswith("eval-"))
    return {
        "score": value,
        "stderr": mean_stderr([score for _, score in result.items]) if is_headline else stderr,
        "n": result.n,
        "truncated_share": _or_nan(result.truncated_share),
        "mean_length": _or_nan(result.mean_length),
        "items": dict(result.items) if is_headline else {},
        "suite_digest": evaluation.suite_digest,
        "lm_eval_version": evaluation.lm_eval_version,
        "records": (*files, record.eval_digest(evaluation)),
    }


def device(provenance: Mapping[str, Any]) -> str:
    """The accelerator a run was recorded on, or its processor and threads; empty where the record does not say."""
    hardware, arguments = provenance.get("hardware") or {}, list(provenance.get("arguments") or ())
    asked = "cpu" in (b for a, b in pairwise(arguments) if a == "--device") or "--device=cpu" in arguments
    on_cpu = provenance["device"] == "cpu" if "device" in provenance else asked  # the first records did not say
    gpus = [] if on_cpu else hardware.get("gpus") or []
    if gpus:
        return ", ".join(sorted({str(gpu["name"]) for gpu in gpus}))
    threads = hardware.get("torch_threads")
    return f"{hardware['cpu']}, {threads} thread{'' if threads == 1 else 's'}" if "cpu" in hardware else ""


def _gpu_seconds(run: Run) -> float:
    """Seconds times GPUs (one for each process); 0 on a CPU, NaN where the record does not say how many processes there were."""
    if not (run.provenance.get("hardware") or {}).get("gpus") or run.provenance.get("device") == "cpu":
        return 0.0 if device(run.provenance) else math.nan
    return _or_nan(run.budget.spent.get("seconds")) * _or_nan(run.provenance.get("processes"))


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else float(value)


# --- against the anchors


def anchor_row(anchor: str, row: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The anchor's row on the same metric: of the same seed if there is one, else of its first; None without a score."""
    where = ("suite", "task", "metric")
    same = [r for r in rows if r["method"] == anchor and not math.isnan(r["score"]) and all(r[key] == row[key] for key in where)]
    return next((r for r in same if r["seed"] == row["seed"]), same[0] if same else None)


def _against_anchors(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Difference to the student and teacher-gap closed of a headline score, or the reason why there is none."""
    if not row["headline"] or not row["items"]:
        return {}
    student, teacher = anchor_row("student", row, rows), anchor_row("teacher", row, rows)
    if student is None:
        return {"gap_reason": "no score of the untrained student"}
    try:
        difference = paired_difference(row["items"], student["items"])
        own = {"difference": difference.value, "difference_stderr": difference.stderr}
        if teacher is None:
            return own | {"gap_reason": "no score of the teacher"}
        return own | _gap(row["items"], student["items"], teacher["items"])
    except ValueError as error:
        return {"gap_reason": f"{row['method']} and the anchors were not evaluated on the same items ({error})"}


def _gap(method: Mapping[Any, float], student: Mapping[Any, float], teacher: Mapping[Any, float]) -> dict[str, Any]:
    gap = paired_difference(teacher, student)
    if not gap.value > 2 * gap.stderr:
        return {"gap_reason": f"teacher - student is {gap.value:.3f} ± {gap.stderr:.3f}, not above 2 standard errors"}
    gained_I = [method[item] - student[item] for item in student]
    whole_I = [teacher[item] - student[item] for item in student]
    closed = crossed_mean(gained_I, whole_I)
    return {"gap_closed": closed.value, "gap_closed_stderr": closed.stderr}
