"""Diagnostics: what is logged, against plain numpy; that nothing else changes; that nothing is lost or doubled when a run is killed."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from harness_kit import LOG_RATIO, REVERSE_KL, TEACHER, comparison, made, read_pair, registry, shipped, stub_evaluation, trainer_of, weights

from zoo.harness import run
from zoo.harness.comparison import settings_that_matter
from zoo.harness.diagnose import fixed_prompts
from zoo.harness.diagnose_files import forget, gather, read_shards, write_shard
from zoo.harness.diagnose_records import CURVE_COLUMNS, compact, curve_of, rounded
from zoo.harness.diagnose_steps import SLICES
from zoo.harness.diagnose_texts import answer_of, compression, marked
from zoo.harness.diagnose_tokens import repeated, routed
from zoo.harness.models import LoadedPair
from zoo.harness.plan import Place
from zoo.method import Method
from zoo.records import load_records
from zoo.tasks.micro import MicroTask, split_of

DIRECT = made("direct", rollout={"author": "student"}, **TEACHER, objective=[REVERSE_KL])
SAMPLED = made("sampled", rollout={"author": "student"}, **TEACHER, objective=[LOG_RATIO])
TRUNCATED = made("truncated", rollout={"author": "student"}, **TEACHER, objective=[{**REVERSE_KL, "support": {"kind": "teacher_topk", "k": 3, "mass": "raw"}}])
OWN = made("own", rollout={"author": "student"}, teachers={"self": {"kind": "student", "weights": "initial"}}, objective=[{**REVERSE_KL, "teacher": "self"}])


@pytest.fixture(scope="module")
def pair(pair_file: Path) -> LoadedPair:
    return read_pair(pair_file)


def seen(entry: Any, pair: LoadedPair, folder: Path, **settings: Any) -> tuple[Any, pd.DataFrame, pd.DataFrame]:
    """A trainer after its run, with what was logged."""
    trainer = trainer_of(entry, pair, **{"budget": {"amount": 120}, **settings})
    trainer.diagnosis.keep(folder)
    trainer.train(lambda row: None, lambda: None)
    tables = [read_shards(folder, name) for name in ("tokens", "rollouts")]
    return trainer, *(pd.DataFrame() if table is None else table.to_pandas() for table in tables)


@pytest.mark.parametrize("name", ["minillm", "opsd", "gkd", "grpo", "sft", "distillm"])
def test_diagnostics_change_no_bit_of_the_weights(pair: LoadedPair, tmp_path: Path, name: str) -> None:
    ends, spent = {}, {}
    for every in (0, 1):
        settings = {"diagnose_every": every, "evaluate_every": 2 * every, "rollouts_per_step": 16, "budget": {"amount": 200}}
        trainer, tokens, _ = seen(shipped(name), pair, tmp_path / str(every), **settings)
        ends[every], spent[every] = weights(pair.student), {k: v for k, v in vars(trainer.spent).items() if k != "seconds"}
        assert tokens.empty == (every == 0)
    assert all(torch.equal(a, b) for a, b in zip(ends[0].values(), ends[1].values(), strict=True))
    assert spent[0] == spent[1]


def test_settings_change_no_run_key_and_appear_only_where_they_are_set() -> None:
    assert settings_that_matter(comparison(diagnose_every=3, evaluate_every=5), "gkd") == settings_that_matter(comparison(), "gkd")
    assert not {"diagnose_every", "evaluate_every"} & set(comparison().settings.model_dump(mode="json"))
    assert comparison(diagnose_every=0, evaluate_every=5).settings.model_dump()["diagnose_every"] == 0


def laws(pair: LoadedPair, trainer: Any, tokens: pd.DataFrame) -> list[tuple[pd.DataFrame, np.ndarray, np.ndarray]]:
    """For each logged sequence its rows, and both models' laws (T, V) before each token, read from whole logits."""
    prompts = {row["rollout"]: row["prompt"] for row in trainer.logged}
    found = []
    for number, rows in tokens.groupby("rollout"):
        prompt = next(p for p in trainer.prompts if p.id == prompts[number])
        ids = [*pair.format_prompt(prompt), *rows["token"]]
        start = len(ids) - len(rows) - 1
        with torch.no_grad():
            both = [model(torch.tensor([ids])).logits[0, start:-1].softmax(-1).numpy() for model in (pair.student, pair.teachers["teacher"])]
        found.append((rows, *both))
    return found


