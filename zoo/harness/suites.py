"""Evaluation suites: the strict schema of `suites/<id>.yaml`, and where the tasks that a suite names are defined.

A task is either our own (`tasks/<file>.yaml` beside the suite, or beside the shipped suites) or one that lm-eval ships.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, PrivateAttr, field_validator

from zoo.components.base import Strict
from zoo.errors import ZooError, suggest
from zoo.paths import PACKAGE, data_root
from zoo.yamlio import load_model

Family = Literal["in_distribution", "out_of_distribution", "retention"]
_TASK_NAME = re.compile(rb"^task:[ \t]*['\"]?([\w.:+-]+)", re.MULTILINE)


class SuiteTask(Strict):
    """One lm-eval task of a suite: how it is prompted, how long an answer may be, and which number stands for it."""

    task: str
    family: Family
    headline: str = Field(description="metric,filter as lm-eval names them, for example exact_match,strict")
    fewshot: int = Field(default=0, ge=0)
    max_new_tokens: int | None = Field(default=None, gt=0, description="required where the model writes an answer")
    limit: int | None = Field(default=None, gt=0, description="only the first so many documents")
    chat_template: bool | None = Field(default=None, description="overrides the suite's choice")
    runs_code: bool = Field(default=False, description="scoring executes code that the model wrote")

    @field_validator("headline")
    @classmethod
    def _metric_and_filter(cls, value: str) -> str:
        if not re.fullmatch(r"[^,\s]+,[^,\s]+", value):
            raise ValueError("a headline is written metric,filter (for example exact_match,strict)")
        return value


class Suite(Strict):
    """Tasks that are evaluated together, with one choice of prompt format."""

    id: str
    title: str
    chat_template: bool = Field(description="prompts go through the tokenizer's chat template, few-shot examples as turns")
    tasks: tuple[SuiteTask, ...]
    notes: str = ""
    _source: Path = PrivateAttr()

    @property
    def source(self) -> Path:
        """The file it was read from."""
        return self._source

    @field_validator("tasks")
    @classmethod
    def _each_once(cls, tasks: tuple[SuiteTask, ...]) -> tuple[SuiteTask, ...]:
        if not tasks:
            raise ValueError("a suite needs at least one task")
        names = [task.task for task in tasks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"task named twice: {', '.join(twice)}")
        return tasks


def suite_ids() -> list[str]:
    """The suites that come with the zoo."""
    return sorted(path.stem for path in (data_root() / "suites").glob("*.yaml"))


def load_suite(name: str | Path) -> Suite:
    """Read a suite by its id, or from a YAML file of one's own; `ZooError` names the file, the key and the nearest legal name."""
    path = Path(name)
    if path.suffix != ".yaml":
        path = data_root() / "suites" / f"{name}.yaml"
    if not path.is_file():
        known = suite_ids()
        remedy = suggest(str(name), known) or f"; suites: {', '.join(known)}"
        raise ZooError(f"no suite '{name}'{remedy}")
    suite = load_model(Suite, path)
    if suite.id != path.stem:
        raise ZooError(f"{path}: id '{suite.id}' differs from the file's name; call it '{path.stem}'")
    suite._source = path.resolve()
    return suite


# --- where tasks are defined ------------------------------------------------------------------------------------------


def own_task_folders(suite: Suite) -> tuple[Path, ...]:
    """The folders of task YAMLs that do not come from lm-eval: the shipped one, and `tasks/` beside a suite of one's own."""
    return tuple(dict.fromkeys((data_root() / "suites" / "tasks", suite.source.parent / "tasks")))


def own_task_files(suite: Suite) -> dict[str, Path]:
    """Name and YAML of every task that is not lm-eval's own, whether the suite uses it or not; later folders win."""
    return dict(named for folder in own_task_folders(suite) if folder.is_dir() for named in _named_tasks(folder))


@lru_cache(maxsize=1)
def builtin_task_files() -> Mapping[str, Path]:
    """Name and YAML of every single task inside the installed lm-eval (groups and tags left out).

    Reads the `task:` line of each file: lm-eval's own index parses 14,000 YAMLs, ten times slower.
    """
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise ZooError("lm-eval is not installed; pip install lm-eval")
    return dict(_named_tasks(Path(spec.submodule_search_locations[0]) / "tasks"))


def task_files(suite: Suite) -> dict[str, Path]:
    """The YAML behind each task of the suite; `ZooError` for a name that neither we nor lm-eval define."""
    own = own_task_files(suite)
    found: dict[str, Path] = {}
    for task in suite.tasks:
        path = own.get(task.task) or builtin_task_files().get(task.task)
        if path is None:
            remedy = suggest(task.task, [*own, *builtin_task_files()])
            raise ZooError(f"{suite.source}: lm-eval has no task '{task.task}' (a group's tasks are named one by one){remedy}")
        found[task.task] = path
    return found


def _named_tasks(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*.yaml")):
        match = _TASK_NAME.search(path.read_bytes())
        if match:
            yield match.group(1).decode(), path


def json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file; `ZooError` names the file and the line that is wrong."""
    if not path.is_file():
        raise ZooError(f"no data at {path}; restore the file, or name the folder that holds {path.name}")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ZooError(f"{path}, line {number}: not JSON: {error.msg}") from error
        if not isinstance(row, dict):
            raise ZooError(f"{path}, line {number}: not a JSON object")
        rows.append(row)
    if not rows:
        raise ZooError(f"{path} is empty")
    return rows


# --- digest -----------------------------------------------------------------------------------------------------------


class _TaskYaml(yaml.SafeLoader):
    """Reads a task YAML without importing the functions it names."""


_TaskYaml.add_constructor("!function", lambda loader, node: f"!function {loader.construct_scalar(node)}")  # type: ignore[arg-type]


def suite_digest(suite: Suite) -> str:
    """SHA-256 over what decides a suite's scores and lies in files of ours: the suite, its own tasks, their code and shipped data.

    lm-eval's own tasks enter by name only: the record states lm-eval's version beside the digest.
    """
    own = own_task_files(suite)
    files = {suite.source}
    for task in suite.tasks:
        if task.task in own:
            files.update(_files_behind(own[task.task]))
    lines = sorted(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _files_behind(task_yaml: Path) -> Iterator[Path]:
    """A task's YAML, the files it includes, the Python beside it whose functions it names (with the readers that this
    imports from `zoo.tasks`), and its data file."""
    yield task_yaml
    config = yaml.load(task_yaml.read_text(encoding="utf-8"), Loader=_TaskYaml)
    includes = config.get("include", [])
    for name in includes if isinstance(includes, list) else [includes]:
        yield from _files_behind((task_yaml.parent / name).resolve())
    for module in sorted(set(re.findall(r"!function (\w+)\.", task_yaml.read_text(encoding="utf-8")))):
        code = task_yaml.parent / f"{module}.py"
        if code.is_file():
            yield code
            readers = re.findall(r"^from zoo\.tasks\.(\w+) import", code.read_text(encoding="utf-8"), re.MULTILINE)
            yield from (PACKAGE / "tasks" / f"{reader}.py" for reader in readers)
    data = (config.get("dataset_kwargs") or {}).get("file")
    if data:
        path = task_yaml.parent / "data" / data
        if not path.is_file():
            raise ZooError(f"{task_yaml}: its data file data/{data} is missing; restore it from the distribution")
        yield path
