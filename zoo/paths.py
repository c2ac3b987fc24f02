"""Where the registry, the suites and the shipped weights lie, in a checkout and in an installed package."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def data_root() -> Path:
    """The folder that holds `registry/` and `suites/`: the checkout, or the data inside the installed package."""
    packaged = PACKAGE / "_data"
    return packaged if (packaged / "registry").is_dir() else PACKAGE.parent


def shipped_pair(pair: str) -> Path:
    """The folder of weights that ship with the package for one pair."""
    return PACKAGE / "_data" / "pairs" / pair
