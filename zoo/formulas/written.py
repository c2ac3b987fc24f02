"""An entry's whole objective: the sum, each term, and what the letters in it stand for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from zoo.components.base import Component
from zoo.components.rewards import Contrast
from zoo.components.terms.direct import DivergenceTerm, LikelihoodTerm
from zoo.components.terms.policy_gradient import PolicyGradientTerm
from zoo.components.terms.preference import LogProbLossTerm
from zoo.entry import MethodEntry
from zoo.formulas.parts import Names, escaped
from zoo.formulas.plain import plain

LETTERS = r"\text{p: the student's law, M: the batch's supervised tokens, B: the number of its sequences}"


@dataclass(frozen=True)
class Line:
    """`left = right`, or a remark where `left` is empty; `depth` 1 belongs to the term above it."""

    left: str
    right: str
    depth: int = 0

    @property
    def latex(self) -> str:
        return f"{self.left} = {self.right}" if self.left else self.right

    @property
    def text(self) -> str:
        return "  " * self.depth + plain(self.latex)


def formula(entry: MethodEntry) -> list[Line]:
    """The sum first, then each term with what its letters stand for, then teachers that are transformed and streams."""
    if not entry.objective:
        return []
    names = Names(entry.teachers)
    total = _sum(entry, names)
    alone = total == "L_1"
    lines = [] if alone else [Line("L", total)]
    for index, term in enumerate(entry.objective):
        left = "L" if alone else f"L_{index + 1}"
        lines += [Line(left, _right(term, names)), *(Line(a, b, 1) for a, b in _where(term, entry, names))]
    for name, teacher in entry.teachers.items():
        lines.append(Line("", rf"{names.of(name)}: {_teacher(teacher, names)}"))
    for name, stream in entry.rollouts.items():
        lines.append(Line("", rf"y \text{{ of {escaped(name)}}} \sim {names.named(stream)}"))
    return [*lines, Line("", LETTERS)]


def aligned(lines: list[Line]) -> str:
    r"""The lines as one `aligned` block for a LaTeX display."""
    indent = r"\quad "
    rows = [rf"{indent * line.depth}{line.left} &= {line.right}" if line.left else f"& {line.right}" for line in lines]
    return "\\begin{aligned}\n" + " \\\\\n".join(rows) + "\n\\end{aligned}"


def _sum(entry: MethodEntry, names: Names) -> str:
    parts = []
    for index, term in enumerate(entry.objective):
        factor = "" if term.coefficient == 1.0 else rf"{names.value(term.coefficient)}\, "
        parts.append(f"{factor}L_{index + 1}")
    parts += [names.named(part) for part in (getattr(entry.update, "anchor", None),) if isinstance(part, Component)]
    return " + ".join(parts).replace("+ -", "- ")


def _right(term: Any, names: Names) -> str:
    """The term's loss with its denominator, gates and weights."""
    if isinstance(term, LogProbLossTerm):
        loss, before = names.part(term.loss), r"\frac{1}{B} \sum_b "
    else:
        before = names.part(term.reduce) + " "
    weights = [names.gate(gate) for gate in term.gates] + [names.part(weight) for weight in term.weights]
    before += r"\, ".join([*weights, ""])
    if isinstance(term, DivergenceTerm):
        loss = rf"{'D' if _whole(term) else 'D_S'}({names.of(term.teacher)}, p)"
        for shaping in term.shaping:
            loss = rf"{names.named(shaping)}[{loss}]"
        loss = rf"{_temperature(term, names)}^2\, {loss}" if term.rescale and _temperature(term, names) != "1" else loss
    elif isinstance(term, PolicyGradientTerm):
        return "-" + before + _surrogate(term, names)
    elif isinstance(term, LikelihoodTerm):
        return "-" + before + r"\log p(y_t)"
    elif not isinstance(term, LogProbLossTerm):
        loss = names.named(term)
    return before + loss


def _whole(term: DivergenceTerm) -> bool:
    return term.support.kind == "full"  # type: ignore[attr-defined]


def _temperature(term: DivergenceTerm, names: Names) -> str:
    """The temperature of both sides: a number, or a letter where each token has its own."""
    return names.value(term.temperature) if term.temperature_by is None else r"\tau_t"


def _surrogate(term: PolicyGradientTerm, names: Names) -> str:
    if not term.ratio:
        return r"A_t \log p(y_t)"
    for ratio in term.ratio:
        if ratio.kind == "ppo_clip":  # type: ignore[attr-defined]
            at, upper = names.value(ratio.at), names.value(ratio.upper if ratio.upper is not None else ratio.at)  # type: ignore[attr-defined]
            return rf"\min(\rho_t A_t,\; \mathrm{{clip}}(\rho_t, 1 - {at}, 1 + {upper}) A_t)"
    frozen = all(ratio.frozen for ratio in term.ratio)
    return r"\rho_t A_t \log p(y_t)" if frozen else r"\rho_t A_t"


