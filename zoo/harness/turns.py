"""Dialogues taken apart into turns, for scorers that read each turn in a context of its own, and for rewards of turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from zoo.components.base import Context
from zoo.components.rewards import TurnState
from zoo.harness.contexts import TaskJudge, episodes_of, turn_key
from zoo.tensors import Prompt, Rollout


def turn_counts(rollout: Rollout) -> list[int]:
    """How many turns the writer of each sequence had."""
    last_B = torch.where(rollout.mask_BT, rollout.turns_BT, -1).amax(1) if rollout.mask_BT.shape[1] else torch.full((len(rollout),), -1)
    return [int(last) + 1 for last in last_B.tolist()]


def by_turn(rollout: Rollout, context: Context) -> Rollout:
    """One row for each turn of each sequence, in order, supervised in that turn alone, with the texts made for the turn in its prompt. The
    flattened supervised tokens are the rollout's own, in its order. `before: drop` leaves out what stands before the turn."""
    rows, prompts, masks = [], [], []
    for b, count in enumerate(turn_counts(rollout)):
        for turn in range(max(count, 1)):
            rows.append(b)
            prompts.append(at_turn(rollout.prompts[b], context, turn))
            masks.append(rollout.mask_BT[b] & (rollout.turns_BT[b] == turn))
    apart = replace(rollout.rows(rows), prompts=tuple(prompts), mask_BT=torch.stack(masks))
    return apart if context.before == "keep" else _without_beginnings(apart)


def at_turn(prompt: Prompt, context: Context, turn: int) -> Prompt:
    """A sequence's prompt with the texts of one turn where those of the whole would be."""
    own = {context.key(part): prompt.fields[turn_key(context, part, turn)] for part in context.made if turn_key(context, part, turn) in prompt.fields}
    return replace(prompt, fields={**prompt.fields, **own}) if own else prompt


def _without_beginnings(rollout: Rollout) -> Rollout:
    """Each row from its first supervised token on."""
    start_B = torch.where(rollout.mask_BT.any(1), rollout.mask_BT.long().argmax(1), 0)
    place_BT = torch.arange(rollout.mask_BT.shape[1], device=start_B.device) + start_B[:, None]
    inside_BT, place_BT = place_BT < rollout.mask_BT.shape[1], place_BT.clamp(max=rollout.mask_BT.shape[1] - 1)
    return replace(rollout, response_BT=rollout.response_BT.gather(1, place_BT), mask_BT=rollout.mask_BT.gather(1, place_BT) & inside_BT)


def at_turn_ends(values: Sequence[Sequence[float]], rollout: Rollout) -> Tensor:
    """Numbers of each sequence's turns on the last supervised token of the turn, (B, T)."""
    found_BT = torch.zeros(rollout.mask_BT.shape, device=rollout.mask_BT.device)
    for b, own in enumerate(values):
        for turn, value in enumerate(own):
            places = (rollout.mask_BT[b] & (rollout.turns_BT[b] == turn)).nonzero()
            if len(places):
                found_BT[b, places[-1]] = value
    return found_BT


def rewards_of_turns(judge: TaskJudge, rollout: Rollout, reward: TurnState) -> Tensor:
    """A reward of turns, (B, T)."""
    values = []
    for prompt, episode in zip(rollout.prompts, episodes_of(rollout, judge.text), strict=True):
        states = [judge.state(text, prompt) if reward.check is None else judge.verify(reward.check, text, prompt) for text in episode.said]
        values.append(reward.of_turns(states))
    return at_turn_ends(values, rollout)
