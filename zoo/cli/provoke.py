"""The command that provokes failure modes and asks every detector."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo.cli.common import complain, examples, print_json, quiet_libraries
from zoo.cli.options import AsJson, Results


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("provoke", epilog=examples("zoo provoke FM07", "zoo provoke FM07 FM12 --seeds 100", "zoo provoke --all --seeds 0,1,2 --jobs 48"))(provoke)


def provoke(
    modes: Annotated[list[str] | None, typer.Argument(metavar="FMxx|healthy...", help="Failure modes, or the healthy runs.", show_default=False)] = None,
    every: Annotated[bool, typer.Option("--all", help="All failure modes and the healthy runs.")] = False,
    seeds: Annotated[str, typer.Option("--seeds", metavar="N,N...", help="Seeds; those from 100 on are for tuning thresholds.")] = "0,1,2",
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="How many runs at once, one thread each.")] = 1,
    results: Results = Path("results"),
    as_json: AsJson = False,
) -> None:
    """Bring each failure about and its control, ask all detectors, and record what they say. What has a record is not run again."""
    from zoo.provoke.packing import run_all
    from zoo.provoke.running import cells_of

    quiet_libraries()
    if bool(modes) == every:
        raise typer.BadParameter("give failure modes or healthy, or --all", param_hint="FMxx")
    if not all(part.strip().isdigit() for part in seeds.split(",")):
        raise typer.BadParameter(f"'{seeds}' should be whole numbers with commas between them", param_hint="--seeds")
    cells = cells_of(modes or (), list(dict.fromkeys(int(part) for part in seeds.split(","))))
    made, failed = run_all(cells, results, jobs, (lambda line: None) if as_json else typer.echo)
    if as_json:
        print_json({"records": made, "failed": failed})
    elif not made and not failed:
        typer.echo("nothing to do: every run has its record")
    for line in failed:
        complain(line)
    raise typer.Exit(1 if failed else 0)