def _where(term: Any, entry: MethodEntry, names: Names) -> Iterator[tuple[str, str]]:
    """What the letters of one term stand for."""
    if term.during is not None:
        yield "", rf"\text{{active from {term.during[0]:g} to {term.during[1]:g} of the run}}"
    if term.role == "anchor":
        yield "", r"\text{holds the student in place}"
    if isinstance(term, DivergenceTerm):
        yield "D", names.part(term.divergence, term.teacher)
        mass = getattr(term.support, "mass", None)
        if not _whole(term):
            more = r" \cup \{y_t\}" if getattr(term.support, "with_sampled", False) else ""
            yield "S", names.part(term.support, term.teacher) + more + (rf",\; {names.part(mass)}" if mass is not None else "")
        if (temperature := _temperature(term, names)) != "1":
            yield "", rf"\text{{both at temperature }} {temperature}"
        if term.temperature_by is not None:
            factor = "" if term.temperature == 1.0 else rf"{names.value(term.temperature)}\, "
            yield temperature, factor + names.part(term.temperature_by)
    elif isinstance(term, PolicyGradientTerm):
        yield from _advantages(term, entry, names)
        if term.ratio:
            yield r"\rho_t", r" \cdot ".join(names.part(ratio) for ratio in term.ratio)
        if hasattr(term.routing, "teacher"):
            gain = r"|A_t| (\log p(y_t) - \sum_v \pi_v \log p_v) \text{ where } A_t < 0"
            yield "", rf"{gain},\; \pi = {names.part(term.routing, term.routing.teacher)}"
    for stream in term.streams():
        if stream != "main" and not isinstance(term, LogProbLossTerm):
            yield "", rf"y \text{{ of }} \mathrm{{{escaped(stream)}}}"
    if isinstance(term, LogProbLossTerm):
        yield "y^+, y^-", rf"\text{{{escaped(term.chosen)}, {escaped(term.rejected)}}}"


def _advantages(term: PolicyGradientTerm, entry: MethodEntry, names: Names) -> Iterator[tuple[str, str]]:
    """The advantage and its reward; where several are added up, the sum and then each with its own gates and weights."""
    every = term.advantages()
    if len(every) > 1:
        yield "A_t", " + ".join(rf"A_t^{{({k + 1})}}" for k in range(len(every)))
    for k, each in enumerate(every):
        mark = rf"^{{({k + 1})}}" if len(every) > 1 else ""
        own = _advantage(each, names)
        if each is not term:
            factors = [names.value(each.coefficient)] if each.coefficient != 1.0 else []
            factors += [*(names.gate(gate) for gate in each.gates), *(names.part(weight) for weight in each.weights)]
            own = r"\, ".join([*factors, own])
        left, right = _reward(each, entry, names)
        yield f"A_t{mark}", own
        yield f"{left}{mark}", right


def _advantage(term: Any, names: Names) -> str:
    """Credit, baseline and shaping of one advantage."""
    credit = term.credit
    if credit.kind == "group":
        centred = r"R_i - \mathrm{mean}_j R_j"
        text = rf"\frac{{{centred}}}{{\mathrm{{std}}_j R_j}}" if credit.divide == "std" else centred
    else:
        text = names.part(credit)
        text = text.replace(r"k \ge t", r"k > t") if getattr(credit, "start", "this") == "next" else text
        text += r",\; \text{over the number of rewards summed}" if getattr(credit, "per_length", False) else ""
    baseline = names.part(term.baseline)
    text = f"{text} {baseline}" if baseline else text
    for shaping in term.shaping:
        text = rf"{names.named(shaping)}[{text}]"
    return text


def _reward(term: Any, entry: MethodEntry, names: Names) -> tuple[str, str]:
    reward = term.resolved_reward(entry.rewards)
    if isinstance(reward, Contrast):
        return "r_t", _contrast(reward, names)
    return "R" if reward.per_sequence else "r_t", names.part(reward)


def _contrast(reward: Contrast, names: Names) -> str:
    """The sum over scorers, with signs in place of negative factors."""
    power = rf"\frac{{%s(y_t)^{{{reward.alpha:g}}} - 1}}{{{reward.alpha:g}}}"
    law = {"log": r"\log %s(y_t)", "probability": "%s(y_t)", "power": power}[reward.map]
    text = ""
    for name, factor in reward.of.items():
        plain_number = isinstance(factor, int | float)
        size = abs(factor) if plain_number else factor
        text += f" {'-' if plain_number and factor < 0 else '+'} " + ("" if size == 1 else rf"{names.value(size)}\, ") + law % names.of(name)
    text = text.removeprefix(" + ").strip()
    text = text if reward.scale == 1.0 else rf"({text}) / {reward.scale:g}"
    return text if reward.clip is None else rf"\mathrm{{clip}}({text}, \pm {reward.clip:g})"


def _teacher(teacher: Any, names: Names) -> str:
    parts = []
    for name in type(teacher).model_fields:
        value = getattr(teacher, name)
        if name == "context" and value is not None:
            parts.append(rf"\text{{given {escaped(', '.join([*value.fields, *(str(part.kind) for part in getattr(value, 'made', ()))]))}}}")
        elif name == "target" and value is not None:
            parts.append(rf"\text{{transformed to }} {names.part(value)}")
        elif name == "weights":
            parts.append(rf"\text{{weights }} {names.named(value)}")
        elif name == "access" and value == "black_box":
            parts.append(r"\text{texts only}")
    kind = r"\text{the student itself}" if teacher.lineage else rf"\text{{{escaped(getattr(teacher, 'model', teacher.kind))}}}"
    return r",\; ".join([kind, *parts])
