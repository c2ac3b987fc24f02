"""The training loop of every method: write, judge, take steps, until the budget is spent."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from zoo.components.rollouts import Corpus
from zoo.entry import MethodEntry
from zoo.errors import ZooError
from zoo.harness.comparison import Comparison
from zoo.harness.engine import ReferenceEngine
from zoo.harness.learners import make_critics, move_averages, prompt_order
from zoo.harness.models import LoadedPair
from zoo.harness.parallel import Processes
from zoo.harness.replay import ReplayBuffer, buffer_for
from zoo.harness.scoring import Bank, Scored, backward, bank_for, chunks, micro_batches, rescore_student, response_hidden, score
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
        reuse = [s.reuse for s in method.entry.rollouts.values()]
        epochs, minibatches, rescored = (max(getattr(r, n) for r in reuse) for n in ("epochs", "minibatches", "refresh_every"))
        for _ in range(rescored):
            scored = self.judge(method, streams)
            for _ in range(epochs):
                for part in split(scored, minibatches, {n: s.group for n, s in method.entry.rollouts.items()}):
                    yield self.step(method, part)
                    if self.done:
                        return

    def write(self, method: Method) -> dict[str, Rollout]:
        """Every stream's sequences for this iteration, this process's share of them."""
        began, settings, streams = time.perf_counter(), self.comparison.settings, {}
        generated = self.engine.generated_tokens
        for name, stream in method.entry.rollouts.items():
            count = max(1, round(settings.rollouts_per_step * stream.share / stream.group))
            wanted = range(self.iteration * count, (self.iteration + 1) * count)
            order = prompt_order(len(self.prompts), wanted, (self.comparison.id, self.seed))
            axes = (self.comparison.id, self.seed, "corpus" if isinstance(stream, Corpus) else "rollout", name, self.iteration)
            streams[name] = self.engine.rollout(
                stream,
                [self.prompts[i] for i in self.processes.share(order)],
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
        scored = {name: score(method, self.bank, name, rollout, self.processes.total) for name, rollout in streams.items()}
        judged = self.processes.total_int(self.bank.scored_tokens - before)
        self.spent.teacher_tokens += judged
        self._clock("score", began, judged)
        return scored

    def step(self, method: Method, scored: dict[str, Scored]) -> dict[str, Any]:
        """One optimizer step; returns its row of metrics."""
        began = time.perf_counter()
        rate = self._set_learning_rate()
        contexts = {name: part.context for name, part in scored.items()}
        if method.live and any(part.context.rollout.version != self.spent.steps for part in scored.values()):
            contexts = {name: rescore_student(method, self.bank, part) for name, part in scored.items()}
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

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Mean cross-entropy of the given solutions of the validation prompts."""
        from zoo.components.rollouts import Dataset

        axes = (self.comparison.id, self.seed, "validation")
        given = self.engine.rollout(Dataset(), self.validation, max_new_tokens=self.comparison.settings.max_new_tokens, seed_axes=axes)
        total = torch.zeros((), dtype=torch.float64, device=self.bank.device)
        for group in micro_batches(given, self.bank.micro_tokens):
            part = given.rows(group).to(self.bank.device)
            with self.bank.precision():
                hidden_NH = response_hidden(self.pair.student, part.prompt_ids, part, self.pair.pad_id)
            token_N = part.response_BT[part.mask_BT]
            for chunk in chunks(len(token_N), self.bank.chunk_tokens):
                with self.bank.precision():
                    logits_NV = self.bank.head("student")(hidden_NH[chunk])[:, : self.pair.vocab_size]
                total += torch.nn.functional.cross_entropy(logits_NV.float(), token_N[chunk], reduction="sum")
        return float(total / given.tokens)

    @property
    def parameters(self) -> int:
        """Size of the student."""
        return sum(p.numel() for p in self.pair.student.parameters())

    def _set_learning_rate(self) -> float:
        settings, progress = self.comparison.settings, self.progress
        rate = self.comparison.learning_rate(self.entry.id)
        if progress < settings.warmup:
            rate *= max(progress, 1e-3) / settings.warmup
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
            row[f"loss.{index}.{term.term}"] = float(value if _reduced(method, index) else total(value))
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


def split(scored: dict[str, Scored], parts: int, groups: dict[str, int]) -> Iterator[dict[str, Scored]]:
    """Minibatches of whole groups, in order; every stream is cut into the same number."""
    if parts == 1:
        yield scored
        return
    for index in range(parts):
        piece = {}
        for name, part in scored.items():
            prompts = len(part.context.rollout) // groups[name]
            first, last = prompts * index // parts, prompts * (index + 1) // parts
            piece[name] = part.rows(range(first * groups[name], last * groups[name]))
        if any(p.context.rollout.tokens for p in piece.values()):
            yield piece


def _reduced(method: Method, index: int) -> bool:
    return method.entry.objective[index].live
