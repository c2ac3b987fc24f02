"""Small entries that isolate one part each: the rows of the lab's tables, written in the grammar and run by the same engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zoo.compat import problems
from zoo.entry import MethodEntry

LOG_RATIO = {"kind": "contrast", "of": {"teacher": 1, "student": -1}}
ABOUT = {
    "id": "row",
    "name": "A row of the lab",
    "paper": {},
    "evidence": {"level": "inferred", "source": "the lab"},
    "fixed_point": "none",
    "anchor": "trained",
}


def entry_of(*terms: Mapping[str, Any], rollouts: Mapping[str, Any] | None = None, **sections: Any) -> MethodEntry:
    """An entry around terms: one external teacher, and the student writes, unless told otherwise."""
    usual: dict[str, Any] = {"rollouts": dict(rollouts or {"main": "student"}), "teachers": {"teacher": "external"}}
    return MethodEntry.model_validate({**ABOUT, **usual, **sections, "objective": tuple(map(_summed, terms))})


def _summed(term: Mapping[str, Any]) -> dict[str, Any]:
    return {**({} if term["term"] == "log_prob_loss" else {"reduce": "sum"}), **term}


def score_function(credit: Any, **fields: Any) -> dict[str, Any]:
    """A policy gradient on the log-ratio."""
    return {"term": "policy_gradient", "reward": LOG_RATIO, "credit": credit, **fields}


def direct(divergence: Any = "reverse_kl", support: Any = "full") -> dict[str, Any]:
    """A divergence term."""
    return {"term": "divergence", "divergence": divergence, "support": support}


def top(mass: Any, k: int = 2) -> dict[str, Any]:
    """The teacher's top-k with a mass handling."""
    return {"kind": "teacher_topk", "k": k, "mass": mass}


@dataclass(frozen=True)
class Row:
    """One estimator: what the catalogue's B.3, with Part 5's corrections, says of it, and the entry that measures it."""

    name: str
    says: str
    entry: MethodEntry
    group: bool = False
    divergence: str = "reverse_kl"


def estimator_rows() -> list[Row]:
    """The estimator boundary table (B.3, Part 5 items 2 to 7) and the ends of its parameters."""
    gae = {"learners": {"value": "value_head"}}
    group = {"main": {"author": "student", "group": 4}}
    return [
        Row("immediate, sampled token", "(a)", entry_of(score_function("immediate"))),
        Row("immediate − KL baseline", "(a)", entry_of(score_function("immediate", baseline={"kind": "kl", "teacher": "teacher"}))),
        Row("direct, full vocabulary", "(a)", entry_of(direct())),
        Row("direct, top-k raw", "leaks mass", entry_of(direct(support=top("raw")))),
        Row("direct, top-k detached", "(a) on the support", entry_of(direct(support=top("detach")))),
        Row("direct, top-k renormalised", "shape only", entry_of(direct(support=top({"renormalise": "both"})))),
        Row("direct, top-k and tail", "a lower bound of (a)", entry_of(direct(support=top("tail_bucket")))),
        Row("discounted, γ = 0.5", "no scalar", entry_of(score_function({"kind": "discounted", "gamma": 0.5}))),
        Row("discounted, γ = 0.9", "no scalar", entry_of(score_function({"kind": "discounted", "gamma": 0.9}))),
        Row("2-step", "no scalar", entry_of(score_function({"kind": "k_step", "k": 2}))),
        Row("return-to-go", "(b)", entry_of(score_function("return_to_go"))),
        Row("return-to-go − value", "(b)", entry_of(score_function({"kind": "gae", "gamma": 1.0, "lambda": 1.0}), **gae)),
        Row("GAE, γ = 1, λ = 0.95", "(b) if the critic is exact", entry_of(score_function({"kind": "gae", "gamma": 1.0, "lambda": 0.95}), **gae)),
        Row("GAE, γ = 0.9, λ = 0.95", "the discounted field", entry_of(score_function({"kind": "gae", "gamma": 0.9, "lambda": 0.95}), **gae)),
        Row("group of 4, mean only", "(b) × 3/4", entry_of(score_function({"kind": "group", "divide": "none"}), rollouts=group), True),
        Row("group of 4, mean and s.d.", "(b) only for rewards of 0 or 1", entry_of(score_function({"kind": "group", "divide": "std"}), rollouts=group), True),
        Row("leave one out of 4", "(b)", entry_of(score_function("leave_one_out"), rollouts=group), True),
        Row("w_f advantage, forward KL", "(a) of the forward KL", _by_weight("forward_kl"), divergence="forward_kl"),
        Row("w_f advantage, total variation", "(a) of total variation", _by_weight("total_variation"), divergence="total_variation"),
        Row("−KL(s) as the advantage", "zero", entry_of({**score_function("immediate"), "reward": {"kind": "state_divergence", "teacher": "teacher"}})),
    ]


def _by_weight(divergence: str) -> MethodEntry:
    return entry_of(score_function("immediate", shaping=({"kind": "w_f", "of": divergence},)))


def truncation_rows() -> list[Row]:
    """Every mass handling of D.11 and Part 5 item 11 that the grammar can write."""
    teacher = {"renormalise": "teacher"}
    rows = [
        ("reverse KL, raw", "Q_S / e", "reverse_kl", "raw"),
        ("reverse KL, log-ratio detached", "Q_S", "reverse_kl", "detach"),
        ("reverse KL, both sides renormalised", "free", "reverse_kl", {"renormalise": "both"}),
        ("reverse KL, teacher renormalised", "1 / e", "reverse_kl", teacher),
        ("reverse KL, tail bucket", "Q_S", "reverse_kl", "tail_bucket"),
        ("forward KL, raw", "1", "forward_kl", "raw"),
        ("forward KL, teacher renormalised", "1", "forward_kl", teacher),
        ("forward KL, tail bucket", "Q_S", "forward_kl", "tail_bucket"),
    ]
    return [Row(name, says, entry_of(direct(divergence, top(mass)))) for name, says, divergence, mass in rows]


def routing_rows() -> list[Row]:
    """Every routing of a negative update (D.9, D.10, Part 5 items 9 and 10) but `multi_sample`, whose mean is that of `sampled`."""
    routings = {
        "sampled": ("ρ = p", "sampled"),
        "student's top 2": ("each of the two by its own A", {"kind": "student_topk", "k": 2}),
        "teacher": ("ρ = q", {"kind": "teacher"}),
        "teacher's top 2": ("ρ = q on its top 2", {"kind": "teacher_topk", "k": 2}),
        "counterfactual": ("ρ ∝ q p among better tokens", {"kind": "counterfactual"}),
    }
    return [Row(name, says, entry_of(score_function("immediate", routing=routing))) for name, (says, routing) in routings.items()]


def refused(entry: MethodEntry) -> list[str]:
    """What the compatibility rules say of a row; the null row and the raw truncation are refused or asked for by name on purpose."""
    return problems(entry)
