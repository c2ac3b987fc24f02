"""Discriminators: a copy of the initial student that tells one stream's texts from another's, and whose score is a reward."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from zoo.components.learners import Discriminator
from zoo.entry import MethodEntry
from zoo.errors import ZooError
from zoo.harness.bank import Bank, response_hidden
from zoo.harness.parallel import Processes
from zoo.harness.parts import Part, load_optimizer_tensors, optimizer_tensors
from zoo.harness.scoring import micro_batches
from zoo.seeds import seed_for
from zoo.tensors import Rollout


class Critic(Part):
    """D(x, y): the copied backbone and a linear score on one state of each text, which starts at random, Normal(0, 1 / H)."""

    def __init__(self, name: str, spec: Discriminator, bank: Bank, processes: Processes, clip_norm: float, axes: tuple[str | int, ...]) -> None:
        self.name, self.spec, self.pair, self.micro_tokens = name, spec, bank.pair, bank.micro_tokens
        self.processes, self.clip_norm, self.precision = processes, clip_norm, bank.precision
        # The student's head is not read, so only the backbone is copied and trained.
        self.model = copy.deepcopy(bank.pair.student).to(torch.float32).requires_grad_(True)
        self.model.get_output_embeddings().requires_grad_(self.model.config.tie_word_embeddings)
        size, device = self.model.get_output_embeddings().weight.shape[1], bank.device
        noise_H = torch.randn(size, generator=torch.Generator().manual_seed(seed_for(*axes, "discriminator", name) % 2**63))
        self.weight_H = nn.Parameter(noise_H.to(device) / size**0.5)
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=spec.learning_rate, weight_decay=0.0)
        self.figures: dict[str, float] = {}

    def parameters(self) -> list[nn.Parameter]:
        return [self.weight_H, *(p for p in self.model.parameters() if p.requires_grad)]

    def read(self, rollout: Rollout) -> Rollout:
        """The part of each text that it reads, ending in one marked token, whose state is scored."""
        low, high = self.spec.span
        written_BT = rollout.written_BT
        length_B = written_BT.sum(1)
        first_B = (low * length_B.double() + 1e-9).floor().long()
        end_B = torch.maximum((high * length_B.double() + 1e-9).floor().long(), first_B + 1).minimum(length_B)
        places_T = torch.arange(written_BT.shape[1], device=written_BT.device)
        shown_T = torch.where(places_T + first_B[:, None] < end_B[:, None], places_T + first_B[:, None], 0)
        response_BT = rollout.response_BT.gather(1, shown_T)
        last_B = (end_B - first_B - 1).clamp(min=0)
        # The state that predicts the token behind the last one has read it, so the text moves up by one place.
        width = written_BT.shape[1] + 1
        response_BT = torch.cat([response_BT, torch.full_like(response_BT[:, :1], self.pair.pad_id)], 1)
        mask_BT = (torch.arange(width, device=written_BT.device) == last_B[:, None] + 1) & (length_B > 0)[:, None]
        return replace(rollout, response_BT=response_BT, mask_BT=mask_BT)

    def scores(self, rollout: Rollout) -> Tensor:
        """D of each text, (B,), with gradient where gradients are on; 0 for an empty one. A bias would cancel in every comparison."""
        shown = self.read(rollout)
        found = torch.zeros(len(rollout), device=self.weight_H.device)
        for group in micro_batches(shown, self.micro_tokens):
            with self.precision():
                state_NH = response_hidden(self.model, [rollout.prompt_ids[i] for i in group], shown.rows(group), self.pair.pad_id)
            found = found.index_copy(0, torch.tensor(group, device=found.device), state_NH.float() @ self.weight_H)
        return found

    def learn(self, rollouts: Mapping[str, Rollout], progress: float) -> None:
        """Gather the gradient of -log sigmoid(D(x, y_real) - D(x, y_fake)), the mean over the pairs of all processes.

        Raises:
            ZooError: the two streams answer different prompts.
        """
        if any(name not in rollouts for name in self.spec.streams()):
            return
        real, fake = rollouts[self.spec.real], rollouts[self.spec.fake]
        partner = [i * len(real) // len(fake) for i in range(len(fake))]
        if [fake.prompts[i].id for i in range(len(fake))] != [real.prompts[i].id for i in partner]:
            raise ZooError(f"learners.{self.name}: streams '{self.spec.real}' and '{self.spec.fake}' answer different prompts; give them the same prompts")
        kept = [i for i in range(len(fake)) if bool(fake.mask_BT[i].any()) and bool(real.mask_BT[partner[i]].any())]
        pairs = self.processes.total_int(len(kept))
        wins = 0.0
        # A pair at a time in groups of like size keeps one micro-batch of states in memory.
        for start in range(0, len(kept), 8):
            rows = kept[start : start + 8]
            with torch.enable_grad():
                gap_B = self.scores(real.rows([partner[i] for i in rows])) - self.scores(fake.rows(rows))
                (-logsigmoid(gap_B).sum() / max(pairs, 1)).backward()
            wins += float((gap_B.detach() > 0).sum())
        self.figures = {"pairs": float(len(kept)), "told_apart": wins / max(len(kept), 1)}

    def after_step(self, metrics: Mapping[str, float]) -> None:
        grown = [p for p in self.parameters() if p.grad is not None]
        if grown:
            torch.nn.utils.clip_grad_norm_(grown, self.clip_norm)
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        own = {f"model.{name}": p.detach() for name, p in self.model.named_parameters()}
        return {"weight_H": self.weight_H.detach(), **own, **optimizer_tensors(self.optimizer)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.weight_H.copy_(state["weight_H"])
        for name, p in self.model.named_parameters():
            p.copy_(state[f"model.{name}"])
        load_optimizer_tensors(self.optimizer, state)


def make_discriminators(entry: MethodEntry, bank: Bank, processes: Processes, clip_norm: float, axes: tuple[str | int, ...]) -> dict[str, Part]:
    """The discriminators that an entry declares, registered with the bank."""
    specs = {name: spec for name, spec in entry.learners.items() if isinstance(spec, Discriminator)}
    found = {name: Critic(name, spec, bank, processes, clip_norm, axes) for name, spec in specs.items()}
    bank.discriminators.update(found)
    return {f"discriminator:{name}": critic for name, critic in found.items()}
