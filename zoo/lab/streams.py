"""The exact law of each kind of stream, from its own rules; where there is none, its own sampler on an even lattice of uniforms."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from zoo.components.rollouts import (
    Blended,
    Branch,
    Corpus,
    Dataset,
    Edited,
    Interleaved,
    Mixture,
    Policy,
    Prefix,
    Replay,
    Reread,
    Stream,
    WindowVerify,
)
from zoo.components.rollouts.base import author_of
from zoo.components.rollouts.decoded import Solo
from zoo.lab.doubles import EXEMPT, Tables
from zoo.lab.edits import edited, labelled
from zoo.lab.laws import Exempt, Ints, Law, grouped, mixed, product_of, unrolled
from zoo.lab.windows import given_back
from zoo.lab.world import Array, World
from zoo.lab.writing import read_logits, warped
from zoo.tensors import Author

GRID, LATTICE, PHI = 2048, 4096, 0.5
LENGTHS = 720  # even uniforms for the length of a given beginning


def law_of(stream: Stream, tables: Tables) -> Law:
    """All that a stream may hold, groups included.

    Raises:
        Exempt: the lab has no double for the stream.
    """
    if isinstance(stream, Edited | Reread):
        return derived(stream, law_of(tables.entry.rollouts[stream.of], tables), tables)
    if isinstance(stream, Mixture) and stream.per == "group_member":
        members = [(name, int(count)) for name, count in stream.of.items() if count > 0]
        return product_of([grouped(single(stream.part(name), tables), count) for name, count in members])
    law = single(stream, tables)
    group = tables.entry.rollouts[stream.of].group if isinstance(stream, Branch) else stream.group
    return grouped(law, group) if group > 1 else law


def derived(stream: Edited | Reread, source: Law, tables: Tables) -> Law:
    """A stream that changes another one row by row, from the law of that one: each row follows its own, in the same outcome."""
    return edited(stream, source, tables) if isinstance(stream, Edited) else replace(source, reading=stream.context)


def single(stream: Stream, tables: Tables) -> Law:
    """The law of one sequence."""
    if stream.environment is not None:
        raise Exempt(f"environment.{stream.environment.kind}: {EXEMPT['environment']}", "environment")
    horizon = stream.horizon(tables.world.horizon)
    if isinstance(stream, Dataset | Corpus):
        return _given(stream, tables, horizon)
    if isinstance(stream, Replay):
        return mixed([(PHI, single(stream.of, tables)), (1.0 - PHI, single(stream.otherwise, tables))])
    if isinstance(stream, Mixture) and stream.per != "token":
        return mixed([(share, single(stream.part(name), tables)) for name, share in zip(stream.names, stream.shares, strict=True)])
    if isinstance(stream, Solo | Mixture) and any(tables.given(name) for name in stream.reads):
        return labelled(stream, tables, horizon)
    if isinstance(stream, Solo):
        [name] = stream.reads
        law_SV = warped(stream, name, tables)
        return unrolled(tables.world, horizon, lambda s, t: (np.exp(law_SV[s])[:, None], law_SV[s], (int(author_of(name)),)))
    if isinstance(stream, Mixture):
        return _mixture(stream, tables, horizon)
    if isinstance(stream, Interleaved) and isinstance(stream.verify, WindowVerify):
        return given_back(stream, stream.verify, tables, horizon)
    if isinstance(stream, Interleaved):
        return _interleaved(stream, tables, horizon)
    if isinstance(stream, Blended):
        return _stated(stream, tables, horizon)
    if isinstance(stream, Prefix):
        return _continued(stream, single(stream.of, tables), tables, horizon)
    if isinstance(stream, Branch):
        return _continued(stream, single(tables.entry.rollouts[stream.of], tables), tables, horizon)
    if isinstance(stream, Policy):
        return _sampled(stream, tables, horizon)
    raise Exempt(f"rollout.{stream.author}: no double yet")


def _given(stream: Dataset | Corpus, tables: Tables, horizon: int) -> Law:
    law_SV = tables.data(stream.author, stream.field)
    author = int(Author.DATASET if isinstance(stream, Dataset) else Author.CORPUS)
    nothing_SV = np.full_like(law_SV, np.nan)
    return unrolled(tables.world, horizon, lambda s, t: (np.exp(law_SV[s])[:, None], nothing_SV[s], (author,)))


def _mixture(stream: Mixture, tables: Tables, horizon: int) -> Law:
    laws_ASV = np.stack([np.exp(warped(stream, name, tables)) for name in stream.names])
    joint_SAV = np.einsum("a,asv->sav", np.array(stream.shares), laws_ASV)
    with np.errstate(divide="ignore"):
        law_SV = np.log(joint_SAV.sum(1))
    authors = tuple(int(author_of(name)) for name in stream.names)
    return unrolled(tables.world, horizon, lambda s, t: (joint_SAV[s], law_SV[s], authors))


def _interleaved(stream: Interleaved, tables: Tables, horizon: int) -> Law:
    student_SV, teacher_SV = (np.exp(warped(stream, name, tables)) for name in stream.reads)
    unwarped = [read_logits(stream, name, tables) for name in reversed(stream.reads)]
    accepted_SV = stream.verify.accepts(*unwarped).numpy()
    rejected_S1 = np.where(accepted_SV, 0.0, student_SV).sum(-1, keepdims=True)
    joint_SAV = np.stack([student_SV * accepted_SV, rejected_S1 * teacher_SV], 1)
    with np.errstate(divide="ignore"):
        law_SV = np.log(joint_SAV.sum(1))
    return unrolled(tables.world, horizon, lambda s, t: (joint_SAV[s], law_SV[s], (int(Author.STUDENT), int(Author.TEACHER))))


def _stated(stream: Any, tables: Tables, horizon: int) -> Law:
    """A rule without memory that draws once: every token that the grid finds, with the probability that the rule itself states."""
    states, vocabulary = len(tables.world.states), tables.world.vocabulary
    logits = {name: read_logits(stream, name, tables).repeat_interleave(GRID, 0) for name in stream.reads}
    uniform_B = ((torch.arange(GRID, dtype=torch.float64) + 0.5) / GRID).repeat(states)
    choice, _ = stream.choose(None, logits, uniform_B[None])
    law_SV, author_SV = np.full((states, vocabulary), -np.inf), np.zeros((states, vocabulary), dtype=np.int64)
    at = np.repeat(np.arange(states), GRID), choice.token_B.numpy()
    law_SV[at], author_SV[at] = choice.behaviour_logp_B.numpy(), choice.author_B.numpy()
    law_SV = law_SV - np.log(np.exp(law_SV).sum(-1, keepdims=True))
    authors = tuple(sorted({int(a) for a in author_SV.reshape(-1)}))
    joint_SAV = np.stack([np.where(author_SV == a, np.exp(law_SV), 0.0) for a in authors], 1)
    return unrolled(tables.world, horizon, lambda s, t: (joint_SAV[s], law_SV[s], authors))


def _continued(stream: Prefix | Branch, source: Law, tables: Tables, horizon: int) -> Law:
    """The first part of a text, by the stream's own lengths, and what `by` writes after it; a part that is not learned has no state."""
    world, whole_R = tables.world, (source.state_RT >= 0).sum(1)
    text_R = whole_R - source.finished_R
    uniform = (np.arange(LENGTHS) + 0.5) / LENGTHS
    length = stream.lengths(torch.from_numpy(np.repeat(text_R, LENGTHS)), torch.from_numpy(np.tile(uniform, len(source)))).numpy().reshape(-1, LENGTHS)
    law_SV = warped(stream.rest(), stream.by, tables)
    author, parts = int(author_of(stream.by)), []
    limit = min(world.horizon, horizon) if isinstance(stream, Prefix) else world.horizon
    for row in range(len(source)):
        for cut, count in zip(*np.unique(length[row], return_counts=True), strict=True):
            share = source.probability_R[row] * count / LENGTHS
            if share > 0:
                last = limit if isinstance(stream, Prefix) else min(limit, int(cut) + horizon)
                parts.append(_after(world, source.rows([row]), int(cut), last, law_SV, author, stream.supervise == "all", share))
    names = ("token_RT", "state_RT", "author_RT", "behaviour_RT", "finished_R", "probability_R")
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    _, first, inverse = np.unique(np.concatenate([joined["token_RT"], joined["state_RT"], joined["author_RT"], joined["finished_R"][:, None]], 1), axis=0,
                                  return_index=True, return_inverse=True)  # fmt: skip
    mass = np.bincount(inverse.reshape(-1), joined["probability_R"], minlength=len(first)).astype(np.float64)
    kept: dict[str, Any] = {name: column[first] for name, column in joined.items()} | {"probability_R": mass}
    return Law(**kept, outcome_R=np.arange(len(first)), error=source.error)


