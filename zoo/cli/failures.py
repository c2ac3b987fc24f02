"""Commands about failure modes: what the catalogue holds, and what was seen in runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo.cli.common import add_rows, chosen_value, console, examples, is_file, print_json, table
from zoo.cli.options import AsJson, Results


def register(app: typer.Typer) -> None:
    """Add the commands."""
    lines = ("zoo report quickstart", "zoo report quickstart/gkd --format html --out report.html", "zoo report 1f3a9c --json")
    app.command("report", epilog=examples(*lines))(report)
    app.command("failures", epilog=examples("zoo failures", "zoo failures FM08", "zoo failures --json"))(failures)


def report(
    name: Annotated[str, typer.Argument(metavar="RUN|COMPARISON", help="A comparison, COMPARISON/METHOD, or a run's uuid.", show_default=False)],
    form: Annotated[str, typer.Option("--format", metavar="md|html", help="Markdown, or one HTML file with plots.")] = "md",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write there; HTML without it goes to stdout as well.")] = None,
    results: Results = Path("results"),
    as_json: AsJson = False,
) -> None:
    """What every detector says of a run: findings in the order of triage, with evidence and what to do. Records are enough; logs beside them tell more."""
    from zoo.cli.common import comparison_id
    from zoo.errors import ZooError
    from zoo.failures.report_forms import markdown, page
    from zoo.failures.reporting import report_on

    chosen_value(form, ("md", "html"), "--format")
    found = report_on(comparison_id(name) if is_file(name) else name, results)
    if not found:
        raise ZooError(f"'{name}' has no run that trained anything")
    if as_json:
        print_json([each.to_json() for each in found])
        return
    title = f"Report on {name}" if len(found) > 1 else f"Report on {found[0].name}"
    text = page(found, title) if form == "html" else markdown(found, title)
    if out is None:
        typer.echo(text, nl=False)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    typer.echo(str(out))


def failures(
    mode: Annotated[str | None, typer.Argument(metavar="[FMxx]", help="One of them, in full.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """The catalogue of failure modes: what each is, when it can be seen, and what to do."""
    from zoo.failures import load_catalogue, load_failure_mode

    if mode is not None:
        chosen = load_failure_mode(mode)
        if as_json:
            print_json(chosen.model_dump(mode="json"))
            return
        made = table("", "", keep=("",))
        thresholds = [f"{n}: amber {t.amber}, red {t.red} ({t.source})" + (f"; was: {t.was}" if t.was else "") for n, t in chosen.thresholds.items()]
        rows = [(name, getattr(chosen, name)) for name in ("title", "cause", "when", "symptom", "mechanism", "metric")]
        rows += [("thresholds", "\n".join(thresholds)), ("needs", ", ".join(chosen.needs)), ("remedy", chosen.remedy), ("exposed", chosen.exposed)]
        rows += [("sources", "; ".join(chosen.sources))]
        console().print(add_rows(made, [("", f"{chosen.id} {chosen.name}"), *rows]))
        return
    catalogue = load_catalogue().values()
    if as_json:
        print_json([each.model_dump(mode="json") for each in catalogue])
        return
    console().print(add_rows(table("id", "name", "cause", "when", "title", keep=("id", "name")), ((m.id, m.name, m.cause, m.when, m.title) for m in catalogue)))
