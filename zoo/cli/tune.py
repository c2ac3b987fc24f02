"""The command that chooses learning rates by a comparison's declared sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.cli.common import add_rows, ahead, console, examples, print_json, quiet_libraries, table
from zoo.cli.options import AsJson, ComparisonName, Data, Methods, PairPaths, Registries, Results, Spread, UntrustedCode, WeightsNote, pair_paths
from zoo.errors import ZooError

if TYPE_CHECKING:
    from zoo.tune import Choice


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("tune", cls=Spread, epilog=examples("zoo tune core --jobs 8", "zoo tune core --show --json", "zoo tune core --write"))(tune)


def tune(
    comparison: ComparisonName,
    method: Methods = None,
    device: Annotated[str | None, typer.Option(metavar="cpu|cuda", help="Default: cuda where there is one.")] = None,
    results: Results = Path("results"),
    registry: Registries = None,
    pair_path: PairPaths = None,
    data: Data = None,
    untrusted_code: UntrustedCode = False,
    weights_note: WeightsNote = None,
    jobs: Annotated[str, typer.Option(metavar="N|auto", help="Cells run at once, in a process each.")] = "1",
    write: Annotated[bool, typer.Option("--write", help="Put the chosen rates into the comparison's file.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Run nothing: say what the records at hand say.")] = False,
    worker: Annotated[bool, typer.Option("--worker", hidden=True)] = False,
    as_json: AsJson = False,
) -> None:
    """Run what is left of a comparison's sweep over learning rates, and say which rate each method does best with.

    The records lie in RESULTS/sweeps and enter no table of results. Started again, it goes on where it stopped.
    """
    if not (show or worker):
        ahead(jobs)
    import zoo
    from zoo.harness.comparison import load_comparison
    from zoo.harness.plan import trains
    from zoo.tune import choices, write_choices

    quiet_libraries()
    declared, entries = load_comparison(comparison), zoo.load_registry(*(registry or ()))
    methods = [name for name in method or declared.methods if trains(entries[name])]
    given = [("--method", methods), ("--registry", registry), ("--pair-path", pair_path), ("--data", data), ("--device", device), ("--results", results)]
    given.append(("--weights-note", weights_note))
    told = {"device": device, "untrusted_code": untrusted_code, "weights_note": weights_note, "worker": worker, "quiet": as_json}
    if not show:
        _run(declared, entries, methods, ["tune", comparison], given, jobs, (results, pair_paths(pair_path), data), told)
    if worker:
        return
    found = choices(declared, methods, results)
    if write:
        left = [choice.method for choice in found if choice.learning_rate is None]
        if left:
            raise ZooError(f"the sweep has no complete result for {', '.join(left)}; run `zoo tune {comparison}` again")
        write_choices(_file(comparison), declared, found)
    if as_json:
        print_json([choice.to_json() for choice in found])
    else:
        _print(found)


def _run(
    declared: Any,
    entries: Any,
    methods: Sequence[str],
    command: Sequence[str],
    given: Sequence[tuple[str, Any]],
    jobs: str,
    place: tuple[Path, dict[str, Path], Path | None],
    told: dict[str, Any],
) -> None:
    """Every trial that is not done, here or in worker processes."""
    import torch
    from rich.console import Console

    from zoo.harness.models import load_pair_spec
    from zoo.harness.packing import jobs_for, run_packed, spelled
    from zoo.harness.parallel import end_processes
    from zoo.harness.plan import Place, make_plan
    from zoo.harness.run import run_comparison
    from zoo.harness.shared_teachers import Sharing
    from zoo.records import load_records
    from zoo.tune import FOLDER, trials_of

    results, paths, data = place
    at, trials = Place(results / FOLDER, paths, data), trials_of(declared)
    sharing = Sharing(load_pair_spec(declared.pair), paths)

    def left() -> int:
        return sum(cell.state != "done" for trial in trials for cell in make_plan(trial, entries, at, methods).cells)

    several = 1
    if not told["worker"] and (waiting := left()):
        device = told["device"] or ("cuda" if torch.cuda.is_available() else "cpu")
        several = jobs_for(jobs, device, waiting, [record for trial in trials for record in load_records(at.records, trial.id)], sharing)
    if several > 1:
        flags = [("--untrusted-code", told["untrusted_code"])]
        run_packed([*command, *spelled(given, flags)], several, (lambda line: None) if told["quiet"] else typer.echo, told["device"], sharing)
        if not left():
            return  # else some ran out of their part of a GPU's memory: once more alone
    shown = None if told["quiet"] else Console()
    for trial in trials:
        run_comparison(trial, entries, at, methods=methods, console=shown, **{name: value for name, value in told.items() if name != "quiet"})
    end_processes()


def _file(comparison: str) -> Path:
    from zoo.paths import declared

    return declared("comparison", comparison)


def _print(found: Sequence[Choice]) -> None:
    """A row a method: its score at every rate, and the rate taken."""
    if not found:
        return
    rates = [trial.learning_rate for trial in found[0].trials]
    made = table("method", *(f"{rate:g}" for rate in rates), "taken", "", right=(*(f"{rate:g}" for rate in rates), "taken"), keep=("method",))
    rows = [(c.method, *(_score(t.score, t.done, t.of) for t in c.trials), c.learning_rate and f"{c.learning_rate:g}", "edge" if c.edge else "") for c in found]
    console().print(add_rows(made, rows))


def _score(score: float | None, done: int, of: int) -> str | None:
    if score is None:
        return None
    return f"{score:.1%}" if done == of else f"{score:.1%} ({done} of {of})"