def _after(world: World, row: Law, cut: int, limit: int, law_SV: Array, author: int, learned: bool, share: float) -> Law:
    """Every way to go on from the first `cut` tokens of one text."""
    state = 0
    for token in row.token_RT[0, :cut]:
        state = int(world.children[state, token])
    if state < 0 or cut >= limit:  # nothing is left to write
        rest = replace(row, state_RT=np.where((np.arange(world.horizon) < cut) & learned, row.state_RT, -1), finished_R=np.zeros(1, dtype=bool))
        return replace(rest, probability_R=np.full(1, share))
    found = unrolled(world, limit, lambda s, t: (np.exp(law_SV[s])[:, None], law_SV[s], (author,)), start=(state, cut))
    given = np.broadcast_to(row.state_RT[:, :cut] if learned else np.full((1, cut), -1), (len(found), cut))
    columns = {"token_RT": row.token_RT, "author_RT": row.author_RT, "behaviour_RT": row.behaviour_RT}
    changed: dict[str, Any] = {}
    for name, column in columns.items():
        changed[name] = np.concatenate([np.broadcast_to(column[:, :cut], (len(found), cut)), getattr(found, name)[:, cut:]], 1)
    changed["state_RT"] = np.concatenate([given, found.state_RT[:, cut:]], 1)
    return replace(found, **changed, probability_R=found.probability_R * share)


