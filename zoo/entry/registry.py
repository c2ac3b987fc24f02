"""All entries together: ids, papers, links, and no two bodies alike without saying so."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from zoo.components.plugins import Plugin, load_plugins
from zoo.entry.bodies import core, diff
from zoo.entry.loading import load_entry
from zoo.entry.model import MethodEntry
from zoo.errors import ZooError, suggest
from zoo.paths import data_root
from zoo.yamlio import place

LINKS = ("variant_of", "identical_core_to")


class Registry(Mapping[str, MethodEntry]):
    """All entries by id."""

    def __init__(self, entries: Mapping[str, MethodEntry]) -> None:
        self._entries = dict(sorted(entries.items()))

    def __getitem__(self, key: str) -> MethodEntry:
        if key not in self._entries:
            raise ZooError(f"no method '{key}' in the registry{suggest(key, self._entries)}")
        return self._entries[key]

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __iter__(self) -> Any:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def file_of(name: str, folders: Sequence[Path] = ()) -> Path:
    """The YAML of an entry, by id or by its own path; other entries' mistakes do not matter.

    Raises:
        ZooError: no such entry.
    """
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    known = {file.stem: file for folder in (data_root() / "registry" / "methods", *folders) for file in sorted(folder.rglob("*.yaml"))}
    if name not in known:
        raise ZooError(f"no method '{name}' in the registry{suggest(name, known)}")
    return known[name]


def load_registry(*folders: Path) -> Registry:
    """Every entry of the shipped registry and of further folders. Files that have not changed since the last call are not read again.

    Raises:
        ZooError: all mistakes of all files; an id or an arXiv id used twice without `variant_of` or `paper.part`; entries that run the same undeclared.
    """
    files = [f for folder in (data_root() / "registry" / "methods", *folders) for f in sorted(folder.rglob("*.yaml"))]
    return _read(tuple((file, *_stamp(file)) for file in files), load_plugins())


def _stamp(file: Path) -> tuple[int, int]:
    """What changes with a file: its time and size. A file that can't be asked is left to its reader."""
    try:
        found = file.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


@lru_cache(maxsize=4)
def _read(stamped: tuple[tuple[Path, int, int], ...], plugins: tuple[Plugin, ...]) -> Registry:
    files = [file for file, *_ in stamped]
    entries: dict[str, MethodEntry] = {}
    first: dict[str, Path] = {}
    mistakes: list[str] = []
    for file in files:
        try:
            entry = load_entry(file)
        except ZooError as error:
            mistakes.append(str(error))
            continue
        if entry.id in entries:
            mistakes.append(place([f"id: '{entry.id}' is also the id of {first[entry.id]}; ids are unique, rename one"], file))
        entries[entry.id], first[entry.id] = entry, file
    mistakes += [*_repeated_papers(entries.values()), *_dangling(entries, {f.stem for f in files}), *_twins(entries)]
    if mistakes:
        raise ZooError("\n".join(mistakes))
    return Registry(entries)


def _repeated_papers(entries: Iterable[MethodEntry]) -> list[str]:
    seen: dict[tuple[str, str | None], str] = {}
    found = []
    for entry in entries:
        key = (entry.paper.arxiv or "", entry.paper.part)
        if entry.paper.arxiv and entry.variant_of is None:
            if key in seen:
                found.append(f"{entry.id}: arXiv {entry.paper.arxiv} is also {seen[key]}'s; set variant_of or paper.part")
            seen.setdefault(key, entry.id)
    return found


def _dangling(entries: Mapping[str, MethodEntry], known: Collection[str]) -> list[str]:
    """Links to no entry; `known` also holds those that could not be loaded, whose own mistakes are told already."""
    links = [(e.id, field, getattr(e, field)) for e in entries.values() for field in LINKS]
    links += [(e.id, "reproduce_with.entries", name) for e in entries.values() if e.reproduce_with for name in e.reproduce_with.entries]
    return [f"{me}: {field} names '{target}', which is no entry{suggest(target, known)}" for me, field, target in links if target and target not in known]


def _twins(entries: Mapping[str, MethodEntry]) -> list[str]:
    """Entries that run the same without saying so, and those that say so and differ."""
    cores = {name: core(entry) for name, entry in entries.items() if entry.objective}
    alike: dict[str, list[str]] = {}
    for name, text in cores.items():
        alike.setdefault(text, []).append(name)
    found = []
    for names in alike.values():
        alone = [name for name in names if not any(getattr(entries[name], field) in names for field in LINKS)]
        # One of them may stand for the rest: the eldest, so that later papers point back.
        alone.sort(key=lambda name: (entries[name].paper.year or 9999, name))
        for name in alone[1:]:
            found.append(f"{name}: runs exactly what {alone[0]} runs; set identical_core_to: {alone[0]}, or variant_of: {alone[0]} for the same paper")
    for name, entry in entries.items():
        other = entry.identical_core_to
        if other is not None and other in entries and cores.get(name) != cores.get(other):
            paths = ", ".join(list(diff(entry, entries[other]))[:3])
            found.append(f"{name}: identical_core_to names '{other}', but the two differ at {paths}; remove it, or make them the same")
    return found
