"""Tasks by the name that a pair file gives."""

from __future__ import annotations

from pathlib import Path

from zoo.errors import ZooError, suggest
from zoo.tasks import Task
from zoo.tasks.gsm8k import Gsm8kTask
from zoo.tasks.micro import MicroTask


def make_task(kind: str, folder: Path | None = None, hub: str | None = None) -> Task:
    """A task of a known kind; `folder` or `hub` say where data that are not made by us lie.

    Raises:
        ZooError: an unknown kind, or missing data.
    """
    if kind == "micro":
        return MicroTask()
    if kind == "gsm8k":
        return Gsm8kTask(folder) if hub is None else Gsm8kTask(folder, hub)
    raise ZooError(f"no task '{kind}'{suggest(kind, ['micro', 'gsm8k'])}")
