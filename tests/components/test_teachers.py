"""Teachers made of others: the distribution against a plain computation, and which of them a prompt goes to."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zoo.components.teachers import Ensemble
from zoo.views import LogitView

from .six import build, rows, tensor


@pytest.mark.parametrize("mean", ["probability", "log_probability", "product"])
def test_an_ensembles_distribution(mean: str) -> None:
    rng = np.random.default_rng(3)
    p, q = (rng.dirichlet(np.ones(5), size=6) for _ in range(2))
    logits = {"one": lambda: torch.from_numpy(np.log(p)), "two": lambda: torch.from_numpy(np.log(q))}
    ensemble = Ensemble.model_validate({"kind": "ensemble", "of": {"one": 1.0, "two": 3.0}, "mean": mean})
    view = LogitView(torch.zeros(6, dtype=torch.long), logits, mixes={"all": lambda logp: ensemble.combine(logp, torch.zeros(6))})
    if mean == "probability":
        expected = 0.25 * p + 0.75 * q
    else:
        powers = (0.25, 0.75) if mean == "log_probability" else (1.0, 1.0)
        product = p ** powers[0] * q ** powers[1]
        expected = product / product.sum(-1, keepdims=True)
    np.testing.assert_allclose(view.logp_NV("all").exp().numpy(), expected, rtol=1e-12)
    alone = Ensemble.model_validate({"kind": "ensemble", "of": {"one": 1.0, "two": 1e-12}, "mean": "probability"})
    np.testing.assert_allclose(alone.combine(view.logp_NV, torch.zeros(6)).exp().numpy(), p, rtol=1e-9)


def test_a_route_has_each_tokens_own_teacher() -> None:
    route = build("teacher", "route", by="domain", of={"maths": "old", "code": "teacher", "sums": "old"}, otherwise="reference")
    assert route.members == ("old", "teacher", "reference")
    assert [route.chosen({"domain": value}) for value in ("maths", "sums", "code", "law")] == ["old", "old", "teacher", "reference"]
    assert route.chosen({}) == "reference"
    index = np.array([0, 1, 1, 2, 0, 2])
    expected = np.stack([rows(route.members[place])[n] for n, place in enumerate(index)])
    found = route.combine(lambda name: tensor(rows(name)), tensor(index))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    asked: list[str] = []
    route.combine(lambda name: (asked.append(name), tensor(rows(name)))[1], torch.ones(6))  # type: ignore[func-returns-value]
    assert asked == ["teacher"], "no other is asked"
    with pytest.raises(ValueError, match="no teacher for domain 'law'"):
        build("teacher", "route", of={"maths": "old"}).chosen({"domain": "law"})


REFERENCES = {"ensemble": [test_an_ensembles_distribution], "route": [test_a_route_has_each_tokens_own_teacher]}
