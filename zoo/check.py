"""`zoo check`: everything an entry claims, against what runs. Also for a YAML file that is in no registry yet."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zoo.bench import Bench
from zoo.compat import problems
from zoo.coordinates import derive_coordinates
from zoo.entry import SHORT, MethodEntry, expand, file_of, load_entry, load_registry
from zoo.errors import ZooError
from zoo.paths import data_root
from zoo.probe import Finding, gradients, misfits, steps
from zoo.show import SETS, terms, written_tuples
from zoo.yamlio import load_model, read_yaml

__all__ = ["Bench", "Finding", "Report", "check_all", "check_file", "file_of"]

MARKS = {"pass": "ok", "fail": "FAIL", "skip": "skip"}
# Stands in where an entry claims no coordinates, so that what it runs can be read.
PLACEHOLDER = {"feedback_signal": (), "teacher_access": "white_box", "loss_granularity": "token", "estimator": (), "routing": ()}


@dataclass(frozen=True)
class Report:
    """All findings about one entry."""

    id: str
    file: str
    findings: tuple[Finding, ...]
    terms: tuple[Any, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return all(finding.outcome != "fail" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return {"id": self.id, "file": self.file, "ok": self.ok, "terms": list(self.terms), "findings": [asdict(f) for f in self.findings]}

    def text(self) -> str:
        """One line for each finding."""
        lines = [f"  {MARKS[f.outcome]:5}{f.check:15}{f.detail}".replace("\n", "\n" + " " * 22) for f in self.findings]
        return "\n".join([self.id, *lines])


def check_file(file: Path, bench: Bench) -> Report:
    """Check one entry. A missing file is an error; what is wrong inside it is a finding."""
    if not file.is_file():
        raise ZooError(f"{file}: no such file")
    try:
        entry = load_entry(file)
    except ZooError as error:
        return Report(file.stem, str(file), (Finding("schema", "fail", "\n".join([str(error), *_missing_coordinates(file)])),))
    found = [Finding("schema", "pass", f"{_near(file)}; no incompatible parts")]
    if entry.objective:
        found.append(Finding("coordinates", "pass", "; ".join(f"objective[{t['term']}] {written_tuples(t['tuples'])}" for t in terms(entry))))
    for part in (_golden, _lab, _dynamic):
        found += part(entry, file, bench)
    return Report(entry.id, str(file), tuple(found), tuple(terms(entry)))


def check_all(folders: Sequence[Path], bench: Bench) -> Iterator[Report]:
    """Check every entry of the registry and of further folders, and then that they agree with each other."""
    root = data_root() / "registry" / "methods"
    for file in sorted(file for folder in (root, *folders) for file in folder.rglob("*.yaml")):
        yield check_file(file, bench)
    try:
        found = Finding("registry", "pass", f"{len(load_registry(*folders))} entries; ids, papers and links agree")
    except ZooError as error:
        found = Finding("registry", "fail", str(error))
    yield Report("registry", str(root), (found,))


def _missing_coordinates(file: Path) -> list[str]:
    """The line to add where an entry claims no coordinates yet."""
    try:
        data, _ = read_yaml(file)
        if "coordinates" in data or data.get("anchor"):
            return []
        entry = load_model(MethodEntry, file, lambda data: {**expand(data), "coordinates": PLACEHOLDER}, SHORT)
        if problems(entry):
            return []
    except (ZooError, TypeError):
        return []
    derived = derive_coordinates(entry)
    values = {name: getattr(derived, name) for name in SETS}
    written = ", ".join(f"{name}: " + (f"[{', '.join(value)}]" if isinstance(value, tuple) else value) for name, value in values.items())
    return [f"what runs has: coordinates: {{{written}}}"]


def _golden(entry: MethodEntry, file: Path, bench: Bench) -> list[Finding]:
    """The card's loss and gradient on six fixed tokens, where a checkout has the independent references; they are not shipped."""
    root = data_root()
    if not entry.objective or not (root / "tests" / "golden_outcome.py").is_file() or file.resolve().parent != (root / "registry" / "methods").resolve():
        return []
    sys.path.insert(0, str(root))
    try:
        tests = importlib.import_module("tests.golden_outcome")
    except ImportError:  # pytest is an extra
        return []
    finally:
        sys.path.remove(str(root))
    return [Finding("golden", *tests.golden(entry))]


def _lab(entry: MethodEntry, file: Path, bench: Bench) -> list[Finding]:
    """What the coordinates and the fixed point say, against exact expectations on the tabular model."""
    if not entry.executable or not entry.objective:
        return []
    from zoo.lab.findings import lab

    return _tried(lab, entry, bench)


def _dynamic(entry: MethodEntry, file: Path, bench: Bench) -> list[Finding]:
    if not entry.executable:
        return [Finding("micro pair", "skip", f"not executable: {entry.blocked_by}")]
    if not entry.objective:
        return [Finding("micro pair", "skip", f"the anchor {entry.anchor} is evaluated as it is, so nothing trains")]
    bench = bench.suited(entry)
    if lacking := misfits(entry, bench.pair):
        return [Finding("micro pair", "skip", "; ".join(lacking))]
    return [finding for part in (gradients, steps) for finding in _tried(part, entry, bench)]


def _tried(part: Callable[[MethodEntry, Bench], list[Finding]], entry: MethodEntry, bench: Bench) -> list[Finding]:
    """Findings, an exception being one of them: whatever a component raises must not end the other checks."""
    try:
        return part(entry, bench)
    except ZooError as error:
        return [Finding(part.__name__, "fail", str(error))]
    except Exception as error:
        return [Finding(part.__name__, "fail", f"{type(error).__name__}: {error}")]


def _near(file: Path) -> str:
    path = file.resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
