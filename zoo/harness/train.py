"""The training loop of every method: write, judge, take steps, until the budget is spent."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from zoo.components.rollouts import Corpus, Dataset, Stream
from zoo.entry import MethodEntry
from zoo.errors import ZooError
from zoo.harness.comparison import Comparison
from zoo.harness.engine import ReferenceEngine
from zoo.harness.learners import make_critics, move_averages, prompt_order, prompts_written
from zoo.harness.models import LoadedPair
from zoo.harness.parallel import Processes
from zoo.harness.replay import ReplayBuffer, buffer_for
from zoo.harness.scoring import Bank, Scored, backward, bank_for, cross_entropy, refreshed, score
from zoo.method import Method
from zoo.tensors import Prompt, Rollout

Report = Callable[[dict[str, Any]], None]


class Diverged(ZooError):
    """The loss or a gradient stopped being finite."""


@dataclass
class Spent:
    """What a run has used so far; tokens are global, over all processes."""

    supervised_tokens: int = 0
    generated_tokens: int = 0
    teacher_tokens: int = 0
    steps: int = 0
    rollouts: int = 0
    seconds: float = 0.0
    flops_estimate: float = 0.0


@dataclass
class Phases:
    """Seconds and tokens by phase."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("rollout", "score", "update"), 0.0))
    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("rollout", "score", "update"), 0))


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
    spent: Spent = field(default_factory=Spent)
    phases: Phases = field(default_factory=Phases)
    iteration: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)

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
        while not self.done:
            for row in self.iterate():
                self.rows.append(row)
                report(row)
            self.iteration += 1
            after_iteration()

    def iterate(self) -> Iterator[dict[str, Any]]:
        """Write one batch of every stream, then take all the steps that the entry takes on it."""
        method = Method(self.entry, self.progress)
        streams = self.write(method)
        cuts = {name: [len(part) * s.group for part in self.places(s)] for name, s in method.entry.rollouts.items()}
        for _ in range(self.reuse("refresh_every")):
            scored = self.judge(method, streams)
            for _ in range(self.reuse("epochs")):
                for part in split(scored, cuts):
                    yield self.step(method, part)
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
        """Every stream's sequences for this iteration, this process's share of them."""
        began, settings, streams = time.perf_counter(), self.comparison.settings, {}
        generated = self.engine.generated_tokens
        for name, stream in method.entry.rollouts.items():
            count = prompts_written(settings.rollouts_per_step, stream.share, stream.group)
            if self.processes.idle(count, self.reuse("minibatches")):
                raise ZooError(f"method '{self.entry.id}' writes {count} x {stream.group} sequences a step, too few for {self.processes.count} processes; "
                               "use fewer processes or more rollouts_per_step")  # fmt: skip
            wanted = range(self.iteration * count, (self.iteration + 1) * count)
            order = prompt_order(len(self.prompts), wanted, (self.comparison.id, self.seed))
            axes = (self.comparison.id, self.seed, "corpus" if isinstance(stream, Corpus) else "rollout", name, self.iteration)
            streams[name] = self.engine.rollout(
                stream,
                [self.prompts[order[place]] for part in self.places(stream) for place in part],
                max_new_tokens=settings.max_new_tokens,
                seed_axes=axes,
                version=self.spent.steps,
                memory=self.memories.get(name),
                progress=self.progress,
            ).to(self.bank.device)
        written = self.processes.total_int(self.engine.generated_tokens - generated)
        self.spent.generated_tokens += written
        self.spent.rollouts += self.processes.total_int(sum(len(r) for r in streams.values()))
        self.spent.flops_estimate += 2.0 * self.parameters * written
        self._clock("rollout", began, written)
        return streams

    def judge(self, method: Method, streams: dict[str, Rollout]) -> dict[str, Scored]:
        """Rewards, columns and frozen scorers' states of every stream."""
        began, before = time.perf_counter(), self.bank.scored_tokens
        total, steps = self.processes.total, self.spent.steps
        scored = {name: score(method, self.bank, name, rollout, total, steps) for name, rollout in streams.items()}
        judged = self.processes.total_int(self.bank.scored_tokens - before)
        self.spent.teacher_tokens += judged
        self._clock("score", began, judged)
        return scored

    def step(self, method: Method, scored: dict[str, Scored]) -> dict[str, Any]:
        """One optimizer step; returns its row of metrics."""
        began = time.perf_counter()
        rate = self._set_learning_rate()
        before = self.bank.scored_tokens
        scored = {name: refreshed(method, self.bank, name, part, self.spent.steps) for name, part in scored.items()}
        self.spent.teacher_tokens += self.processes.total_int(self.bank.scored_tokens - before)
        contexts = {name: part.context for name, part in scored.items()}
        prepared = method.prepare(contexts)
        values: dict[int, Tensor] = {}
        for name, part in scored.items():
            mine = [p for p in prepared if p.stream == name]
            for p, loss in zip(mine, backward(method, self.bank, part, mine) if mine else [], strict=True):
                own = loss if p.value is None else p.value
                if p.value is not None or not _reduced(method, p.term):
                    values[p.term] = values.get(p.term, torch.zeros_like(loss)) + own
        norm = self._apply()
        tokens = self.processes.total_int(sum(c.rollout.tokens for c in contexts.values()))
        self.spent.steps += 1
        self.spent.supervised_tokens += tokens
        self.spent.flops_estimate += 6.0 * self.parameters * tokens
        self._after_step(method)
        self._clock("update", began, tokens)
        return self._row(method, contexts, values, norm, rate, tokens)

    def _apply(self) -> float:
        """Sum gradients over processes, check that they are finite, clip, step."""
        parameters = [p for p in self.pair.student.parameters() if p.requires_grad]
        self.processes.sum_gradients(parameters)
        norm = torch.nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], self.comparison.settings.clip_norm)
        if not math.isfinite(float(norm)):
            raise Diverged(f"gradient norm is {float(norm)} at step {self.spent.steps}; lower the learning rate or bound the signal (shaping: clip)")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(norm)

    def _after_step(self, method: Method) -> None:
        """Averaged teachers, critics and replay buffers take their own steps."""
        move_averages(method.entry, self.bank)
        for critic in self.bank.values.values():
            self.processes.sum_gradients(list(critic.parameters()))
            critic.after_step()
        if self.memories and self.spent.steps % self.comparison.settings.validate_every == 0:
            loss = self.validation_loss()
            for memory in self.memories.values():
                memory.after_step({"validation_loss": loss})

    def validation_loss(self) -> float:
        """Mean cross-entropy of the given solutions of the validation prompts."""
        axes = (self.comparison.id, self.seed, "validation")
        given = self.engine.rollout(Dataset(), self.validation, max_new_tokens=self.comparison.settings.max_new_tokens, seed_axes=axes)
        return cross_entropy(self.bank, given.to(self.bank.device))

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
        self.phases.seconds[phase] += elapsed
        self.phases.tokens[phase] += tokens
        self.spent.seconds += elapsed

    def _row(self, method: Method, contexts: Any, values: dict[int, Tensor], norm: float, rate: float, tokens: int) -> dict[str, Any]:
        total = self.processes.total
        row: dict[str, Any] = {"step": self.spent.steps, "progress": self.progress, "grad_norm": norm, "learning_rate": rate, "tokens": tokens}
        for index, value in values.items():
            term = method.entry.objective[index]
            row[f"loss.{index}.{term.term}"] = float(total(value))
        for name, context in contexts.items():
            rows = total(torch.tensor(float(len(context.rollout)), device=self.bank.device))
            row[f"length.{name}"] = float(total(context.mask_BT.sum().float()) / rows)
            row[f"truncated.{name}"] = 1.0 - float(total(context.rollout.finished_B.float().sum()) / rows)
            for reward, value_B in context.rewards.items():
                row[f"reward.{reward}.{name}"] = float(total(value_B.float().sum()) / rows)
        losses = [v for k, v in row.items() if k.startswith("loss.")]
        if not all(math.isfinite(v) for v in losses):
            raise Diverged(f"a loss is not finite at step {self.spent.steps}: {losses}")
        return row


