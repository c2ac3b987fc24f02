"""Where a number comes from: for each method of a comparison a page with its cells, grouped by the attempts behind them, and the attempts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from zoo.site.content import Attempt, Comparison, Site, number
from zoo.site.render import Writer
from zoo.table_forms import TableCell

COSTS = ("supervised_tokens", "generated_tokens", "teacher_tokens", "steps", "rollouts", "seconds", "peak_memory_bytes", "flops_estimate")
MOST = 8  # methods whose attempts are listed beside a cell
Behind = tuple[tuple[str, str, str], ...]  # page, anchor and name of each attempt
PACKAGES = ("torch", "transformers", "lm_eval", "lm-eval")


def write_records(writer: Writer) -> None:
    """The record pages of all comparisons."""
    for one in writer.site.comparisons:
        large: dict[Behind, str] = {}
        for method, attempts in one.attempts.items():
            shown = {"groups": _groups(writer.site, one, method, large), "attempts": [_attempt(attempt) for attempt in attempts]}
            writer.page(f"records/{one.id}/{method}.html", "records.html", one=one, method=method, **shown)
        _write_traces(writer, one, large)


def _write_traces(writer: Writer, one: Comparison, large: Mapping[Behind, str]) -> None:
    """The rows of a comparison's tables that are no method's (pairs, families, contrasts), and what rests on very many attempts."""
    tables = []
    for name, table in one.tables.items():
        if not one.of_methods(table):
            rows = [(index, " · ".join(cell.text for cell in row[: table.labels]), _row_links(writer.site, row)) for index, row in enumerate(table.rows)]
            tables.append((name, [row for row in rows if row[2]]))
    sets = [(name, _by_method(behind)) for behind, name in large.items()]
    writer.page(f"records/{one.id}/index.html", "traces.html", one=one, tables=[(name, rows) for name, rows in tables if rows], sets=sets)


def _by_method(behind: Behind) -> list[tuple[str, str]]:
    """The methods of a set of attempts: page and words."""
    counted = Counter(page for page, _, _ in behind)
    return [(page.rpartition("/")[2], f"{page.rpartition('/')[2].removesuffix('.html')} ({count})") for page, count in sorted(counted.items())]


def _row_links(site: Site, row: Sequence[TableCell]) -> list[tuple[str, str]]:
    """The methods whose attempts are behind a row: page and words."""
    found: dict[str, set[str]] = {}
    for digest in {digest for cell in row for digest in cell.records}:
        if digest in site.records:
            page, anchor, _ = site.records[digest]
            found.setdefault(page, set()).add(anchor)
    names = {page: page.rpartition("/")[2].removesuffix(".html") for page in found}
    return [(f"{names[page]}.html", f"{names[page]} ({len(anchors)})") for page, anchors in sorted(found.items())]


def _groups(site: Site, one: Comparison, method: str, large: dict[Behind, str]) -> list[dict[str, Any]]:
    """Cells of all tables that have the same attempts behind them stand together; a `large` set of attempts is written out elsewhere, once."""
    found: dict[Behind, list[tuple[str, str, str]]] = {}
    for key, cell in one.cells.get(method, {}).items():
        if cell.records:
            found.setdefault(_behind(site, cell.records), []).append((key, one.titles[key], cell.text))
    groups = []
    for behind, cells in found.items():
        methods = len({page for page, _, _ in behind})
        if methods > MOST:
            name = large.setdefault(behind, f"set-{len(large) + 1}")
            groups.append({"words": f"{len(behind)} attempts of {methods} methods", "links": [(f"index.html#{name}", "which they are")], "cells": cells})
            continue
        links = [(f"../../{page}#{anchor}" if page else f"#{anchor}", words) for page, anchor, words in behind]
        own = f"records/{one.id}/{method}.html"
        links = [(href.removeprefix(f"../../{own}"), words) for href, words in links]
        groups.append({"words": _words(behind), "links": links, "cells": cells})
    return groups


def _behind(site: Site, digests: Sequence[str]) -> Behind:
    """The attempts behind a cell, each once: page, anchor, and what it is called."""
    places = {site.records[digest][:2]: site.records[digest][2].partition(":")[0] for digest in digests if digest in site.records}
    return tuple(sorted(((page, anchor, words) for (page, anchor), words in places.items()), key=lambda item: (item[2].partition(",")[0], item[2])))


def _words(behind: Sequence[tuple[str, str, str]]) -> str:
    """gkd, 5 attempts; student, 1 attempt."""
    parts = []
    for name, items in groupby(behind, key=lambda item: item[2].partition(",")[0]):
        count = len(list(items))
        parts.append(f"{count} attempt{'s' * (count != 1)} of {name}")
    return ", ".join(parts) or "records that are not here"


def _attempt(attempt: Attempt) -> dict[str, Any]:
    run = attempt.record.run
    return {
        "anchor": attempt.anchor,
        "run": run,
        "state": "good" if run.status == "success" else "bad",
        "counts": attempt.counts,
        "withdrawn": attempt.record.withdrawn,
        "notes": attempt.record.notes,
        "scores": [row for evaluation in attempt.record.evals for row in _scores(evaluation)],
        "fired": [(mode, f["level"], str(f.get("reason") or "")) for mode, f in attempt.findings.items() if f["level"] in ("red", "amber")],
        "facts": _facts(attempt),
        "files": sorted(attempt.files.items()),
    }


def _scores(evaluation: Any) -> list[list[str]]:
    rows = []
    for task, result in evaluation.tasks.items():
        for metric, value in result.metrics.items():
            if value is None or metric.partition(",")[0].endswith("_stderr"):
                continue
            cut = "–" if result.truncated_share is None else f"{100 * result.truncated_share:.1f} %"
            rows.append([task, metric.replace(",", ", "), number(value, 4), f"{result.n}", cut])
    return rows


def _facts(attempt: Attempt) -> list[tuple[str, str]]:
    run = attempt.record.run
    found = [
        ("run key", run.run_key),
        ("created", run.created.isoformat()),
        ("pair", run.pair),
        ("budget", f"{run.budget.asked:,} {run.budget.unit.replace('_', ' ')}"),
    ]
    found += [(name, _amount(value)) for name in COSTS if (value := run.budget.spent.get(name)) is not None]
    rate = run.resolved.get("learning_rate")
    found += [("learning rate", f"{rate:g}")] if isinstance(rate, int | float) else []
    phases = {name: values.get("seconds") for name, values in run.phases.items()}
    spent = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in phases.items() if seconds is not None)
    found += [("phases", spent)] if spent else []
    found += [(f"last {name}", number(value, 4)) for name, value in run.final.items() if value is not None]
    return found + _provenance(run.provenance)


def _provenance(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    packages, hardware = given.get("packages") or {}, given.get("hardware") or {}
    versions = ", ".join(f"{name} {packages[name]}" for name in PACKAGES if name in packages)
    gpus = ", ".join(sorted({str(gpu.get("name")) for gpu in hardware.get("gpus") or []}))
    found = [("commit", f"{given['commit']}{' with changes' if given.get('dirty') else ''}")] if given.get("commit") else []
    found += [("packages", versions)] if versions else []
    return found + [(name, str(value)) for name, value in (("processor", hardware.get("cpu")), ("GPU", gpus)) if value]


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
