"""The command line: every command, its plain data, and how mistakes end."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from zoo.cli import app
from zoo.harness.train import Trainer
from zoo.paths import data_root

COMPARISON = """
id: cli
title: Three cells
pair: micro
methods: [student, no_op, gkd]
seeds: [0]
suites: [micro]
budget: {unit: supervised_tokens, amount: 600}
settings: {rollouts_per_step: 16, max_new_tokens: 24, learning_rate: 1.0e-3}
evaluation: {limit: 8}
"""
COMMANDS = (
    "list", "show", "diff", "taxonomy", "check", "schema", "plan", "run", "status", "tables", "trace", "export", "figures", "site", "scores", "suites",
    "version",
    "pairs list", "pairs show", "pairs build", "stats coverage",
)  # fmt: skip


def zoo(*arguments: Any, code: int = 0, **environment: str) -> Result:
    """Run a command in this process and insist on its exit code."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200", **environment})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def data(*arguments: Any, code: int = 0) -> Any:
    """The plain data that a command prints with --json."""
    return json.loads(zoo(*arguments, "--json", code=code).stdout)


@dataclass(frozen=True)
class Ran:
    """A small comparison that was run by `zoo run`."""

    file: Path
    results: Path
    tables: Path
    output: str

    def __call__(self, command: str, *more: Any) -> tuple[Any, ...]:
        return (command, self.file, "--results", self.results, *more)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("cli")
    file, results, tables = folder / "cli.yaml", folder / "results", folder / "tables"
    file.write_text(COMPARISON, encoding="utf-8")
    left = data("plan", file, "--results", results)
    assert [c["state"] for c in left["cells"]] == ["left"] * 3
    assert (left["tokens_each"], left["tokens_left"]) == (600, 1200)
    result = zoo("run", file, "--results", results, "--tables", tables, "--device", "cpu")
    assert not result.stderr
    return Ran(file, results, tables, result.stdout)


# --- entries


def test_list_shows_every_method_with_its_coordinates() -> None:
    rows = {row["id"]: row for row in data("list")}
    assert rows["gkd"]["coordinates"]["estimator"] == ["direct"]
    assert rows["gkd"]["evidence"] == "code" and rows["gkd"]["executable"] is True
    assert rows["student"]["coordinates"] is None
    table = zoo("list").stdout
    assert all(name in table for name in rows)


@pytest.mark.parametrize(
    ("arguments", "inside", "outside"),
    [
        (["--signal", "outcome"], "grpo", "gkd"),
        (["--access", "teacher_free", "--signal", "self_play"], "opsd", "grpo"),
        (["--estimator", "preference"], "orpo_distill", "gkd"),
        (["--routing", "teacher_topk"], "eopd", "gkd"),
        (["--failure", "FM15"], "kdrl", "grpo"),
        (["--granularity", "sequence"], "grpo", "gkd"),
        (["--evidence", "code"], "gkd", "eopd"),
        (["--survey", "A"], "eopd", "student"),
        (["--scope", "text", "--kind", "method"], "gkd", None),
        (["--executable"], "gkd", None),
        (["--blocked"], None, "gkd"),
        (["--estimator", "pg_immediate", "--survey", "B"], "eopd", "gkd"),
    ],
)
def test_list_filters(arguments: list[str], inside: str | None, outside: str | None) -> None:
    names = {row["id"] for row in data("list", *arguments)}
    assert (inside is None or inside in names) and outside not in names


def test_list_ends_with_totals_by_evidence_of_what_is_listed() -> None:
    every, few = zoo("list").stdout.splitlines(), zoo("list", "--estimator", "preference", "--evidence", "paper_text").stdout.splitlines()
    assert re.fullmatch(r"\d+ entries", every[-3])
    assert re.match(r"\d+ methods, \d+ executable; beside them \d+ variants, .*anchors", every[-2])
    assert re.match(r"by evidence: code \d+ \(\d+ executable\), paper_text \d+", every[-1])
    assert "code 0 (0 executable)" in few[-1] and int(few[-3].split()[0]) < int(every[-3].split()[0])


def test_a_filter_value_that_does_not_exist_is_a_usage_error_with_the_nearest() -> None:
    assert "did you mean 'logit'?" in zoo("list", "--signal", "logits", code=2).stderr


