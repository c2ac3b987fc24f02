"""What all commands share: how errors end, and how things are named and printed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from zoo.errors import ZooError, suggest
from zoo.quiet import quiet_libraries as quiet_libraries

if TYPE_CHECKING:
    from rich.table import Table

    from zoo.entry import MethodEntry

WIDE = 220  # columns of a table that is not printed to a terminal


class Commands(TyperGroup):
    """The top of the command line: a ZooError, or a file that can't be read or written, is one message on stderr and exit code 1 (75 where a
    GPU was lost), an interruption one line and 130."""

    def invoke(self, ctx: Any) -> Any:
        """Run the subcommand."""
        try:
            return super().invoke(ctx)
        except ZooError as error:
            complain(str(error))
            raise typer.Exit(error.code) from None
        except BrokenPipeError:  # the reader of a pipe has had enough
            raise
        except OSError as error:
            if error.filename is None:
                raise
            complain(f"{error.filename}: {error.strerror}")
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            complain("interrupted" + ("; the same command continues from the last checkpoint" if ctx.invoked_subcommand == "run" else ""))
            raise typer.Exit(130) from None


def main_process() -> bool:
    """Whether this process talks: under `accelerate launch` the first one does."""
    return os.environ.get("RANK", "0") == "0"


def launched() -> bool:
    """Whether this process is one of several that a launcher has started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def ahead(jobs: str | None) -> None:
    """Before a command's own imports: start the server of its workers, whose imports then go on beside them. Not where a launcher started this process."""
    if jobs not in (None, "1") and not launched():
        from zoo.harness.forked import start_server

        start_server()


def complain(text: str) -> None:
    """A message on stderr."""
    if main_process():
        typer.echo(f"zoo: {text}" if "\n" not in text else text, err=True)


def print_json(value: Any) -> None:
    """Plain data on stdout."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def console() -> Console:
    """Stdout; where it is no terminal, lines are as long as their content."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=WIDE)


def table(*columns: str, right: Sequence[str] = (), keep: Sequence[str] = ()) -> Table:
    """An empty table; columns in `right` are aligned there, those in `keep` never wrap. No markup in its cells."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, highlight=False)
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", no_wrap=name in keep, overflow="fold")
    return made


def add_rows(made: Table, rows: Iterable[Sequence[Any]]) -> Table:
    """The table with rows of plain text; None is a dash."""
    from rich.text import Text

    for row in rows:
        made.add_row(*(Text("–" if value is None else str(value)) for value in row))
    return made


def chosen_value(given: str | None, legal: Iterable[str], option: str) -> str | None:
    """An option's value, if it is one of the legal ones; else a usage error with the nearest."""
    names = list(legal)
    if given is not None and given not in names:
        raise typer.BadParameter(f"'{given}' is none of its values{suggest(given, names)}", param_hint=option)
    return given


def is_file(name: str) -> bool:
    """Whether a name means a YAML file, not an id."""
    return name.endswith((".yaml", ".yml"))


def entry_of(name: str, folders: Sequence[Path] | None = None) -> MethodEntry:
    """An entry by id, or from a YAML file that may lie anywhere; other entries' mistakes do not matter."""
    from zoo.entry import file_of, load_entry

    return load_entry(file_of(name, folders or ()))


def registry_or_nothing(folders: Sequence[Path] | None = None) -> Mapping[str, MethodEntry]:
    """The registry, for what is said beside one entry; nothing where other entries have mistakes, which that entry's reader need not mend."""
    from zoo.entry import load_registry

    try:
        return load_registry(*(folders or ()))
    except ZooError:
        return {}


def comparison_id(name: str) -> str:
    """The id of a comparison: the name itself, or what its YAML file says. Records may outlive their declaration."""
    from zoo.harness.comparison import load_comparison

    return load_comparison(name).id if is_file(name) else name


def examples(*lines: str) -> str:
    """The end of a command's help."""
    return "\n\n".join(["Examples:", *lines])
