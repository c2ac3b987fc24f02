"""Which entries differ in one component, and in which: the differences of `zoo diff`, gathered by the component that holds them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from zoo.entry import MethodEntry, body
from zoo.entry.bodies import TAGS

NEAREST = 3


@dataclass(frozen=True)
class Change:
    """One component that differs: another kind, there on one side only, or the same kind with other settings.

    `size` is how many components that is: a whole term that is replaced, added or left out counts all that it is made of.
    """

    path: str
    first: str
    second: str
    size: int = 1

    def __str__(self) -> str:
        return f"{self.path}: {self.first} → {self.second}"


@dataclass(frozen=True)
class Relative:
    """Another entry and the components in which it differs."""

    id: str
    changes: tuple[Change, ...]

    @property
    def distance(self) -> int:
        """How many components differ."""
        return sum(change.size for change in self.changes)


def changes(first: MethodEntry, second: MethodEntry) -> tuple[Change, ...]:
    """The components that differ between two entries; none exactly where `zoo diff` finds nothing."""
    return body_changes(_body(first), _body(second))


def body_changes(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[Change, ...]:
    """The components that differ between two bodies with all defaults written out."""
    return tuple(_differences(first, second, ""))


_BODIES: dict[int, tuple[MethodEntry, dict[str, Any]]] = {}


def _body(entry: MethodEntry) -> dict[str, Any]:
    """The entry's body, written out once: every entry is compared with every other. Entries are frozen, but hold mappings, so they have
    no hash; keeping them keeps their identity theirs."""
    if id(entry) not in _BODIES:
        _BODIES[id(entry)] = (entry, body(entry))
    return _BODIES[id(entry)][1]


def relatives(entry: MethodEntry, registry: Mapping[str, MethodEntry]) -> list[Relative]:
    """The entries that differ in one component or in none; where there is no such entry, the few that differ least."""
    if not entry.objective:
        return []
    found: list[Relative] = []
    bound = math.inf
    for other in registry.values():
        if not other.objective or other.id == entry.id:
            continue
        near = _within(_body(entry), _body(other), bound)
        if near is not None:
            found.append(Relative(other.id, near))
        if len(found) >= NEAREST:
            bound = max(1, sorted(relative.distance for relative in found)[NEAREST - 1])
    found.sort(key=lambda relative: (relative.distance, relative.id))
    return [relative for relative in found if relative.distance <= 1] or found[:NEAREST]


def _within(first: Mapping[str, Any], second: Mapping[str, Any], bound: float) -> tuple[Change, ...] | None:
    """The changes between two bodies, or None as soon as they are more than `bound`: most entries are far from each other."""
    made, total = [], 0
    for change in _differences(first, second, ""):
        made.append(change)
        total += change.size
        if total > bound:
            return None
    return tuple(made)


def _differences(a: Any, b: Any, path: str) -> Iterator[Change]:
    if a == b:
        return
    if isinstance(a, dict) and isinstance(b, dict):
        tag = _tag(a)
        if tag is not None and (_tag(b) != tag or a[tag] != b[tag]):
            yield Change(path, _shown(a), _shown(b), max(_size(a), _size(b)))
            return
        settings: list[tuple[str, Any, Any]] = []
        for key in dict.fromkeys([*a, *b]):
            one, other, inner = a.get(key), b.get(key), f"{path}.{key}" if path else key
            if one == other:
                continue
            if _holds_parts(one) or _holds_parts(other):
                yield from _differences(one, other, inner)
            elif isinstance(one, dict) and isinstance(other, dict):
                settings += [(f"{key}.{name}", one.get(name), other.get(name)) for name in {**one, **other} if one.get(name) != other.get(name)]
            else:
                settings.append((key, one, other))
        if settings:
            one, other = (", ".join(f"{key} {_shown(pair[side])}" for key, *pair in settings) for side in (0, 1))
            yield Change(path, one, other)
    elif isinstance(a, list) and isinstance(b, list):
        yield from _in_lists(a, b, path)
    else:
        yield Change(path, _shown(a), _shown(b), max(_size(a), _size(b)))


def _in_lists(a: list[Any], b: list[Any], path: str) -> Iterator[Change]:
    """Items that are alike stay out; the others are compared in pairs, and what has no partner was added or left out."""
    first, second = ([_written(item) for item in items] for items in (a, b))
    for operation, i, i_end, j, j_end in SequenceMatcher(None, first, second, autojunk=False).get_opcodes():
        if operation == "equal":
            continue
        for offset in range(max(i_end - i, j_end - j)):
            one = a[i + offset] if i + offset < i_end else None
            other = b[j + offset] if j + offset < j_end else None
            yield from _differences(one, other, f"{path}[{(i if one is not None else j) + offset}]")


_WRITTEN: dict[int, tuple[Any, str]] = {}


def _written(item: Any) -> str:
    """The item as text. A component of an entry's body is written once; keeping it keeps its identity its own, as with `_BODIES`."""
    if not isinstance(item, dict):
        return json.dumps(item, sort_keys=True)
    if id(item) not in _WRITTEN:
        _WRITTEN[id(item)] = (item, json.dumps(item, sort_keys=True))
    return _WRITTEN[id(item)][1]


def _tag(value: Mapping[str, Any]) -> str | None:
    return next((tag for tag in TAGS if isinstance(value.get(tag), str)), None)


def _holds_parts(value: Any) -> bool:
    """Whether components lie in it, so that each of them counts."""
    if isinstance(value, dict):
        return _tag(value) is not None or any(_holds_parts(inner) for inner in value.values())
    return isinstance(value, list) and any(_holds_parts(inner) for inner in value)


def _size(value: Any) -> int:
    """1 for a component, and all components of a term."""
    if not (isinstance(value, dict) and isinstance(value.get("term"), str)):
        return 1
    return _parts(value)


_COUNTED: dict[int, tuple[Any, int]] = {}


def _parts(value: Any) -> int:
    """How many components lie in it, itself included; counted once for each term."""
    if not (isinstance(value, dict) and "term" in value):
        return _count(value)
    if id(value) not in _COUNTED:
        _COUNTED[id(value)] = (value, _count(value))
    return _COUNTED[id(value)][1]


def _count(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(_parts(item) for item in inner) + (isinstance(value, dict) and _tag(value) is not None)


def _shown(value: Any) -> str:
    """A component by its kind, anything else as it is."""
    if isinstance(value, dict):
        tag = _tag(value)
        return str(value[tag]) if tag else json.dumps(value)
    if value is None or value == []:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
