"""The command line: parse, one call, print. Libraries are imported inside the commands, so that `zoo --help` is quick."""

from __future__ import annotations

import gc

import typer

from zoo.cli.common import Commands
from zoo.cli.comparisons import register as register_comparisons
from zoo.cli.entries import register as register_entries
from zoo.cli.export import register as register_export
from zoo.cli.failures import register as register_failures
from zoo.cli.lab import register as register_lab
from zoo.cli.pairs import register as register_pairs
from zoo.cli.preflight import register as register_preflight
from zoo.cli.provoke import register as register_provoke
from zoo.cli.results import register as register_results
from zoo.cli.run import register as register_run
from zoo.cli.site import register as register_site
from zoo.cli.statistics import register as register_statistics
from zoo.cli.tune import register as register_tune

EPILOG = """Start here:

zoo list  ·  zoo plan quickstart  ·  zoo run quickstart

Add a method: write its YAML, then `zoo check FILE`. Every command shows examples with --help and takes --json."""

app = typer.Typer(
    name="zoo",
    cls=Commands,
    help="OPD Zoo: methods of on-policy distillation as data, run under equal budgets and compared in tables.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for register in (
    register_entries, register_comparisons, register_run, register_results, register_lab, register_statistics, register_pairs, register_tune, register_provoke,
    register_preflight, register_failures, register_export, register_site,
):  # fmt: skip
    register(app)


def main() -> None:
    """The console script."""
    try:
        app(prog_name="zoo")
    finally:
        gc.freeze()  # or the interpreter, as it ends, looks once more at everything that libraries have made: a second and a half


__all__ = ["app", "main"]