def test_a_narrow_terminal_keeps_every_identifier_whole() -> None:
    from rich.console import Console

    from zoo.show import list_table

    out = io.StringIO()
    Console(file=out, width=80).print(list_table(data("list"), 80))
    assert "revisiting_opd" in out.getvalue() and max(map(len, out.getvalue().splitlines())) <= 80


def test_show_writes_an_entry_out() -> None:
    shown = zoo("show", "eopd").stdout
    for part in ("2603.07079", "objective[1] divergence: (logit, token, direct, teacher_topk)", "forward_kl", "deviations", "FM02"):
        assert part in shown
    described = data("show", "eopd")
    assert described["derived"]["terms"][0]["tuples"] == [[["logit"], "token", "pg_immediate", "sampled_token"]]
    assert described["derived"]["coordinates"]["routing"] == ["sampled_token", "teacher_topk"]
    assert described["published"] and described["deviations"]


def test_show_takes_a_file_and_an_anchor(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    original = (data_root() / "registry" / "methods" / "gkd.yaml").read_text(encoding="utf-8")
    file.write_text(original.replace("id: gkd\n", "id: mine\n"), encoding="utf-8")
    assert zoo("show", file).stdout.startswith("mine")
    assert data("diff", "gkd", file)["differences"] == []
    assert "run the same" in zoo("diff", "gkd", file).stdout
    assert "untrained student" in zoo("show", "student").stdout


def test_show_writes_the_formula_and_the_nearest_relatives() -> None:
    shown = zoo("show", "gkd_on_policy").stdout
    for part in ("L = 1/|M| Σ_{t ∈ M} D(q, p)", "D = KL(p ‖ q)", "reverse_kl: KL(p || q) = sum p (log p - log q).", "fixed point: teacher"):
        assert part in shown
    assert "no_op: objective[0]: coefficient 1 → coefficient 0" in shown
    derived = data("show", "gkd_on_policy")["derived"]
    assert derived["relatives"][0]["distance"] == 1 and derived["relatives"][0]["differences"][0]["path"].startswith("objective[0]")
    latex = zoo("show", "gkd_on_policy", "--latex").stdout
    assert latex.startswith("\\begin{aligned}") and r"\mathrm{KL}(p \| q)" in latex and latex.strip() == derived["formula"]["latex"]
    zoo("show", "gkd", "--latex", "--json", code=2)


def test_taxonomy_counts_methods_and_names_what_is_open() -> None:
    text = zoo("taxonomy").stdout
    assert "direct" in text and "counterfactual" in text and re.search(r"\d+ cells are open", text)
    found = data("taxonomy", "--by", "signal", "granularity")
    cells = {(cell["row"], cell["column"]): cell for cell in found["cells"]}
    assert found["by"] == ["signal", "granularity"] and "gkd" in cells["logit", "token"]["methods"]
    assert cells["outcome", "sequence"]["count"] == len(cells["outcome", "sequence"]["methods"]) > 0
    assert "did you mean 'signal'" in zoo("taxonomy", "--by", "signals", "routing", code=2).stderr
    assert "two different coordinates" in zoo("taxonomy", "--by", "signal", "signal", code=2).stderr


def test_diff_prints_exactly_the_paths_that_differ() -> None:
    found = {row["path"]: (row["first"], row["second"]) for row in data("diff", "gkd", "gkd_on_policy")["differences"]}
    assert found["objective[0].divergence.kind"] == ("generalized_jsd", "reverse_kl")
    assert all(path.startswith(("rollouts.main.", "objective[0].divergence.")) for path in found)
    assert "rollouts.main.author" in zoo("diff", "gkd", "gkd_on_policy").stdout


def test_schema_goes_to_stdout_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "entry.schema.json"
    zoo("schema", "--out", file)
    assert json.loads(file.read_text(encoding="utf-8")) == json.loads(zoo("schema").stdout)
    assert "No such file" in zoo("schema", "--out", tmp_path / "absent" / "x.json", code=1).stderr


# --- comparisons


def test_run_ends_with_the_table_and_the_paths(ran: Ran) -> None:
    assert "micro_add" in ran.output and "no_op" in ran.output
    for name in ("main.md", "main.svg"):
        assert (ran.tables / "cli" / name).is_file()
        assert str(ran.tables / "cli" / name) in ran.output
    assert "Loading weights" not in ran.output


def test_no_op_scores_what_the_student_scores(ran: Ran) -> None:
    rows = [row for row in data("scores", ran.file, "--results", ran.results) if row["headline"]]
    by_method = {m: {r["task"]: r["score"] for r in rows if r["method"] == m} for m in ("student", "no_op")}
    assert by_method["student"] == by_method["no_op"] and len(by_method["student"]) == 3


def test_what_is_done_is_not_run_again(ran: Ran) -> None:
    again = data("run", ran.file, "--results", ran.results, "--tables", ran.tables)
    assert again["outcomes"] == [] and again["failed"] == [] and len(again["files"]) >= 4
    assert "0 left" in zoo(*ran("plan")).stdout and "no training left" in zoo(*ran("plan")).stdout
    assert [(row["state"], row["method"]) for row in data(*ran("status"))] == [("done", m) for m in ("student", "no_op", "gkd")]
    assert zoo(*ran("status")).stdout.count("100%") == 3


def test_scores_in_each_form(ran: Ran) -> None:
    rows = list(csv.DictReader(io.StringIO(zoo("scores", ran.file, "--results", ran.results, "--csv").stdout)))
    assert {row["method"] for row in rows} >= {"student", "no_op", "gkd"}
    assert len(rows) == len(data("scores", "cli", "--results", ran.results))
    assert "micro_copy" in zoo("scores", "cli", "--results", ran.results).stdout
    zoo("scores", "cli", "--csv", "--json", code=2)


def test_tables_are_checked_against_the_records(ran: Ran, tmp_path: Path) -> None:
    place = ("--records", ran.results / "records", "--out", tmp_path)
    assert str(tmp_path / "MANIFEST.json") in data("tables", "cli", *place)["files"]
    assert data("tables", "--check", *place) == {"problems": []}
    (tmp_path / "cli" / "main.csv").write_text("by hand", encoding="utf-8")
    assert data("tables", "--check", *place, code=1) == {"problems": ["changed: cli/main.csv"]}
    assert "cli/main.csv" in zoo("tables", "--check", *place, code=1).stderr
    zoo("tables", "cli", "--check", *place, code=2)
    zoo("tables", ran.file, *place)
    assert "is what" in zoo("tables", "--check", *place).stdout


def test_a_failed_cell_is_told_at_the_end_and_the_others_run(ran: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train: Callable[..., None] = Trainer.train

    def broken(self: Trainer, *rest: Any) -> None:
        if self.entry.id == "no_op":
            raise RuntimeError("a cable was pulled")
        train(self, *rest)

    monkeypatch.setattr(Trainer, "train", broken)
    chosen = ("--method", "no_op", "--method", "student", "--results", tmp_path, "--tables", tmp_path / "tables")
    result = zoo("run", ran.file, *chosen, code=1)
    assert "no_op (seed 0): error: a cable was pulled" in result.stderr and "student" in result.stdout
    assert data("plan", ran.file, "--results", tmp_path)["cells"][1]["reason"] == "error: a cable was pulled"
    assert data("run", ran.file, *chosen, code=1)["failed"][0]["method"] == "no_op"


def test_an_interruption_says_that_the_same_command_continues(ran: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "train", interrupted)
    result = zoo("run", ran.file, "--method", "gkd", "--results", tmp_path, code=130)
    assert result.stderr == "zoo: interrupted; the same command continues from the last checkpoint\n"


def test_only_the_main_process_talks(ran: Ran) -> None:
    place = ("--results", ran.results, "--tables", ran.tables)
    assert zoo("run", ran.file, *place, RANK="1").output == ""
    assert zoo("show", "gdk", code=1, RANK="1").output == ""


# --- what comparisons are made of


def test_pairs_and_suites_are_listed() -> None:
    assert {pair["id"]: pair for pair in data("pairs", "list")}["micro"] == {
        "id": "micro",
        "title": "Micro: 0.4 M student, 3 M teacher, chain addition in 40 characters",
        "models": {"student": "shipped: student", "teacher": "shipped: teacher"},
    }
    assert "Qwen/Qwen2.5-Coder-1.5B-Instruct" in zoo("pairs", "list").stdout
    assert data("pairs", "show", "micro")["max_new_tokens"] == 40
    assert "contexts:" in zoo("pairs", "show", "micro").stdout
    assert {suite["id"] for suite in data("suites")} >= {"micro", "gsm8k"}
    assert "micro_ood" in zoo("suites").stdout


def test_building_a_pair_never_replaces_weights_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--force" in zoo("pairs", "build", "micro", code=1).stderr
    assert "built are micro, micro-cross" in zoo("pairs", "build", "qwen-coder", code=1).stderr
    monkeypatch.setattr("zoo.harness.build_micro.build", lambda out, seed, progress: progress("training") or {"seed": seed, "out": str(out)})
    assert data("pairs", "build", "micro", "--out", tmp_path, "--seed", 3) == {"seed": 3, "out": str(tmp_path)}
    assert zoo("pairs", "build", "micro", "--out", tmp_path).stdout == f"training\n{tmp_path / 'build.json'}\n"


def test_version() -> None:
    assert zoo("version").stdout.startswith("opd-zoo 0.")
    assert "torch" in data("version")["packages"]


# --- help and mistakes


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_examples_and_every_listing_has_json(command: str) -> None:
    shown = zoo(*command.split(), "--help", NO_COLOR="1").stdout
    assert "Examples:" in shown and f"zoo {command}" in shown
    assert "--json" in shown or command == "schema"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "gdk"], "no method 'gdk' in the registry; did you mean 'gkd'?"),
        (["diff", "gkd", "grpoo"], "did you mean 'grpo'?"),
        (["check", "minllm"], "did you mean 'minillm'?"),
        (["check", "absent.yaml"], "absent.yaml: no such file"),
        (["plan", "quikstart"], "no comparison 'quikstart'; did you mean 'quickstart'?"),
        (["run", "absent.yaml"], "no comparison 'absent.yaml'"),
        (["run", "quickstart", "--method", "gdk"], "did you mean 'gkd'?"),
        (["pairs", "show", "mirco"], "did you mean 'micro'?"),
        (["plan", "quickstart", "--pair-path", "teacher=absent"], "no weights for teacher at absent"),
        (["scores", "quikstart", "--results", "absent"], "no records"),
        (["tables", "--records", "absent"], "no records"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_1(arguments: list[str], message: str) -> None:
    result = zoo(*arguments, code=1)
    assert message in result.stderr and result.stderr.count("\n") == 1 and result.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["show"],
        ["check"],
        ["check", "gkd", "--all"],
        ["run", "quickstart", "--device", "tpu"],
        ["plan", "quickstart", "--pair-path", "teacher"],
        ["list", "--registry", "absent"],
    ],
)
def test_a_usage_error_exits_with_2(arguments: list[str]) -> None:
    zoo(*arguments, code=2)


