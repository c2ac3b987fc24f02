"""Teachers' states of texts that come again: computed once, kept on the host by (teacher, tokens), and read back instead of computed.

What is kept are hidden states, from which every law over the vocabulary follows by the head: 2 H bytes a token in bf16 where the law itself would take
4 V, hundreds of times as much. Texts come again where they are given (an epoch later) or replayed; those that the student writes are new each time.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from zoo.components.rollouts import Replay, Stream
from zoo.harness.cuts import Supervised
from zoo.tensors import Author, Rollout

if TYPE_CHECKING:
    from zoo.harness.bank import Bank


class KeptStates:
    """States (n, H) of the supervised tokens of single sequences, on the host, `room` bytes at most; those that were not read for longest go first."""

    def __init__(self, room: int) -> None:
        self.room, self.held = room, 0
        self._states: OrderedDict[bytes, Tensor] = OrderedDict()

    def known(self, keys: Mapping[int, bytes]) -> dict[int, Tensor]:
        """The states that are kept, by row."""
        found = {row: self._states[key] for row, key in keys.items() if key in self._states}
        for row in found:
            self._states.move_to_end(keys[row])
        return found

    def keep(self, states: Mapping[bytes, Tensor]) -> None:
        """Remember the states of some sequences."""
        for key, states_NH in states.items():
            if key not in self._states:  # a batch may hold a text twice
                self._states[key] = states_NH.clone()
                self.held += states_NH.nbytes
        while self.held > self.room:
            self.held -= self._states.popitem(last=False)[1].nbytes


def comes_again(stream: Stream, rollout: Rollout) -> list[int]:
    """The sequences of a batch that are given or replayed."""
    given_BT = (rollout.author_BT == int(Author.DATASET)) | (rollout.author_BT == int(Author.CORPUS)) | ~rollout.mask_BT
    return [i for i, given in enumerate(given_BT.all(1).tolist()) if given or isinstance(stream, Replay)]


def keys_of(bank: Bank, scorer: str, shown: Rollout, prompts: Sequence[Sequence[int]], rows: Collection[int]) -> dict[int, bytes]:
    """By what some sequences' states are known: whose they are, all tokens that are read, and which of them are supervised. Empty for a scorer that
    moves, or that reads more than one prompt and its response."""
    key = bank.keys[scorer]
    fixed = key.weights == "initial" or key.weights in bank.pair.teachers
    if not fixed or (key.context is not None and key.context.per == "turn"):
        return {}
    count_B = shown.written_BT.sum(1).tolist()

    def name(i: int) -> bytes:
        read = (key.weights, tuple(prompts[i]), shown.response_BT[i, : count_B[i]].tolist(), shown.mask_BT[i, : count_B[i]].tolist())
        return hashlib.sha256(repr(read).encode()).digest()

    return {i: name(i) for i in rows}


def remember(kept: KeptStates, keys: Mapping[int, bytes], shown: Supervised, group: Sequence[int], states_NH: Tensor) -> None:
    """Keep the states of those sequences of a micro-batch that have a key."""
    if not keys.keys().isdisjoint(group):
        parts = zip(group, states_NH.to("cpu").split([shown.count_B[i] for i in group]), strict=True)
        kept.keep({keys[i]: part for i, part in parts if i in keys})
