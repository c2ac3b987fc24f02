"""GSM8K for lm-eval: its test problems as the training prompts ask them, and the readers of answers that also reward training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import datasets

from zoo.errors import ZooError
from zoo.harness.suites import json_lines
from zoo.tasks.gsm8k import HUB, as_prompt
from zoo.tasks.numbers import boxed_number, to_number
from zoo.tasks.numbers import last_number as last_written

INVALID = "[invalid]"


def test_problems(*, data_folder: str | None = None, prompt_suffix: str = "", **_: Any) -> datasets.DatasetDict:
    """The `test` split with `prompt` (the question, then the pair's instruction) and `target` (the number).

    From `test.jsonl` in `data_folder` when one is given, else from the hub.
    """
    path = None if data_folder is None else Path(data_folder) / "test.jsonl"
    rows: Iterable[Mapping[str, Any]] = _from_hub() if path is None else json_lines(path)
    problems = [as_prompt(row, f"test-{number:05d}", HUB if path is None else str(path)) for number, row in enumerate(rows)]
    documents = [{"id": p.id, "prompt": p.text + prompt_suffix, "target": str(to_number(p.fields["answer"]))} for p in problems]
    return datasets.DatasetDict({"test": datasets.Dataset.from_list(documents)})


def _from_hub() -> Iterable[Mapping[str, Any]]:
    try:
        return datasets.load_dataset(HUB, "main", split="test")  # type: ignore[no-any-return]
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise ZooError(f"{HUB} does not come from the hub ({error}); give a local data folder with test.jsonl instead") from error


def last_boxed(responses: Sequence[Sequence[str]], docs: Sequence[Any]) -> list[list[str]]:
    r"""The number inside each response's last \boxed{}."""
    return _read(boxed_number, responses)


def last_number(responses: Sequence[Sequence[str]], docs: Sequence[Any]) -> list[list[str]]:
    """The last number anywhere in each response."""
    return _read(last_written, responses)


def _read(reader: Callable[[str], Fraction | None], responses: Sequence[Sequence[str]]) -> list[list[str]]:
    """Exact numbers as text (`1200`, `1/2`), so that equal numbers match however they were written."""
    return [[INVALID if (number := reader(text)) is None else str(number) for text in repeated] for repeated in responses]
