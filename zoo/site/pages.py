"""The pages about the whole: start, leaderboard, comparisons, taxonomy, guides."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from zoo.entry.totals import totals
from zoo.families import ABOUT, ANCHOR_FAMILY
from zoo.figures.build import figures
from zoo.figures.style import for_the_dark
from zoo.score_frame import ANCHORS
from zoo.site.boards import comparison_board, gap_scale, leaderboard, registry_board, slug
from zoo.site.content import Comparison, Site, number
from zoo.site.drawn import bar
from zoo.site.render import Writer
from zoo.table_cells import LEGEND
from zoo.taxonomy import matrix

TOP = 14
MAPS = (("estimator", "routing"), ("signal", "access"), ("estimator", "granularity"))
LONG = {"signal": "feedback_signal", "access": "teacher_access", "granularity": "loss_granularity"}
EXAMPLES = ("eopd", "gkd")
SHORT = {"improvement": "Improvement", "pareto": "Cost", "curves": "Curves", "profiles": "Profiles", "taxonomy": "Coordinates", "failures": "Failures",
         "trajectories": "Trajectories"}  # fmt: skip


def write_whole(writer: Writer, pictures: Mapping[str, list[dict[str, Any]]]) -> None:
    """Start page, leaderboard, list of methods, guides."""
    site, one = writer.site, writer.site.featured
    counted = totals(site.registry.values())
    writer.page("index.html", "index.html", counts=_counts(site), **_top(site), family_cards=_cards(site))
    others = [other for other in site.comparisons if one and other.id != one.id]
    reading = next((remark for remark in one.tables["main"].remarks if "interval" in remark), "") if one else ""
    writer.page("leaderboard.html", "leaderboard.html", rows=leaderboard(site), others=others, reading=reading)
    writer.page("methods/index.html", "methods.html", rows=registry_board(site), totals=counted.lines())
    writer.page("read.html", "read.html", legend=list(LEGEND.items()))
    example = next((site.registry[name] for name in EXAMPLES if name in site.registry), None)
    writer.page("add.html", "add.html", example=example, source=site.sources.get(example.id, "") if example else "")
    _taxonomy(writer, next((picture for picture in pictures.get(one.id, []) if picture["name"] == "taxonomy"), None) if one else None)


def _counts(site: Site) -> list[tuple[str, str, str]]:
    counted = totals(site.registry.values())
    records = sum(len(mine) for one in site.comparisons for mine in one.attempts.values())
    found = [(f"{counted.methods}", "methods", "methods/index.html"), (f"{counted.executable}", "of them run", "methods/index.html")]
    found += [(f"{len(site.comparisons)}", "comparisons", "compare/index.html"), (f"{records:,}", "recorded runs", "compare/index.html")]
    return found + ([(f"{len(site.modes)}", "failure modes", "failures/index.html")] if site.modes else [])


def _top(site: Site) -> dict[str, Any]:
    """The featured comparison in short: its best methods and the anchors by gap closed, where seeds allow a ranking, else by name."""
    one = site.featured
    key = next((column.key for column in one.tables["main"].columns if column.key.endswith("gap_closed")), None) if one else None
    if one is None or key is None:
        return {"top": [], "top_about": "", "ends": ("0%", "100%")}
    scale, ranked = gap_scale(one), len(one.seeds) >= 4
    held = [(method, one.cells[method][key]) for method in one.board.methods if one.cells.get(method, {}).get(key) and method not in ("student", "teacher")]
    held = [(method, cell) for method, cell in held if cell.value is not None]
    held.sort(key=lambda item: (-(item[1].value or 0.0) if ranked else 0.0, item[0]))
    rows = [
        {"id": method, "anchor": method in ANCHORS, "text": cell.text, "bar": bar(cell, scale), "records": f"records/{one.id}/{method}.html#c-{key}"}
        for method, cell in held[:TOP]
        if method in site.registry
    ]
    order = f"the {len(rows)} methods that close most of it" if ranked else "by name: too few seeds for a ranking"
    intervals = "; bars: 95 % intervals over seeds and items" if ranked else ""
    about = f"Share of the gap between student and teacher that is closed: {order}{intervals}."
    return {"top": rows, "top_about": about, "ends": (scale.percent(0.0), scale.percent(1.0))}


def _cards(site: Site) -> list[tuple[str, str, int]]:
    held = list(site.family.values())
    return [(name, about, held.count(name)) for name, about in ABOUT.items() if name != ANCHOR_FAMILY]


def write_comparisons(writer: Writer) -> dict[str, list[dict[str, Any]]]:
    """A page for each comparison with its figures, and their list; returns the figures by comparison."""
    found = {one.id: _pictures(writer, one) for one in writer.site.comparisons}
    for one in writer.site.comparisons:
        others = [key for key in one.tables if key != "main"]
        shown = {"figures": found[one.id], "others": others, "notes": one.tables["main"].footnotes}
        writer.page(f"compare/{one.id}.html", "comparison.html", one=one, rows=comparison_board(writer.site, one), **shown)
    writer.page("compare/index.html", "comparisons.html", listed=[_listed(one) for one in _by_size(writer.site)])
    return found


def _by_size(site: Site) -> list[Comparison]:
    return sorted(site.comparisons, key=lambda one: (-one.size, one.id))


def _listed(one: Comparison) -> dict[str, Any]:
    attempts = [attempt for mine in one.attempts.values() for attempt in mine]
    failed = sum(attempt.counts and attempt.record.run.status != "success" for attempt in attempts)
    return {
        "id": one.id,
        "title": one.title,
        "methods": len(one.board.trained),
        "seeds": len(one.seeds),
        "pair": one.pair,
        "failed": failed,
        "records": len(attempts),
    }


def _pictures(writer: Writer, one: Comparison) -> list[dict[str, Any]]:
    """The comparison's figures as files beside its page."""
    made = []
    for figure in figures(one.board):
        name = f"{one.id}-{figure.kind.name}.svg"
        svg = for_the_dark(figure.file("svg"))
        writer.file(f"compare/{name}", svg)
        size = re.search(rb'<svg [^>]*?width="([\d.]+)pt" height="([\d.]+)pt"|viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
        wide, high = [float(value) for value in size.groups() if value] if size else (700.0, 500.0)
        made.append({
            "name": figure.kind.name, "short": SHORT[figure.kind.name], "caption": figure.kind.caption, "file": name,
            "width": round(wide * 4 / 3), "height": round(high * 4 / 3),
        })  # fmt: skip
    return made


def _taxonomy(writer: Writer, picture: Mapping[str, Any] | None) -> None:
    site, one, maps, tuples = writer.site, writer.site.featured, [], 0
    for rows_key, columns_key in MAPS:
        held = matrix(site.registry, rows_key, columns_key)
        tuples = held.tuples
        rows = list(dict.fromkeys(row for row, _ in held.cells))
        columns = [column for column in dict.fromkeys(column for _, column in held.cells) if any(held.cells[row, column].methods for row in rows)]
        rows = [row for row in rows if any(held.cells[row, column].methods for column in columns)]
        most = max(len(cell.methods) for cell in held.cells.values()) or 1
        made = []
        for row in rows:
            cells = [_map_cell(held.cells[row, column], column, most, one) for column in columns]
            made.append((row, cells))
        long = [LONG.get(key, key) for key in (rows_key, columns_key)]
        maps.append({"rows_title": long[0], "columns_title": long[1], "rows_key": long[0], "columns_key": long[1], "columns": columns, "rows": made})
    shown = {**picture, "file": f"compare/{picture['file']}"} if picture else None
    writer.page("taxonomy.html", "taxonomy.html", maps=maps, tuples=tuples, picture=shown)


def _map_cell(cell: Any, column: str, most: int, one: Comparison | None) -> dict[str, Any]:
    scores = [one.board.mean(method) for method in cell.methods if one.board.score.get(method)] if one else []
    names = ", ".join(cell.methods[:12]) + (" …" if len(cell.methods) > 12 else "")
    shade = 0.12 + 0.6 * (len(cell.methods) / most) ** 0.5
    said = {"state": cell.state, "words": cell.composition or cell.refusal or "", "column": column}
    return said | {"count": len(cell.methods), "names": names, "shade": f"{shade:.2f}", "score": number(float(np.mean(scores)), 2) if scores else ""}


__all__ = ["slug", "write_comparisons", "write_whole"]
