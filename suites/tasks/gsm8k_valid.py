"""GSM8K for lm-eval: the training file's problems that no method is trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets

from zoo.tasks.gsm8k import Gsm8kTask
from zoo.tasks.numbers import to_number


def valid_problems(*, data_folder: str | None = None, prompt_suffix: str = "", **_: Any) -> datasets.DatasetDict:
    """The `valid` problems as the split `test`, with `prompt` and `target` as the test problems have them."""
    problems = Gsm8kTask(None if data_folder is None else Path(data_folder)).prompts("valid")
    documents = [{"id": p.id, "prompt": p.text + prompt_suffix, "target": str(to_number(p.fields["answer"]))} for p in problems]
    return datasets.DatasetDict({"test": datasets.Dataset.from_list(documents)})
