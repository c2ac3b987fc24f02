"""Published beside measured: the figures that papers report of a comparison's methods, and whether their orders are ours.

Papers train other models on other tasks, so a figure of theirs is never compared with one of ours, only shown beside it; orders can be.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats as distributions

from zoo import stats
from zoo.entry import MethodEntry
from zoo.entry.fields import Reported
from zoo.paths import data_root
from zoo.records import Record
from zoo.table_cells import gap_cell, records, score_cell
from zoo.table_families import INFERRED, tau_cell
from zoo.table_forms import Column, Table, TableCell
from zoo.table_study import Study, number_cell, p_cell
from zoo.yamlio import read_yaml

NUMBER = r"[-−]?\d*\.?\d+"
FIGURE = re.compile(rf"^({NUMBER})\s*%?(?:\s+\(([^()]*)\))?$")
NAMED = re.compile(rf"^(\D+?)\s+({NUMBER})\s*%?$")
LOWER_IS_BETTER = ("rate of harm", "harmful", "time", "flops", "memory", "error", "loss", "length", "perplexity", "tokens")
SHARED = ("'s comparison",)  # a setting that several papers' methods were run in
WHOLE = "all settings"


@dataclass(frozen=True)
class Order:
    """What one paper reports of several methods in one setting; larger scores are better."""

    paper: str
    setting: str
    metric: str
    score: Mapping[str, float]


def published_table(scores: pd.DataFrame, chosen: Sequence[Record], registry: Mapping[str, MethodEntry]) -> Table | None:
    """One row per figure that a paper reports of a method of the comparison, with ours beside it; None where there is none."""
    study, where = Study.of(scores), _setting_of(chosen)
    rows = []
    for method in study.trained:
        mine = [row for row in study.rows if row["method"] == method]
        behind = records(mine)
        for reported in registry[method].reported if method in registry else ():
            same = "yes" if _same_setting(reported, study, chosen) else "no"
            labels = [TableCell(text, records=behind) for text in (method, reported.setting, reported.metric)]
            plain = [TableCell(text, records=behind) for text in (str(reported.value), reported.source, where, same)]
            ours = [cell for task in study.inside for cell in (score_cell(task.of(mine)), gap_cell(task.of(mine), study.rows))]
            rows.append((*labels, *plain, *ours))
    if not rows:
        return None
    columns = [Column(name, title, number=False) for name, title in
               (("method", "method"), ("setting", "the paper's setting"), ("metric", "its metric"), ("published", "published"), ("source", "source"),
                ("here", "here"), ("same_setting", "same setting"))]  # fmt: skip
    for task in study.inside:
        columns += [
            Column(f"{task.name}.score", task.name, error=True),
            Column(f"{task.name}.gap_closed", f"gap closed, {task.name}", error=True, interval=True),
        ]
    silent = [method for method in study.trained if method in registry and not registry[method].reported]
    remarks = [
        "Published: as the entry quotes the paper, or somebody's table of it. Here: this comparison, mean over seeds.",
        "Unless the row says so, models, data, budget and metric differ: the numbers stand beside each other and cannot be subtracted. See `published_orders`.",
    ]
    remarks += [f"No figure in the registry: {', '.join(silent)}."] if silent else []
    return Table(f"{study.heading} – published and measured", tuple(columns), tuple(rows), tuple(remarks), labels=3)


def _setting_of(chosen: Sequence[Record]) -> str:
    run = chosen[0].run
    title = (run.resolved.get("pair") or {}).get("title") or run.pair
    return f"{run.pair}: {title}" if title != run.pair else title


def _same_setting(reported: Reported, study: Study, chosen: Sequence[Record]) -> bool:
    """Whether the figure's text names our student and one of our tasks."""
    text = re.sub(r"[^a-z0-9]", "", f"{reported.setting} {reported.metric}".lower())
    pair: Mapping[str, Any] = chosen[0].run.resolved.get("pair") or {}
    student = str((pair.get("student") or {}).get("hub") or "").rpartition("/")[2]
    names = [re.sub(r"[^a-z0-9]", "", name.lower()) for name in (student, *(task.task for task in study.inside))]
    return bool(names[0]) and names[0] in text and any(name and name in text for name in names[1:])


# --- orders


def orders(registry: Mapping[str, MethodEntry], names: Mapping[str, str] | None = None) -> list[Order]:
    """Every setting in which a paper reports two methods of the registry or more, by paper and setting.

    An entry's figure may name others, "48.9 (plain OPD 48.3, SFT 41)"; figures of several entries belong together where the setting is one
    paper's comparison of them. Entries whose objective is inferred are left out.
    """
    known = known_names() if names is None else names
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    for entry in registry.values():
        if entry.evidence.level == INFERRED:
            continue
        for reported in entry.reported:
            shared = any(reported.setting.endswith(ending) for ending in SHARED)
            paper = reported.source if shared else entry.paper.arxiv or entry.id
            for name, value in _figures(entry.id, reported, known):
                if name in registry and registry[name].evidence.level != INFERRED:
                    found.setdefault((paper, reported.setting, reported.metric), {}).setdefault(name, value)
    return [Order(*key, dict(sorted(score.items()))) for key, score in sorted(found.items()) if len(score) > 1]


