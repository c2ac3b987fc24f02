"""Commands about comparisons: plan, run, status."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.cli.common import add_rows, comparison_id, complain, console, examples, main_process, print_json, quiet_libraries, table
from zoo.cli.options import AsJson, ComparisonName, Data, Methods, PairPaths, Registries, Results, Spread, UntrustedCode, pair_paths
from zoo.errors import ZooError

if TYPE_CHECKING:
    import pandas as pd

    from zoo.harness.plan import Plan

RESULTS, TABLES = Path("results"), Path("paper_tables")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("plan", cls=Spread, epilog=examples("zoo plan quickstart", "zoo plan mine.yaml --registry my_methods --json"))(plan)
    local = "zoo run gsm8k-first --device cuda --pair-path student=models/student teacher=models/teacher --data data/gsm8k"
    several = "Several processes: accelerate launch --multi_gpu --num_processes 2 -m zoo run quickstart"
    app.command("run", cls=Spread, epilog=examples("zoo run quickstart --jobs 2", "zoo run quickstart --method gkd --method student", local, several))(run)
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


def run(
    comparison: ComparisonName,
    method: Methods = None,
    device: Annotated[str | None, typer.Option(metavar="cpu|cuda", help="Default: cuda where there is one.")] = None,
    results: Results = RESULTS,
    tables: Annotated[Path, typer.Option(metavar="DIR", help="Where the tables are written.")] = TABLES,
    registry: Registries = None,
    pair_path: PairPaths = None,
    data: Data = None,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Let a model's own Python code run.")] = False,
    untrusted_code: UntrustedCode = False,
    weights_note: Annotated[str | None, typer.Option(metavar="TEXT", help="What the records should say about local weights.")] = None,
    jobs: Annotated[str, typer.Option(metavar="N|auto", help="Cells run at once, in a process each.")] = "1",
    worker: Annotated[bool, typer.Option("--worker", hidden=True)] = False,
    as_json: AsJson = False,
) -> None:
    """Train, evaluate and record what is not done yet, then print the table. Started again, it goes on where it stopped."""
    import zoo
    from zoo.harness.comparison import load_comparison
    from zoo.harness.packing import run_packed, spelled

    _refuse_absent_device(device)
    quiet_libraries()
    cells: dict[str, Any] = {"methods": method or None, "results": results, "pair_paths": pair_paths(pair_path), "data": data}
    cells["registry"] = zoo.load_registry(*(registry or ()))
    several = 1 if worker else _workers(jobs, comparison, device, cells)
    outcomes = []
    if several > 1:
        given = [("--method", method), ("--registry", registry), ("--pair-path", pair_path), ("--data", data), ("--device", device)]
        given += [("--weights-note", weights_note), ("--results", results)]
        flags = [("--trust-remote-code", trust_remote_code), ("--untrusted-code", untrusted_code)]
        run_packed(["run", comparison, *spelled(given, flags)], several, (lambda line: None) if as_json else typer.echo)
    else:
        told: dict[str, Any] = {"trust_remote_code": trust_remote_code, "untrusted_code": untrusted_code, "weights_note": weights_note, "worker": worker}
        outcomes = zoo.run(comparison, **cells, **told, device=device, quiet=as_json or not main_process())
    if worker:
        return
    if not main_process():
        raise typer.Exit(1 if any(outcome.status != "success" for outcome in outcomes) else 0)
    _end(load_comparison(comparison), method, results, tables, None if several > 1 else outcomes, as_json)


def _end(declared: Any, method: list[str] | None, results: Path, tables: Path, outcomes: Sequence[Any] | None, as_json: bool) -> None:
    """Write the tables and say how it ended; `outcomes` None where workers ran the cells."""
    import zoo

    scores = zoo.scores(declared.id, results=results)
    failed = _failures(scores, method or declared.methods)
    files = _tables(results, tables, declared.id)
    if as_json:
        ended = [{"method": o.cell.method, "seed": o.cell.seed, "status": o.status, "message": o.message, "record": _text(o.record)} for o in outcomes or ()]
        print_json({"comparison": declared.id, "outcomes": ended, "failed": failed, "files": [str(file) for file in files]})
    else:
        _print_end(outcomes is not None and not outcomes, scores, files)
    if failed:
        told = [f"{cell['method']} (seed {cell['seed']}): {cell['reason'] or cell['status']}" for cell in failed]
        complain("\n".join([f"zoo: {len(failed)} of the asked cells did not succeed:", *told]))
        raise typer.Exit(1)


def _workers(jobs: str, comparison: str, device: str | None, cells: dict[str, Any]) -> int:
    """How many processes the cells that are left are shared among."""
    if jobs == "1":
        return 1
    import torch

    import zoo
    from zoo.harness.packing import jobs_for
    from zoo.records import load_records

    left = sum(cell.state != "done" for cell in zoo.plan(comparison, **cells).cells)
    records = load_records(cells["results"] / "records", comparison_id(comparison))
    return jobs_for(jobs, device or ("cuda" if torch.cuda.is_available() else "cpu"), left, records)


def _refuse_absent_device(device: str | None) -> None:
    if device is None:
        return
    if device.split(":")[0] not in ("cpu", "cuda"):
        raise typer.BadParameter(f"'{device}' is neither cpu nor cuda", param_hint="--device")
    if device.startswith("cuda"):
        import torch

        if not torch.cuda.is_available():
            raise ZooError("--device cuda: PyTorch sees no CUDA device here; use --device cpu, or install a CUDA build of torch on a machine with a GPU")


def _failures(scores: pd.DataFrame, methods: Iterable[str]) -> list[dict[str, Any]]:
    """The asked cells whose chosen attempt is no success."""
    cells = scores[["method", "seed", "status", "reason"]].drop_duplicates(["method", "seed"])
    bad = cells[cells["method"].isin(list(methods)) & ~cells["status"].isin(["success", "not_run", "withdrawn"])]
    return [{str(name): value for name, value in row.items()} for row in bad.to_dict("records")]


def _tables(results: Path, tables: Path, comparison: str) -> list[Path]:
    from zoo.tables import build_tables

    return build_tables(results / "records", tables, comparison)


def _print_end(idle: bool, scores: pd.DataFrame, files: Sequence[Path]) -> None:
    from zoo.tables import terminal_table

    if idle:
        typer.echo("every cell that was asked for is done already")
    console().print(terminal_table(scores))
    for label, name in (("table", "main.md"), ("figure", "main.svg")):
        typer.echo(f"{label:8}{next(file for file in files if file.name == name)}")


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


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
