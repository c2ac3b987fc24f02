"""Reads the number that an answer in prose comes to; filters for lm-eval."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

INVALID = "[invalid]"
_NUMBER = re.compile(r"(?:(?<![\d.])-)?\d[\d,]*(?:\.\d+)?|(?:(?<![\d.])-)?\.\d+")
_DECORATION = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{[^{}]*\}|\\[,;!% ]|\\?\$|%|\s")


def last_boxed(responses: Sequence[Sequence[str]], docs: Sequence[Any]) -> list[list[str]]:
    r"""The number inside each response's last \boxed{}; invalid where there is none or it holds more than a number and its unit."""
    return [[boxed_number(text) for text in repeated] for repeated in responses]


def last_number(responses: Sequence[Sequence[str]], docs: Sequence[Any]) -> list[list[str]]:
    """The last number anywhere in each response."""
    return [[plain(found[-1]) if (found := _NUMBER.findall(text)) else INVALID for text in repeated] for repeated in responses]


def boxed_number(text: str) -> str:
    start = text.rfind(r"\boxed{")
    if start < 0:
        return INVALID
    inside = text[start + len(r"\boxed{") :]
    depth = 1
    for end, character in enumerate(inside):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            bare = _DECORATION.sub("", inside[:end])
            return plain(bare) if _NUMBER.fullmatch(bare) else INVALID
    return INVALID


def plain(number: str) -> str:
    """A number without thousands separators or trailing zeros after the point: `1,200.50` as `1200.5`."""
    return f"{Decimal(number.replace(',', '')).normalize():f}"
