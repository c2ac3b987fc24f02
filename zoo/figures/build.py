"""The figures of a comparison as files, and the check that committed ones were drawn from the data that the records give now."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from zoo.errors import ZooError
from zoo.figures.data import Board, data_digest, rounded
from zoo.figures.lines import curve_data, draw_curves, draw_trajectories, trajectory_data
from zoo.figures.maps import draw_failures, draw_improvement, failure_data, improvement_data
from zoo.figures.points import draw_pareto, draw_profiles, draw_taxonomy, pareto_data, profile_data, taxonomy_data
from zoo.figures.style import saved

FOLDER = "figures"  # of a comparison, beside its tables
SIDECAR = "figures.json"
FORMS = ("svg", "pdf")


@dataclass(frozen=True)
class Kind:
    """One kind of figure: what it shows, its data (None where a comparison cannot have it), and how it is drawn."""

    name: str
    caption: str
    data: Callable[[Board], dict[str, Any] | None]
    draw: Callable[[Mapping[str, Any]], Figure]


KINDS = (
    Kind("curves", "Learning curves by family, with the range over seeds", curve_data, draw_curves),
    Kind("pareto", "Score against the student's tokens and against seconds, with the Pareto front", pareto_data, draw_pareto),
    Kind("profiles", "Performance profiles by family", profile_data, draw_profiles),
    Kind("improvement", "Probability that one method improves on another", improvement_data, draw_improvement),
    Kind("taxonomy", "Scores by taxonomy coordinate", taxonomy_data, draw_taxonomy),
    Kind("failures", "Failure modes seen in each method's runs", failure_data, draw_failures),
    Kind("trajectories", "Length, entropy and divergence over the run, by family", trajectory_data, draw_trajectories),
)


@dataclass(frozen=True)
class Made:
    """A figure of a comparison, not yet drawn, and the digest of what it would show."""

    kind: Kind
    data: Mapping[str, Any]
    digest: str

    def file(self, form: str) -> bytes:
        """The figure as `svg`, `pdf` or `png`; its data's digest stands in the file's description."""
        return saved(lambda: self.kind.draw(self.data), form, f"{self.kind.caption}. Data sha256:{self.digest}")


def figures(board: Board) -> list[Made]:
    """The figures that the comparison can have."""
    found = ((kind, kind.data(board)) for kind in KINDS)
    return [Made(kind, rounded(data), data_digest([kind.name, data])) for kind, data in found if data is not None]


def build_figures(board: Board, folder: Path) -> list[Path]:
    """Write every figure as SVG and PDF below `folder`, and `figures.json`, which says what data each was drawn from; stale ones go."""
    folder.mkdir(parents=True, exist_ok=True)
    made = figures(board)
    due = {f"{one.kind.name}.{form}": one for one in made for form in FORMS}
    for path in sorted(folder.iterdir()):
        if path.suffix.removeprefix(".") in FORMS and path.name not in due:
            path.unlink()
    for name, one in due.items():
        (folder / name).write_bytes(one.file(name.rpartition(".")[2]))
    (folder / SIDECAR).write_text(sidecar(made), encoding="utf-8")
    return [*(folder / name for name in due), folder / SIDECAR]


def sidecar(made: list[Made]) -> str:
    """Name → caption and digest of the data, as JSON."""
    content = {one.kind.name: {"caption": one.kind.caption, "data": one.digest} for one in made}
    return json.dumps({"about": "Figures are checked by the digest of the data they were drawn from.", "figures": content}, indent=1) + "\n"


def stale_figures(board: Board, folder: Path) -> list[str]:
    """What is wrong with the figures of a folder: missing, drawn from other data, or of nothing that the records give."""
    try:
        present = json.loads((folder / SIDECAR).read_text(encoding="utf-8"))["figures"]
    except FileNotFoundError:
        present = {}
    except (ValueError, KeyError, TypeError) as error:
        raise ZooError(f"{folder / SIDECAR}: unreadable ({error}); delete it and run `zoo figures`") from None
    due = {one.kind.name: one.digest for one in figures(board)}
    problems = [f"missing: {name}" for name in due if name not in present]
    problems += [f"other data: {name}" for name, digest in due.items() if name in present and present[name].get("data") != digest]
    problems += [f"extra: {name}" for name in present if name not in due]
    for name in (name for name in due if name in present):
        for form in FORMS:
            path = folder / f"{name}.{form}"
            if not path.exists():
                problems.append(f"missing: {path.name}")
            elif form == "svg" and due[name] not in path.read_text(encoding="utf-8"):
                problems.append(f"drawn from other data: {path.name}")
    return sorted(problems)
