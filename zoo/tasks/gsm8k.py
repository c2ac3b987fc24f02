r"""GSM8K (arXiv 2110.14168): grade-school word problems whose answers end in `\boxed{N}`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from zoo.errors import ZooError, suggest
from zoo.tasks.numbers import boxed_number, last_number, to_number
from zoo.tensors import Prompt

HUB = "openai/gsm8k"
VALID_SIZE = 256

_CALCULATOR = re.compile(r"<<[^<>]*>>")


def _boxed(text: str, prompt: Prompt) -> bool:
    given = boxed_number(text)
    return given is not None and given == to_number(prompt.fields["answer"])


def _flexible(text: str, prompt: Prompt) -> bool:
    given = last_number(text)
    return given is not None and given == to_number(prompt.fields["answer"])


CHECKS: dict[str, Callable[[str, Prompt], bool]] = {
    "answer": _boxed,
    "boxed": _boxed,
    "flexible": _flexible,
    "format": lambda text, prompt: boxed_number(text) is not None,
}


class Gsm8kTask:
    r"""GSM8K prompts from `train.jsonl` in a folder (keys `question`, `answer`, as released), else from the hub's data set.

    Fields: `answer` (digits only), `solution` (the data set's own, without calculator marks, ending in `\boxed{N}`), `hint` (its
    first step), `domain`. Checks: `answer` = `boxed` (the last `\boxed{}` is numerically right), `flexible` (the last
    number of the text is), `format` (the last `\boxed{}` holds a number). The test split is left to the evaluation suite.
    """

    checks = tuple(CHECKS)

    def __init__(self, folder: Path | None = None, hub: str = HUB) -> None:
        self.folder, self.hub = folder, hub

    def prompts(self, split: str) -> list[Prompt]:
        """`train`: the training file without its last 256 problems; `valid`: those."""
        if split not in ("train", "valid"):
            raise ZooError(f"task gsm8k has no split '{split}'{suggest(split, ('train', 'valid'))}")
        if len(self._all) <= VALID_SIZE:
            raise ZooError(f"{self._where}: {len(self._all)} problems, but the last {VALID_SIZE} are the valid split; more are needed")
        return list(self._all[:-VALID_SIZE] if split == "train" else self._all[-VALID_SIZE:])

    def verify(self, check: str, text: str, prompt: Prompt) -> float:
        """1.0 where the answer passes `check`, else 0.0."""
        if check not in CHECKS:
            raise ZooError(f"task gsm8k has no check '{check}'{suggest(check, CHECKS)}")
        return float(CHECKS[check](text, prompt))

    @cached_property
    def _all(self) -> tuple[Prompt, ...]:
        return tuple(as_prompt(row, f"train-{i:05d}", self._where) for i, row in enumerate(self._rows()))

    @property
    def _where(self) -> str:
        return self.hub if self.folder is None else str(self.folder / "train.jsonl")

    def _rows(self) -> Iterable[Mapping[str, Any]]:
        return _hub_rows(self.hub) if self.folder is None else _file_rows(self.folder / "train.jsonl")


def as_prompt(row: Mapping[str, Any], id: str, where: str) -> Prompt:
    """One row of the data set as a prompt; `ZooError` naming the row where it is not a GSM8K problem."""
    question, worked = row.get("question"), row.get("answer")
    if not isinstance(question, str) or not isinstance(worked, str):
        raise ZooError(f"{where}, problem {id}: needs the keys question and answer, both text")
    steps, mark, number = worked.rpartition("####")
    answer = number.strip().replace(",", "")
    if not mark or to_number(answer) is None:
        raise ZooError(f"{where}, problem {id}: the answer must end with '#### number'")
    reasoning = _CALCULATOR.sub("", steps).strip()
    fields = {
        "answer": answer,
        "solution": f"{reasoning}\nThe answer is \\boxed{{{answer}}}.",
        "hint": first_step(reasoning),
        "domain": "math",
    }
    return Prompt(id=id, text=question.strip(), fields=fields)


def first_step(reasoning: str) -> str:
    """The first line of a worked solution; of a single line its first sentence; of a single sentence what stands before its last `=`."""
    for boundary in ("\n", r"(?<=[.!?])\s", r"=(?!.*=)"):
        first, *rest = re.split(boundary, reasoning, maxsplit=1)
        if any(part.strip() for part in rest):
            return first.strip()
    return reasoning


def _file_rows(path: Path) -> list[Mapping[str, Any]]:
    if not path.is_file():
        raise ZooError(f"no GSM8K data at {path}; name the folder that holds train.jsonl and test.jsonl")
    rows: list[Mapping[str, Any]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ZooError(f"{path}, line {number}: not JSON ({error.msg}); restore the file as released") from error
        if not isinstance(row, dict):
            raise ZooError(f"{path}, line {number}: not a JSON object; restore the file as released")
        rows.append(row)
    return rows


def _hub_rows(hub: str) -> Iterable[Mapping[str, Any]]:
    import datasets

    try:
        rows: Iterable[Mapping[str, Any]] = datasets.load_dataset(hub, "main", split="train")
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ZooError(f"cannot load {hub} from the hub ({first}); without network, pass a folder with train.jsonl and test.jsonl") from error
    return rows
