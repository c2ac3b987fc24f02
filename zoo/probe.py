"""What an entry does on the micro pair: two steps of the real loop on a CPU, and where its gradient goes.

The gradient is the one that the loop moves the weights by, caught there, so that what is checked is what runs.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.bench import BATCHES, SPLIT, Bench, Place
from zoo.compat import pair_problems
from zoo.components.base import extremes
from zoo.entry import MethodEntry
from zoo.harness.models import LoadedPair
from zoo.harness.train import Diverged, Trainer
from zoo.method import Method
from zoo.tensors import Author, Rollout

PROGRESS = (0.0, 0.5, 0.95)
RELATIVE = 1e-5
GROWN = "lora_B"  # the factor of an adapter that starts at 0, so that the other one has no gradient yet

Outcome = Literal["pass", "fail", "skip"]
Gradient = dict[str, Tensor]


@dataclass(frozen=True)
class Finding:
    """One thing that was checked, how it went, and why."""

    check: str
    outcome: Outcome
    detail: str


@dataclass(frozen=True)
class Caught:
    """The gradient of one step by parameter, and the share of supervised tokens that each term acts on."""

    gradient: Gradient
    acts: dict[int, float]

    @property
    def norm(self) -> float:
        """Its Euclidean length."""
        return math.sqrt(sum(float(g.double().square().sum()) for g in self.gradient.values()))


def catch(trainer: Trainer, change: Callable[[Rollout], Rollout] | None = None) -> Caught:
    """The gradient of one whole batch at the trainer's place in the run; `change` may alter what was written."""
    method = Method(trainer.entry, trainer.progress)
    streams = trainer.write(method)
    scored = trainer.judge(method, {name: change(rollout) if change else rollout for name, rollout in streams.items()})
    gradient: Gradient = {}

    def keep() -> None:
        for name, parameter in trainer.pair.student.named_parameters():
            gradient[name] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()

    before_moving(trainer, keep)
    acts: dict[int, float] = {}
    for part in method.prepare({name: batch.context for name, batch in scored.items()}):
        acts[part.term] = max(acts.get(part.term, 0.0), int((part.scale_BT != 0).sum()) / max(scored[part.stream].context.rollout.tokens, 1))
    trainer.step(method, scored)
    return Caught(gradient, acts)


def before_moving(trainer: Trainer, look: Callable[[], None]) -> None:
    """Look at the gradients of every step from now on, when they are whole and nothing has moved."""
    move = trainer.mover.step

    def looked() -> None:
        look()
        move()

    trainer.mover.step = looked  # type: ignore[method-assign]


def idle(entry: MethodEntry) -> bool:
    """Whether every term's coefficient is 0, as the anchor `no_op` has it."""
    return all(extremes(term.coefficient) == (0.0, 0.0) for term in entry.objective)


def misfits(entry: MethodEntry, pair: LoadedPair) -> list[str]:
    """What the micro pair lacks for an entry."""
    fields = pair.task.prompts("train")[0].fields
    return pair_problems(
        entry,
        templates=pair.spec.contexts,
        fields=fields,
        teachers=pair.spec.teachers,
        checks=pair.task.checks,
        same_vocabulary=pair.same_vocabulary,
        turns=pair.spec.turns,
        task=pair.task,
    )


def steps(entry: MethodEntry, bench: Bench) -> list[Finding]:
    """Two iterations of the loop: finite, teachers untouched, the student moves everywhere unless the loss is 0, and again the same."""
    trainer = bench.trainer(entry)
    frozen = {**bench.pair.teachers, **{name: m for name, m in trainer.bank.models.items() if name == "initial"}}
    before = {name: digest(model) for name, model in frozen.items()}
    rows, first, reached = [], "", _reached(trainer)
    try:
        for _ in range(2):
            rows += list(trainer.iterate())
            trainer.iteration += 1
            first = first or digest(bench.pair.student)
    except Diverged as error:
        return [Finding("two steps", "fail", str(error))]
    tokens = sum(row["tokens"] for row in rows)
    found = [Finding("two steps", "pass", f"{len(rows)} optimizer steps on {tokens} tokens; {_losses(rows[-1])}, gradient norm {rows[-1]['grad_norm']:.3g}")]
    return [*found, _untouched(frozen, before), _moved(entry, bench.pair, reached), _repeated(entry, bench, first)]


def _reached(trainer: Trainer) -> set[str]:
    """Names of the student's parameters that a gradient has reached, filled in at every step from now on."""
    found: set[str] = set()

    def note() -> None:
        found.update(name for name, p in trainer.pair.student.named_parameters() if p.grad is not None and bool(p.grad.any()))

    before_moving(trainer, note)
    return found


def _repeated(entry: MethodEntry, bench: Bench, first: str) -> Finding:
    """The first iteration once more, from the initial weights and the same seed."""
    list(bench.trainer(entry).iterate())
    if digest(bench.pair.student) == first:
        return Finding("same seed", "pass", "the first iteration again: every bit of the student's weights is the same")
    return Finding("same seed", "fail", "the first iteration again: other weights; draw all randomness from the run's named axes")


def _losses(row: Mapping[str, Any]) -> str:
    found = [f"{key.split('.', 2)[2]} {value:.4g}" for key, value in row.items() if key.startswith("loss.")]
    return "loss " + ", ".join(found) if found else "no term was active"


def _untouched(frozen: Mapping[str, Any], before: Mapping[str, str]) -> Finding:
    changed = [name for name, model in frozen.items() if digest(model) != before[name]]
    reached = [name for name, model in frozen.items() if any(p.grad is not None for p in model.parameters())]
    if changed or reached:
        what = f"weights of {', '.join(changed)} changed" if changed else f"a gradient reached {', '.join(reached)}"
        return Finding("teacher", "fail", f"{what}; scorers other than the student are frozen")
    return Finding("teacher", "pass", f"weights of {', '.join(frozen)} unchanged, no gradient there")


