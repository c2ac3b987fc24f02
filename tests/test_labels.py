"""Given text as a scorer and as a writer."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from components.six import build, rollout

from zoo.components.divergences import ForwardKL
from zoo.errors import ZooError
from zoo.harness.labels import LabelStepper, labels_N, point_mass
from zoo.tensors import Prompt
from zoo.views import LogitView

STOP = 5
PAIR: Any = SimpleNamespace(stop_ids=(STOP,), tokenizer=SimpleNamespace(encode=lambda text, add_special_tokens: [int(digit) for digit in text]))


def test_each_token_has_the_given_one_of_its_index_and_the_stop_token_behind_the_end() -> None:
    """The two responses have four tokens and two; the given answers two and three, and a stop token."""
    written = rollout()
    given = tuple(Prompt(p.id, p.text, {"solution": text}) for p, text in zip(written.prompts, ("31", "240"), strict=True))
    assert labels_N(PAIR, "solution", replace(written, prompts=given)).tolist() == [3, 1, STOP, STOP, 2, 4]
    with pytest.raises(ZooError, match="no field 'hint' for a teacher of kind labels"):
        labels_N(PAIR, "hint", replace(written, prompts=given))


def test_forward_kl_to_a_label_is_its_likelihood() -> None:
    logits_NV = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    label_N = torch.tensor([4, 0, 2])
    view = LogitView(torch.tensor([1, 0, 3]), {"student": lambda: logits_NV, "gold": lambda: point_mass(label_N, 6)})
    found_N = ForwardKL().entries(view.logp_NV("student"), view.logp_NV("gold").double()).sum(-1)
    wanted_N = -logits_NV.log_softmax(-1).gather(-1, label_N[:, None])[:, 0]
    torch.testing.assert_close(found_N, wanted_N)
    torch.testing.assert_close(view.written_N("gold").exp(), torch.tensor([0.0, 1.0, 0.0]))


def test_a_writer_of_given_text_goes_on_whatever_was_written() -> None:
    model = SimpleNamespace(get_output_embeddings=lambda: torch.nn.Linear(2, 6), device=torch.device("cpu"))
    stepper = LabelStepper(SimpleNamespace(model=model, pad_id=0, vocab_size=6))  # type: ignore[arg-type]
    found = [stepper.prefill([[3, STOP], [2, 4, 1, STOP]], 4), *(stepper.step(torch.tensor([0, 0])) for _ in range(3))]
    assert [logits.argmax(-1).tolist() for logits in found] == [[3, 2], [STOP, 4], [STOP, 1], [STOP, STOP]]
    assert all(torch.equal(logits.exp().sum(-1), torch.ones(2)) for logits in found)


def test_labels_have_no_context() -> None:
    with pytest.raises(ValueError, match="read from the prompt's field"):
        build("teacher", "labels", context={"fields": ("hint",), "template": "hint"})