def make_trainer(entry: MethodEntry, comparison: Comparison, seed: int, pair: LoadedPair, processes: Processes) -> Trainer:
    """A cell at its first step: the student at its initial weights, nothing spent."""
    settings, student = comparison.settings, pair.reset_student()
    student.eval()  # no dropout in any model; gradients flow all the same
    bank = bank_for(entry, pair, micro_tokens=settings.micro_tokens, chunk_tokens=settings.chunk_tokens)
    make_critics(entry, bank)
    engine = ReferenceEngine(
        student,
        {name: bank.models.get(bank.keys[name].weights, pair.teachers.get(name)) for name in entry.teachers},
        pair.tokenizer,
        format_prompt=pair.format_prompt,
        stop_ids=pair.stop_ids,
        pad_id=pair.pad_id,
        vocab_size=pair.vocab_size,
        max_batch=settings.decode_batch,
        decode_dtype=torch.bfloat16 if bank.device.type == "cuda" else None,
    )
    update = entry.update
    optimizer = torch.optim.AdamW(
        [p for p in student.parameters() if p.requires_grad],
        lr=comparison.learning_rate(entry.id),
        betas=update.betas,  # type: ignore[attr-defined]
        eps=update.epsilon,  # type: ignore[attr-defined]
        weight_decay=update.weight_decay,  # type: ignore[attr-defined]
    )
    memories = {name: memory for name, s in entry.rollouts.items() if (memory := buffer_for(s, pad_id=pair.pad_id)) is not None}
    if memories and processes.count > 1:
        raise ZooError(f"method '{entry.id}' replays its own sequences, whose buffer lives in one process; run it without accelerate launch")
    # A prompt's noise is seeded by its id, so ids are made unique; the number of processes then changes nothing.
    prompts = [replace(prompt, id=f"{prompt.id}@{i}") for i, prompt in enumerate(pair.task.prompts("train"))]
    validation = pair.task.prompts("valid")[: settings.validation_prompts] if memories else []
    return Trainer(entry, comparison, seed, pair, processes, bank, engine, optimizer, prompts, validation, memories)


def split(scored: dict[str, Scored], cuts: dict[str, list[int]]) -> Iterator[dict[str, Scored]]:
    """Minibatches in order: `cuts` says how many of each stream's sequences go into each of them."""
    minibatches = len(next(iter(cuts.values())))
    if minibatches == 1:
        yield scored
        return
    for index in range(minibatches):
        yield {name: part.rows(range(sum(cuts[name][:index]), sum(cuts[name][: index + 1]))) for name, part in scored.items()}


def _reduced(method: Method, index: int) -> bool:
    return method.entry.objective[index].live
