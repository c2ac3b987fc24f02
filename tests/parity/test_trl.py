"""TRL 1.16's losses on the same logits and labels: the generalised JSD of GKD, its top-k form with a tail, and its chunked form.

Where TRL means something else by a name, a test says by how much on these six tokens.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.parity.both import LABELS_BT, MASK_BT, TEACHER_BTV, Loss, assert_same, ours, theirs

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
gkd = pytest.importorskip("trl.experimental.gkd.gkd_trainer", reason="TRL comes with the extra `test`")
iw_opd: Any = pytest.importorskip("trl.experimental.iw_opd.iw_opd_trainer")
distillation: Any = pytest.importorskip("trl.trainer.distillation_trainer")
NAMED = {0.0: "forward_kl", 1.0: "reverse_kl"}


def named(beta: float) -> Any:
    """What the zoo calls TRL's beta: an end by the name of its KL."""
    return NAMED.get(beta, {"kind": "generalized_jsd", "beta": beta})


def trl(beta: float, **settings: Any) -> Loss:
    """GKDTrainer's static loss; with labels its default reduction divides by their number."""
    return theirs(lambda student_BTV: gkd.GKDTrainer.generalized_jsd_loss(student_BTV, TEACHER_BTV, **{"labels": LABELS_BT, "beta": beta, **settings}))


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_generalised_jsd_with_its_masking_and_its_mean(beta: float, temperature: float) -> None:
    assert_same(ours({"divergence": named(beta), "temperature": temperature}), trl(beta, temperature=temperature))


def test_beta_weighs_the_teacher_in_both() -> None:
    assert trl(0.1).value == pytest.approx(0.09891, abs=1e-5)
    assert ours({"divergence": named(0.9)}).value == pytest.approx(0.10791, abs=1e-5)


def test_trl_jumps_at_the_ends_where_the_divergence_itself_tends_to_0() -> None:
    """Next to beta = 0 the loss is beta times a KL; TRL returns the whole KL at 0, which the zoo gives only by its name."""
    near, at = trl(1e-4), trl(0.0)
    assert near.value == pytest.approx(1e-4 * at.value, rel=1e-2)
    assert at.value == pytest.approx(1.23199, abs=1e-5) and near.value == pytest.approx(0.00012, abs=1e-5)
    with pytest.raises(ValueError, match="name forward_kl or reverse_kl"):
        ours({"divergence": {"kind": "generalized_jsd", "beta": 0.0}})


# --- normalisation


def test_without_labels_trl_divides_by_the_number_of_sequences() -> None:
    """Its default `batchmean` then sums over tokens: the zoo's `sum`, here of unmasked positions only."""
    loose = theirs(lambda student_BTV: gkd.GKDTrainer.generalized_jsd_loss(student_BTV[:1], TEACHER_BTV[:1], beta=0.5))
    tokens = theirs(lambda student_BTV: gkd.GKDTrainer.generalized_jsd_loss(student_BTV[:1], TEACHER_BTV[:1], beta=0.5, labels=LABELS_BT[:1]))
    assert loose.value == pytest.approx(4 * tokens.value)
    assert ours({"divergence": named(0.5), "reduce": "sum"}).value == pytest.approx(3 * trl(0.5).value)  # 6 tokens of 2 sequences


def test_the_mean_reduction_divides_by_the_vocabulary_too() -> None:
    assert trl(0.5, reduction="mean").value == pytest.approx(trl(0.5).value / 6)


def test_a_mean_of_micro_batch_means_is_another_loss() -> None:
    """Sequences of 4 and 2 tokens one by one: equal weight each, unless the number of the whole batch's tokens is passed on."""

    def each(count: int | None) -> Loss:
        def loss(student_BTV: Tensor) -> Tensor:
            parts = [
                gkd.GKDTrainer.generalized_jsd_loss(student_BTV[b : b + 1], TEACHER_BTV[b : b + 1], labels=LABELS_BT[b : b + 1], num_items_in_batch=count)
                for b in range(2)
            ]
            return torch.stack(parts).sum() / (1 if count else 2)

        return theirs(loss)

    assert_same(ours({"divergence": named(0.5)}), each(6))
    assert_same(ours({"divergence": named(0.5), "reduce": "sequence_mean"}), each(None))
    assert each(None).value / each(6).value == pytest.approx(1.06023, abs=1e-5)


# --- top-k with a tail


SUPPORTS = {0.0: "teacher_topk", 1.0: "student_topk"}


def supported(beta: float, k: int, mass: Any) -> dict[str, Any]:
    """TRL takes the support from beta: the teacher's top-k, the student's, or the union between the ends."""
    return {"divergence": named(beta), "support": {"kind": SUPPORTS.get(beta, "union_topk"), "k": k, "mass": mass}}


def top_k(beta: float, k: int, add_tail: bool) -> Loss:
    loss = iw_opd.IWOPDTrainer.generalized_jsd_loss
    return theirs(lambda student_BTV: loss(student_BTV, TEACHER_BTV, labels=LABELS_BT, beta=beta, top_k=k, add_tail=add_tail))


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("add_tail", [True, False])
def test_top_k_with_a_tail_or_renormalised(beta: float, k: int, add_tail: bool) -> None:
    mass = "tail_bucket" if add_tail else {"renormalise": "both"}
    if k == 1 and not add_tail and beta in SUPPORTS:  # one entry that sums to one on both sides says nothing
        assert top_k(beta, k, add_tail).value == 0.0
        assert ours(supported(beta, k, mass)).value == 0.0
        return
    assert_same(ours(supported(beta, k, mass)), top_k(beta, k, add_tail))


def test_a_top_k_as_large_as_the_vocabulary_is_full_and_its_tail_is_empty() -> None:
    full = top_k(0.0, 6, add_tail=True)
    assert_same(ours({"divergence": "forward_kl"}), full)
    assert ours(supported(0.0, 6, "tail_bucket")).value == pytest.approx(full.value, abs=1e-6)


# --- the chunked form of TRL's own distillation trainer


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_hidden_states_and_heads_in_tiles(beta: float) -> None:
    """Its lowest level takes hidden states and heads; an identity head makes them logits. It computes in float32."""
    head_VV = torch.eye(6)

    def loss(student_BTV: Tensor) -> Tensor:
        found, _, count = distillation._chunked_divergence_loss(student_BTV.float(), TEACHER_BTV.float(), head_VV, head_VV, MASK_BT.int(), beta)
        assert int(count) == 6
        return found

    assert_same(ours({"divergence": named(beta)}), theirs(loss))
