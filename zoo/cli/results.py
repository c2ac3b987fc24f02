"""Commands about results: tables, scores."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.cli.common import add_rows, comparison_id, console, examples, print_json, table
from zoo.cli.options import AsJson, ComparisonName, Results
from zoo.errors import ZooError

if TYPE_CHECKING:
    import pandas as pd


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("tables", epilog=examples("zoo tables", "zoo tables quickstart --out my_tables", "zoo tables --check"))(tables)
    app.command(
        "trace",
        epilog=examples(
            "zoo trace quickstart gkd micro_add.score", "zoo trace gsm8k-first/costs sft steps --json", "zoo trace failure_detection FM07 validated"
        ),
    )(trace)
    app.command("scores", epilog=examples("zoo scores quickstart", "zoo scores quickstart --csv > scores.csv"))(scores)


def tables(
    comparison: Annotated[str | None, typer.Argument(metavar="[COMPARISON]", help="An id, or a YAML file; without it all that have records.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail where the files differ from what the records give.")] = False,
    records: Annotated[Path, typer.Option(metavar="DIR", help="The records.")] = Path("results/records"),
    out: Annotated[Path, typer.Option(metavar="DIR", help="The generated files.")] = Path("paper_tables"),
    as_json: AsJson = False,
) -> None:
    """Write tables, figure and manifest from the records, the lab's and the surveys', byte for byte the same each time; or check that they are current."""
    from zoo.table_forms import write_files
    from zoo.tables import build_tables, check_tables

    if check and comparison is not None:
        raise typer.BadParameter("looks at all comparisons; leave COMPARISON out", param_hint="--check")
    if not check:
        files = build_tables(records, out, None if comparison is None else comparison_id(comparison))
        files += write_files(out, _beside(records)) if comparison is None else []
        print_json({"files": [str(file) for file in files]}) if as_json else typer.echo("\n".join(map(str, files)))
        return
    problems = check_tables(records, out, _beside(records) if any((out / name).exists() for name in ("estimators.md", "survey_a_tree.md")) else None)
    if as_json:
        print_json({"problems": problems})
        raise typer.Exit(1 if problems else 0)
    if problems:
        raise ZooError("\n".join([f"{out} differs from what {records} gives; run `zoo tables` and commit:", *problems]))
    typer.echo(f"{out} is what {records} gives")


def _beside(records: Path) -> dict[str, bytes]:
    """The tables that stand by themselves: the lab's, the surveys' from the registry, and the detectors' from the records of provocations."""
    import zoo
    from zoo.lab.tables import lab_files
    from zoo.provoke.table import detection_files
    from zoo.survey_tables import survey_files

    return {**lab_files(), **survey_files(zoo.load_registry()), **detection_files(records)}


def trace(
    name: Annotated[str, typer.Argument(metavar="TABLE", help="COMPARISON for its main table, COMPARISON/TABLE, or failure_detection.", show_default=False)],
    row: Annotated[str, typer.Argument(metavar="ROW", help="As in the first columns, several joined by ' · '; no footnotes.", show_default=False)],
    column: Annotated[str, typer.Argument(metavar="COLUMN", help="As in the CSV's head.", show_default=False)],
    records: Annotated[Path, typer.Option(metavar="DIR", help="The records.")] = Path("results/records"),
    out: Annotated[Path, typer.Option(metavar="DIR", help="The generated files.")] = Path("paper_tables"),
    as_json: AsJson = False,
) -> None:
    """The records behind one cell of a table, and whether they are still those that it was made from."""
    from dataclasses import asdict

    import zoo.trace
    from zoo.tables import MANIFEST

    found = zoo.trace.trace(out / MANIFEST, records, name, row, column)
    if as_json:
        print_json([asdict(source) for source in found])
        return
    console().print(add_rows(table("record", "sha256", "state", keep=("record",)), ((s.path, s.sha256[:16], s.state) for s in found)))


def scores(
    comparison: ComparisonName,
    results: Results = Path("results"),
    as_csv: Annotated[bool, typer.Option("--csv", help="Print every metric as CSV.")] = False,
    as_json: AsJson = False,
) -> None:
    """One row for each method, seed, task and metric, from the records alone; the table shows headline metrics only."""
    import zoo

    if as_csv and as_json:
        raise typer.BadParameter("give one of --csv and --json", param_hint="--csv")
    frame = zoo.scores(comparison_id(comparison), results=results).drop(columns="items")
    if as_csv:
        typer.echo(frame.to_csv(index=False), nl=False)
    elif as_json:
        print_json(json.loads(frame.to_json(orient="records", double_precision=15)))
    else:
        console().print(_headlines(frame))


def _headlines(frame: pd.DataFrame) -> Any:
    made = table("method", "seed", "task", "metric", "score", "± s.e.", "vs student", "gap closed", "status", right=("seed", "score", "± s.e.", "vs student",
                 "gap closed"), keep=("method", "task"))  # fmt: skip
    rows = [row for row in frame.to_dict("records") if row["headline"]]
    numbers = ("score", "stderr", "difference", "gap_closed")
    return add_rows(made, ((r["method"], r["seed"], r["task"], r["metric"], *(_number(r[name]) for name in numbers), _status(r)) for r in rows))


def _number(value: float) -> str | None:
    return None if math.isnan(value) else f"{value:.3f}"


def _status(row: dict[Any, Any]) -> str:
    return "not run" if row["status"] == "not_run" else row["status"] + (f" ({row['reason']})" if row["reason"] else "")