def test_token_columns_against_plain_numpy(pair: LoadedPair, tmp_path: Path) -> None:
    trainer = trainer_of(TRUNCATED, pair, diagnose_every=1, rollouts_per_step=4)
    trainer.diagnosis.keep(tmp_path)
    method = Method(trainer.entry)
    trainer.diagnosis.begin()
    scored = trainer.judge(method, trainer.write(method))
    contexts = {name: part.context for name, part in scored.items()}
    prepared = method.prepare(contexts)
    row = trainer.diagnosis.look(method, scored, contexts, prepared)
    trainer.iteration = 1
    trainer.diagnosis.flush()
    tokens, rollouts = (read_shards(tmp_path, name).to_pandas() for name in ("tokens", "rollouts"))
    trainer.logged = rollouts.to_dict("records")
    assert len(rollouts) == 4 and set(rollouts["length"]) == set(tokens.groupby("rollout").size())
    for rows, p, q in laws(pair, trainer, tokens):
        at, token = np.arange(len(rows)), rows["token"].to_numpy()
        assert np.allclose(rows["logp_student"], np.log(p[at, token]), atol=1e-4)
        assert np.allclose(rows["logp_teacher"], np.log(q[at, token]), atol=1e-4)
        assert np.allclose(rows["logp_sampled"], rows["logp_student"], atol=1e-4)  # nothing has moved yet
        assert np.allclose(rows["entropy_student"], -(p * np.log(p)).sum(1), atol=1e-4)
        assert np.allclose(rows["kl"], (p * np.log(p / q)).sum(1), atol=1e-4)
        assert np.allclose(rows["kl_forward"], (q * np.log(q / p)).sum(1), atol=1e-4)
        top_p, top_q = np.argsort(-p, 1), np.argsort(-q, 1)
        for k, column in ((4, "overlap_k4"), (10, "overlap_k16")):  # a quarter of 40 tokens
            assert np.allclose(rows[column], [len({*a[:k]} & {*b[:k]}) / k for a, b in zip(top_p, top_q, strict=True)])
        assert np.allclose(rows["support_student_mass"], [p[t, top_q[t, :3]].sum() for t in at], atol=1e-5)
        assert np.allclose(rows["support_teacher_mass"], [q[t, top_q[t, :3]].sum() for t in at], atol=1e-5)
        two = np.sort(np.log(np.take_along_axis(q, top_p[:, :4], 1)), 1)
        assert np.allclose(rows["margin"], two[:, -1] - two[:, -2], atol=1e-4)
        terms = np.abs(q * np.log(q / p))
        assert np.allclose(rows["tail_share"], (terms * (q < 1e-3)).sum(1) / terms.sum(1), atol=1e-4)
        assert np.allclose(rows["stop_student"], p[:, list(pair.stop_ids)].sum(1), atol=1e-5)
        assert np.allclose(rows["value"], [sum(p[t, v] * np.log(p[t, v] / q[t, v]) for v in top_q[t, :3]) for t in at], atol=1e-4)
        assert np.allclose(rows["weight"], 1.0, atol=1e-5)  # a plain token mean
    assert row["seen.main.kl"] == pytest.approx(tokens["kl"].mean(), rel=1e-5)
    assert row["ratio.main.ess"] == pytest.approx(1.0, abs=1e-6) and row["seen.main.drift"] < 1e-4 and row["lag.main"] == 0.0


def test_routed_share_is_where_a_step_down_sends_the_mass() -> None:
    """Against the softmax itself after a small step on the logits of a written token."""
    logits = torch.tensor([[2.0, 1.0, 0.3, -0.5, -1.0, -3.0]], dtype=torch.float64)
    p, down = logits.softmax(-1), logits.clone()
    token, best = torch.tensor([1]), torch.tensor([[0, 1, 3]])
    onehot = torch.nn.functional.one_hot(token, 6)
    moved = (down - 1e-6 * (onehot - p)).softmax(-1) - p
    gain = moved.clamp(min=0)
    gain[0, 1] = 0.0
    assert float(routed(p.log(), best, token)) == pytest.approx(float(gain[0, [0, 3]].sum() / gain.sum()), rel=1e-4)


