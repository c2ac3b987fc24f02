"""The logs of one run as frames, and what is missing from them said in words."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

TABLES = ("steps", "rollouts", "tokens")


class NotMeasured(Exception):
    """A detector's way to say that these logs can't answer: one line with the reason."""


def _empty() -> pd.DataFrame:
    return pd.DataFrame()


@dataclass(frozen=True)
class RunLogs:
    """What one run left behind (columns, types and units: docs/logs.md). Any table may be empty and any column missing.

    `probes` holds frames of measurements made beside the run, by the probe's name; `info` plain facts: comparison, method, seed, pair,
    stop_ids, budget and so on.
    """

    steps: pd.DataFrame = field(default_factory=_empty)
    rollouts: pd.DataFrame = field(default_factory=_empty)
    tokens: pd.DataFrame = field(default_factory=_empty)
    curve: pd.DataFrame = field(default_factory=_empty)
    probes: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)

    def missing(self, need: str) -> str | None:
        """Why `tokens.kl`, `steps.loss.*`, `probes.rescue.gain` or `info.pair` can't be read, or None where it can."""
        table, _, name = need.partition(".")
        if table == "info":
            return None if self.info.get(name) is not None else f"info.{name} is not known"
        if table == "probes":
            table, _, name = name.partition(".")
            frame = self.probes.get(table)
            if frame is None:
                return f"the probe '{table}' was not run"
            table = f"probes.{table}"
        else:
            frame = getattr(self, table)
        if frame.empty:
            return f"{table}: nothing was logged"
        found = fnmatch.filter(frame.columns, name) if name else list(frame.columns)
        if not found:
            return f"{table} has no column '{name}'"
        return None if frame[found].notna().any(axis=None) else f"{table}.{name} is empty"

    def require(self, *needs: str) -> None:
        """Raise NotMeasured for the first of the columns that can't be read."""
        for need in needs:
            if (reason := self.missing(need)) is not None:
                raise NotMeasured(reason)

    def columns(self, table: str, pattern: str) -> list[str]:
        """The columns of a table that match, `columns("steps", "loss.*")`."""
        return fnmatch.filter(getattr(self, table).columns, pattern)


def load_logs(folder: Path, uuid: str, *, curve: pd.DataFrame | None = None, info: Mapping[str, Any] | None = None) -> RunLogs:
    """The logs `<uuid>-{steps,rollouts,tokens}.parquet` and `<uuid>-probe-*.parquet` in a cell's log folder; what is not there stays empty."""
    frames = {name: pd.read_parquet(file) if (file := folder / f"{uuid}-{name}.parquet").is_file() else _empty() for name in TABLES}
    before = f"{uuid}-probe-"
    probes = {file.stem.removeprefix(before): pd.read_parquet(file) for file in sorted(folder.glob(f"{before}*.parquet"))}
    return RunLogs(**frames, curve=_empty() if curve is None else curve, probes=probes, info=dict(info or {}))
