"""Choosing each method's learning rate by the sweep that its comparison declares: the same rates, seeds and problems for all.

A sweep is a handful of ordinary comparisons, one for each rate, whose records lie apart (`results/sweeps`), as they are no results. The rate with the
highest mean score over the sweep's seeds is taken; of equal ones the smallest. A run that diverged counts as a score of 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zoo.errors import ZooError
from zoo.harness.comparison import Comparison, Sweep
from zoo.harness.suites import load_suite
from zoo.record_types import Eval
from zoo.records import Record, load_records

FOLDER = "sweeps"
MARK = "# --- chosen by `zoo tune`; everything below is written by it\n"


@dataclass(frozen=True)
class Trial:
    """One method at one rate: the mean score over the seeds that are done."""

    method: str
    learning_rate: float
    score: float | None
    done: int
    of: int


@dataclass(frozen=True)
class Choice:
    """What a sweep says about one method; `learning_rate` is None until all its trials are done. `edge`: it is the first or the last rate tried."""

    method: str
    learning_rate: float | None
    edge: bool
    trials: tuple[Trial, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return asdict(self)


def sweep_of(comparison: Comparison) -> Sweep:
    """The comparison's sweep.

    Raises:
        ZooError: it declares none.
    """
    if comparison.sweep is None:
        raise ZooError(f"comparison '{comparison.id}' declares no sweep; add sweep: {{learning_rates: [...], seeds: [...], suite: ...}}")
    return comparison.sweep


def trials_of(comparison: Comparison) -> list[Comparison]:
    """The comparisons of a sweep, by ascending rate."""
    sweep = sweep_of(comparison)
    return [_at(comparison, sweep, rate) for rate in sweep.learning_rates]


def _at(comparison: Comparison, sweep: Sweep, rate: float) -> Comparison:
    name = f"{comparison.id}-at-" + re.sub(r"\.?0*e([+-])0*", r"e\1", f"{rate:.3e}").replace(".", "-").replace("+", "")
    changed = {
        "id": name,
        "title": f"{comparison.title} (sweep, learning rate {rate:g})",
        "seeds": sweep.seeds,
        "suites": (sweep.suite,),
        "settings": comparison.settings.model_copy(update={"learning_rate": rate, "diagnose_every": 0, "evaluate_every": 0, "probes": ()}),
        "overrides": {},
        "sweep": None,
    }
    return comparison.model_copy(update=changed)


def choices(comparison: Comparison, methods: Iterable[str], results: Path) -> list[Choice]:
    """What the records of the sweep say about each of the methods."""
    sweep, root = sweep_of(comparison), results / FOLDER / "records"
    records = {trial.settings.learning_rate: load_records(root, trial.id) for trial in trials_of(comparison)}
    return [_choice(method, [_trial(method, rate, found, sweep) for rate, found in records.items()]) for method in methods]


def _trial(method: str, rate: float, records: Sequence[Record], sweep: Sweep) -> Trial:
    scores: dict[int, float] = {}
    for record in records:
        if record.run.method == method and record.withdrawn is None and record.run.status in ("success", "diverged"):
            scores[record.run.seed] = _score(record, sweep.suite) if record.run.status == "success" else 0.0
    found = [scores[seed] for seed in sweep.seeds if seed in scores]
    return Trial(method, rate, sum(found) / len(found) if found else None, len(found), len(sweep.seeds))


def _score(record: Record, suite: str) -> float:
    asked = load_suite(suite)
    made: Eval = next(one for one in record.evals if one.suite == asked.id)
    return sum(float(made.tasks[task.task].metrics[task.headline] or 0.0) for task in asked.tasks) / len(asked.tasks)


def _choice(method: str, trials: Sequence[Trial]) -> Choice:
    if any(trial.done < trial.of for trial in trials):
        return Choice(method, None, False, tuple(trials))
    best = max(trials, key=lambda trial: (trial.score or 0.0, -trial.learning_rate))
    edge = best.learning_rate in (trials[0].learning_rate, trials[-1].learning_rate)
    return Choice(method, best.learning_rate, edge, tuple(trials))


def write_choices(file: Path, comparison: Comparison, chosen: Iterable[Choice]) -> None:
    """Put the chosen rates into the comparison's file as its overrides, below a line that says so; all above stays as it is.

    Raises:
        ZooError: overrides stand above that line, which a person wrote.
    """
    text = file.read_text(encoding="utf-8").split(MARK)[0]
    if any(line.startswith("overrides:") for line in text.splitlines()):
        raise ZooError(f"{file}: it has overrides of its own; take them out, or choose rates by hand")
    sweep, rows = sweep_of(comparison), []
    for choice in chosen:
        if choice.learning_rate is not None:
            score = max(trial.score or 0.0 for trial in choice.trials)
            where = ", at the sweep's edge" if choice.edge else ""
            reason = f"best of the sweep ({score:.1%} on {sweep.suite}{where})"
            rows.append(f'  {choice.method}: {{learning_rate: {choice.learning_rate:.1e}, reason: "{reason}"}}\n')
    file.write_text(text + (MARK + "overrides:\n" + "".join(rows) if rows else ""), encoding="utf-8")