def test_an_advantage_and_its_weight_are_those_of_the_update(pair: LoadedPair, tmp_path: Path) -> None:
    _, tokens, rollouts = seen(SAMPLED, pair, tmp_path, diagnose_every=1)
    assert set(tokens["signal"]) == {"advantage"}
    assert np.allclose(tokens["value"], tokens["logp_teacher"] - tokens["logp_behaviour"], atol=1e-4)
    assert rollouts["prompt"].notna().all() and set(rollouts["author"]) == {"student"}


def test_who_is_its_own_teacher_is_compared_with_the_pairs_teacher_and_with_itself(pair: LoadedPair, tmp_path: Path) -> None:
    _, tokens, _ = seen(OWN, pair, tmp_path, diagnose_every=1)
    first = tokens[tokens["step"] == 1]
    assert np.allclose(first["kl_own"], 0.0, atol=1e-5) and first["kl"].mean() > 0.1
    later = tokens[tokens["step"] == tokens["step"].max()]
    assert later["kl_own"].mean() > 1e-4


def test_sequences_do_not_depend_on_micro_batches_and_differ_between_iterations(pair: LoadedPair, tmp_path: Path) -> None:
    frames = {}
    for size in (60, 4000):
        _, frames[size], _ = seen(DIRECT, pair, tmp_path / str(size), diagnose_every=1, micro_tokens=size, rollouts_per_step=32, budget={"amount": 250})
    keys = ["step", "rollout", "position", "token"]
    assert frames[60][keys].equals(frames[4000][keys])
    chosen = frames[60].groupby("step")["rollout"].unique().map(sorted).tolist()
    assert len(chosen[0]) == 8 and chosen[0] != chosen[1]


def test_gradient_noise_is_that_of_the_slices_and_leaves_gradients_alone(pair: LoadedPair, tmp_path: Path) -> None:
    trainer = trainer_of(DIRECT, pair, diagnose_every=1, rollouts_per_step=16)
    method = Method(trainer.entry)
    scored = trainer.judge(method, trainer.write(method))
    contexts = {name: part.context for name, part in scored.items()}
    prepared = method.prepare(contexts)
    trainer.diagnosis.begin()
    row = trainer.diagnosis.look(method, scored, contexts, prepared)
    assert all(p.grad is None for p in trainer.trained)
    slices = []
    for number in range(SLICES):
        index = [i for i in range(16) if i % SLICES == number]
        trainer.mover.gather(method, {"main": scored["main"].rows(index)}, [p.rows(index) for p in prepared])
        slices.append(SLICES * np.concatenate([p.grad.flatten().double().numpy() for p in trainer.trained]))
        trainer.optimizer.zero_grad(set_to_none=True)
    mean = np.mean(slices, 0)
    noise = np.sum([(g - mean) ** 2 for g in slices]) / (SLICES - 1) / SLICES
    assert row["snr"] == pytest.approx((float(mean @ mean) - noise) / noise, rel=1e-4)
    assert row["grad_noise"] == pytest.approx(noise**0.5, rel=1e-4)


def test_step_figures_of_advantages(pair: LoadedPair, tmp_path: Path) -> None:
    trainer = trainer_of(SAMPLED, pair, diagnose_every=5)
    method = Method(trainer.entry)
    scored = trainer.judge(method, trainer.write(method))
    contexts = {name: part.context for name, part in scored.items()}
    prepared = method.prepare(contexts)
    row = trainer.diagnosis.look(method, scored, contexts, prepared)
    mask = contexts["main"].mask_BT
    values = prepared[0].columns["advantage"][mask].double().numpy()
    assert row["advantage.0.main.mean"] == pytest.approx(values.mean()) and row["advantage.0.main.std"] == pytest.approx(values.std())
    assert row["advantage.0.main.q01"] == pytest.approx(np.quantile(values, 0.01)) and row["advantage.0.main.q99"] == pytest.approx(np.quantile(values, 0.99))
    assert row["advantage.0.main.negative"] == pytest.approx((values < 0).mean()) and row["kept.0.main"] == 1.0
    assert row["advantage.0.main.tail"] == pytest.approx(np.abs(values)[np.abs(values) > 10].sum() / np.abs(values).sum())
    assert not any(key.startswith("seen.") for key in row)  # no diagnosed iteration


