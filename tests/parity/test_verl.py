"""k1, k2 and k3 as verl defines them, written here from their formulas, with d = log p(y) - log q(y) of the written token y.

verl limits d to 20 inside k3 and the value to 10; the zoo limits neither silently. Its estimator named `k3+` has the value of k3 and
the gradient of k2: an entry says k2.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.components.compose import entry_of
from tests.components.six import TOKENS, build, tensor
from tests.parity.both import MASK_BT, STUDENT_BTV, TEACHER_BTV, Loss, assert_same, ours, theirs
from zoo.compat import problems


def k1(d: Tensor) -> Tensor:
    return d


def k2(d: Tensor) -> Tensor:
    return d * d / 2


def k3(d: Tensor) -> Tensor:
    """Value and gradient of exp(-d) - 1 + d, both limits included."""
    limited = (-d).clamp(-20.0, 20.0)
    return (limited.exp() - 1 - limited).clamp(-10.0, 10.0)


FORMULAS: dict[str, Any] = {"k1": k1, "k2": k2, "k3": k3}


# Half as sharp as the six tokens' own, so that no written token reaches verl's limits.
MILD_P, MILD_Q = 0.5 * STUDENT_BTV, 0.5 * TEACHER_BTV


def written(logits_BTV: Tensor) -> Tensor:
    return logits_BTV.log_softmax(-1).gather(-1, tensor(TOKENS)[..., None])[..., 0]


def token_mean(name: str, student_BTV: Tensor = MILD_P, teacher_BTV: Tensor = MILD_Q) -> Loss:
    return theirs(lambda leaf: FORMULAS[name](written(leaf) - written(teacher_BTV))[MASK_BT].mean(), student_BTV)


@pytest.mark.parametrize("name", ["k2", "k3"])
def test_as_a_loss(name: str) -> None:
    role = "anchor" if name == "k3" else "signal"  # as a signal k3 has to be called the forward KL that it descends
    assert_same(ours({"divergence": name, "support": "sampled", "role": role}, MILD_P, MILD_Q), token_mean(name))


@pytest.mark.parametrize("name", FORMULAS)
def test_the_values(name: str) -> None:
    p_NK, q_NK = MILD_P[MASK_BT].log_softmax(-1), MILD_Q[MASK_BT].log_softmax(-1)
    torch.testing.assert_close(build("divergence", name).entries(p_NK, q_NK), FORMULAS[name](p_NK - q_NK), rtol=0, atol=1e-6)


def test_k1_as_a_loss_is_refused_for_its_gradient_knows_no_teacher() -> None:
    [message] = problems(entry_of([{"term": "divergence", "divergence": "k1", "support": "sampled", "reduce": "token_mean"}]))
    assert "k1 differentiated directly has no teacher gradient" in message
    one, other = (token_mean("k1", teacher_BTV=q_BTV) for q_BTV in (MILD_Q, torch.zeros_like(MILD_Q)))
    assert torch.equal(one.gradient_BTV, other.gradient_BTV) and one.value != other.value


def test_the_limit_of_k3_more_than_halves_the_loss_of_the_six_tokens() -> None:
    """One of them is at 29.7."""
    whole = ours({"divergence": "k3", "support": "sampled", "role": "anchor"})
    limited = token_mean("k3", STUDENT_BTV, TEACHER_BTV)
    assert whole.value == pytest.approx(5.84988, abs=1e-5) and limited.value == pytest.approx(2.56666, abs=1e-5)


def test_verl_stops_k3_at_10_where_its_gradient_ends() -> None:
    """A token that the student finds 150 times less probable than the teacher: 143.4 against 10, and no gradient at all."""
    p = torch.tensor([[-5.0]], dtype=torch.float64, requires_grad=True)
    value, limited = build("divergence", "k3").entries(p, torch.zeros(1, 1, dtype=torch.float64)), k3(p)
    assert float(value.detach()) == pytest.approx(142.4132, abs=1e-4) and float(limited.detach()) == 10.0
    [slope], [none] = torch.autograd.grad(value.sum(), p), torch.autograd.grad(limited.sum(), p)
    assert float(slope) == pytest.approx(-147.4132, abs=1e-4) and float(none) == 0.0


def test_the_straight_through_k3_has_the_gradient_of_k2() -> None:
    """Value of k3, gradient of k2: the zoo offers the gradient under its own name, since a loss is what it descends."""

    def plus(leaf: Tensor) -> Tensor:
        d_N = (written(leaf) - written(MILD_Q))[MASK_BT]
        return (k2(d_N) - k2(d_N).detach() + k3(d_N).detach()).mean()

    found, expected = theirs(plus, MILD_P), ours({"divergence": "k2", "support": "sampled"}, MILD_P, MILD_Q)
    torch.testing.assert_close(found.gradient_BTV, expected.gradient_BTV, rtol=0, atol=1e-6)
    assert found.value == pytest.approx(token_mean("k3").value)
    assert (found.value, expected.value) == (pytest.approx(0.62394, abs=1e-5), pytest.approx(0.51368, abs=1e-5))
