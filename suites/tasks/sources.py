"""Where tasks with shipped data get their documents; lm-eval calls this with the task's metadata and dataset_kwargs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets

from zoo.harness.suites import json_lines

DATA = Path(__file__).parent / "data"


def shipped(*, file: str, **_: Any) -> datasets.DatasetDict:
    """The `test` split in a JSON Lines file of `data/`, found from here, so that the working directory does not matter."""
    return datasets.DatasetDict({"test": datasets.Dataset.from_list(json_lines(DATA / file))})
