"""What `zoo list` and `zoo show` say about entries: plain data, and the same arranged for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import yaml
from pydantic import BaseModel
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from zoo.components.base import walk
from zoo.coordinates import derive_coordinates, derive_tuples
from zoo.entry import BODY, MethodEntry
from zoo.formulas import aligned, first_sentence, formula
from zoo.relatives import relatives

SETS = ("feedback_signal", "teacher_access", "loss_granularity", "estimator", "routing")
COLUMNS = ("id", "name", "year", "signal", "access", "granularity", "estimator", "routing", "evidence", "runs", "failures")
STACKED = ("method", "year", "coordinates", "evidence", "runs", "failures")
ROOMY = 180


def summary(entry: MethodEntry) -> dict[str, Any]:
    """One row of the list. Coordinates are null for anchors, which are no methods."""
    coordinates = None if entry.anchor or entry.coordinates is None else entry.coordinates.model_dump(mode="json")
    return {
        "id": entry.id,
        "name": entry.name,
        "kind": entry.kind,
        "scope": entry.scope,
        "year": entry.paper.year,
        "arxiv": entry.paper.arxiv,
        "surveys": list(entry.surveys),
        "coordinates": coordinates,
        "evidence": entry.evidence.level,
        "executable": entry.executable,
        "blocked_by": entry.blocked_by,
        "known_failures": list(entry.known_failures),
        "anchor": entry.anchor,
        "variant_of": entry.variant_of,
        "identical_core_to": entry.identical_core_to,
    }


def matches(row: Mapping[str, Any], wanted: Mapping[str, str | bool | None]) -> bool:
    """Whether a row of `summary` has every value that is asked for; a set has a value if it contains it."""
    flat = {**row, **(row["coordinates"] or {})}

    def has(name: str, value: str | bool) -> bool:
        present = flat.get(name)
        return value in present if isinstance(present, list) else value == present

    return all(has(name, value) for name, value in wanted.items() if value is not None)


def list_table(rows: Iterable[Mapping[str, Any]], width: int) -> Table:
    """The list as a table; where `width` is too small for a column each, names and coordinates are stacked."""
    rows, stacked = list(rows), width < ROOMY
    blocked = any(not row["executable"] for row in rows)
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, highlight=False, show_lines=False)
    for name in [name for name in (STACKED if stacked else COLUMNS) if blocked or name != "runs"]:
        # Identifiers and years stay whole; what is longer is folded.
        least = max((len(row["id"]) for row in rows), default=0) if name == "method" else None
        made.add_column(name, no_wrap=name in ("id", "year"), overflow="fold", min_width=least)
    for row in rows:
        place = (
            [_joined(row["coordinates"][name]) for name in SETS]
            if row["coordinates"]
            else ["anchor" if row["anchor"] else row["kind"] if row["kind"] != "method" else "–", *["–"] * 4]
        )
        runs = ["yes" if row["executable"] else f"no: {row['blocked_by']}"] if blocked else []
        cells = [row["id"], row["name"], row["year"] or "–", *place, row["evidence"], *runs, _joined(row["known_failures"]) or "–"]
        if stacked:
            below = f"{' · '.join(place[:3])}\n{' · '.join(place[3:])}" if row["coordinates"] else place[0]
            cells = [f"{cells[0]}\n{cells[1]}", cells[2], below, *cells[8:]]
        made.add_row(*(Text(str(cell)) for cell in cells))
    return made


def terms(entry: MethodEntry) -> list[dict[str, Any]]:
    """Every term with its tuples (signals, granularity, estimator, routing), one for each advantage; none where it only holds the student in place."""
    tuples: dict[int, list[Any]] = {i: [] for i in range(len(entry.objective))}
    for t in derive_tuples(entry):
        tuples[t.term].append([list(t.signals), t.granularity, t.estimator, t.routing])
    return [{"term": i, "kind": getattr(term, term.tag), "on": list(term.streams()), "tuples": tuples[i]} for i, term in enumerate(entry.objective)]


def as_written(value: Any) -> Any:
    """A component tree as its author wrote it, defaults left out and short forms spelled out."""
    if isinstance(value, BaseModel):
        fields, own = type(value).model_fields, type(value).__annotations__
        order = sorted(fields, key=lambda name: (name != getattr(value, "tag", None), name not in own))
        return {fields[name].alias or name: as_written(getattr(value, name)) for name in order if name in value.model_fields_set}
    if isinstance(value, Mapping):
        return {key: as_written(item) for key, item in value.items()}
    return [as_written(item) for item in value] if isinstance(value, list | tuple) else value


def description(entry: MethodEntry, registry: Mapping[str, MethodEntry] = {}) -> dict[str, Any]:
    """Everything about an entry as plain data: its fields with all defaults, and what is derived from them."""
    coordinates = derive_coordinates(entry).model_dump(mode="json") if entry.objective else None
    lines = formula(entry)
    derived = {
        "coordinates": coordinates,
        "terms": terms(entry),
        "formula": {"text": [line.text for line in lines], "latex": aligned(lines) if lines else None},
        "relatives": [
            {"id": relative.id, "distance": relative.distance, "differences": [asdict(change) for change in relative.changes]}
            for relative in relatives(entry, registry)
        ],
    }
    return {**entry.model_dump(mode="json", by_alias=True), "derived": derived}


def long_form(entry: MethodEntry, registry: Mapping[str, MethodEntry] = {}) -> Group:
    """An entry for a terminal; its relatives are looked for in the registry."""
    parts: list[Any] = [Text.assemble((entry.id, "bold"), f"  {entry.name}"), *map(Text, _head(entry))]
    parts += _section("formula", [Text(line.text) for line in formula(entry)])
    parts += _section("components", [Text(line) for line in _components(entry)])
    parts += _section("coordinates", [Text(line) for line in _coordinates(entry)])
    written = {name: as_written(getattr(entry, name)) for name in BODY if name in entry.model_fields_set}
    parts += _section("what runs", [Text(_yaml(written))] if written else [])
    parts += _section("published", [Text(_yaml(entry.published))] if entry.published else [])
    parts += _section("deviations", _rows(("field", "paper", "ours", "reason"), entry.deviations))
    parts += _section("reported by the paper", _rows(("setting", "metric", "value", "source"), entry.reported))
    parts += _section("findings", [Text(finding) for finding in entry.findings])
    parts += _section("reproduce with", [Text(_yaml(as_written(entry.reproduce_with)))] if entry.reproduce_with else [])
    parts += _section("nearest relatives", [Text(line) for line in _nearest(entry, registry)])
    parts += _section("known failures", [Text(", ".join(entry.known_failures))] if entry.known_failures else [])
    parts += _section("notes", [Text(entry.notes)] if entry.notes else [])
    return Group(*parts)


def _head(entry: MethodEntry) -> Iterable[str]:
    paper = entry.paper
    named = [f"arXiv {paper.arxiv}" if paper.arxiv else None, paper.first_author, paper.year, paper.venue, paper.url, paper.part]
    if any(named):
        yield " · ".join(str(part) for part in named if part)
    if entry.surveys:
        yield f"surveys {', '.join(entry.surveys)}" + (f" · {entry.survey_leaf}" if entry.survey_leaf else "")
    yield f"evidence: {entry.evidence.level} ({entry.evidence.source})"
    if entry.scope != "text":
        yield f"scope: {entry.scope}"
    if entry.fixed_point:
        yield f"fixed point: {entry.fixed_point}"
    for field in ("variant_of", "identical_core_to", "anchor", "blocked_by"):
        if getattr(entry, field):
            yield f"{field.replace('_', ' ')}: {getattr(entry, field)}"


def _coordinates(entry: MethodEntry) -> Iterable[str]:
    if not entry.objective:
        return
    derived = derive_coordinates(entry)
    yield " · ".join(f"{name.replace('_', ' ')}: {_joined(getattr(derived, name))}" for name in SETS)
    for term in terms(entry):
        yield f"objective[{term['term']}] {term['kind']}: {written_tuples(term['tuples'])}"
    for survey, printed in entry.survey_coordinates.items():
        values = " · ".join(f"{name.replace('_', ' ')} {value}" for name, value in printed.model_dump().items() if value)
        reason = entry.survey_disagreement.get(survey)
        yield f"survey {survey} printed: {values}" + (f"; differs because {reason}" if reason else "")


def _components(entry: MethodEntry) -> Iterable[str]:
    """Every kind that the entry uses, and what it is."""
    parts = walk((entry.rollouts, entry.teachers, entry.rewards, entry.learners, entry.objective))
    for cls in dict.fromkeys(type(part) for part in parts):
        yield f"{cls.model_fields[cls.tag].default}: {first_sentence(cls.__doc__)}"


def _nearest(entry: MethodEntry, registry: Mapping[str, MethodEntry]) -> Iterable[str]:
    """What differs, seen from this entry."""
    for relative in relatives(entry, registry):
        yield f"{relative.id}: {'; '.join(map(str, relative.changes)) or 'runs the same'}"


def written_tuples(tuples: Sequence[Sequence[Any]]) -> str:
    """`(logit, token, direct, full_vocab)`, several signals joined by +, the tuples of several advantages too."""
    if not tuples:
        return "holds the student in place, so it counts for no coordinate"
    return " + ".join(f"({', '.join(['+'.join(signals), *rest])})" for signals, *rest in tuples)


def _section(title: str, parts: Sequence[Any]) -> list[Any]:
    return [Text(f"\n{title}", style="bold"), *parts] if parts else []


def _rows(names: Sequence[str], items: Sequence[Any]) -> list[Table]:
    if not items:
        return []
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, highlight=False)
    for name in names:
        made.add_column(name)
    for item in items:
        made.add_row(*(Text(str(getattr(item, name))) for name in names))
    return [made]


def _yaml(value: Mapping[str, Any]) -> str:
    plain = as_written(value)
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100).rstrip()


def _joined(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list | tuple) else str(value)
