"""What a comparison consists of: its cells, which of them are done, and what the rest will cost."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from zoo.compat import pair_problems
from zoo.entry import MethodEntry, Registry, body
from zoo.errors import ZooError, suggest
from zoo.harness.comparison import Comparison, settings_that_matter
from zoo.harness.models import PairSpec, load_pair_spec
from zoo.harness.suites import load_suite, suite_digest
from zoo.paths import shipped_pair
from zoo.records import Record, load_records, run_key

DONE = ("success", "diverged")
State = Literal["done", "failed", "started", "left"]


@dataclass(frozen=True)
class Cell:
    """One method with one seed. `state` done needs nothing more; failed is tried again; started goes on from its checkpoint."""

    method: str
    seed: int
    run_key: str
    state: State
    reason: str = ""


@dataclass(frozen=True)
class Plan:
    """All cells, the budget of each, and the expected cost of what is left, from earlier records of the same pair."""

    comparison: str
    cells: tuple[Cell, ...]
    tokens_each: int
    tokens_left: int
    seconds_left: float | None
    notes: tuple[str, ...] = field(default_factory=tuple)

    def to_json(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return asdict(self)


@dataclass(frozen=True)
class Place:
    """Where things are: results, local folders of models and data. Only what lies there matters, never the path."""

    results: Path = Path("results")
    pair_paths: Mapping[str, Path] = field(default_factory=dict)
    data: Path | None = None

    @property
    def records(self) -> Path:
        """The append-only records."""
        return self.results / "records"

    def work(self, comparison: str, method: str, seed: int, key: str) -> Path:
        """A cell's checkpoint and lock."""
        return self.results / "work" / comparison / f"{method}-s{seed}-{key[-12:]}"


def make_plan(comparison: Comparison, registry: Registry, place: Place, methods: Iterable[str] | None = None) -> Plan:
    """Every cell with its state.

    Raises:
        ZooError: unknown or unexecutable methods, a pair that lacks what a method needs, or records made under another budget.
    """
    chosen = _chosen(comparison, registry, methods)
    spec = load_pair_spec(comparison.pair)
    _refuse_misfits(chosen, spec)
    records = load_records(place.records, comparison.id)
    _refuse_unequal_budgets(comparison, records)
    base = cell_base(comparison, spec, place)
    cells = []
    for entry in chosen:
        for seed in comparison.seeds if trains(entry) else comparison.seeds[:1]:
            key = cell_key(base, comparison, entry, seed)
            cells.append(Cell(entry.id, seed, key, *_state(records, place, comparison.id, entry.id, seed, key)))
    left = [c for c in cells if c.state != "done" and trains(registry[c.method])]
    per_token = _seconds_per_token(records)
    tokens = len(left) * comparison.budget.amount
    return Plan(comparison.id, tuple(cells), comparison.budget.amount, tokens, None if per_token is None else per_token * tokens)


def trains(entry: MethodEntry) -> bool:
    """Whether a cell of this entry moves any weight; the anchors student and teacher are evaluated as they are."""
    return entry.anchor not in ("student", "teacher")


def _chosen(comparison: Comparison, registry: Registry, methods: Iterable[str] | None) -> list[MethodEntry]:
    wanted = list(comparison.methods if methods is None else methods)
    for name in wanted:
        if name not in comparison.methods:
            raise ZooError(f"method '{name}' is not part of comparison '{comparison.id}'{suggest(name, comparison.methods)}")
    entries = [registry[name] for name in wanted]
    for entry in entries:
        if not entry.executable:
            raise ZooError(f"method '{entry.id}' cannot run: {entry.blocked_by}; take it out of comparison '{comparison.id}'")
        sizes = {s.group * max(1, round(1 / s.share)) if s.share else 1 for s in entry.rollouts.values()}
        if any(comparison.settings.rollouts_per_step % size for size in sizes):
            raise ZooError(f"method '{entry.id}' writes groups of {max(sizes)}, which do not divide rollouts_per_step {comparison.settings.rollouts_per_step}")
    return entries


