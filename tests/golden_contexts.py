"""Self-distillation on the six tokens: which streams play texts in a context, and whom a context leaves without anything to show."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tests.golden.fixture import Stream
from tests.golden.numerics import Array, Mask
from tests.golden.reference_self_direct import alone
from tests.golden.reference_self_policy import pass_rate
from tests.golden.reference_self_routed import gains
from zoo.components.rewards import Elsewhere, on_last
from zoo.entry import MethodEntry
from zoo.method import Method

# As `STREAMS` and `MODELS` of the kit: texts that are read, or written, in a context are played by streams of their own.
STREAMS_IN_CONTEXT: dict[str, dict[str, str]] = {
    "gates": {"tutor": "theirs"},
    "hdpo": {"hinted": "theirs"},
    "pi_distill": {"told": "main", "seen": "theirs"},
    "pbsd": {"told": "theirs", "own": "main"},
    "distill_step_by_step": {"rationale": "theirs"},
    "rltf_sd": {"reread": "theirs", "second": "data"},
    "x_opd": {"heard": "theirs"},
    "rft": {"main": "main"},
    "star": {"main": "main", "hinted": "theirs"},
    "sdzero": {"revised": "main", "reread": "theirs"},
}
MODELS_IN_CONTEXT: dict[str, dict[str, str]] = {"dail": {"shortcut": "wrong"}}


def content(stream: Stream) -> Mask:
    """Right answers, to which a user says nothing."""
    return stream.reward_B > 0.5


# Whom the teacher `self` of an entry has nothing to show.
LACKING: dict[str, Callable[[Stream], Mask]] = {"sdpo": alone, "srpo": alone, "ssopd": alone, "sdpo_user": content}


def absent_of(entry: MethodEntry, data: Stream) -> dict[str, Tensor]:
    """Sequences that a scorer leaves out, by scorer."""
    return {"self": torch.from_numpy(LACKING[entry.id](data))} if entry.id in LACKING else {}


def turn_rewards_of(method: Method, name: str, data: Stream) -> dict[str, Tensor]:
    """Rewards of turns, each on the last token that its turn's writer wrote."""
    found: dict[str, Tensor] = {}
    for own in method.turn_rewards(name):
        assert data.turn_BT is not None
        turn_BT, mask_BT, value_BT = (torch.from_numpy(each) for each in (data.turn_BT, data.mask_BT, gains(data)))
        last_BT = torch.stack([on_last(mask_BT & (turn_BT == k)) for k in range(int(turn_BT.max()) + 1)]).any(0)
        found[own] = torch.where(last_BT, value_BT, torch.zeros_like(value_BT))
    return found


def verdict_elsewhere(reward: Elsewhere, other: Stream) -> Array:
    """The verdict on the same row of another stream, or its mean over the row's group."""
    return other.reward_B if reward.scope == "sequence" else pass_rate(other)
