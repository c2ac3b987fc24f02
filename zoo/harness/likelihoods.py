"""The likelihood of given sequences under the student: its mean, and its squared gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo.harness.scoring import Bank, chunks, logits_of, micro_batches, response_hidden
from zoo.tensors import Rollout


@torch.no_grad()
def cross_entropy(bank: Bank, rollout: Rollout) -> float:
    """Mean of -log p of a stream's tokens under the student on the plain prompts, in nats."""
    total = torch.zeros((), dtype=torch.float64, device=bank.device)
    for group in micro_batches(rollout, bank.micro_tokens):
        part = rollout.rows(group)
        with bank.precision():
            hidden_NH = response_hidden(bank.models["student"], part.prompt_ids, part, bank.pair.pad_id)
        token_N = part.response_BT[part.mask_BT]
        for chunk in chunks(len(token_N), bank.chunk_tokens):
            logits_NV = logits_of(bank, "student", hidden_NH[chunk])[:, : bank.pair.vocab_size]
            total += torch.nn.functional.cross_entropy(logits_NV.float(), token_N[chunk], reduction="sum")
    return float(total / rollout.tokens)


def likelihood_squares(bank: Bank, rollout: Rollout, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Sum over the sequences of the squared gradient of log p(y|x), for each parameter; the gradients are left empty."""
    found = [torch.zeros_like(p) for p in parameters]
    for i in range(len(rollout)):
        row = rollout.rows([i])
        if not row.tokens:
            continue
        with bank.precision():
            hidden_NH = response_hidden(bank.models["student"], row.prompt_ids, row, bank.pair.pad_id)
        logits_NV = logits_of(bank, "student", hidden_NH)[:, : bank.pair.vocab_size]
        logp_NV = (logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()).log_softmax(-1)
        logp_NV.gather(-1, row.response_BT[row.mask_BT][:, None]).sum().backward()
        for square, p in zip(found, parameters, strict=True):
            if p.grad is not None:
                square.add_(p.grad.square())
            p.grad = None
    return found
