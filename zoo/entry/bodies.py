"""What an entry runs, without its documentation: to tell two entries apart, and to find two that run the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from zoo.entry.model import MethodEntry

BODY = ("rollouts", "teachers", "rewards", "learners", "objective", "update")


def body(entry: MethodEntry) -> dict[str, Any]:
    """What runs: the entry without its documentation."""
    return {name: value for name, value in entry.model_dump(mode="json", by_alias=True).items() if name in BODY}


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
