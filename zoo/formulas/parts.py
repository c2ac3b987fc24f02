"""Components as LaTeX, each from its own formula; what they are put together to is in `zoo.formulas.written`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from zoo.components.base import Component, kinds, slots
from zoo.formulas.kinds import FORMULAS

BOUNDS = {"above": ">", "at_least": r"\ge", "below": "<", "at_most": r"\le"}
SYMBOLS = {"student": "p", "reference": "p_0", "behaviour": r"\mu"}
SCORERS = ("of", "to", "among", "under", "teacher", "by", "base", "plus", "minus")
HOLDER = re.compile(r"<(\w+)>")


class Names:
    """The letters of an entry's laws: p the student, q its one teacher, q_name where there are several."""

    def __init__(self, teachers: Mapping[str, Any]) -> None:
        others = [name for name in teachers if name not in SYMBOLS]
        self.letters = SYMBOLS | {name: "q" if len(others) == 1 else rf"q_{{\mathrm{{{escaped(name)}}}}}" for name in others}

    def of(self, name: str) -> str:
        """The letter of a scorer; its name where it is none."""
        return self.letters.get(name, rf"\mathrm{{{escaped(name)}}}")

    def value(self, value: Any, field: str = "") -> str:
        """A field's value: a number, a scorer's letter, a component's formula, or several."""
        if isinstance(value, BaseModel):
            return self.part(value)
        if isinstance(value, str):
            return self.of(value) if field in SCORERS and value in self.letters else escaped(value)
        if isinstance(value, bool) or value is None:
            return str(value).lower()
        if isinstance(value, int | float):
            return f"{value:g}"
        if isinstance(value, Mapping):
            return ", ".join(f"{self.of(key)}: {self.value(inner, field)}" for key, inner in value.items())
        return ", ".join(self.value(inner, field) for inner in value)

    def part(self, part: BaseModel, teacher: str = "teacher") -> str:
        """A component's formula, of another package's kind the one it brings, else its name with its fields."""
        template = formula_of(part)
        if template is None:
            return self.named(part)
        fields = {(field.alias or name): getattr(part, name) for name, field in type(part).model_fields.items()}

        def fill(match: re.Match[str]) -> str:
            name = match[1]
            return {"p": "p", "q": self.of(teacher)}.get(name) or self.value(fields[name], name if name in fields else "")

        return HOLDER.sub(fill, template)

    def named(self, part: BaseModel) -> str:
        """`kind(field=value)`, fields at their defaults left out."""
        tag = getattr(part, "tag", None)
        given = []
        for name, field in type(part).model_fields.items():
            value = getattr(part, name)
            if name != tag and (field.is_required() or value != field.default):
                given.append(rf"\mathrm{{{escaped(field.alias or name)}}} = {self.value(value, name)}")
        title = rf"\mathrm{{{escaped(str(getattr(part, tag) if tag else type(part).__name__))}}}"
        return f"{title}({', '.join(given)})" if given else title

    def gate(self, gate: BaseModel) -> str:
        """An indicator: what the gate compares, against its bounds; of any other gate its name."""
        bounds = [(sign, value) for name, sign in BOUNDS.items() if (value := getattr(gate, name, None)) is not None]
        if not bounds or formula_of(gate) is None:
            return rf"\mathbb{{1}}[{self.part(gate)}]"
        scope = getattr(gate, "scope", "token")
        alone = "sequence" if gate.kind == "reward" else "token"  # type: ignore[attr-defined]  # a reward is one number for each sequence
        over = "" if scope == alone else rf"\mathrm{{mean}}_{{\mathrm{{{escaped(scope)}}}}}\, "
        return rf"\mathbb{{1}}[{over}{self.part(gate)} " + r",\; ".join(f"{sign} {self.value(value)}" for sign, value in bounds) + "]"


def formula_of(part: BaseModel) -> str | None:
    """A kind's template: its class's own, else the one listed here."""
    own = getattr(type(part), "formula", None)
    if isinstance(own, str):
        return own
    slot = slot_of(part)
    return FORMULAS.get(slot, {}).get(str(getattr(part, getattr(part, "tag", ""), ""))) if slot else None


def slot_of(part: BaseModel) -> str | None:
    """Where a component is registered; None for what is no component."""
    if not isinstance(part, Component):
        return None
    kind = getattr(part, part.tag)
    return next((slot for slot in slots() if kinds(slot).get(kind) is type(part)), None)


def escaped(text: str) -> str:
    """A name inside LaTeX."""
    return text.replace("_", r"\_")
