"""Columns about texts that go on otherwise than the written one, on tables: every state behind every token is there to be looked up."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from zoo.components.gates.ahead import FutureGap, transport_cost
from zoo.components.rewards.ahead import OneAhead, candidates, standing, sureness
from zoo.lab.doubles import EXEMPT, SORTS, Tables
from zoo.lab.laws import Exempt, Ints, Law
from zoo.statistics import Explored, TokenContext


def explored_column(statistic: Explored, law: Law, tables: Tables, context: TokenContext) -> Tensor:
    """One column of a law's texts, (B, T)."""
    at_BT = statistic.within.keep(context, None) & context.mask_BT
    if not isinstance(statistic, OneAhead | FutureGap):
        raise Exempt(f"weight.continuation_match: {EXEMPT['weight.continuation_match']}", SORTS["weight.continuation_match"])
    state_N, found_BT = torch.from_numpy(law.state_RT)[at_BT], torch.zeros(at_BT.shape, dtype=torch.float64)
    if isinstance(statistic, FutureGap):
        gap_S = _gaps(statistic, tables)
        found_BT[at_BT] = gap_S[state_N]
        return found_BT
    found_BT[at_BT] = _standings(statistic, tables)[state_N, torch.from_numpy(law.token_RT)[at_BT]]
    return found_BT


def _standings(statistic: OneAhead, tables: Tables) -> Tensor:
    """The reward of each token in each state, (S, V); 0 where the text is over behind it, and in all last states."""
    world = tables.world
    sure_S = sureness(tables.logits(statistic.teacher).detach().log_softmax(-1), statistic.by)
    behind_SV = sure_S[torch.from_numpy(np.maximum(world.children, 0))]
    index_SK = candidates(tables.student.detach().log_softmax(-1), (world.stop,), statistic.k)
    sure_SK = behind_SV.gather(1, index_SK)
    standing_SV = torch.stack([standing(behind_SV[:, v], sure_SK, statistic.epsilon) for v in range(world.vocabulary)], 1)
    return torch.where(torch.from_numpy(world.children >= 0), standing_SV, 0.0)


def _gaps(statistic: FutureGap, tables: Tables) -> Tensor:
    """The distance of both windows in each state, (S,); two letters are alike or not."""
    (one_ST, there_ST), (two_ST, also_ST) = (_windows(tables, name, statistic.window) for name in (statistic.teacher, "student"))
    apart_STT = torch.from_numpy((one_ST[:, :, None] != two_ST[:, None, :]).astype(np.float64))
    return transport_cost(apart_STT, torch.from_numpy(there_ST), torch.from_numpy(also_ST))


def _windows(tables: Tables, name: str, length: int) -> tuple[Ints, np.ndarray]:
    """What a scorer writes greedily from each state, to the end of the text: tokens and which of them count, (S, length)."""
    world, best_S = tables.world, tables.logits(name).detach().argmax(-1).numpy()
    length, here_S = min(length, world.horizon), np.arange(len(world.states))
    tokens, there = [], []
    for _ in range(length):
        token_S = best_S[np.maximum(here_S, 0)]
        tokens.append(token_S)
        there.append(here_S >= 0)
        here_S = np.where(here_S >= 0, world.children[np.maximum(here_S, 0), token_S], -1)
    return np.stack(tokens, 1), np.stack(there, 1)
