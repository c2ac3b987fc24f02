"""Tables that readers sort and filter: the leaderboard, the registry, the scores of a comparison."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from zoo import stats
from zoo.entry import MethodEntry
from zoo.families import FAMILIES, OTHER
from zoo.score_frame import ANCHORS
from zoo.show import SETS
from zoo.site.content import Comparison, Site
from zoo.site.drawn import Scale, bar, scale_of
from zoo.table_forms import TableCell

LABELS = {"feedback_signal": "signal", "teacher_access": "access", "loss_granularity": "granularity"}
LEVELS = ("code", "paper_text", "abstract", "inferred")
FAILURES = "failure modes that fired in some run: red, amber; without those that fire for no_op, which learns nothing"
EMPTY = {"html": Markup(""), "sort": None}


@dataclass(frozen=True)
class Head:
    """A column; `sorted` says how the rows stand before anybody sorts."""

    key: str
    title: str
    number: bool = False
    sorted: str = ""
    about: str = ""


@dataclass(frozen=True)
class Rows:
    """A board: its columns, its rows (cells by column, values by facet), and the facets with their values in order."""

    columns: Sequence[Head]
    rows: Sequence[Mapping[str, Any]]
    facets: Sequence[Mapping[str, Any]]


def slug(text: Any) -> str:
    """A word that can stand in an address: small letters, digits, underscores."""
    return re.sub(r"[^a-z0-9_]+", "-", str(text).lower()).strip("-")


def text(value: Any, sort: Any = None) -> dict[str, Any]:
    """A cell of plain words."""
    return {"html": escape("" if value is None else value), "sort": sort}


def leaderboard(site: Site) -> Rows:
    """Every entry that can be run or was, with the scores of the featured comparison."""
    one = site.featured
    shown = score_columns(one) if one else []
    heads = [Head("method", "method"), *shown]
    heads += [Head("failures", "failures", number=True, about=FAILURES)] if one and one.board.findings else []
    heads += [Head(axis, LABELS.get(axis, axis)) for axis in SETS] + [Head("evidence", "evidence"), Head("year", "year", number=True)]
    scale = gap_scale(one) if one else Scale(0, 1)
    entries = [entry for entry in site.registry.values() if entry.kind == "method"]
    rows = [_entry_row(entry, site, one, [head.key for head in shown], scale, "") for entry in entries]
    ranked = bool(one and len(one.seeds) >= stats.MIN_SEEDS)
    return Rows(*_ordered(heads, rows, ranked), facets(rows))


def comparison_board(site: Site, one: Comparison) -> Rows:
    """The main table of a comparison, all its columns, with coordinates to filter by."""
    table = one.tables["main"]
    first = score_columns(one)
    chosen = {head.key for head in first}
    shown = [*first, *(Head(column.key, column.title, number=column.number) for column in table.columns[1:] if column.key not in chosen)]
    heads = [Head("method", "method"), *shown]
    heads += [Head("failures", "failures", number=True, about=FAILURES)] if one.board.findings else []
    scale, rows = gap_scale(one), []
    for method in one.board.methods:
        entry = site.registry.get(method)
        row = _entry_row(entry, site, one, [head.key for head in shown], scale, "../") if entry else _stranger(method, one, [head.key for head in shown], scale)
        notes = [table.footnotes.index(note) + 1 for line in table.rows if line[0].text == method for cell in line for note in cell.notes]
        marks = Markup("").join(Markup('<sup><a href="#n-main-{}" aria-label="note {}">{}</a></sup>').format(n, n, n) for n in dict.fromkeys(notes))
        name, beside, full = row["cells"]["method"]["html"].partition(Markup('<span class="full">'))
        row["cells"]["method"] = {"html": name + marks + beside + full, "sort": None}
        rows.append(row)
    return Rows(*_ordered(heads, rows, len(one.seeds) >= stats.MIN_SEEDS), facets(rows))


def registry_board(site: Site) -> Rows:
    """All entries, analyses among them, by what is known about them."""
    heads = [Head("method", "entry"), Head("title", "name"), Head("author", "first author"), Head("year", "year", number=True), Head("leaf", "survey A's leaf")]
    heads += [Head("estimator", "estimator"), Head("evidence", "evidence"), Head("runs", "runs"), Head("in", "comparisons", number=True)]
    rows = []
    for entry in site.registry.values():
        held = len(site.of_method(entry.id))
        cells = {
            "method": {"html": Markup('<a href="{}.html">{}</a>').format(entry.id, entry.id), "sort": None},
            "title": text(entry.name),
            "author": text(entry.paper.first_author),
            "year": text(entry.paper.year, entry.paper.year),
            "leaf": text(entry.survey_leaf),
            "estimator": text(", ".join(words(entry.coordinates.estimator)) if entry.coordinates else ""),
            "evidence": text(entry.evidence.level.replace("_", " "), LEVELS.index(entry.evidence.level)),
            "runs": text("yes" if entry.executable else "no"),
            "in": text(held or "", held or None),
        }
        kind = "analysis" if entry.kind == "analysis" else "anchor" if entry.anchor else "variant" if entry.variant_of else "method"
        further = {"kind": [kind], "leaf": [slug(entry.survey_leaf)] if entry.survey_leaf else [], "scope": [entry.scope]}
        rows.append({"cells": cells, "facets": _facets_of(entry, site, None) | further})
    return Rows(heads, rows, facets(rows, ("kind", "leaf", "scope")))


def score_columns(one: Comparison) -> list[Head]:
    """What the leaderboard shows of a comparison: gap closed first, then scores, what was forgotten, and the time it took."""
    columns = one.tables["main"].columns[1:]
    order = ("gap_closed", "score", "difference", "seconds")
    found = [column for suffix in order for column in columns if column.key.rpartition(".")[2] == suffix]
    return [Head(column.key, column.title.replace(" (in distribution)", ""), number=True) for column in found]


def gap_scale(one: Comparison) -> Scale:
    """The scale of the bars: from student to teacher, and what lies beyond."""
    cells = [cell for mine in one.cells.values() for key, cell in mine.items() if key.endswith("gap_closed")]
    return scale_of([cell.value if cell.value is not None else math.nan for cell in cells])


def words(values: Iterable[str]) -> list[str]:
    """Values as they are read."""
    return [value.replace("_", " ") for value in values]


def failure_counts(one: Comparison, method: str) -> tuple[int, int]:
    """How many modes fired red in some run of a method, and how many only amber; without those that fire where nothing is learnt."""
    idle = one.board.idle_modes()
    found = [levels for mode, levels in one.board.findings.get(method, {}).items() if mode not in idle]
    red = sum("red" in levels for levels in found)
    return red, sum("amber" in levels and "red" not in levels for levels in found)


def _entry_row(entry: MethodEntry, site: Site, one: Comparison | None, keys: Sequence[str], scale: Scale, root: str) -> dict[str, Any]:
    name = Markup('<a href="{}methods/{}.html">{}</a><span class="full">{}</span>').format(root, entry.id, entry.id, entry.name)
    cells: dict[str, Any] = {"method": {"html": name, "sort": None}} | _numbers(entry.id, one, keys, scale, root)
    for axis in SETS:
        held = getattr(entry.coordinates, axis) if entry.coordinates is not None else ()
        cells[axis] = text(", ".join(words(held if isinstance(held, tuple) else (held,))))
    cells["evidence"] = text(entry.evidence.level.replace("_", " "), LEVELS.index(entry.evidence.level))
    cells["year"] = text(entry.paper.year, entry.paper.year)
    return {"id": entry.id, "cells": cells, "facets": _facets_of(entry, site, one)}


def _stranger(method: str, one: Comparison, keys: Sequence[str], scale: Scale) -> dict[str, Any]:
    """A method that has records, but no entry in this registry."""
    return {"id": method, "cells": {"method": text(method)} | _numbers(method, one, keys, scale, "../"), "facets": {"family": [slug(OTHER)]}}


def _numbers(method: str, one: Comparison | None, keys: Sequence[str], scale: Scale, root: str) -> dict[str, Any]:
    cells = one.cells.get(method, {}) if one else {}
    found: dict[str, Any] = {}
    for key in keys:
        cell = cells.get(key)
        found[key] = EMPTY if cell is None or one is None else _number(cell, one, method, key, scale, root)
    if one and one.board.findings:
        found["failures"] = _failures(one, method, root)
    return found


def _number(cell: TableCell, one: Comparison, method: str, key: str, scale: Scale, root: str) -> dict[str, Any]:
    shown = escape(cell.text)
    if key.endswith("gap_closed"):
        shown = bar(cell, scale) + Markup('<span class="t">{}</span>').format(cell.text)
    if cell.records:
        shown = Markup('<a class="n" href="{}records/{}/{}.html#c-{}">{}</a>').format(root, one.id, method, key, shown)
    return {"html": shown, "sort": None if cell.value is None else f"{cell.value:.6g}"}


def _failures(one: Comparison, method: str, root: str) -> dict[str, Any]:
    if method not in one.board.findings:
        return EMPTY
    red, amber = failure_counts(one, method)
    parts = [Markup('<span class="fm red"><b>{}</b><span class="sr"> red</span></span>').format(red)] * bool(red)
    parts += [Markup('<span class="fm amber">{}<span class="sr"> amber</span></span>').format(amber)] * bool(amber)
    html = Markup(" ").join(parts) or Markup('<span class="quiet">none</span>')
    return {"html": Markup('<a class="n" href="{}methods/{}.html#s-failures">{}</a>').format(root, method, html), "sort": 100 * red + amber}


def _facets_of(entry: MethodEntry, site: Site, one: Comparison | None) -> dict[str, list[str]]:
    found = {"family": [slug(site.family[entry.id])] if entry.id in site.family else []}
    for axis in SETS:
        held = getattr(entry.coordinates, axis) if entry.coordinates is not None else ()
        found[axis] = list(held) if isinstance(held, tuple) else [held]
    found |= {"evidence": [entry.evidence.level], "survey": [survey.lower() for survey in entry.surveys]}
    found["year"] = [str(entry.paper.year)] if entry.paper.year else []
    if one is not None:
        found["measured"] = ["yes" if one.board.score.get(entry.id) or entry.id in one.board.methods else "no"]
    return found


def facets(rows: Sequence[Mapping[str, Any]], further: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The facets that have at least two values among the rows: key, label, [value, label] in order."""
    labels = {slug(name): name for name in FAMILIES}
    made = []
    for key in (*further, "family", *SETS, "evidence", "survey", "year", "measured"):
        found = {value for row in rows for value in row["facets"].get(key, ())}
        order = {slug(name): place for place, name in enumerate((*FAMILIES, *LEVELS))}
        values = sorted(found, key=lambda value: (order.get(value, 0), value))
        if len(values) > 1:
            shown = [[value, labels.get(value, value.upper() if key == "survey" else value.replace("_", " "))] for value in values]
            made.append({"key": key, "label": LABELS.get(key, key).replace("_", " "), "values": shown})
    return made


def _ordered(heads: list[Head], rows: list[dict[str, Any]], ranked: bool) -> tuple[list[Head], list[dict[str, Any]]]:
    """Anchors first; then by gap closed where there are seeds enough for a ranking, else by name. Rows without a number come last."""
    key = next((head.key for head in heads if head.key.endswith("gap_closed")), "")

    def place(row: Mapping[str, Any]) -> tuple[Any, ...]:
        value = row["cells"].get(key, EMPTY)["sort"]
        return (row["id"] not in ANCHORS, value is None, -float(value) if ranked and value is not None else 0.0, row["id"])

    marked = [Head(h.key, h.title, h.number, "descending" if ranked and key and h.key == key else "", h.about) for h in heads]
    return marked, sorted(rows, key=place)