def _refuse_misfits(entries: list[MethodEntry], spec: PairSpec) -> None:
    found = []
    for entry in entries:
        for problem in pair_problems(entry, templates=spec.contexts, fields=None, teachers=spec.teachers, checks=None, same_vocabulary=True):
            found.append(f"method '{entry.id}' on pair '{spec.id}': {problem}")
    if found:
        raise ZooError("\n".join(found))


def _refuse_unequal_budgets(comparison: Comparison, records: list[Record]) -> None:
    for record in records:
        asked = record.run.budget.asked
        trained = record.run.budget.spent.get("steps", 0)
        if record.withdrawn is None and trained and (asked != comparison.budget.amount or record.run.budget.unit != comparison.budget.unit):
            raise ZooError(
                f"comparison '{comparison.id}' asks for {comparison.budget.amount} {comparison.budget.unit}, "
                f"but {record.run.method} was recorded with {asked}; "
                "budgets must be equal: restore the amount, or declare a new comparison id"
            )


def cell_base(comparison: Comparison, spec: PairSpec, place: Place) -> dict[str, Any]:
    """What all cells' keys share: pair, weights, suites."""
    return {
        "comparison": comparison.id,
        "pair": spec.model_dump(mode="json", exclude={"title", "weights_note", "student", "teachers", "task"}),
        "task": spec.task.kind,
        "weights": {name: weights_digest(spec, name, place) for name in ("student", *spec.teachers)},
        "suites": {name: suite_digest(load_suite(name)) for name in comparison.suites},
        "evaluation": {"limit": comparison.evaluation.limit},
    }


def cell_key(base: Mapping[str, Any], comparison: Comparison, entry: MethodEntry, seed: int) -> str:
    """The identity of a cell: what affects its result, and nothing else."""
    trained = trains(entry)
    settings = settings_that_matter(comparison, entry.id) if trained else None
    return run_key({**base, "method": entry.id, "anchor": entry.anchor, "body": body(entry), "settings": settings, "seed": seed if trained else None})


def weights_digest(spec: PairSpec, name: str, place: Place) -> str:
    """Hub id and revision, or the sha256 of the local weight files."""
    source = spec.student if name == "student" else spec.teachers[name]
    folder = place.pair_paths.get(name) or (Path(source.path) if source.path else shipped_pair(spec.id) / source.shipped if source.shipped else None)
    if folder is None:
        return f"{source.hub}@{source.revision or 'main'}"
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        raise ZooError(f"pair '{spec.id}': no weights for {name} at {folder}; " + (f"run `zoo pairs build {spec.id}`" if source.shipped else "check the path"))
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            while block := handle.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def _state(records: list[Record], place: Place, comparison: str, method: str, seed: int, key: str) -> tuple[State, str]:
    mine = [r for r in records if r.run.run_key == key and r.withdrawn is None]
    if any(r.run.status in DONE for r in mine):
        ended = next(r for r in mine if r.run.status in DONE)
        return "done", "" if ended.run.status == "success" else "diverged"
    work = place.work(comparison, method, seed, key)
    if (work / "checkpoint" / "state.json").is_file():
        state = json.loads((work / "checkpoint" / "state.json").read_text(encoding="utf-8"))
        return "started", f"checkpoint at {state['spent']['supervised_tokens']:,} tokens"
    if mine:
        error = mine[-1].run.error
        return "failed", f"{mine[-1].run.status}: {error.message if error else ''}"
    return "left", ""


def _seconds_per_token(records: list[Record]) -> float | None:
    spent = [r.run.budget.spent for r in records if r.run.status == "success" and r.run.budget.spent.get("supervised_tokens")]
    tokens = sum(s["supervised_tokens"] or 0 for s in spent)
    return sum(s["seconds"] or 0 for s in spent) / tokens if tokens else None
