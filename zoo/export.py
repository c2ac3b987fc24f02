"""A run as a checkpoint of transformers with a model card: what was trained how, on which budget, with which results and failures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.entry import MethodEntry
from zoo.errors import ZooError, suggest
from zoo.formulas import aligned, formula
from zoo.harness.keep import KEPT, weights_folder
from zoo.records import Record, comparisons, load_records
from zoo.score_frame import ANCHORS, score_frame
from zoo.table_cells import gap_cell, score_cell
from zoo.table_failures import Diagnosis, read_diagnoses
from zoo.table_study import Study

FIXED = ANCHORS[:2]


@dataclass(frozen=True)
class Exported:
    """What was written, and from which run."""

    folder: Path
    uuid: str
    files: tuple[str, ...]


def export(run: str, folder: Path, results: Path, registry: Mapping[str, MethodEntry]) -> Exported:
    """Write the final student of a recorded run to an empty folder, with `README.md`, loadable by `AutoModelForCausalLM.from_pretrained`.

    `run` is a run's uuid, its beginning, or COMPARISON/METHOD or COMPARISON/METHOD/SEED for the attempt that counts.

    Raises:
        ZooError: no such run, nothing was trained or kept, or the folder holds something.
    """
    record, records = find_run(results / "records", run)
    named = f"{record.run.method} (seed {record.run.seed}) of '{record.run.comparison}'"
    if record.run.method in FIXED:
        raise ZooError(f"nothing to export: {named} is a model of the pair, which no run has trained")
    if record.run.status != "success":
        raise ZooError(f"nothing to export: {named} ended as {record.run.status}")
    kept = weights_folder(results, record.run.comparison, record.run.method, record.run.seed, record.run.uuid)
    if not (kept / KEPT).is_file():
        raise ZooError(
            f"nothing to export: {named} kept no weights ({kept} is not there); put `keep_weights: true` into the comparison's settings before it runs"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ZooError(f"{folder} is there already; give an empty folder or a new one")
    folder.mkdir(parents=True, exist_ok=True)
    said = json.loads((kept / KEPT).read_text(encoding="utf-8"))
    for file in sorted(kept.iterdir()):
        if file.name != KEPT:
            shutil.copy2(file, folder / file.name)
    diagnoses = read_diagnoses(results / "records", [record])
    card = model_card(record, records, dict(registry).get(record.run.method), diagnoses, said)
    (folder / "README.md").write_text(card, encoding="utf-8")
    return Exported(folder, record.run.uuid, tuple(sorted(file.name for file in folder.iterdir())))


def find_run(root: Path, run: str) -> tuple[Record, list[Record]]:
    """The record that `run` names, and all records of its comparison. Raises ZooError where there is none, or more than one."""
    parts = run.strip("/").split("/")
    names = comparisons(root)
    if len(parts) > 1:
        if parts[0] not in names:
            raise ZooError(f"no records of comparison '{parts[0]}' below {root}{suggest(parts[0], names)}")
        records = load_records(root, parts[0])
        mine = [record for record in records if record.run.method == parts[1] and record.withdrawn is None]
        if not mine:
            raise ZooError(f"comparison '{parts[0]}' has no run of '{parts[1]}'{suggest(parts[1], sorted({record.run.method for record in records}))}")
        seeds = sorted({record.run.seed for record in mine})
        if len(parts) > 2 and parts[2] not in map(str, seeds):
            raise ZooError(f"'{parts[1]}' has no seed {parts[2]} in '{parts[0]}'; there are {', '.join(map(str, seeds))}")
        wanted = [record for record in mine if len(parts) < 3 or str(record.run.seed) == parts[2]]
        wanted.sort(key=lambda record: (record.run.seed, record.run.status != "success", record.run.created))
        return wanted[0], records
    found = [(path.parts[-4], path.parts[-2]) for path in sorted(root.glob(f"*/*/{run}*/run.json"))] if run and "*" not in run else []
    if len(found) != 1:
        listed = ", ".join(uuid for _, uuid in found[:4])
        raise ZooError(f"{f'{len(found)} runs begin with {run!r}: {listed}' if found else f'no run {run!r}'}; give a run's uuid, or COMPARISON/METHOD/SEED")
    records = load_records(root, found[0][0])
    return next(record for record in records if record.run.uuid == found[0][1]), records


# --- the card


def model_card(record: Record, records: Sequence[Record], entry: MethodEntry | None, diagnoses: Sequence[Diagnosis], kept: Mapping[str, Any]) -> str:
    """The README.md of an exported run."""
    run = record.run
    title = f"{entry.name if entry else run.method} on {run.pair}"
    parts = [_front(record), f"# {title}", _opening(record, entry, kept), *_method(entry), *_budget(record), *_results(record, records)]
    parts += [*_failures(entry, diagnoses), *_differences(entry), *_provenance(record)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front(record: Record) -> str:
    pair = record.run.resolved.get("pair")
    hub = ((pair.get("student") or {}).get("hub") if isinstance(pair, Mapping) else None) or None
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation", *([f"base_model: {hub}"] if hub else [])]
    return "\n".join([*lines, "tags: [on-policy-distillation, opd-zoo]", "---"])


def _opening(record: Record, entry: MethodEntry | None, kept: Mapping[str, Any]) -> str:
    run, pair = record.run, record.run.resolved.get("pair")
    about = pair.get("title", run.pair) if isinstance(pair, Mapping) else run.pair
    paper = f" ([arXiv {entry.paper.arxiv}](https://arxiv.org/abs/{entry.paper.arxiv}))" if entry and entry.paper.arxiv else ""
    adapted = " The low-rank modules that were trained are merged into the weights." if kept.get("adapter") == "merged" else ""
    note = f" Weights: {run.weights_note}." if run.weights_note else ""
    return (
        f"The student of the pair `{run.pair}` ({about}), trained with `{run.method}`{paper} in the comparison `{run.comparison}` of OPD Zoo, seed {run.seed}. "
        f"Weights in {kept.get('dtype', 'their own precision')}.{adapted}{note}\n\n"
        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'model = AutoModelForCausalLM.from_pretrained("DIR")\ntokenizer = AutoTokenizer.from_pretrained("DIR")\n```'
    )


def _method(entry: MethodEntry | None) -> Iterator[str]:
    yield "## Method"
    if entry is None:
        yield "Not in the registry of this installation: the record's `resolved.body` says what was run."
        return
    lines = formula(entry)
    if lines:
        yield f"$$\n{aligned(lines)}\n$$"
    coordinates = entry.coordinates.model_dump() if entry.coordinates else {}
    rows = [f"- {name.replace('_', ' ')}: {', '.join(value) if isinstance(value, tuple | list) else value}" for name, value in coordinates.items()]
    yield "\n".join([*rows, f"- evidence: {entry.evidence.level} ({entry.evidence.source})"])
    yield entry.notes.strip() if entry.notes else ""


def _budget(record: Record) -> Iterator[str]:
    run = record.run
    spent = [f"{name.replace('_', ' ')} {value:,.0f}" for name, value in run.budget.spent.items() if value is not None]
    rate = run.resolved.get("learning_rate")
    yield "## Budget"
    yield f"Asked: {run.budget.asked:,} {run.budget.unit.replace('_', ' ')}. Spent: {', '.join(spent)}." + (f" Learning rate {rate:g}." if rate else "")


def _results(record: Record, records: Sequence[Record]) -> Iterator[str]:
    study = Study.of(score_frame(records))
    mine = [row for row in study.rows if row["method"] == record.run.method]
    own = [row for row in mine if row["uuid"] == record.run.uuid]
    lines = ["| task | this run | the method, all its seeds | teacher-gap closed |", "| --- | ---: | ---: | ---: |"]
    for task in study.tasks:
        cells = [score_cell(task.of(own)).text if own else "–", score_cell(task.of(mine)).text, gap_cell(task.of(mine), study.rows).text]
        lines.append(f"| {task.name} ({task.family.replace('_', ' ')}) | {' | '.join(cells if task.family != 'retention' else [*cells[:2], '–'])} |")
    yield "## Results"
    if not study.tasks:
        yield "Nothing was evaluated."
        return
    if not own:
        yield "This attempt is not the one that the tables count; its scores are in its record."
    yield "\n".join(lines)
    yield (f"± is one standard error; brackets are 95 % intervals over {len(study.seeds)} seeds and items, from four on. Gap closed: (method − student) / "
           "(teacher − student), where that difference exceeds two standard errors; †: too few seeds for an interval.")  # fmt: skip


def _failures(entry: MethodEntry | None, diagnoses: Sequence[Diagnosis]) -> Iterator[str]:
    yield "## Failure modes"
    known = f"Reported of the method: {', '.join(entry.known_failures)}. " if entry and entry.known_failures else ""
    if not diagnoses:
        yield f"{known}This run was not diagnosed."
        return
    [found] = diagnoses
    fired = [f"- {mode}: {level}{f' from step {step}' if step is not None else ''}{f' ({reason})' if reason else ''}"
             for mode, (level, step, reason) in found.found.items() if level in ("red", "amber")]  # fmt: skip
    silent = [mode for mode, (level, _, _) in found.found.items() if level == "silent"]
    alarms = f"{len(fired)} alarm{'s' * (len(fired) != 1)} fired" if fired else "no alarm fired"
    yield f"{known}In this run {alarms}; silent: {', '.join(silent) or 'none'}; the others were not measured."
    yield "\n".join(fired)


def _differences(entry: MethodEntry | None) -> Iterator[str]:
    if entry and entry.deviations:
        yield "## Differences to the paper"
        yield "\n".join(f"- {row.field}: {row.paper} there, {row.ours} here ({row.reason})" for row in entry.deviations)


def _provenance(record: Record) -> Iterator[str]:
    run = record.run
    packages = run.provenance.get("packages") or {}
    versions = ", ".join(f"{name} {packages[name]}" for name in ("torch", "transformers") if name in packages)
    yield "## Provenance"
    commit = f", commit {run.provenance['commit']}" if run.provenance.get("commit") else ""
    yield f"Run {run.uuid}, key {run.run_key}{commit}{f', {versions}' if versions else ''}. sha256 of its record: {record.run_digest}."
