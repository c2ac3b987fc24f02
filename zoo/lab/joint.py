"""The laws of all streams that an entry's terms read: streams that one term reads together share their outcomes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from zoo.components.rollouts import Branch, Edited, Reread
from zoo.entry import MethodEntry
from zoo.lab.doubles import Tables
from zoo.lab.edits import beside_labels
from zoo.lab.laws import Exempt, Law, together
from zoo.lab.streams import derived, law_of


def joint_laws(tables: Tables, reads: Iterable[tuple[str, ...]]) -> dict[str, Law]:
    """The law of each stream that terms read; `reads` are the streams of each term.

    Two streams are independent unless one is made of the other, row by row, or both of a third; these follow their root.

    Raises:
        Exempt: a stream has no double, or two of one term leave the same text.
    """
    entry = tables.entry
    named = [tuple(dict.fromkeys(names)) for names in reads]
    for names in named:
        _refuse_branches(entry, names)
    roots = {name: root_of(entry, name) for names in named for name in names}
    laws = {root: law_of(entry.rollouts[root], tables) for root in dict.fromkeys(roots.values())}
    if any(tables.given(name) for name in entry.teachers):
        laws = {root: law if law.label_RT is not None else beside_labels(law, entry.rollouts[root], tables) for root, law in laws.items()}
    for group in _connected([[roots[name] for name in names] for names in named]):
        if len(group) > 1:
            laws |= dict(zip(group, together(*(laws[root] for root in group)), strict=True))
    return {name: _followed(entry, name, laws, tables) for name in roots}


def root_of(entry: MethodEntry, name: str) -> str:
    """The stream that one is made of row by row, or itself."""
    stream = entry.rollouts[name]
    return root_of(entry, stream.of) if isinstance(stream, Edited | Reread) else name


def _followed(entry: MethodEntry, name: str, laws: Mapping[str, Law], tables: Tables) -> Law:
    stream = entry.rollouts[name]
    return derived(stream, _followed(entry, stream.of, laws, tables), tables) if isinstance(stream, Edited | Reread) else laws[name]


def _connected(groups: list[list[str]]) -> list[list[str]]:
    """Groups that share a member, as one, members in the order first met."""
    found: list[list[str]] = []
    for group in groups:
        near = [other for other in found if set(other) & set(group)]
        found = [other for other in found if other not in near]
        found.append(list(dict.fromkeys(name for one in (*near, group) for name in one)))
    return found


def _refuse_branches(entry: MethodEntry, names: tuple[str, ...]) -> None:
    """A continuation is drawn anew for each text; together with that text, or another continuation of it, it has no law here."""
    branches = [stream for name in names if isinstance(stream := entry.rollouts[root_of(entry, name)], Branch)]
    left = [stream.of for stream in branches]
    if len(set(left)) < len(left) or set(left) & {root_of(entry, name) for name in names}:
        raise Exempt(f"rollout.branch: one term reads two texts that begin alike, both of '{left[0]}'")
