"""One copy of the teachers for several workers: the same weights, in the same memory, never written to; and what is killed is made good."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from zoo import load_registry
from zoo.errors import ZooError
from zoo.harness import crew, packing, run_record, shared_teachers
from zoo.harness.comparison import load_comparison
from zoo.harness.crew import RESTARTS
from zoo.harness.forked import start_server
from zoo.harness.models import load_pair, load_pair_spec, load_teachers
from zoo.harness.mps import CHOICE
from zoo.harness.native.weights import gather, unsupported
from zoo.harness.packing import jobs_for, run_packed
from zoo.harness.parallel import CONTEXT, reserve
from zoo.harness.plan import Place
from zoo.harness.report import Listener
from zoo.harness.run import run_comparison
from zoo.harness.shared_teachers import KEEPER, SHARED, Keeper, Sharing, borrowed, bytes_of
from zoo.probe import digest
from zoo.records import load_records

COMPARISON: dict[str, Any] = {
    "id": "shared", "title": "Shared", "pair": "micro", "methods": ["gkd_on_policy", "sft"], "seeds": [0], "suites": ["micro"],
    "budget": {"unit": "supervised_tokens", "amount": 3000},
    "settings": {"rollouts_per_step": 16, "max_new_tokens": 24, "learning_rate": 1.0e-3, "checkpoint_every": 1},
    "evaluation": {"limit": 4},
}  # fmt: skip
MEASURED = ("seconds", "peak_memory_bytes")
# The teacher is evaluated, writes and scores, has an adapter, reads a soft prompt, is read through a projector, and teaches beside peers; that no entry's
# steps touch it is seen in test_every_entry.py.
SEVERAL = ["teacher", "gkd", "okd", "promptkd", "dskd", "copd"]


@pytest.fixture(autouse=True)
def by_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """No service of a GPU's is started, where there is one."""
    monkeypatch.setenv(CHOICE, "off")


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[Keeper]:
    """A keeper of the micro pair's teacher, of which this process was told."""
    keeper = Keeper(Sharing(load_pair_spec("micro"), {}, chosen="on"), "cpu", {}, [1, 2])
    for name, value in keeper.told.items():
        monkeypatch.setenv(name, value)
    yield keeper
    keeper.close()


def add_one(told: dict[str, str]) -> None:
    """In a process of its own, what nobody may do: write to a borrowed weight."""
    os.environ.update(told)
    with torch.no_grad():
        next(borrowed(print)["teacher"].parameters()).add_(1.0)  # type: ignore[index]


def test_workers_read_the_keepers_own_memory(kept: Keeper) -> None:
    pair = load_pair(load_pair_spec("micro"), lender=lambda: borrowed(pytest.fail))
    mine, own = pair.teachers["teacher"], load_teachers(pair.spec, {}, torch.device("cpu"))["teacher"]
    assert pair.lent and digest(mine) == digest(own) and not mine.training and not any(p.requires_grad for p in mine.parameters())
    assert type(mine) is type(own) and mine.generation_config.do_sample is False and bytes_of([mine]) == bytes_of([own])
    ids = torch.tensor([[1, 2, 3, 4]])
    assert torch.equal(mine(ids).logits, own(ids).logits)
    assert unsupported(mine) is None
    before = [p.data_ptr() for p in mine.parameters()]
    layer = gather(mine).layers[0]  # the native decoder's weights
    assert [p.data_ptr() for p in mine.parameters()] == before and torch.equal(layer.qkv, gather(own).layers[0].qkv)
    other = start_server().Process(target=add_one, args=(kept.told,))  # type: ignore[attr-defined]
    other.start()
    other.join()
    assert other.exitcode == 0
    third = borrowed(pytest.fail)
    assert third is not None and torch.equal(next(third["teacher"].parameters()), next(own.parameters()) + 1.0)


