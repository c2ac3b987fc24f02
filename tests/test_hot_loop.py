"""The loop over chunks of tokens (loss forward, loss backward, the student's backward pass) never makes the host wait for the device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from zoo import load_registry
from zoo.bench import Bench
from zoo.entry import MethodEntry
from zoo.harness.plan import trains
from zoo.method import Method

# What reads a value back from the device, or a size that depends on values. Seen on a CPU, where the same operations are called.
READS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "is_nonzero", "equal", "item"}
COPIES = ("tolist", "cpu", "numpy")
PLACES = {"index", "index_put", "index_put_", "_index_put_impl_"}
# Entries whose chunks do wait, besides those whose teacher has another tokenizer, where pairs of texts have sizes of their own.
WAITING = {
    "deepseek_v4_opd": "a route asks its teachers only where they serve, once a chunk",
    "dskd": "rows whose best token the student's vocabulary lacks are left out",
}
COMMON = ("gkd", "minillm", "grpo", "eopd", "opsd", "distillm", "kdrl", "aopd", "orpo_distill", "sdft")


class Waits(TorchDispatchMode):
    """Counts the operations on which a host would wait for its GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masked = name in PLACES and any(isinstance(at, torch.Tensor) and at.dtype == torch.bool for at in args[1])
        counted = name == "repeat_interleave" and isinstance(args[0], torch.Tensor)
        if name in READS or masked or counted:
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What the loop over chunks waited for."""
    mode = Waits()

    def within(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            with mode:
                return call(*args, **kwargs)

        return called

    def noticed(name: str) -> Callable[..., Any]:
        call = getattr(torch.Tensor, name)

        def called(tensor: Any, *args: Any, **kwargs: Any) -> Any:
            mode.seen[name] += torch.utils._python_dispatch._get_current_dispatch_mode() is mode
            return call(tensor, *args, **kwargs)

        return called

    for name in COPIES:
        monkeypatch.setattr(torch.Tensor, name, noticed(name))
    monkeypatch.setattr(Method, "chunk_loss", within(Method.chunk_loss))
    monkeypatch.setattr(torch.Tensor, "backward", within(torch.Tensor.backward))
    return mode.seen


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench().sized(8, 12)


def step(bench: Bench, entry: MethodEntry) -> None:
    next(bench.suited(entry).sized(8, 12).trainer(entry).iterate())


@pytest.mark.parametrize("name", COMMON)
def test_no_chunk_waits(bench: Bench, waits: Counter[str], name: str) -> None:
    step(bench, load_registry()[name])
    assert not +waits


def test_what_waits_is_seen(bench: Bench, waits: Counter[str]) -> None:
    step(bench, load_registry()["deepseek_v4_opd"])
    assert waits["tolist"]


@pytest.mark.slow
def test_no_chunk_of_any_entry_with_one_tokenizer_waits(bench: Bench, waits: Counter[str]) -> None:
    registry, missing = load_registry(), []
    found: dict[str, dict[str, int]] = {}
    for entry in registry.values():
        if entry.executable and trains(entry) and not any(getattr(t, "alignment", None) is not None for t in entry.teachers.values()):
            waits.clear()
            try:
                step(bench, entry)
            except Exception as error:  # a model that no shipped pair has
                missing.append(f"{entry.id}: {error}")
            if +waits:
                found[entry.id] = dict(+waits)
    assert found.keys() == WAITING.keys() and len(missing) <= 2, (found, missing)
