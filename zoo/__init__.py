"""An executable taxonomy of on-policy distillation for language models.

    import zoo
    registry = zoo.load_registry()
    plan = zoo.plan("quickstart")
    outcomes = zoo.run("quickstart")
    table = zoo.scores("quickstart")
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from zoo.entry import Registry
    from zoo.harness.plan import Plan
    from zoo.harness.report import Listener
    from zoo.harness.run import Outcome

__version__ = "0.1.0"
__all__ = ["load_registry", "plan", "run", "scores"]


def load_registry(*folders: str | Path) -> Registry:
    """Every method of the shipped registry and of further folders, by id; `ZooError` lists all mistakes."""
    from zoo.entry import load_registry as load

    return load(*map(Path, folders))


def _place(results: str | Path, pair_paths: Mapping[str, str | Path] | None, data: str | Path | None) -> Any:
    from zoo.harness.plan import Place

    return Place(Path(results), {name: Path(path) for name, path in (pair_paths or {}).items()}, Path(data) if data else None)


def plan(
    comparison: str | Path,
    *,
    methods: Iterable[str] | None = None,
    registry: Registry | None = None,
    results: str | Path = "results",
    pair_paths: Mapping[str, str | Path] | None = None,
    data: str | Path | None = None,
) -> Plan:
    """The cells of a comparison (an id or a YAML file): done, failed, started, left; and what is left to spend."""
    from zoo.harness.comparison import load_comparison
    from zoo.harness.plan import make_plan

    return make_plan(load_comparison(comparison), registry or load_registry(), _place(results, pair_paths, data), methods)


def run(
    comparison: str | Path,
    *,
    methods: Iterable[str] | None = None,
    seeds: Collection[int] | None = None,
    registry: Registry | None = None,
    results: str | Path = "results",
    pair_paths: Mapping[str, str | Path] | None = None,
    data: str | Path | None = None,
    device: str | None = None,
    quiet: bool = False,
    trust_remote_code: bool = False,
    untrusted_code: bool = False,
    weights_note: str | None = None,
    worker: bool = False,
    listeners: Sequence[Listener] = (),
) -> list[Outcome]:
    """Train, evaluate and record every cell that is not done; a cell that was cut off goes on from its checkpoint. `untrusted_code` lets code that
    a model wrote run where this machine can't wall it off. A `worker` leaves cells alone that another process is running.
    `listeners` hear what goes on (see `zoo.harness.report`)."""
    from rich.console import Console

    from zoo.harness.comparison import load_comparison
    from zoo.harness.run import run_comparison

    return run_comparison(
        load_comparison(comparison),
        registry or load_registry(),
        _place(results, pair_paths, data),
        methods=methods,
        seeds=seeds,
        device=device,
        console=None if quiet else Console(),
        trust_remote_code=trust_remote_code,
        untrusted_code=untrusted_code,
        weights_note=weights_note,
        worker=worker,
        listeners=listeners,
    )


def scores(comparison: str, *, results: str | Path = "results") -> pd.DataFrame:
    """One row for each method, seed, task and metric, from the records alone."""
    from zoo.score_frame import scores as read

    return read(Path(results) / "records", comparison)
