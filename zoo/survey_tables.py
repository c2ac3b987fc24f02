"""The surveys' own tables, regenerated from the registry: survey A's coordinates (v1) and tree (v4), survey B's variables.

Survey A is arXiv 2604.00626, survey B arXiv 2606.22793. Every method with its evidence mark; where what runs here differs from what a survey
prints, the entry's reason stands below the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from zoo.components.base import Component
from zoo.components.rollouts import Mixture, Replay, Stream
from zoo.components.terms.base import Term, gates_and_weights
from zoo.coordinates import RESERVED
from zoo.entry import MethodEntry
from zoo.entry.totals import totals
from zoo.table_forms import Column, Table, TableCell, to_csv, to_latex, to_markdown

NAMES = ("survey_a_coordinates", "survey_a_tree", "survey_b_variables")
FIRST = ("feedback_signal", "teacher_access", "loss_granularity")
NONE = "–"


def survey_files(registry: Mapping[str, MethodEntry]) -> dict[str, bytes]:
    """Every file by name: a function of the registry alone, the same bytes each time."""
    entries = [entry for entry in registry.values() if entry.anchor is None]
    made = zip(NAMES, (coordinates_table(entries), tree_table(entries), variables_table(entries)), strict=True)
    return {f"{name}.{form}": text.encode() for name, table in made for form, text in
            (("md", to_markdown(table)), ("tex", to_latex(table)), ("csv", to_csv(table)))}  # fmt: skip


def coordinates_table(entries: Iterable[MethodEntry]) -> Table:
    """Survey A, version 1: what it prints for each method, and what follows from the objective that runs here."""
    found = [entry for entry in entries if "A" in entry.survey_coordinates]
    found.sort(key=lambda entry: (_printed(entry), entry.id))
    rows = [
        (*_names(entry), _cell(_printed(entry)), _cell(_derived(entry)), _agreement(entry), _cell(entry.evidence.level))
        for entry in found
    ]  # fmt: skip
    agreeing = sum(row[4].text == "yes" for row in rows)
    remarks = (
        "Survey A (arXiv 2604.00626), version 1: feedback signal · teacher access · loss granularity, one value each.",
        "Here: derived from the terms that run; several values where terms differ. A null of the survey agrees with anything.",
        f"{len(rows)} methods, {agreeing} agree. {_evidence(found)}",
    )
    return Table("Survey A's coordinates, printed and derived", _columns("method", "entry", "survey A", "here", "agree", "evidence"), tuple(rows), remarks)


def tree_table(entries: Iterable[MethodEntry]) -> Table:
    """Survey A, version 4: every method by leaf of its tree, with the coordinates that it has here."""
    found = sorted((entry for entry in entries if entry.survey_leaf), key=lambda entry: (str(entry.survey_leaf), entry.id))
    rows = [
        (_cell(str(entry.survey_leaf).removeprefix("A")), *_names(entry), *_coordinates(entry), _runs(entry), _cell(entry.evidence.level)) for entry in found
    ]
    columns = _columns("leaf", "method", "entry", "feedback signal", "teacher access", "granularity", "estimator", "routing", "runs here", "evidence")
    remarks = (
        "Survey A (arXiv 2604.00626), version 4: the leaves of its tree, by section. Coordinates are those of the zoo, derived from what runs.",
        f"{len(rows)} entries. {_evidence(found)}",
    )
    return Table("Survey A's tree", columns, tuple(rows), remarks)


def variables_table(entries: Iterable[MethodEntry]) -> Table:
    """Survey B: the values that each method gives to its variables."""
    found = sorted((entry for entry in entries if "B" in entry.surveys and entry.objective), key=lambda entry: entry.id)
    rows = [(*_names(entry), *(_cell(text) for text in variables(entry).values()), _cell(entry.evidence.level)) for entry in found]
    titles = [name.replace("_", " ") for name in (variables(found[0]) if found else {})]
    remarks = (
        "Survey B (arXiv 2606.22793): its variables, read off the objective that runs here; anchors count as regularisation.",
        "Several values: one for each term, in order, repetitions left out. docs/kinds.md has the formula of each.",
        f"{len(rows)} methods. {_evidence(found)}",
    )
    return Table("Survey B's variables", _columns("method", "entry", *titles, "evidence"), tuple(rows), remarks)


def variables(entry: MethodEntry) -> dict[str, str]:
    """Survey B's variables of one entry, as text."""
    signals = [term for term in entry.objective if term.role == "signal"]
    anchors = [term for term in entry.objective if term.role == "anchor"]
    return {
        "state_source": _joined(state for stream in entry.rollouts.values() for state in _states(stream)),
        "feedback": _joined(_feedback(entry, signals)),
        "support": _joined(_labels(signals, "support")),
        "comparator": _joined([*_labels(signals, "divergence"), *_labels(signals, "loss"), *_rewards(entry, signals)]),
        "temporal_credit": _joined(_labels(signals, "credit")),
        "routing": _joined(_labels(signals, "routing")),
        "gates_and_weights": _joined(label(part) for term in signals for part in gates_and_weights((*term.gates, *term.weights))),
        "shaping": _joined(label(part) for term in signals for part in (*term.shaping, *(getattr(term, "ratio", None) or ()))),
        "regularisation": _joined([*(f"{label(getattr(term, 'divergence', term))} to {getattr(term, 'teacher', 'texts')}" for term in anchors),
                                   *_update(entry)]),
        "normalisation": _joined(_labels(signals, "reduce")),
    }  # fmt: skip


