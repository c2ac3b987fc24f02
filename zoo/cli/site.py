"""Commands about what is looked at: figures, site."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo.cli.common import comparison_id, examples, print_json
from zoo.cli.options import AsJson, Registries
from zoo.errors import ZooError

Records = Annotated[Path, typer.Option(metavar="DIR", help="The records.")]
RECORDS, TABLES, SITE = Path("results/records"), Path("paper_tables"), Path("site")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("figures", epilog=examples("zoo figures core", "zoo figures --check", "zoo figures quickstart --out my_tables"))(figures)
    app.command("site", epilog=examples("zoo site", "zoo site --out public --registry my_methods"))(site)


def figures(
    comparison: Annotated[str | None, typer.Argument(metavar="[COMPARISON]", help="An id, or a YAML file; without it all that have figures.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail where a figure was drawn from other data than the records give.")] = False,
    records: Records = RECORDS,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Figures go to DIR/COMPARISON/figures.")] = TABLES,
    registry: Registries = None,
    as_json: AsJson = False,
) -> None:
    """Draw a comparison's figures as SVG and PDF, or check by the digest of their data that they are current."""
    import zoo
    from zoo.families import families
    from zoo.figures.build import FOLDER, build_figures, stale_figures
    from zoo.figures.data import load_board
    from zoo.records import comparisons

    entries = zoo.load_registry(*(registry or ()))
    coordinates = {name: entry.coordinates.model_dump(mode="json") for name, entry in entries.items() if entry.coordinates is not None}
    present = [name for name in comparisons(records) if (out / name / FOLDER).is_dir()]
    names = [comparison_id(comparison)] if comparison else present
    if not names:
        raise ZooError(f"{out}: no comparison has figures yet; name one: zoo figures COMPARISON")
    found: dict[str, list[str]] = {}
    for name in names:
        board = load_board(records, name, families(entries), coordinates)
        folder = out / name / FOLDER
        found[name] = stale_figures(board, folder) if check else [str(path) for path in build_figures(board, folder)]
    if as_json:
        print_json({"problems" if check else "files": found})
    elif not check:
        typer.echo("\n".join(path for paths in found.values() for path in paths))
    stale = [f"{name}: {problem}" for name, problems in found.items() for problem in problems] if check else []
    if stale and not as_json:
        raise ZooError("\n".join([f"figures below {out} differ from what {records} gives; run `zoo figures` and commit:", *stale]))
    if stale:
        raise typer.Exit(1)
    if check and not as_json:
        typer.echo(f"the figures of {', '.join(names)} show what {records} gives")


def site(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the site is written, in place of an earlier one.")] = SITE,
    records: Records = RECORDS,
    tables: Annotated[Path, typer.Option(metavar="DIR", help="The generated tables, for the detection matrix.")] = TABLES,
    registry: Registries = None,
    as_json: AsJson = False,
) -> None:
    """Write the static site: leaderboard, methods, comparisons, failures, taxonomy. Open its index.html; it needs no server and no network."""
    import zoo
    from zoo.site import build_site

    files = build_site(zoo.load_registry(*(registry or ())), records, tables, out)
    size = sum(file.stat().st_size for file in files)
    if as_json:
        print_json({"index": str(out / "index.html"), "files": len(files), "bytes": size})
    else:
        typer.echo(f"{out / 'index.html'}: {len(files)} files, {size / 1e6:.1f} MB")
