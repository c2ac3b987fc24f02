"""What is looked at before the first cell of a run: the weights' origin, threads, and whether methods, pair and machine fit together."""

from __future__ import annotations

import os

import torch

from zoo.compat import pair_problems
from zoo.components.rewards import UnitTests
from zoo.entry import Registry
from zoo.errors import ZooError
from zoo.harness.models import LoadedPair, PairSpec
from zoo.harness.plan import Place
from zoo.harness.sandbox import run_untrusted
from zoo.harness.sources import local_folder, note_of

TINY = 20_000_000  # parameters


def origin_note(spec: PairSpec, place: Place) -> str | None:
    """What pulled weights say about themselves, where the pair says nothing."""
    sources = {"student": spec.student, **spec.teachers}
    return spec.weights_note or note_of({name: local_folder(spec.id, name, source, place.pair_paths) for name, source in sources.items() if source.of is None})


def settle_threads(pair: LoadedPair) -> None:
    """One CPU thread for tiny models, unless the user chose a number: a second one gains little on an idle machine and, wherever
    anything else runs, costs a multiple in waiting for each other (benchmarks/micro_pair.md)."""
    size = sum(p.numel() for model in (pair.student, *pair.teachers.values()) for p in model.parameters())
    if pair.student.device.type == "cpu" and size < TINY and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def refuse_misfits(pair: LoadedPair, registry: Registry, methods: set[str]) -> None:
    """Raise ZooError for methods that need what the pair or its task lacks, or a sandbox where there is none."""
    prompt, spec = pair.task.prompts("train")[0], pair.spec
    found = []
    for name in sorted(methods):
        problems = pair_problems(
            registry[name],
            templates=spec.contexts,
            fields=prompt.fields,
            teachers=[*spec.teachers, *spec.endpoints],
            reward_models=spec.reward_models,
            checks=pair.task.checks,
            same_vocabulary=pair.same_vocabulary,
            turns=spec.turns,
            task=pair.task,
        )
        found += [f"method '{name}' on pair '{spec.id}': {p}" for p in problems]
    if found:
        raise ZooError("\n".join(found))
    if any(isinstance(reward, UnitTests) for name in methods for reward in registry[name].rewards.values()):
        run_untrusted("", without_walls=pair.untrusted_code)  # refused here, not after an hour of training
