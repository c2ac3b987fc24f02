"""The step of TRPO: conjugate gradients on products with the Fisher information, and a search along what they found."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.autograd.forward_ad as forward
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from zoo.components.updates import TrustRegion
from zoo.harness.moves import Losses, Mover, descend
from zoo.harness.scoring import Bank, Scored, chunk_view, chunks, chunks_of, hidden_states, micro_batches
from zoo.method import Method, Prepared
from zoo.tensors import Rollout

if TYPE_CHECKING:
    from zoo.harness.train import Trainer

BEFORE = "before the step"  # the student's states there, beside those of the scorers
PRODUCT, TRIAL = 10.0, 2.0  # floating-point operations for each weight and token: three passes and a backward one; one pass
ENOUGH = 1e-10  # squared residual over that of the start, at which conjugate gradients stop


class States(nn.Module):
    """The student's states as a function of its weights."""

    def __init__(self, bank: Bank) -> None:
        super().__init__()
        self.student, self.bank = bank.models["student"], bank

    def forward(self, rollout: Rollout) -> Tensor:
        """(N, H) at the supervised tokens."""
        return self.bank.hidden("student", rollout)[:, : self.bank.width("student")]


class Fisher:
    """F v = (1/N) sum_n J_n^T (diag(p_n) - p_n p_n^T) J_n v over the supervised tokens of some sequences, J_n the Jacobian of the logits: the Hessian
    of the mean KL(p_old || p) at p = p_old. J v is a derivative taken forward, the rest one backward pass, chunk by chunk."""

    def __init__(self, bank: Bank, rollouts: Sequence[Rollout], parameters: Sequence[nn.Parameter], tokens: int) -> None:
        self.bank, self.rollouts, self.parameters, self.tokens = bank, rollouts, parameters, max(tokens, 1)
        self.states = States(bank)
        self.head: nn.Module = bank.models["student"].get_output_embeddings()

    def gather(self, vector: Tensor) -> None:
        """Put F v, of this process's sequences, where gradients are."""
        tangents = {id(p): piece.view_as(p) for p, piece in zip(self.parameters, vector.split([p.numel() for p in self.parameters]), strict=True)}
        for p in self.parameters:
            p.grad = None
        for rollout in self.rollouts:
            for group in micro_batches(rollout, self.bank.micro_tokens):
                self._micro_batch(rollout.rows(group), tangents)

    def _micro_batch(self, rollout: Rollout, tangents: Mapping[int, Tensor]) -> None:
        with forward.dual_level(), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no forward derivative
            _, moved_NH = unpacked(functional_call(self.states, dual(self.states, tangents), (rollout,)))
        hidden_NH = self.states(rollout)
        leaf_NH = hidden_NH.detach().requires_grad_()
        for chunk in chunks(len(leaf_NH), self.bank.chunk_tokens):
            with forward.dual_level(), torch.no_grad():
                given_NH = forward.make_dual(leaf_NH.detach()[chunk], moved_NH[chunk])
                logits_NV, change_NV = unpacked(functional_call(self.head, dual(self.head, tangents), (given_NH,)))
            p_NV = wide(self._cut(logits_NV)).softmax(-1)
            change_NV = wide(self._cut(change_NV))
            pull_NV = p_NV * (change_NV - (p_NV * change_NV).sum(-1, keepdim=True)) / self.tokens
            (wide(self._cut(self.head(leaf_NH[chunk]))) * pull_NV).sum().backward()
        hidden_NH.backward(leaf_NH.grad)

    def _cut(self, logits_NV: Tensor) -> Tensor:
        return logits_NV[:, : self.bank.pair.vocab_size]


def dual(module: nn.Module, tangents: Mapping[int, Tensor]) -> dict[str, Tensor]:
    """A module's parameters, those with a tangent moving along it."""
    return {name: forward.make_dual(p, tangents[id(p)]) if id(p) in tangents else p for name, p in module.named_parameters()}


def unpacked(moving: Tensor) -> tuple[Tensor, Tensor]:
    """A value and its derivative."""
    value, tangent = forward.unpack_dual(moving)
    return value, torch.zeros_like(value) if tangent is None else tangent


