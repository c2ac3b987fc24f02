"""Where a pair's weights come from: the package, a folder, the hub, or a copy that `zoo pairs pull` put on this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from zoo.components.base import Strict
from zoo.errors import ZooError
from zoo.paths import shipped_model

NOTE = "opd_zoo.json"


class Carrier(Strict):
    """A Python package that carries a model as one GGUF file, for machines that reach an index of packages and not the hub. `note` says in records and
    tables what is special about these weights."""

    package: str
    file: str
    sha256: str
    note: str


class Folder(Strict):
    """A folder inside the package (`MODEL`, or `PAIR/MODEL` for another pair's), or anywhere."""

    shipped: str | None = None
    path: str | None = None

    @model_validator(mode="after")
    def _one(self) -> Folder:
        if (self.shipped is None) == (self.path is None):
            raise ValueError("give exactly one of shipped, path")
        return self

    def at(self, pair: str) -> Path:
        """Where it lies."""
        return Path(self.path) if self.path else shipped_model(pair, str(self.shipped))


class ModelSource(Strict):
    """Where weights come from: `shipped` (a folder inside the package, `PAIR/MODEL` for another pair's), a `path`, a `hub` id with its revision,
    or `of: student`, the student's initial weights. An `adapter` (peft's low-rank modules) is merged into them."""

    shipped: str | None = None
    path: str | None = None
    hub: str | None = None
    revision: str | None = None
    of: str | None = Field(None, exclude_if=lambda value: value is None)
    adapter: Folder | None = Field(None, exclude_if=lambda value: value is None)
    carried_by: Carrier | None = Field(None, exclude_if=lambda value: value is None)

    @model_validator(mode="after")
    def _one(self) -> ModelSource:
        if sum(x is not None for x in (self.shipped, self.path, self.hub, self.of)) != 1:
            raise ValueError("give exactly one of shipped, path, hub, of")
        if self.of not in (None, "student"):
            raise ValueError("of: only the student's weights can be named")
        if self.carried_by is not None and self.hub is None:
            raise ValueError("carried_by names the package of a hub model; give its hub id")
        return self


def location(pair: str, name: str, source: ModelSource, student: ModelSource, paths: Mapping[str, Path]) -> tuple[str, dict[str, Any]]:
    """A folder or a hub id that transformers can load, with the arguments that go with it.

    Raises:
        ZooError: the folder holds no model.
    """
    name, source = resolved(name, source, student, paths)
    folder = local_folder(pair, name, source, paths)
    if folder is None:
        return str(source.hub), {"revision": source.revision or "main"}
    if not (folder / "config.json").is_file():
        hint = f"run `zoo pairs build {pair}`" if source.shipped and name not in paths else "check the path"
        raise ZooError(f"pair '{pair}': {name} is missing at {folder} (no config.json); {hint}")
    return str(folder), {}


def resolved(name: str, source: ModelSource, student: ModelSource, paths: Mapping[str, Path]) -> tuple[str, ModelSource]:
    """Whose weights a model's are, and their source: the student's for `of: student`, unless the user names a folder for the model."""
    return (source.of, student) if source.of is not None and name not in paths else (name, source)


def local_folder(pair: str, name: str, source: ModelSource, paths: Mapping[str, Path]) -> Path | None:
    """The folder that a model is read from, or None where it comes from the hub. A folder that the user names wins."""
    if name in paths:
        return Path(paths[name])
    if source.path:
        return Path(source.path)
    if source.shipped:
        return shipped_model(pair, source.shipped)
    pulled = pulled_folder(source)
    return pulled if (pulled / "config.json").is_file() else None


def pulled_folder(source: ModelSource) -> Path:
    """Where `zoo pairs pull` puts a hub model that it took from a package: below `OPD_ZOO_CACHE`, else `~/.cache/opd-zoo`."""
    root = os.environ.get("OPD_ZOO_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "opd-zoo") / "models" / str(source.hub).replace("/", "--")


def note_of(folders: Mapping[str, Path | None]) -> str | None:
    """What the folders say about their weights, for records and tables."""
    notes = {name: json.loads((folder / NOTE).read_text(encoding="utf-8"))["note"] for name, folder in folders.items() if folder and (folder / NOTE).is_file()}
    return "; ".join(f"{name}: {note}" for name, note in notes.items()) or None
