"""Impossible tokens, empty masks and other edges: numbers come out, in value and in gradient, in the precision that is trained in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from zoo.components.base import kinds
from zoo.method import Method
from zoo.statistics import Entropy, Kl, LogProb
from zoo.tensors import Rollout
from zoo.views import FLOOR, LogitView

from .compose import contexts_of, entry_of, legal, loss_of
from .six import LOGITS, TOKENS, rollout, tensor

INF = float("inf")
TOP_K = ("teacher_topk", "union_topk", "overlap_topk")
SUPPORTS: list[Any] = [
    "full",
    *({"kind": kind, "k": k, "mass": mass} for kind in TOP_K for k in (2, 9) for mass in ("raw", {"renormalise": "both"})),
    *({"kind": "student_topk", "k": 2, "mass": mass} for mass in ("tail_bucket", {"renormalise": "teacher"})),
]
REWARDS = {"correct": torch.tensor([1.0, 0.0])}


def models(dtype: torch.dtype, edge: str) -> dict[str, Tensor]:
    """The fixture's logits with one edge: tokens that a model rules out, or gives less than the smallest number."""
    found = {name: tensor(values).to(dtype) for name, values in LOGITS.items()}
    written = torch.nn.functional.one_hot(tensor(TOKENS), 6).bool()
    other = torch.nn.functional.one_hot((tensor(TOKENS) + 1) % 6, 6).bool()
    changes = {
        "teacher rules out another token": ("teacher", other, -INF),
        "teacher rules out the written token": ("teacher", written, -INF),
        "teacher rules out all but one": ("teacher", ~other, -INF),
        "student rules out another token": ("student", other, -INF),
        "student gives the written token nothing": ("student", written, -400.0),
        "student is certain": ("student", written, 400.0),
        "teacher is certain of another": ("teacher", other, 400.0),
    }
    if edge == "both rule out the same token":
        return {name: values.masked_fill(other, -INF) for name, values in found.items()}
    name, where, value = changes[edge]
    return {**found, name: found[name].masked_fill(where, value)}


EDGES = (
    "teacher rules out another token", "teacher rules out the written token", "teacher rules out all but one", "student rules out another token",
    "student gives the written token nothing", "student is certain", "teacher is certain of another", "both rule out the same token",
)  # fmt: skip


def assert_finite(objective: list[dict[str, Any]], logits: dict[str, Tensor], streams: dict[str, Rollout] | None = None, **sections: Any) -> None:
    method, streams = Method(entry_of(objective, **sections)), streams or {"main": rollout()}
    student = logits["student"].clone().requires_grad_()
    prepared = method.prepare(contexts_of(method, streams, logits, REWARDS))
    loss = loss_of(method, prepared, streams, {**logits, "student": student})
    [slopes] = torch.autograd.grad(loss, student)
    assert torch.isfinite(loss)
    assert torch.isfinite(slopes).all()


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("kind", [kind for kind, cls in kinds("divergence").items() if not (cls.sampled_only or cls.positions)])  # type: ignore[attr-defined]
def test_divergences(kind: str, edge: str) -> None:
    supports = ["full"] if kinds("divergence")[kind].whole else SUPPORTS  # type: ignore[attr-defined]  # others are refused
    objective = [{"term": "divergence", "divergence": kind, "support": support, "reduce": "token_mean"} for support in supports]
    assert_finite(objective, models(torch.float32, edge))


@pytest.mark.parametrize("edge", EDGES)
def test_sampled_estimators_and_policy_gradients(edge: str) -> None:
    contrast = {"kind": "contrast", "of": {"teacher": 1, "student": -1}}
    gradient = {"term": "policy_gradient", "reward": contrast, "reduce": "token_mean"}
    objective: list[dict[str, Any]] = [
        {"term": "divergence", "divergence": "k2", "support": "sampled", "reduce": "token_mean"},
        {**gradient, "credit": "return_to_go", "baseline": "kl", "shaping": ("whiten",), "weights": ("perplexity",)},
        {**gradient, "credit": "immediate", "routing": "teacher", "gates": ({"kind": "teacher_entropy", "above": 0.1},)},
        {**gradient, "credit": "immediate", "routing": "counterfactual", "shaping": ("soft_log", {"kind": "power", "exponent": 0.5})},
        {**gradient, "credit": "immediate", "routing": {"kind": "teacher_topk", "k": 9}, "gates": ({"kind": "probability_gap", "at_most": 0},)},
        {"term": "likelihood", "reduce": "sum"},
    ]
    assert_finite(objective, models(torch.float32, edge))


