"""Commands about comparisons: plan, status."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from zoo.cli.common import add_rows, console, examples, print_json, table
from zoo.cli.options import AsJson, ComparisonName, Data, Methods, PairPaths, Registries, Results, Spread, pair_paths

if TYPE_CHECKING:
    from zoo.harness.plan import Plan

RESULTS = Path("results")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("plan", cls=Spread, epilog=examples("zoo plan quickstart", "zoo plan mine.yaml --registry my_methods --json"))(plan)
    app.command("status", cls=Spread, epilog=examples("zoo status quickstart", "zoo status quickstart --json"))(status)


def plan(
    comparison: ComparisonName,
    method: Methods = None,
    results: Results = RESULTS,
    registry: Registries = None,
    pair_path: PairPaths = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """The cells of a comparison (done, failed, started, left), and the tokens and time that the rest will take."""
    import zoo

    found = zoo.plan(
        comparison, methods=method or None, registry=zoo.load_registry(*(registry or ())), results=results, pair_paths=pair_paths(pair_path), data=data
    )
    if as_json:
        print_json(found.to_json())
        return
    made = table("method", "seed", "state", "reason", right=("seed",), keep=("method",))
    console().print(add_rows(made, ((c.method, c.seed, c.state, c.reason) for c in found.cells)))
    typer.echo(_cost(found))


def _cost(found: Plan) -> str:
    counts = [f"{sum(c.state == state for c in found.cells)} {state}" for state in ("done", "failed", "started", "left")]
    time = "no finished run here yet from which to expect a time" if found.seconds_left is None else f"about {_duration(found.seconds_left)}"
    left = f"{found.tokens_left:,} supervised tokens left ({found.tokens_each:,} for each run), {time}"
    return f"{', '.join(counts)}\n{left if found.tokens_left else 'no training left'}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def status(
    comparison: ComparisonName,
    results: Results = RESULTS,
    registry: Registries = None,
    pair_path: PairPaths = None,
    as_json: AsJson = False,
) -> None:
    """How far each cell is: done, failed with its reason, started with its share of the budget, left."""
    import zoo
    from zoo.harness.comparison import load_comparison
    from zoo.harness.plan import Place, status_of

    place = Place(results, pair_paths(pair_path))
    rows = status_of(load_comparison(comparison), zoo.load_registry(*(registry or ())), place)
    if as_json:
        print_json(rows)
        return
    made = table("method", "seed", "state", "progress", "reason", right=("seed", "progress"), keep=("method",))
    console().print(add_rows(made, ((r["method"], r["seed"], r["state"], _share(r), r["reason"]) for r in rows)))


def _share(row: dict[str, Any]) -> str | None:
    return "100%" if row["state"] == "done" else f"{row['progress']:.0%}" if "progress" in row else None
