"""The command that looks before anything is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from zoo.cli.common import console, entry_of, examples, print_json, quiet_libraries
from zoo.cli.options import AsJson, Data, PairPaths, Registries, Spread, pair_paths

if TYPE_CHECKING:
    from rich.console import Console

    from zoo.preflight import Check, Report

PairName = Annotated[str, typer.Argument(metavar="PAIR", help="An id, or a YAML file.", show_default=False)]
SuiteName = Annotated[str, typer.Argument(metavar="SUITE", help="An id, or a YAML file.", show_default=False)]
MARKS = {"ok": ("ok", "green"), "amber": ("AMBER", "yellow"), "red": ("RED", "red"), "not measured": ("–", "dim")}


def register(app: typer.Typer) -> None:
    """Add the command."""
    lines = ("zoo preflight micro micro", "zoo preflight micro micro --method g_opd", "zoo preflight smol chores --json")
    app.command("preflight", cls=Spread, epilog=examples(*lines))(preflight)


def preflight(
    pair: PairName,
    suite: SuiteName,
    method: Annotated[str | None, typer.Option("--method", metavar="ID|FILE", help="Also the checks of this method, with its teacher and its context.")] = None,
    thorough: Annotated[bool, typer.Option("--thorough", help="As many answers for a large model on a CPU as for a small one.")] = False,
    device: Annotated[str | None, typer.Option("--device", metavar="DEVICE", help="Default: a GPU if there is one.")] = None,
    pair_path: PairPaths = None,
    data: Data = None,
    registry: Registries = None,
    as_json: AsJson = False,
) -> None:
    """Check a pair and a suite before any training: stop tokens, formats, overlap, tails, rescue, pass rates. Exits with 1 if a check is red."""
    from zoo.harness.models import load_pair_spec
    from zoo.harness.suites import load_suite

    spec, tests = load_pair_spec(pair), load_suite(suite)
    entry = None if method is None else entry_of(method, registry)
    quiet_libraries()
    import torch

    from zoo.harness.models import load_pair
    from zoo.harness.ready import settle_threads
    from zoo.preflight import preflight as look

    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    printed = Printed(console(), as_json)
    printed.doing(f"loading {spec.id}")
    loaded = load_pair(spec, paths=pair_paths(pair_path), data=data, device=place)
    settle_threads(loaded)
    report = look(loaded, tests, entry, thorough=thorough, say=printed.say, doing=printed.doing)
    printed.end(report)
    raise typer.Exit(1 if report.verdict == "red" else 0)


class Printed:
    """What a user sees while the checks are made: a status in a terminal, each check when it is there, the verdict at the end."""

    def __init__(self, out: Console, silent: bool) -> None:
        self.out, self.silent, self.group = out, silent, ""
        self.status = out.status("") if out.is_terminal and not silent else None

    def doing(self, text: str) -> None:
        """What is worked at."""
        if self.status is not None:
            self.status.start()
            self.status.update(f"{text} ...")

    def say(self, check: Check) -> None:
        """One check, and what to do about it."""
        if self.silent:
            return
        from rich.text import Text

        if check.group != self.group:
            self.group = check.group
            self.out.print(Text(check.group, style="bold"))
        mark, style = MARKS[check.level]
        line = Text(f"  {mark:<6}", style=style).append(f" {check.name:<24}", style="default").append(check.says, style="dim" if mark == "–" else "default")
        if check.failure_mode and check.level in ("amber", "red"):
            line.append(f"  [{check.failure_mode}]", style="dim")
        self.out.print(line, soft_wrap=not self.out.is_terminal)
        if check.remedy:
            self.out.print(Text(f"         -> {check.remedy}", style=style), soft_wrap=not self.out.is_terminal)

    def end(self, report: Report) -> None:
        """The verdict, or everything as plain data."""
        if self.status is not None:
            self.status.stop()
        if self.silent:
            print_json(report.to_json())
            return
        from rich.text import Text

        count = {level: sum(check.level == level for check in report.checks) for level in MARKS}
        rest = [f"{n} {level}" for level, n in count.items() if n]
        mark, style = MARKS[report.verdict]
        self.out.print(Text("verdict  ", style="bold").append(mark, style=style).append(f"  ({', '.join(rest)}; {report.seconds:.0f} s)"))
