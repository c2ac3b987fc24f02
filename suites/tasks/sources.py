"""Where our own tasks get their documents; lm-eval calls these with the task's metadata and dataset_kwargs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets

from zoo.errors import ZooError

DATA = Path(__file__).parent / "data"


def shipped(*, file: str, **_: Any) -> datasets.DatasetDict:
    """The `test` split in a JSON Lines file of `data/`, found from here, so that the working directory does not matter."""
    return _test_split(_json_lines(DATA / file))


def gsm8k(*, data_folder: str | None = None, prompt_suffix: str = "", **_: Any) -> datasets.DatasetDict:
    """GSM8K's `test` split with `prompt` (the question, then the pair's instruction) and `target` (the number after ####).

    From `test.jsonl` in `data_folder` when one is given, else from the hub's openai/gsm8k.
    """
    if data_folder is None:
        rows, where = _from_hub("openai/gsm8k", "main"), "openai/gsm8k"
    else:
        path = Path(data_folder) / "test.jsonl"
        rows, where = _json_lines(path), str(path)
    return _test_split([_problem(row, prompt_suffix, f"{where}, problem {i}") for i, row in enumerate(rows)])


def _from_hub(name: str, subset: str) -> Iterable[dict[str, Any]]:
    try:
        return datasets.load_dataset(name, subset, split="test")  # type: ignore[no-any-return]
    except (OSError, datasets.exceptions.DatasetsError) as error:
        raise ZooError(f"{name} does not come from the hub ({error}); give a local data folder with test.jsonl instead") from error


def _problem(row: dict[str, Any], prompt_suffix: str, where: str) -> dict[str, str]:
    question, solution = row.get("question"), row.get("answer")
    if not isinstance(question, str) or not isinstance(solution, str) or "####" not in solution:
        raise ZooError(f"{where}: needs the keys question and answer, and an answer that ends with '#### number'")
    return {"prompt": question + prompt_suffix, "target": solution.rsplit("####", 1)[1].strip().replace(",", "")}


def _json_lines(path: Path) -> list[dict[str, Any]]:
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


def _test_split(rows: list[dict[str, Any]]) -> datasets.DatasetDict:
    return datasets.DatasetDict({"test": datasets.Dataset.from_list(rows)})
