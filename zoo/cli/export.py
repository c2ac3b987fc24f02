"""The command that turns a run into a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo.cli.common import examples, print_json
from zoo.cli.options import AsJson, Registries, Results


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export", epilog=examples("zoo export core/gkd/0 exported", "zoo export 8d675aca exported"))(export)


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's uuid or its beginning, COMPARISON/METHOD, or COMPARISON/METHOD/SEED.", show_default=False)],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An empty folder, or a new one.", show_default=False)],
    results: Results = Path("results"),
    registry: Registries = None,
    as_json: AsJson = False,
) -> None:
    """Write a run's final student as a transformers checkpoint with a model card. Its comparison must have said `keep_weights: true`."""
    from zoo.entry import load_registry
    from zoo.export import export as exported

    made = exported(run, folder, results, load_registry(*(registry or ())))
    if as_json:
        print_json({"folder": str(made.folder), "uuid": made.uuid, "files": list(made.files)})
        return
    typer.echo(f"{made.folder}: {', '.join(made.files)}")
