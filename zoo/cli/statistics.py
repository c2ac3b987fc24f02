"""Commands about the statistics themselves: what the intervals of the tables cover."""

from __future__ import annotations

from typing import Annotated

import typer

from zoo.cli.common import add_rows, console, examples, print_json, table
from zoo.cli.options import AsJson


def register(app: typer.Typer) -> None:
    """Add the commands."""
    stats = typer.Typer(name="stats", help="The statistics of the tables, looked at themselves.", no_args_is_help=True)
    lines = ("zoo stats coverage", "zoo stats coverage --seeds 10 --json", "zoo stats coverage --percentile --trials 500")
    stats.command("coverage", epilog=examples(*lines))(coverage)
    stats.callback()(lambda: None)
    app.add_typer(stats)


def coverage(
    trials: Annotated[int, typer.Option(min=1, metavar="N", help="Simulated comparisons per number.")] = 2000,
    seeds: Annotated[int, typer.Option(min=4, metavar="N", help="Seeds of each.")] = 5,
    items: Annotated[int, typer.Option(min=2, metavar="N", help="Items of each.")] = 200,
    percentile: Annotated[bool, typer.Option("--percentile", help="Of the plain percentile bootstrap, which no table uses.")] = False,
    as_json: AsJson = False,
) -> None:
    """How often the 95 % intervals hold the truth, by simulation, over how much seeds vary (standard deviation on the logit scale)."""
    from zoo.stats import coverage as simulated

    settings = [name for name in simulated.SETTINGS if not (percentile and name in simulated.RATIOS)]
    grid = simulated.coverage_grid(settings, trials=trials, seeds=seeds, items=items, percentile=percentile)
    if as_json:
        rows = [{"seed_spread": spread, **row} for spread, row in grid.items()]
        print_json({"trials": trials, "seeds": seeds, "items": items, "percentile": percentile, "coverage": rows})
        return
    made = table("seed spread", *settings, right=("seed spread", *settings))
    console().print(add_rows(made, ([f"{spread:g}", *(f"{100 * row[name]:.1f}" for name in settings)] for spread, row in grid.items())))
    paired = [row[name] for row in grid.values() for name in settings if name not in simulated.UNPAIRED]
    low, high = simulated.GOAL
    typer.echo(f"{seeds} seeds, {items} items; % of {trials} comparisons, each number ± {100 * simulated.noise(trials):.1f} (one standard error)")
    typer.echo(f"paired: {100 * min(paired):.1f} to {100 * max(paired):.1f}; the goal is {100 * low:.0f} to {100 * high:.0f}")
