"""Tables as a function of records: files for people and machines, and a manifest that traces each cell to its records."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table as RichTable

from zoo.checklist import checklist_table
from zoo.entry import MethodEntry, load_registry
from zoo.errors import ZooError
from zoo.families import ANCHOR_FAMILY, FAMILIES, families
from zoo.figures import figure_svg
from zoo.provoke.sources import detection_section
from zoo.published import orders_table, published_table
from zoo.records import Record, comparisons, digest_bytes, load_records
from zoo.score_frame import score_frame, select
from zoo.table_contrasts import contrasts_table
from zoo.table_failures import Diagnosis, failures_table, read_diagnoses
from zoo.table_families import agreement_table, families_table
from zoo.table_forms import Table, to_csv, to_latex, to_markdown, to_terminal
from zoo.table_layouts import by_family, cost_table, main_table, metrics_table
from zoo.table_standing import detectable, pairwise_table, standing_table
from zoo.table_study import Study

__all__ = ["build_tables", "check_tables", "terminal_table"]

GENERATOR = {"tables": 3, "statistics": 3}
MANIFEST = "MANIFEST.json"
SHORT = 16
TABLES = (
    *("main", "standing", "costs", "pairwise", "families", "contrasts", "agreement", "failures"),
    *("published", "published_orders", "checklist", "all_metrics"),
)
FORMS = ("md", "tex", "csv")
FILES = ("main.svg", *(f"{table}.{form}" for table in TABLES for form in FORMS))


def build_tables(records_root: Path, out_root: Path, comparison: str | None = None, registry: Mapping[str, MethodEntry] | None = None) -> list[Path]:
    """Write the tables, the figure and the manifest of one comparison, or of all that have records; returns the paths.

    The files are a function of the records and of the registry (coordinates, published figures; the shipped one unless given), byte for
    byte: no time, no machine. `MANIFEST.json` keeps what it says about other comparisons. Raises ZooError where there are no records, or
    where the present manifest is unreadable.
    """
    names = comparisons(records_root)
    if (comparison is not None and comparison not in names) or not names:
        raise ZooError(f"{records_root}: no records{f' of comparison {comparison!r}' if comparison else ''}; `zoo run` makes them")
    chosen = names if comparison is None else [comparison]
    sections = {} if comparison is None else _sections(out_root / MANIFEST)
    known = dict(_shipped() if registry is None else registry)  # a Registry refuses unknown names even when asked whether it has them
    written = []
    for name in chosen:
        files, sections[name] = _comparison(records_root, name, known)
        for file in FILES:
            path = out_root / name / file
            if file in files:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(files[file])
                written.append(path)
            else:
                path.unlink(missing_ok=True)
    manifest = out_root / MANIFEST
    manifest.write_text(_manifest(sections, detection_section(records_root)), encoding="utf-8")
    return [*written, manifest]


@cache
def _shipped() -> Mapping[str, MethodEntry]:
    return load_registry()


def check_tables(records_root: Path, out_root: Path, beside: Mapping[str, bytes] | None = None) -> list[str]:
    """What differs between the files below `out_root` and those that the records give now, and further generated files `beside` them;
    empty where nothing does."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        if comparisons(records_root):
            build_tables(records_root, fresh)
        due, present = {**_files(fresh), **(beside or {})}, _files(out_root)
    problems = [f"missing: {name}" for name in due if name not in present]
    problems += [f"changed: {name}" for name in due if name in present and due[name] != present[name]]
    return sorted(problems) + [f"extra: {name}" for name in present if name not in due]


def terminal_table(scores: pd.DataFrame) -> RichTable:
    """The main table of `zoo.scores`, as much of it as fits a terminal."""
    return to_terminal(main_table(scores, brief=True))


def _files(root: Path) -> dict[str, bytes]:
    """Every file but the figures of `zoo figures`, which are checked by the digest of their data."""
    inside = ((path.relative_to(root), path) for path in sorted(root.rglob("*")) if path.is_file())
    return {name.as_posix(): path.read_bytes() for name, path in inside if "figures" not in name.parts[:-1]}