@pytest.mark.parametrize("edge", EDGES)
def test_targets(edge: str) -> None:
    """An interpolation that stands at its start multiplies the teacher by 0, and 0 times minus infinity is no number."""
    teachers: dict[str, Any] = {f"t{t}": {"kind": "external", "target": {"kind": "interpolate", "t": t}} for t in (0.0, 0.5, 1.0)}
    teachers["hot"] = {"kind": "external", "target": {"kind": "temperature", "tau": 2.0}}
    term = {"term": "divergence", "reduce": "token_mean"}
    objective = [{**term, "teacher": name, "divergence": kind} for name in teachers for kind in ("forward_kl", "reverse_kl")]
    logits = models(torch.float32, edge)
    assert_finite(objective, {**logits, **dict.fromkeys(teachers, logits["teacher"])}, teachers=teachers)


def test_columns() -> None:
    columns = (LogProb("teacher"), LogProb("student"), Entropy("teacher"), Kl("student", "teacher"), Kl("teacher", "student"), Kl("student", "teacher", 3))
    for edge in EDGES:
        logits = {name: (lambda values=values: values.flatten(0, 1)) for name, values in models(torch.float32, edge).items()}
        view = LogitView(tensor(TOKENS).flatten(), logits)
        for statistic in columns:
            assert torch.isfinite(statistic.compute(view)).all(), (edge, statistic)


def test_the_floor_is_below_anything_that_weighs_and_changes_nothing_else() -> None:
    row = torch.tensor([[0.0, -80.0, -INF, 2.0]])
    view = LogitView(torch.tensor([0]), {"teacher": lambda: row})
    logp = view.logp_NV("teacher")
    assert logp[0, 2] == FLOOR
    assert torch.equal(logp[0, [0, 1, 3]], row.log_softmax(-1)[0, [0, 1, 3]])
    assert float(logp.exp().sum()) == pytest.approx(1.0)


@pytest.mark.parametrize("reduce", ["token_mean", {"kind": "token_mean", "over": "kept"}, "sequence_mean", "sum", {"fixed": 8}])
def test_no_token_at_all_and_none_that_a_gate_keeps(reduce: Any) -> None:
    logits = models(torch.float32, EDGES[0])
    term = {"term": "divergence", "divergence": "reverse_kl", "reduce": reduce}
    nobody = {"main": replace(rollout(), mask_BT=torch.zeros(2, 4, dtype=torch.bool))}
    method = Method(entry_of([term]))
    [part] = method.prepare(contexts_of(method, nobody, logits, REWARDS))
    assert torch.equal(part.scale_BT, torch.zeros(2, 4))
    assert_finite([{**term, "gates": ({"kind": "position", "above": 100},)}], logits)


def test_equal_rewards_in_a_group_give_no_gradient() -> None:
    term = {"term": "policy_gradient", "reward": "correct", "credit": "group", "reduce": "token_mean"}
    sections: dict[str, Any] = {"rollouts": {"main": {"author": "student", "group": 2}}, "rewards": {"correct": "verifier"}, "teachers": {}}
    method, streams = Method(legal(entry_of([term], **sections))), {"main": rollout()}
    logits = models(torch.float32, EDGES[0])
    prepared = method.prepare(contexts_of(method, streams, logits, {"correct": torch.tensor([1.0, 1.0])}))
    student = logits["student"].requires_grad_()
    [slopes] = torch.autograd.grad(loss_of(method, prepared, streams, logits), student)
    assert torch.equal(slopes, torch.zeros_like(slopes))


def test_unknown_writers_of_given_texts_reach_no_loss() -> None:
    """NaN stands for a probability that nobody knows; a likelihood or a divergence on such texts does not meet it."""
    unknown = torch.full((2, 4), float("nan"))
    given = {"main": replace(rollout(), behaviour_logp_BT=unknown, student_logp_BT=unknown)}
    contrast = {"kind": "contrast", "of": {"teacher": 1, "student": -1}}
    objective: list[dict[str, Any]] = [
        {"term": "likelihood", "reduce": "token_mean"},
        {"term": "divergence", "divergence": "forward_kl", "reduce": "token_mean"},
        {"term": "policy_gradient", "reward": contrast, "credit": "immediate", "ratio": ("shaped",), "reduce": "sum"},
    ]
    assert_finite(objective, models(torch.float32, EDGES[0]), given, rollouts={"main": "dataset"})


def test_what_rules_out_no_token_needs_no_floor() -> None:
    logits_NV = torch.randn(4, 7, generator=torch.Generator().manual_seed(1)) * 5
    found = []
    for open in ((), ("student",)):
        leaf_NV = logits_NV.clone().requires_grad_()
        logp_NV = LogitView(torch.zeros(4, dtype=torch.long), {"student": lambda leaf_NV=leaf_NV: leaf_NV}, open=open).logp_NV("student")
        logp_NV.square().sum().backward()
        found.append((logp_NV.detach(), leaf_NV.grad))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
