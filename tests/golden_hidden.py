"""Entries on hidden states: the six tokens get states of both models and a map between their widths; gradients are in states and map."""

from __future__ import annotations

import numpy as np
import torch

from tests.golden.list_self import SELF_VARIANTS
from tests.golden.numerics import Array, token_mean
from tests.golden.reference_opd_direct import oprd
from tests.golden_kit import RELATIVE, SIX, as_written, context_of, load
from zoo.method import Method
from zoo.views import LogitView

LAYERS, NARROW, WIDE = 2, 3, 5
STEP = 1e-5


def central(loss: object, at: list[Array], which: int) -> Array:
    """dL/d(at[which]) by central differences."""
    gradient = np.zeros_like(at[which])
    for place in np.ndindex(gradient.shape):
        ends = []
        for step in (STEP, -STEP):
            moved = [array.copy() for array in at]
            moved[which][place] += step
            ends.append(loss(*moved))  # type: ignore[operator]
        gradient[place] = (ends[0] - ends[1]) / (2.0 * STEP)
    return gradient


def compare(name: str) -> None:
    """The entry's value and gradients against the reference's."""
    random = np.random.RandomState(77)
    data = SIX["main"]
    student, teacher = (random.standard_normal((LAYERS, *data.mask_BT.shape, width)) for width in (NARROW, WIDE))
    maps = random.standard_normal((LAYERS, WIDE, NARROW))
    method = Method(load(name))
    parts = method.prepare({"main": context_of(method, "main", data)})
    place_N = torch.from_numpy(data.mask_BT).flatten().nonzero()[:, 0]
    states, weight = (torch.from_numpy(array).clone().requires_grad_() for array in (student, maps))
    fixed = torch.from_numpy(teacher)
    at = {"student": states, "teacher": fixed}
    view = LogitView(
        torch.from_numpy(data.response_BT).flatten()[place_N],
        {},
        values=dict.fromkeys(method.entry.learners, lambda states_NH, layer: states_NH @ weight[layer].T),
        states={who: (lambda _, of=of: [layer.flatten(0, 1)[place_N] for layer in of]) for who, of in at.items()},
    )
    loss, _ = method.chunk_loss(parts, view, lambda column_BT: column_BT.flatten()[place_N])
    loss.backward()  # type: ignore[no-untyped-call]
    np.testing.assert_allclose(loss.item(), oprd(student, teacher, maps, data.mask_BT), rtol=RELATIVE)
    for which, tensor in ((0, states), (2, weight)):
        expected = central(lambda s, t, m: oprd(s, t, m, data.mask_BT), [student, teacher, maps], which)
        assert tensor.grad is not None
        np.testing.assert_allclose(tensor.grad.numpy(), expected, rtol=0, atol=RELATIVE * np.abs(expected).max())


def compare_beside_logits(name: str) -> None:
    """UniSD's divergence on logits and, at 0.01, the mean square between the last states of both views, of one width; gradients in logits and states."""
    fixture, reference = as_written(load(name)), SELF_VARIANTS[name]["weighted"]
    data, width = fixture["main"], WIDE
    student, teacher = np.random.RandomState(78).standard_normal((2, *data.mask_BT.shape, width))
    method = Method(load(name))
    parts = method.prepare({"main": context_of(method, "main", data)})
    place_N = torch.from_numpy(data.mask_BT).flatten().nonzero()[:, 0]
    states, logits = (torch.from_numpy(array).clone().requires_grad_() for array in (student, data.logits["student"]))
    shown = {"student": logits, "self": torch.from_numpy(data.logits["self"])}
    at = {"student": states, "self": torch.from_numpy(teacher)}
    view = LogitView(
        torch.from_numpy(data.response_BT).flatten()[place_N],
        {who: (lambda of=of: of.flatten(0, 1)[place_N]) for who, of in shown.items()},
        states={who: (lambda _, of=of: [of.flatten(0, 1)[place_N]]) for who, of in at.items()},
    )
    loss, _ = method.chunk_loss(parts, view, lambda column_BT: column_BT.flatten()[place_N])
    loss.backward()  # type: ignore[no-untyped-call]
    features = 0.01 * token_mean(((student - teacher) ** 2).mean(axis=-1), data.mask_BT)
    np.testing.assert_allclose(loss.item(), reference(fixture).loss + features, rtol=RELATIVE)
    slope = 0.01 * 2.0 * (student - teacher) * data.mask_BT[..., None] / (width * data.mask_BT.sum())
    for tensor, expected in ((logits, reference.gradient(fixture)["main"]), (states, slope)):
        assert tensor.grad is not None
        np.testing.assert_allclose(tensor.grad.numpy(), expected, rtol=0, atol=RELATIVE * np.abs(expected).max())
