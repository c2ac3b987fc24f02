"""What an entry runs, without its documentation: to tell two entries apart, and to find two that run the same."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from zoo.entry.model import MethodEntry

BODY = ("rollouts", "teachers", "rewards", "learners", "objective", "update")


def body(entry: MethodEntry) -> dict[str, Any]:
    """What runs: the entry without its documentation."""
    return {name: value for name, value in entry.model_dump(mode="json", by_alias=True).items() if name in BODY}


def written(value: Any) -> Any:
    """A body without its absent parts (null, empty, false): a field that is added later and left out by an entry then changes no
    digest of it, while a default that has a value counts."""
    if isinstance(value, Mapping):
        return {key: kept for key, inner in value.items() if (kept := written(inner)) not in (None, False, [], {})}
    return [written(inner) for inner in value] if isinstance(value, list | tuple) else value


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested mappings and lists, by path."""
    if isinstance(value, Mapping) and value:
        items: Iterable[tuple[Any, Any]] = value.items()
        return {k: v for key, inner in items for k, v in flatten(inner, f"{prefix}.{key}" if prefix else str(key)).items()}
    if isinstance(value, list | tuple) and value:
        return {k: v for i, inner in enumerate(value) for k, v in flatten(inner, f"{prefix}[{i}]").items()}
    return {prefix: value}


def diff(first: MethodEntry, second: MethodEntry) -> dict[str, tuple[Any, Any]]:
    """The paths at which two bodies differ, with both values; None where a path is absent."""
    a, b = flatten(body(first)), flatten(body(second))
    return {path: (a.get(path), b.get(path)) for path in dict.fromkeys([*a, *b]) if a.get(path) != b.get(path)}


NAMED = ("teachers", "learners", "rewards", "rollouts")
TAGS = ("kind", "author", "term", "schedule")
# Fields whose text is never the name of one of the entry's own parts, although it may read the same.
OUTSIDE = (*TAGS, "model", "is", "side", "check", "access")


def core(entry: MethodEntry) -> str:
    """What runs, in a form that neither the names of its parts nor the order of its terms changes: equal text, equal method.

    Every name is replaced by what it stands for, so that two entries are alike whatever they call their teachers and streams. A term's
    role is left out, since it decides how a term counts and not what it does.
    """
    runs = body(entry)
    meaning: dict[str, str] = {}
    for section in NAMED:
        own = {name: f"<{section}:{_text(_renamed(part, meaning))}>" for name, part in runs[section].items()}
        meaning |= own
        runs[section] = sorted(own.values())
    terms = [{key: value for key, value in term.items() if key != "role"} for term in runs["objective"]]
    rest = {name: _renamed(part, meaning) for name, part in runs.items() if name not in (*NAMED, "objective")}
    return _text({**rest, **{section: runs[section] for section in NAMED}, "objective": sorted(_text(_renamed(term, meaning)) for term in terms)})


def _renamed(value: Any, meaning: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        by_name = not any(tag in value for tag in TAGS)
        return {
            meaning.get(key, key) if by_name else key: inner if key in OUTSIDE and isinstance(inner, str) else _renamed(inner, meaning)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_renamed(item, meaning) for item in value]
    return meaning.get(value, value) if isinstance(value, str) else value


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
