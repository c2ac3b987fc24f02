"""Errors that a user can act on: one line saying what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


class ZooError(Exception):
    """A mistake in the input or the surroundings; the command line prints its message and exits with `code`."""

    code = 1


class DeviceLost(ZooError):
    """A fault has taken the GPU from this process; another process has it again."""

    code = 75  # what sendmail called a temporary failure: the same command may well go on


def suggest(name: str, legal: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest legal name, else the list of legal names when it is short, else nothing."""
    names = sorted(legal)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; legal here: {', '.join(names)}" if 0 < len(names) <= 30 else ""


def in_yaml(value: Any) -> str:
    """A value as a YAML file would show it, long ones by their type."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else repr(value) if isinstance(value, str) else str(value)