def test_several_folders_may_follow_one_pair_path() -> None:
    from zoo.cli.options import pair_paths, spread

    expected = ["--pair-path", "student=a", "--pair-path", "teacher=b", "--data", "c"]
    assert spread(["--pair-path", "student=a", "teacher=b", "--data", "c"]) == expected
    assert spread(expected) == expected
    assert pair_paths(["student=a", "teacher=b=c"]) == {"student": Path("a"), "teacher": Path("b=c")}


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["pairs", "show", "mirco"], 1), (["nonsense"], 2)])
def test_as_a_module(arguments: list[str], code: int, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-m", "zoo", *arguments], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == code and "Traceback" not in done.stderr
    assert (done.stdout if code == 0 else done.stderr).strip()


def test_help_imports_no_heavy_library(tmp_path: Path) -> None:
    heavy = "{'torch', 'transformers', 'lm_eval', 'datasets', 'matplotlib', 'pandas', 'numpy', 'pydantic'}"
    called = "try:\n    from zoo.cli import main; main()\nexcept SystemExit:\n    pass\n"
    code = f"import sys; sys.argv = ['zoo', '--help']\n{called}sys.exit(str({heavy} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.stderr.strip() == "set()"


def test_stats_coverage_prints_its_grid() -> None:
    found = data("stats", "coverage", "--trials", "20", "--items", "30")
    assert found["trials"] == 20 and [row["seed_spread"] for row in found["coverage"]][-1] == 2.0
    assert all(0.5 < value <= 1 for row in found["coverage"] for name, value in row.items() if name != "seed_spread")
    assert "the goal is 92 to 98" in zoo("stats", "coverage", "--trials", "20", "--items", "30", "--percentile").stdout
