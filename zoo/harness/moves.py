"""How a step is taken: how the gradient of a batch is gathered, what is added to it, and what follows the optimizer's own step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoo.components.updates import Anchor, Extrapolate, FisherAnchor, MatchNorm, Merge, Move, PrivateStep, Restart
from zoo.errors import ZooError
from zoo.harness.bank import LEARNER
from zoo.harness.likelihoods import likelihood_squares
from zoo.harness.parts import Part
from zoo.harness.privacy import Accountant
from zoo.harness.scoring import Scored, backward
from zoo.method import Method, Prepared
from zoo.seeds import seed_for

if TYPE_CHECKING:
    from zoo.harness.train import Trainer

Losses = dict[int, Tensor]


def descend(method: Method, trainer: Trainer, scored: Mapping[str, Scored], prepared: Sequence[Prepared]) -> Losses:
    """Add the gradient of all terms to the student's parameters; returns each term's loss."""
    values: Losses = {}
    for name, part in scored.items():
        mine = [p for p in prepared if p.stream == name]
        for p, loss in zip(mine, backward(method, trainer.bank, part, mine) if mine else [], strict=True):
            own = loss if p.value is None else p.value
            if p.value is not None or not method.entry.objective[p.term].live:
                values[p.term] = values.get(p.term, torch.zeros_like(loss)) + own
    return values


class Mover(Part):
    """The optimizer's own step on the gradient of all terms together."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def gather(self, method: Method, scored: Mapping[str, Scored], prepared: Sequence[Prepared]) -> Losses:
        """Fill the gradients of this process's sequences; returns each term's loss."""
        return descend(method, self.trainer, scored, prepared)

    def finish(self, parameters: Sequence[nn.Parameter]) -> None:
        """Change the gradients once they are summed over the processes, before the clip."""

    def step(self) -> None:
        """Move the parameters."""
        self.trainer.optimizer.step()

    def figures(self) -> dict[str, float]:
        """What a step's row says beside the usual."""
        return {}


class PrivateMover(Mover):
    """DP-SGD: one sequence at a time, clipped, and noise for the batch; see `zoo.components.updates.PrivateStep`."""

    def __init__(self, trainer: Trainer, spec: PrivateStep) -> None:
        super().__init__(trainer)
        self.spec, self.sequences = spec, 1
        self.accountant = None if spec.delta is None else Accountant(spec.noise, spec.delta)

    def gather(self, method: Method, scored: Mapping[str, Scored], prepared: Sequence[Prepared]) -> Losses:
        parameters = self.trainer.trained
        self.sequences = self.trainer.processes.total_int(sum(len(part.context.rollout) for part in scored.values()))
        kept = [torch.zeros_like(p) for p in parameters]
        values: Losses = {}
        for name, part in scored.items():
            mine = [p for p in prepared if p.stream == name]
            for i in range(len(part.context.rollout) if mine else 0):
                for index, loss in descend(method, self.trainer, {name: part.rows([i])}, [p.rows([i]) for p in mine]).items():
                    values[index] = values.get(index, torch.zeros_like(loss)) + loss
                norm = torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in parameters if p.grad is not None] or [torch.zeros(())]))
                share = min(1.0, self.spec.clip / max(self.sequences * float(norm), 1e-30))
                for total, p in zip(kept, parameters, strict=True):
                    if p.grad is not None:
                        total.add_(p.grad, alpha=share)
                        p.grad = None
        for total, p in zip(kept, parameters, strict=True):
            p.grad = total
        return values

    def finish(self, parameters: Sequence[nn.Parameter]) -> None:
        axes = (self.trainer.comparison.id, self.trainer.seed, "noise", self.trainer.spent.steps)
        generator = torch.Generator().manual_seed(seed_for(*axes))
        deviation = self.spec.noise * self.spec.clip / self.sequences
        for p in parameters:
            assert p.grad is not None
            noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            p.grad.add_(noise.to(p.grad), alpha=deviation)

    def after_step(self, metrics: Mapping[str, float]) -> None:
        if self.accountant is not None:
            self.accountant.count(min(self.sequences / len(self.trainer.prompts), 1.0))

    def figures(self) -> dict[str, float]:
        return {} if self.accountant is None else {"epsilon": self.accountant.epsilon()}

    def state_dict(self) -> dict[str, Any]:
        return {} if self.accountant is None else {"history": self.accountant.history}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.accountant is not None:
            self.accountant.history = [tuple(item) for item in state["history"]]


class NormMover(Mover):
    """The whole gradient at the norm of one term's part."""

    def __init__(self, trainer: Trainer, spec: MatchNorm) -> None:
        super().__init__(trainer)
        self.spec = spec
        self.own: list[Tensor] = []

    def gather(self, method: Method, scored: Mapping[str, Scored], prepared: Sequence[Prepared]) -> Losses:
        first = [p for p in prepared if p.term == self.spec.to]
        values = descend(method, self.trainer, scored, first)
        self.own = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in self.trainer.trained]
        rest = [p for p in prepared if p.term != self.spec.to]
        return {**values, **(descend(method, self.trainer, scored, rest) if rest else {})}

    def finish(self, parameters: Sequence[nn.Parameter]) -> None:
        total = self.trainer.processes.total
        own, whole = _norm([total(g) for g in self.own]), _norm([p.grad for p in parameters if p.grad is not None])
        if own > 0.0 and whole > 0.0:
            for p in parameters:
                if p.grad is not None:
                    p.grad.mul_(own / whole)
        self.own = []


