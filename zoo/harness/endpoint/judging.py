"""What an endpoint says of answers: verdicts, scores, rankings, rubrics and marks; and what its replies must look like to count."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.errors import ZooError
from zoo.harness.endpoint.client import Endpoint, NoAnswer, Question

if TYPE_CHECKING:
    from zoo.components.rewards import Judge

VERDICT = "\n\nReply with one word only: {right} or {wrong}."
SCORE = "\n\nReply with one whole number from 0 to {scale} only."
LONG_ENOUGH = 64


def verdict_of(reply: str, right: str, wrong: str) -> float:
    """1 or 0 where exactly one of the two words stands in the reply.

    Raises:
        ValueError: none or both.
    """
    said = [word for word in (right, wrong) if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", reply, re.IGNORECASE)]
    if len(said) != 1:
        raise ValueError(f"'{reply[:60]}' is neither {right} nor {wrong}")
    return float(said[0] == right)


def score_of(reply: str, scale: int) -> float:
    """The reply's only whole number, as a share of the scale.

    Raises:
        ValueError: no number, several, or one outside the scale.
    """
    found = re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w.])", reply.replace(f"/{scale}", ""))
    if len(found) != 1 or "." in found[0] or not 0 <= int(found[0]) <= scale:
        raise ValueError(f"'{reply[:60]}' is no whole number from 0 to {scale}")
    return int(found[0]) / scale


def ranking_of(reply: str, count: int) -> list[int]:
    """The order of `count` answers, best first, numbered from 1 in the reply; 0-based here.

    Raises:
        ValueError: an answer is missing, named twice or made up.
    """
    order = [int(number) - 1 for number in re.findall(r"\d+", reply)]
    if sorted(order) != list(range(count)):
        raise ValueError(f"'{reply[:60]}' does not rank {count} answers")
    return order


def rubric_of(reply: str) -> list[tuple[str, float]]:
    """Criteria and their weights, from a JSON list of {"criterion": ..., "weight": ...}.

    Raises:
        ValueError: another form, an empty criterion, a weight that is not positive.
    """
    found = []
    for item in _json_list(reply):
        text, weight = (item.get("criterion"), item.get("weight")) if isinstance(item, Mapping) else (None, None)
        if not isinstance(text, str) or not text.strip() or isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < 1e6:
            raise ValueError(f"no criterion with a positive weight: {str(item)[:60]}")
        found.append((text.strip(), float(weight)))
    if not found:
        raise ValueError("a rubric without criteria")
    return found


def marks_of(reply: str, count: int) -> list[bool]:
    """One true or false for each of `count` criteria, from a JSON list.

    Raises:
        ValueError: another number of them, or something else than true and false.
    """
    found = _json_list(reply)
    if len(found) != count or not all(isinstance(mark, bool) for mark in found):
        raise ValueError(f"not {count} times true or false: {reply[:60]}")
    return found


def _json_list(reply: str) -> list[Any]:
    start, end = reply.find("["), reply.rfind("]")
    try:
        found = json.loads(reply[start : end + 1]) if 0 <= start < end else None
    except ValueError:
        found = None
    if not isinstance(found, list):
        raise ValueError(f"no JSON list in '{reply[:60]}'")
    return found


def judged_by(endpoint: Endpoint, questions: Sequence[str], reward: Judge, words: Mapping[str, str], groups: Sequence[int]) -> Tensor:
    """An endpoint's judgement of each answer, (B,); one that it does not give is the mean of its group's others, 0 where there is none.

    Raises:
        ZooError: more of them are missing than the reward allows.
    """
    if reward.ask == "verdict":
        asked, read = VERDICT.format(**words), _reader(verdict_of, words["right"], words["wrong"])
    else:
        asked, read = SCORE.format(scale=reward.scale), _reader(score_of, reward.scale)
    values: list[float | None] = []
    last = ""
    for reply in endpoint.ask([Question(text + asked, temperature=0.0, max_tokens=LONG_ENOUGH) for text in questions], _or_none(read)):
        values.append(None if isinstance(reply, str) else reply)
    for place in [i for i, value in enumerate(values) if value is None]:
        try:
            [again] = endpoint.ask([Question(questions[place] + asked, temperature=0.0, max_tokens=LONG_ENOUGH, seed=1)], read)
            values[place] = None if isinstance(again, str) else again
        except NoAnswer as error:
            last = str(error)
    missing = sum(value is None for value in values)
    if missing > reward.failures * len(values):
        raise ZooError(f"{missing} of {len(values)} answers have no judgement, more than the share {reward.failures:g} that the reward allows; {last}")
    return torch.tensor([_filled(values, groups, i) for i in range(len(values))])


def _reader(rule: Callable[..., float], *arguments: Any) -> Callable[[str], float]:
    return lambda reply: rule(reply, *arguments)


def _or_none(read: Callable[[str], float]) -> Callable[[str], float | None]:
    """A reply that cannot be read is asked for again on its own, so that one bad one does not hold up or end the others."""

    def tried(reply: str) -> float | None:
        try:
            return read(reply)
        except ValueError:
            return None

    return tried


def _filled(values: Sequence[float | None], groups: Sequence[int], i: int) -> float:
    own = values[i]
    if own is not None:
        return own
    others = [value for value, group in zip(values, groups, strict=True) if value is not None and group == groups[i]]
    return sum(others) / len(others) if others else 0.0
