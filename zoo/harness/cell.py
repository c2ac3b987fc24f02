"""A cell at its first step: the models, streams and parts of one method, pair and seed, put together for the loop."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from zoo.components.teachers import Labels
from zoo.components.updates import AdamW, TrustRegion
from zoo.entry import MethodEntry
from zoo.errors import ZooError
from zoo.harness.accounts import Accounts
from zoo.harness.adapters import attach
from zoo.harness.bridges import make_carriers
from zoo.harness.comparison import Comparison
from zoo.harness.compiling import faster_where_it_pays
from zoo.harness.discriminators import make_discriminators
from zoo.harness.engine import ReferenceEngine
from zoo.harness.experience import lessons_for
from zoo.harness.foreign import interpreters
from zoo.harness.kept_states import KeptStates
from zoo.harness.learners import make_bridges, make_critics
from zoo.harness.models import LoadedPair
from zoo.harness.moves import Mover, Pull, mover_of
from zoo.harness.parallel import Processes, is_split
from zoo.harness.parts import Part
from zoo.harness.peers import make_peers
from zoo.harness.prompts import Drawn
from zoo.harness.remembered import Remembered
from zoo.harness.replay import buffer_for
from zoo.harness.routes import with_specialists
from zoo.harness.scoring import bank_for
from zoo.harness.sharding import servable
from zoo.harness.state import Measured, lineage_copies
from zoo.harness.train import Trainer
from zoo.harness.trust_region import TrustRegionMover
from zoo.harness.vllm import options_for
from zoo.harness.votes import with_votes


def make_trainer(entry: MethodEntry, comparison: Comparison, seed: int, pair: LoadedPair, processes: Processes) -> Trainer:
    """A cell at its first step: the student at its initial weights, nothing spent."""
    if pair.split is not None:
        comparison = servable(entry, comparison)
    entry, settings, student = with_specialists(entry, pair.teachers), comparison.settings, pair.reset_student()
    if (adapter := getattr(entry.update, "adapter", None)) is not None:
        attach(student, adapter, comparison.id, seed)
    student.eval()  # no dropout in any model; gradients flow all the same
    bank = bank_for(entry, pair, micro_tokens=settings.micro_tokens, chunk_tokens=settings.chunk_tokens)
    faster_where_it_pays(entry, comparison, bank)
    bank.recompute = settings.activation_checkpointing
    bank.kept = KeptStates(int(settings.teacher_cache_gib * 2**30)) if settings.teacher_cache_gib else None
    critics = {**make_critics(entry, bank), **make_bridges(entry, bank, (comparison.id, seed)), **make_carriers(entry, bank, (comparison.id, seed))}
    engine = ReferenceEngine(
        student,
        {name: t if isinstance(t, Labels) else bank.models.get(bank.keys[name].weights, pair.teachers.get(name)) for name, t in entry.teachers.items()},
        pair.tokenizer,
        format_prompt=pair.format_prompt,
        stop_ids=pair.stop_ids,
        pad_id=pair.pad_id,
        vocab_size=pair.vocab_size,
        max_batch=settings.decode_batch,
        decode_dtype=torch.bfloat16 if bank.device.type == "cuda" else None,
        judge=bank.judge,
        native=settings.engine != "reference",
        vllm=options_for(settings),
    )
    engine.endpoints, engine.interpreters = bank.endpoints, interpreters(entry, pair, settings.decode_batch, settings.engine != "reference")
    memories = {name: memory for name, s in entry.rollouts.items() if (memory := buffer_for(s, pad_id=pair.pad_id)) is not None}
    if memories and processes.count > 1:
        raise ZooError(f"method '{entry.id}' replays its own sequences, whose buffer lives in one process; run it without accelerate launch")
    # A prompt's noise is seeded by its id, so ids are made unique; the number of processes then changes nothing.
    prompts = [replace(prompt, id=f"{prompt.id}@{i}") for i, prompt in enumerate(pair.task.prompts("train"))]
    validation = pair.task.prompts("valid")[: settings.validation_prompts] if memories else []
    entry = with_votes(entry, bank, engine, prompts, settings.max_new_tokens, (comparison.id, seed))
    rate = comparison.learning_rate(entry.id)
    trainer = Trainer(
        entry, comparison, seed, pair, processes, bank, engine, optimizer_of(entry, student, rate), prompts, validation, memories, Measured(entry)
    )
    trainer.spent.generated_tokens, trainer.spent.teacher_tokens = engine.generated_tokens, bank.scored_tokens  # what votes have cost
    trainer.remembered = Remembered(entry, pair.vocab_size)
    trainer.drawn = Drawn(entry, prompts, (comparison.id, seed), processes)
    trainer.mover = mover_for(entry, trainer)
    anchor = getattr(entry.update, "anchor", None)
    trainer.pull = None if anchor is None else Pull(anchor, trainer)
    buffers: dict[str, Part] = {f"memory:{name}": memory for name, memory in memories.items()}
    peers = make_peers(entry, bank, processes, settings.clip_norm)
    peers |= make_discriminators(entry, bank, processes, settings.clip_norm, (comparison.id, seed))
    buffers |= lessons_for(entry, bank.judge, processes, prompts)
    buffers |= {"measured": trainer.measured, "remembered": trainer.remembered, "drawn": trainer.drawn, "mover": trainer.mover}
    trainer.accounts = Accounts(bank, engine, processes)
    buffers["accounts"] = trainer.accounts
    trainer.parts = {**peers, **lineage_copies(entry, bank, (comparison.id, seed)), **critics, **buffers}
    return trainer


def mover_for(entry: MethodEntry, trainer: Trainer) -> Mover:
    """How the entry's steps are taken."""
    update = entry.update
    return TrustRegionMover(trainer, update) if isinstance(update, TrustRegion) else mover_of(getattr(update, "step", None), trainer)


def optimizer_of(entry: MethodEntry, student: Any, rate: float) -> torch.optim.Optimizer:
    """The entry's optimizer over the student's trained parameters."""
    update, trained = entry.update, [p for p in student.parameters() if p.requires_grad]
    if isinstance(update, TrustRegion):
        return torch.optim.SGD(trained, lr=rate)  # stateless, and never asked for a step
    assert isinstance(update, AdamW)
    # Split and whole parameters can't be moved in one batch of kernels.
    each = {"foreach": False} if any(map(is_split, trained)) else {}
    return torch.optim.AdamW(trained, lr=rate, betas=update.betas, eps=update.epsilon, weight_decay=update.weight_decay, **each)
