"""Commands about entries: list, show, diff, taxonomy, check, schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from zoo.cli.common import add_rows, chosen_value, complain, console, entry_of, examples, print_json, quiet_libraries, registry_or_nothing, table
from zoo.cli.options import AsJson, PairPaths, Registries, Spread, pair_paths

Id = Annotated[str, typer.Argument(metavar="ID", help="A method's id, or the YAML file of an entry.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        "list",
        epilog=examples(
            "zoo list",
            "zoo list --signal outcome --access teacher_free",
            "zoo list --estimator pg_gae --routing counterfactual",
            "zoo list --survey A --blocked",
            "zoo list --json",
        ),
    )(list_entries)
    app.command("show", epilog=examples("zoo show eopd", "zoo show my_method.yaml", "zoo show gkd --latex", "zoo show gkd --json"))(show)
    app.command("diff", epilog=examples("zoo diff gkd gkd_on_policy", "zoo diff eopd my_method.yaml --json"))(diff_entries)
    app.command("taxonomy", epilog=examples("zoo taxonomy", "zoo taxonomy --by signal granularity", "zoo taxonomy --json"))(taxonomy)
    app.command("check", cls=Spread, epilog=examples("zoo check gkd", "zoo check my_method.yaml", "zoo check --all --json"))(check)
    editor = "First line of a YAML then: # yaml-language-server: $schema=entry.schema.json"
    app.command("schema", epilog=examples("zoo schema --out entry.schema.json", editor))(schema)


def list_entries(
    signal: Annotated[str | None, typer.Option(help="logit, outcome, self_play or label.")] = None,
    access: Annotated[str | None, typer.Option(help="white_box, black_box or teacher_free.")] = None,
    granularity: Annotated[str | None, typer.Option(help="token, sequence or hybrid.")] = None,
    estimator: Annotated[str | None, typer.Option(help="direct, pg_immediate, pg_group, preference, mle, ...")] = None,
    routing: Annotated[str | None, typer.Option(help="full_vocab, sampled_token, teacher_topk, ...")] = None,
    evidence: Annotated[str | None, typer.Option(help="code, paper_text, abstract or inferred.")] = None,
    failure: Annotated[str | None, typer.Option(metavar="FMxx", help="A known failure mode.")] = None,
    kind: Annotated[str | None, typer.Option(help="method or analysis.")] = None,
    scope: Annotated[str | None, typer.Option(help="text, multimodal or system_report.")] = None,
    survey: Annotated[str | None, typer.Option(help="A or B: named by this survey.")] = None,
    executable: Annotated[bool | None, typer.Option("--executable/--blocked", help="Only entries that run here, or only those that do not.")] = None,
    registry: Registries = None,
    as_json: AsJson = False,
) -> None:
    """The methods, where they stand in the taxonomy, and how solid their formulas are."""
    from zoo import coordinates, entry, show

    fields = entry.MethodEntry.model_fields
    wanted = {
        "feedback_signal": chosen_value(signal, get_args(coordinates.Signal), "--signal"),
        "teacher_access": chosen_value(access, get_args(coordinates.Access), "--access"),
        "loss_granularity": chosen_value(granularity, get_args(coordinates.Granularity), "--granularity"),
        "estimator": chosen_value(estimator, get_args(coordinates.Estimator), "--estimator"),
        "routing": chosen_value(routing, get_args(coordinates.Routing), "--routing"),
        "evidence": chosen_value(evidence, get_args(entry.Evidence.model_fields["level"].annotation), "--evidence"),
        "known_failures": failure,
        "kind": chosen_value(kind, get_args(fields["kind"].annotation), "--kind"),
        "scope": chosen_value(scope, get_args(fields["scope"].annotation), "--scope"),
        "surveys": chosen_value(survey, ("A", "B"), "--survey"),
        "executable": executable,
    }
    chosen = [one for one in entry.load_registry(*(registry or ())).values() if show.matches(show.summary(one), wanted)]
    rows = [show.summary(one) for one in chosen]
    if as_json:
        print_json(rows)
    else:
        console().print(show.list_table(rows, console().width))
        typer.echo("\n".join([f"{len(rows)} entries", *entry.totals(chosen).lines()]))


def show(
    name: Id,
    latex: Annotated[bool, typer.Option("--latex", help="Only the formula, as LaTeX.")] = False,
    registry: Registries = None,
    as_json: AsJson = False,
) -> None:
    """One entry in full: its formula, what runs, its coordinates term by term, its nearest relatives, what the paper says and where we deviate."""
    from zoo import show as rendering
    from zoo.formulas import aligned, formula

    if latex and as_json:
        raise typer.BadParameter("give one of --latex and --json, which has the LaTeX too", param_hint="--latex")
    entry = entry_of(name, registry)
    if latex:
        typer.echo(aligned(formula(entry)))
        return
    others = registry_or_nothing(registry)
    if as_json:
        print_json(rendering.description(entry, others))
    else:
        console().print(rendering.long_form(entry, others))


def diff_entries(first: Id, second: Id, registry: Registries = None, as_json: AsJson = False) -> None:
    """The exact paths at which what runs differs between two entries."""
    from zoo.entry import diff

    one, other = entry_of(first, registry), entry_of(second, registry)
    found = diff(one, other)
    if as_json:
        differences = [{"path": path, "first": a, "second": b} for path, (a, b) in found.items()]
        print_json({"first": one.id, "second": other.id, "differences": differences})
    elif not found:
        typer.echo(f"{one.id} and {other.id} run the same")
    else:
        console().print(add_rows(table("path", one.id, other.id), ((path, *values) for path, values in found.items())))


def taxonomy(
    by: Annotated[tuple[str, str], typer.Option(metavar="ROWS COLUMNS", help="Two of signal, access, granularity, estimator, routing.")] = (
        "estimator",
        "routing",
    ),
    registry: Registries = None,
    as_json: AsJson = False,
) -> None:
    """How many methods stand at each pair of coordinates, and which empty cells are open: legal, and published by nobody here."""
    from zoo.entry import load_registry
    from zoo.show_taxonomy import matrix_table, open_cells
    from zoo.taxonomy import AXES, matrix

    rows, columns = (chosen_value(name, AXES, "--by") or name for name in by)
    if rows == columns:
        raise typer.BadParameter("give two different coordinates", param_hint="--by")
    found = matrix(load_registry(*(registry or ())), rows, columns)
    if as_json:
        print_json(found.to_json())
        return
    console().print(matrix_table(found))
    typer.echo(open_cells(found))


def check(
    names: Annotated[list[str] | None, typer.Argument(metavar="ID|FILE...", help="Ids, or YAML files that may lie anywhere.", show_default=False)] = None,
    every: Annotated[bool, typer.Option("--all", help="Every entry of the registry, and the registry as a whole.")] = False,
    registry: Registries = None,
    pair_path: PairPaths = None,
    as_json: AsJson = False,
) -> None:
    """Check entries: schema, compatibility, coordinates; then two steps on the micro pair, and where the gradient goes."""
    from zoo.check import Bench, check_all, check_file, file_of

    if bool(names) == every:
        raise typer.BadParameter("give ids or files, or --all", param_hint="ID|FILE")
    quiet_libraries()
    bench = Bench(pair_paths(pair_path))
    folders = registry or []
    reports = check_all(folders, bench) if every else (check_file(file_of(name, folders), bench) for name in names or ())
    done = []
    for report in reports:
        done.append(report)
        if not as_json:
            typer.echo(report.text())
    failed = [report.id for report in done if not report.ok]
    if as_json:
        print_json([report.to_json() for report in done])
    elif failed:
        complain(f"{len(failed)} of {len(done)} failed: {', '.join(failed)}")
    raise typer.Exit(1 if failed else 0)


def schema(out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it there in place of printing it.")] = None) -> None:
    """The JSON Schema of an entry, with which editors complete and check the YAML."""
    import json

    from zoo.schema import json_schema

    if out is None:
        print_json(json_schema())
    else:
        out.write_text(json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        typer.echo(out)
