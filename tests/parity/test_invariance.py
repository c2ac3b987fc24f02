"""How a batch is cut, padded or ordered changes no loss and no gradient, whatever the entry: random entries on random batches.

The entries are drawn from the grammar's own schema, those that a rule refuses left out. `tests/test_every_entry.py` asks the same of
every registered entry, in the real training loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.components.compose import contexts_of, view_of
from tests.components.test_fuzz import Writer, pruned, written
from zoo.components.base import kinds
from zoo.entry import MethodEntry
from zoo.method import Method
from zoo.probe import widened
from zoo.tensors import Prompt, Rollout

V, WIDTH, GROUPS = 6, 4, (0, 0, 1, 1)
RELATIVE = 1e-5  # scales and rewards are float32
few = settings(max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


@dataclass(frozen=True)
class Batch:
    """Every stream's sequences, what each scorer says of them, and their rewards; the last axis of the logits is the vocabulary."""

    rollouts: Mapping[str, Rollout]
    models: Mapping[str, Tensor]
    rewards: Mapping[str, Tensor]
    values: Mapping[str, Tensor]

    def rows(self, index: list[int]) -> Batch:
        """Some of the sequences, in the given order."""
        tensors = ({name: tensor[index] for name, tensor in part.items()} for part in (self.models, self.rewards, self.values))
        return Batch({name: rollout.rows(index) for name, rollout in self.rollouts.items()}, *tensors)

    def padded(self, columns: int) -> Batch:
        """More padding, and other tokens, authors and numbers wherever padding is."""
        rollouts = {name: _other_padding(widened(rollout, columns)) for name, rollout in self.rollouts.items()}
        padding_BT = ~next(iter(rollouts.values())).mask_BT
        models = {name: _wider(logits, columns).masked_fill(padding_BT[..., None], 7.0) for name, logits in self.models.items()}
        values = {name: _wider(value_BT[..., None], columns)[..., 0].masked_fill(padding_BT, 50.0) for name, value_BT in self.values.items()}
        return Batch(rollouts, models, self.rewards, values)


def _wider(tensor_BTV: Tensor, columns: int) -> Tensor:
    return torch.nn.functional.pad(tensor_BTV, (0, 0, 0, columns))


def _other_padding(rollout: Rollout) -> Rollout:
    padding_BT = ~rollout.mask_BT
    return replace(
        rollout,
        response_BT=torch.where(padding_BT, (rollout.response_BT + 1) % V, rollout.response_BT),
        author_BT=torch.where(padding_BT, 1 - rollout.author_BT.clamp(max=1), rollout.author_BT),
        behaviour_logp_BT=rollout.behaviour_logp_BT.masked_fill(padding_BT, -3.0),
        student_logp_BT=rollout.student_logp_BT.masked_fill(padding_BT, -3.0),
    )


def entry_from(seed: int) -> MethodEntry:
    """The first legal entry from a seed on: about one in seven is."""
    while True:
        entry, problems = pruned(Writer(seed).entry())
        if entry is not None and not problems:
            return entry
        seed += 1


