"""Sets of tokens that are voted on before the first step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.components.rollouts import Student
from zoo.components.supports import Voted
from zoo.components.terms.direct import DivergenceTerm
from zoo.entry import MethodEntry
from zoo.harness.bank import Bank
from zoo.harness.engine import ReferenceEngine
from zoo.harness.scoring import chunk_view, chunks, hidden_states
from zoo.method import Method
from zoo.tensors import Prompt, Rollout


def with_votes(
    entry: MethodEntry, bank: Bank, engine: ReferenceEngine, prompts: Sequence[Prompt], max_new_tokens: int, axes: tuple[str | int, ...]
) -> MethodEntry:
    """The entry with the chosen tokens in the place of every support that is voted on; all others as they are.

    Every process counts all votes, so that all choose the same.
    """
    found = []
    for term in entry.objective:
        if isinstance(term, DivergenceTerm) and isinstance(term.support, Voted):
            answered = prompts[: term.support.prompts]
            rollout = engine.rollout(Student(), answered, max_new_tokens=max_new_tokens, seed_axes=(*axes, "votes")).to(bank.device)
            term = term.elected(votes_of(entry, term, bank, rollout))
        found.append(term)
    return entry if all(a is b for a, b in zip(found, entry.objective, strict=True)) else entry.model_copy(update={"objective": tuple(found)})


@torch.no_grad()
def votes_of(entry: MethodEntry, term: DivergenceTerm, bank: Bank, rollout: Rollout) -> Tensor:
    """The votes of a rollout's states, (V,)."""
    assert isinstance(term.support, Voted)
    method, token_N = Method(entry), rollout.response_BT[rollout.mask_BT]
    hidden = hidden_states(bank, method.with_target_inputs([term.teacher, term.support.base]), rollout)
    votes_V = torch.zeros(bank.pair.vocab_size, device=bank.device)
    for chunk in chunks(len(token_N), bank.chunk_tokens):
        view = chunk_view(method, bank, token_N[chunk], {name: states[chunk] for name, states in hidden.items()})
        votes_V += term.support.votes(view.logp_NV(term.teacher), view.logp_NV(term.support.base)).sum(0)
    return votes_V
