"""The head's product in training: values and gradients of the plain head, whatever the chunks and the rows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from zoo.errors import ZooError
from zoo.harness.heads import CHUNK_BYTES, NarrowHeads, chunk_tokens_for, plain_head


def head_and_states() -> tuple[nn.Linear, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    head = nn.Linear(8, 13, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.randn(13, 8, generator=generator))
    return head, torch.randn(10, 8, generator=generator)


def loss_of(logits_NV: torch.Tensor) -> torch.Tensor:
    return logits_NV[:, :11].log_softmax(-1).square().sum()


def test_values_and_gradients_in_chunks_are_those_of_the_plain_head() -> None:
    head, states_NH = head_and_states()
    plain_NH = states_NH.clone().requires_grad_()
    loss_of(head(plain_NH)).backward()
    expected, head.weight.grad = head.weight.grad, None
    leaf_NH, heads = states_NH.clone().requires_grad_(), NarrowHeads(torch.float32)
    with heads:
        for chunk in (slice(0, 4), slice(4, 9), slice(9, 10)):
            logits_NV = heads.logits(head, leaf_NH[chunk], 11)
            torch.testing.assert_close(logits_NV, head(states_NH[chunk])[:, :11])
            loss_of(logits_NV).backward()
    torch.testing.assert_close(leaf_NH.grad, plain_NH.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(head.weight.grad, expected, rtol=1e-4, atol=1e-5)
    assert (head.weight.grad[11:] == 0).all()


def test_narrow_operands_give_wide_logits_and_gradients_near_the_exact_ones() -> None:
    head, states_NH = head_and_states()
    leaf_NH = states_NH.clone().requires_grad_()
    logits_NV = NarrowHeads(torch.bfloat16).logits(head, leaf_NH, None)
    assert logits_NV.dtype == torch.float32
    narrow_NV = states_NH.bfloat16().float() @ head.weight.bfloat16().float().T
    torch.testing.assert_close(logits_NV, narrow_NV, atol=1e-5, rtol=0)
    assert not torch.equal(logits_NV, logits_NV.bfloat16().float())
    logits_NV.sum().backward()
    torch.testing.assert_close(leaf_NH.grad, head.weight.sum(0).expand(10, 8), atol=0.05, rtol=0)
    torch.testing.assert_close(head.weight.grad, states_NH.sum(0).expand(13, 8), atol=0.05, rtol=0)


def test_a_head_that_does_not_learn_gets_no_gradient_and_the_states_still_do() -> None:
    head, states_NH = head_and_states()
    head.weight.requires_grad_(False)
    leaf_NH = states_NH.clone().requires_grad_()
    NarrowHeads(torch.float32).logits(head, leaf_NH, None).sum().backward()
    assert head.weight.grad is None and leaf_NH.grad is not None


def test_a_tied_embedding_gets_both_gradients() -> None:
    head, states_NH = head_and_states()
    leaf_NH = states_NH.clone().requires_grad_()
    tokens = torch.tensor([3, 5])
    (head(states_NH).square().sum() + nn.functional.embedding(tokens, head.weight).sum()).backward()
    expected, head.weight.grad = head.weight.grad, None
    NarrowHeads(torch.float32).logits(head, leaf_NH, None).square().sum().backward()
    nn.functional.embedding(tokens, head.weight).sum().backward()
    torch.testing.assert_close(head.weight.grad, expected, rtol=1e-4, atol=1e-5)


def test_weights_are_cast_once_while_they_are_still_and_afresh_afterwards() -> None:
    head, states_NH = head_and_states()
    heads = NarrowHeads(torch.float32)
    with heads, torch.no_grad():
        first_NV = heads.logits(head, states_NH, None)
    with torch.no_grad():
        head.weight.mul_(2.0)
        torch.testing.assert_close(heads.logits(head, states_NH, None), 2 * first_NV)


def test_a_head_with_more_than_a_matrix_is_refused() -> None:
    biased = nn.Linear(8, 13)
    assert not plain_head(biased) and plain_head(head_and_states()[0])
    with pytest.raises(ZooError, match="more than a product"):
        NarrowHeads(torch.float32).logits(biased, torch.zeros(1, 8), None)


def test_chunks_of_a_large_vocabulary_are_small_and_those_of_a_small_one_as_asked() -> None:
    assert chunk_tokens_for(64, 1024) == 1024
    assert chunk_tokens_for(151_936, 4096) * 4 * 151_936 <= CHUNK_BYTES < (chunk_tokens_for(151_936, 4096) + 1) * 4 * 151_936
    assert chunk_tokens_for(1 << 40, 4096) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_products_sum_in_fp32() -> None:
    generator = torch.Generator("cuda").manual_seed(4)
    head = nn.Linear(64, 1000, bias=False).cuda()
    states_NH = torch.randn(96, 64, generator=generator, device="cuda").requires_grad_()
    logits_NV = NarrowHeads(torch.bfloat16).logits(head, states_NH, 999)
    wide_NV = states_NH.bfloat16().double() @ head.weight.bfloat16().double().T[:, :999]
    torch.testing.assert_close(logits_NV.double(), wide_NV, atol=1e-5, rtol=0)
    for _ in range(2):  # the second pass adds to what is there
        NarrowHeads(torch.bfloat16).logits(head, states_NH, 999).square().sum().backward()
    slope = (2 * wide_NV).bfloat16().double()
    expected = 2 * slope.T @ states_NH.detach().bfloat16().double()
    assert head.weight.grad is not None and head.weight.grad.dtype == torch.float32
    assert (head.weight.grad[:999].double() - expected).norm() < 2e-3 * expected.norm()