def _sampled(stream: Any, tables: Tables, horizon: int) -> Law:
    """The stream's own rule, all rows in lock step, on a rank-one lattice; equal rows are counted together."""
    world, draws, horizon = tables.world, stream.draws, min(horizon, tables.world.horizon)
    uniform = _lattice(LATTICE, horizon * draws).reshape(LATTICE, horizon, draws)
    read = {name: read_logits(stream, name, tables) for name in stream.reads}
    state_B, policy_state, alive_B = np.zeros(LATTICE, dtype=np.int64), None, np.ones(LATTICE, dtype=bool)
    width = world.horizon
    token, state, author = (np.full((LATTICE, width), fill, dtype=np.int64) for fill in (0, -1, 0))
    behaviour, finished = np.zeros((LATTICE, width)), np.zeros(LATTICE, dtype=bool)
    for t in range(horizon):
        at = np.maximum(state_B, 0)
        choice, policy_state = stream.choose(policy_state, {n: table_SV[at] for n, table_SV in read.items()}, torch.from_numpy(uniform[:, t].T.copy()))
        if choice.end_B is not None:
            alive_B = alive_B & ~choice.end_B.numpy()
        token[alive_B, t], state[alive_B, t] = choice.token_B.numpy()[alive_B], state_B[alive_B]
        author[alive_B, t], behaviour[alive_B, t] = choice.author_B.numpy()[alive_B], choice.behaviour_logp_B.numpy()[alive_B]
        finished |= alive_B & (token[:, t] == world.stop)
        state_B = np.where(alive_B, world.children[at, token[:, t]], -1)
        alive_B = alive_B & (state_B >= 0)
    whole = _counted(token, state, author, behaviour, finished)
    halves = [_counted(token[i::2], state[i::2], author[i::2], behaviour[i::2], finished[i::2]).tokens(len(world.states), world.vocabulary) for i in (0, 1)]
    return Law(**{**vars(whole), "error": float(np.abs(halves[0] - halves[1]).max())})


def _counted(token: Ints, state: Ints, author: Ints, behaviour: Array, finished: Any) -> Law:
    _, first, inverse = np.unique(np.concatenate([token, state, author, finished[:, None]], 1), axis=0, return_index=True, return_inverse=True)
    probability = np.bincount(inverse.reshape(-1), minlength=len(first)) / len(token)
    return Law(token[first], state[first], author[first], behaviour[first], finished[first], probability, np.arange(len(first)))


def _lattice(points: int, dimensions: int) -> Array:
    """(i + 1/2) a_d mod 1 with the generalised golden ratio, an even filling of the cube."""
    phi = 2.0
    for _ in range(40):
        phi = (1.0 + phi) ** (1.0 / (dimensions + 1))
    step = (1.0 / phi) ** np.arange(1, dimensions + 1)
    found: Array = np.mod((np.arange(points)[:, None] + 0.5) * step, 1.0)
    return found
