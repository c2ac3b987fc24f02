"""The replay buffer of a stream: whole sequences with their columns, first in first out, saved and restored exactly."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.components.rollouts import Replay, Stream
from zoo.errors import ZooError
from zoo.harness.parts import VALIDATION_LOSS, Part
from zoo.seeds import uniforms
from zoo.tensors import Prompt, Rollout

COLUMNS = ("response_BT", "mask_BT", "author_BT", "behaviour_logp_BT", "student_logp_BT")
Source = Literal["fresh", "buffer", "otherwise"]


def concatenate(parts: Sequence[Rollout], *, pad_id: int) -> Rollout:
    """Rollouts one below the other, responses padded on the right to the longest; the version is the oldest one."""
    width = max(part.response_BT.shape[1] for part in parts)

    def padded(column_BT: Tensor, value: float) -> Tensor:
        return torch.nn.functional.pad(column_BT, (0, width - column_BT.shape[1]), value=value)

    columns: dict[str, Any] = {name: torch.cat([padded(getattr(p, name), pad_id if name == "response_BT" else 0) for p in parts]) for name in COLUMNS}
    return Rollout(
        prompts=tuple(prompt for part in parts for prompt in part.prompts),
        prompt_ids=tuple(ids for part in parts for ids in part.prompt_ids),
        group_B=torch.cat([part.group_B for part in parts]),
        finished_B=torch.cat([part.finished_B for part in parts]),
        version=min(part.version for part in parts),
        **columns,
    )


class ReplayBuffer(Part):
    """State of one `replay` stream: the sequences, phi, and the validation loss that phi was last raised at (DistiLLM 2402.03898)."""

    watches = (VALIDATION_LOSS,)

    def __init__(self, stream: Replay, *, pad_id: int) -> None:
        self.capacity, self.rule, self.pad_id = stream.capacity, stream.phi, pad_id
        self.phi = stream.phi.start
        self.previous_loss: float | None = None
        self._rows: deque[Rollout] = deque(maxlen=stream.capacity)

    def __len__(self) -> int:
        return len(self._rows)

    def source(self, uniform: float, progress: float) -> Source:
        """Where the batch at `progress` (share of the run that is over, 0 to 1) comes from."""
        if uniform < self.phi * (1.0 - progress) or (uniform < self.phi and len(self) < self.capacity):
            return "fresh"
        return "buffer" if uniform < self.phi else "otherwise"

    def append(self, rollout: Rollout) -> None:
        """Remember each sequence, the oldest ones giving way."""
        rollout = rollout.to("cpu")
        for index in range(len(rollout)):
            row = rollout.rows([index])
            length = int(row.mask_BT[0].nonzero().max()) + 1
            self._rows.append(replace(row, **{name: getattr(row, name)[:, :length].clone() for name in COLUMNS}))

    def sample(self, count: int, seed: int) -> Rollout:
        """A random batch without repetition, as long as the buffer holds `count` sequences; groups are numbered afresh."""
        if not self._rows:
            raise ZooError("a replay buffer is empty, so no batch can be drawn from it; let phi start above 0")
        order = torch.argsort(uniforms([seed], len(self))[0], stable=True).tolist()
        batch = concatenate([self._rows[order[i % len(order)]] for i in range(count)], pad_id=self.pad_id)
        return replace(batch, group_B=torch.arange(count))

    def after_step(self, metrics: Mapping[str, float]) -> None:
        """Raise phi where `metrics["validation_loss"]` (if it was measured at this step) exceeds the last such value by eps."""
        loss = metrics.get("validation_loss")
        if loss is None:
            return
        if self.previous_loss is None:
            self.previous_loss = float(loss)
        elif loss >= self.previous_loss + self.rule.eps:
            self.phi, self.previous_loss = min(self.phi + self.rule.step, 1.0), float(loss)

    def state_dict(self) -> dict[str, Any]:
        """Tensors (for safetensors) and JSON values, by name; columns are flat, `lengths` cuts them."""
        rows = list(self._rows)
        state: dict[str, Any] = {
            "phi": self.phi,
            "previous_loss": self.previous_loss,
            "versions": [row.version for row in rows],
            "prompts": [{"id": r.prompts[0].id, "text": r.prompts[0].text, "fields": dict(r.prompts[0].fields)} for r in rows],
            "prompt_ids": [list(row.prompt_ids[0]) for row in rows],
            "lengths": torch.tensor([row.response_BT.shape[1] for row in rows], dtype=torch.long),
            "group": torch.tensor([int(row.group_B) for row in rows], dtype=torch.long),
            "finished": torch.tensor([bool(row.finished_B) for row in rows], dtype=torch.bool),
        }
        for name in COLUMNS:
            state[name] = torch.cat([getattr(row, name)[0] for row in rows]) if rows else torch.zeros(0)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.phi, self.previous_loss = state["phi"], state["previous_loss"]
        self._rows.clear()
        lengths = state["lengths"].tolist()
        columns = {name: state[name].split(lengths) for name in COLUMNS}
        for index, prompt in enumerate(state["prompts"]):
            self._rows.append(
                Rollout(
                    (Prompt(prompt["id"], prompt["text"], prompt["fields"]),),
                    (tuple(state["prompt_ids"][index]),),
                    **{name: columns[name][index][None] for name in COLUMNS},
                    group_B=state["group"][index : index + 1],
                    finished_B=state["finished"][index : index + 1],
                    version=state["versions"][index],
                )
            )


def buffer_for(stream: Stream, *, pad_id: int) -> ReplayBuffer | None:
    """The state that a stream keeps between steps, if any."""
    return ReplayBuffer(stream, pad_id=pad_id) if isinstance(stream, Replay) else None