def test_no_cell_writes_to_a_teacher(kept: Keeper, tmp_path: Path) -> None:
    before = borrowed(pytest.fail)
    assert before is not None
    known = digest(before["teacher"])
    few = {**COMPARISON, "methods": SEVERAL, "budget": {"unit": "supervised_tokens", "amount": 100}, "evaluation": {"limit": 1}}
    (tmp_path / "shared.yaml").write_text(yaml.safe_dump(few))
    outcomes = run_comparison(load_comparison(tmp_path / "shared.yaml"), load_registry(), Place(tmp_path / "results"), device="cpu", worker=True)
    assert {outcome.cell.method: (outcome.status, outcome.message) for outcome in outcomes} == dict.fromkeys(SEVERAL, ("success", ""))
    assert digest(before["teacher"]) == known and kept.poll() is None


class Killer(Listener):
    """At the first step that it hears of, kills the worker of that cell, or the keeper."""

    def __init__(self, victim: str) -> None:
        self.victim, self.said, self.cells = victim, list[str](), list[tuple[str, str]]()
        self.crew: Any = None
        self.keepers: list[Any] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def end(self, method: str, seed: int, status: str, message: str = "") -> None:
        self.cells.append((method, status))

    def step(self, method: str, seed: int, row: dict[str, Any]) -> None:
        victim, self.victim = self.victim, ""
        if victim == "worker":
            os.kill(next(w for w in self.crew.workers if w.cell == (method, seed)).process.process.pid, signal.SIGKILL)
        elif victim == "keeper":
            os.kill(self.keepers[0].pid, signal.SIGKILL)


def numbers(results: Path) -> dict[str, Any]:
    """What each cell's record says, but for what was measured of the machine."""
    found = {}
    for record in load_records(results / "records", "shared"):
        spent = {key: value for key, value in record.run.budget.spent.items() if key not in MEASURED}
        scores = [(e.suite, {name: (task.metrics, task.n) for name, task in e.tasks.items()}) for e in record.evals]
        found[record.run.method] = (record.run.status, spent, record.run.final, scores)
    return found


# Who is killed, how the first keepers ended, and what is said of it.
ENDS = {
    "nobody": ([], []),
    "worker": ([-15], ["was killed by signal 9 at"]),
    "keeper": ([-9], ["the process that kept the teachers ended with exit code -9; another one takes its place"]),
}


def test_results_are_the_same_with_sharing_and_without_whoever_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shared.yaml").write_text(yaml.safe_dump(COMPARISON))
    opened, found = crew.Crew._open, {}
    for victim, (codes, told) in ENDS.items():
        killer = Killer(victim)

        def noted(self: Any, group: Any, overlapping: bool, killer: Killer = killer) -> None:
            opened(self, group, overlapping)
            killer.crew, killer.keepers = self, [group.keeper.process] if group.keeper else []

        monkeypatch.setattr(crew.Crew, "_open", noted)
        arguments = ["run", str(tmp_path / "shared.yaml"), "--results", str(tmp_path / victim), "--device", "cpu"]
        run_packed(arguments, 2, killer, "cpu", Sharing(load_pair_spec("micro"), {}, chosen="on" if codes else "off"))
        assert sorted(killer.cells) == [("gkd_on_policy", "success"), ("sft", "success")]
        assert [process.exitcode for process in killer.keepers] == codes
        assert [line in heard for line, heard in zip(told, [h for h in killer.said if "kill" in h or "teachers" in h], strict=True)] == [True] * len(told)
        found[victim] = numbers(tmp_path / victim)
    assert found["nobody"] == found["worker"] == found["keeper"] and found["nobody"].keys() == {"gkd_on_policy", "sft"}


