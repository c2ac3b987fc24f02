"""What the reporting checklist is filled in from, and the small questions that its answers ask of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from zoo.entry import MethodEntry
from zoo.records import Record
from zoo.score_frame import ANCHORS
from zoo.table_failures import Diagnosis
from zoo.table_study import Study


@dataclass(frozen=True)
class Answer:
    """What is known and what is missing; stated where nothing is missing, missing where nothing is known."""

    known: str
    missing: str = ""

    @property
    def status(self) -> str:
        """stated, in part or missing."""
        return "missing" if not self.known else "in part" if self.missing else "stated"


@dataclass(frozen=True)
class Facts:
    """A comparison's headline rows, the records that count, the registry and what detectors said."""

    study: Study
    chosen: tuple[Record, ...]
    registry: Mapping[str, MethodEntry]
    diagnoses: tuple[Diagnosis, ...]

    @cached_property
    def newest(self) -> Record:
        """The latest record: its declaration holds."""
        return max(self.chosen, key=lambda record: (record.run.created, record.run.uuid))

    @property
    def asked(self) -> Mapping[str, Any]:
        """The comparison as it was declared."""
        return self.newest.run.asked

    @cached_property
    def pair(self) -> Mapping[str, Any]:
        """The pair as it was resolved; empty where the records do not say."""
        found = next((record.run.resolved.get("pair") for record in self.chosen if record.run.resolved.get("pair")), None)
        return found if isinstance(found, Mapping) else {}

    @cached_property
    def trained(self) -> list[Record]:
        """The runs that trained a method."""
        return [record for record in self.chosen if record.run.method not in ANCHORS]

    @cached_property
    def bodies(self) -> dict[str, Mapping[str, Any]]:
        """What each method's record says was run."""
        found = {record.run.method: record.run.resolved.get("body") for record in self.trained}
        return {method: body for method, body in sorted(found.items()) if isinstance(body, Mapping) and body.get("objective")}

    @cached_property
    def entries(self) -> dict[str, MethodEntry]:
        """The methods' entries, where the registry has them."""
        return {name: self.registry[name] for name in sorted({record.run.method for record in self.trained}) if name in self.registry}

    def terms(self) -> Iterator[Mapping[str, Any]]:
        """Every term of every method's objective."""
        for body in self.bodies.values():
            yield from (term for term in body["objective"] if isinstance(term, Mapping))

    def coordinates(self, name: str) -> str:
        """How many methods have each value of a coordinate."""
        values: Counter[str] = Counter()
        for entry in self.entries.values():
            if entry.coordinates is not None:
                found = getattr(entry.coordinates, name)
                values.update(found if isinstance(found, tuple) else (found,))
        return counted(values)

    def rows(self, family: str | None = None) -> list[Mapping[str, Any]]:
        """The headline rows of trained methods, of one family if asked."""
        return [row for row in self.study.rows if row["method"] not in ANCHORS and family in (None, row["family"])]


def kind(part: Any) -> str:
    """A component's kind as the records write it."""
    if isinstance(part, Mapping):
        return str(part.get("kind") or part.get("author") or part.get("term") or "?")
    return str(part)


def counted(values: Iterable[str] | Counter[str]) -> str:
    """`a 3, b 1`: the most frequent first, then by name."""
    counts = Counter(values)
    return ", ".join(f"{name.replace('_', ' ')} {number}" for name, number in sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def joined(*parts: str) -> str:
    """Sentences that have something to say."""
    return "; ".join(part for part in parts if part)


def span(values: Iterable[float], form: str = ",.0f") -> str:
    """One number, or the least and the greatest."""
    found = sorted(set(values))
    if not found:
        return ""
    return f"{found[0]:{form}}" if len(found) == 1 else f"{found[0]:{form}} to {found[-1]:{form}}"