class Foreseeing(Mover):
    """EffOPD's search along the direction of travel; see `zoo.components.updates.Extrapolate`."""

    def __init__(self, trainer: Trainer, spec: Extrapolate) -> None:
        super().__init__(trainer)
        self.spec = spec
        student = trainer.pair.student
        outer = {id(student.get_input_embeddings().weight), id(student.get_output_embeddings().weight)}
        self.matrices = {name: p for name, p in student.named_parameters() if p.ndim == 2 and id(p) not in outer}
        self.base = {name: p.detach().clone() for name, p in self.matrices.items()}

    @torch.no_grad()
    def after_step(self, metrics: Mapping[str, float]) -> None:
        steps = int(metrics["step"])
        if steps & (steps - 1):
            return
        best, factor = self._score(), self.spec.factor
        for _ in range(self.spec.trials):
            here = {name: p.detach().clone() for name, p in self.matrices.items()}
            for name, p in self.matrices.items():
                p.add_(p - self.base[name], alpha=factor)
            score = self._score()
            if score <= best:
                for name, p in self.matrices.items():
                    p.copy_(here[name])
                break
            best, factor = score, factor / (1.0 + factor)
        for name, p in self.matrices.items():
            self.base[name].copy_(p)

    def _score(self) -> float:
        return self.trainer.validation_score(self.spec.check, self.spec.prompts)

    def state_dict(self) -> dict[str, Any]:
        return dict(self.base)

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, value in self.base.items():
            value.copy_(state[name])


class Merging(Mover):
    """The mean with branches of the same start, after the last step; see `zoo.components.updates.Merge`. Parts step in the order of the trainer's
    list, in which learners stand before the mover."""

    def __init__(self, trainer: Trainer, spec: Merge) -> None:
        super().__init__(trainer)
        self.branches = [trainer.bank.models[f"{LEARNER}{name}"] for name in spec.of]

    @torch.no_grad()
    def after_step(self, metrics: Mapping[str, float]) -> None:
        if metrics["progress"] < 1.0:
            return
        for p, *others in zip(self.trainer.pair.student.parameters(), *(branch.parameters() for branch in self.branches), strict=True):
            p.copy_(torch.stack([p, *(other.to(p.dtype) for other in others)]).mean(0))


class Restarting(Mover):
    """From the initial weights once more; see `zoo.components.updates.Restart`."""

    def __init__(self, trainer: Trainer, spec: Restart) -> None:
        super().__init__(trainer)
        self.spec, self.restarted = spec, False

    @torch.no_grad()
    def after_step(self, metrics: Mapping[str, float]) -> None:
        if self.restarted or metrics["progress"] < self.spec.at:
            return
        self.trainer.pair.student.load_state_dict(self.trainer.pair.initial, strict=False)
        self.trainer.optimizer.state.clear()
        self.restarted = True

    def state_dict(self) -> dict[str, Any]:
        return {"restarted": self.restarted}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.restarted = bool(state["restarted"])


def mover_of(move: Move | None, trainer: Trainer) -> Mover:
    """How steps are taken."""
    if isinstance(move, Merge):
        return Merging(trainer, move)
    if isinstance(move, Restart):
        return Restarting(trainer, move)
    if isinstance(move, PrivateStep):
        return PrivateMover(trainer, move)
    if isinstance(move, MatchNorm):
        return NormMover(trainer, move)
    if isinstance(move, Extrapolate):
        return Foreseeing(trainer, move)
    if move is not None:
        raise ZooError(f"update.step {move.kind} has no implementation in the training loop")  # type: ignore[attr-defined]
    return Mover(trainer)


class Pull:
    """The gradient of an anchor, added to that of the objective. It depends on the initial student alone, so there is nothing to save."""

    def __init__(self, anchor: Anchor, trainer: Trainer) -> None:
        self.strength = anchor.strength
        named = {name: p for name, p in trainer.pair.student.named_parameters() if p.requires_grad}
        self.held = [(p, p.detach().clone()) for p in named.values()]
        self.fisher = None
        if isinstance(anchor, FisherAnchor):
            axes = (trainer.comparison.id, trainer.seed, "fisher")
            written = trainer.sampled(trainer.processes.share(trainer.prompts[: anchor.samples]), axes)
            squares = likelihood_squares(trainer.bank, written, [p for p, _ in self.held])
            count = trainer.processes.total_int(len(written))
            self.fisher = [trainer.processes.total(square) / count for square in squares]

    @torch.no_grad()
    def add(self) -> None:
        """Add strength F (theta - theta_0)."""
        for index, (p, start) in enumerate(self.held):
            pull = p - start if self.fisher is None else self.fisher[index] * (p - start)
            p.grad = pull.mul_(self.strength) if p.grad is None else p.grad.add_(pull, alpha=self.strength)


def _norm(tensors: Sequence[Tensor]) -> float:
    return float(torch.linalg.vector_norm(torch.stack([t.norm() for t in tensors])))
