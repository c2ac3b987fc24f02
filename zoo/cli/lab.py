"""The command about exact expectations: what an entry does to a tabular language model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.cli.common import add_rows, complain, console, entry_of, examples, print_json, table
from zoo.cli.options import AsJson, Registries

if TYPE_CHECKING:
    from zoo.lab.claims import Compared
    from zoo.lab.report import LabReport

FOLLOW, FOLLOW_ONE = 150, 400  # steps along an update: of the whole registry, which takes minutes, and of an entry that is looked at


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("lab", epilog=examples("zoo lab vopd", "zoo lab my_method.yaml --json", "zoo lab --all", "zoo lab --tables"))(lab)


def lab(
    names: Annotated[list[str] | None, typer.Argument(metavar="ID|FILE...", help="Ids, or YAML files that may lie anywhere.", show_default=False)] = None,
    every: Annotated[bool, typer.Option("--all", help="Every entry of the registry, and what has no double here.")] = False,
    tables: Annotated[bool, typer.Option("--tables", help="Write the estimator and routing tables and their figures.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Do not follow the update to its rest, nor the noise with the horizon.")] = False,
    out: Annotated[Path, typer.Option(metavar="DIR", help="The generated files.")] = Path("paper_tables"),
    registry: Registries = None,
    as_json: AsJson = False,
) -> None:
    """Exact expectations on a tabular model: what each estimator estimates, its noise, and where the update comes to rest."""
    from zoo.entry import load_registry
    from zoo.lab.report import study

    if bool(names) + every + tables != 1:
        raise typer.BadParameter("give ids or files, or --all, or --tables", param_hint="ID|FILE")
    if tables:
        _write_tables(out, as_json)
        return
    entries = list(load_registry(*(registry or ())).values()) if every else [entry_of(name, registry) for name in names or ()]
    reports = []
    with _progress(len(entries), as_json or not every) as advance:
        for entry in entries:
            reports.append(study(entry, follow=0 if quick else FOLLOW if every else FOLLOW_ONE, full=not quick, numbers=as_json and not every))
            advance(entry.id)
    if as_json:
        print_json({"entries": [report.to_json() for report in reports], **coverage(reports)})
    elif every:
        _print_all(reports)
    else:
        for report in reports:
            _print_one(report)
    failed = [report.id for report in reports if not report.ok]
    if failed and not as_json:
        complain(f"{len(failed)} of {len(reports)} contradict their entry: {', '.join(failed)}")
    raise typer.Exit(1 if failed else 0)


def coverage(reports: list[LabReport]) -> dict[str, Any]:
    """What the lab has doubles for, what is exempt by kind, and which entries it says nothing about."""
    from zoo.lab.doubles import DOUBLES, EXEMPT, SORTS

    silent = {report.id: {"sort": report.sort, "reason": report.exempt} for report in reports if report.exempt}
    sorts = Counter(one["sort"] for one in silent.values())
    counts = {"measured": len(reports) - len(silent), "exempt": sum(sorts[sort] for sort in set(SORTS.values())), "by_sort": dict(sorted(sorts.items()))}
    return {"doubles": DOUBLES, "exempt_kinds": EXEMPT, **counts, "exempt_entries": silent}


def _write_tables(out: Path, as_json: bool) -> None:
    from zoo.lab.tables import write_lab_files

    written = [str(path) for path in write_lab_files(out)]
    print_json({"files": written}) if as_json else typer.echo("\n".join(written))


class _progress:
    """A bar on stderr in a terminal; nothing elsewhere."""

    def __init__(self, count: int, silent: bool) -> None:
        self.count, self.silent = count, silent

    def __enter__(self) -> Any:
        from rich.console import Console
        from rich.progress import Progress

        err = Console(stderr=True)
        self.bar = None if self.silent or not err.is_terminal else Progress(console=err, transient=True)
        if self.bar is None:
            return lambda name: None
        self.bar.start()
        task, bar = self.bar.add_task("lab", total=self.count), self.bar
        return lambda name: bar.update(task, advance=1, description=name)

    def __exit__(self, *error: Any) -> None:
        if self.bar is not None:
            self.bar.stop()


def _number(value: float | None, form: str = ".3f") -> str | None:
    return None if value is None or value != value else format(value, form)


def _compared(found: Compared | None) -> str | None:
    return None if found is None else f"{found.bias:.3f} {found.cosine:.3f}"


def _print_all(reports: list[LabReport]) -> None:
    made = table("method", "claims", "fixed point", "found", "metric", "result", keep=("method",))
    rows = []
    for report in reports:
        if report.exempt:
            continue
        held = {True: "yes", False: "NO", None: "–"}
        fixed, descent = report.fixed, report.descent
        rows.append([
            report.id, " ".join(held[claim.holds] for claim in report.claims), (fixed.claimed or "–").split(":")[0] if fixed else None,
            fixed.found if fixed else None, descent.metric if descent else None, "ok" if report.ok else "; ".join(report.contradictions),
        ])  # fmt: skip
    console().print(add_rows(made, rows))
    found = coverage(reports)
    console().print(add_rows(table("no double", "why", keep=("no double",)), found["exempt_kinds"].items()))
    silent = sorted(found["exempt_entries"].items(), key=lambda one: (one[1]["sort"], one[0]))
    why = [(name, one["sort"], one["reason"]) for name, one in silent]
    console().print(add_rows(table("not measured", "sort", "why", keep=("not measured", "sort")), why))
    counted = ", ".join(f"{count} {sort}" for sort, count in found["by_sort"].items())
    typer.echo(f"{found['measured']} entries measured, {len(silent)} not: {counted}; {found['exempt']} of them are exempt by name")
    typer.echo(f"{len(found['doubles'])} kinds have a double of their own, {len(found['exempt_kinds'])} are exempt")


def _print_one(report: LabReport) -> None:
    if report.exempt:
        typer.echo(f"{report.id}\n  not measured ({report.sort}): {report.exempt}")
        return
    typer.echo(f"{report.id}  {report.world}, {report.outcomes} joint outcomes")
    columns = ("term", "estimator", "what its mean is", "holds", "bias", "1 - cos", "(a)", "(b)", "(c)", "variance/token", "growth")
    made = table(*columns, right=columns[4:])
    rows = []
    run_of = {run.term: run for run in report.runs}
    for claim in report.claims:
        run = run_of[claim.term]
        holds = {True: "yes", False: "NO", None: "no formula"}[claim.holds]
        apart = None if claim.cosine != claim.cosine else f"{max(1 - claim.cosine, 0.0):.0e}"
        rows.append([
            claim.term, claim.estimator, "; ".join([claim.says, *claim.altered]), holds, _number(claim.bias, ".0e"), apart, _compared(claim.state),
            _compared(claim.sequence), _compared(claim.reward), _number(run.variance, ".3g"), _number(run.growth, ".2f"),
        ])  # fmt: skip
    console().print(add_rows(made, rows))
    typer.echo("  (a), (b), (c): relative bias and cosine against the per-state reverse KL, the sequence's, and the expected reward")
    for claim in report.claims:
        if claim.withheld is not None:
            typer.echo(f"  objective[{claim.term}] leaves {claim.withheld:.4f} of the sequence's push on the stop token's logits out (D.4)")
    for label, lines in (("sizes that the world needed", report.changes), ("CONTRADICTS", report.contradictions)):
        for line in lines:
            typer.echo(f"  {label}: {line}")
    if report.fixed is not None:
        typer.echo(f"  fixed point: stated {report.fixed.claimed}; {report.fixed.found}")
        if report.fixed.masses is not None:
            own, theirs = report.fixed.masses
            typer.echo(
                f"  mass on the support in the first state: student {own:.4f}, teacher {theirs:.4f}, ratio {own / theirs:.3f} (raw reverse KL: 1/e = 0.368)"
            )
    if report.descent is not None and report.descent.ok is not None:
        typer.echo(f"  {report.descent.metric}: {report.descent.before:.6g} -> {report.descent.after:.6g} over exact steps")
    if report.error:
        typer.echo(f"  the streams' law was drawn: probabilities are off by at most {report.error:.1e}")
