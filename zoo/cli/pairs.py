"""Commands about what comparisons are made of: pairs, suites; and the version."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.cli.common import add_rows, console, examples, print_json, table
from zoo.cli.options import AsJson
from zoo.errors import ZooError

if TYPE_CHECKING:
    from zoo.harness.models import ModelSource, PairSpec

PairName = Annotated[str, typer.Argument(metavar="PAIR", help="An id, or a YAML file.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    pairs = typer.Typer(name="pairs", help="Students with their teachers: list, show, build.", no_args_is_help=True)
    pairs.command("list", epilog=examples("zoo pairs list", "zoo pairs list --json"))(list_pairs)
    pairs.command("show", epilog=examples("zoo pairs show micro", "zoo pairs show my_pair.yaml --json"))(show_pair)
    pairs.command("build", epilog=examples("zoo pairs build micro --out build/micro", "zoo pairs build micro-cross --force --seed 1"))(build_pair)
    app.add_typer(pairs)
    app.command("suites", epilog=examples("zoo suites", "zoo suites --json"))(suites)
    app.command("version", epilog=examples("zoo version", "zoo version --json"))(version)


def list_pairs(as_json: AsJson = False) -> None:
    """The pairs that ship with the zoo, and where their weights come from."""
    from zoo.harness.models import load_pair_spec
    from zoo.paths import data_root

    specs = [load_pair_spec(file.stem) for file in sorted((data_root() / "registry" / "pairs").glob("*.yaml"))]
    rows = [{"id": s.id, "title": s.title, "models": _models(s)} for s in specs]
    if as_json:
        print_json(rows)
        return
    made = table("id", "title", "model", "weights", keep=("id", "model"))
    lines = [(row["id"] if i == 0 else "", row["title"] if i == 0 else "", *model) for row in rows for i, model in enumerate(row["models"].items())]  # type: ignore[attr-defined]
    console().print(add_rows(made, lines))


def _models(spec: PairSpec) -> dict[str, str]:
    return {name: _origin(spec, source) for name, source in (("student", spec.student), *spec.teachers.items())}


def _origin(spec: PairSpec, source: ModelSource) -> str:
    from zoo.paths import shipped_model

    if source.hub:
        return f"hub: {source.hub}@{source.revision or 'main'}"
    folder = Path(source.path) if source.path else shipped_model(spec.id, str(source.shipped))
    kind = "folder" if source.path else "shipped"
    return f"{kind}: {source.path or source.shipped}" + ("" if any(folder.glob("*.safetensors")) else " (missing)")


def show_pair(pair: PairName, as_json: AsJson = False) -> None:
    """A pair's declaration."""
    import yaml

    from zoo.harness.models import load_pair_spec

    spec = load_pair_spec(pair)
    content = {**spec.model_dump(mode="json"), "weights": _models(spec)}
    print_json(content) if as_json else typer.echo(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120), nl=False)


def build_pair(
    pair: PairName,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the weights go; default: where the package looks for them.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Names the random streams of the build.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace weights that are there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a shipped pair's models anew (micro: a quarter of an hour on two cores) and measure them as saved."""
    from zoo.harness.models import load_pair_spec
    from zoo.paths import shipped_pair

    spec = load_pair_spec(pair)
    if spec.id not in ("micro", "micro-cross"):
        raise ZooError(f"pair '{spec.id}' is not built here: its weights come from {', '.join(_models(spec).values())}; only micro and micro-cross are")
    folder = out or shipped_pair(spec.id)
    present = sorted({file.parent.name for file in folder.glob("*/*.safetensors")})
    if present and not force:
        raise ZooError(f"{folder} holds weights already ({', '.join(present)}); give --out DIR to build elsewhere, or --force to replace them")
    from zoo.harness.build_micro import build

    report = build(folder, seed, (lambda line: None) if as_json else typer.echo, *([] if spec.id == "micro" else [spec.id]))
    print_json(report) if as_json else typer.echo(folder / "build.json")


def suites(as_json: AsJson = False) -> None:
    """The evaluation suites: lm-eval tasks with their headline metric and what each stands for."""
    from zoo.harness.suites import load_suite, suite_ids

    found = [load_suite(name) for name in suite_ids()]
    if as_json:
        print_json([suite.model_dump(mode="json") for suite in found])
        return
    made = table("suite", "task", "family", "headline", "shots", right=("shots",), keep=("suite", "task"))
    rows = [(s.id if i == 0 else "", t.task, t.family, t.headline, t.fewshot) for s in found for i, t in enumerate(s.tasks)]
    console().print(add_rows(made, rows))


def version(as_json: AsJson = False) -> None:
    """The version; with --json those of the packages that results depend on."""
    import platform

    import zoo

    if not as_json:
        typer.echo(f"opd-zoo {zoo.__version__}")
        return
    from zoo.provenance import packages

    content: dict[str, Any] = {"version": zoo.__version__, "python": platform.python_version(), "packages": packages()}
    print_json(content)
