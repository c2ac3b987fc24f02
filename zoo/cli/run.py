"""The command that runs a comparison: here, in several processes, or on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.cli.common import ahead, chosen_value, comparison_id, complain, console, examples, is_file, launched, main_process, print_json, quiet_libraries
from zoo.cli.options import AsJson, ComparisonName, Data, Methods, PairPaths, Registries, Results, Spread, UntrustedCode, WeightsNote, pair_paths
from zoo.errors import ZooError

if TYPE_CHECKING:
    import pandas as pd

    from zoo.entry import Registry
    from zoo.harness.report import Listener
    from zoo.harness.shared_teachers import Sharing
    from zoo.records import Record

RESULTS, TABLES = Path("results"), Path("paper_tables")
LOCAL = "zoo run gsm8k-first --device cuda --pair-path student=models/student teacher=models/teacher --data data/gsm8k"
SEVERAL = "Several processes for one cell: accelerate launch --multi_gpu --num_processes 2 -m zoo run quickstart"
Plan = tuple[int, tuple[str, int] | None]  # worker processes; a cell (method, seed) that is run alone before
LINES_EVERY = 10.0  # seconds between two events of a cell with --json


def register(app: typer.Typer) -> None:
    """Add the command."""
    shown = examples("zoo run quickstart --jobs 2", "zoo run quickstart --method gkd --seed 0", "zoo run core --engine ray --address auto", LOCAL, SEVERAL)
    app.command("run", cls=Spread, epilog=shown)(run)


def run(
    comparison: ComparisonName,
    method: Methods = None,
    seed: Annotated[list[int] | None, typer.Option("--seed", metavar="N", help="Only this seed of the comparison; may be repeated.")] = None,
    device: Annotated[str | None, typer.Option(metavar="cpu|cuda", help="Default: cuda where there is one.")] = None,
    results: Results = RESULTS,
    tables: Annotated[Path, typer.Option(metavar="DIR", help="Where the tables are written.")] = TABLES,
    registry: Registries = None,
    pair_path: PairPaths = None,
    data: Data = None,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Let a model's own Python code run.")] = False,
    untrusted_code: UntrustedCode = False,
    weights_note: WeightsNote = None,
    jobs: Annotated[str | None, typer.Option(metavar="N|auto", help="Cells run at once, in a process each. Default: 1 here, auto on a cluster.")] = None,
    share_teachers: Annotated[
        str, typer.Option(metavar="auto|on|off", help="One copy of the teachers for all cells on a GPU; auto: where that saves memory.")
    ] = "auto",
    engine: Annotated[str, typer.Option(metavar="here|ray", help="Run the cells on this machine, or as tasks of a Ray cluster.")] = "here",
    address: Annotated[str, typer.Option(metavar="HOST:PORT", help="The Ray cluster: auto is this machine's, local starts one.")] = "auto",
    tracker: Annotated[list[str] | None, typer.Option("--tracker", metavar="NAME", help="tensorboard, trackio or wandb; may be repeated.")] = None,
    worker: Annotated[bool, typer.Option("--worker", help="Run what no other worker is running, on storage that they share; no table at the end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train, evaluate and record what is not done yet, then print the table. Started again, it goes on where it stopped."""
    if engine == "here" and not worker:
        ahead(jobs)
    import zoo
    from zoo.harness.comparison import load_comparison
    from zoo.harness.parallel import end_processes
    from zoo.harness.trackers import trackers

    _refuse_absent_device(device if engine == "here" else None)
    chosen_value(engine, ("here", "ray"), "--engine")
    chosen_value(share_teachers, ("auto", "on", "off"), "--share-teachers")
    _refuse_both_ways(jobs, engine)
    quiet_libraries()
    cells: dict[str, Any] = {"methods": method or None, "results": results, "pair_paths": pair_paths(pair_path), "data": data}
    cells["registry"] = zoo.load_registry(*(registry or ()))
    told: dict[str, Any] = {"trust_remote_code": trust_remote_code, "untrusted_code": untrusted_code, "weights_note": weights_note}
    followed = trackers(tracker or (), results, comparison_id(comparison))
    sharing = None if worker or jobs in (None, "1") or engine == "ray" else _sharing(comparison, cells["pair_paths"], trust_remote_code, share_teachers)
    outcomes = None
    if engine == "ray":
        _on_ray(comparison, seed, cells, told, device, registry or (), tracker or (), (address, jobs or "auto", as_json))
    elif not worker and (plan := _workers(jobs or "1", comparison, seed, device, cells, sharing)) != (1, None):
        given = [("--registry", registry), ("--pair-path", pair_path), ("--data", data), ("--device", device), ("--tracker", tracker)]
        given += [("--weights-note", weights_note), ("--results", results)]
        flags = [("--trust-remote-code", trust_remote_code), ("--untrusted-code", untrusted_code)]
        again = partial(_workers, jobs or "1", comparison, seed, device, cells, sharing)
        _packed(comparison, method, seed, given, flags, plan, again, _left(comparison, seed, cells), as_json, sharing)
    else:
        quiet = as_json or not main_process()
        outcomes = zoo.run(comparison, **cells, **told, seeds=seed or None, device=device, quiet=quiet, worker=worker, listeners=followed)
        end_processes()
    if worker:
        return
    if outcomes is not None and not main_process():
        raise typer.Exit(1 if any(outcome.status != "success" for outcome in outcomes) else 0)
    _end(load_comparison(comparison), method, results, tables, outcomes, as_json)


def _left(comparison: str, seeds: Sequence[int] | None, cells: Mapping[str, Any]) -> list[tuple[str, int]]:
    """The asked cells that are not done."""
    import zoo

    return [(cell.method, cell.seed) for cell in zoo.plan(comparison, **cells).cells if cell.state != "done" and (not seeds or cell.seed in seeds)]


