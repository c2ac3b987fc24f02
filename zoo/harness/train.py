"""The training loop of every method: write, judge, take steps, until the budget is spent."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from zoo.components.rollouts import Corpus, Dataset, Stream, Student, in_order
from zoo.entry import MethodEntry
from zoo.errors import ZooError
from zoo.failures.probes.looking import Looks
from zoo.harness.accounts import Accounts
from zoo.harness.comparison import Comparison
from zoo.harness.diagnose import Diagnosis
from zoo.harness.engine import ReferenceEngine
from zoo.harness.lag import ITERATIONS, lag0
from zoo.harness.leakage import leakage
from zoo.harness.ledger import Diverged, Phases, Spent, measures_of, row_of
from zoo.harness.likelihoods import cross_entropy
from zoo.harness.models import LoadedPair
from zoo.harness.moves import Mover, Pull
from zoo.harness.parallel import Processes
from zoo.harness.parts import VALIDATION_LOSS, Part
from zoo.harness.prompts import Drawn, prompts_written
from zoo.harness.remembered import Remembered
from zoo.harness.replay import ReplayBuffer
from zoo.harness.scoring import Bank, Scored, refreshed, score, verified
from zoo.harness.sharding import clip
from zoo.harness.state import Measured
from zoo.method import Method
from zoo.tensors import Prompt, Rollout

__all__ = ["Diverged", "Report", "Trainer"]

Report = Callable[[dict[str, Any]], None]


@dataclass
class Trainer:
    """One cell in training: a method, a pair, a seed. All randomness comes from named axes, so its state is what is listed here."""

    entry: MethodEntry
    comparison: Comparison
    seed: int
    pair: LoadedPair
    processes: Processes
    bank: Bank
    engine: ReferenceEngine
    optimizer: torch.optim.Optimizer
    prompts: list[Prompt]
    validation: list[Prompt]
    memories: dict[str, ReplayBuffer]
    measured: Measured
    parts: dict[str, Part] = field(default_factory=dict)
    mover: Mover = field(init=False)
    remembered: Remembered = field(init=False)
    drawn: Drawn = field(init=False)
    accounts: Accounts = field(init=False)
    diagnosis: Diagnosis = field(init=False)
    looks: Looks = field(init=False)
    pull: Pull | None = None
    spent: Spent = field(default_factory=Spent)
    phases: Phases = field(default_factory=Phases)
    iteration: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.diagnosis, self.looks = Diagnosis(self), Looks(self)

    @property
    def progress(self) -> float:
        """Share of the budget that is spent."""
        return min(self.spent.supervised_tokens / self.comparison.budget.amount, 1.0)

    @property
    def done(self) -> bool:
        """Whether the budget is spent."""
        return self.spent.supervised_tokens >= self.comparison.budget.amount

    def train(self, report: Report, after_iteration: Callable[[], None]) -> None:
        """Iterate until the budget is spent; `report` receives one row a step, `after_iteration` may save a checkpoint.

        Raises:
            Diverged: a loss or gradient is not finite.
        """
        self.looks.start()
        while not self.done:
            for row in self.iterate():
                self.rows.append(row)
                report(row)
            self.iteration += 1
            self.diagnosis.flush()
            self.looks.after_iteration()
            after_iteration()
        self.looks.end()

    def iterate(self) -> Iterator[dict[str, Any]]:
        """Write one batch of every stream, then take all the steps that the entry takes on it."""
        method = Method(self.entry, self.progress, self.measured.values)
        streams = self.write(method)
        cuts = {name: [len(part) * s.group for part in self.places(s)] for name, s in method.streams.items()}
        for _ in range(self.reuse("refresh_every")):
            scored = self.judge(method, streams)
            controls = {**self.diagnosis.begin(), **self.controls(method, scored)}
            for _ in range(self.reuse("epochs")):
                for part in split(scored, cuts):
                    yield {**self.step(method, part), **controls}
                    controls = {}
                    if self.done:
                        return

    def reuse(self, what: str) -> int:
        """How often the streams' sequences are used: the most that any of them asks for."""
        return max(getattr(stream.reuse, what) for stream in self.entry.rollouts.values())

    def places(self, stream: Stream) -> list[list[int]]:
        """This process's prompts among a stream's of one iteration, for each minibatch."""
        count = prompts_written(self.comparison.settings.rollouts_per_step, stream.share, stream.group)
        return self.processes.places(count, self.reuse("minibatches"))

    def write(self, method: Method) -> dict[str, Rollout]:
        """The sequences of every stream that the present terms need, for this iteration; this process's share of them."""
        began, settings = time.perf_counter(), self.comparison.settings
        streams: dict[str, Rollout] = {}
        generated = self.engine.generated_tokens
        counts = {name: prompts_written(settings.rollouts_per_step, s.share, s.group) for name, s in method.streams.items()}
        orders = self.drawn.orders(method.streams, counts, self.iteration)
        for name, stream in in_order(method.streams):
            count, order = counts[name], orders[name]
            if self.processes.idle(count, self.reuse("minibatches")):
                raise ZooError(f"method '{self.entry.id}' writes {count} x {stream.group} sequences a step, too few for {self.processes.count} processes; "
                               "use fewer processes or more rollouts_per_step")  # fmt: skip
            at = [place for part in self.places(stream) for place in part]
            axes = (self.comparison.id, self.seed, "corpus" if isinstance(stream, Corpus) else "rollout", name, self.iteration)
            streams[name] = self.engine.rollout(
                stream,
                [self.prompts[order[place]] for place in at],
                max_new_tokens=settings.max_new_tokens,
                seed_axes=axes,
                version=self.spent.steps,
                memory=self.memories.get(name),
                progress=self.progress,
                sources=streams,
                earlier=[order[:place].count(order[place]) for place in at],
            ).to(self.bank.device)
        written = self.processes.total_int(self.engine.generated_tokens - generated)
        self.spent.generated_tokens += written
        self.spent.rollouts += self.processes.total_int(sum(len(r) for r in streams.values()))
        self.spent.flops_estimate += 2.0 * self.parameters * written
        self._clock("rollout", began, written)
        return streams

    def judge(self, method: Method, streams: dict[str, Rollout]) -> dict[str, Scored]:
        """Rewards, columns and frozen scorers' states of every stream that a term reads; others are there for contexts to show."""
        began, before, explored = time.perf_counter(), self.bank.scored_tokens, self.bank.explored_tokens
        total, steps = self.processes.total, self.spent.steps
        wanted = method.learned | method.taught | method.weighed.keys()
        scored = {name: score(method, self.bank, name, rollout, total, steps, streams) for name, rollout in streams.items() if name in wanted}
        self.drawn.observe({name: part.context for name, part in scored.items()})
        judged = self.processes.total_int(self.bank.scored_tokens - before)
        self.spent.teacher_tokens += judged
        self.spent.generated_tokens += self.processes.total_int(self.bank.explored_tokens - explored)
        self._clock("score", began, judged)
        return scored

    def controls(self, method: Method, scored: dict[str, Scored]) -> dict[str, float]:
        """At first, how far sampling and training are apart; now and then, what scorers with a context take from it. Neither changes what the run does."""
        every = self.comparison.settings.leakage_every
        found = lag0(method, self.bank, scored, self.spent.steps) if self.iteration < ITERATIONS else {}
        return {**found, **(leakage(method, self.bank, scored, self.processes.total) if every and self.iteration % every == 0 else {})}

    def step(self, method: Method, scored: dict[str, Scored]) -> dict[str, Any]:
        """One optimizer step; returns its row of metrics."""
        began = time.perf_counter()
        rate = self._set_learning_rate()
        before = self.bank.scored_tokens
        scored = {name: refreshed(method, self.bank, name, part, self.spent.steps) for name, part in scored.items()}
        self.spent.teacher_tokens += self.processes.total_int(self.bank.scored_tokens - before)
        contexts = self.remembered.shown({name: part.context for name, part in scored.items()})
        prepared = method.prepare(contexts)
        looked = time.perf_counter()
        seen = self.diagnosis.look(method, scored, contexts, prepared)
        began += time.perf_counter() - looked
        values = self.mover.gather(method, scored, prepared)
        for one in self.parts.values():
            one.learn({name: context.rollout for name, context in contexts.items()}, self.progress)
        norm = self._apply()
        tokens = self.processes.total_int(sum(contexts[name].rollout.tokens for name in method.learned))
        self.spent.steps += 1
        self.spent.supervised_tokens += tokens
        self.spent.flops_estimate += 6.0 * self.parameters * tokens
        known = {"step": self.spent.steps, "progress": self.progress, "grad_norm": norm, "learning_rate": rate, "tokens": tokens}
        row = row_of(method, contexts, values, self.processes, self.bank.device, **known)
        self._after_step(measures_of(row, method, prepared, contexts, self.processes))
        self._clock("update", began, tokens)
        return {**row, **self.mover.figures(), **seen, **self.diagnosis.after()}

    def _apply(self) -> float:
        """Sum gradients over processes, check that they are finite, clip, step."""
        parameters = self.trained
        self.processes.sum_gradients(parameters)
        self.mover.finish(parameters)
        if self.pull is not None:
            self.pull.add()
        norm = clip([p for p in parameters if p.grad is not None], self.comparison.settings.clip_norm, self.processes)
        if not math.isfinite(float(norm)):
            raise Diverged(f"gradient norm is {float(norm)} at step {self.spent.steps}; lower the learning rate or bound the signal (shaping: clip)")
        self.mover.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(norm)

    def _after_step(self, measures: dict[str, float]) -> None:
        """Everything with a state of its own takes its step: averaged teachers, critics, replay buffers, adaptive schedules, the mover."""
        watched = any(VALIDATION_LOSS in part.watches for part in self.parts.values())
        if watched and self.spent.steps % self.comparison.settings.validate_every == 0:
            measures = {**measures, VALIDATION_LOSS: self.validation_loss()}
        for part in self.parts.values():
            self.processes.sum_gradients(part.parameters())
            part.after_step(measures)

    def validation_loss(self) -> float:
        """Mean cross-entropy of the given solutions of the validation prompts."""
        axes = (self.comparison.id, self.seed, "validation")
        given = self.engine.rollout(Dataset(), self.validation, max_new_tokens=self.comparison.settings.max_new_tokens, seed_axes=axes)
        return cross_entropy(self.bank, given.to(self.bank.device))

    def validation_score(self, check: str, count: int) -> float:
        """Share of the first `count` validation prompts whose greedy answer the task's `check` accepts."""
        prompts = self.processes.share(self.pair.task.prompts("valid")[:count])
        written = self.sampled(prompts, (self.comparison.id, self.seed, "validation"), temperature=0.0)
        accepted_B = verified(self.pair, written, check) if prompts else torch.zeros(0)
        return float(self.processes.total(accepted_B.double().sum().to(self.bank.device))) / max(self.processes.total_int(len(prompts)), 1)

    def sampled(self, prompts: Sequence[Prompt], axes: tuple[str | int, ...], temperature: float = 1.0) -> Rollout:
        """One answer of the student to each prompt."""
        written = self.engine.rollout(
            Student(temperature=temperature), prompts, max_new_tokens=self.comparison.settings.max_new_tokens, seed_axes=axes, version=self.spent.steps
        )
        return written.to(self.bank.device)

    @property
    def trained(self) -> list[nn.Parameter]:
        """The parameters that the optimizer moves."""
        return [p for p in self.pair.student.parameters() if p.requires_grad]

    @property
    def parameters(self) -> int:
        """Size of the student."""
        return sum(p.numel() for p in self.pair.student.parameters())

    def _set_learning_rate(self) -> float:
        settings, progress = self.comparison.settings, self.progress
        rate = self.comparison.learning_rate(self.entry.id)
        if progress < settings.warmup:
            rate *= min(max(progress, 1e-3) / settings.warmup, 1.0)
        elif settings.schedule != "constant":
            left = 1.0 - (progress - settings.warmup) / (1.0 - settings.warmup)
            rate *= left if settings.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * (1.0 - left)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _clock(self, phase: str, began: float, tokens: int) -> None:
        if self.bank.device.type == "cuda":
            torch.cuda.synchronize()
        elapsed = time.perf_counter() - began
        self.phases.add(phase, elapsed, tokens)
        self.spent.seconds += elapsed


def split(scored: dict[str, Scored], cuts: dict[str, list[int]]) -> Iterator[dict[str, Scored]]:
    """Minibatches in order: `cuts` says how many of each stream's sequences go into each of them."""
    minibatches = len(next(iter(cuts.values())))
    if minibatches == 1:
        yield scored
        return
    for index in range(minibatches):
        yield {name: part.rows(range(sum(cuts[name][:index]), sum(cuts[name][: index + 1]))) for name, part in scored.items()}
