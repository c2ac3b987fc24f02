"""A page for each entry: what it minimises, where it stands, how solid that is, what was measured here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from zoo.entry import MethodEntry
from zoo.figures.data import FIRED, IDLE
from zoo.figures.lines import ACCURACY, KL, mean_line, over_seeds
from zoo.formulas import aligned, formula
from zoo.relatives import relatives
from zoo.show import SETS, terms
from zoo.site.content import Comparison, Site
from zoo.site.drawn import plot, strip
from zoo.site.mathml import equations, mathml
from zoo.site.render import Cells, Writer

SHOWN = ("gap_closed", "score", "difference", "seconds", "generated_tokens")
PLOTS = {"accuracy on held-out prompts": ACCURACY, "length (tokens)": ("length",), "entropy (nats)": ("entropy",), "reverse KL to the teacher (nats)": KL}
MOST_CHANGES = 12
DOCUMENTS = (
    ("Differences from the paper", "deviations", ("field", "paper", "ours", "reason")),
    ("Reported by the paper", "reported", ("setting", "metric", "value", "source")),
)


def write_methods(writer: Writer) -> None:
    """The pages of all entries."""
    strips = {one.id: _values(one) for one in writer.site.comparisons}
    middles = {one.id: _middles(one) for one in writer.site.comparisons}
    for entry in writer.site.registry.values():
        writer.page(f"methods/{entry.id}.html", "method.html", **_content(entry, writer.site, strips, middles))


def _content(entry: MethodEntry, site: Site, strips: Mapping[str, Any], middles: Mapping[str, Any]) -> dict[str, Any]:
    held = site.of_method(entry.id)
    links = [(words, getattr(entry, name)) for name, words in (("variant_of", "Variant of"), ("identical_core_to", "Runs the same as"))]
    return {
        "entry": entry,
        "head": _head(entry),
        "links": [(words, other) for words, other in links if other],
        "formula": _formula(entry),
        "findings": entry.findings,
        "coordinates": _coordinates(entry),
        "family": site.family.get(entry.id),
        "terms": [_term(row, values) for row in terms(entry) for values in (row["tuples"] or [None])] if entry.objective else [],
        "results": [_results(entry.id, one, strips[one.id]) for one in held],
        "plots": next((made for one in held if (made := _plots(entry.id, one, middles[one.id]))), None),
        "failures": [found for one in held if (found := _failures(entry.id, one, site))],
        "relatives": [{"id": other.id, "changes": other.changes[:MOST_CHANGES]} for other in relatives(entry, site.registry)],
        "documents": [(title, columns, rows) for title, name, columns in DOCUMENTS if (rows := _rows(getattr(entry, name), columns))],
        "source": site.sources.get(entry.id),
    }


def _head(entry: MethodEntry) -> list[Any]:
    paper = entry.paper
    found: list[Any] = [Markup('<a href="https://arxiv.org/abs/{}" rel="external">arXiv {}</a>').format(paper.arxiv, paper.arxiv)] if paper.arxiv else []
    found += [str(part) for part in (paper.first_author, paper.year, paper.venue, paper.part) if part]
    if entry.surveys:
        found.append(f"survey{'s' * (len(entry.surveys) > 1)} {' and '.join(entry.surveys)}")
    return found + ([f"anchor: {entry.anchor}"] if entry.anchor else [])


def _formula(entry: MethodEntry) -> dict[str, Any] | None:
    lines = formula(entry)
    if not lines:
        return None
    rows = [(line.left, line.right, line.depth) for line in lines if line.left]
    where = [_remark(line.right) for line in lines if not line.left]
    text = "\n".join(line.text for line in lines)
    return {"equations": Markup(equations(rows)), "where": where, "text": text, "latex": aligned(lines)}


def _remark(latex: str) -> Markup:
    """A remark below the formula; one that is words alone stays text, which breaks into lines where a formula cannot."""
    words = re.fullmatch(r"\\text\{([^{}\\]*)\}", latex)
    return escape(words[1]) if words else Markup(mathml(latex))


def _coordinates(entry: MethodEntry) -> list[tuple[str, list[str]]]:
    if entry.coordinates is None:
        return []
    values = ((axis, getattr(entry.coordinates, axis)) for axis in SETS)
    return [(axis, list(held) if isinstance(held, tuple) else [held]) for axis, held in values]


def _term(row: Mapping[str, Any], values: Sequence[Any] | None) -> list[str]:
    place = ["holds the student in place", "–", "–", "–"] if values is None else [", ".join(values[0]), *values[1:]]
    return [str(row["term"] + 1), row["kind"].replace("_", " "), *(value.replace("_", " ") for value in place)]


def _rows(items: Sequence[Any], columns: Sequence[str]) -> list[list[Any]]:
    return [[getattr(item, name) for name in columns] for item in items]


# --- results


def _values(one: Comparison) -> dict[str, list[float]]:
    """Column → the values of all methods, for the strips."""
    found: dict[str, list[float]] = {}
    for method, cells in one.cells.items():
        for key, cell in cells.items():
            if key.rpartition(".")[2] in SHOWN and cell.value is not None and method not in ("student", "teacher"):
                found.setdefault(key, []).append(cell.value)
    return found


def _results(method: str, one: Comparison, values: Mapping[str, list[float]]) -> dict[str, Any]:
    titles = {column.key: column.title for column in one.tables["main"].columns}
    cells, show = one.cells.get(method, {}), Cells("../")
    keys = [key for suffix in SHOWN for key in cells if key in titles and key.rpartition(".")[2] == suffix]
    lines = [
        {"title": titles[key], "html": show(cells[key], one.id, method, f"c-{key}"), "strip": strip(values.get(key, []), cells[key].value)}
        for key in keys
        if cells[key].text
    ]
    seeds = len(one.seeds)
    return {"id": one.id, "about": f"{len(one.board.trained)} methods, {seeds} seed{'s' * (seeds != 1)}, pair {one.pair}", "lines": lines}


def _middles(one: Comparison) -> dict[str, dict[str, list[float]] | None]:
    """Quantity → the mean over all methods' curves, as a line to compare with."""
    found: dict[str, dict[str, list[float]] | None] = {}
    for title, columns in PLOTS.items():
        lines = [line for method in one.board.trained if (line := over_seeds(one.board.curves.get(method, []), columns))]
        found[title] = mean_line(lines)
    return found


