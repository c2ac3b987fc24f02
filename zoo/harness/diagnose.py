"""Diagnostics of a run: every few iterations a few sequences are looked at token by token, without changing anything that the run does.

Which sequences is decided by the run's seed axes alone, so neither batch order nor the number of processes matters; one more forward pass of the
student and of the reference teacher on them is all it costs. docs/logs.md lists what is logged, `zoo.failures` reads it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from zoo.components.rollouts import Dataset, Stream
from zoo.harness.diagnose_files import Columns, forget, write_shard
from zoo.harness.diagnose_scorers import plain_scorers, plain_teacher, scorers_of, token_columns
from zoo.harness.diagnose_steps import gradient_noise, signal_figures
from zoo.harness.diagnose_texts import rollout_rows
from zoo.harness.prompts import prompts_written
from zoo.harness.scoring import Scored
from zoo.method import Method, Prepared
from zoo.seeds import seed_for, uniforms
from zoo.statistics import TokenContext
from zoo.tasks.micro import COPY_LENGTHS, MicroTask, copy_prompt, distinct, draw
from zoo.tasks.micro_two import MicroTwoTask
from zoo.tensors import Author, Prompt, Rollout

if TYPE_CHECKING:
    from zoo.harness.train import Trainer

SEQUENCES = 8  # diagnosed in one iteration, over all streams and processes
LEAST = 2  # of each stream
RETAINED = 8  # prompts of a kind that is not trained on
TURNS = 3  # diagnosed iterations take turns: one has its gradient taken apart, the next scores the fixed solutions, the third does neither
FIXED = ("position", "token", "logp_student", "logp_teacher", "entropy_student", "entropy_teacher", "kl", "kl_forward")
FAR = 0.2  # from 1, of the ratios that are counted as outside
MEANS = ("entropy_student", "entropy_teacher", "kl", "kl_forward", "kl_own", "overlap_k4", "repeats")
Where = tuple[list[int], int]


def fixed_prompts(task: Any) -> list[Prompt]:
    """The first validation prompts with a solution, and those of a kind that no training prompt is of, where the task made some."""
    found = [p for p in task.prompts("valid")[:SEQUENCES] if p.fields.get("solution")]
    if found and isinstance(task, MicroTask | MicroTwoTask):
        found += [copy_prompt(text) for text in distinct(draw("copy", "valid", COPY_LENGTHS, random.Random(seed_for("micro", "prompts", "copies"))), RETAINED)]
    return found


class Diagnosis:
    """What one run looks at. It keeps nothing between iterations but what is not yet written."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.tables: dict[str, list[Columns]] = {}
        self.due = False
        self.folder: Path | None = None  # where a run keeps what was seen until its end; what nobody keeps is dropped

    @property
    def every(self) -> int:
        """Iterations from one diagnosed one to the next; 0 for none."""
        return self.trainer.comparison.settings.diagnose_every

    def begin(self) -> dict[str, float]:
        """A new batch is there: its first step is looked at if it is due. Before the first step of all, the accuracy that the run starts from."""
        self.due = self.every > 0 and self.trainer.iteration % self.every == 0
        watched = self.trainer.comparison.settings.evaluate_every and self.trainer.spent.steps == 0
        return {"accuracy.start": self._accuracy()} if watched else {}

    def look(self, method: Method, scored: Mapping[str, Scored], contexts: Mapping[str, TokenContext], prepared: Sequence[Prepared]) -> dict[str, float]:
        """Columns of the step's row, before the step is taken; the diagnosed sequences are kept for `flush`."""
        if self.every == 0:
            return {}
        began = time.perf_counter()
        row = signal_figures(prepared, contexts, self.trainer.processes)
        row |= {f"lag.{name}": float(self.trainer.spent.steps - contexts[name].rollout.version) for name in contexts}
        if self.due:
            self.due = False
            row |= self._sequences(method, scored, contexts, prepared)
        self.trainer.phases.add("diagnose", time.perf_counter() - began, 0)
        return row

    def after(self) -> dict[str, float]:
        """Columns of the step's row, after the step was taken: what has been spent, and now and then the accuracy."""
        spent, every = self.trainer.spent, self.trainer.comparison.settings.evaluate_every
        row: dict[str, float] = {"supervised_tokens": spent.supervised_tokens, "generated_tokens": spent.generated_tokens, "seconds": spent.seconds}
        if every and (spent.steps % every == 0 or self.trainer.done):
            row["accuracy.valid"] = self._accuracy()
        return row

    def flush(self) -> None:
        """Write what the last iteration saw, if somebody keeps it."""
        if self.tables and self.folder is not None:
            began = time.perf_counter()
            write_shard(self.folder, self.trainer.iteration - 1, self.trainer.processes.rank, self.tables)
            self.trainer.phases.add("diagnose", time.perf_counter() - began, 0)
        self.tables = {}

    def keep(self, folder: Path) -> None:
        """Keep what is seen in a folder of this run, and forget what was written there after the checkpoint from which the run goes on."""
        self.folder = folder
        if self.trainer.processes.main:
            forget(folder, self.trainer.iteration)
        self.trainer.processes.wait()

    def _accuracy(self) -> float:
        """Greedy accuracy on the validation prompts."""
        began, checks = time.perf_counter(), self.trainer.pair.task.checks
        score = self.trainer.validation_score("answer" if "answer" in checks else next(iter(checks)), self.trainer.comparison.settings.validation_prompts)
        self.trainer.phases.add("diagnose", time.perf_counter() - began, 0)
        return score

    def _sequences(self, method: Method, scored: Mapping[str, Scored], contexts: Mapping[str, TokenContext], prepared: Sequence[Prepared]) -> dict[str, float]:
        row: dict[str, float] = {}
        places = {name: self._places(method.streams[name], contexts[name].rollout) for name in sorted(contexts) if name in method.learned}
        for name, where in places.items():
            mine = [part for part in prepared if part.stream == name]
            row |= self._stream(method, name, replace(scored[name], context=contexts[name]), mine, where, max(SEQUENCES // len(places), LEAST))
        turn = self.trainer.iteration // self.every % TURNS
        if turn == 0:
            learned = {name: scored[name] for name in places}
            row |= gradient_noise(self.trainer, method, learned, prepared, {name: numbers for name, (numbers, _) in places.items()})
        if turn == 1 or self.trainer.iteration == 0:
            self._fixed(method, min(places, default=""))
        return row

    def _fixed(self, method: Method, stream: str) -> None:
        """Score the given solutions of a few validation prompts, and of prompts of a kind that is not trained on where the task has some: the same ones
        all along. The first process does it for all. The scorer is the pair's teacher: an entry's own may want contexts that the run makes for prompts
        it writes to, or domains that these are not of."""
        prompts = fixed_prompts(self.trainer.pair.task)
        if not prompts or not stream or not self.trainer.processes.main:
            return
        axes = (self.trainer.comparison.id, self.trainer.seed, "diagnose fixed")
        given = self.trainer.engine.rollout(Dataset(), prompts, max_new_tokens=self.trainer.comparison.settings.max_new_tokens, seed_axes=axes)
        shown = Scored(TokenContext(given.to(self.trainer.bank.device)), {})
        found = token_columns(method, plain_scorers(self.trainer.bank, self.plain), stream, shown, (), 1.0)
        kept = {column: found[column] for column in FIXED if column in found}
        domains = np.array([prompt.fields.get("domain", "") for prompt in prompts], dtype=object)
        self._keep("fixed", {"rollout": found["row"].astype(np.int32), "domain": domains[found["row"]], **kept}, stream)

    def _places(self, stream: Stream, rollout: Rollout) -> Where:
        """Each sequence's place in the first minibatch of the whole batch, and how many there are. Sequences out of a buffer keep their own order."""
        trainer = self.trainer
        mine = trainer.places(stream)[0]
        if len(rollout) != len(mine) * stream.group:
            return list(range(len(rollout))), len(rollout)
        count = prompts_written(trainer.comparison.settings.rollouts_per_step, stream.share, stream.group)
        return [place * stream.group + member for place in mine for member in range(stream.group)], count // trainer.reuse("minibatches") * stream.group

    def _stream(self, method: Method, name: str, scored: Scored, parts: Sequence[Prepared], where: Where, count: int) -> dict[str, float]:
        """Log some sequences of one stream; returns what the step's row says of them."""
        trainer, (numbers, size) = self.trainer, where
        draw = uniforms([seed_for(trainer.comparison.id, trainer.seed, "diagnose", name, trainer.iteration)], size)[0]
        wanted, mask_BT = set(draw.argsort()[:count].tolist()), scored.context.mask_BT
        rows = [local for local, number in enumerate(numbers) if number in wanted and bool(mask_BT[local].any())]
        tokens = trainer.processes.total_int(int(mask_BT.sum()))
        found: dict[str, Any] = {}
        if rows:
            shown, chosen = scored.rows(rows), np.array([numbers[row] for row in rows])
            texts, again = rollout_rows(trainer.pair, trainer.bank.judge, shown.context, chosen.tolist())
            scorers = scorers_of(method, trainer.bank, name, self.plain)
            found = token_columns(method, scorers, name, shown, [part.rows(rows) for part in parts], 1.0 / max(tokens, 1))
            found |= {"rollout": chosen[found.pop("row")].astype(np.int32), "repeats": np.array(again), **self._flags(found["token"])}
            self._keep("rollouts", {column: [text[column] for text in texts] for column in texts[0]}, name)
            self._keep("tokens", found, name)
        return self._summary(name, scored.context.rollout, found)

    @cached_property
    def plain(self) -> str | None:
        """The pair's teacher that stands in where an entry has none."""
        return plain_teacher(self.trainer.pair)

    @cached_property
    def special(self) -> np.ndarray:
        """Ids of special tokens, stop tokens included."""
        return np.array(sorted({*self.trainer.pair.tokenizer.all_special_ids, *self.trainer.pair.stop_ids}))

    def _flags(self, token_N: np.ndarray) -> dict[str, Any]:
        return {"is_special": np.isin(token_N, self.special), "is_stop": np.isin(token_N, self.trainer.pair.stop_ids)}

    def _keep(self, table: str, columns: Mapping[str, Any], stream: str) -> None:
        size = len(next(iter(columns.values())))
        self.tables.setdefault(table, []).append({"step": np.full(size, self.trainer.spent.steps + 1, np.int32), "stream": [stream] * size, **columns})

    def _summary(self, name: str, rollout: Rollout, found: Mapping[str, Any]) -> dict[str, float]:
        """Means over the diagnosed tokens of all processes, and how far the student has moved from who wrote them: drift = mean |log p_now - log p_then|,
        and of rho = p_now / behaviour ess = (sum rho)^2 / (n sum rho^2), chi2 = mean rho^2 - 1 and the share outside 1 +- 0.2."""
        sums = np.zeros((len(MEANS) + 2, 4))
        for index, column in enumerate(MEANS):
            if column in found:
                sums[index, :2] = found[column].sum(dtype=np.float64), len(found[column])
        if found:
            now, then, wrote = (np.asarray(found[c], np.float64) for c in ("logp_student", "logp_sampled", "logp_behaviour"))
            own = (found["author"] == int(Author.STUDENT)) & np.isfinite(then)
            sums[-2, :2] = np.abs(now - then)[own].sum(), own.sum()
            written = np.isfinite(wrote) & (found["author"] == int(Author.STUDENT))
            rho = np.exp(np.clip(now - wrote, -30.0, 30.0))[written]
            sums[-1] = rho.sum(), (rho**2).sum(), len(rho), (np.abs(rho - 1.0) > FAR).sum()
        total = self.trainer.processes.total(torch.from_numpy(sums).to(self.trainer.bank.device)).cpu().numpy()
        row = {f"seen.{name}.{column}": float(value / count) for column, (value, count, _, _) in zip((*MEANS, "drift"), total[:-1], strict=True) if count}
        ratio, square, count, far = total[-1].tolist()
        if count:
            row |= {
                f"ratio.{name}.ess": ratio**2 / (count * square) if square else 0.0,
                f"ratio.{name}.chi2": square / count - 1.0,
                f"ratio.{name}.far": far / count,
            }
        return row
