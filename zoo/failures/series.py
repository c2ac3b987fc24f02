"""Series over a run's steps: windows with enough in them, and alarms that hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from zoo.failures.finding import LEVELS, Example, Level
from zoo.failures.logs import NotMeasured, RunLogs

EXAMPLES = 3


def windows(frame: pd.DataFrame, least: int) -> Iterator[tuple[int, pd.DataFrame]]:
    """Consecutive diagnosed steps gathered until there are `least` rows; each with its last step. What is left over at the end is not given."""
    pieces: list[pd.DataFrame] = []
    for step, piece in frame.groupby("step", sort=True):
        pieces.append(piece)
        if sum(map(len, pieces)) >= least:
            yield int(step), pd.concat(pieces)  # type: ignore[arg-type]
            pieces = []


def sustained(steps: Sequence[int], levels: Sequence[Level], needed: int = 2) -> tuple[Level, int | None]:
    """The worst level that `needed` points in a row reach, and the step at which amber or worse was first established.

    Raises:
        NotMeasured: there are fewer points.
    """
    if len(levels) < needed:
        raise NotMeasured(f"{len(levels)} measured windows, {needed} are needed")
    rank = np.array([LEVELS.index(level) for level in levels])  # silent 0, amber 1, red 2
    rank[rank == LEVELS.index("not_measured")] = 0
    held = np.lib.stride_tricks.sliding_window_view(rank, needed).min(1)
    if held.max() == 0:
        return "silent", None
    return LEVELS[int(held.max())], int(steps[int(np.argmax(held > 0)) + needed - 1])


def examples(logs: RunLogs, chosen: pd.DataFrame, note: str = "") -> tuple[Example, ...]:
    """At most three logged sequences, those of the rows first in `chosen` (columns step, stream, rollout)."""
    if logs.rollouts.empty or chosen.empty:
        return ()
    keys = ["step", "stream", "rollout"]
    wanted = chosen[keys].drop_duplicates().head(EXAMPLES)
    found = wanted.merge(logs.rollouts, on=keys, how="inner")
    return tuple(Example(int(row["step"]), str(row["stream"]), int(row["rollout"]), str(row.get("tail", "")), note) for _, row in found.iterrows())
