"""The first sentence of a component's docstring, which is its formula or its meaning."""

from __future__ import annotations

import re

SENTENCE_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)[.](?=\s|$)")
BARE = 24


def first_sentence(text: str | None) -> str:
    """The first sentence of a docstring on one line, with the second where the first is a bare formula.

    A full stop inside parentheses or a number ends no sentence.
    """
    line = " ".join((text or "").split("\n\n")[0].split())
    for end in SENTENCE_END.finditer(line):
        if end.end() >= BARE and line.count("(", 0, end.start()) == line.count(")", 0, end.start()):
            return line[: end.end()]
    return line
