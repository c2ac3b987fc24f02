"""Components of other packages: the modules that installed packages name under the entry-point group `zoo.components`.

    [project.entry-points."zoo.components"]
    my_gates = "my_package.gates"

Importing such a module registers its kinds with `@component(slot)`, as the zoo's own modules do. A package that fails is left out as a
whole and named on stderr: the zoo goes on without it, and an entry that needs one of its kinds is refused as one of an unknown kind.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from zoo.components.base import _KINDS, kinds, slots

GROUP = "zoo.components"
_LOADED: list[Plugin] = []
_ASKED: list[bool] = []


@dataclass(frozen=True)
class Plugin:
    """One module of one package: the `slot.kind` names that it added, or why it added none."""

    package: str
    version: str
    module: str
    kinds: tuple[str, ...] = ()
    problem: str | None = None


def load_plugins() -> tuple[Plugin, ...]:
    """Import every module of the group, once in a process; a broken one is reported on stderr and changes nothing."""
    if not _ASKED:
        _ASKED.append(True)  # before the first import, which may come back here
        for point in sorted(entry_points(group=GROUP), key=lambda point: (_package(point), point.name)):
            plugin = _loaded(point)
            _LOADED.append(plugin)
            if plugin.problem is not None:
                logging.getLogger("zoo").warning("zoo: %s", plugin.problem)
    return tuple(_LOADED)


def _loaded(point: EntryPoint) -> Plugin:
    package, version = _package(point), point.dist.version if point.dist else "unknown"
    before = set(_names())
    registered = {slot: dict(known) for slot, known in _KINDS.items()}
    try:
        point.load()
    except Exception as error:
        _KINDS.clear()
        _KINDS.update(registered)
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        remedy = "entries that need its components are refused; update or uninstall it"
        return Plugin(package, version, point.value, problem=f"package '{package}' could not add its components ({point.value}: {reason}); {remedy}")
    return Plugin(package, version, point.value, tuple(name for name in _names() if name not in before))


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.module.partition(".")[0]


def _names() -> Iterator[str]:
    return (f"{slot}.{kind}" for slot in slots() for kind in kinds(slot))