def test_each_gpu_whose_workers_share_has_a_keeper(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[tuple[str | None, str, tuple[int, ...]]] = []
    told: list[tuple[str | None, str | None]] = []

    def keeper(sharing: Any, device: str, place: dict[str, str], numbers: list[int]) -> Any:
        kept.append((place.get("CUDA_VISIBLE_DEVICES"), device, tuple(numbers)))
        return SimpleNamespace(numbers=numbers, told={KEEPER: f"keeper {len(kept)}"}, poll=lambda: None, close=lambda: None)

    def start(arguments: Any, number: int, heard: Any, place: dict[str, str]) -> Any:
        told.append((place.get("CUDA_VISIBLE_DEVICES"), place.get(KEEPER)))
        return SimpleNamespace(number=number, join=lambda: 0, process=SimpleNamespace(poll=lambda: 0))

    monkeypatch.setattr(crew, "Keeper", keeper)
    monkeypatch.setattr(crew, "start", start)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,2")
    for count, jobs in ((2, 3), (1, 2)):
        monkeypatch.setattr(packing.torch.cuda, "device_count", lambda count=count: count)
        run_packed(["run", "any"], jobs, lambda line: None, "cuda", sharing_of(2 * CONTEXT))
    assert kept == [("4", "cuda", (1, 3)), (None, "cuda", (1, 2))]
    assert told == [("4", "keeper 1"), ("2", None), ("4", "keeper 1"), (None, "keeper 2"), (None, "keeper 2")]


def test_keepers_that_end_again_and_again_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    process = SimpleNamespace(poll=lambda: None, terminate=lambda: None)
    worker = SimpleNamespace(number=1, join=lambda: -15, complaints=[], cell=("gkd", 3), process=process)
    started: list[int] = []
    keeper = SimpleNamespace(numbers={1}, told={}, poll=lambda: 1, start=lambda: started.append(1), close=lambda: started.append(0))
    monkeypatch.setattr(crew, "start", lambda *_: worker)
    monkeypatch.setattr(crew, "Keeper", lambda *_: keeper)
    sharing: Any = SimpleNamespace(pays=lambda workers, device: True)
    with pytest.raises(ZooError, match=r"the process that kept the teachers ended with exit code 1, and 3 processes .* last checkpoint: zoo run any"):
        run_packed(["run", "any"], 1, lambda line: None, "cpu", sharing)
    assert len(started) == RESTARTS


def test_a_teacher_that_cannot_be_loaded_is_the_same_one_line(pair_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, empty = load_pair_spec(pair_file), {"teacher": tmp_path}
    with pytest.raises(ZooError) as own:
        load_pair(spec, paths=empty)
    keeper = Keeper(Sharing(spec, empty, chosen="on"), "cpu", {}, [7])
    monkeypatch.setenv(KEEPER, keeper.address)
    with pytest.raises(ZooError) as lent:
        borrowed(pytest.fail)
    keeper.close()
    assert str(lent.value) == str(own.value) and "teacher is missing at" in str(own.value)


def test_without_a_keeper_a_worker_loads_its_own_and_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said: list[str] = []
    monkeypatch.delenv(KEEPER, raising=False)
    assert borrowed(said.append) is None and said == []
    monkeypatch.setenv(KEEPER, str(tmp_path / "nobody"))
    monkeypatch.setattr(shared_teachers, "PATIENCE", 0.0)
    assert borrowed(said.append) is None
    assert said == ["the teachers are not shared, and this worker loads its own (FileNotFoundError: [Errno 2] No such file or directory)"]


def sharing_of(size: int, chosen: str = "auto") -> Sharing:
    sharing = Sharing(load_pair_spec("micro"), {}, chosen=chosen)
    sharing.__dict__["size"] = size
    return sharing


def test_teachers_are_shared_where_the_copies_saved_are_larger_than_the_keepers_context() -> None:
    smollm, qwen = sharing_of(int(0.25 * CONTEXT)), sharing_of(int(2.9 * CONTEXT))
    assert [smollm.pays(n, "cuda") for n in (1, 2, 5, 6, 8)] == [False, False, False, True, True]
    assert [qwen.pays(n, "cuda:1") for n in (1, 2)] == [False, True]
    assert not qwen.pays(8, "cpu") and not sharing_of(10 * CONTEXT, "off").pays(8, "cuda")
    assert sharing_of(0, "on").pays(2, "cpu") and not sharing_of(0, "on").pays(1, "cpu")
    assert not Sharing(load_pair_spec("micro"), {}).pays(100, "cuda"), "tiny models would cost a context and save nothing"


def test_the_size_of_teachers_is_read_off_their_files(pair_file: Path, tmp_path: Path) -> None:
    spec = load_pair_spec(pair_file)
    teacher, student = (bytes_of([model]) // 2 for model in (load_pair(spec).teachers["teacher"], load_pair(spec).student))
    assert Sharing(spec, {}).size == pytest.approx(teacher, rel=0.01)  # in bf16; buffers are in no file
    assert Sharing(spec, {"teacher": Path(spec.student.path or "")}).size == pytest.approx(student, rel=0.01)
    (tmp_path / "model.safetensors").write_bytes(b"no such thing")
    assert Sharing(spec, {"teacher": tmp_path}).size == Sharing(spec, {"teacher": tmp_path / "nowhere"}).size == 0
    far = spec.model_copy(update={"teachers": {"teacher": type(spec.student)(hub="no/such-model", revision="main")}})
    assert Sharing(far, {}).size == 0


def test_more_cells_fit_a_gpu_where_they_share(monkeypatch: pytest.MonkeyPatch) -> None:
    spent = {"peak_memory_bytes": 20 * CONTEXT, "supervised_tokens": 1}
    run = SimpleNamespace(status="success", method="gkd", budget=SimpleNamespace(spent=spent), provenance={"device": "cuda"})
    records: Any = [SimpleNamespace(run=run)]  # 25 GiB each
    monkeypatch.setattr(packing.os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(packing.torch.cuda, "mem_get_info", lambda _: (80 * CONTEXT, 80 * CONTEXT))

    def fit(sharing: Sharing | None) -> int:
        return jobs_for("auto", "cuda:0", 99, records, sharing)

    assert [fit(None), fit(sharing_of(10 * CONTEXT, "off")), fit(sharing_of(CONTEXT // 100))] == [3, 3, 3]
    assert fit(sharing_of(10 * CONTEXT)) == (80 - 1 - 10) // (25 - 12) == 5
    assert fit(sharing_of(0)) == 3  # not known


def test_memory_that_is_kept_for_all_counts_in_peaks_and_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 700)
    teacher = torch.nn.Linear(10, 10, bias=False)
    teacher.tied = teacher.weight  # type: ignore[assignment]
    pair: Any = SimpleNamespace(student=SimpleNamespace(device=torch.device("cuda")), teachers={"teacher": teacher}, lent=False)
    assert run_record.peak_memory(pair) == 700
    pair.lent = True
    assert run_record.peak_memory(pair) == 700 + 400
    seen: list[float] = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=40 * CONTEXT))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, device: seen.append(share))
    reserve(torch.device("cuda:0"), 0.25, 4 * CONTEXT)
    assert seen == [pytest.approx(((40 - 4) / 4 - 1) / 40)]


def used(told: dict[str, str], end: Any) -> None:
    """In a process of its own on a GPU: how much of it the teacher took beyond the context, and its logits."""
    os.environ.update(told)
    torch.zeros(1, device="cuda")
    free = torch.cuda.mem_get_info()[0]
    teacher = (borrowed(print) or load_teachers(load_pair_spec("micro"), {}, torch.device("cuda")))["teacher"]
    taken, own = free - torch.cuda.mem_get_info()[0], torch.cuda.memory_allocated()
    with torch.no_grad():
        logits = teacher(torch.arange(1, 9, device="cuda")[None]).logits
    end.send((taken, own, logits.float().cpu().numpy()))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_two_processes_read_the_same_memory() -> None:
    context, sharing = start_server(), Sharing(load_pair_spec("micro"), {}, chosen="on")
    keeper, found = Keeper(sharing, "cuda", {}, [9]), []
    for told in (keeper.told, keeper.told, {}):  # the keeper itself loads while the first one waits
        here, there = context.Pipe()
        process = context.Process(target=used, args=(told, there))  # type: ignore[attr-defined]
        process.start()
        found.append(here.recv())
        process.join()
    keeper.close()
    assert not list(SHARED.glob(f"torch_{keeper.process.pid}_*"))
    assert all((logits == found[-1][2]).all() for _, _, logits in found)
    assert max(found[0][1], found[1][1]) < sharing.size <= found[2][1], "bytes of their own"
    assert found[1][0] < found[2][0], "bytes of the device, which gives them by the 2 MiB"