# --- texts


def test_texts_are_measured() -> None:
    assert (
        compression("ab" * 200) == 128 / len(zlib.compress(b"ab" * 64, 9)) > 9
        and np.isnan(compression("ab" * 20))
        and compression("".join(map(chr, range(33, 126)))) < 1.2
    )
    assert repeated(list("abcdef" * 3), 6, 3, 128) == [False] * 12 + [True] * 6 and not any(repeated(list("abcdef" * 2), 6, 3, 128))
    assert repeated([*"abcdefabcdefabcdef", *"zyxwvu"], 6, 3, 128)[-6:] == [False] * 6
    assert not any(repeated([*"abcdef", *range(200), *"abcdef", *range(300, 500), *"abcdef"], 6, 3, 128))  # too far apart
    assert (marked("Wait, maybe. Waiting", "gsm8k"), marked("3 8?? 15", "micro")) == (2, 2)
    assert (answer_of("3 8#17"), answer_of(r"so \boxed{42} it is"), answer_of("nothing")) == ("17", "42", None)


# --- files


def shard(folder: Path, iteration: int, rank: int, rows: list[int]) -> None:
    write_shard(folder, iteration, rank, {name: [{"step": [iteration] * len(rows), "stream": ["main"] * len(rows), "rollout": rows, "position": rows}]
                                          for name in ("rollouts", "tokens")})  # fmt: skip


def test_files_are_written_over_forgotten_and_put_together_in_order(tmp_path: Path) -> None:
    for iteration, rank, rows in ((0, 1, [3]), (0, 0, [1, 2]), (10, 0, [4]), (20, 0, [5]), (10, 0, [4])):
        shard(tmp_path, iteration, rank, rows)
    assert read_shards(tmp_path, "tokens").column("rollout").to_pylist() == [1, 2, 3, 4, 5]
    forget(tmp_path, 10)
    shard(tmp_path, 10, 0, [6])
    gather(tmp_path, tmp_path / "logs", "u")
    assert pd.read_parquet(tmp_path / "logs" / "u-rollouts.parquet")["rollout"].tolist() == [1, 2, 3, 6]
    assert not list(tmp_path.glob("**/*.partial"))
    gather(tmp_path / "nothing", tmp_path / "none", "u")
    assert not (tmp_path / "none").exists()


def test_streams_with_other_columns_share_a_file(tmp_path: Path) -> None:
    write_shard(tmp_path, 0, 0, {"tokens": [{"step": [1], "stream": ["a"], "rollout": [0], "position": [0], "kl": [0.5]},
                                            {"step": [1], "stream": ["b"], "rollout": [0], "position": [0]}]})  # fmt: skip
    assert read_shards(tmp_path, "tokens").column("kl").to_pylist() == [0.5, None]


# --- records


def test_a_curve_has_few_points_with_both_ends_and_what_was_measured() -> None:
    rows = [{"step": i + 1, "loss.0.x": 1.0, "loss.1.y": 0.5, "grad_norm": 2.0, "length.main": 10.0, "length.other": 20.0} for i in range(333)]
    for i in range(0, 333, 10):
        rows[i]["seen.main.entropy_student"], rows[i]["seen.main.kl"] = 1 / 3, float("nan")
    curve = curve_of(rows)
    steps = [point[0] for point in curve["points"]]
    assert len(steps) == 40 and (steps[0], steps[-1]) == (1, 333) and set(range(1, 333, 10)) <= set(steps) and steps == sorted(set(steps))
    at = {name: curve["columns"].index(name) for name in curve["columns"]}
    assert set(at) == {"step", "loss", "grad_norm", "length", "entropy"} <= set(CURVE_COLUMNS)
    assert [curve["points"][0][at[name]] for name in ("loss", "length", "entropy")] == [1.5, 15, 0.3333]
    assert len(curve_of(rows[:7])["points"]) == 7
    every = [{**row, "seen.main.entropy_student": 1.0} for row in rows]
    assert len(curve_of(every)["points"]) == 40