def _plots(method: str, one: Comparison, middles: Mapping[str, Any]) -> dict[str, Any] | None:
    curves = one.board.curves.get(method, [])
    lines = {title: line for title, columns in PLOTS.items() if (line := over_seeds(curves, columns))}
    if not lines:
        return None
    about = (
        f"In {one.id}, over supervised tokens. Line: mean over {len(curves)} seed{'s' * (len(curves) != 1)}; band: least to largest; thin: mean of all methods."
    )
    return {"about": about, "made": [plot(title, line, middles[title], "mean of all methods") for title, line in lines.items()]}


# --- failures


def counts_of(levels: Sequence[str]) -> dict[str, int]:
    """How many runs had which level."""
    return {"red": levels.count("red"), "amber": levels.count("amber"), "silent": levels.count("silent"), "all": len(levels)}


def fired_rows(method: str, one: Comparison) -> list[dict[str, Any]]:
    """The modes that fired in some run of a method: in how many, when first, and the reason of the worst."""
    rows = []
    for mode, levels in sorted(one.board.findings.get(method, {}).items()):
        if not set(FIRED) & set(levels):
            continue
        found = [attempt.findings[mode] for attempt in one.attempts[method] if attempt.counts and mode in attempt.findings]
        fired = [finding for finding in found if finding["level"] in FIRED]
        steps = [finding["first_step"] for finding in fired if finding.get("first_step") is not None]
        reason = next((str(finding.get("reason") or "") for finding in sorted(fired, key=lambda finding: finding["level"] != "red")), "")
        rows.append({
            "mode": mode, "counts": counts_of(levels), "first": min(steps, default="–"), "reason": reason, "comparison": one.id, "method": method,
            "idle": method != IDLE and mode in one.board.idle_modes(),
        })  # fmt: skip
    return rows


def _failures(method: str, one: Comparison, site: Site) -> dict[str, Any] | None:
    found = one.board.findings.get(method)
    if not found:
        return None
    rows = [row | {"title": site.modes.get(row["mode"], {}).get("title", "")} for row in fired_rows(method, one)]
    unmeasured = sum(set(levels) == {"not_measured"} for levels in found.values())
    silent = len(found) - len(rows) - unmeasured
    return {"id": one.id, "fired": rows, "rest": f"{silent} modes silent in all runs, {unmeasured} not measured."}
