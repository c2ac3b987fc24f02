"""The readers of answers to `chores`, which also reward training."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.tasks.chores import names_fact, said_number, written_list

INVALID = "[invalid]"


def answers(responses: Sequence[Sequence[str]], docs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """What each response gives as its answer: a number, or a bare list of words."""
    return [[_answer(text, doc) for text in repeated] for repeated, doc in zip(responses, docs, strict=True)]


def last_parts(responses: Sequence[Sequence[str]], docs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The last number of each response, or as many of its last words as the right answer has."""
    return [[_last(text, doc) for text in repeated] for repeated, doc in zip(responses, docs, strict=True)]


def facts(responses: Sequence[Sequence[str]], docs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The right answer wherever a response names it."""
    return [[str(doc["answer"]) if names_fact(text, doc["answer"]) else INVALID for text in repeated] for repeated, doc in zip(responses, docs, strict=True)]


def _answer(text: str, doc: Mapping[str, Any]) -> str:
    return written_list(text) if doc["domain"] == "lists" else said_number(text) or INVALID


def _last(text: str, doc: Mapping[str, Any]) -> str:
    if doc["domain"] == "lists":
        return ", ".join(re.findall(r"[a-z]+", text.lower())[-len(doc["answer"].split(", ")) :])
    return next(iter(re.findall(r"[0-9]+", text)[-1:]), INVALID)