def test_numbers_are_short_and_never_infinite() -> None:
    assert [rounded(x) for x in (0.123456, 1e-9 / 3, 123456.0, float("inf"), float("nan"))] == [0.1235, 3.333e-10, 123456, None, None]


def run_cell(pair: LoadedPair, pair_file: Path, results: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> tuple[Any, Path]:
    monkeypatch.setattr(run, "load_pair", lambda *_, **__: pair)
    monkeypatch.setattr(run, "evaluate", stub_evaluation)
    declared = comparison(pair_file, methods=("gkd",), budget={"amount": 200}, **settings)
    [outcome] = run.run_comparison(declared, registry(shipped("gkd")), Place(results), device="cpu")
    return outcome, results / "logs" / "trial" / "gkd-s0"


def test_a_cell_leaves_logs_and_two_small_records(pair: LoadedPair, pair_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome, logs = run_cell(pair, pair_file, tmp_path, monkeypatch, diagnose_every=2, evaluate_every=2)
    names = {file.name.split("-", 5)[-1] for file in logs.iterdir()}
    assert {"steps.parquet", "rollouts.parquet", "tokens.parquet"} <= names
    failures, curve = (json.loads((outcome.record / name).read_text()) for name in ("failures.json", "curve.json"))
    assert failures["kind"] == "failures" and failures["findings"]["FM05"][0] in ("silent", "amber", "red", "not_measured")
    assert (outcome.record / "failures.json").stat().st_size <= 3072 and (outcome.record / "curve.json").stat().st_size <= 5120
    assert curve["points"][-1][curve["columns"].index("accuracy")] is not None
    steps = pd.read_parquet(next(logs.glob("*-steps.parquet")))
    assert steps["accuracy.start"].notna().sum() == 1 and steps["accuracy.valid"].notna().sum() == len(steps) // 2 + len(steps) % 2
    [record] = load_records(tmp_path / "records", "trial")
    assert "diagnose" in record.run.phases and not any(key.startswith(("seen.", "kept.")) for key in record.run.final)


def test_without_diagnostics_nothing_is_written(pair: LoadedPair, pair_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome, logs = run_cell(pair, pair_file, tmp_path, monkeypatch, diagnose_every=0)
    assert sorted(file.name.split("-")[0] for file in outcome.record.iterdir()) == ["eval", "run.json"]
    assert not list(logs.glob("*-tokens.parquet"))
    assert load_records(tmp_path / "records", "trial")[0].run.status == "success"


def test_a_finding_is_recorded_shortly() -> None:
    from zoo.failures import Finding

    assert compact(Finding("FM05", "red", 0.0123456, 40, {"x": 1}, reason="y" * 300)) == ["red", 0.01235, 40, "y" * 71 + "…"]
    assert compact(Finding("FM05", "not_measured")) == ["not_measured", None, None, ""]


# --- fixed texts


def test_fixed_texts_are_the_same_all_along_and_of_two_kinds(pair: LoadedPair, tmp_path: Path) -> None:
    seen(DIRECT, pair, tmp_path, diagnose_every=1)
    fixed = read_shards(tmp_path, "fixed").to_pandas()
    texts = fixed.groupby("step")["token"].apply(list)
    assert len(texts) > 1 and all(text == texts.iloc[0] for text in texts) and fixed["kl"].notna().all()
    assert fixed.groupby("step")["kl"].mean().nunique() == len(texts)  # it is the student that changes
    prompts = fixed_prompts(MicroTask())
    assert [p.fields["domain"] for p in prompts] == ["add"] * 8 + ["copy"] * 8
    assert all(split_of("copy", p.fields["content"]) == "valid" for p in prompts[8:])
    assert [p.id for p in prompts] == [p.id for p in fixed_prompts(MicroTask())]