def _moved(entry: MethodEntry, pair: LoadedPair, reached: set[str]) -> Finding:
    now = pair.student.state_dict()
    changed = [name for name, start in pair.initial.items() if name in now and not torch.equal(now[name], start)]
    changed += [name for name, value in now.items() if GROWN in name and bool(value.any())]
    if not all(bool(torch.isfinite(value).all()) for value in now.values()):
        return Finding("student", "fail", "its weights are not finite after two steps; bound the signal (shaping: clip)")
    if idle(entry) and entry.anchor:
        detail = f"moved although every coefficient is 0: {', '.join(changed)}" if changed else "every coefficient is 0, and no bit of its weights changed"
        return Finding("student", "fail" if changed else "pass", detail)
    idle_ones = [name for name, p in pair.student.named_parameters() if p.requires_grad and name not in reached and name not in changed]
    if changed and idle_ones:
        return Finding("student", "fail", f"no gradient reached {', '.join(idle_ones)} in two steps")
    detail = f"{len(changed)} of {len(now)} weights moved" if changed else "no weight moved: the signal is 0; look at gates, rewards and coefficients"
    return Finding("student", "pass" if changed else "fail", detail)


def digest(model: Any) -> str:
    """sha256 of a model's weights."""
    found = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        found.update(name.encode() + value.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def gradients(entry: MethodEntry, bench: Bench) -> list[Finding]:
    """Where the gradient goes: to every parameter, from supervised tokens only, and the same however the batch is split."""
    caught, at = _first(entry, bench)
    if idle(entry) and entry.anchor:
        return [Finding("gradient", "fail" if caught.norm else "pass", f"norm {caught.norm:.3g}; every coefficient is 0")]
    if not caught.norm:
        return [Finding("gradient", "fail", f"0 on {BATCHES} batches at {len(PROGRESS)} places of the run: no signal; look at gates, rewards, coefficients")]
    adapted = getattr(entry.update, "adapter", None) is not None
    missing = [name for name, g in caught.gradient.items() if not g.any() and (GROWN in name or not adapted)]
    acts = ", ".join(f"objective[{i}] {share:.0%}" for i, share in sorted(caught.acts.items()))
    detail = f"none at {', '.join(missing)}" if missing else f"at all {len(caught.gradient)} parameters; tokens acted on: {acts}"
    return [Finding("gradient", "fail" if missing else "pass", detail), _padding(entry, bench, caught, at), _splitting(entry, bench, caught, at)]


def _first(entry: MethodEntry, bench: Bench) -> tuple[Caught, Place]:
    """The first batch on which there is a gradient, and how to write it again. Terms may begin late, and rewards may all be equal."""
    for progress in PROGRESS:
        for iteration in range(BATCHES):
            at = Place(progress, iteration)
            caught = catch(bench.trainer(entry, at))
            if caught.norm or idle(entry):
                return caught, at
    return caught, at


def _padding(entry: MethodEntry, bench: Bench, caught: Caught, at: Place) -> Finding:
    other = catch(bench.trainer(entry, at), scrambled)
    same = all(torch.equal(g, other.gradient[name]) for name, g in caught.gradient.items())
    wide = difference(caught.gradient, catch(bench.trainer(entry, at), widened).gradient)
    if not same:
        return Finding("padding", "fail", f"other tokens in the padding change the gradient by {difference(caught.gradient, other.gradient):.1e} relative")
    outcome: Outcome = "pass" if wide <= RELATIVE else "fail"
    return Finding("padding", outcome, f"other tokens there change no bit of the gradient; five more columns change it by {wide:.1e} relative")


def _splitting(entry: MethodEntry, bench: Bench, caught: Caught, at: Place) -> Finding:
    off = difference(caught.gradient, catch(bench.trainer(entry, at, SPLIT)).gradient)
    outcome: Outcome = "pass" if off <= RELATIVE else "fail"
    return Finding("micro-batches", outcome, f"row by row, {SPLIT[1]} tokens at a time: the gradient differs by {off:.1e} relative")


def difference(one: Gradient, other: Gradient) -> float:
    """Length of the difference over the length of the first."""
    apart = sum(float((g - other[name]).double().square().sum()) for name, g in one.items())
    return math.sqrt(apart / sum(float(g.double().square().sum()) for g in one.values()))


def scrambled(rollout: Rollout) -> Rollout:
    """Other tokens, authors and log-probabilities behind each response's last supervised token, and what an environment said to that."""
    behind_BT = ~rollout.written_BT & (rollout.author_BT != int(Author.ENVIRONMENT))
    token_BT = torch.where(behind_BT, (rollout.response_BT + 7) % 40, rollout.response_BT)
    author_BT = torch.where(behind_BT, 1 - rollout.author_BT.clamp(max=1), rollout.author_BT)
    behaviour_BT = rollout.behaviour_logp_BT.masked_fill(behind_BT, -3.0)
    student_BT = rollout.student_logp_BT.masked_fill(behind_BT, -3.0)
    return replace(rollout, response_BT=token_BT, author_BT=author_BT, behaviour_logp_BT=behaviour_BT, student_logp_BT=student_BT)


def widened(rollout: Rollout, columns: int = 5) -> Rollout:
    """More padding on the right."""
    names = [name for name, value in vars(rollout).items() if isinstance(value, Tensor) and name.endswith("_BT")]
    wider: dict[str, Any] = {name: torch.nn.functional.pad(getattr(rollout, name), (0, columns)) for name in names}
    return replace(rollout, **wider)
