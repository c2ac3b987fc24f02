"""Sizes of an entry's parts that suit a small world: k of V or more tokens would truncate nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zoo.components.base import Strict
from zoo.lab.world import World


def fitted(value: Any, world: World, group: int) -> tuple[Any, list[str]]:
    """A copy of an entry's parts whose sizes suit the world, and what was changed: k of V or more tokens would truncate nothing."""
    changes: list[str] = []
    return _fitted(value, world, group, changes), list(dict.fromkeys(changes))


def _fitted(value: Any, world: World, group: int, changes: list[str]) -> Any:
    if isinstance(value, Strict):
        wanted = _sizes(value, world, group)
        changes += [
            f"{getattr(value, 'kind', getattr(value, 'author', type(value).__name__))}.{name} {getattr(value, name)} -> {new}" for name, new in wanted.items()
        ]
        inner = {name: _fitted(getattr(value, name), world, group, changes) for name in type(value).model_fields if name not in wanted}
        return value.model_copy(update={**inner, **wanted})
    if isinstance(value, tuple):
        return tuple(_fitted(item, world, group, changes) for item in value)
    if isinstance(value, dict):
        return {key: _fitted(item, world, group, changes) for key, item in value.items()}
    return value


def _sizes(part: Any, world: World, group: int) -> dict[str, Any]:
    """The fields of one component that have to shrink."""
    names, kind, found = set(type(part).model_fields), getattr(part, "kind", None), dict[str, Any]()
    few = max(1, world.vocabulary // 2)
    for name in ("k", "top_k", "at_most", "tail_k"):
        value = getattr(part, name, None) if name in names else None
        if kind in ("k_step",):
            if name == "k" and value is not None and value >= world.horizon > 1:
                found["k"] = max(world.horizon - 1, 1)
        elif isinstance(value, int) and not isinstance(value, bool) and value >= world.vocabulary:
            found[name] = few
    if kind == "voted":
        found |= {name: few for name in ("size", "top") if getattr(part, name) >= world.vocabulary}
    if "high" in names and kind == "position" and isinstance(part.high, int) and part.high >= world.horizon:
        found |= {"high": world.horizon - 1, "low": min(part.low, world.horizon - 1)}
    if "window" in names and isinstance(part.window, int) and part.window >= world.horizon:
        found["window"] = 1
    if kind == "window" and part.give >= world.horizon:
        found["give"] = 1
    if kind == "position":
        found |= {name: world.horizon - 1 for name in ("above", "at_least", "below") if _beyond(getattr(part, name, None), world.horizon)}
    if "segment" in names and isinstance(part.segment, int) and part.segment > 1:
        found["segment"] = 1
    if "group" in names and isinstance(part.group, int) and part.group > group:
        found["group"] = group
        if getattr(part, "per", None) == "group_member":
            found["of"] = _counts(part.of, group)
    return found


def _beyond(value: Any, horizon: int) -> bool:
    """Whether a place lies where no text of the world reaches."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= horizon


def _counts(of: Mapping[str, float], group: int) -> dict[str, float]:
    """Members by author for a smaller group: one at least for each, the rest to the largest."""
    named = [name for name, count in of.items() if count > 0]
    found = dict.fromkeys(named[:group], 1.0)
    largest = max(found, key=lambda name: of[name])
    found[largest] += group - len(found)
    return found