def _figures(method: str, reported: Reported, known: Mapping[str, str]) -> Iterator[tuple[str, float]]:
    """The numbers of one reported value, by entry; smaller-is-better ones turned round."""
    match = FIGURE.match(str(reported.value).strip())
    if match is None:
        return
    sign = -1.0 if any(word in reported.metric.lower() for word in LOWER_IS_BETTER) else 1.0
    yield method, sign * _value(match[1])
    for part in (match[2] or "").split(","):
        named = NAMED.match(part.strip())
        if named is not None and named[1] in known:
            yield known[named[1]], sign * _value(named[2])


def _value(text: str) -> float:
    return float(text.replace("−", "-"))


@cache
def known_names() -> Mapping[str, str]:
    """What papers call an entry."""
    file = data_root() / "registry" / "published_names.yaml"
    return {str(name): str(entry) for name, entry in read_yaml(file)[0].items()}


def orders_table(scores: pd.DataFrame, registry: Mapping[str, MethodEntry]) -> Table | None:
    """Each published order with two methods of the comparison or more, ours, and their rank correlation; None where there is none, and
    with one seed, which gives no order."""
    study = Study.of(scores)
    if len(study.seeds) < 2:
        return None
    measured = {method: value for method in study.trained if not math.isnan(value := _mean(study, method))}
    rows, kept = [], []
    for order in orders(registry):
        methods = sorted(order.score.keys() & measured.keys())
        if len(methods) < 2:
            continue
        found = stats.rank_agreement(order.score, measured)
        behind = records(row for row in study.rows if row["method"] in methods)
        kept.append((order, methods, found.kendall))
        rows.append((*(TableCell(text, records=behind) for text in (order.paper, order.setting, order.metric)),
                     TableCell(str(len(methods)), len(methods), records=behind), TableCell(_ordered(order.score, methods), records=behind),
                     TableCell(_ordered(measured, methods), records=behind), tau_cell(found.kendall, len(methods), behind),
                     p_cell(found.p_value, behind)))  # fmt: skip
    if not rows:
        return None
    whole = _whole(kept, measured, records(study.rows))
    columns = (*(Column(name, title, number=False) for name, title in (("paper", "paper"), ("setting", "its setting"), ("metric", "its metric"))),
               Column("methods", "methods"), Column("published", "published order", number=False), Column("measured", "ours", number=False),
               Column("kendall_tau", "Kendall's tau-b", interval=True), Column("p_value", "p"))  # fmt: skip
    remarks = (
        f"Ours: by mean score over seeds and {', '.join(task.name for task in study.inside)}. Best first; = ties. No paper's setting is ours: other models, "
        "data and budgets, so an order that differs refutes nothing; a paper's own method leads its order as good as always.",
        "tau-b: 1 the same order, −1 the reverse. Brackets: Fieller's approximate 95 % interval over methods, from five on; p: under random order, two-sided.",
        f"{WHOLE}: pairs of methods that stand in one paper's order, in how many ours agrees, and the mean of tau with Student's 95 % interval over papers.",
        "Entries whose objective is inferred are in no order. Figures are taken as printed, without error; names of methods: registry/published_names.yaml.",
    )
    return Table(f"{study.heading} – published orders and ours", columns, (*rows, whole), remarks, labels=3)


def _mean(study: Study, method: str) -> float:
    found = [[row["score"] for row in study.complete(task, method)] for task in study.inside]
    return float(stats.comparable(np.mean(found))) if found and all(found) else math.nan


def _ordered(score: Mapping[str, float], methods: Sequence[str]) -> str:
    best = sorted(methods, key=lambda method: (-score[method], method))
    text = best[0]
    for before, method in pairwise(best):
        text += (" = " if score[before] == score[method] else " > ") + method
    return text


def _whole(kept: Sequence[tuple[Order, Sequence[str], float]], measured: Mapping[str, float], behind: tuple[str, ...]) -> tuple[TableCell, ...]:
    """All orders together: pairs that agree, and the mean tau over papers, each paper's settings averaged first."""
    same = other = 0
    papers: dict[str, list[float]] = {}
    for order, methods, tau in kept:
        signs = [np.sign((order.score[a] - order.score[b]) * (measured[a] - measured[b])) for i, a in enumerate(methods) for b in methods[i + 1 :]]
        same, other = same + sum(sign > 0 for sign in signs), other + sum(sign < 0 for sign in signs)
        if not math.isnan(tau):
            papers.setdefault(order.paper, []).append(tau)
    values = [float(np.mean(taus)) for _, taus in sorted(papers.items())]
    mean, interval = float(np.mean(values)) if values else math.nan, None
    if len(values) >= stats.MIN_SEEDS and np.std(values) > 0:
        half = float(distributions.t.isf(0.025, len(values) - 1)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
        interval = (max(mean - half, -1.0), min(mean + half, 1.0))
    cell = number_cell(mean, behind, 2)
    bracket = f" [{number_cell(interval[0], (), 2).text}, {number_cell(interval[1], (), 2).text}]" if interval else ""
    number = len({name for _, found, _ in kept for name in found})
    plain = [TableCell(text, records=behind) for text in (WHOLE, f"{len(kept)} settings of {len(papers)} papers", "")]
    return (*plain, TableCell(str(number), number, records=behind), TableCell(f"{same} of {same + other} pairs agree", records=behind),
            TableCell("", records=behind), TableCell(cell.text + bracket, cell.value, None, (), behind, interval), TableCell("–", records=behind))  # fmt: skip
