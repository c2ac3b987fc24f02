"""Where the registry, the suites and the shipped weights lie, in a checkout and in an installed package."""

from __future__ import annotations

from pathlib import Path

from zoo.errors import ZooError, suggest

PACKAGE = Path(__file__).resolve().parent


def data_root() -> Path:
    """The folder that holds `registry/` and `suites/`: the checkout, or the data inside the installed package."""
    packaged = PACKAGE / "_data"
    return packaged if (packaged / "registry").is_dir() else PACKAGE.parent


def shipped_pair(pair: str) -> Path:
    """The folder of weights that ship with the package for one pair."""
    return PACKAGE / "_data" / "pairs" / pair


def shipped_model(pair: str, folder: str) -> Path:
    """The folder of one shipped model: of the pair, or `PAIR/MODEL`, another pair's."""
    return PACKAGE / "_data" / "pairs" / folder if "/" in folder else shipped_pair(pair) / folder


def declared(what: str, name: str | Path) -> Path:
    """The YAML file of a pair, a comparison, a failure mode or a provocation: `name` is an id in the registry, or the path of a file.

    Raises:
        ZooError: there is no such file, with the nearest id.
    """
    folder = data_root() / "registry" / f"{what}s"
    file = Path(name) if str(name).endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not file.exists():
        raise ZooError(f"no {what.replace('_', ' ')} '{name}'{suggest(str(name), [f.stem for f in folder.glob('*.yaml')])}")
    return file
