"""Formulas: what an entry minimises, written out from its components."""

from __future__ import annotations

import re
from typing import Literal

import pytest

from tests.components.compose import entry_of
from zoo.components import base
from zoo.components.base import Component, kinds
from zoo.entry import load_registry
from zoo.formulas import aligned, first_sentence, formula, plain
from zoo.formulas.kinds import FORMULAS
from zoo.formulas.parts import HOLDER

REGISTRY = load_registry()
WRITTEN = {
    "gkd": ["L = 1/|M| Σ_{t ∈ M} D(q, p)", "  D = 0.5 KL(q ‖ m) + (1 − 0.5) KL(p ‖ m), m = 0.5 q + (1 − 0.5) p"],
    "eopd": [
        "L = L₁ + L₂",
        "L₁ = −1/B Σ_b 1/|M_b| Σ_{t ∈ M_b} min(ρₜ Aₜ, clip(ρₜ, 1 − 0.2, 1 + 0.2) Aₜ)",
        "  Aₜ = rₜ",
        "  rₜ = log q(yₜ) − log p(yₜ)",
        "  ρₜ = p(yₜ)/p_old(yₜ)",
        "L₂ = 1/B Σ_b 1/|M_b| Σ_{t ∈ M_b} 1[H(q) > 0.8] D_S(q, p)",
        "  D = KL(q ‖ p)",
        "  S = top₁₆(q), teacher renormalised on S",
    ],
    "grpo": ["L = L₁ + 0.04 L₂", "  Aₜ = (Rᵢ − meanⱼ Rⱼ)/(stdⱼ Rⱼ)", "  holds the student in place", "  S = {yₜ}"],
    "opsd": ["  both at temperature 1.1", "q: the student itself, given solution, weights initial"],
    "sft": ["L = −1/|M| Σ_{t ∈ M} log p(yₜ)", "y of main ∼ dataset"],
    "no_op": ["L = 0 L₁"],
    "adakd": ["  both at temperature τₜ"],
    "direction_adaptive_sd": ["  Aₜ = Aₜ⁽¹⁾ + Aₜ⁽²⁾", "  Aₜ⁽¹⁾ = (Rᵢ − meanⱼ Rⱼ)/(stdⱼ Rⱼ)", "  rₜ⁽²⁾ = log q(yₜ) − log p(yₜ)"],
}


@pytest.mark.parametrize("name", WRITTEN)
def test_known_entries(name: str) -> None:
    lines = [line.text for line in formula(REGISTRY[name])]
    assert [line for line in WRITTEN[name] if line not in lines] == []
    assert [line for line in lines if line in WRITTEN[name]] == WRITTEN[name], "in the order of the objective"


@pytest.mark.parametrize("name", [name for name, entry in REGISTRY.items() if entry.objective])
def test_every_entry_is_written_in_both_forms(name: str) -> None:
    lines = formula(REGISTRY[name])
    for line in lines:
        assert not re.search(r"\\|<\w+>|\ue000|\ue001|\ue002|\ue003", line.text), line.text
    latex = aligned(lines)
    unescaped = re.sub(r"\\[{}]", "", latex)
    assert unescaped.count("{") == unescaped.count("}") and latex.count("&") == len(lines) and "<" not in re.sub(r" < ", "", latex)


def test_what_was_not_trained_has_no_formula() -> None:
    assert formula(REGISTRY["student"]) == []


def test_every_template_is_of_a_registered_kind_and_names_its_fields() -> None:
    for slot, templates in FORMULAS.items():
        for kind, template in templates.items():
            cls = kinds(slot)[kind]
            fields = {field.alias or name for name, field in cls.model_fields.items()}
            assert set(HOLDER.findall(template)) <= fields | {"p", "q"}, f"{slot}.{kind}"
    assert {"divergence", "credit", "support", "reduce"} <= set(FORMULAS)


def test_a_temperature_of_each_token_is_a_letter_that_is_explained() -> None:
    tempered = {"term": "divergence", "divergence": "reverse_kl", "temperature": 2.0, "rescale": True, "reduce": "sum"}
    common = [line.text for line in formula(entry_of([tempered]))]
    lines = [line.text for line in formula(entry_of([{**tempered, "temperature_by": "perplexity"}]))]
    weight = formula(entry_of([{"term": "likelihood", "weights": ("perplexity",), "reduce": "sum"}]))[0].text
    assert common[0].endswith("2² D(q, p)") and common[2] == "  both at temperature 2"
    assert lines[0].endswith("τₜ² D(q, p)") and lines[2] == "  both at temperature τₜ"
    assert lines[3].startswith("  τₜ = 2 ") and lines[3].removeprefix("  τₜ = 2 ") in weight


def test_several_teachers_are_told_apart_and_a_schedule_is_shown() -> None:
    terms = [
        {"term": "divergence", "teacher": name, "divergence": "reverse_kl", "coefficient": {"schedule": "linear", "start": 1, "end": 0}, "reduce": "sum"}
        for name in ("near", "far")
    ]
    lines = [line.text for line in formula(entry_of(terms, teachers={"near": "external", "far": "external"}))]
    assert lines[0] == "L = [1 → 0] L₁ + [1 → 0] L₂"
    assert "  D = KL(p ‖ q_near)" in lines and "  D = KL(p ‖ q_far)" in lines


def test_a_kind_without_a_formula_is_named_and_one_may_bring_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Invented(Component):
        """A weight of this test."""

        kind: Literal["invented"] = "invented"
        rate: float = 1.0

        def scorers(self) -> tuple[str, ...]:
            return ()

    term = {"term": "likelihood", "weights": ({"kind": "invented", "rate": 2.0},), "reduce": "token_mean"}
    monkeypatch.setitem(base._KINDS["weight"], "invented", Invented)
    assert formula(entry_of([term]))[0].text == "L = −1/|M| Σ_{t ∈ M} invented(rate = 2) log p(yₜ)"
    monkeypatch.setattr(Invented, "formula", r"\exp(-<rate> t)", raising=False)
    assert formula(entry_of([term]))[0].text == "L = −1/|M| Σ_{t ∈ M} exp(-2 t) log p(yₜ)"


@pytest.mark.parametrize(
    ("latex", "text"),
    [
        (r"\frac{a}{b + c}", "a/(b + c)"),
        (r"x_{t+1}^{2}", "xₜ₊₁²"),
        (r"q^{\lambda}\, b^{1 - \lambda} / Z", "q^λ b^(1 − λ) / Z"),
        (r"\mathrm{top}_{16}(q) \cup \{y_t\}", "top₁₆(q) ∪ {yₜ}"),
        (r"\sum_{k \ge t} r_k", "Σ_{k ≥ t} rₖ"),
        (r"\sqrt{q_v}", "√qᵥ"),
    ],
)
def test_latex_as_plain_text(latex: str, text: str) -> None:
    assert plain(latex) == text


def test_first_sentences() -> None:
    assert first_sentence("H(q) in nats.") == "H(q) in nats."
    assert first_sentence("A reduction over 1.5 tokens (see e.g. there. And more). The rest.") == "A reduction over 1.5 tokens (see e.g. there. And more)."
