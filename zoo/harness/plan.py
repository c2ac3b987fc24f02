"""What a comparison consists of: its cells, which of them are done, and what the rest will cost."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from zoo.compat import pair_problems
from zoo.components.base import Context, extremes, walk
from zoo.entry import MethodEntry, Registry, body, written
from zoo.errors import ZooError, suggest
from zoo.harness.checkpoint import load_state
from zoo.harness.comparison import Comparison, settings_that_matter
from zoo.harness.models import PairSpec, load_pair_spec, refuse_stray_paths
from zoo.harness.prompts import prompts_written
from zoo.harness.sources import ModelSource, local_folder, resolved
from zoo.harness.suites import load_suite, suite_digest
from zoo.records import Record, load_records, run_key

DONE: tuple[Literal["success"], Literal["diverged"]] = ("success", "diverged")
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
    refuse_stray_paths(spec, place.pair_paths)
    _refuse_misfits(chosen, spec)
    records = load_records(place.records, comparison.id)
    _refuse_unequal_budgets(comparison, records)
    base = cell_base(comparison, spec, place)
    cells = []
    for entry in chosen:
        for seed in comparison.seeds if trains(entry) else comparison.seeds[:1]:
            key = cell_key(base, comparison, spec, entry, seed)
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
        _refuse_uneven_steps(entry, comparison.settings.rollouts_per_step)
    return entries


def _refuse_uneven_steps(entry: MethodEntry, rollouts: int) -> None:
    minibatches = max((stream.reuse.minibatches for stream in entry.rollouts.values()), default=1)
    for name, stream in entry.rollouts.items():
        smallest, largest = extremes(stream.share)
        size = stream.group * max(1, round(1 / smallest)) if smallest == largest > 0 else stream.group
        if rollouts % size:
            raise ZooError(f"method '{entry.id}' writes groups of {size}, which do not divide rollouts_per_step {rollouts}")
        prompts = prompts_written(rollouts, smallest, stream.group)
        if prompts < minibatches:
            raise ZooError(f"method '{entry.id}' takes {minibatches} minibatches from {prompts} x {stream.group} sequences of stream '{name}', and groups stay "
                           f"together; set rollouts_per_step to {minibatches * size} or more")  # fmt: skip


def _refuse_misfits(entries: list[MethodEntry], spec: PairSpec) -> None:
    found = []
    for entry in entries:
        known = [*spec.teachers, *spec.endpoints]
        for problem in pair_problems(entry, templates=spec.contexts, fields=None, teachers=known, checks=None, same_vocabulary=True, turns=spec.turns):
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
        "pair": spec.model_dump(mode="json", exclude={"title", "weights_note", "student", "teachers", "task", "contexts", "words", "turns"}),
        "task": spec.task.kind,
        "weights": {name: weights_digest(spec, name, place) for name in ("student", *spec.teachers)},
        "suites": {suite.id: suite_digest(suite) for suite in map(load_suite, comparison.suites)},
        "evaluation": {"limit": comparison.evaluation.limit},
    }


def cell_key(base: Mapping[str, Any], comparison: Comparison, spec: PairSpec, entry: MethodEntry, seed: int) -> str:
    """The identity of a cell: what affects its result, and nothing else."""
    trained = trains(entry)
    settings = settings_that_matter(comparison, entry.id) if trained else None
    own = {"method": entry.id, "anchor": entry.anchor, "body": written(body(entry)), "shown": shown(spec, entry)}
    return run_key({**base, **own, "settings": settings, "seed": seed if trained else None})


def shown(spec: PairSpec, entry: MethodEntry) -> dict[str, Any]:
    """The pair's templates that the entry's contexts name, and its words where texts made during the run use them."""
    fields = [getattr(part, name) for part in walk(entry) for name in type(part).model_fields]
    contexts = [field for field in fields if isinstance(field, Context)]
    templates = {context.template: spec.contexts.get(context.template) for context in contexts}
    said = {"turns": spec.turns} if any(stream.environment is not None for stream in entry.rollouts.values()) else {}
    return {"contexts": templates, "words": spec.words if any(context.made for context in contexts) else {}, **said}


def weights_digest(spec: PairSpec, name: str, place: Place) -> str:
    """Hub id and revision, or the sha256 of the local weights with their configuration and tokenizer; an adapter's files behind them."""
    source = spec.student if name == "student" else spec.teachers[name]
    at, base = resolved(name, source, spec.student, place.pair_paths)
    folder = local_folder(spec.id, at, base, place.pair_paths)
    digests = [f"{base.hub}@{base.revision or 'main'}" if folder is None else _files_digest(spec, name, folder, source)]
    if source.adapter is not None:
        digests.append(_files_digest(spec, name, source.adapter.at(spec.id), source))
    return "+".join(digests)


def _files_digest(spec: PairSpec, name: str, folder: Path, source: ModelSource) -> str:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ZooError(f"pair '{spec.id}': no weights for {name} at {folder}; " + (f"run `zoo pairs build {spec.id}`" if source.shipped else "check the path"))
    digest = hashlib.sha256()
    for file in [*files, *sorted(folder.glob("*.json")), *sorted(folder.glob("*.jinja"))]:
        with file.open("rb") as handle:
            while block := handle.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def ended(records: Iterable[Record], key: str) -> Literal["success", "diverged"] | None:
    """How a cell ended for good, if it did; a diverged run would diverge again."""
    for record in records:
        for status in DONE:
            if record.run.run_key == key and record.withdrawn is None and record.run.status == status:
                return status
    return None


def _state(records: list[Record], place: Place, comparison: str, method: str, seed: int, key: str) -> tuple[State, str]:
    status = ended(records, key)
    if status is not None:
        return "done", "" if status == "success" else status
    state = load_state(place.work(comparison, method, seed, key) / "checkpoint")
    saved = "" if state is None else f"checkpoint at {state['spent']['supervised_tokens']:,} tokens"
    failed = [r.run for r in records if r.run.run_key == key and r.withdrawn is None]
    if failed:
        return "failed", f"{failed[-1].status}: {failed[-1].error.message if failed[-1].error else ''}{saved and '; '}{saved}"
    return ("started", saved) if saved else ("left", "")


def _seconds_per_token(records: list[Record]) -> float | None:
    spent = [r.run.budget.spent for r in records if r.run.status == "success" and r.run.budget.spent.get("supervised_tokens")]
    tokens = sum(s["supervised_tokens"] or 0 for s in spent)
    return sum(s["seconds"] or 0 for s in spent) / tokens if tokens else None


def status_of(comparison: Comparison, registry: Registry, place: Place) -> list[dict[str, Any]]:
    """Every cell's state, with the progress of those that have begun."""
    found = []
    for cell in make_plan(comparison, registry, place).cells:
        row: dict[str, Any] = {"method": cell.method, "seed": cell.seed, "state": cell.state, "reason": cell.reason}
        state = load_state(place.work(comparison.id, cell.method, cell.seed, cell.run_key) / "checkpoint")
        if cell.state != "done" and state is not None:
            row["progress"] = state["spent"]["supervised_tokens"] / comparison.budget.amount
        found.append(row)
    return found
