"""Options that several commands take."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

Folder: dict[str, Any] = {"exists": True, "file_okay": False}
AsJson = Annotated[bool, typer.Option("--json", help="Print plain data in place of a table.")]
Registries = Annotated[list[Path] | None, typer.Option("--registry", metavar="DIR", help="A further folder of entries; may be repeated.", **Folder)]
Results = Annotated[Path, typer.Option("--results", metavar="DIR", help="Where records, logs and checkpoints lie.")]
PairPaths = Annotated[
    list[str] | None, typer.Option("--pair-path", metavar="NAME=DIR", help="A local folder for the student or a teacher of the pair; several may follow.")
]
Data = Annotated[Path | None, typer.Option("--data", metavar="DIR", help="A local folder for the task's data.", **Folder)]
Methods = Annotated[list[str] | None, typer.Option("--method", metavar="ID", help="Only this method of the comparison; may be repeated.")]
WeightsNote = Annotated[str | None, typer.Option(metavar="TEXT", help="What the records should say about local weights.")]
UntrustedCode = Annotated[bool, typer.Option("--untrusted-code", help="Let code that a model wrote run behind limits alone where this machine has no sandbox.")]
ComparisonName = Annotated[str, typer.Argument(metavar="COMPARISON", help="An id, or a YAML file.", show_default=False)]


class Spread(TyperCommand):
    """A command whose `--pair-path` may be followed by several NAME=DIR."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse with the flag repeated."""
        return super().parse_args(ctx, spread(args))


def spread(args: Sequence[str]) -> list[str]:
    """The arguments with `--pair-path` before each NAME=DIR that follows one."""
    found: list[str] = []
    for argument in args:
        if len(found) > 1 and found[-2] == "--pair-path" and re.fullmatch(r"\w[\w.-]*=.*", argument):
            found.append("--pair-path")
        found.append(argument)
    return found


def pair_paths(given: Sequence[str] | None) -> dict[str, Path]:
    """Folders by model name from NAME=DIR arguments."""
    found = {}
    for argument in given or ():
        name, separator, folder = argument.partition("=")
        if not (name and separator and folder):
            raise typer.BadParameter(f"'{argument}' should be NAME=DIR, for example teacher=models/teacher", param_hint="--pair-path")
        found[name] = Path(folder).expanduser()
    return found
