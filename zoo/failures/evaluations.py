"""Scores before and after, item by item, as a probe: what the untrained student and a run got on the same suites."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from zoo.record_types import Eval


def evaluation_probe(own: Iterable[Eval], base: Iterable[Eval]) -> dict[str, pd.DataFrame]:
    """`evaluation`: task, family, item, and its score before (the untrained student's) and after (the run's). Empty where nothing was evaluated twice."""
    before = {name: dict(result.items) for each in base for name, result in each.tasks.items()}
    rows = [
        {"task": name, "family": result.family, "item": str(item), "before": before[name][item], "after": score}
        for each in own
        for name, result in each.tasks.items()
        if name in before
        for item, score in result.items
        if item in before[name]
    ]
    return {"evaluation": pd.DataFrame(rows)} if rows else {}