def _sharing(comparison: str, paths: dict[str, Path], trust_remote_code: bool, chosen: str) -> Sharing:
    """The teachers that worker processes may share."""
    from zoo.harness.comparison import load_comparison
    from zoo.harness.models import load_pair_spec
    from zoo.harness.shared_teachers import Sharing

    return Sharing(load_pair_spec(load_comparison(comparison).pair), paths, trust_remote_code, chosen)


def _board(comparison: str, cells: int, as_json: bool) -> Listener:
    """Where the progress of cells in other processes is shown: with --json as lines of JSON on stderr."""
    import json

    from zoo.harness.board import screen
    from zoo.harness.comparison import load_comparison
    from zoo.harness.report import Wire

    if as_json:
        return Wire(lambda event: typer.echo(json.dumps(event), err=True), LINES_EVERY)
    return screen(console(), cells, load_comparison(comparison).budget.amount)


def _packed(
    comparison: str,
    methods: list[str] | None,
    seeds: list[int] | None,
    given: list[tuple[str, Any]],
    flags: list[tuple[str, bool]],
    plan: Plan,
    again: Callable[[], Plan],
    left: list[tuple[str, int]],
    as_json: bool,
    sharing: Sharing | None = None,
) -> None:
    """All cells in worker processes, behind the one that measures what a cell needs, if the plan names one; one that ran out of its part of a GPU's
    memory once more by itself, unless each worker had a whole GPU. `again` makes the plan anew."""
    from zoo.harness.packing import gpus, run_packed, spelled
    from zoo.harness.report import Endings, Several

    device: str | None = dict(given)["--device"]

    def run(names: list[str] | None, numbers: list[int] | None, workers: int) -> None:
        run_packed(["run", comparison, *spelled([("--method", names), ("--seed", numbers), *given], flags)], workers, board, device, sharing)

    import_module("zoo.tables")  # what comes at the end is loaded now, while the server of the workers still loads what they need
    endings = Endings()
    board = Several([_board(comparison, len(left), as_json), endings])
    try:
        workers, first = plan
        if first is not None:
            board.say(f"{first[0]} (seed {first[1]}) runs alone at first, to measure how much memory a cell needs")
            run([first[0]], [first[1]], 1)
            workers, _ = again()
        run(methods, seeds, workers)
        beside = workers > len(gpus(device or "cuda"))
        for name, number in [cell for cell, status in endings.statuses.items() if status == "oom" and beside]:
            board.say(f"{name} (seed {number}) ran out of memory beside others; once more alone")
            run([name], [number], 1)
    finally:
        board.close()


def _on_ray(
    comparison: str,
    seeds: list[int] | None,
    cells: Mapping[str, Any],
    told: dict[str, Any],
    device: str | None,
    registry: Sequence[Path],
    tracked: Sequence[str],
    asked: tuple[str, str, bool],
) -> None:
    """All cells as tasks of a cluster."""
    from uuid import uuid4

    import torch

    from zoo.harness.packing import jobs_for
    from zoo.harness.ray_cells import Order, run_on_ray
    from zoo.records import load_records

    address, jobs, as_json = asked
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    left = _left(comparison, seeds, cells)
    if not left:
        return
    records = load_records(cells["results"] / "records", comparison_id(comparison))
    if (first := _measures(device, left, cells["registry"], records)) is not None:
        left = [first, *(cell for cell in left if cell != first)]
    results = cells["results"].resolve()
    order = Order(
        str(Path(comparison).resolve()) if is_file(comparison) else comparison, str(results), str(results / "work" / f"run-{uuid4().hex}.token"),
        tuple(str(folder.resolve()) for folder in registry), {name: str(folder.resolve()) for name, folder in cells["pair_paths"].items()},
        str(cells["data"].resolve()) if cells["data"] else None, device, tuple(tracked), told,
    )  # fmt: skip
    board = _board(comparison, len(left), as_json)
    try:
        run_on_ray(order, left, board, address=address, jobs=None if jobs == "auto" else jobs_for(jobs, "", len(left), []))
    finally:
        board.close()


def _end(declared: Any, method: list[str] | None, results: Path, tables: Path, outcomes: Sequence[Any] | None, as_json: bool) -> None:
    """Write the tables and say how it ended; `outcomes` None where other processes ran the cells."""
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


def _workers(jobs: str, comparison: str, seeds: list[int] | None, device: str | None, cells: dict[str, Any], sharing: Sharing | None = None) -> Plan:
    """How many processes the cells that are left are shared among, and the cell that must be run first to know."""
    if jobs == "1":
        return 1, None
    import torch

    from zoo.harness.packing import jobs_for
    from zoo.records import load_records

    device, left = device or ("cuda" if torch.cuda.is_available() else "cpu"), _left(comparison, seeds, cells)
    records = load_records(cells["results"] / "records", comparison_id(comparison))
    return jobs_for(jobs, device, len(left), records, sharing), _measures(device, left, cells["registry"], records) if jobs == "auto" else None


def _measures(device: str, left: Sequence[tuple[str, int]], registry: Registry, records: Sequence[Record]) -> tuple[str, int] | None:
    """Of the cells that are left, the one that shows how much of a GPU those that train need, where no record does."""
    from zoo.harness.packing import to_measure
    from zoo.harness.plan import trains

    return to_measure(device, [cell for cell in left if trains(registry[cell[0]])], records)


def _refuse_both_ways(jobs: str | None, engine: str) -> None:
    """One cell is spread over the processes of a launcher, or each cell is given to a process of its own."""
    if launched() and (engine == "ray" or jobs not in (None, "1")):
        raise ZooError("--jobs and --engine ray give each cell to one process, and `accelerate launch` spreads each cell over several; use one or the other")


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