def wide(tensor: Tensor) -> Tensor:
    """In fp32 at least."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def inner(a: Tensor, b: Tensor) -> float:
    """Their inner product, summed in float64."""
    return float((a.double() * b.double()).sum())


def conjugate_gradients(product: Callable[[Tensor], Tensor], target: Tensor, iterations: int) -> Tensor:
    """x with A x near `target`, for a symmetric positive A known by its products (Hestenes and Stiefel)."""
    found, rest = torch.zeros_like(target), target.clone()
    direction, square = rest.clone(), inner(rest, rest)
    first = square
    for _ in range(iterations):
        if square <= ENOUGH * first:
            break
        along = product(direction)
        curvature = inner(direction, along)
        if curvature <= 0.0:
            break
        found.add_(direction, alpha=square / curvature)
        rest.sub_(along, alpha=square / curvature)
        square, before = inner(rest, rest), square
        direction.mul_(square / before).add_(rest)
    return found


class TrustRegionMover(Mover):
    """Steps of `zoo.components.updates.TrustRegion`."""

    def __init__(self, trainer: Trainer, spec: TrustRegion) -> None:
        super().__init__(trainer)
        self.spec = spec
        self.batch: tuple[Method, dict[str, Scored], Sequence[Prepared]] | None = None
        self.row: dict[str, float] = {}

    def gather(self, method: Method, scored: Mapping[str, Scored], prepared: Sequence[Prepared]) -> Losses:
        read = {p.stream for p in prepared}
        self.batch = method, {name: part for name, part in scored.items() if name in read}, prepared
        return descend(method, self.trainer, scored, prepared)

    def step(self) -> None:
        assert self.batch is not None
        parameters, bank, batch = self.trainer.trained, self.trainer.bank, self.batch[1]
        rollouts = [part.context.rollout for part in batch.values()]
        tokens = self.trainer.processes.total_int(sum(rollout.tokens for rollout in rollouts))
        gradient = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
        self.row = {"kl": 0.0, "step_share": 0.0}
        if not bool(gradient.any()):
            return
        products = 0

        def product(vector: Tensor) -> Tensor:
            nonlocal products
            products += 1
            fisher.gather(vector)
            self.trainer.processes.sum_gradients(parameters)
            pulled = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
            return torch.cat([pull.flatten() for pull in pulled]).add_(vector, alpha=self.spec.damping)

        fisher = Fisher(bank, rollouts, parameters, tokens)
        direction = conjugate_gradients(product, gradient, self.spec.iterations)
        curvature = inner(direction, product(direction))
        trials = self._search(direction.mul_((2.0 * self.spec.kl / curvature) ** 0.5), tokens) if curvature > 0.0 else 0
        self.trainer.spent.flops_estimate += (PRODUCT * products + TRIAL * trials) * self.trainer.parameters * tokens
        self.batch = None

    @torch.no_grad()
    def _search(self, longest: Tensor, tokens: int) -> int:
        """Go as far as the bound and the loss allow; returns how often both were measured."""
        assert self.batch is not None
        method, scored, prepared = self.batch
        bank, parameters = self.trainer.bank, self.trainer.trained
        head = copy.deepcopy(bank.models["student"].get_output_embeddings())
        kept = {n: Scored(s.context, {**s.hidden, BEFORE: hidden_states(bank, ["student"], s.context.rollout)["student"]}) for n, s in scored.items()}
        start = [p.detach().clone() for p in parameters]
        strides = [piece.view_as(p) for p, piece in zip(parameters, longest.split([p.numel() for p in parameters]), strict=True)]
        measure = partial(self._measured, method, kept, prepared, head, tokens)
        before, _ = measure()
        for trial in range(self.spec.backtracks):
            share = self.spec.shrink**trial
            for p, origin, stride in zip(parameters, start, strides, strict=True):
                p.copy_(origin - share * stride)
            loss, kl = measure()
            if loss < before and kl <= self.spec.kl:
                self.row = {"kl": kl, "step_share": share}
                return trial + 2
        for p, origin in zip(parameters, start, strict=True):
            p.copy_(origin)
        return self.spec.backtracks + 1

    def _measured(self, method: Method, scored: Mapping[str, Scored], prepared: Sequence[Prepared], head: nn.Module, tokens: int) -> tuple[float, float]:
        """The loss, and the mean KL(p_old || p), of the global batch."""
        found = torch.zeros(2, dtype=torch.float64, device=self.trainer.bank.device)
        for name, part in scored.items():
            mine = [p for p in prepared if p.stream == name]
            for loss, kl in _pieces(method, self.trainer.bank, part, mine, head):
                found += torch.stack([loss.double(), kl.double()])
        loss, kl = self.trainer.processes.total(found).tolist()
        return loss, kl / max(tokens, 1)

    def figures(self) -> dict[str, float]:
        return self.row


def _pieces(method: Method, bank: Bank, scored: Scored, parts: Sequence[Prepared], head: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """Each chunk's loss and its sum of KL(p_old || p)."""
    for group in micro_batches(scored.context.rollout, bank.micro_tokens):
        piece, rows = scored.rows(group), [part.rows(group) for part in parts]
        rollout = piece.context.rollout
        with bank.precision():
            hidden_NH = bank.hidden("student", rollout)
        place_N = rollout.mask_BT.flatten().nonzero()[:, 0]
        others: dict[str, Any] = {name: states for name, states in piece.hidden.items() if name != BEFORE}
        token_N = rollout.response_BT[rollout.mask_BT]
        for chunk in chunks_of(len(token_N), bank.chunk_tokens, others):
            view = chunk_view(method, bank, token_N[chunk], {"student": hidden_NH[chunk], **{name: h[chunk] for name, h in others.items()}})
            loss, _ = method.chunk_loss(rows, view, partial(_pick, place_N[chunk]))
            with bank.precision():
                logits_NV = head(piece.hidden[BEFORE][chunk][:, : bank.width("student")])[:, : bank.pair.vocab_size]
            old_NV = wide(logits_NV).log_softmax(-1)
            yield loss, (old_NV.exp() * (old_NV - view.logp_NV("student"))).sum()


def _pick(place_N: Tensor, value_BT: Tensor) -> Tensor:
    return value_BT.flatten()[place_N]