def _comparison(records_root: Path, name: str, registry: Mapping[str, MethodEntry]) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The files of one comparison and its section of the manifest."""
    records = load_records(records_root, name)
    chosen = [cell.record for cell in select(records) if cell.record is not None]
    diagnoses = read_diagnoses(records_root, chosen)
    tables, scores = _tables(records, chosen, diagnoses, registry)
    links = {table.replace("_", " "): f"{table}.md" for table in tables if table != "main"}
    texts = {f"{table}.md": to_markdown(content) for table, content in tables.items()}
    texts |= {"main.md": to_markdown(tables["main"], "main.svg", links)}
    texts |= {f"{table}.csv": to_csv(content) for table, content in tables.items()}
    texts |= {f"{table}.tex": to_latex(content) for table, content in tables.items() if table != "all_metrics"}
    files = {file: text.encode() for file, text in texts.items()}
    files["main.svg"] = figure_svg(scores)
    traced, sets = _traces(tables)
    files_read = [item for record in records for item in sorted(record.digests.items())] + [(one.path, one.sha256) for one in diagnoses]
    section = {
        "files": {file: digest_bytes(data) for file, data in sorted(files.items())},
        "columns": {name: [column.key for column in table.columns[table.labels :]] for name, table in tables.items()},
        "records": {digest[:SHORT]: {"path": path, "sha256": digest} for path, digest in files_read},
        "sets": sets,
        "tables": traced,
    }
    return files, section


def _tables(
    records: Sequence[Record], chosen: Sequence[Record], diagnoses: Sequence[Diagnosis], registry: Mapping[str, MethodEntry]
) -> tuple[dict[str, Table], pd.DataFrame]:
    """The tables that a comparison's records allow, in the order of TABLES, and the scores that they are of."""
    scores = score_frame(records)
    order = [ANCHOR_FAMILY, *(family for family in FAMILIES if family != ANCHOR_FAMILY)]
    placed = {name: (order.index(family), family) for name, family in families(registry).items()}
    standing, study, main = standing_table(scores), Study.of(scores), main_table(scores)
    main = replace(main, remarks=(*main.remarks, *detectable(study)))
    made = {
        "main": by_family(main, placed),
        "standing": standing and by_family(standing, placed),
        "costs": by_family(cost_table(scores), placed),
        "pairwise": pairwise_table(scores),
        "families": families_table(scores, registry),
        "contrasts": contrasts_table(scores, chosen),
        "agreement": agreement_table(scores),
        "failures": failures_table(study.heading, diagnoses, registry),
        "published": published_table(scores, chosen, registry) if chosen else None,
        "published_orders": orders_table(scores, registry),
        "checklist": checklist_table(scores, chosen, registry, diagnoses),
        "all_metrics": metrics_table(scores),
    }
    return {name: table for name in TABLES if (table := made[name]) is not None}, scores


def _traces(tables: Mapping[str, Table]) -> tuple[dict[str, dict[str, dict[str, str] | str]], dict[str, str]]:
    """table → row → column → the set of records behind that cell (one set where all columns share it), and what the sets are."""
    names: dict[tuple[str, ...], str] = {}
    traced: dict[str, dict[str, dict[str, str] | str]] = {}
    for name, table in tables.items():
        found = traced.setdefault(name, {})
        for row in table.rows:
            label = " · ".join(cell.text for cell in row[: table.labels])
            same = sum(known == label or known.startswith(f"{label} (") for known in found)
            cells = zip(table.columns[table.labels :], row[table.labels :], strict=True)
            behind = {column.key: names.setdefault(cell.records, f"s{len(names)}") for column, cell in cells}
            shared = set(behind.values())
            found[f"{label} ({same + 1})" if label in found else label] = shared.pop() if len(shared) == 1 else behind
    return traced, {name: " ".join(digest[:SHORT] for digest in digests) for digests, name in names.items()}


def _manifest(sections: Mapping[str, Any], detectors: Mapping[str, Any]) -> str:
    content = {
        "about": "Each cell (comparison, table, row, column) names a set of records, or a row one for all its columns; "
        "a set lists them by the first characters of their sha256.",
        "generator": GENERATOR,
        "comparisons": {name: sections[name] for name in sorted(sections)},
        **({"detectors": detectors} if detectors else {}),
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _sections(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["comparisons"])
    except (ValueError, KeyError, TypeError) as error:
        raise ZooError(f"{path}: unreadable ({error}); delete it and run `zoo tables`, which builds all of them") from None