def label(part: Any) -> str:
    """A component's kind, with the plain values that the entry gives it."""
    if not isinstance(part, Component):
        return str(part)
    tag = next((name for name in ("kind", "author", "term") if hasattr(part, name)), None)
    plain = {name: getattr(part, name) for name in type(part).model_fields if name in part.model_fields_set and name not in ("kind", "author", "term")}
    values = [f"{name} {_plain(value)}" for name, value in plain.items() if isinstance(value, int | float | str | bool)]
    return " ".join([str(getattr(part, tag)) if tag else type(part).__name__.lower(), *([f"({', '.join(values)})"] if values else [])])


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _states(stream: Stream) -> Iterator[str]:
    if isinstance(stream, Mixture):
        yield "mixture of " + " and ".join(str(name) for name in stream.of)
    elif isinstance(stream, Replay):
        yield f"replayed {label(stream.of).split(' ')[0]}"
    else:
        yield label(stream).split(" (")[0]
    if stream.environment is not None:
        yield f"turns with {label(stream.environment).split(' (')[0]}"


def _feedback(entry: MethodEntry, signals: Iterable[Term]) -> Iterator[str]:
    """Who is asked, and for what."""
    for name in dict.fromkeys(name for term in signals for name in term.scorers(entry.rewards) if name not in RESERVED):
        teacher = entry.teachers[name]
        yield teacher.kind + (" in a context" if teacher.context is not None else "")  # type: ignore[attr-defined]
    yield from (reward.kind for reward in entry.rewards.values())  # type: ignore[attr-defined]


def _labels(terms: Iterable[Term], field: str) -> list[str]:
    return [label(getattr(term, field)) for term in terms if getattr(term, field, None) is not None]


def _rewards(entry: MethodEntry, terms: Iterable[Term]) -> Iterator[str]:
    """What a policy gradient's terms are rewarded by: a kind, or that of the named reward."""
    for reward in (getattr(term, "reward", None) for term in terms):
        if reward is not None:
            yield label(reward if isinstance(reward, Component) else entry.rewards[reward])


def _update(entry: MethodEntry) -> Iterator[str]:
    for name in ("anchor", "step", "adapter"):
        part = getattr(entry.update, name, None)
        if isinstance(part, Component) and label(part) not in ("plain", "none"):
            yield f"{name} {label(part)}"
    if label(entry.update).split(" ")[0] != "adamw":
        yield label(entry.update)


def _joined(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(text for text in texts if text)) or NONE


def _names(entry: MethodEntry) -> tuple[TableCell, TableCell]:
    return _cell(entry.name), _cell(entry.id)


def _cell(text: str, *notes: str) -> TableCell:
    return TableCell(text, notes=notes)


def _columns(*titles: str) -> tuple[Column, ...]:
    return tuple(Column(title.replace(" ", "_"), title, number=False) for title in titles)


def _printed(entry: MethodEntry) -> str:
    printed = entry.survey_coordinates["A"]
    return " · ".join(_words(getattr(printed, name) or NONE) for name in FIRST)


def _derived(entry: MethodEntry) -> str:
    if entry.coordinates is None:
        return NONE
    return " · ".join(_words(getattr(entry.coordinates, name)) for name in FIRST)


def _agreement(entry: MethodEntry) -> TableCell:
    if entry.coordinates is None:
        return _cell(NONE, f"{entry.id}: {entry.blocked_by}")
    reason = entry.survey_disagreement.get("A")
    return _cell("yes") if reason is None else _cell("no", f"{entry.id}: {reason}")


def _coordinates(entry: MethodEntry) -> tuple[TableCell, ...]:
    here = entry.coordinates
    return tuple(_cell(NONE if here is None else _words(getattr(here, name))) for name in (*FIRST, "estimator", "routing"))


def _runs(entry: MethodEntry) -> TableCell:
    if entry.kind == "analysis":
        return _cell("analysis")
    return _cell("yes") if entry.executable else _cell("no", f"{entry.id}: {entry.blocked_by}")


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _evidence(entries: Iterable[MethodEntry]) -> str:
    return f"Totals: {'; '.join(totals(entries).lines())}."
