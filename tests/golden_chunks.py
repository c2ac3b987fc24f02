"""OmniOPD on the crowd, where a chunk is given how like it the teacher's texts are; its published chunks are longer than the responses there."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch

from tests.golden.loss import Reference
from tests.golden.reference_chunks import likeness, omniopd
from tests.golden_kit import CROWD, RELATIVE, as_written, context_of, load, view_of
from zoo.components.base import Strict
from zoo.components.weights.ahead import Resemblance
from zoo.entry import MethodEntry
from zoo.method import Method

SHORT = ({"count": 1, "size": 2}, {"count": 10, "size": 2}, {"count": 2, "size": 1}, {"count": 10, "size": 8})


def sized(value: Any, count: int, size: int) -> Any:
    """The same term with chunks of another number and size."""
    if isinstance(value, Strict):
        changed = {name: sized(getattr(value, name), count, size) for name in type(value).model_fields}
        return value.model_copy(update={**changed, **({"count": count, "size": size} if "count" in changed and "size" in changed else {})})
    return tuple(sized(inner, count, size) for inner in value) if isinstance(value, tuple) else value


def compare(name: str) -> None:
    """Value and gradient, with chunks that fit and with the entry's own, which none of the short responses has room for."""
    entry = load(name)
    for numbers in SHORT:
        assert_equal(entry.model_copy(update={"objective": tuple(sized(term, **numbers) for term in entry.objective)}), Reference(partial(omniopd, **numbers)))


def assert_equal(entry: MethodEntry, reference: Reference) -> None:
    fixture, method = as_written(entry, CROWD), Method(entry)
    data, plain = fixture["main"], method.statistics
    method.statistics = lambda stream: tuple(s for s in plain(stream) if not isinstance(s, Resemblance))  # type: ignore[method-assign]
    context = context_of(method, "main", data)
    for statistic in plain("main"):
        if isinstance(statistic, Resemblance):
            anchored_BT = statistic.within.keep(context, None)
            context.columns[statistic] = torch.where(anchored_BT, torch.from_numpy(likeness(data)), 0.0)  # type: ignore[index]
    student_BTV = torch.from_numpy(data.logits["student"]).clone().requires_grad_()
    view, place_N = view_of(method, data, student_BTV, slice(None))
    loss, shares = method.chunk_loss(method.prepare({"main": context}), view, lambda column_BT: column_BT.flatten()[place_N])
    loss.backward()  # type: ignore[no-untyped-call]
    np.testing.assert_allclose([float(share) for share in shares], list(reference(fixture).per_term.values()), rtol=RELATIVE)
    expected = reference.gradient(fixture)["main"]
    assert student_BTV.grad is not None
    np.testing.assert_allclose(student_BTV.grad.numpy(), expected, rtol=0, atol=RELATIVE * np.abs(expected).max())