def batch_for(entry: MethodEntry, seed: int, lengths: tuple[int, ...]) -> Batch:
    """Four answers to two prompts, of any lengths, in each of the entry's streams."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    count = len(GROUPS)
    whole = Rollout(
        prompts=tuple(Prompt(str(group), "") for group in GROUPS),
        prompt_ids=((1,),) * count,
        response_BT=torch.randint(V, (count, WIDTH), generator=generator),
        mask_BT=torch.arange(WIDTH) < torch.tensor(lengths)[:, None],
        author_BT=torch.randint(3, (count, WIDTH), generator=generator),
        behaviour_logp_BT=-normal(count, WIDTH).abs() - 0.1,
        student_logp_BT=-normal(count, WIDTH).abs() - 0.1,
        group_B=torch.tensor(GROUPS),
        finished_B=torch.tensor([True, False, True, True]),
    )
    return Batch(
        {name: written(stream, whole) for name, stream in entry.rollouts.items()},
        {name: 1.3 * normal(count, WIDTH, V) for name in ("student", "reference", *entry.teachers)},
        {name: torch.randint(2, (count,), generator=generator).double() for name in entry.rewards},
        {name: normal(count, WIDTH) for name in entry.learners},
    )


def gradient(method: Method, batch: Batch, tokens: int = 10**6, sequences: int = 10**6) -> tuple[float, Tensor]:
    """One step's loss and its gradient in the student's logits: denominators first, then a few sequences and tokens at a time."""
    read = {name for s in batch.rollouts for name in (*method.update_scorers(s), *method.annotation_scorers(s))} | {"student"}
    models = {name: batch.models[name] for name in read}
    prepared = method.prepare(contexts_of(method, batch.rollouts, models, batch.rewards, batch.values))
    leaf, value = models["student"].clone().requires_grad_(), 0.0
    for name, rollout in batch.rollouts.items():
        parts = [part for part in prepared if part.stream == name]
        place_N = rollout.mask_BT.flatten().nonzero()[:, 0]
        for first in range(0, len(rollout), sequences) if parts else ():
            inside = slice(int(rollout.mask_BT[:first].sum()), int(rollout.mask_BT[: first + sequences].sum()))
            for start in range(inside.start, inside.stop, tokens):
                piece = slice(start, min(start + tokens, inside.stop))
                view = view_of(method, rollout, {**models, "student": leaf}, piece, batch.values)
                loss, _ = method.chunk_loss(parts, view, lambda column_BT, at_N=place_N[piece]: column_BT.flatten()[at_N])  # type: ignore[misc]
                if loss.requires_grad:
                    loss.backward()  # type: ignore[no-untyped-call]
                value += float(loss.detach())
    return value, torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def assert_close(one: tuple[float, Tensor], other: tuple[float, Tensor]) -> None:
    scale = max(float(one[1].abs().max()), 1e-6)
    assert math.isfinite(one[0]) and math.isclose(one[0], other[0], rel_tol=RELATIVE, abs_tol=RELATIVE * scale)
    torch.testing.assert_close(other[1], one[1], rtol=0, atol=RELATIVE * scale)


def case(test: Callable[..., None]) -> Callable[..., None]:
    """A property of a random entry on a random batch at a random place of its run."""
    arguments = {
        "seed": st.integers(0, 10**6),
        "lengths": st.tuples(*(st.integers(1, WIDTH) for _ in GROUPS)),
        "progress": st.sampled_from((0.0, 0.5, 1.0)),
    }
    return few(given(**arguments)(test))  # type: ignore[no-any-return]


@case
def test_micro_batches_and_chunks(seed: int, lengths: tuple[int, ...], progress: float) -> None:
    entry = entry_from(seed)
    method, batch = Method(entry, progress), batch_for(entry, seed, lengths)
    whole = gradient(method, batch)
    assert_close(whole, gradient(method, batch, sequences=1))
    assert_close(whole, gradient(method, batch, tokens=1 + seed % 3))


@case
def test_padding(seed: int, lengths: tuple[int, ...], progress: float) -> None:
    entry = entry_from(seed)
    method, batch = Method(entry, progress), batch_for(entry, seed, lengths)
    value, wide_BTV = gradient(method, batch.padded(3))
    assert not wide_BTV[:, WIDTH:].any()
    assert_close(gradient(method, batch), (value, wide_BTV[:, :WIDTH]))


@case
def test_order_of_the_sequences(seed: int, lengths: tuple[int, ...], progress: float) -> None:
    entry, order = entry_from(seed), [2, 0, 3, 1]
    method, batch = Method(entry, progress), batch_for(entry, seed, lengths)
    value, gradient_BTV = gradient(method, batch)
    assert_close((value, gradient_BTV[order]), gradient(method, batch.rows(order)))


def test_a_random_entry_can_be_of_any_kind_of_term() -> None:
    """The properties would hold of entries that do nothing, so what is drawn is counted."""
    drawn = [entry_from(seed * 977) for seed in range(60)]
    assert {getattr(term, term.tag) for entry in drawn for term in entry.objective} == set(kinds("term"))
    moving = [gradient(Method(entry, 0.5), batch_for(entry, 3, (4, 2, 3, 1)))[1] for entry in drawn]
    assert sum(bool(found.any()) for found in moving) >= 30
