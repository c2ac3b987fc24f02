"""Entries that need more than logits on the six tokens: what would follow a token, votes, a teacher with its own tokens, hidden states of both."""

from __future__ import annotations

import numpy as np
import torch

from tests import golden_cross
from tests.golden import reference_ahead as ahead
from tests.golden.fixture import Fixture
from tests.golden.fixture import Stream as GoldenStream
from tests.golden.fixture_cross import OTHERS, crossed
from tests.golden.loss import Reference
from tests.golden.reference_signal_cross import btb, oprd_bridge
from tests.golden_hidden import LAYERS, NARROW, WIDE, central
from tests.golden_kit import CROWD, RELATIVE, SIX, as_written, assert_equal, context_of, load, view_of
from zoo.components.gates.ahead import FutureGap
from zoo.components.rewards.ahead import OneAhead, candidates, standing, sureness
from zoo.method import Method
from zoo.statistics import Explored, TokenContext
from zoo.views import LogitView

CROSSED: dict[str, Reference] = {"btb": Reference(btb)}
VOTED: dict[str, Reference] = {"safesteer": Reference(ahead.safesteer)}
AHEAD: dict[str, Reference] = {"lgr": Reference(ahead.lgr), "topd_nearfuture": Reference(ahead.topd_nearfuture)}


def compare_across(name: str) -> None:
    """On both tokenisations of two texts."""
    golden_cross.assert_equal(load(name), CROSSED[name])


def compare_voted(name: str) -> None:
    """With the set that the six tokens elect; its published sizes exceed their vocabulary."""
    entry, data = load(name), SIX["main"]
    (term,) = entry.objective
    support = term.support.model_copy(update={"size": 3, "top": 2})  # type: ignore[attr-defined]
    votes_V = support.votes(*(torch.from_numpy(data.logp(model)[data.mask_BT]) for model in ("self", "reference"))).sum(0)
    entry = entry.model_copy(update={"objective": (term.model_copy(update={"support": support.elected(votes_V)}),)})
    assert_equal(entry, VOTED[name], as_written(entry))


def explored(statistic: Explored, data: GoldenStream, context: TokenContext) -> torch.Tensor:
    """The column that whoever runs the models would fill in, from the fixture's futures."""
    if isinstance(statistic, FutureGap):
        return torch.from_numpy(ahead.future_gaps(data))
    assert isinstance(statistic, OneAhead)
    log_q = torch.from_numpy(data.logp("old")).flatten(0, 1)
    index_NK = candidates(log_q, (ahead.STOP,), min(statistic.k, 3))
    laws_NVV = torch.from_numpy(ahead.laws_ahead(data)).flatten(0, 1)
    sure_NV = sureness(laws_NVV.flatten(0, 1), statistic.by).view(laws_NVV.shape[:2])
    token_N = torch.from_numpy(data.response_BT).flatten()
    score_N = standing(sure_NV.gather(1, token_N[:, None])[:, 0], sure_NV.gather(1, index_NK), statistic.epsilon).masked_fill(token_N == ahead.STOP, 0.0)
    return torch.where(statistic.within.keep(context, None), score_N.view(data.mask_BT.shape), 0.0)


def context_ahead(method: Method, data: GoldenStream) -> TokenContext:
    """The kit's context with the explored columns, once all others stand."""
    asked = [statistic for statistic in method.statistics("main") if isinstance(statistic, Explored)]
    plain = method.statistics
    method.statistics = lambda stream: tuple(s for s in plain(stream) if s not in asked)  # type: ignore[method-assign]
    context = context_of(method, "main", data)
    for statistic in asked:
        context.columns[statistic] = explored(statistic, data, context)  # type: ignore[index]
    return context


def compare_ahead(name: str) -> None:
    """On the crowd, whose tokens are given futures."""
    fixture: Fixture = as_written(load(name), CROWD)
    data, method = fixture["main"], Method(load(name))
    parts = method.prepare({"main": context_ahead(method, data)})
    student_BTV = torch.from_numpy(data.logits["student"]).clone().requires_grad_()
    view, place_N = view_of(method, data, student_BTV, slice(None))
    loss, _ = method.chunk_loss(parts, view, lambda column_BT: column_BT.flatten()[place_N])
    loss.backward()  # type: ignore[no-untyped-call]
    np.testing.assert_allclose(loss.item(), AHEAD[name](fixture).loss, rtol=RELATIVE)
    expected = AHEAD[name].gradient(fixture)["main"]
    assert student_BTV.grad is not None
    np.testing.assert_allclose(student_BTV.grad.numpy(), expected, rtol=0, atol=RELATIVE * np.abs(expected).max())


def compare_bridge(name: str) -> None:
    """Hidden states of both models on their own tokens; gradients in the student's states and the map."""
    fixture, random = crossed(), np.random.RandomState(78)
    data, width = fixture["main"], max(len(other.ids) for other in OTHERS["main"])
    rows = len(data.mask_BT)
    at = [random.standard_normal(shape) for shape in ((LAYERS, *data.mask_BT.shape, NARROW), (LAYERS, rows, width, WIDE), (LAYERS, WIDE, NARROW))]
    method = Method(load(name))
    stream = golden_cross.Crossed(method, "main", fixture, "main")
    parts = method.prepare({"main": stream.context("main")})
    states, weight = (torch.from_numpy(at[which]).clone().requires_grad_() for which in (0, 2))
    pairing, _ = stream.foreign["teacher"].local()
    own_M = torch.cat([torch.arange(len(other.ids)) + i * width for i, other in enumerate(OTHERS["main"])])
    theirs = [layer.flatten(0, 1)[own_M] for layer in torch.from_numpy(at[1])]

    def ends(_: str) -> list[torch.Tensor]:
        return [layer.new_zeros(len(stream.place_N), WIDE).index_copy(0, pairing.span_G4[:, 1] - 1, layer[pairing.span_G4[:, 3] - 1]) for layer in theirs]

    view = LogitView(
        torch.from_numpy(data.response_BT).flatten()[stream.place_N],
        {},
        values=dict.fromkeys(method.entry.learners, lambda states_NH, layer: states_NH @ weight[layer].T),
        states={"student": lambda _: [layer.flatten(0, 1)[stream.place_N] for layer in states], "teacher": ends},
        pairings={"teacher": pairing},
    )
    loss, _ = method.chunk_loss(parts, view, lambda column_BT: column_BT.flatten()[stream.place_N])
    loss.backward()  # type: ignore[no-untyped-call]
    np.testing.assert_allclose(loss.item(), oprd_bridge(fixture, *at), rtol=RELATIVE)
    for which, tensor in ((0, states), (2, weight)):
        expected = central(lambda s, t, m: oprd_bridge(fixture, s, t, m), at, which)
        assert tensor.grad is not None
        np.testing.assert_allclose(tensor.grad.numpy(), expected, rtol=0, atol=RELATIVE * np.abs(expected).max())
